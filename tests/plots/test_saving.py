from __future__ import annotations

import csv
import os
import struct
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from support.synthetic import make_run, make_study

from dynamics.analysis.sums.summarising import summarize_study
from dynamics.errors import InputError
from dynamics.plots.saving import FIGURES, TABLES, save_figures
from dynamics.records.reader import Run, Study, open_run, open_study
from dynamics.records.summaries.reading import open_summary


@pytest.fixture(scope="module")
def saved(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("figures") / "new" / "folder"
    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    paths = save_figures([study], output=output)
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.get_backend() == backend
    assert pyplot.get_fignums() == []
    expected = [f"{name}.{kind}" for name in FIGURES for kind in ("pdf", "svg", "png", "csv")]
    expected += [f"{name}.{kind}" for name in TABLES for kind in ("tex", "md", "csv")]
    assert [path.name for path in paths] == expected
    assert sorted(path.name for path in output.iterdir()) == sorted(expected)
    return output


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_degradation_table_holds_the_planted_numbers(saved: Path, losses: dict[str, list[float]]) -> None:
    rows = table(saved / "degradation.csv")
    for arm, planted in losses.items():
        assert [float(r["validation_loss"]) for r in rows if r["arm"] == arm] == planted
    best = {row["arm"]: row["epoch"] for row in rows if row["best"] == "1"}
    assert best == {"baseline": "1", "entrodrop": "2", "random": "2", "inverse": "3"}


def test_the_token_dynamics_table_by_hand(saved: Path, losses: dict[str, list[float]]) -> None:
    rows = table(saved / "token_dynamics.csv")
    assert len(rows) == 64
    for row in rows:
        expected = losses[row["arm"]][int(row["epoch"])] - (row["split"] == "train")
        assert float(row["loss"]) == pytest.approx(expected)
        assert float(row["low"]) == pytest.approx(expected)


def test_the_curriculum_table_by_hand(saved: Path, losses: dict[str, list[float]]) -> None:
    rows = table(saved / "curriculum.csv")
    final = {r["arm"]: float(r["value"]) for r in rows if r["quantity"] == "final_loss"}
    assert final == {arm: loss[-1] for arm, loss in losses.items()}
    ratio = [r for r in rows if r["quantity"] == "ratio" and r["arm"] == "random"]
    assert (float(ratio[-1]["epoch"]), float(ratio[-1]["value"])) == (3.0, 0.2)


def test_the_same_bytes_again(saved: Path, study: Study, tmp_path: Path) -> None:
    """In another process, whose hashes and settings are others."""
    code = (
        "import sys, matplotlib\n"
        "from pathlib import Path\n"
        "from dynamics import open_study\n"
        "from dynamics.plots.saving import save_figures\n"
        "matplotlib.rcParams.update({'lines.linewidth': 9, 'font.size': 20, 'svg.hashsalt': 'other'})\n"
        "save_figures([open_study(sys.argv[1])], output=Path(sys.argv[2]))\n"
        "print(hash('a'))"
    )
    other = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    command = [sys.executable, "-c", code, str(study.path), str(tmp_path)]
    environment = {**os.environ, "PYTHONHASHSEED": other, "TZ": "Pacific/Kiritimati"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert int(done.stdout) != hash("a")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in saved.iterdir())
    for path in saved.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_files_hold_no_dates_and_true_type_fonts(saved: Path) -> None:
    for name in FIGURES:
        pdf = (saved / f"{name}.pdf").read_bytes()
        assert b"CreationDate" not in pdf
        assert b"/Type42" not in pdf  # the name of the PostScript kind
        assert b"/FontFile2" in pdf  # an embedded TrueType font
        assert b"/Type3" not in pdf
        assert b"<dc:date>" not in (saved / f"{name}.svg").read_bytes()
        assert b"Software" not in (saved / f"{name}.png").read_bytes()


def test_only_formats_and_venue(study: Study, tmp_path: Path) -> None:
    paths = save_figures([study], output=tmp_path, only="degradation", venue="icml2024", formats=["png"])
    assert [path.name for path in paths] == ["degradation.png", "degradation.csv"]
    width, _ = struct.unpack(">II", paths[0].read_bytes()[16:24])
    # Levels and differences: of the page's width.
    assert width == int(6.75 * 300)


def test_a_task_is_drawn_where_it_is_asked_for(saved: Path, study: Study, tmp_path: Path) -> None:
    paths = save_figures([study], output=tmp_path, only=["degradation", "gap"], formats="png", task="über")
    assert [path.name for path in paths] == ["degradation.png", "degradation.csv", "gap.png", "gap.csv"]
    rows, before = table(tmp_path / "degradation.csv"), table(saved / "degradation.csv")
    assert [{key: row[key] for key in before[0]} for row in rows] == before
    assert {row["task"] for row in rows} == {"über"} and "task" not in before[0]
    assert {int(row["task_documents"]) + int(row["task_documents_left_out"]) for row in rows} == {50}
    assert (tmp_path / "gap.png").read_bytes() == (saved / "gap.png").read_bytes()
    # The same width, and higher by the panels below.
    assert [
        struct.unpack(">II", (folder / "degradation.png").read_bytes()[16:24])[0] for folder in (tmp_path, saved)
    ] == [int(6.9 * 300)] * 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"only": ["degradaton"]}, "unknown figure 'degradaton'; did you mean 'degradation'"),
        ({"only": ["cartografy"]}, "unknown figure 'cartografy'; did you mean 'cartography'"),
        ({"only": ["loss_landscape"]}, "no figure 'loss_landscape' any more: .* bucket_map shows the change since"),
        ({"only": []}, "no figure asked for"),
        ({"formats": ["pdf", "pgn"]}, "unknown format 'pgn'; did you mean 'png'"),
        (
            {"task": "gsm8k", "only": ["gap"]},
            "the task 'gsm8k' is shown in degradation and table alone; name one",
        ),
        ({"task": "gsm8k"}, "no document of the validation split of .* matches '####"),
        ({"task": "(", "only": ["degradation"]}, "of 'result' is no regular expression"),
        ({"venue": "neurip2024"}, "unknown venue 'neurip2024'; did you mean 'neurips2024'"),
    ],
)
def test_unknown_names_are_refused_before_anything_is_written(
    study: Study, tmp_path: Path, wrong: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        save_figures([study], output=tmp_path / "out", **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_figure_that_the_data_do_not_give(plain_run: Run, tmp_path: Path) -> None:
    reasons: list[str] = []
    paths = save_figures([plain_run], output=tmp_path, formats=["svg"], on_skip=reasons.append)
    assert {path.stem for path in paths} == {*FIGURES, *TABLES} - {"curriculum", "comparisons"}
    assert reasons == [
        "figure 'comparisons' is left out: arm 'quickstart' is alone and has nothing to be compared with",
        "figure 'curriculum' is left out: no arm drops tokens on a schedule",
    ]
    with pytest.warns(UserWarning) as caught:
        save_figures([plain_run], output=tmp_path, formats=["svg"])
    assert [str(each.message) for each in caught] == reasons
    with pytest.raises(InputError, match="figure 'curriculum' cannot be made: no arm drops"):
        save_figures([plain_run], output=tmp_path / "none", only=["curriculum", "degradation"])
    assert not (tmp_path / "none").exists()


def test_a_study_of_one_arm(tmp_path: Path) -> None:
    regularizers = [{"name": "entrodrop", "ratio": 0.1, "schedule": "sigmoid"}]
    path = make_study(
        tmp_path / "study",
        arms={"entrodrop": {"regularizers": regularizers}},
        seeds=[0],
        n_documents=100,
        epochs=2,
    )
    reasons: list[str] = []
    paths = save_figures([open_study(path)], output=tmp_path / "out", formats=["png"], on_skip=reasons.append)
    assert {path.stem for path in paths} == {*FIGURES, *TABLES} - {"comparisons"} and len(reasons) == 1


def test_one_epoch_only(started_run: Run, tmp_path: Path) -> None:
    reasons: list[str] = []
    paths = save_figures([started_run], output=tmp_path, formats=["png"], on_skip=reasons.append)
    need_training = {"rebound", "bucket_map", "rebound_map", "trajectory_classes", "cartography"}
    assert {path.stem for path in paths} == {*FIGURES, *TABLES} - need_training - {"comparisons"}
    assert sum("has one epoch alone" in reason for reason in reasons) == 5 and len(reasons) == 6
    (row,) = table(tmp_path / "degradation.csv")
    assert (row["epoch"], row["best"], row["above_best"]) == ("0", "1", "0")


def test_runs_side_by_side(study: Study, plain_run: Run, tmp_path: Path) -> None:
    runs = [study.run("baseline", 0), plain_run]
    save_figures(runs, output=tmp_path, only="degradation", formats=["svg"])
    assert {row["arm"] for row in table(tmp_path / "degradation.csv")} == {
        "baseline-0",
        "quickstart",
    }
    other = open_run(make_run(tmp_path / "other", n_documents=100, epochs=1, corpus_seed=9))
    with pytest.raises(InputError, match="different tokens"):
        save_figures([plain_run, other], output=tmp_path / "none")


def test_a_diverged_run_leaves_empty_cells(tmp_path: Path) -> None:
    run = open_run(
        make_run(
            tmp_path / "run",
            n_documents=100,
            epochs=1,
            loss_fn=lambda epoch, split, entropy, rng: np.full(entropy.shape, np.nan if epoch else 3.0),
        )
    )
    save_figures([run], output=tmp_path, formats=["svg"], on_skip=print)
    rows = table(tmp_path / "degradation.csv")
    assert [row["validation_loss"] for row in rows] == ["3", ""]


def test_a_write_that_fails_leaves_no_part(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: str, target: str) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_figures([study], output=tmp_path, only="degradation", formats=["png"])
    assert list(tmp_path.iterdir()) == []


def test_arms_that_were_cut_elsewhere_are_placed_and_named_by_their_passes(tmp_path: Path) -> None:
    dropout = [{"name": "entrodrop", "ratio": 0.2, "schedule": "linear", "pool": 0.5}]
    runs = [
        open_run(make_run(tmp_path / name, name=name, n_documents=120, epochs=3, cut=cut, regularizers=dropout))
        for name, cut in (("whole", None), ("cut", 2.4))
    ]
    output = tmp_path / "figures"
    with pytest.warns(UserWarning, match="tokens are followed over epochs 0 to 2, which all arms have"):
        save_figures(runs, output=output, formats="svg")
    of_epochs = [name for name in FIGURES if name not in ("trajectory_classes", "cartography", "comparisons")]
    for name in of_epochs:
        last = {row["arm"]: row["passes"] for row in table(output / f"{name}.csv") if row["epoch"] == "3"}
        # The curriculum asks for a share until 3 in the metrics of both; what was measured is below.
        assert last["cut"] == "2.4", name
        if name != "curriculum":
            assert last["whole"] == "3", name
    measured = [row for row in table(output / "curriculum.csv") if row["quantity"] == "dropped_share"]
    assert [row["passes"] for row in measured if row["arm"] == "cut"] == ["0.5", "1.5", "2.2"]
    classes = [row["share"] for row in table(output / "trajectory_classes.csv")]
    assert classes[: len(classes) // 2] == classes[len(classes) // 2 :]
    assert table(output / "table.csv")[1]["difference_epoch"] == "2"


def test_figures_that_follow_tokens_need_two_epochs_in_common(tmp_path: Path) -> None:
    runs = [
        open_run(make_run(tmp_path / name, name=name, n_documents=120, epochs=1, cut=cut))
        for name, cut in (("whole", None), ("cut", 0.4))
    ]
    for name in ("cartography", "trajectory_classes"):
        with pytest.raises(InputError, match=f"{name!r} cannot be made: the arms have fewer than two epochs in common"):
            save_figures(runs, output=tmp_path / "figures", only=name)


def test_further_splits_change_no_figure(tmp_path: Path) -> None:
    written = []
    for name, held_out in (("one", ("validation",)), ("more", ("validation", "tuning", "validation-general"))):
        path = make_study(
            tmp_path / name, arms={"a": {}, "b": {}}, n_documents=120, epochs=2, held_out=held_out, seeds=(0, 1, 2)
        )
        opened, folder = open_study(path), tmp_path / f"{name}-figures"
        files = save_figures([opened], output=folder, only=["degradation", "table"], formats=["svg"])
        written.append({file.name: file.read_bytes() for file in files if file.suffix in (".csv", ".md")})
    assert written[0] == written[1] and len(written[0]) == 3


def test_a_summary_gives_the_same_files_and_names_what_needs_tokens(study: Study, tmp_path: Path) -> None:
    summarize_study(study, tmp_path / "summary")
    skipped: list[str] = []
    paths = save_figures(
        [open_summary(tmp_path / "summary")], output=tmp_path / "drawn", formats="svg", on_skip=skipped.append
    )
    need_tokens = ["calibration", "trajectory_classes", "cartography", "entropy_distribution"]
    reason = "it needs tokens, and of arm 'baseline' a summary keeps sums by document"
    assert skipped == [f"figure {name!r} is left out: {reason}" for name in need_tokens]
    assert {path.stem for path in paths} == {*FIGURES, *TABLES} - set(need_tokens)
    drawn = [name for name in [*FIGURES, *TABLES] if name not in need_tokens]
    for path in save_figures([study], output=tmp_path / "of study", only=drawn, formats="svg"):
        assert path.read_bytes() == (tmp_path / "drawn" / path.name).read_bytes(), path.name
