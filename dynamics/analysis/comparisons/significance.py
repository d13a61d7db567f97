"""From resampled differences to probabilities and p-values, and p-values adjusted for many comparisons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import false_discovery_control

from dynamics.analysis.tokens.token_records import Floats
from dynamics.errors import InputError


def probability_lower(differences: Floats) -> Floats:
    """Return the share of resampled differences (R, ...) below 0, ties counted half; NaN where all are NaN.

    Read as "the probability that A beats B" in the sense of a posterior with a flat prior, which the bootstrap
    approximates (Rubin 1981, The Bayesian bootstrap; Efron 2012, Bayesian inference and the parametric bootstrap).
    """
    known = ~np.isnan(differences)
    wins = (differences < 0).sum(axis=0) + 0.5 * (differences == 0).sum(axis=0)
    total = known.sum(axis=0).astype(np.float64)
    share: Floats = np.divide(wins, total, out=np.full(np.shape(wins), np.nan), where=total > 0)
    return share


def bootstrap_p_value(differences: Floats) -> Floats:
    """Return the two-sided p-value of "no difference" from resampled differences (R, ...); 1 where all are NaN.

    The level at which the percentile interval just reaches 0, never 0 itself: 2 (1 + b) / (1 + R), b being the number
    of resamples in the smaller tail (Davison and Hinkley 1997, Bootstrap Methods and their Application, ch. 4).
    """
    above, below = (differences >= 0).sum(axis=0), (differences <= 0).sum(axis=0)
    total = (~np.isnan(differences)).sum(axis=0)
    p: Floats = np.minimum(1.0, 2.0 * (1.0 + np.minimum(above, below)) / (1.0 + total))
    return p


def holm(p_values: Sequence[float] | Floats) -> Floats:
    """Return p-values adjusted after Holm (1979), A simple sequentially rejective multiple test procedure.

    The i-th smallest of m is multiplied by m - i + 1, made no smaller than those before it, and cut at 1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    _require_p(p)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def benjamini_hochberg(p_values: Sequence[float] | Floats) -> Floats:
    """Return p-values adjusted after Benjamini and Hochberg (1995), Controlling the false discovery rate."""
    p = np.asarray(p_values, dtype=np.float64)
    _require_p(p)
    adjusted: Floats = np.asarray(false_discovery_control(p, method="bh"))
    return adjusted


def _require_p(p: Floats) -> None:
    if p.ndim != 1 or not len(p) or not ((p >= 0) & (p <= 1)).all():
        raise InputError(f"{p.tolist()} are not p-values; give one or more in [0, 1]")
