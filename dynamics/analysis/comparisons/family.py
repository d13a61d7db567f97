"""The one family of comparisons that a study is reported by: in tables, in notebooks, in a paper's text.

Whoever compares until something is significant finds something. So what is compared is settled beforehand, and all
p-values are adjusted for all of it, wherever one of them is read:

1. every pair of arms, by their final losses;
2. every arm's end against early stopping of the baseline, and that against the baseline's own end;
3. every pair of arms, by their best epochs: both stopped early.

Other questions (a rebound, a bucket, another data set) are families of their own
(`dynamics.analysis.comparisons.arm_comparisons.compare_arms`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

from dynamics.analysis.comparisons.arm_comparisons import Comparison, EarlyStopped, adjusted, compare_pairs, limits
from dynamics.analysis.intervals.bands import Over
from dynamics.analysis.sums.arms import Arm, Source, collect_arms, default_baseline, shared_epochs
from dynamics.analysis.tokens.buckets import entropy_buckets
from dynamics.analysis.tokens.matches import task_tokens
from dynamics.display.results import Results
from dynamics.errors import InputError, nearest


def study_comparisons(
    data: Source | Iterable[Source],
    *,
    baseline: str | None = None,
    split: str = "validation",
    over: Over | None = None,
    level: float = 0.95,
    margin: float | None = None,
) -> Results[Comparison]:
    """Return the family of comparisons of a study, over all tokens, each pair over the epochs that both arms have.

    An epoch that was cut is had by both only if it was cut after the same passes over the data. A pair without an epoch
    in common is left out.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
        Fewer than two arms have no comparisons.
    baseline : str, optional
        The arm that is stopped early. Default: the one whose name says so, or the first.
    split, over, level, margin
        As for `compare_arms`.

    Returns
    -------
    Results of Comparison
        In the order above; pairs in the order of the recipe, the baseline second. `p_holm` and `p_bh` are adjusted for
        all of them.

    Raises
    ------
    InputError
        If there is no arm `baseline`.

    Warns
    -----
    UserWarning
        As `compare_arms`.
    """
    arms = collect_arms(data)
    reference = _reference(arms, baseline)
    if len(arms) < 2:
        return Results()
    every = entropy_buckets(reference.runs[0].records(split), 1)
    how: dict[str, Any] = {
        "split": split,
        "buckets": every,
        "over": over,
        "level": level,
        "margin": margin,
        "known": {},
    }
    pairs = [(b, a) if a is reference else (a, b) for a, b in combinations(arms, 2)]
    cut = [_cut(pair) for pair in pairs if shared_epochs(pair)]
    stopped = [(arm, EarlyStopped(other)) for arm, other in cut if other.name == reference.name]
    rows = [
        *compare_pairs(cut, quantity="final", **how),
        *compare_pairs([*stopped, (EarlyStopped(reference), reference)], quantity="final", **how),
        *compare_pairs(cut, quantity="best", **how),
    ]
    for limit in limits(rows):
        warnings.warn(limit, UserWarning, stacklevel=2)
    return adjusted(rows)


def task_comparisons(
    data: Source | Iterable[Source],
    task: str = "gsm8k",
    *,
    baseline: str | None = None,
    split: str = "validation",
    over: Over | None = None,
    level: float = 0.95,
) -> Results[Comparison]:
    """Return every arm's final accuracy on a task's results minus that of the baseline, a family of its own.

    Each after the last epoch that both have. Above 0 `arm` is the better one.

    Parameters
    ----------
    data, baseline, split, over, level
        As for `study_comparisons`.
    task : str
        As for `dynamics.analysis.estimands.value_curves.task_curves`.

    Raises
    ------
    InputError
        If there is no arm `baseline`, for a malformed pattern or one that matches nowhere, and for ensembles, whose
        accuracy is not known.

    Warns
    -----
    UserWarning
        As `compare_arms`.
    """
    arms = collect_arms(data)
    reference = _reference(arms, baseline)
    pairs = [_cut((arm, reference)) for arm in arms if arm is not reference and shared_epochs((arm, reference))]
    rows = compare_pairs(
        pairs,
        quantity="final",
        value="correct",
        split=split,
        buckets=task_tokens(task),
        over=over,
        level=level,
        margin=None,
    )
    for limit in limits(rows) if rows else []:
        warnings.warn(limit, UserWarning, stacklevel=2)
    return adjusted(rows)


def _reference(arms: Sequence[Arm], baseline: str | None) -> Arm:
    """Return the arm that others are compared with; InputError if there is none of that name."""
    named = {arm.name: arm for arm in arms}
    if baseline is not None and baseline not in named:
        raise InputError(f"no arm {baseline!r} to compare with; there are {', '.join(named)}{nearest(baseline, named)}")
    return named[baseline or default_baseline(arms)]


def _cut(pair: tuple[Arm, Arm]) -> tuple[Arm, Arm]:
    """Return two arms at the epochs that both have."""
    common = shared_epochs(pair)
    first, second = (arm if arm.epochs == common else Arm(arm.name, arm.runs, epochs=common) for arm in pair)
    return first, second
