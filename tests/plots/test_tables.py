from __future__ import annotations

import csv
import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.synthetic import make_run, make_study

from dynamics.analysis.intervals.bootstrap import document_weights
from dynamics.analysis.sums.arms import Arm, collect_arms
from dynamics.errors import InputError
from dynamics.plots.figures import save_figures
from dynamics.plots.tables import ArmTable, Difference, arm_table, latex_table, markdown_table, table_rows
from dynamics.records.reader import Run, Study, open_run, open_study


def test_the_planted_study_by_hand(study: Study) -> None:
    """Every token has the planted loss, so intervals have no width and the cross-fitted rebound is the plain one."""
    rows = {row["arm"]: row for row in table_rows(arm_table(study))}
    assert list(rows) == ["baseline", "entrodrop", "random", "inverse"]
    rebound = ("rebound_cross_fitted", "rebound_cross_fitted_low", "rebound_cross_fitted_high")
    names = ("best", "best_epoch", "final", "final_low", "final_high", *rebound, "difference")
    for arm, expected in {
        "baseline": (3.0, 1, 3.75, 3.75, 3.75, 0.75, 0.75, 0.75, math.nan),
        "entrodrop": (3.0, 2, 3.125, 3.125, 3.125, 0.125, 0.125, 0.125, -0.625),
        "random": (3.0, 2, 3.0625, 3.0625, 3.0625, 0.0625, 0.0625, 0.0625, -0.6875),
        "inverse": (3.0, 3, 3.0, 3.0, 3.0, 0.0, 0.0, 0.0, -0.75),
    }.items():
        assert [rows[arm][name] for name in names] == pytest.approx(expected, nan_ok=True), arm
    assert {row["seeds"] for row in rows.values()} == {2}
    assert {row["documents"] for row in rows.values()} == {50}
    assert {row["baseline"] for row in rows.values()} == {"baseline"}
    # Rows of the metrics: ratio times step / 30 at steps 0, 5, ... 30, whose mean is half the ratio.
    shares = [rows[arm]["dropped_share"] for arm in rows]
    assert shares == pytest.approx([0.0, 0.1, 0.1, 0.2])
    assert [row["significant"] for row in rows.values()] == ["", 1, 1, 1]


def test_markdown_by_hand(study: Study) -> None:
    lines = markdown_table(arm_table(study)).splitlines()
    assert lines[:4] == [
        "| Arm | Seeds | Best | Epoch | Final | 95 % interval | Rebound | 95 % interval | Dropped "
        "| Difference | 95 % interval | p (Holm) | P(lower) |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        r"| baseline | 2 | 3.000 | 1 | 3.750 | \[3.750, 3.750\] | 0.750 | \[0.750, 0.750\] | 0.000 | – | – | – | – |",
        # No resample of 1,000 is beyond 0: 2 / 1,001, three times for three comparisons.
        r"| entrodrop | 2 | 3.000 | 2 | 3.125 | \[3.125, 3.125\] | 0.125 | \[0.125, 0.125\] | 0.100 "
        r"| −0.625\* | \[−0.625, −0.625\] | 0.006 | 1.000 |",
    ]
    assert lines[6] == ""
    assert all(line.startswith("- ") for line in lines[7:])
    assert "minus that of baseline, paired by document" in lines[-1]
    assert "adjusted after Holm for 3 comparisons; \\* where p \\< 0.05" in lines[-1]


def test_latex_by_hand(study: Study) -> None:
    lines = latex_table(arm_table(study)).splitlines()
    assert lines[:3] == [
        r"% Needs \usepackage{booktabs}.",
        r"\begin{table*}",
        r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}",
    ]
    assert lines[3].startswith(r"  \caption{Validation loss in nats per token") and lines[3].endswith("}")
    assert r"Intervals: 95\,\%, 50 validation documents resampled" in lines[3]
    assert lines[4:9] == [
        r"  \begin{tabular}{lrrrrrrrr}",
        r"    \toprule",
        r"    Arm & Seeds & Best & Epoch & Final & 95\,\% interval & Rebound & 95\,\% interval & Dropped \\",
        r"    \midrule",
        r"    baseline & 2 & 3.000 & 1 & 3.750 & [3.750, 3.750] & 0.750 & [0.750, 0.750] & 0.000 \\",
    ]
    assert lines[9] == r"    entrodrop & 2 & 3.000 & 2 & 3.125 & [3.125, 3.125] & 0.125 & [0.125, 0.125] & 0.100 \\"
    assert lines[12:20] == [
        r"    \bottomrule",
        r"  \end{tabular}",
        r"  \par\medskip",
        r"  \begin{tabular}{lrrrr}",
        r"    \toprule",
        r"    Arm & Difference & 95\,\% interval & p (Holm) & P(lower) \\",
        r"    \midrule",
        r"    entrodrop & $-$0.625\textsuperscript{*} & [$-$0.625, $-$0.625] & 0.006 & 1.000 \\",
    ]
    assert [line.split()[0] for line in lines[20:22]] == ["random", "inverse"]
    assert lines[22:] == [r"    \bottomrule", r"  \end{tabular}", r"\end{table*}"]


