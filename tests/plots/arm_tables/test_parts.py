from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.synthetic import make_run, make_study

from dynamics.analysis.comparisons.family import task_comparisons
from dynamics.analysis.sums.arms import Arm, collect_arms
from dynamics.errors import InputError
from dynamics.plots.arm_tables.arm_table import arm_table, table_rows
from dynamics.plots.arm_tables.text import latex_table, markdown_table
from dynamics.plots.saving import save_figures
from dynamics.records.reader import Study, open_run, open_study

TASK = r"\b(?:über|données|list|value)$"


def right(last: float) -> Any:
    """All tokens are right after the first epoch; a share of them, at random, after the second."""

    def loss(epoch: int, split: str, entropy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.where(rng.random(entropy.shape) < (last if epoch == 2 else epoch), 0.25, 4.0)

    return loss


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    path = tmp_path_factory.mktemp("parts") / "study"
    loss_fns = {"baseline": right(0.0), "half": right(0.5), "all": right(1.0)}
    arms: dict[str, dict[str, Any]] = {arm: {} for arm in loss_fns}
    return open_study(make_study(path, arms=arms, loss_fns=loss_fns, n_documents=120, epochs=2, seeds=(0, 1, 2)))


def test_a_task_by_hand(study: Study) -> None:
    table = arm_table(study, task=TASK)
    rows = {row["arm"]: row for row in table_rows(table)}
    before = {row["arm"]: row for row in table_rows(arm_table(study))}
    assert list(rows) == ["baseline", "half", "all", "baseline (early stopping)"]
    for arm, row in before.items():
        assert {key: str(rows[arm][key]) for key in row} == {key: str(value) for key, value in row.items()}
    assert not [key for key in before["all"] if key.startswith("task")]
    for arm, final, difference in (("baseline", 0.0, math.nan), ("all", 1.0, 1.0)):
        for name, value in (("task_final", final), ("task_difference", difference)):
            ends = [rows[arm][f"{name}{end}"] for end in ("", "_low", "_high")]
            assert ends == pytest.approx([value] * 3, nan_ok=True, abs=1e-12)
    assert rows["half"]["task_final_low"] < 0.5 < rows["half"]["task_final_high"]
    assert rows["all"]["task_difference_over"] == "seeds_and_documents" and rows["all"]["task_difference_epoch"] == 2
    records = study.run("all", 1).records("validation")
    # One of these words at the end of a document.
    texts = [records.document_text(d) for d in range(60)]
    having = sum(text.endswith((" über", " données", " list", " value")) for text in texts)
    assert 15 < having < 50
    assert (rows["half"]["task_documents"], rows["half"]["task_documents_left_out"]) == (having, 60 - having)
    # Two comparisons: the larger p-value of both is not below the smaller one doubled.
    half, every = task_comparisons(study, TASK)
    assert (half.arm, half.other, half.quantity, half.value) == ("half", "baseline", "final", "correct")
    assert half.p_holm == pytest.approx(max(half.p_value, 2 * every.p_value))
    assert rows["half"]["task_difference_p_holm"] == half.p_holm
    # Early stopping has no accuracy here.
    assert math.isnan(rows["baseline (early stopping)"]["task_final"])


def test_it_is_read_in_markdown_and_latex(study: Study) -> None:
    table = arm_table(study, task=TASK)
    lines = markdown_table(table).splitlines()
    at = lines.index("| Arm | Accuracy on results | 95 % interval | Against baseline | 95 % interval | p |")
    assert lines[at + 2] == r"| baseline | 0.000 | \[0.000, 0.000\] | – | – | – |"
    assert lines[at + 4] == r"| all | 1.000 | \[1.000, 1.000\] | 1.000\* | \[1.000, 1.000\] | \< 0.001 |"
    (note,) = [note for note in table.notes if note.startswith("Accuracy on results")]
    assert TASK in note and "without results are left out)" in note
    assert note.endswith("Against baseline: above 0 the arm is better; p is adjusted after Holm for these 2.")
    latex = latex_table(table)
    assert r"Arm & Accuracy on results & 95\,\% interval & Against baseline & 95\,\% interval & p \\" in latex
    assert r"\textbackslash{}b(?:über\textbar{}données\textbar{}list\textbar{}value)\$" in latex.splitlines()[3]
    assert "Accuracy on results" not in latex_table(arm_table(study)) + markdown_table(arm_table(study))


def test_files_of_a_task(study: Study, tmp_path: Path) -> None:
    save_figures([study], output=tmp_path, only="table", task=TASK)
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["task_final"] for row in rows][::2] == ["0", "1"] and rows[3]["task_final"] == ""
    assert rows[0]["task"] == TASK


def test_one_arm_few_documents_and_other_epochs(study: Study, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="intervals over 6 documents"):
        table = arm_table(open_run(make_run(tmp_path / "run", epochs=2, loss_fn=right(1.0))), task="a")
    assert table.task is not None and not table.task.differences and table.baseline is None
    assert [note for note in table.notes if "Warning: intervals over 6 documents" in note and "results" in note]
    lines = markdown_table(table).splitlines()
    assert "| Arm | Accuracy on results | 95 % interval |" in lines
    # An arm that was trained for less long is compared after the last epoch that both have, where all are right.
    arms = collect_arms(study)
    short = [arms[0], Arm(arms[2].name, arms[2].runs, epochs=[0, 1])]
    (row,) = task_comparisons(short, TASK)
    assert row.epoch == 1 and row.estimate == 0.0
    assert task_comparisons(arms[:1], TASK) == []
    with pytest.raises(InputError, match="no arm 'bseline' to compare with; .* did you mean 'baseline'"):
        task_comparisons(study, TASK, baseline="bseline")
    with pytest.raises(InputError, match="no document of the validation split"):
        arm_table(study, task="nowhere")
