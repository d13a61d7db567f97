from __future__ import annotations

import csv
import dataclasses
import math
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.balanced import HandArm, interval_by_hand, p_by_hand, spread_out, two_ways
from support.synthetic import make_run, make_study

from dynamics.analysis.sums.arms import Arm, collect_arms
from dynamics.errors import InputError
from dynamics.plots.arm_tables.arm_table import ArmTable, Difference, arm_table, closing_table, table_rows
from dynamics.plots.arm_tables.text import latex_table, markdown_table
from dynamics.plots.saving import save_figures
from dynamics.records.reader import Run, Study, open_run, open_study

Array = np.ndarray[Any, Any]


def test_the_planted_study_by_hand(study: Study) -> None:
    """Every token has the planted loss, so intervals have no width and cross-fitted numbers are the plain ones."""
    rows = {row["arm"]: row for row in table_rows(arm_table(study))}
    assert list(rows) == ["baseline", "entrodrop", "random", "inverse", "baseline (early stopping)"]
    assert [rows[arm]["best_epoch"] for arm in rows] == [1, 2, 2, 3, ""]
    nan = math.nan
    for arm, best, final, rebound, difference, from_stopped, of_bests in (
        ("baseline", 3.0, 3.75, 0.75, nan, nan, nan),
        ("entrodrop", 3.0, 3.125, 0.125, -0.625, 0.125, 0.0),
        ("random", 3.0, 3.0625, 0.0625, -0.6875, 0.0625, 0.0),
        ("inverse", 3.0, 3.0, 0.0, -0.75, 0.0, 0.0),
        # The baseline's best epoch, as if it had ended there: 0.75 below its end.
        ("baseline (early stopping)", nan, 3.0, nan, -0.75, nan, nan),
    ):
        row = rows[arm]
        assert row["best"] == pytest.approx(best, nan_ok=True)
        for name, value in {
            "best_cross_fitted": best,
            "final": final,
            "rebound_cross_fitted": rebound,
            "difference": difference,
            "from_early_stopping": from_stopped,
            "of_bests": of_bests,
        }.items():
            ends = [row[name], row[f"{name}_low"], row[f"{name}_high"]]
            assert ends == pytest.approx([value] * 3, nan_ok=True, abs=1e-12), (arm, name)
    assert {(row["seeds"], row["documents"], row["over"]) for row in rows.values()} == {(3, 50, "seeds_and_documents")}
    assert {row["baseline"] for row in rows.values()} == {"baseline"}
    # Rows of the metrics: ratio times step / 30 at steps 0, 5, ... 30, whose mean is half the ratio.
    shares = [rows[arm]["dropped_share"] for arm in rows]
    assert shares == pytest.approx([0.0, 0.1, 0.1, 0.2, nan], nan_ok=True)
    groups = ("difference", "from_early_stopping", "of_bests")
    assert [[row[f"{group}_significant"] for row in rows.values()] for group in groups] == [
        ["", 1, 1, 1, 1],
        ["", 1, 1, 0, ""],
        ["", 0, 0, 0, ""],
    ]
    assert {row["difference_over"] for row in list(rows.values())[1:]} == {"seeds_and_documents"}
    assert [row["of_bests_epoch"] for row in rows.values()] == ["", 3, 3, 3, ""]


def test_the_closing_table_by_hand(study: Study) -> None:
    header, rows = closing_table(arm_table(study))
    assert header == (
        *("arm", "start", "best", "epoch", "final", "rebound", "dropped", "against baseline", "95 % interval"),
    )
    # The numbers of random lie halfway between two that can be printed: which one is a matter of the last bit.
    arm, *cells = rows.pop(2)
    assert arm == "random" and cells[2] == "2" and cells[6].endswith("*")
    numbers = [float(cell.rstrip("*")) for cell in cells[:7]] + [float(end) for end in cells[7].strip("[]").split(",")]
    wanted = [4.0, 3.0, 2.0, 3.0625, 0.0625, 0.1, -0.6875, -0.6875, -0.6875]
    assert numbers == pytest.approx(wanted, abs=0.0006)
    assert rows == [
        ("baseline", "4.000", "3.000", "1", "3.750", "0.750", "0.000", "", ""),
        ("entrodrop", "4.000", "3.000", "2", "3.125", "0.125", "0.100", "-0.625*", "[-0.625, -0.625]"),
        ("inverse", "4.000", "3.000", "3", "3.000", "0.000", "0.200", "-0.750*", "[-0.750, -0.750]"),
    ]


