"""P-values adjusted for many comparisons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import false_discovery_control

from dynamics.analysis.tokens.token_records import Floats
from dynamics.errors import InputError


def holm(p_values: Sequence[float] | Floats) -> Floats:
    """Return p-values adjusted after Holm (1979), A simple sequentially rejective multiple test procedure.

    The i-th smallest of m is multiplied by m - i + 1, made no smaller than those before it, and cut at 1.

    Parameters
    ----------
    p_values : sequence of float
        Of one family, each in [0, 1]; NaN for what was not tested.
    """
    p = np.asarray(p_values, dtype=np.float64)
    _require_p(p)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def benjamini_hochberg(p_values: Sequence[float] | Floats) -> Floats:
    """Return p-values adjusted after Benjamini and Hochberg (1995), Controlling the false discovery rate.

    Parameters
    ----------
    p_values : sequence of float
        Of one family, each in [0, 1]; NaN for what was not tested.
    """
    p = np.asarray(p_values, dtype=np.float64)
    _require_p(p)
    adjusted: Floats = np.asarray(false_discovery_control(p, method="bh"))
    return adjusted


def _require_p(p: Floats) -> None:
    if p.ndim != 1 or not len(p) or not ((p >= 0) & (p <= 1)).all():
        raise InputError(f"{p.tolist()} are not p-values; give one or more in [0, 1]")
