"""The best epoch, chosen on other seeds and other documents than it is measured on.

The lowest value of a noisy curve is low by that very noise, and a rebound from it too high. Noise has two sources:
documents, and the model itself, whose loss goes up and down from epoch to epoch by what all documents share. So each
seed's value on one half of the documents is taken at the epoch that is best for the *other seeds* on the *other half*;
both ways, and averaged over many random halves. On a curve that is flat in truth the mean is that of the curve. Where
the best epoch is hard to find the value is a little higher than the lowest: it is that of the epoch at which one would
have stopped.

With one seed the epoch can be chosen on other documents alone. What the model itself does from epoch to epoch is then
in the choice and in the value, and cannot be told from a rebound (`about_one_seed`).

An interval needs more than how values scatter, since the choice depends on the sample too: the estimate is computed
again without each document and without each seed (the jackknife, as in `dynamics.analysis.intervals.over_documents`).

Shapes: M seeds, E epochs, D documents, K buckets, H halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.intervals.contributions import Contributions, document_degrees
from dynamics.analysis.sums.document_sums import DocumentSums, require_like_sums
from dynamics.analysis.tokens.token_records import Floats
from dynamics.errors import InputError

# Random halves, each used both ways. So many that which ones were drawn moves the estimate by well under a thousandth
# of a nat with 70 documents; with more documents the choice varies less, and fewer halves do.
_MOST_SPLITS, _FEWEST_SPLITS = 2000, 50
_SPLITS_TIMES_DOCUMENTS = 150_000
_BLOCK = 4_000_000  # numbers held at a time


def best_contributions(
    parts: Sequence[DocumentSums],
    *,
    chosen_on: Sequence[DocumentSums] | None = None,
    together: bool = False,
    seed: int = 0,
) -> Contributions:
    """Return an arm's value at its best epoch, Q = (K,), chosen on other seeds and other documents.

    Parameters
    ----------
    parts : sequence of DocumentSums
        One a seed, in frozen buckets.
    chosen_on : sequence of DocumentSums, optional
        The same seeds on documents that are kept for choosing (the `tuning` part): the epoch is then chosen on all of
        these, by the other seeds, and measured on all of `parts`.
    together : bool
        Choose one epoch for all buckets, by the mean over all their tokens. Default: each bucket has its own.
    seed : int
        Of the random halves.

    Returns
    -------
    Contributions
        NaN for a bucket with a NaN or an infinite value in its curve (`together`: in any bucket's curve), in which
        fewer than two documents have tokens, or of which `chosen_on` has no tokens.

    Raises
    ------
    InputError
        For moving buckets, or if `chosen_on` has other epochs, buckets or seeds.
    """
    require_like_sums(parts)
    if parts[0].counts.ndim == 3:
        raise InputError("the best epoch is not chosen in moving buckets, which hold other tokens in each; freeze them")
    sums = np.stack([part.sums for part in parts])
    if chosen_on is not None:
        _require_alike(parts, chosen_on)
    buckets = []
    for k in range(sums.shape[-1]):
        choosing = slice(None) if together else slice(k, k + 1)
        used = parts[0].counts[:, choosing].sum(axis=1) > 0
        apart = None if chosen_on is None else np.stack([_of_all_documents(part, choosing) for part in chosen_on])
        by = sums[..., choosing].sum(axis=-1)
        buckets.append(_in_bucket(sums[..., k], by, parts[0].counts[:, k], used, apart, seed))
    mean, seeds, documents, residuals, degrees, documents_anew, seeds_anew = (
        np.stack(arrays, axis=-1) for arrays in zip(*buckets, strict=True)
    )
    known = seeds_anew if len(parts) > 2 else None
    return Contributions(mean, seeds, documents, residuals, degrees, documents_anew, known)


def n_splits(n_documents: int) -> int:
    """Return how many random halves are drawn for so many documents."""
    return int(np.clip(_SPLITS_TIMES_DOCUMENTS // max(1, n_documents), _FEWEST_SPLITS, _MOST_SPLITS))


@lru_cache(maxsize=4)
def random_halves(n_documents: int, seed: int) -> NDArray[np.float64]:
    """Return which documents a choice is made on: shape (H, D), 0 or 1, the second half of rows the opposite.

    Kept, and not to be written to: every arm and bucket wants the same ones.
    """
    rng = np.random.default_rng(seed)
    half = np.zeros((n_splits(n_documents), n_documents))
    for row in half:
        row[rng.permutation(n_documents)[: n_documents // 2]] = 1.0
    halves = np.concatenate([half, 1.0 - half])
    halves.flags.writeable = False
    return halves


def about_one_seed(n_seeds: int) -> str | None:
    """Return what must be said of best epochs and rebounds of so many seeds; None if nothing."""
    if n_seeds > 1:
        return None
    return (
        "with one seed the best epoch is chosen on other documents but by the same model, whose fluctuation from epoch "
        "to epoch cannot be told from a rebound; run 2 seeds or more"
    )


def _in_bucket(
    sums: Floats, by: Floats, counts: Floats, used: NDArray[np.bool_], apart: Floats | None, seed: int
) -> tuple[Floats, ...]:
    """Return the fields of `Contributions` of one bucket.

    Parameters
    ----------
    sums, by : ndarray, shape (M, E, D)
        What is measured, and what the epoch is chosen by.
    counts, used : ndarray, shape (D,)
        Tokens of the bucket, and the documents that are chosen on.
    apart : ndarray, shape (M, E), or None
        What the epoch is chosen by on other documents altogether.
    seed : int
    """
    n_seeds, _, n_documents = sums.shape
    y, chooser, n = sums[:, :, used], by[:, :, used], counts[used]
    having = int((n > 0).sum())
    shape = (np.full((), np.nan), np.full(n_seeds, np.nan), np.zeros(n_documents), np.zeros((n_seeds, n_documents)))
    degrees = document_degrees((n / max(n.sum(), 1.0))[:, None])[0] if having > 1 else np.full((), np.nan)
    unknown = (*shape, degrees, np.full(n_documents, np.nan), np.full(n_seeds, np.nan))
    if having < 2 or not all(np.isfinite(each).all() for each in (y, chooser, apart) if each is not None):
        return unknown
    if apart is None:
        halves = random_halves(len(n), seed)
        at_best, without = _cross_fitted(y, chooser, halves)
    else:
        at_best, without = _chosen_apart(y, apart)
    share = n / n.sum()
    mean = at_best.sum() / (n_seeds * n.sum())
    off = at_best / n.sum() - mean * share  # (M, D)
    by_seed, average = off.sum(axis=1), off.mean(axis=0)
    residuals = np.sqrt(having / (having - 1)) * (off - by_seed[:, None] * share - average)
    anew = mean - without / (n_seeds * (n.sum() - n)) if len(n) > 3 else np.full(len(n), np.nan)
    documents, left_out, rest = np.zeros(n_documents), np.zeros(n_documents), np.zeros((n_seeds, n_documents))
    documents[used], left_out[used], rest[:, used] = average / (1.0 - share), anew, residuals
    seeds_anew = np.full(n_seeds, np.nan)
    if n_seeds > 2:
        for s in range(n_seeds):
            others = np.delete(y, s, axis=0)
            if apart is None:
                again = _cross_fitted(others, np.delete(chooser, s, axis=0), halves, leave_out=False)[0]
            else:
                again = _chosen_apart(others, np.delete(apart, s, axis=0))[0]
            seeds_anew[s] = (n_seeds - 1) * (mean - again.sum() / ((n_seeds - 1) * n.sum()))
    return np.asarray(mean), by_seed, documents, rest, np.asarray(degrees), left_out, seeds_anew


def _cross_fitted(
    y: Floats, by: Floats, halves: NDArray[np.float64], *, leave_out: bool = True
) -> tuple[Floats, Floats]:
    """Return each seed's sums at the epochs chosen elsewhere, (M, D), and their total without each document, (D,).

    Parameters
    ----------
    y, by : ndarray, shape (M, E, D)
        What is measured, and what the epoch is chosen by.
    halves : ndarray, shape (H, D)
        What is chosen on; measured is the rest.
    """
    n_seeds, n_epochs, n_documents = y.shape
    total = by.sum(axis=0)
    measured = 1.0 - halves
    # Every document is measured in half of the rows.
    times = len(halves) / 2.0
    at_best = np.empty((n_seeds, n_documents))
    without = np.zeros(n_documents)
    for s in range(n_seeds):
        others = total - by[s] if n_seeds > 1 else by[s]  # (E, D)
        # All epochs have the same tokens, so that the lowest sum is the lowest mean.
        chosen_on = halves @ others.T  # (H, E)
        best = chosen_on.argmin(axis=1)
        at = np.zeros((len(halves), n_epochs))
        at[np.arange(len(halves)), best] = 1.0
        at_best[s] = ((measured.T @ at) * y[s].T).sum(axis=1) / times
        if leave_out:
            measured_at = measured @ y[s].T  # (H, E)
            stays = measured_at[np.arange(len(halves)), best].sum() / times - at_best[s]
            without += stays + _moves(measured_at, others, halves, chosen_on, best) / times
    return at_best, without


def _moves(
    measured_at: Floats, others: Floats, halves: NDArray[np.float64], chosen_on: Floats, best: NDArray[np.int64]
) -> Floats:
    """Return by how much a seed's total changes where leaving a document out changes the choice, shape (D,).

    Parameters
    ----------
    measured_at : ndarray, shape (H, E)
        The seed's sums over the documents that are not chosen on.
    others : ndarray, shape (E, D)
        What is chosen on.
    halves, chosen_on, best : ndarray, shapes (H, D), (H, E), (H,)
        Which documents are chosen on, their sums, and the choice.
    """
    rows = np.arange(len(halves))
    # A choice moves only if a document can make up for the distance between two epochs: in few halves, mostly.
    most = (others[:, None] - others[None]).max(axis=2)  # by how much an epoch gains on another, (E, E)
    np.fill_diagonal(most, -np.inf)
    near = chosen_on - chosen_on[rows, best][:, None] <= most[:, best].T + 1e-9 * np.abs(chosen_on)
    some = np.flatnonzero(near.any(axis=1))
    halves, chosen_on, measured_at, best = halves[some], chosen_on[some], measured_at[some], best[some]
    at_choice = measured_at[np.arange(len(some)), best][:, None]
    moves = np.empty(others.shape[1])
    step = max(1, _BLOCK // max(1, len(some)))
    for first in range(0, len(moves), step):
        block = slice(first, first + step)
        # The lowest so far, epoch by epoch: numpy's argmin over a last axis of a few epochs is slow.
        lowest = chosen_on[:, 0, None] - others[0, block]  # (H, block)
        moved = np.repeat(measured_at[:, 0, None], lowest.shape[1], axis=1)
        for epoch in range(1, len(others)):
            here = chosen_on[:, epoch, None] - others[epoch, block]
            lower = here < lowest
            np.copyto(lowest, here, where=lower)
            np.copyto(moved, measured_at[:, epoch, None], where=lower)
        moves[block] = ((moved - at_choice) * halves[:, block]).sum(axis=0)
    return moves


def _chosen_apart(y: Floats, apart: Floats) -> tuple[Floats, Floats]:
    """Return as `_cross_fitted` where the epoch is chosen on other documents altogether, whose sums are (M, E)."""
    total = apart.sum(axis=0)
    n_seeds = len(y)
    best = [int((total - one if n_seeds > 1 else one).argmin()) for one in apart]
    at_best = np.stack([y[s, epoch] for s, epoch in enumerate(best)])
    by_document = at_best.sum(axis=0)
    return at_best, by_document.sum() - by_document


def _of_all_documents(part: DocumentSums, buckets: slice) -> Floats:
    """Return the sums of buckets over all documents, (E,); NaN without tokens, as no epoch is the best of none."""
    some = part.counts[:, buckets].any()
    total: Floats = part.sums[:, :, buckets].sum(axis=(1, 2)) if some else np.full(len(part.epochs), np.nan)
    return total


def _require_alike(parts: Sequence[DocumentSums], chosen_on: Sequence[DocumentSums]) -> None:
    first, other = parts[0], chosen_on[0]
    require_like_sums(chosen_on)
    if len(parts) != len(chosen_on) or first.labels != other.labels or not np.array_equal(first.epochs, other.epochs):
        raise InputError(
            "the best epoch can be chosen only on records of the same seeds, epochs and buckets as it is measured on"
        )