def test_the_closing_table_of_one_arm_has_the_interval_of_its_end(study: Study) -> None:
    header, rows = closing_table(arm_table(study.run("baseline", 0)))
    assert header == ("arm", "start", "best", "epoch", "final", "rebound", "dropped", "95 % interval")
    assert rows == [("baseline-0", "4.000", "3.000", "1", "3.750", "0.750", "0.000", "[3.750, 3.750]")]


def test_markdown_by_hand(study: Study) -> None:
    lines = markdown_table(arm_table(study)).splitlines()
    assert lines[:4] == [
        "| Arm | Seeds | Final | 95 % interval | Best | 95 % interval | Epoch | Rebound | 95 % interval | Dropped |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        r"| baseline | 3 | 3.750 | \[3.750, 3.750\] | 3.000 | \[3.000, 3.000\] | 1 | 0.750 | \[0.750, 0.750\] | 0.000 |",
        r"| entrodrop | 3 | 3.125 | \[3.125, 3.125\] | 3.000 | \[3.000, 3.000\] | 2 | 0.125 | \[0.125, 0.125\] | 0.100 |",
    ]
    stopped = r"| baseline (early stopping) | 3 | 3.000 | \[3.000, 3.000\] | 3.000 | \[3.000, 3.000\] | 1 | – | – | – |"
    assert lines[6:8] == [stopped, ""]
    interval = "95 % interval | p"
    assert lines[8:11] == [
        f"| Arm | Against baseline | {interval} | Against early stopping | {interval} | Best against best | {interval} |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        r"| entrodrop | −0.625\* | \[−0.625, −0.625\] | \< 0.001 | 0.125\* | \[0.125, 0.125\] | \< 0.001 "
        r"| 0.000 | \[0.000, 0.000\] | 1.000 |",
    ]
    assert lines[13] == (
        r"| baseline (early stopping) | −0.750\* | \[−0.750, −0.750\] | \< 0.001 | – | – | – | – | – | – |"
    )
    assert lines[14] == ""
    assert all(line.startswith("- ") for line in lines[15:])
    assert r"- Intervals: 95 %, over seeds and documents (50 validation documents)." in lines
    assert any(line.startswith("- Best: at the best epoch, chosen on other seeds and documents than") for line in lines)
    # Four arms: six pairs by their ends and six by their bests, three arms and the baseline against early stopping.
    assert "adjusted after Holm for the study's 16 comparisons" in lines[-1]
    assert r"\* where p \< 0.05: a difference that generalises over seeds and documents." in lines[-1]


