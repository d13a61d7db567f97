"""A run that is made again, against the one that is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.synthetic import make_study

from dynamics.analysis.sums.summarising import summarize_study
from dynamics.records.reader import Study, open_run, open_study
from recipes.study import again


def curve(of_epoch_two: float):
    """A loss of 4 everywhere, but for epoch 2: its numbers are those of float16."""
    return lambda epoch, split, entropy, rng: np.full(entropy.shape, of_epoch_two if epoch == 2 else 4.0)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Study]:
    """The study that is kept, and the same again with a loss at epoch 2 that is 1/16 higher."""
    folder = tmp_path_factory.mktemp("again")
    both = [
        make_study(folder / name, seeds=(0,), loss_fns={"baseline": curve(loss)})
        for name, loss in (("kept", 3.0), ("made", 3.0625))
    ]
    return open_study(both[0]), open_study(both[1])


def test_differences_by_hand(studies: tuple[Study, Study], tmp_path: Path) -> None:
    kept, made = studies
    wanted = {epoch: 0.0625 if epoch == 2 else 0.0 for epoch in kept.run("baseline", 0).epochs}
    assert again.differences(made.run("baseline", 0), kept) == pytest.approx(wanted, abs=1e-12)
    summary = tmp_path / "summary"
    summarize_study(kept, summary)
    for run, status in ((made.run("baseline", 0), 1), (kept.run("baseline", 0), 0)):
        assert again.main([str(run.path), "--of", str(summary)]) == status
    assert again.main([str(made.run("baseline", 0).path), "--of", str(summary), "--tolerance", "0.07"]) == 0


def test_a_diverged_epoch_is_not_the_same(studies: tuple[Study, Study], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(again, "open_summary", lambda folder: studies[0])
    monkeypatch.setattr(again, "differences", lambda *_: {0: 0.0, 1: float("nan")})
    assert again.main([str(studies[1].run("baseline", 0).path), "--of", "anywhere"]) == 1


def test_what_cannot_be_compared_is_said(
    studies: tuple[Study, Study], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = studies[0].run("baseline", 0)
    moved = tmp_path / "elsewhere"
    moved.symlink_to(run.path)
    for arguments in ([str(moved)], [str(run.path)], [str(tmp_path / "no")], [str(run.path), "--of", str(tmp_path)]):
        assert again.main(arguments) == 2
        assert capsys.readouterr().err.startswith("Error: ")
    other = make_study(tmp_path / "other", seeds=(0,), corpus_seed=7)
    with pytest.raises(ValueError, match="same tokens"):
        again.differences(open_run(open_study(other).run("baseline", 0).path), studies[0])