def test_the_difference_is_paired(tmp_path: Path) -> None:
    """Documents differ far more than arms do: paired, the interval is narrow, and is worked out here by resampling."""
    path = make_study(
        tmp_path / "study",
        seeds=[0],
        n_documents=120,
        epochs=1,
        dtype="float32",
        loss_fns={
            "entrodrop": lambda epoch, split, entropy, rng: entropy - 0.1 + 0.05 * rng.standard_normal(entropy.shape)
        },
    )
    opened = open_study(path)
    (difference,) = arm_table(opened, n_resamples=200).differences.values()
    sums, counts = [], None
    for arm in ("entrodrop", "baseline"):
        records = opened.run(arm, 0).records("validation")
        inside = records.predicted
        document = records.document_id[inside]
        sums.append(np.bincount(document, weights=records.loss(1)[inside].astype(float)))
        counts = np.bincount(document)
    drawn = document_weights(60, 200, 0).astype(float)
    values = drawn @ (sums[0] - sums[1]) / (drawn @ counts)
    low, high = np.quantile(values, [0.025, 0.975])
    assert (difference.low, difference.high) == pytest.approx((low, high))
    assert difference.estimate == pytest.approx((sums[0] - sums[1]).sum() / counts.sum())
    (_, row) = arm_table(opened, n_resamples=200).rows
    assert difference.high - difference.low < 0.5 * (row.final_high - row.final_low)