def test_latex_by_hand(study: Study) -> None:
    lines = latex_table(arm_table(study)).splitlines()
    assert lines[:3] == [
        r"% Needs \usepackage{booktabs}.",
        r"\begin{table*}",
        r"  \centering\footnotesize\setlength{\tabcolsep}{2pt}",
    ]
    assert lines[3].startswith(r"  \caption{Validation loss in nats per token") and lines[3].endswith("}")
    assert r"Intervals: 95\,\%, over seeds and documents (50 validation documents)." in lines[3]
    interval = r"95\,\% interval"
    assert lines[4:8] == [
        r"  \begin{tabular}{lrrrrrrrrr}",
        r"    \toprule",
        rf"    Arm & Seeds & Final & {interval} & Best & {interval} & Epoch & Rebound & {interval} & Dropped \\",
        r"    \midrule",
    ]
    numbers = "3.750 & [3.750, 3.750] & 3.000 & [3.000, 3.000] & 1 & 0.750 & [0.750, 0.750] & 0.000"
    assert lines[8] == rf"    baseline & 3 & {numbers} \\"
    stopped = (
        r"    baseline (early stopping) & 3 & 3.000 & [3.000, 3.000] & 3.000 & [3.000, 3.000] & 1 & -- & -- & -- \\"
    )
    assert lines[12:22] == [
        stopped,
        r"    \bottomrule",
        r"  \end{tabular}",
        r"  \par\medskip",
        r"  \begin{tabular}{lrrrrrr}",
        r"    \toprule",
        rf"    Arm & Against baseline & {interval} & p & Against early stopping & {interval} & p \\",
        r"    \midrule",
        r"    entrodrop & $-$0.625\textsuperscript{*} & [$-$0.625, $-$0.625] & \textless{} 0.001 "
        r"& 0.125\textsuperscript{*} & [0.125, 0.125] & \textless{} 0.001 \\",
        lines[21],
    ]
    assert [line.split()[0] for line in lines[21:24]] == ["random", "inverse", "baseline"]
    # Both stopped early: early stopping itself has no row.
    assert lines[24:32] == [
        r"    \bottomrule",
        r"  \end{tabular}",
        r"  \par\medskip",
        r"  \begin{tabular}{lrrr}",
        r"    \toprule",
        rf"    Arm & Best against best & {interval} & p \\",
        r"    \midrule",
        r"    entrodrop & 0.000 & [0.000, 0.000] & 1.000 \\",
    ]
    assert [line.split()[0] for line in lines[32:34]] == ["random", "inverse"]
    assert lines[34:] == [r"    \bottomrule", r"  \end{tabular}", r"\end{table*}"]


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_differences_are_paired_by_document_and_seed(study: Study, n_seeds: int) -> None:
    """Documents differ far more than arms do: paired, intervals are narrow, and are worked out here in closed form."""
    rng = np.random.default_rng(5)
    documents = spread_out(rng, (20,), scale=2.0)
    baseline = two_ways(rng, [5.0, 4.0, 2.0, 3.0], n_seeds, 20) + documents
    arm = two_ways(rng, [5.0, 4.0, 1.95, 2.9], n_seeds, 20) + documents
    arms = [
        HandArm(name, collect_arms(study)[i].runs[:n_seeds], {"validation": values})
        for i, (name, values) in enumerate([("baseline", baseline), ("arm", arm)])
    ]
    table = arm_table(arms)
    over = "documents" if n_seeds == 1 else "seeds_and_documents"
    for found, values in (
        (table.differences["arm"], arm[:, 3] - baseline[:, 3]),
        (table.differences["baseline (early stopping)"], baseline[:, 2] - baseline[:, 3]),
        (table.from_early_stopping["arm"], arm[:, 3] - baseline[:, 2]),
        (table.of_bests["arm"], arm[:, 2] - baseline[:, 2]),
    ):
        assert (found.epoch, found.over) == (3, over)
        assert found.estimate == pytest.approx(values.mean())
        assert (found.low, found.high) == pytest.approx(interval_by_hand(values))
        assert found.p_value == pytest.approx(p_by_hand(values))
        side = found.p_value / 2
        assert found.probability == pytest.approx(side if found.estimate > 0 else 1 - side)
    for row, values in zip(table.rows, (baseline, arm), strict=True):
        assert (row.final_low, row.final_high) == pytest.approx(interval_by_hand(values[:, 3]))
        difference = table.differences["arm"]
        assert difference.high - difference.low < 0.1 * (row.final_high - row.final_low)
    stopped = table_rows(table)[-1]
    assert (stopped["final_low"], stopped["final_high"]) == pytest.approx(interval_by_hand(baseline[:, 2]))


def test_what_intervals_generalise_over_can_be_asked_for(study: Study) -> None:
    rng = np.random.default_rng(6)
    values = {name: two_ways(rng, [4.0, 3.0, 2.0, 2.5], 3, 20) for name in ("baseline", "arm")}
    arms = [HandArm(name, collect_arms(study)[0].runs, {"validation": each}) for name, each in values.items()]
    table = arm_table(arms, over="documents", level=0.9)
    difference = (values["arm"] - values["baseline"])[:, 3]
    # With these trained models held fixed: the mean over seeds is all there is.
    by_hand = interval_by_hand(difference.mean(axis=0, keepdims=True), level=0.9)
    found = table.differences["arm"]
    assert found.over == "documents"
    assert (found.low, found.high) == pytest.approx(by_hand)
    assert "over documents, the trained models held fixed" in table.notes[1]
    assert "90 %" in table.notes[1]


