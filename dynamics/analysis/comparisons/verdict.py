"""Did a method beat its controls? The answer in words, from the study's one family of comparisons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np

from dynamics.analysis.comparisons.arm_comparisons import Comparison
from dynamics.analysis.comparisons.family import study_comparisons
from dynamics.analysis.comparisons.limits import EARLY_STOPPING
from dynamics.analysis.estimands.summary import arm_summary
from dynamics.analysis.sums.arms import Arm, Source, collect_arms, default_baseline
from dynamics.errors import InputError, nearest

Control = Literal["random dropout", "another arm", "baseline", "early stopping"]
Outcome = Literal["lower", "higher", "not distinguishable", "unknown"]

#: Two arms drop the same share of tokens where their mean shares over training differ by at most this much of it.
SAME_SHARE = 0.02
_ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Finding:
    """How an arm compares with one control.

    Attributes
    ----------
    control : {"random dropout", "another arm", "baseline", "early stopping"}
        "random dropout" drops any token; "early stopping" is the best epoch of the baseline.
    comparison : Comparison
        The judged arm minus the control: below 0 the judged arm has the lower loss.
    same_share : bool or None
        Whether both arms drop the same share of tokens, within `SAME_SHARE` of it. None where one of them drops none.
    """

    control: Control
    comparison: Comparison
    same_share: bool | None = None

    @property
    def outcome(self) -> Outcome:
        """The judged arm's loss against the control's, at p < 0.05 after Holm's adjustment for the whole study."""
        row = self.comparison
        if not math.isfinite(row.estimate) or not math.isfinite(row.p_holm):
            return "unknown"
        if row.p_holm >= _ALPHA:
            return "not distinguishable"
        return "lower" if row.estimate < 0 else "higher"

    def __str__(self) -> str:
        row = self.comparison
        when = "at their best epochs" if row.quantity == "best" else "at the end of training"
        share = {True: ", same share dropped", False: ", ANOTHER share dropped", None: ""}[self.same_share]
        what = f"{row.arm} against {row.other} {when}{share}"
        if self.outcome == "unknown":
            return f"{what}: unknown, since a loss is not finite"
        said = self.outcome if self.outcome == "not distinguishable" else self.outcome.upper()
        return f"{what}: {said} ({_numbers(row)})"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an arm did better than its controls.

    Attributes
    ----------
    arm : str
        The arm that is judged.
    conclusion : str
        One sentence about what choosing tokens by entropy adds, from the comparisons with random dropout alone.
    findings : tuple of Finding
        By control: random dropout, the baseline, early stopping, other arms; the end of training, then best epochs.
    over : str
        What the intervals generalise over.
    """

    arm: str
    conclusion: str
    findings: tuple[Finding, ...]
    over: str

    def __repr__(self) -> str:
        return "\n".join([self.conclusion, *(f"- {finding}" for finding in self.findings), self._note])

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{escape(str(finding))}</li>" for finding in self.findings)
        return f"<p><b>{escape(self.conclusion)}</b></p><ul>{items}</ul><p><small>{escape(self._note)}</small></p>"

    @property
    def _note(self) -> str:
        return (
            f"Differences are {self.arm} minus the other arm. Each interval is a 95 % interval {self.over}; "
            "p-values are adjusted for all comparisons of the study."
        )


def verdict(data: Source | Iterable[Source], arm: str | None = None, *, baseline: str | None = None) -> Verdict:
    """Judge an arm against its controls, from the family of comparisons of the study.

    A method that drops tokens by entropy has two controls that cost nothing: random dropout of the same share of
    tokens, and stopping the baseline early. Nothing but `study_comparisons` is used, and its p-values are adjusted for
    all comparisons of the study.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
    arm : str, optional
        The arm to judge. Default: the first with the method EntroDrop, else the first that is not the baseline.
    baseline : str, optional
        The arm that is stopped early. Default: the one whose name says so, or the first.

    Returns
    -------
    Verdict

    Raises
    ------
    InputError
        If there is no such arm, or fewer than two arms.

    Warns
    -----
    UserWarning
        As `compare_arms`.
    """
    arms = collect_arms(data)
    names = [each.name for each in arms]
    if len(arms) < 2:
        raise InputError(f"a verdict compares arms, and there is one alone ({names[0]}); train a control beside it")
    reference = default_baseline(arms) if baseline is None else baseline
    judged = _judged(arms, reference) if arm is None else arm
    if judged not in names:
        raise InputError(f"no arm {judged!r} to judge{nearest(judged, names)}; there are {', '.join(names)}")
    rows = [
        row if row.arm == judged else row.turned()
        for row in study_comparisons(arms, baseline=reference)
        if judged in (row.arm, row.other)
    ]
    methods = {each.name: method_of(each) for each in arms}
    ratios = {row.arm: row.mean_ratio for row in arm_summary(arms)}
    findings = [_finding(row, reference, methods, ratios) for row in rows]
    order = ("random dropout", "baseline", "early stopping", "another arm")
    findings.sort(key=lambda finding: (order.index(finding.control), finding.comparison.quantity == "best"))
    overs = sorted({row.over for row in rows}, reverse=True)
    over = ", or ".join(
        {
            "seeds_and_documents": "over seeds and documents",
            "documents": "over documents, with the trained models held fixed",
        }[each]
        for each in overs
    )
    return Verdict(judged, _conclusion(judged, methods[judged], findings), tuple(findings), over)


def method_of(arm: Arm) -> str | None:
    """Return the name of an arm's token dropout (``entrodrop``, ``random_token_dropout``, ...); None without one."""
    for method in arm.runs[0].config.get("regularizers") or []:
        if "ratio" in method:
            return str(method["name"])
    return None


