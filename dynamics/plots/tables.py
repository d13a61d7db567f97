"""The table of arms: what each reached and where it ended, as LaTeX, Markdown and rows for CSV.

Losses are validation losses in nats per token, averaged over seeds. Rebound is the cross-fitted one: the plain one is
biased upward. Differences are paired, since both arms are measured on the same tokens, and their p-values are adjusted
for the number of arms that are compared (`dynamics.analysis.comparisons.arm_comparisons.compare_arms`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dynamics.analysis.comparisons.arm_comparisons import compare_arms
from dynamics.analysis.comparisons.significance import holm
from dynamics.analysis.estimands.summary import ArmSummary, arm_summary, note_on_passes
from dynamics.analysis.intervals.bootstrap import FEW_DOCUMENTS
from dynamics.analysis.sums.arms import Arm, Source, collect_arms, shared_epochs
from dynamics.analysis.sums.document_sums import DocumentSums, Value
from dynamics.analysis.tokens.buckets import Bucketing, entropy_buckets
from dynamics.errors import InputError, nearest
from dynamics.plots.style import MINUS, arm_role


@dataclass(frozen=True, slots=True)
class Difference:
    """Loss of an arm minus that of the baseline, in nats per token, after `epoch`, the last that both have.

    Attributes
    ----------
    epoch : int
    estimate, low, high : float
        With the percentile interval of documents resampled together for both arms; of this difference by itself.
    probability : float
        Share of the resamples in which the arm's loss is lower than the baseline's.
    p_holm : float
        Two-sided, adjusted after Holm (1979) for all differences of the table; 1 where a loss is NaN.
    """

    epoch: int
    estimate: float
    low: float
    high: float
    probability: float
    p_holm: float


@dataclass(frozen=True, slots=True)
class ArmTable:
    """The table of arms.

    Attributes
    ----------
    rows : tuple of ArmSummary
        In the order of the recipe.
    differences : dict of str to Difference
        By arm; none of the baseline, nor of an arm that has no epoch in common with it.
    baseline : str or None
        The arm that the others are compared with; None where there is one arm alone.
    level : float
        Of all intervals.
    """

    rows: tuple[ArmSummary, ...]
    differences: dict[str, Difference]
    baseline: str | None
    level: float

    def significant(self, arm: str) -> bool:
        """Whether the arm differs from the baseline: the chance of any such finding being false is below 1 - level."""
        # Not "< 1 - level", which is a little above 0.05 for a level of 0.95.
        return arm in self.differences and self.differences[arm].p_holm + self.level < 1.0

    @property
    def notes(self) -> list[str]:
        """What a reader must know to read the table, one sentence or two each."""
        n_documents = self.rows[0].n_documents
        percent = f"{100 * self.level:g} %"
        notes = [
            "Validation loss in nats per token, averaged over seeds.",
            f"Intervals: {percent}, {n_documents:,} validation documents resampled, the trained models held fixed.",
            "Rebound: final minus best, the best epoch chosen on other documents than it is measured on.",
            "Dropped: share of the predicted tokens dropped, mean over training.",
        ]
        if self.baseline is not None:
            notes.append(
                f"Difference: final loss minus that of {self.baseline}, paired by document; each interval by itself. "
                f"p: two-sided, adjusted after Holm for {len(self.differences)} comparison"
                f"{'s' if len(self.differences) != 1 else ''}; * where p < {1 - self.level:.2g}. "
                f"P(lower): share of resamples with a lower loss than {self.baseline}."
            )
        passes = note_on_passes(self.rows)
        if passes is not None:
            notes.append(passes)
        finals = {row.arm: row.final_epoch for row in self.rows}
        early = {
            arm: each.epoch
            for arm, each in self.differences.items()
            if {finals[arm], finals[str(self.baseline)]} != {each.epoch}
        }
        if early:
            listed = ", ".join(f"{arm} ({epoch})" for arm, epoch in early.items())
            notes.append(f"Arms differ in their last epoch; compared at the last common one: {listed}.")
        if n_documents < FEW_DOCUMENTS:
            notes.append(
                f"Warning: intervals over {n_documents} documents are unreliable, most of all too narrow; "
                f"{FEW_DOCUMENTS} or more are needed."
            )
        return notes


def arm_table(
    data: Source | Iterable[Source],
    *,
    baseline: str | None = None,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> ArmTable:
    """Return the table of the arms of a study, or of runs side by side.

    Parameters
    ----------
    data : Study, Run, Arm, or an iterable of them
        A run counts as one arm.
    baseline : str, optional
        The arm that the others are compared with. Default: the one whose name says so (``baseline``, ``none``,
        ``control``), or the first.
    n_resamples, level, seed
        As for `bootstrap_curve`. Every arm is resampled with the same documents.

    Raises
    ------
    InputError
        If there is no arm `baseline`, no epoch is complete, or the tokens of the runs differ.

    Warns
    -----
    UserWarning
        With fewer than 50 validation documents, or when seeds have different epochs.
    """
    arms = collect_arms(data)
    names = [arm.name for arm in arms]
    if baseline is not None and baseline not in names:
        raise InputError(f"no arm {baseline!r} to compare with; there are {', '.join(names)}{nearest(baseline, names)}")
    how: dict[str, Any] = {"n_resamples": n_resamples, "level": level, "seed": seed}
    rows = tuple(arm_summary(arms, **how))
    if len(arms) == 1:
        return ArmTable(rows, {}, None, level)
    chosen = arms[names.index(baseline or _default_baseline(names))]
    return ArmTable(rows, _differences(arms, chosen, **how), chosen.name, level)


def table_rows(table: ArmTable) -> list[dict[str, Any]]:
    """Return the numbers of the table as they are, one row an arm; what does not exist is NaN or empty."""
    rows = []
    any_cut = any(row.best_at != row.best_epoch or row.final_at != row.final_epoch for row in table.rows)
    for row in table.rows:
        difference = table.differences.get(row.arm)
        rows.append(
            {
                "arm": row.arm,
                "seeds": row.n_seeds,
                "documents": row.n_documents,
                "best": row.best,
                "best_epoch": row.best_epoch if row.best_epoch >= 0 else "",
                **({"best_passes": row.best_at if row.best_epoch >= 0 else ""} if any_cut else {}),
                "final": row.final,
                "final_epoch": row.final_epoch,
                **({"final_passes": row.final_at} if any_cut else {}),
                "final_low": row.final_low,
                "final_high": row.final_high,
                "rebound_cross_fitted": row.rebound_cross_fitted,
                "rebound_cross_fitted_low": row.rebound_cross_fitted_low,
                "rebound_cross_fitted_high": row.rebound_cross_fitted_high,
                "dropped_share": row.dropped_share,
                "baseline": table.baseline or "",
                "difference": difference.estimate if difference else math.nan,
                "difference_low": difference.low if difference else math.nan,
                "difference_high": difference.high if difference else math.nan,
                "difference_epoch": difference.epoch if difference else "",
                "p_holm": difference.p_holm if difference else math.nan,
                "probability_lower": difference.probability if difference else math.nan,
                "significant": int(table.significant(row.arm)) if difference else "",
            }
        )
    return rows


def markdown_table(table: ArmTable) -> str:
    """Return the table in Markdown, its notes below as a list."""
    header, body = _cells(table)
    lines = [
        _markdown_line(header),
        _markdown_line(["---", *["---:"] * (len(header) - 1)]),
        *(_markdown_line([_escape_markdown(cell) for cell in cells]) for cells in body),
        "",
        *(f"- {_escape_markdown(note)}" for note in table.notes),
    ]
    return "\n".join(lines) + "\n"


def latex_table(table: ArmTable) -> str:
    """Return the table in LaTeX, its notes as the caption. Needs no package but booktabs.

    Losses stand above and differences below: side by side they are wider than a page. The starred environment is
    as wide as the page, in one column or two.
    """
    header, body = _cells(table)
    lines = [
        r"% Needs \usepackage{booktabs}.",
        r"\begin{table*}",
        r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}",
        f"  \\caption{{{_escape_latex(' '.join(table.notes))}}}",
        *_tabular([cells[:_LOSSES] for cells in (header, *body)]),
    ]
    if table.baseline is not None:
        compared = [cells for cells, row in zip(body, table.rows, strict=True) if row.arm != table.baseline]
        lines += [r"  \par\medskip", *_tabular([[cells[0], *cells[_LOSSES:]] for cells in (header, *compared)])]
    return "\n".join([*lines, r"\end{table*}"]) + "\n"


# ------------------------------------------------------------------------------------- numbers


def _default_baseline(names: Sequence[str]) -> str:
    named = [name for name in names if arm_role(name) == "baseline"]
    exact = [name for name in named if name.lower() == "baseline"]
    return [*exact, *named, *names][0]


def _differences(arms: Sequence[Arm], baseline: Arm, **how: Any) -> dict[str, Difference]:
    """Compare arms with the baseline after the last epoch that both have; those without such an epoch are left out.

    One that was cut is had by both only if it was cut after the same passes over the data.
    """
    every = entropy_buckets(baseline.runs[0].records("validation"), 1)
    found = {}
    for arm in arms:
        common = shared_epochs([arm, baseline])
        if arm is not baseline and len(common):
            epoch = common[-1]
            pair = _AtEpoch(arm, epoch), _AtEpoch(baseline, epoch)
            found[arm.name] = epoch, compare_arms(pair, baseline=baseline.name, buckets=every, **how)[0]
    # Over all pairs at once, which `compare_arms` takes only where every arm has the same epochs.
    adjusted: list[float] = holm([row.p_value for _, row in found.values()]).tolist() if found else []
    return {
        name: Difference(epoch, row.estimate, row.low, row.high, row.probability, p)
        for (name, (epoch, row)), p in zip(found.items(), adjusted, strict=True)
    }


class _AtEpoch(Arm):
    """An arm after one epoch, all its tokens in one bucket, from the sums that it has read already."""

    def __init__(self, arm: Arm, epoch: int) -> None:
        super().__init__(arm.name, arm.runs)
        self._whole, self._epoch = arm, epoch

    def seed_sums(self, split: str, *, buckets: Bucketing | None = None, value: Value = "loss") -> list[DocumentSums]:
        return [_at_epoch(part, self._epoch) for part in self._whole.seed_sums(split, value=value)]


def _at_epoch(sums: DocumentSums, epoch: int) -> DocumentSums:
    here = sums.epochs == epoch
    return replace(sums, sums=sums.sums[here], epochs=sums.epochs[here], passes=sums.at[here])


# ---------------------------------------------------------------------------------------- text

# A thousandth of a nat is less than documents or seeds make of a difference; the CSV has all digits.
_DIGITS = 3
_NOTHING = "–"
# Columns before those of differences.
_LOSSES = 9


def _cells(table: ArmTable) -> tuple[list[str], list[list[str]]]:
    """Return the header and the cells, as they are read; the renderers write them in their language."""
    interval = f"{100 * table.level:g} % interval"
    header = ["Arm", "Seeds", "Best", "Epoch", "Final", interval, "Rebound", interval, "Dropped"]
    assert len(header) == _LOSSES
    if table.baseline is not None:
        header += ["Difference", interval, "p (Holm)", "P(lower)"]
    body = []
    for row in table.rows:
        cells = [
            row.arm,
            str(row.n_seeds),
            _number(row.best),
            f"{row.best_at:g}" if row.best_epoch >= 0 else _NOTHING,
            _number(row.final),
            _interval(row.final_low, row.final_high),
            _number(row.rebound_cross_fitted),
            _interval(row.rebound_cross_fitted_low, row.rebound_cross_fitted_high),
            _number(row.dropped_share),
        ]
        if table.baseline is not None:
            difference = table.differences.get(row.arm)
            if difference is None:
                cells += [_NOTHING] * 4
            else:
                star = "*" if table.significant(row.arm) else ""
                cells += [_number(difference.estimate) + star, _interval(difference.low, difference.high)]
                cells += [_p_value(difference), _number(difference.probability)]
        body.append(cells)
    return header, body


def _number(value: float) -> str:
    if not math.isfinite(value):
        return _NOTHING
    # Rounded first: what is 0 to these digits has no sign.
    rounded = round(value, _DIGITS) + 0.0
    return f"{rounded:.{_DIGITS}f}".replace("-", MINUS)


def _p_value(difference: Difference) -> str:
    if math.isnan(difference.estimate):
        return _NOTHING
    least = 10.0**-_DIGITS
    return f"< {least:g}" if difference.p_holm < least else _number(difference.p_holm)


def _interval(low: float, high: float) -> str:
    return f"[{_number(low)}, {_number(high)}]" if math.isfinite(low) and math.isfinite(high) else _NOTHING


def _markdown_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]~#&$])", r"\\\1", text)


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: "\\" + character for character in "&%$#_{}"},
    MINUS: "$-$",
    _NOTHING: "--",
    "*": r"\textsuperscript{*}",
}


def _tabular(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a tabular whose first row is its header."""
    return [
        f"  \\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}",
        r"    \toprule",
        _latex_line(rows[0]),
        r"    \midrule",
        *(_latex_line(cells) for cells in rows[1:]),
        r"    \bottomrule",
        r"  \end{tabular}",
    ]


def _latex_line(cells: Sequence[str]) -> str:
    # After the end of a line LaTeX takes a bracket for an option of it.
    guard = "{}" if cells[0].startswith("[") else ""
    return f"    {guard}{' & '.join(_escape_latex(cell) for cell in cells)} \\\\"


def _escape_latex(text: str) -> str:
    # Hyphens of a name stay hyphens: two in a row would become a dash. A number keeps its unit beside it.
    text = re.sub(r"(?<=\d) %", "\1%", re.sub(r"-(?=-)", "-\0", text))
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return escaped.replace("\0", "{}").replace("\1", r"\,")
