"""What intervals of comparisons cannot cover, or do not speak of, in words for warnings and tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from dynamics.analysis.intervals.over_documents import about_documents
from dynamics.analysis.intervals.over_seeds_and_documents import about_seeds
from dynamics.analysis.intervals.selection import about_one_seed
from dynamics.analysis.sums.ensembles import ENSEMBLE_OF

if TYPE_CHECKING:
    from dynamics.analysis.comparisons.arm_comparisons import Comparison

#: What stands behind an arm's name where its best epoch is meant.
EARLY_STOPPING = " (early stopping)"


def limits(rows: Sequence[Comparison]) -> list[str]:
    """Return what the intervals of comparisons cannot cover, or do not speak of."""
    found = [about_documents(rows[0].n_documents)]
    crossed = [min(row.n_seeds) for row in rows if row.over == "seeds_and_documents"]
    if crossed:
        found.append(about_seeds(min(crossed)))
    of_one_model = {
        (name, row.quantity in ("best", "rebound") or name.endswith(EARLY_STOPPING))
        for row in rows
        for name, n_seeds in zip((row.arm, row.other), row.n_seeds, strict=True)
        if n_seeds == 1
    }
    if of_one_model:
        found.append(about_fixed({name.removesuffix(EARLY_STOPPING) for name, _ in of_one_model}))
    found.append(about_best_of_one_model(name for name, chooses in of_one_model if chooses))
    return [each for each in found if each is not None]


def about_fixed(names: Iterable[str]) -> str:
    """Return what must be said of comparisons with, and within, arms of one model: a single seed, or an ensemble."""
    seeds, ensembles = _by_kind(names)
    said = []
    for each, why in (
        (seeds, ", as of a single seed; run 2 seeds or more, 5 if you can"),
        (ensembles, ", as an ensemble is one model that is made of all its seeds"),
    ):
        if each:
            said.append(
                f"comparisons with {', '.join(each)} generalise over documents alone, with the trained models held "
                f"fixed{why}"
            )
    return "; ".join(said)


def about_best_of_one_model(names: Iterable[str]) -> str | None:
    """Return what must be said of best epochs and rebounds of arms of one model; None of none."""
    seeds, ensembles = _by_kind(names)
    if seeds:
        return about_one_seed(1)
    if not ensembles:
        return None
    return (
        "the best epoch of an ensemble is chosen on other documents but by the same model, whose fluctuation from "
        "epoch to epoch cannot be told from a rebound"
    )


def _by_kind(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the names of single seeds, and those of ensembles of several, sorted."""
    seeds: list[str] = []
    ensembles: list[str] = []
    for name in sorted(names):
        several = ENSEMBLE_OF in name and not name.endswith(f"{ENSEMBLE_OF}1)")
        (ensembles if several else seeds).append(name)
    return seeds, ensembles