def test_an_arm_of_one_seed_is_compared_over_documents_and_that_is_said(study: Study) -> None:
    rng = np.random.default_rng(7)
    values = {
        name: two_ways(rng, [4.0, 3.0, 2.0, 2.5], n, 20) for name, n in (("baseline", 3), ("arm", 3), ("alone", 1))
    }
    runs = collect_arms(study)[0].runs
    table = arm_table([HandArm(name, runs[: len(each)], {"validation": each}) for name, each in values.items()])
    assert {arm: each.over for arm, each in table.differences.items()} == {
        "arm": "seeds_and_documents",
        "alone": "documents",
        "baseline (early stopping)": "seeds_and_documents",
    }
    between = (values["alone"] - values["baseline"].mean(axis=0))[:, 3]
    assert (table.differences["alone"].low, table.differences["alone"].high) == pytest.approx(interval_by_hand(between))
    mixed = "over seeds and documents, or documents alone for what has one seed"
    assert f"Intervals: 95 %, {mixed} (20 validation documents)." in table.notes
    one_seed, one_model = table.notes[-2:]
    assert one_seed.startswith("Warning: comparisons with alone generalise over documents alone")
    assert "run 2 seeds or more" in one_seed
    assert any(
        "chosen on other seeds and documents (with one seed: other documents alone) than" in n for n in table.notes
    )
    assert one_model.startswith("Warning: with one seed the best epoch is chosen on other documents but by the same")


def test_stars_are_of_p_values_adjusted_for_the_whole_study(study: Study) -> None:
    """Of four arms one differs by itself and not among all comparisons: worked out here, with Holm's steps by hand."""
    shifts = {"plain": 0.0, "clear": -0.4, "none": 0.001, "perhaps": -0.015, "worse": 0.4}
    rng = np.random.default_rng(11)
    values = {name: two_ways(rng, [5.0, 4.0, 2.0 + by, 3.0 + by], 5, 40, scale=0.02) for name, by in shifts.items()}
    runs = collect_arms(study)[0].runs
    arms = [HandArm(name, [*runs, *runs][:5], {"validation": each}) for name, each in values.items()]
    table = arm_table(arms, baseline="plain")
    p: dict[tuple[str, str, str], float] = {}
    for kind, epoch in (("final", 3), ("best", 2)):
        for other, arm in combinations(shifts, 2):
            p[kind, arm, other] = p_by_hand(values[arm][:, epoch] - values[other][:, epoch])
    for arm in shifts:
        p["stopped", arm, "plain"] = p_by_hand(values[arm][:, 3] - values["plain"][:, 2])
    assert len(p) == table.n_comparisons == 25
    holm, reached = {}, 0.0
    for i, key in enumerate(sorted(p, key=lambda key: p[key])):
        reached = max(reached, min(1.0, (25 - i) * p[key]))
        holm[key] = reached
    for arm in list(shifts)[1:]:
        for kind, found in (
            ("final", table.differences),
            ("best", table.of_bests),
            ("stopped", table.from_early_stopping),
        ):
            assert found[arm].p_value == pytest.approx(p[kind, arm, "plain"], rel=1e-6)
            assert found[arm].p_holm == pytest.approx(holm[kind, arm, "plain"], rel=1e-6)
    assert table.differences["plain (early stopping)"].p_holm == pytest.approx(holm["stopped", "plain", "plain"])
    alone, among = p["final", "perhaps", "plain"], holm["final", "perhaps", "plain"]
    assert alone < 0.05 < among, (alone, among)
    assert table.differences["perhaps"].high < 0  # by itself it would have had a star
    stars = {"plain": "", "clear": 1, "none": 0, "perhaps": 0, "worse": 1, "plain (early stopping)": 1}
    assert {row["arm"]: row["difference_significant"] for row in table_rows(table)} == stars
    shown = [line.split("|")[2].strip().endswith("*") for line in markdown_table(table).splitlines()[11:16]]
    assert shown == [True, False, False, True, True]


