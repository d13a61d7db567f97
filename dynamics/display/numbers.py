"""Numbers as text, with as many digits as help a reader."""

from __future__ import annotations

import math
from typing import Any

#: Stands for a number that does not exist or is not known.
UNKNOWN = "–"
#: Stands for a number that a loss of NaN or infinity has made meaningless.
DIVERGED = "diverged"


def decimals(value: float | None, digits: int = 3) -> str:
    """Return a number with `digits` decimals, without a minus sign before zeros."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if not text.strip("-0.") else text


def percent(share: float | None) -> str:
    """Return a share in percent with one decimal, without the sign, which belongs in the header."""
    return decimals(None if share is None else 100.0 * share, 1)


def significance(p: float) -> str:
    """Return a p-value with three decimals, or "<0.001"."""
    return "<0.001" if p < 0.001 else decimals(p)


def interval(ends: Any, digits: int = 3) -> str:
    """Return an (estimate, low, high) as "0.336 (0.306 to 0.365)"; a text is returned as it is."""
    if isinstance(ends, str):
        return ends
    estimate, low, high = (float(end) for end in ends)
    if math.isnan(estimate):
        return UNKNOWN
    if math.isnan(low) or math.isnan(high):
        return decimals(estimate, digits)
    return f"{decimals(estimate, digits)} ({decimals(low, digits)} to {decimals(high, digits)})"


def percent_interval(ends: Any) -> str:
    """Return an (estimate, low, high) of shares in percent, as `interval` does."""
    return interval(ends if isinstance(ends, str) else [100.0 * float(end) for end in ends], 1)


def epochs_interval(ends: Any) -> str:
    """Return an (estimate, low, high) of epochs; infinity is "never"."""
    text = interval(ends, 1).replace("∞", "never")
    return "never" if text == "never (never to never)" else text


def whole(value: float | int) -> str:
    """Return a count with a comma at each thousand; a number that is not whole keeps two decimals."""
    if isinstance(value, float) and not value.is_integer():
        return UNKNOWN if math.isnan(value) else decimals(value, 2)
    return f"{int(value):,}"
