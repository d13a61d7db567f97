"""Over seeds and documents: would it be there with other seeds, on other documents?

Every seed is measured on the same documents, so the two are crossed, and the variance of a mean over both has three
components: seeds, documents, and what they make together (Searle, Casella and McCulloch 1992, Variance Components, ch.
4). The mean square of seeds holds the third component too, and so does that of documents, so that their sum counts it
twice; here each gives up half.

Shapes: M seeds, D documents, Q any shape of estimates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dynamics.analysis.intervals.contributions import Contributions
from dynamics.analysis.intervals.over_documents import document_skewness, document_variance
from dynamics.analysis.intervals.uncertainty import Uncertainty, VariancePart
from dynamics.analysis.tokens.token_records import Floats
from dynamics.display.results import Shown
from dynamics.errors import InputError

#: Below so many seeds their variance is hardly known.
FEW_SEEDS = 3


@dataclass(frozen=True, slots=True, repr=False)
class MeanSquare(Shown):
    """What one set of seeds, or of documents, makes of the variance of an estimate: arrays of shape Q.

    Attributes
    ----------
    square : ndarray
        Its mean square, in the unit of the estimate's variance; `together` is in it.
    together : ndarray
        What these seeds and documents make together.
    degrees : ndarray
        Degrees of freedom of `square`.
    """

    square: Floats
    together: Floats
    degrees: Floats

    @property
    def part(self) -> VariancePart:
        """Its part of the variance: half of what is shared belongs to the other side."""
        # A mean square below what it holds for certain is an accident of few seeds.
        return VariancePart(np.maximum(self.square, self.together) - self.together / 2.0, self.degrees)


def over_seeds_and_documents(contributions: Contributions) -> Uncertainty:
    """Return an estimate's uncertainty over seeds and documents.

    Parameters
    ----------
    contributions : Contributions
        Of two seeds or more: an arm, or the difference of arms with the same seeds.

    Raises
    ------
    InputError
        For a single seed: nothing is known of what seeds make of it.
    """
    together = variance_together(contributions)
    return _uncertainty(
        contributions.estimate,
        [seed_square(contributions, together)],
        [(document_square(contributions, together), document_skewness(contributions))],
    )


def over_other_seeds_and_documents(first: Contributions, second: Contributions) -> Uncertainty:
    """Return the uncertainty of first minus second, whose seeds are different ones and whose documents are the same.

    Raises
    ------
    InputError
        For a single seed, or other documents.
    """
    difference = first.minus_other_seeds(second)
    both = variance_together(first), variance_together(second)
    return _uncertainty(
        difference.estimate,
        [seed_square(first, both[0]), seed_square(second, both[1])],
        [(document_square(difference, both[0] + both[1]), document_skewness(difference))],
    )


def over_seeds_and_two_sets_of_documents(first: Contributions, second: Contributions) -> Uncertainty:
    """Return the uncertainty of first minus second, of the same seeds and different documents: a generalisation gap.

    Raises
    ------
    InputError
        For a single seed, or other numbers of seeds.
    """
    if first.n_seeds != second.n_seeds:
        raise InputError(
            f"{first.n_seeds} and {second.n_seeds} seeds are not the same ones; compare an arm with itself"
        )
    both = variance_together(first), variance_together(second)
    # Curves: nothing is chosen, so that seeds are all that is paired.
    seeds = replace(first, seeds=first.seeds - second.seeds, seeds_anew=None)
    return _uncertainty(
        first.estimate - second.estimate,
        [seed_square(seeds, both[0] + both[1])],
        [
            (document_square(first, both[0]), document_skewness(first)),
            (document_square(second, both[1]), -document_skewness(second)),
        ],
    )


def seed_square(contributions: Contributions, together: Floats) -> MeanSquare:
    """Return what seeds make of the variance; where a choice is made anew, the larger of both.

    Raises
    ------
    InputError
        For a single seed.
    """
    n = contributions.n_seeds
    _require_seeds(n)
    square: Floats = (contributions.seeds**2).sum(axis=0) / (n * (n - 1))
    if contributions.seeds_anew is not None:
        anew = contributions.seeds_anew - contributions.seeds_anew.mean(axis=0)
        square = np.fmax(square, (anew**2).sum(axis=0) / (n * (n - 1)))
    return MeanSquare(square, together, np.full(square.shape, n - 1.0))


def document_square(contributions: Contributions, together: Floats) -> MeanSquare:
    """Return what documents make of the variance; where a choice is made anew, the larger of both."""
    return MeanSquare(document_variance(contributions), together, contributions.degrees)


def variance_together(contributions: Contributions) -> Floats:
    """Return the variance that seeds and documents make together, of an estimate over all of them, shape Q.

    Raises
    ------
    InputError
        For a single seed.
    """
    n = contributions.n_seeds
    _require_seeds(n)
    variance: Floats = (contributions.residuals**2).sum(axis=(0, 1)) / (n * (n - 1))
    return variance


def about_seeds(n_seeds: int) -> str | None:
    """Return what must be said of intervals over so few seeds; None if nothing."""
    if n_seeds >= FEW_SEEDS:
        return None
    return (
        f"{n_seeds} seeds hardly know the variance between seeds: intervals are several times as wide as they need be, "
        "and the absence of a finding says nothing; run 3 seeds or more, 5 if you can"
    )


def _uncertainty(
    estimate: Floats, seeds: Sequence[MeanSquare], documents: Sequence[tuple[MeanSquare, Floats]]
) -> Uncertainty:
    """Return the uncertainty from what seeds make of it, and documents with their skewness.

    Third moments of independent parts add up; those of seeds, which are too few to show one, are taken to be 0.
    """
    parts = [square.part for square in (*seeds, *(square for square, _ in documents))]
    third = np.sum([skewness * square.part.variance**1.5 for square, skewness in documents], axis=0)
    total = np.sum([part.variance for part in parts], axis=0)
    skewness = np.divide(third, total**1.5, out=np.zeros_like(total), where=total > 0)
    return Uncertainty(estimate, parts, skewness)


def _require_seeds(n: int) -> None:
    if n < 2:
        raise InputError(
            f"{n} seed says nothing of the variance between seeds; run 2 or more, 5 if you can, or ask "
            'over="documents", with these trained models held fixed'
        )