@pytest.mark.parametrize(
    ("p", "level", "significant", "cell"),
    [
        (0.049, 0.95, True, "0.049"),
        (0.05, 0.95, False, "0.050"),
        (0.049, 0.99, False, "0.049"),
        (0.0004, 0.95, True, r"\< 0.001"),
    ],
)
def test_significance_is_a_small_adjusted_p_value(
    study: Study, p: float, level: float, significant: bool, cell: str
) -> None:
    full = arm_table(study)
    difference = Difference(3, "documents", -0.5, -0.6, -0.4, 0.9, 0.001, p)
    nothing: dict[str, Difference] = {}
    table = ArmTable(full.rows[:2], {"entrodrop": difference}, nothing, nothing, "baseline", level, (), 4)
    assert table.significant(difference) is significant
    star = r"\*" if significant else ""
    text = markdown_table(table)
    (line,) = [line for line in text.splitlines() if line.startswith("| entrodrop | −0.5")]
    assert line == rf"| entrodrop | −0.500{star} | \[−0.600, −0.400\] | {cell} " + "| – " * 6 + "|"
    assert (
        f"the study's 4 comparisons (every pair of arms by final and best loss, and early stopping); \\* where p \\< {1 - level:.2f}"
        in text
    )
    # Early stopping is not compared here, and has no row.
    assert table.stopped is None and "(early stopping)" not in text


def test_which_arm_is_the_baseline(study: Study, plain_run: Run) -> None:
    arms = collect_arms(study)
    assert arm_table(reversed(arms)).baseline == "baseline"
    others = [arm for arm in arms if arm.name != "baseline"]
    assert arm_table(others).baseline == "entrodrop"  # the first, where no name says so
    named = [*others, Arm("no-dropout-control", arms[0].runs)]
    assert arm_table(named).baseline == "no-dropout-control"
    chosen = arm_table(study, baseline="random")
    assert chosen.baseline == "random" and chosen.differences["baseline"].estimate == pytest.approx(0.6875)
    assert chosen.stopped == "random (early stopping)"
    with pytest.raises(InputError, match="no arm 'basline' to compare with; there are .*; did you mean 'baseline'"):
        arm_table(study, baseline="basline")
    alone = arm_table(plain_run)
    assert (alone.baseline, alone.stopped, alone.differences, alone.of_bests) == (None, None, {}, {})
    assert "Against" not in markdown_table(alone) and "Against" not in latex_table(alone)
    assert markdown_table(alone).startswith(
        "| Arm | Seeds | Final | 95 % interval | Best | 95 % interval | Epoch | Rebound | 95 % interval | Dropped |\n"
    )


