"""An estimate, and what each seed and document contributes to it: all that an interval or a comparison needs.

A mean over tokens is a ratio of sums, R = sum y / sum n. Every seed s is measured on the same documents d, so that each
value belongs to a seed and a document, and lies off the mean by

    v[s, d] = (y[s, d] - R n[d]) / N,        y sums, n tokens, N all tokens of a seed.

Summed over documents that is what seed s lies off R. Averaged over seeds and divided by 1 - n[d] / N it is by how much
R changes when document d is left out. What remains, v less both, is what seeds and documents make together. What is
linear in a curve (its last value, its area), or a difference of arms or buckets, has the same combination of these.

An estimate that chooses an epoch is not linear. It brings along by how much it changes when a document or a seed is
left out and the choice is made anew (`dynamics.analysis.intervals.selection`).

Shapes: M seeds, D documents, E epochs, K buckets, Q any shape of estimates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dynamics.analysis.sums.curves import ratio
from dynamics.analysis.sums.document_sums import DocumentSums, require_like_sums
from dynamics.analysis.tokens.token_records import Floats
from dynamics.display.results import Shown
from dynamics.errors import InputError


@dataclass(frozen=True, slots=True, repr=False)
class Contributions(Shown):
    """An estimate with what seeds and documents contribute to it, in its unit.

    Attributes
    ----------
    estimate : ndarray, shape Q
        The mean over seeds.
    seeds : ndarray, shape (M, *Q)
        What each seed's own value lies above the estimate.
    documents : ndarray, shape (D, *Q)
        By how much the estimate falls when a document is left out.
    residuals : ndarray, shape (M, D, *Q)
        What seeds and documents contribute together, scaled by sqrt(D / (D - 1)).
    degrees : ndarray, shape Q
        Degrees of freedom of the variance over documents (`document_degrees`).
    documents_anew, seeds_anew : ndarray, shapes (D, *Q) and (M, *Q), optional
        `documents` and `seeds` of an estimate that chooses, with the choice made anew each time; the second is None
        with fewer than three seeds, since with one left out the rest must still be two.
    """

    estimate: Floats
    seeds: Floats
    documents: Floats
    residuals: Floats
    degrees: Floats
    documents_anew: Floats | None = None
    seeds_anew: Floats | None = None

    @property
    def n_seeds(self) -> int:
        """Number of seeds."""
        return len(self.seeds)

    @property
    def n_documents(self) -> int:
        """Number of documents."""
        return len(self.documents)

    def over_epochs(self, weights: Floats) -> Contributions:
        """Return the contributions to a weighted sum over epochs, Q = (E, K) becoming (K,).

        Parameters
        ----------
        weights : ndarray, shape (E,)
        """
        used = np.flatnonzero(weights)

        def add(values: Floats) -> Floats:
            # Only epochs that count, so that another epoch's NaN does not.
            total: Floats = np.einsum("e,...ek->...k", weights[used], values[..., used, :])
            return total

        return self._linear(add, np.min(self.degrees[used], axis=0))

    def at_each_epoch(self, n_epochs: int) -> Contributions:
        """Return the same estimate at each of `n_epochs` epochs, Q = (K,) becoming (E, K)."""
        return self._linear(
            lambda values: np.repeat(values[..., None, :], n_epochs, axis=-2),
            np.repeat(self.degrees[None], n_epochs, axis=0),
        )

    def contrast(self, first: int, second: int) -> Contributions:
        """Return the contributions to one bucket minus another, Q = (..., K) becoming (..., 1)."""
        degrees = np.minimum(self.degrees[..., first], self.degrees[..., second])[..., None]
        return self._linear(lambda values: (values[..., first] - values[..., second])[..., None], degrees)

    def negated(self) -> Contributions:
        """Return the contributions to the estimate with its sign turned."""
        return self._linear(np.negative, self.degrees)

    def with_seeds(self, order: Sequence[int]) -> Contributions:
        """Return the same estimate with its seeds in another order, that of their indices in `order`."""
        rows = list(order)
        anew = None if self.seeds_anew is None else self.seeds_anew[rows]
        return replace(self, seeds=self.seeds[rows], residuals=self.residuals[rows], seeds_anew=anew)

    def minus(self, other: Contributions) -> Contributions:
        """Return the contributions to the difference from an estimate of the same seeds and documents.

        Raises
        ------
        InputError
            If the numbers of seeds or documents differ.
        """
        if self.residuals.shape != other.residuals.shape:
            raise InputError(
                f"{self.n_seeds} seeds and {self.n_documents} documents cannot be paired with {other.n_seeds} and "
                f"{other.n_documents}; compare what has the same ones"
            )
        return Contributions(
            self.estimate - other.estimate,
            self.seeds - other.seeds,
            self.documents - other.documents,
            self.residuals - other.residuals,
            np.minimum(self.degrees, other.degrees),
            *_differences_anew(self, other),
        )

    def minus_other_seeds(self, other: Contributions) -> Contributions:
        """Return the difference over documents from an estimate of the same documents and other seeds.

        It has one row of seeds, the mean: what seeds make of it must be taken from both sides apart.
        """
        return self.held().minus(other.held())

    def held(self) -> Contributions:
        """Return the same estimate with the trained models held fixed: as if their mean were one seed."""
        return Contributions(
            self.estimate,
            np.zeros((1, *self.estimate.shape)),
            self.documents,
            np.zeros((1, *self.documents.shape)),
            self.degrees,
            self.documents_anew,
        )

    def _linear(self, function: Callable[[Floats], Floats], degrees: Floats) -> Contributions:
        return Contributions(
            function(self.estimate),
            function(self.seeds),
            function(self.documents),
            function(self.residuals),
            degrees,
            None if self.documents_anew is None else function(self.documents_anew),
            None if self.seeds_anew is None else function(self.seeds_anew),
        )


def curve_contributions(parts: Sequence[DocumentSums]) -> Contributions:
    """Return the mean curve of an arm with the contributions of its seeds and documents, Q = (E, K).

    Parameters
    ----------
    parts : sequence of DocumentSums
        One a seed, on the same tokens: ``arm.seed_sums(split)``.

    Raises
    ------
    InputError
        If the seeds have other tokens, epochs or buckets, or several seeds moving buckets.
    """
    require_like_sums(parts)
    if len(parts) > 1 and parts[0].counts.ndim == 3:
        raise InputError("in moving buckets seeds have different tokens; average them, or use frozen buckets")
    counts = parts[0].counts if parts[0].counts.ndim == 3 else parts[0].counts[None]  # (E or 1, D, K)
    return contributions_of(np.stack([part.sums for part in parts]), counts)


def contributions_of(sums: Floats, counts: Floats) -> Contributions:
    """Return the contributions to ratios of sums.

    Parameters
    ----------
    sums : ndarray, shape (M, E, D, K)
        By seed, epoch, document and bucket.
    counts : ndarray, shape (E, D, K) or (1, D, K)
        Tokens; the same in every seed.
    """
    n_seeds = len(sums)
    # The sums of a model that diverged may hold infinity, from which a finite interval could be made.
    sums = np.where(np.isfinite(sums), sums, np.nan)
    tokens = counts.sum(axis=-2)  # (E or 1, K)
    mean = ratio(sums.sum(axis=(0, -2)) / n_seeds, tokens)  # (E, K)
    total = np.where(tokens > 0, tokens, np.nan)[..., None, :]
    share = counts / total  # (E or 1, D, K)
    off = sums / total - mean[:, None, :] * share  # v, (M, E, D, K)
    seeds = off.sum(axis=-2)  # (M, E, K)
    average = off.mean(axis=0)  # (E, D, K)
    # A document that holds all tokens cannot be left out.
    documents = np.divide(
        average, 1.0 - share, out=np.full_like(average, np.nan), where=np.broadcast_to(share < 1, average.shape)
    )
    used = (counts > 0).sum(axis=-2)[..., None, :]  # (E or 1, 1, K)
    scale = np.sqrt(used / np.maximum(used - 1, 1))
    residuals = scale * (off - seeds[:, :, None, :] * share - average)
    degrees = np.broadcast_to(document_degrees(share), mean.shape)
    return Contributions(
        mean, seeds, np.moveaxis(documents, 1, 0), np.moveaxis(residuals, 2, 1), np.array(degrees, dtype=np.float64)
    )


def document_degrees(share: Floats) -> Floats:
    """Return the degrees of freedom of a jackknife over documents that hold unequal shares of the tokens.

    Bell and McCaffrey (2002), Bias reduction in standard errors for linear regression with multi-stage samples, Survey
    Methodology 28(2): the estimate's variance is a quadratic form x' M x, whose distribution is matched by that of a
    chi-square with tr(M)^2 / tr(M^2) degrees of freedom, for documents that are alike but for their lengths. D - 1 for
    D equal ones, and as little as 1 where one holds nearly everything.

    Parameters
    ----------
    share : ndarray, shape (..., D, K)
        w, each document's share of the tokens; NaN for an empty bucket.

    Returns
    -------
    ndarray, shape (..., K)
        At least 1; NaN where fewer than two documents hold tokens.
    """
    # M = G G', G = diag(u) (1 - 1 w'), u = w / (1 - w), so that M[i, j] = u[i] u[j] (delta - w[i] - w[j] + sum w^2):
    # its traces need sums over documents alone.
    whole = share >= 1
    u = np.divide(share, 1.0 - share, out=np.full_like(share, np.nan), where=~whole)
    u2, w2 = u**2, (share**2).sum(axis=-2)
    s0, s1, s2 = (u2.sum(axis=-2), (u2 * share).sum(axis=-2), (u2 * share**2).sum(axis=-2))
    trace = s0 - 2.0 * s1 + w2 * s0
    off_diagonal = (w2[..., None, :] - 2.0 * share) ** 2
    diagonal = (1.0 + w2[..., None, :] - 2.0 * share) ** 2
    squares = w2**2 * s0**2 + 2.0 * s0 * s2 - 4.0 * w2 * s0 * s1 + 2.0 * s1**2
    squares = squares + (u2**2 * (diagonal - off_diagonal)).sum(axis=-2)
    degrees: Floats = np.maximum(1.0, trace**2 / squares)
    return degrees


def _differences_anew(first: Contributions, second: Contributions) -> tuple[Floats | None, Floats | None]:
    """Return the differences of what was chosen anew; a side that chooses nothing has its linear contributions."""
    found: list[Floats | None] = []
    for anew, linear in (("documents_anew", "documents"), ("seeds_anew", "seeds")):
        sides = [getattr(each, anew) for each in (first, second)]
        if sides[0] is None and sides[1] is None:
            found.append(None)
            continue
        filled = [
            getattr(each, linear) if side is None else side for each, side in zip((first, second), sides, strict=True)
        ]
        found.append(filled[0] - filled[1])
    return found[0], found[1]
