"""Sums of a summary in the buckets that are asked for: buckets that are kept, added together.

Shapes: E epochs, D documents, K buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.tokens.buckets import Bucketing, Buckets
from dynamics.analysis.tokens.groups import Groups
from dynamics.analysis.tokens.signals import REFERENCE_ENTROPY
from dynamics.analysis.tokens.token_records import Floats, kept_sums_of
from dynamics.analysis.tokens.told_groups import groups_key, told_groups, unnamed
from dynamics.errors import InputError, nearest
from dynamics.records.reader import Run
from dynamics.records.summaries.files import VALUES
from dynamics.records.summaries.reading import SplitSums, no_tokens


class KeptSums(NamedTuple):
    """Sums by value (E, D, K), tokens (D, K), labels, and ids of documents (D,), as `DocumentSums` has them."""

    sums: dict[str, Floats]
    counts: Floats
    labels: tuple[str, ...]
    documents: NDArray[np.int64]


def kept_sums(kept: SplitSums, values: Sequence[str], epochs: Sequence[int], buckets: Bucketing | None) -> KeptSums:
    """Return sums of a summary in some buckets.

    Parameters
    ----------
    kept : SplitSums
    values : sequence of str
    epochs : sequence of int
        Of those recorded.
    buckets : Bucketing, optional
        By reference entropy, with edges that are kept; or a group of tokens that is. Without, all tokens.

    Raises
    ------
    InputError
        For values, buckets or groups that are not kept, naming those that are.
    """
    for value in values:
        if value not in VALUES:
            raise no_tokens(kept.run.path, f"{value} (kept are {', '.join(VALUES)})")
    missing = [epoch for epoch in epochs if epoch not in kept.epochs]
    if missing:
        raise InputError(f"{kept.run.path} has no complete epoch {missing[0]}: it has {kept.epochs}")
    group, into, labels = _columns(kept, buckets)
    if not len(kept.documents(group)):
        where = "was recorded" if group is None else f"is in the groups {group!r}"
        raise InputError(f"{kept.run.path}: no predicted token of {kept.split!r} {where}; there is nothing to sum")
    at = [kept.epochs.index(epoch) for epoch in epochs]
    sums = {value: added(kept.values(value, group)[at], into, len(labels)) for value in values}
    return KeptSums(sums, added(kept.counts(group), into, len(labels)), labels, kept.documents(group))


def kept_bytes(kept: SplitSums, buckets: Bucketing | None) -> Floats:
    """Return the bytes of the predicted tokens in some buckets, (D, K); as `kept_sums`."""
    group, into, labels = _columns(kept, buckets)
    n_bytes = kept.n_bytes(group)
    if n_bytes is None:
        raise InputError(
            f"the bytes of its tokens, which bits per byte need, are not known: {kept.run.path} was made from records "
            "that do not say how exact the texts of their tokens are"
        )
    return added(n_bytes, into, len(labels))


def kept_centres(kept: SplitSums, buckets: Bucketing) -> Floats:
    """Return the mean reference entropy of the tokens in some buckets by it, nats, (K,); NaN for an empty one."""
    _, into, labels = _columns(kept, buckets)
    sums, counts = (
        added(values, into, len(labels)).sum(axis=0) for values in (kept.reference_entropy(), kept.counts())
    )
    centres: Floats = np.divide(sums, counts, out=np.full(len(labels), np.nan), where=counts > 0)
    return centres


def kept_group(run: Run, name: str) -> Groups:
    """Return groups of tokens of which a summary keeps sums, by their name: they go where ``buckets=`` go.

    Parameters
    ----------
    run : Run
        One of the summary's.
    name : str

    Raises
    ------
    InputError
        If no groups of that name are kept.
    """
    kept = kept_sums_of(run.records(run.splits[0]))
    groups = {} if kept is None else kept.groups
    if name not in groups:
        raise InputError(
            f"{run.path} keeps no sums of groups {name!r}{nearest(name, groups)}; it keeps "
            f"{', '.join(groups) or 'none'}"
        )

    def of(records: Any) -> NoReturn:
        raise no_tokens(run.path, f"which tokens are in {name!r}")

    return Groups(name, tuple(groups[name]["labels"]), groups_key(groups[name]), of)


def added(values: Floats, into: Sequence[int], n: int) -> Floats:
    """Add buckets together: values (..., K) to (..., n), each bucket to the one that `into` says."""
    # Bucket by bucket: numpy's sum over a last axis of a few numbers is slow.
    total = np.zeros((*values.shape[:-1], n))
    for k, group in enumerate(into):
        total[..., group] += values[..., k]
    return total


def _columns(kept: SplitSums, buckets: Bucketing | None) -> tuple[str | None, list[int], tuple[str, ...]]:
    """Return the group that is asked for, if one is; where each kept bucket goes; and labels."""
    edges = kept.edges
    if buckets is None:
        return None, [0] * (len(edges) + 1), ("all",)
    if isinstance(buckets, Buckets) and buckets.signal == REFERENCE_ENTROPY and np.isin(buckets.edges, edges).all():
        lower = np.concatenate([[-np.inf], edges])
        return None, np.searchsorted(buckets.edges, lower, side="right").tolist(), buckets.labels
    if isinstance(buckets, Groups):
        asked = told_groups(buckets)
        for name, one in kept.groups.items():
            # Under whatever name: what is asked for by its pattern is found.
            if asked is not None and unnamed(asked) == unnamed(one):
                return name, list(range(buckets.n)), buckets.labels
    groups = f", and of the groups of tokens {', '.join(kept.groups)}" if kept.groups else ""
    raise InputError(
        f"{kept.run.path} keeps sums in {len(edges) + 1} buckets of reference entropy{groups}: tokens by {buckets.by} "
        f"({', '.join(buckets.labels[:4])}) need the study that it was made from"
    )
