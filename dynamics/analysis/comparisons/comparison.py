"""One arm against another: what a comparison says, and how it is shown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from dynamics.analysis.estimands.quantities import Quantity
from dynamics.analysis.intervals.bands import Over
from dynamics.analysis.intervals.columns import ARM, OVER, ends
from dynamics.analysis.sums.document_sums import Value
from dynamics.display.layouts import Column, Layout, text_column
from dynamics.display.numbers import decimals, interval, percent_interval, significance, whole
from dynamics.display.results import Shown

#: Of a difference, where it is not nats per token. A difference of certainties has no unit.
_UNITS = {"correct": "percentage points", "certainty": ""}


def _difference(row: Comparison, _: int) -> str:
    around = ends(row.estimate, row.low, row.high, diverged=bool(row.diverged))
    return percent_interval(around) if row.value == "correct" else interval(around)


def about_diverged(names: Iterable[str]) -> list[str]:
    """Return a line that names the arms that diverged; none if there are none."""
    different = sorted(set(names))
    return [f"{', '.join(different)}: diverged, the loss is NaN or infinite"] if different else []


def _notes(rows: Sequence[Comparison]) -> list[str]:
    return about_diverged(name for row in rows for name in row.diverged)


@dataclass(frozen=True, slots=True, repr=False)
class Comparison(Shown):
    """One arm against another in one bucket.

    Attributes
    ----------
    arm, other, bucket : str
        A name that ends in " (early stopping)" stands for that arm's best epoch.
    quantity : {"final", "best", "rebound", "area"}
        See `dynamics.analysis.estimands.quantities`; nats per token, of ``correct`` a share of tokens.
    over : {"documents", "seeds_and_documents"}
        What the interval and the p-values generalise over.
    estimate, low, high : float
        `arm` minus `other`, with the ends of the interval. Below 0 `arm` has the lower value. A lower loss is better.
    probability : float
        The confidence that `arm` is lower: 1 - p_value / 2 where it was measured lower, else p_value / 2.
    p_value, p_holm, p_bh : float
        Two-sided; and adjusted for all comparisons of the same call, after Holm (1979; the chance of any false
        finding) and after Benjamini and Hochberg (1995; the expected share of false findings).
    margin, p_equivalent, p_equivalent_holm : float
        Two one-sided tests (Schuirmann 1987) against "they differ by `margin` or more"; NaN without a margin.
    n_documents : int
    n_seeds : tuple of int
        Of both arms.
    same_seeds : bool
        Whether both arms have the same seeds. These are paired.
    epoch : int or None
        The last epoch that is looked at; None where arms are matched by something else.
    value : {"loss", "entropy", "correct", "certainty"}
        What is compared.
    diverged : tuple of str
        The arms that diverged, of the two: the estimate, its interval and its p-values are NaN because the arm's value
        is NaN or infinite at an epoch that counts.
    """

    arm: str
    other: str
    bucket: str
    quantity: Quantity
    over: Over
    estimate: float
    low: float
    high: float
    probability: float
    p_value: float
    n_documents: int
    n_seeds: tuple[int, int]
    same_seeds: bool
    epoch: int | None = None
    p_holm: float = math.nan
    p_bh: float = math.nan
    margin: float = math.nan
    p_equivalent: float = math.nan
    p_equivalent_holm: float = math.nan
    value: Value = "loss"
    diverged: tuple[str, ...] = ()

    layout: ClassVar[Layout | None] = Layout(
        "comparisons",
        (
            ARM,
            text_column("minus", "other"),
            text_column("bucket", "bucket", once=True),
            text_column("quantity", "quantity", once=True),
            text_column("value", "value", once=True),
            Column(
                "difference",
                _difference,
                unit=lambda row: _UNITS.get(row.value, "nats per token"),
            ),
            Column("p", "p_value", significance),
            Column("p (Holm)", "p_holm", significance),
            Column("p (BH)", "p_bh", significance),
            Column("margin", "margin", decimals, once=True),
            Column("p of equivalence (Holm)", "p_equivalent_holm", significance, once=True),
            OVER,
            Column("seeds", lambda row, _: " and ".join(map(str, dict.fromkeys(row.n_seeds))), once=True),
            Column("documents", "n_documents", whole, once=True),
        ),
        arrays={
            "n_seeds_arm": (lambda row: row.n_seeds[0],),
            "n_seeds_other": (lambda row: row.n_seeds[1],),
            "diverged": (lambda row: ", ".join(row.diverged),),
        },
        left_out=("n_seeds",),
        notes=_notes,
    )

    def turned(self) -> Comparison:
        """Return the same comparison the other way round."""
        return replace(
            self,
            arm=self.other,
            other=self.arm,
            estimate=-self.estimate,
            low=-self.high,
            high=-self.low,
            probability=1.0 - self.probability,
            n_seeds=self.n_seeds[::-1],
        )
