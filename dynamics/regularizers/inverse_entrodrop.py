"""The control of EntroDrop that drops from the other end: tokens of high entropy."""

from __future__ import annotations

from typing import Literal

from dynamics.regularizers.pooled_dropout import PooledDropout, PooledDropoutSettings


class InverseEntroDropSettings(PooledDropoutSettings):
    """The control that drops tokens of high entropy."""

    name: Literal["inverse_entrodrop"] = "inverse_entrodrop"


class InverseEntroDrop(PooledDropout):
    """The control that drops tokens of high reference entropy; parameters as for `EntroDrop`."""

    settings_model = InverseEntroDropSettings
    pool_end = "highest"