def test_stars_are_of_p_values_adjusted_for_all_arms(tmp_path: Path) -> None:
    """Of four arms one differs by itself and not among four: worked out here, with Holm's steps by hand."""
    shifts = {"plain": 0.0, "clear": -0.2, "none": 0.0, "perhaps": -0.0075, "worse": 0.2}

    def shifted(index: int, by: float) -> Any:
        def loss(epoch: int, split: str, entropy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            # Arms of one seed are given the same numbers; each needs noise of its own.
            own = np.random.default_rng([index, int(rng.integers(2**31))])
            return entropy + by + 0.1 * own.standard_normal(entropy.shape)

        return loss

    path = make_study(
        tmp_path / "study",
        arms={name: {} for name in shifts},
        seeds=[0, 1],
        n_documents=100,
        epochs=[0, 1],
        dtype="float32",
        loss_fns={name: shifted(i, by) for i, (name, by) in enumerate(shifts.items())},
    )
    study = open_study(path)
    sums, counts = {}, None
    for arm in shifts:
        both = []
        for seed in (0, 1):
            records = study.run(arm, seed).records("validation")
            document = records.document_id[records.predicted]
            both.append(np.bincount(document, weights=records.loss(1)[records.predicted].astype(float)))
            counts = np.bincount(document)
        sums[arm] = (both[0] + both[1]) / 2
    drawn = document_weights(50, 400, 0).astype(float)
    resampled = {arm: drawn @ (sums[arm] - sums["plain"]) / (drawn @ counts) for arm in list(shifts)[1:]}
    p = {arm: 2 * (1 + min((v > 0).sum(), (v < 0).sum())) / 401 for arm, v in resampled.items()}
    assert p["clear"] == p["worse"] == 2 / 401
    assert 0.05 / 2 < p["perhaps"] < 0.05 < p["none"], p
    table = arm_table(study, baseline="plain", n_resamples=400)
    assert {arm: each.p_holm for arm, each in table.differences.items()} == pytest.approx(
        {"clear": 8 / 401, "worse": 8 / 401, "perhaps": 2 * p["perhaps"], "none": max(p["none"], 2 * p["perhaps"])}
    )
    for arm, each in table.differences.items():
        assert each.probability == pytest.approx((resampled[arm] < 0).mean())
        assert (each.low, each.high) == pytest.approx(tuple(np.quantile(resampled[arm], [0.025, 0.975])))
    assert table.differences["perhaps"].high < 0  # by itself it would have had a star
    assert [row["significant"] for row in table_rows(table)] == ["", 1, 0, 0, 1]
    stars = [line.split("|")[10].strip().endswith("*") for line in markdown_table(table).splitlines()[2:7]]
    assert stars == [False, True, False, False, True]


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
    differences = {"entrodrop": Difference(3, -0.5, -0.6, -0.4, 0.9, p)}
    table = ArmTable(full.rows[:2], differences, "baseline", level)
    assert table.significant("entrodrop") is significant
    assert not table.significant("baseline")
    cells = markdown_table(table).splitlines()[3].split(" | ")
    assert cells[-2:] == [cell, "0.900 |"]
    assert f"for 1 comparison; \\* where p \\< {1 - level:.2f}" in markdown_table(table)


def test_which_arm_is_the_baseline(study: Study, plain_run: Run) -> None:
    arms = collect_arms(study)
    assert arm_table(reversed(arms)).baseline == "baseline"
    others = [arm for arm in arms if arm.name != "baseline"]
    assert arm_table(others).baseline == "entrodrop"  # the first, where no name says so
    named = [*others, Arm("no-dropout-control", arms[0].runs)]
    assert arm_table(named).baseline == "no-dropout-control"
    chosen = arm_table(study, baseline="random")
    assert chosen.baseline == "random" and chosen.differences["baseline"].estimate == pytest.approx(0.6875)
    with pytest.raises(InputError, match="no arm 'basline' to compare with; there are .*; did you mean 'baseline'"):
        arm_table(study, baseline="basline")
    alone = arm_table(plain_run)
    assert (alone.baseline, alone.differences) == (None, {})
    assert "Difference" not in markdown_table(alone) and "Difference" not in latex_table(alone)
    assert markdown_table(alone).startswith(
        "| Arm | Seeds | Best | Epoch | Final | 95 % interval | Rebound | 95 % interval | Dropped |\n"
    )


def test_arms_of_different_length_are_compared_where_both_are(tmp_path: Path) -> None:
    def falling(epoch: int, split: str, entropy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.full(entropy.shape, 4.0 - epoch)

    runs = [
        open_run(make_run(tmp_path / name, name=name, n_documents=100, epochs=epochs, loss_fn=falling))
        for name, epochs in {"baseline": [0, 1, 2], "short": [0, 1], "elsewhere": [3]}.items()
    ]
    table = arm_table(runs)
    assert table.differences == {"short": Difference(1, 0.0, 0.0, 0.0, 0.5, 1.0)}
    assert table.notes[-1] == "Arms differ in their last epoch; compared at the last common one: short (1)."
    assert markdown_table(table).splitlines()[4].endswith("| 0.000 | – | – | – | – |")


def test_few_documents_are_warned_of_in_the_table(tmp_path: Path) -> None:
    path = make_study(tmp_path / "study", seeds=[0], n_documents=30, epochs=1)
    with pytest.warns(UserWarning, match="intervals over 15 documents are unreliable"):
        table = arm_table(open_study(path))
    warning = "Warning: intervals over 15 documents are unreliable, most of all too narrow; 50 or more are needed."
    assert table.notes[-1] == warning
    assert f"- {warning}\n" in markdown_table(table) and warning in latex_table(table)


def test_enough_documents_are_not(study: Study) -> None:
    assert not any("Warning" in note for note in arm_table(study).notes)


def test_a_diverged_run_has_dashes_and_empty_cells(study: Study) -> None:
    table = arm_table(study)
    row = dataclasses.replace(
        table.rows[1],
        **dict.fromkeys(("best", "final", "final_low", "final_high", "dropped_share"), math.nan),
        **dict.fromkeys((f"rebound_cross_fitted{end}" for end in ("", "_low", "_high")), math.nan),
        best_epoch=-1,
    )
    nothing = Difference(3, math.nan, math.nan, math.nan, math.nan, 1.0)
    diverged = ArmTable((table.rows[0], row), {"entrodrop": nothing}, "baseline", 0.95)
    assert markdown_table(diverged).splitlines()[3] == "| entrodrop | 2 " + "| – " * 11 + "|"
    assert " & ".join(["entrodrop & 2", *["--"] * 7]) + r" \\" in latex_table(diverged)
    assert " & ".join(["entrodrop", *["--"] * 4]) + r" \\" in latex_table(diverged)
    assert (table_rows(diverged)[1]["best_epoch"], table_rows(diverged)[1]["significant"]) == ("", 0)


def named(table: ArmTable, name: str) -> ArmTable:
    rows = (dataclasses.replace(table.rows[0], arm=name),)
    return dataclasses.replace(table, rows=rows, differences={}, baseline=None)


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
    assert latex_table(table).splitlines()[8].startswith(f"    {latex} & 2 & ")
    assert markdown_table(table).splitlines()[2].startswith(f"| {markdown} | 2 | ")


@pytest.mark.parametrize("baseline", [None, "100 %_{of}"])
def test_latex_that_compiles(tmp_path: Path, baseline: str | None) -> None:
    """Whatever arms are called: groups close, special characters are commands, rows have all their cells."""
    names = ["100 %_{of}", r"a\b~c^d", "$x$ & #1", "[1] *", "ünder|score <1>"]
    # A space, a brace and a backslash are fine in a folder; a name with a slash is not.
    path = make_study(tmp_path / "study", arms={name: {} for name in names}, seeds=[0], n_documents=100, epochs=[0, 1])
    text = latex_table(arm_table(open_study(path), n_resamples=50, baseline=baseline))
    (comment, *lines) = text.splitlines()
    assert comment.startswith("%")
    commands = set(re.findall(r"\\([A-Za-z]+)", "\n".join(lines)))
    layout = {"begin", "end", "centering", "footnotesize", "setlength", "tabcolsep", "caption", "par", "medskip"}
    letters = {f"text{word}" for word in ("backslash", "asciitilde", "asciicircum", "less", "greater", "bar")}
    assert commands == {*layout, *letters, "toprule", "midrule", "bottomrule", "textsuperscript"}
    assert re.findall(r"\\(begin|end)\{(.*?)\}", text) == [
        ("begin", "table*"),
        *[("begin", "tabular"), ("end", "tabular")] * 2,
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
    assert sizes == [(6, 9), (5, 5)]


def test_what_is_zero_to_all_digits_has_no_sign(study: Study) -> None:
    table = arm_table(study)
    row = dataclasses.replace(table.rows[0], rebound_cross_fitted=-0.00001)
    line = markdown_table(dataclasses.replace(table, rows=(row, *table.rows[1:]))).splitlines()[2]
    assert r"| 0.000 | \[0.750, 0.750\] | 0.000 |" in line


def test_the_files_that_figures_writes(study: Study, tmp_path: Path) -> None:
    paths = save_figures([study], output=tmp_path / "a", only="table", formats=["png"], venue="icml2024")
    assert [path.name for path in paths] == ["table.tex", "table.md", "table.csv"]
    assert sorted((tmp_path / "a").iterdir()) == sorted(paths)
    table = arm_table(study)
    assert paths[0].read_text("utf-8") == latex_table(table)
    assert paths[1].read_text("utf-8") == markdown_table(table)
    with paths[2].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["difference"], rows[0]["significant"]) == ("", "")
    assert (rows[1]["difference"], rows[1]["significant"]) == ("-0.625", "1")
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
    }
    assert table.notes[-2:] == [
        "Arms ended after different passes over the data (baseline 2, cut 1.4, same 1.4): their final losses and "
        "rebounds are not to be compared.",
        "Arms differ in their last epoch; compared at the last common one: cut (1), same (1).",
    ]
    rows = table_rows(table)
    assert [(row["final_epoch"], row["final_passes"], row["best_passes"]) for row in rows] == [
        (2, 2.0, 2.0),
        (2, 1.4, 1.4),
        (2, 1.4, 1.4),
    ]
    assert [line.split(" | ")[3] for line in markdown_table(table).splitlines()[2:5]] == ["2", "1.4", "1.4"]
    alike = arm_table(runs[1:])
    assert (alike.differences["same"].epoch, alike.differences["same"].estimate) == (2, 0.0)
    assert alike.notes[-1] == "Training was cut within an epoch, after 1.4 passes over the data."
