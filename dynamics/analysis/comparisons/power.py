"""What a design can find: the smallest difference detected with 80 % power, and the seeds or documents that one needs.

A pilot's difference of two arms has a variance with three components. Divided by the seeds and documents of another
design they give the variance there, and the chance that its comparison comes out significant. That chance has no
formula, since the critical value depends on the estimated components (`dynamics.analysis.intervals.uncertainty`): what
a design would measure is drawn, normal differences and chi-square mean squares, and compared as arms are.

The pilot's own components are estimates. From three seeds the variance between seeds is known to within a factor of 40
(95 %), so that a plan made from it is a guess; five seeds make it 12.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from dynamics.analysis.comparisons.arm_comparisons import minus_seed_by_seed, same_seeds
from dynamics.analysis.estimands.quantities import Quantity, arm_quantity
from dynamics.analysis.intervals.contributions import Contributions
from dynamics.analysis.intervals.interval import require_share
from dynamics.analysis.intervals.over_documents import document_variance
from dynamics.analysis.intervals.over_seeds_and_documents import seed_square, variance_together
from dynamics.analysis.intervals.uncertainty import quantile, unskewed
from dynamics.analysis.sums.arms import Source, as_buckets, collect_arms
from dynamics.analysis.tokens.token_records import Floats
from dynamics.errors import InputError, nearest

N_DRAWS = 40_000
_MOST_SEEDS, _MOST_DOCUMENTS = 1_000, 10_000_000


@dataclass(frozen=True, slots=True)
class Design:
    """How much a difference of two arms varies with seeds and with documents.

    Attributes
    ----------
    seeds : float
        Variance of one seed's difference that all documents share; nats squared, as the others.
    documents : float
        Variance of the difference over `n_documents` documents that all seeds share.
    together : float
        Variance of one seed's difference over `n_documents` documents that neither explains.
    n_seeds, n_documents : int
    degrees : float
        Degrees of freedom of so many documents, D - 1 if they are equally long.

    Raises
    ------
    InputError
        For a variance that is not known, or fewer than two seeds or documents.
    """

    seeds: float
    documents: float
    together: float
    n_seeds: int
    n_documents: int
    degrees: float

    def __post_init__(self) -> None:
        if self.n_seeds < 2 or self.n_documents < 2:
            raise InputError(
                f"{self.n_seeds} seeds and {self.n_documents} documents are no design; use 2 or more of each"
            )
        if not all(0.0 <= each < math.inf for each in (self.seeds, self.documents, self.together)):
            raise InputError(
                f"variances {self.seeds:g}, {self.documents:g} and {self.together:g} (seeds, documents, both) are not "
                "known; a pilot needs losses without NaN, in two documents or more"
            )

    def resized(self, n_seeds: int | None = None, n_documents: int | None = None) -> Design:
        """Return the design with other numbers of seeds and documents, these of the same kind and lengths.

        Raises
        ------
        InputError
            For fewer than two of either.
        """
        n_seeds = self.n_seeds if n_seeds is None else n_seeds
        n_documents = self.n_documents if n_documents is None else n_documents
        share = self.n_documents / max(1, n_documents)
        return replace(
            self,
            documents=self.documents * share,
            together=self.together * share,
            n_seeds=n_seeds,
            n_documents=n_documents,
            degrees=max(1.0, self.degrees / share),
        )

    @property
    def standard_error(self) -> float:
        """Of the difference, in nats."""
        return math.sqrt(self.seeds / self.n_seeds + self.documents + self.together / self.n_seeds)


def pilot_design(
    data: Source | list[Source],
    arm: str,
    other: str,
    *,
    quantity: Quantity = "final",
    split: str = "validation",
) -> Design:
    """Return the variance components of the difference of two arms, from a pilot study.

    Parameters
    ----------
    data : Study, Run, Arm, or a list of them
    arm, other : str
        Arms with the same seeds, two or more.
    quantity : {"final", "best", "rebound", "area"}
    split : str

    Raises
    ------
    InputError
        For an unknown arm, a single seed, arms with different seeds, NaN losses, or fewer than two documents.
    """
    arms = {each.name: each for each in collect_arms(data)}
    for name in (arm, other):
        if name not in arms:
            raise InputError(f"no arm {name!r}; there are {', '.join(arms)}{nearest(name, arms)}")
    chosen = [arms[arm], arms[other]]
    if not same_seeds(*chosen):
        raise InputError(f"{arm} and {other} have different seeds; a design is planned from arms with the same ones")
    how = as_buckets(chosen, 1)
    sides = [arm_quantity(each, quantity, split=split, buckets=how) for each in chosen]
    return design_of(minus_seed_by_seed(chosen[0], chosen[1], (sides[0], sides[1])))


def design_of(difference: Contributions) -> Design:
    """Return the variance components of a difference in its first bucket; a component below 0 is 0."""
    together = variance_together(difference)
    n = difference.n_seeds
    between = seed_square(difference, together).square
    documents = document_variance(difference)[0] / _jackknife_over(max(2, difference.n_documents))
    return Design(
        seeds=float(np.maximum(0.0, between[0] - together[0])) * n,
        documents=float(np.maximum(0.0, documents - together[0])),
        together=float(together[0]) * n,
        n_seeds=n,
        n_documents=difference.n_documents,
        degrees=float(difference.degrees[0]),
    )


def power(design: Design, difference: float, *, level: float = 0.95, seed: int = 0) -> float:
    """Return the chance that a true difference is found significant over seeds and documents.

    Parameters
    ----------
    design : Design
    difference : float
        Nats per token.
    level : float
        Significant is what the interval of this level does not hold 0 in.
    seed : int
        Of the draws; the chance is within half a percent.
    """
    return _Drawn(design, level, seed).found(difference)


def detectable_difference(design: Design, *, power: float = 0.8, level: float = 0.95, seed: int = 0) -> float:
    """Return the smallest true difference, in nats, that is found significant with the chance `power`.

    0 where nothing varies: any difference is found.

    Parameters
    ----------
    design : Design
        Variance components and sizes of the study, as `pilot_design` returns them.
    power : float, default 0.8
        The chance of finding it, in (0, 1).
    level : float, default 0.95
        Level of confidence, in (0, 1).
    seed : int, default 0
        Of the simulated studies.

    Raises
    ------
    InputError
        If `power` is not a share above 1 - level.
    """
    _require_power(power, level)
    drawn = _Drawn(design, level, seed)
    low, high = 0.0, 10.0 * design.standard_error
    while high > 0.0 and drawn.found(high) < power:
        high *= 2.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (low, middle) if drawn.found(middle) >= power else (middle, high)
    return high


def seeds_needed(design: Design, difference: float, *, power: float = 0.8, level: float = 0.95) -> int | None:
    """Return the fewest seeds with which a difference is found with the chance `power`; None if no number will do.

    Documents stay as many as they are: what they make of the variance no seed takes away.

    Parameters
    ----------
    design : Design
        Variance components and sizes of the study, as `pilot_design` returns them.
    difference : float
        The true difference, in the unit of the quantity (nats for losses).
    power : float, default 0.8
        The chance of finding it, in (0, 1).
    level : float, default 0.95
        Level of confidence, in (0, 1).
    """
    return _fewest(design, difference, power, level, "n_seeds", _MOST_SEEDS)


def documents_needed(design: Design, difference: float, *, power: float = 0.8, level: float = 0.95) -> int | None:
    """Return the fewest documents with which a difference is found with the chance `power`; None if no number will do.

    Seeds stay as many as they are: what they make of the variance no document takes away.

    Parameters
    ----------
    design : Design
        Variance components and sizes of the study, as `pilot_design` returns them.
    difference : float
        The true difference, in the unit of the quantity (nats for losses).
    power : float, default 0.8
        The chance of finding it, in (0, 1).
    level : float, default 0.95
        Level of confidence, in (0, 1).
    """
    return _fewest(design, difference, power, level, "n_documents", _MOST_DOCUMENTS)


def _fewest(design: Design, difference: float, wanted: float, level: float, what: str, most: int) -> int | None:
    _require_power(wanted, level)
    if not 0.0 < abs(difference) < math.inf:
        raise InputError(
            f"a difference of {difference:g} is found by no design; give the one that would matter, in nats"
        )

    def enough(number: int) -> bool:
        return power(design.resized(**{what: number}), difference, level=level) >= wanted

    if not enough(most):
        return None
    low, high = 1, 2
    while not enough(high):
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _require_power(power: float, level: float) -> None:
    require_share(level)
    if not 1.0 - level < power < 1.0:
        raise InputError(f"power {power:g} is not a chance between {1.0 - level:g} and 1; use a value such as 0.8")


class _Drawn:
    """What a design's comparison would be off by, and how far above and below 0 it would have to be to be significant.

    Of normal differences the mean, the mean squares and the skewness are independent (Basu's theorem), so that each is
    drawn by itself; the skewness as a normal number with the variance of that of a normal sample (Joanes and Gill
    1998).
    """

    def __init__(self, design: Design, level: float, seed: int) -> None:
        require_share(level)
        rng = np.random.default_rng(seed)
        between, degrees = design.n_seeds - 1.0, design.degrees
        self.noise = design.standard_error * rng.standard_normal(N_DRAWS)
        together = design.together / design.n_seeds
        shared = together * rng.chisquare(between * degrees, N_DRAWS) / (between * degrees)
        seeds = (design.seeds / design.n_seeds + together) * rng.chisquare(between, N_DRAWS) / between
        jackknife = (design.documents + together) * _jackknife_over(design.n_documents)
        documents = jackknife * rng.chisquare(degrees, N_DRAWS) / degrees
        of_seeds, of_documents = (np.maximum(square, shared) - shared / 2.0 for square in (seeds, documents))
        tail = (1.0 - level) / 2.0
        variance = of_seeds + of_documents
        critical = of_seeds * quantile(tail, between) + of_documents * quantile(tail, degrees)
        critical = _over(critical, variance)
        skewness = (
            _over(of_documents, variance) ** 1.5 * _skewness_of_normal(degrees + 1.0) * rng.standard_normal(N_DRAWS)
        )
        self.above = np.sqrt(variance) * np.maximum(critical, unskewed(critical, skewness))
        self.below = np.sqrt(variance) * np.maximum(critical, -unskewed(-critical, skewness))

    def found(self, difference: float) -> float:
        """Return the share of studies in which a true difference is significant."""
        measured = difference + self.noise
        return float(((measured > self.above) | (measured < -self.below)).mean())


def _jackknife_over(n_documents: int) -> float:
    """Return by how much the jackknife's variance of a mean of documents of one length is too large on average."""
    return n_documents / (n_documents - 1.0)


def _skewness_of_normal(n: float) -> float:
    """Return the standard deviation of `document_skewness` over n normal documents; 0 with fewer than three."""
    if n <= 2.0:
        return 0.0
    of_sample = math.sqrt(6.0 * n * (n - 1.0) / ((n - 2.0) * (n + 1.0) * (n + 3.0)))
    return of_sample / math.sqrt(n) * n / (n - 2.0)


def _over(values: Floats, by: Floats) -> Floats:
    quotient: Floats = np.divide(values, by, out=np.zeros_like(values), where=by > 0)
    return quotient
