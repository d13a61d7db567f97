"""Curves of an arm in other units than nats per token, and of several splits at once: accuracy, bits per byte.

Shape suffixes: S seeds, E epochs, K buckets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dynamics.analysis.intervals.bands import Over, curve_interval, generalises_over
from dynamics.analysis.intervals.interval import Interval
from dynamics.analysis.sums.accuracy import accuracy_sums
from dynamics.analysis.sums.arms import Arm, Source, as_buckets, collect_arms
from dynamics.analysis.sums.bits_per_byte import bits_per_byte_sums
from dynamics.analysis.sums.curves import mean_curve
from dynamics.analysis.sums.document_sums import DocumentSums
from dynamics.analysis.sums.epochs import OverEpochs
from dynamics.analysis.tokens.buckets import Bucketing
from dynamics.analysis.tokens.matches import task_tokens
from dynamics.analysis.tokens.token_records import Floats, kept_sums_of
from dynamics.errors import InputError, nearest
from dynamics.records import schema

Number = Literal["loss", "entropy", "accuracy", "bits_per_byte"]

UNITS: dict[Number, str] = {
    "loss": "nats per token",
    "entropy": "nats per token",
    "accuracy": "share of tokens",
    "bits_per_byte": "bits per byte",
}


@dataclass(frozen=True, slots=True)
class ValueCurve(OverEpochs):
    """One number of an arm by epoch and bucket.

    Attributes
    ----------
    arm, n_seeds, split
    number : {"loss", "entropy", "accuracy", "bits_per_byte"}
    unit : str
    epochs : ndarray of int64, shape (E,)
    labels : tuple of str, length K
    values : Interval of arrays of shape (E, K)
        The mean over seeds. Ends of shares lie in [0, 1].
    over : {"documents", "seeds_and_documents"}
        What the interval speaks of: other documents with these trained models, or other seeds too, where there are
        several and tokens do not move between buckets.
    by_seed : ndarray, shape (S, E, K)
        Of each seed, in the order of the seeds.
    passes : ndarray, shape (E,), or None
        Those over the data at each epoch, as in `Arm.passes`; None: the epochs' own numbers.
    n_documents : int
        Documents that have tokens in the buckets, those that the interval is over.
    n_left_out : int or None
        Documents that have none, of `task_curves`; None: not asked.
    """

    arm: str
    n_seeds: int
    split: str
    number: Number
    unit: str
    epochs: NDArray[np.int64]
    labels: tuple[str, ...]
    values: Interval
    over: Over
    by_seed: Floats
    passes: Floats | None = None
    n_documents: int = 0
    n_left_out: int | None = None

    @property
    def final(self) -> Interval:
        """The number after the last epoch: arrays of shape (K,)."""
        return Interval(*(np.asarray(getattr(self.values, end))[-1] for end in ("low", "high", "estimate")))


def value_curves(
    data: Source | Iterable[Source],
    number: Number = "loss",
    *,
    split: str = "validation",
    buckets: Bucketing | int = 1,
    over: Over | None = None,
    level: float = 0.95,
) -> list[ValueCurve]:
    """Return a number of every arm by epoch and bucket, with intervals, in the order of the recipe.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
        Bits per byte take several with other tokens each, as other tokenizers make them; they are told apart by the
        study's name. Every other number takes what shares its tokens.
    number : {"loss", "entropy", "accuracy", "bits_per_byte"}
        Accuracy is the share of predicted tokens that are the most probable ones, NaN where a loss is.
        `dynamics.analysis.sums.bits_per_byte` says what bits per byte are.
    split : str
    buckets : Bucketing or int
        Groups too. An int asks for that many by reference entropy.
    over, level
        As for `curve_interval`.

    Raises
    ------
    InputError
        For an unknown number or split, or where the records do not hold it: bits per byte without the text of the
        tokens, anything but losses of an ensemble.

    Warns
    -----
    UserWarning
        With fewer than 15 documents, or two seeds.
    """
    if number not in UNITS:
        raise InputError(f"unknown number {number!r}; use {', '.join(UNITS)}{nearest(number, UNITS)}")
    studies = _apart(data) if number == "bits_per_byte" else [collect_arms(data)]
    times = Counter(arm.name for arms in studies for arm in arms)
    rows = []
    for arms in studies:
        how = as_buckets(arms, buckets)
        for arm in arms:
            parts = _SUMS[number](arm, split, how)
            curve = value_curve(arm, split, number, parts, over=over, level=level)
            rows.append(curve if times[arm.name] == 1 else replace(curve, arm=f"{_place(arm)}/{arm.name}"))
    return rows


def accuracy_curves(data: Source | Iterable[Source], **how: Any) -> list[ValueCurve]:
    """Return the share of tokens that are the most probable ones, by arm, epoch and bucket; see `value_curves`.

    Parameters
    ----------
    data : Study, Run, Arm, or sequence of these
        What to look at; seeds of an arm together.
    **how
        Other parameters of `value_curves`.
    """
    return value_curves(data, "accuracy", **how)


def task_curves(
    data: Source | Iterable[Source],
    task: str = "gsm8k",
    *,
    split: str = "validation",
    over: Over | None = None,
    level: float = 0.95,
) -> list[ValueCurve]:
    """Return the accuracy of every arm on the tokens that carry a task's results, by epoch.

    Each is predicted given the document's own text before it (teacher forcing), so that nothing is generated. It is
    kinder than generation, where a wrong step leads on to wrong ones.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
    task : str
        ``gsm8k``, or a regular expression of the tokens (`dynamics.analysis.tokens.matches.task_tokens`).
    split, over, level
        As for `value_curves`.

    Returns
    -------
    list of ValueCurve
        With one bucket, ``result``. Documents without such a token are left out; `n_left_out` is their number.

    Raises
    ------
    InputError
        For a malformed pattern, one that matches nowhere in the split, and as `value_curves`.

    Warns
    -----
    UserWarning
        As `value_curves`.
    """
    arms = collect_arms(data)
    n_documents = arms[0].seed_sums(split)[0].n_documents
    curves = value_curves(arms, "accuracy", split=split, buckets=task_tokens(task), over=over, level=level)
    return [replace(curve, n_left_out=n_documents - curve.n_documents) for curve in curves]


def bits_per_byte_curves(data: Source | Iterable[Source], **how: Any) -> list[ValueCurve]:
    """Return the bits per byte of text, by arm, epoch and bucket; see `value_curves`.

    Parameters
    ----------
    data : Study, Run, Arm, or sequence of these
        What to look at; seeds of an arm together.
    **how
        Other parameters of `value_curves`.
    """
    return value_curves(data, "bits_per_byte", **how)


def curves_by_split(
    data: Source | Iterable[Source],
    number: Number = "loss",
    *,
    splits: Sequence[str] | None = None,
    **how: Any,
) -> dict[str, list[ValueCurve]]:
    """Return the curves of every arm on each split, by split.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
    number : as for `value_curves`
    splits : sequence of str, optional
        Default: all that the arms record, training and every validation set, but not what is set aside for tuning,
        which is never reported.
    how
        As for `value_curves`, but `split`. Buckets that are asked for by number are by the reference entropy of the
        training tokens, the same ones for every split.
    """
    arms = collect_arms(data)
    return {split: value_curves(arms, number, split=split, **how) for split in splits or reported_splits(arms)}


def reported_splits(arms: Sequence[Arm]) -> list[str]:
    """Return the splits that all arms record, without the one for tuning: training, then the validation sets."""
    common = set.intersection(*(set(run.splits) for arm in arms for run in arm.runs))
    return [split for split in schema.in_split_order(common) if split != "tuning"]


def value_curve(
    arm: Arm,
    split: str,
    number: Number,
    parts: Sequence[DocumentSums],
    *,
    over: Over | None,
    level: float,
    unit: str | None = None,
) -> ValueCurve:
    """Return the curve of an arm from its sums, one part a seed."""
    first = parts[0]
    values = curve_interval(parts, over=over, level=level)
    if number == "accuracy":
        # An interval of few documents may reach beyond what a share can be.
        values = Interval(np.clip(values.low, 0.0, 1.0), np.clip(values.high, 0.0, 1.0), values.estimate)
    return ValueCurve(
        arm=arm.name,
        n_seeds=len(parts),
        split=split,
        number=number,
        unit=UNITS[number] if unit is None else unit,
        epochs=first.epochs,
        labels=first.labels,
        values=values,
        over=over or generalises_over(parts),
        by_seed=np.stack([mean_curve(part) for part in parts]),
        passes=first.passes,
        n_documents=first.n_documents,
    )


def _losses(arm: Arm, split: str, buckets: Bucketing) -> list[DocumentSums]:
    return arm.seed_sums(split, buckets=buckets)


def _entropies(arm: Arm, split: str, buckets: Bucketing) -> list[DocumentSums]:
    return arm.seed_sums(split, buckets=buckets, value="entropy")


def _accuracies(arm: Arm, split: str, buckets: Bucketing) -> list[DocumentSums]:
    return accuracy_sums(arm, split, buckets=buckets)


def _bits_per_byte(arm: Arm, split: str, buckets: Bucketing) -> list[DocumentSums]:
    return bits_per_byte_sums(arm, split, buckets=buckets)


_SUMS: dict[Number, Callable[[Arm, str, Bucketing], list[DocumentSums]]] = {
    "loss": _losses,
    "entropy": _entropies,
    "accuracy": _accuracies,
    "bits_per_byte": _bits_per_byte,
}


def _apart(data: Source | Iterable[Source]) -> list[list[Arm]]:
    """Return the arms of every source on their own, since bits per byte compare what has other tokens."""
    sources = [data] if isinstance(data, Source) else list(data)
    return [collect_arms(source) for source in sources] or [collect_arms([])]


def _place(arm: Arm) -> str:
    """Return the name of the folder that tells an arm from one of the same name: its study's, or its run's."""
    run = arm.runs[0]
    if (kept := kept_sums_of(run.records(run.splits[0]))) is not None:
        return kept.study
    path = run.path
    inside = path.parents[1].name == schema.RUNS_FOLDER if len(path.parents) > 2 else False
    return path.parents[2].name if inside else path.name