def test_arms_of_different_length_are_compared_where_both_are(tmp_path: Path) -> None:
    def falling(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        return np.full(entropy.shape, 4.0 - epoch)

    runs = [
        open_run(make_run(tmp_path / name, name=name, n_documents=100, epochs=epochs, loss_fn=falling))
        for name, epochs in {"baseline": [0, 1, 2], "short": [0, 1], "elsewhere": [3]}.items()
    ]
    table = arm_table(runs)
    nothing = Difference(1, "documents", 0.0, 0.0, 0.0, 0.5, 1.0, 1.0)
    # At epoch 1 both are at 3, their lowest; the best of the baseline's own three epochs is its end.
    stopped = dataclasses.replace(nothing, epoch=2)
    assert table.differences == {"short": nothing, "baseline (early stopping)": stopped}
    for found in (table.from_early_stopping, table.of_bests):
        assert found.keys() == {"short"}
        same = dataclasses.replace(found["short"], low=0.0, high=0.0)
        assert same == nothing and found["short"].high - found["short"].low < 1e-12
    assert table.n_comparisons == 4
    early = "Arms differ in their last epoch; compared at the last common one: short (1)."
    assert [note for note in table.notes if note.startswith("Arms differ")] == [early]
    assert [line for line in markdown_table(table).splitlines() if line.startswith("| elsewhere | –")] == [
        "| elsewhere " + "| – " * 9 + "|"
    ]


def few(path: Path, n_documents: int, **options: Any) -> Study:
    return open_study(make_study(path, n_documents=2 * n_documents, epochs=1, **options))


def test_few_documents_are_warned_of_in_the_table(tmp_path: Path) -> None:
    said = "intervals over 14 documents are too narrow if a few are unlike the others; record 15 or more"
    for n_arms in (1, 2):
        arms = {name: {} for name in ("baseline", "other")[:n_arms]}
        with pytest.warns(UserWarning, match=said):
            table = arm_table(few(tmp_path / str(n_arms), 14, arms=arms, seeds=[0]))
        assert f"Warning: {said}." in table.notes
        assert f"- Warning: {said}.\n" in markdown_table(table) and f"Warning: {said}." in latex_table(table)
    assert not any("14" in note or "15" in note for note in arm_table(few(tmp_path / "15", 15, seeds=[0])).limits)


def test_few_seeds_are_warned_of_in_the_table(tmp_path: Path) -> None:
    said = "2 seeds hardly know the variance between seeds"
    for n_arms in (1, 2):
        arms = {name: {} for name in ("baseline", "other")[:n_arms]}
        with pytest.warns(UserWarning, match=said):
            table = arm_table(few(tmp_path / str(n_arms), 15, arms=arms, seeds=[0, 1]))
        assert [note for note in table.notes if "Warning" in note] == [table.notes[-1]]
        assert table.notes[-1].startswith(f"Warning: {said}")


def test_one_seed_is_told_of_in_the_table_and_not_warned_of(plain_run: Run) -> None:
    alone = arm_table(plain_run)
    assert alone.notes[-1].startswith("Warning: with one seed the best epoch is chosen on other documents but by the")
    assert any(note.startswith("Best: at the best epoch, chosen on other documents than") for note in alone.notes)


def test_enough_documents_and_seeds_are_not(study: Study) -> None:
    assert not any("Warning" in note for note in arm_table(study).notes)
    assert not any("Warning" in note for note in arm_table(collect_arms(study)[0]).notes)


def test_a_diverged_run_has_dashes_and_empty_cells(study: Study) -> None:
    runs = collect_arms(study)[0].runs
    rng = np.random.default_rng(8)
    fine = two_ways(rng, [4.0, 3.0, 2.0, 2.5], 3, 20)
    diverged = np.full_like(fine, np.nan)
    table = arm_table(
        [HandArm(name, runs, {"validation": each}) for name, each in (("fine", fine), ("diverged", diverged))]
    )
    row, compared = [line for line in markdown_table(table).splitlines() if line.startswith("| diverged")]
    assert row == "| diverged | 3 | diverged " + "| – " * 6 + "| 0.000 |"
    assert compared == "| diverged " + "| – " * 9 + "|"
    assert " & ".join(["diverged & 3", "diverged", *["--"] * 6, "0.000"]) + r" \\" in latex_table(table)
    cells = table_rows(table)[1]
    assert (cells["best_epoch"], cells["difference_significant"]) == ("", 0)
    assert math.isnan(cells["difference_p_holm"])
    # Nothing is better or worse than a baseline that diverged, not even stopping it early.
    of_it = arm_table(
        [HandArm(name, runs, {"validation": each}) for name, each in (("fine", fine), ("baseline", diverged))]
    )
    lines = [line for line in markdown_table(of_it).splitlines() if line.startswith("| baseline (early")]
    assert lines == [
        "| baseline (early stopping) | 3 " + "| – " * 8 + "|",
        "| baseline (early stopping) " + "| – " * 9 + "|",
    ]


def named(table: ArmTable, name: str) -> ArmTable:
    rows = (dataclasses.replace(table.rows[0], arm=name),)
    return dataclasses.replace(table, rows=rows, differences={}, from_early_stopping={}, of_bests={}, baseline=None)


@pytest.mark.parametrize(
    ("name", "latex", "markdown"),
    [
        ("ratio_0.3", r"ratio\_0.3", r"ratio\_0.3"),
        ("a&b%c$d#e", r"a\&b\%c\$d\#e", r"a\&b%c\$d\#e"),
        ("{x}~^", r"\{x\}\textasciitilde{}\textasciicircum{}", r"{x}\~^"),
        ("a|b*c", r"a\textbar{}b\textsuperscript{*}c", r"a\|b\*c"),
        ("a\\b", r"a\textbackslash{}b", r"a\\b"),
        ("<i>`", r"\textless{}i\textgreater{}`", r"\<i\>\`"),
        ("a--b---c", "a-{}-b-{}-{}-c", "a--b---c"),
        ("[x]", "{}[x]", r"\[x\]"),
        ("à la 5 %", r"à la 5\,\%", "à la 5 %"),
    ],
)
def test_names_are_escaped(study: Study, name: str, latex: str, markdown: str) -> None:
    table = named(arm_table(study), name)
    assert latex_table(table).splitlines()[8].startswith(f"    {latex} & 3 & ")
    assert markdown_table(table).splitlines()[2].startswith(f"| {markdown} | 3 | ")


@pytest.mark.parametrize("baseline", [None, "100 %_{of}"])
def test_latex_that_compiles(tmp_path: Path, baseline: str | None) -> None:
    """Whatever arms are called: groups close, special characters are commands, rows have all their cells."""
    names = ["100 %_{of}", r"a\b~c^d", "$x$ & #1", "[1] *", "ünder|score <1>"]
    # A space, a brace and a backslash are fine in a folder; a name with a slash is not.
    path = make_study(tmp_path / "study", arms={name: {} for name in names}, seeds=[0], n_documents=100, epochs=[0, 1])
    text = latex_table(arm_table(open_study(path), baseline=baseline))
    (comment, *lines) = text.splitlines()
    assert comment.startswith("%")
    commands = set(re.findall(r"\\([A-Za-z]+)", "\n".join(lines)))
    layout = {"begin", "end", "centering", "footnotesize", "setlength", "tabcolsep", "caption", "par", "medskip"}
    letters = {f"text{word}" for word in ("backslash", "asciitilde", "asciicircum", "less", "greater", "bar")}
    assert commands == {*layout, *letters, "toprule", "midrule", "bottomrule", "textsuperscript"}
    assert re.findall(r"\\(begin|end)\{(.*?)\}", text) == [
        ("begin", "table*"),
        *[("begin", "tabular"), ("end", "tabular")] * 3,
        ("end", "table*"),
    ]
    # Without what is escaped, and numbers' minus signs, no special character is left but braces in pairs and columns.
    plain = re.sub(r"\\[\\%&#$_{}]", "", "\n".join(lines)).replace("$-$", "")
    assert not set("%#$_~^") & set(plain)
    depth = 0
    for character in plain:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    sizes = []
    for columns, body in re.findall(r"\\begin\{tabular\}\{(l?r+)\}(.*?)\\end\{tabular\}", text, flags=re.DOTALL):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns) - 1}
        assert len(rows) == len(body.strip().splitlines()) - 3  # the others are three rules
        sizes.append((len(rows), len(columns)))
    # Early stopping of the baseline has a row beside the five arms, and none where both are stopped early.
    assert sizes == [(7, 10), (6, 7), (5, 4)]


