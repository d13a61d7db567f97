"""EntroDrop: drop tokens that the model predicts with low entropy (arXiv 2512.23422, reconstructed)."""

from __future__ import annotations

from typing import Literal

from dynamics.regularizers.pooled_dropout import PooledDropout, PooledDropoutSettings


class EntroDropSettings(PooledDropoutSettings):
    """EntroDrop: drops tokens of low entropy (arXiv 2512.23422)."""

    name: Literal["entrodrop"] = "entrodrop"


class EntroDrop(PooledDropout):
    """Drop tokens of low reference entropy along a curriculum (arXiv 2512.23422, reconstructed).

    Parameters
    ----------
    **settings
        Fields of `EntroDropSettings`: ratio, pool, threshold, choice, schedule, signal, distribution, source, ranks,
        target, replacement, replacement_token, rescale, normalize. docs/methods.md has each with its default.

    Raises
    ------
    InputError
        A field is unknown, of the wrong type or out of range, fields contradict each other, or `ratio` exceeds `pool`.
    """

    settings_model = EntroDropSettings
    pool_end = "lowest"
