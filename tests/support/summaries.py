"""A study of three seeds with noise of seeds and tokens, and its summary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dynamics.analysis.sums.summarising import summarize_study
from dynamics.analysis.tokens.matches import groups_by_match
from dynamics.records import schema
from dynamics.records.reader import Study, open_study
from dynamics.records.summaries.reading import Summary, open_summary
from support.synthetic import make_study

WORDS = groups_by_match({"result": "(list|données)"}, name="words")

Array = np.ndarray[Any, Any]


class Pair(NamedTuple):
    """A study, and its summary."""

    study: Study
    summary: Summary


def noisy(level: float) -> Callable[[int, str, Array, np.random.Generator], Array]:
    """A loss that falls and rises about `level`, with noise from token to token."""

    def loss(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        return np.asarray(entropy + level * 0.1 * (epoch - 1) ** 2 + 0.3 * rng.random(entropy.shape))

    return loss


def summarized(folder: Path, **options: Any) -> Pair:
    """Make both in a folder: arms baseline and entrodrop, splits train, validation, tuning and validation-general."""
    settings: dict[str, Any] = {
        "n_documents": 60,
        "epochs": 3,
        "seeds": (0, 1, 2),
        "held_out": ("validation", "tuning", "validation-general"),
        "loss_fns": {"baseline": noisy(1.0), "entrodrop": noisy(0.5)},
        **options,
    }
    study = make_study(folder / "study", **settings)
    for manifest in study.glob("runs/*/*/manifest.json"):
        # As a trainer's own tokenizer of bytes: the texts of tokens are exact.
        content = schema.read_manifest(manifest)
        schema.write_manifest(manifest, {**content, "token_text": {"spelled_as": "bytes", "special_ids": [0]}})
    summarize_study(open_study(study), folder / "summary", groups=[WORDS])
    return Pair(open_study(study), open_summary(folder / "summary"))