def test_what_is_zero_to_all_digits_has_no_sign(study: Study) -> None:
    table = arm_table(study)
    row = dataclasses.replace(table.rows[0], rebound_cross_fitted=-0.00001)
    line = markdown_table(dataclasses.replace(table, rows=(row, *table.rows[1:]))).splitlines()[2]
    assert r"| 1 | 0.000 | \[0.750, 0.750\] | 0.000 |" in line


def test_the_files_that_figures_writes(study: Study, tmp_path: Path) -> None:
    paths = save_figures([study], output=tmp_path / "a", only="table", formats=["png"], venue="icml2024")
    assert [path.name for path in paths] == ["table.tex", "table.md", "table.csv"]
    assert sorted((tmp_path / "a").iterdir()) == sorted(paths)
    table = arm_table(study)
    assert paths[0].read_text("utf-8") == latex_table(table)
    assert paths[1].read_text("utf-8") == markdown_table(table)
    with paths[2].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["difference"], rows[0]["difference_significant"]) == ("", "")
    assert (rows[1]["difference"], rows[1]["difference_significant"]) == ("-0.625", "1")
    assert (rows[4]["arm"], rows[4]["difference"]) == ("baseline (early stopping)", "-0.75")
    again = save_figures([open_study(study.path)], output=tmp_path / "b", only=["table"])
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]
    with pytest.raises(InputError, match="unknown figure 'tables'; did you mean 'table'"):
        save_figures([study], output=tmp_path / "c", only="tables")