def _judged(arms: Sequence[Arm], baseline: str) -> str:
    names = [arm.name for arm in arms if arm.name != baseline]
    return next((arm.name for arm in arms if method_of(arm) == "entrodrop" and arm.name in names), names[0])


def _finding(row: Comparison, baseline: str, methods: dict[str, str | None], ratios: dict[str, float]) -> Finding:
    if row.other.endswith(EARLY_STOPPING) and row.other not in methods:
        return Finding("early stopping", row)
    mine, its = ratios[row.arm], ratios[row.other]
    drop = mine > 0 and its > 0
    same = bool(abs(mine - its) <= SAME_SHARE * mine) if drop else None
    if methods[row.other] == "random_token_dropout":
        return Finding("random dropout", row, same)
    return Finding("baseline" if row.other == baseline else "another arm", row, same)


def _conclusion(arm: str, method: str | None, findings: Sequence[Finding]) -> str:
    if method not in ("entrodrop", "inverse_entrodrop"):
        return f"{arm} does not choose tokens by entropy: nothing can be said of what such a choice adds."
    fair = [
        finding
        for finding in findings
        if finding.control == "random dropout" and finding.same_share and finding.comparison.quantity == "final"
    ]
    if not fair:
        return "No arm drops random tokens at the same share: what choosing by entropy adds is unknown."
    outcomes = {finding.outcome for finding in fair}
    against = f"random dropout at the same share ({', '.join(finding.comparison.other for finding in fair)})"
    if outcomes == {"unknown"}:
        return f"A loss is not finite: {arm} cannot be compared with {against}."
    if "higher" in outcomes:
        return f"{arm} ends at a HIGHER loss than {against}."
    if outcomes == {"lower"}:
        return f"{arm} ends at a lower loss than {against}."
    if "lower" in outcomes:
        return f"{arm} ends at a lower loss than some arms with {against}."
    return f"{arm} is not distinguishable from {against} by its final loss."


def _numbers(row: Comparison) -> str:
    p = "p < 0.001" if row.p_holm < 0.001 else f"p = {row.p_holm:.3f}"
    estimate, low, high = (f"{value + 0.0:+.3f}" for value in np.round([row.estimate, row.low, row.high], 3))
    return f"{estimate} nats per token, {low} to {high}, {p}"
