"""Intervals of curves, at every epoch and bucket: over seeds and documents where there are seeds to speak of.

Each is of one value by itself; that all of a curve lies within is less likely.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal, get_args

from dynamics.analysis.intervals.contributions import Contributions, curve_contributions
from dynamics.analysis.intervals.interval import Interval
from dynamics.analysis.intervals.over_documents import about_documents, over_documents, over_two_sets_of_documents
from dynamics.analysis.intervals.over_seeds_and_documents import (
    about_seeds,
    over_seeds_and_documents,
    over_seeds_and_two_sets_of_documents,
)
from dynamics.analysis.intervals.uncertainty import Uncertainty
from dynamics.analysis.sums.document_sums import DocumentSums, average_sums, require_same_passes
from dynamics.errors import InputError

Over = Literal["documents", "seeds_and_documents"]


def generalises_over(parts: Sequence[DocumentSums]) -> Over:
    """Return what intervals of these seeds can speak of: both, where there are two in frozen buckets, or documents."""
    return "seeds_and_documents" if len(parts) > 1 and parts[0].counts.ndim == 2 else "documents"


def require_over(over: str | None) -> None:
    """Raise InputError unless intervals can generalise over what is asked for; None leaves it to the data."""
    if over not in (None, *get_args(Over)):
        raise InputError(f"over={over!r} is not known; use documents or seeds_and_documents")


def uncertainty_over(contributions: Contributions, over: Over | None = None) -> tuple[Uncertainty, Over]:
    """Return an estimate's uncertainty and what it generalises over: by default both, where there are two seeds.

    Parameters
    ----------
    contributions : Contributions
        An estimate, as `arm_quantity` returns it.
    over : {"seeds_and_documents", "documents"}, optional
        What intervals generalise over; None: seeds and documents where there are two seeds or more.
    """
    require_over(over)
    over = over or ("seeds_and_documents" if contributions.n_seeds > 1 else "documents")
    if over == "documents":
        return over_documents(contributions.held()), over
    return over_seeds_and_documents(contributions), over


def curve_interval(parts: Sequence[DocumentSums], *, over: Over | None = None, level: float = 0.95) -> Interval:
    """Return the mean curve of an arm with an interval at every epoch and bucket.

    Parameters
    ----------
    parts : sequence of DocumentSums
        One a seed, on the same tokens: ``arm.seed_sums(split)``.
    over : {"documents", "seeds_and_documents"}, optional
        Default: `generalises_over`.
    level : float
        Coverage wanted, in (0, 1).

    Returns
    -------
    Interval of arrays of shape (E, K)
        NaN for an empty bucket and where the records hold NaN; ends NaN where a single document has tokens.

    Raises
    ------
    InputError
        For seeds with other tokens, or a single one where seeds are asked for.

    Warns
    -----
    UserWarning
        With fewer than 15 documents, or two seeds.
    """
    require_over(over)
    over = over or generalises_over(parts)
    if over == "documents":
        found = over_documents(curve_contributions([average_sums(parts)]))
    else:
        found = over_seeds_and_documents(curve_contributions(parts))
    _warn(over, len(parts), parts[0].n_documents)
    return found.interval(level)


def gap_interval(
    minuend: Sequence[DocumentSums],
    subtrahend: Sequence[DocumentSums],
    *,
    over: Over | None = None,
    level: float = 0.95,
) -> Interval:
    """Return one split's curve minus another's, of the same seeds and other documents, with an interval.

    Parameters
    ----------
    minuend, subtrahend : sequence of DocumentSums
        One a seed each, in the same order: validation and training.
    over, level
        As for `curve_interval`.

    Raises
    ------
    InputError
        If epochs, passes or buckets differ, and as `curve_interval` does.
    """
    first, second = minuend[0], subtrahend[0]
    if first.labels != second.labels or list(first.epochs) != list(second.epochs):
        raise InputError("only curves with the same epochs and buckets can be subtracted; cut both to common epochs")
    require_same_passes(first, second)
    require_over(over)
    over = over or generalises_over(minuend)
    if over == "documents":
        sides = [curve_contributions([average_sums(parts)]) for parts in (minuend, subtrahend)]
        found = over_two_sets_of_documents(*sides)
    else:
        sides = [curve_contributions(parts) for parts in (minuend, subtrahend)]
        found = over_seeds_and_two_sets_of_documents(*sides)
    _warn(over, len(minuend), min(first.n_documents, second.n_documents))
    return found.interval(level)


def _warn(over: Over, n_seeds: int, n_documents: int) -> None:
    """Say what an interval cannot cover, in the name of the caller's caller."""
    for each in (about_documents(n_documents), about_seeds(n_seeds) if over == "seeds_and_documents" else None):
        if each is not None:
            warnings.warn(each, UserWarning, stacklevel=3)