def test_arms_that_were_cut_are_compared_before_the_cut(tmp_path: Path) -> None:
    def falling(epoch: int, split: str, entropy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.full(entropy.shape, 4.0 - epoch)

    def steep(epoch: int, split: str, entropy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.full(entropy.shape, 4.0 - 1.5 * epoch)

    runs = [
        open_run(make_run(tmp_path / name, name=name, n_documents=100, epochs=2, loss_fn=loss, cut=cut))
        for name, loss, cut in (("baseline", falling, None), ("cut", steep, 1.4), ("same", steep, 1.4))
    ]
    table = arm_table(runs)
    # After one epoch 2.5 and 3; after "two" it would be 1 and 2.
    assert {arm: (each.epoch, each.estimate) for arm, each in table.differences.items()} == {
        "cut": (1, -0.5),
        "same": (1, -0.5),
        "baseline (early stopping)": (2, 0.0),
    }
    assert [note for note in table.notes if note.startswith("Arms")] == [
        "Arms ended after different passes over the data (baseline 2, cut 1.4, same 1.4): their final losses and "
        "rebounds are not to be compared.",
        "Arms differ in their last epoch; compared at the last common one: cut (1), same (1).",
    ]
    rows = table_rows(table)
    assert [(row["final_epoch"], row["final_passes"], row["best_passes"]) for row in rows[:3]] == [
        (2, 2.0, 2.0),
        (2, 1.4, 1.4),
        (2, 1.4, 1.4),
    ]
    assert [line.split(" | ")[6] for line in markdown_table(table).splitlines()[2:5]] == ["2", "1.4", "1.4"]
    alike = arm_table(runs[1:])
    assert (alike.differences["same"].epoch, alike.differences["same"].estimate) == (2, 0.0)
    (note,) = [note for note in alike.notes if note.startswith("Training")]
    assert note == "Training was cut within an epoch, after 1.4 passes over the data."


def test_what_was_tuned_and_with_which_budget_stands_beneath(tmp_path: Path) -> None:
    arms = collect_arms(open_study(make_study(tmp_path / "study", arms={"baseline": {}, "b": {}}, seeds=(0, 1, 2))))
    tuned = {"choose": "best", "seed": 9, "budget": {"trials": 5, "epochs": 60}, "unequal_budget": None}
    arms[0].runs[0].manifest["tuned"] = {**tuned, "settings": {"training.weight_decay": 1.6}}
    arms[1].runs[0].manifest["tuned"] = {**tuned, "budget": {"trials": 1, "epochs": 12}, "settings": {}}
    with pytest.warns(UserWarning, match="documents"):
        table = arm_table(arms)
    assert (
        "Settings were chosen among trials by their best loss on documents that are kept for tuning, with seed 9, "
        "which is not reported: baseline training.weight_decay 1.6 (of 5); b as it stands (of 1)."
    ) in table.notes
    assert [row["tuning_trials"] for row in table_rows(table)[:2]] == [5, 1]
    with pytest.warns(UserWarning, match="documents"):
        beside = arm_table([*arms, Arm("baseline+ema", arms[0].runs), Arm("baseline+swa", arms[0].runs)])
    (note,) = [note for note in beside.notes if note.startswith("Settings")]
    assert note.endswith(
        "baseline training.weight_decay 1.6 (of 5); b as it stands (of 1). "
        "Averaged weights (baseline+ema, baseline+swa) have the settings that the trained ones were best with."
    )
    for arm in arms:
        arm.runs[0].manifest["tuned"]["unequal_budget"] = "one trial costs a week"
    with pytest.warns(UserWarning, match="documents"):
        assert "Arms had unequal numbers of trials: one trial costs a week." in " ".join(arm_table(arms).notes)
