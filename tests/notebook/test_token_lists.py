from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.synthetic import make_study

from dynamics.analysis.sums.arms import collect_arms
from dynamics.analysis.sums.summarising import summarize_study
from dynamics.errors import InputError
from dynamics.notebook import forgotten_tokens, rebounding_passage, rebounding_tokens
from dynamics.records.reader import Study, open_study
from dynamics.records.summaries.reading import open_summary

Array = np.ndarray[Any, Any]
PLANTED = {(0, 5): 2.0, (1, 7): 4.0, (1, 9): 3.0}


def loss(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
    """Falls by 1 for all tokens; those planted rise by their number after epoch 1."""
    values = np.full(entropy.shape, 5.0 - (epoch > 0))
    for at, rise in PLANTED.items():
        values[at] += rise * (epoch > 1)
    return values


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    path = tmp_path_factory.mktemp("lists") / "study"
    return open_study(
        make_study(
            path, arms={"a": {}, "b": {}}, seeds=(0, 1), n_documents=20, epochs=2, loss_fns={"a": loss, "b": loss}
        )
    )


def test_planted_rebounds_are_found_one_a_sequence(study: Study) -> None:
    arm = collect_arms(study)[0]
    records = arm.runs[0].records("validation")
    planted = {at: rise for at, rise in PLANTED.items() if records.predicted[at]}
    assert len(planted) == 3, "the planted tokens are predicted ones"
    found = rebounding_tokens(arm)
    assert list(zip(found.sequence.tolist(), found.position.tolist(), strict=True)) == [(1, 7), (0, 5)]
    np.testing.assert_allclose(found.loss, [[5, 5], [4, 4], [8, 6]])
    n = int(records.predicted.sum())
    assert found.note.startswith(
        f"a: 3 of {n:,} tokens ({3 / n:.1%}) rebounded by more than 0.2 nats in each of 2 seeds"
    )
    assert found.note.endswith(f"agree on {(3 / n) ** 2:.1%}.")
    assert found.token == (records.token_text(1, 7), records.token_text(0, 5))
    assert found.before[0].endswith(records.token_text(1, 6)) and found.after[0].startswith(records.token_text(1, 8))
    frame = found.to_frame()
    assert list(frame.columns) == ["arm", "sequence", "position", "token", "epoch", "loss"] and len(frame) == 6
    assert frame.loss[(frame.sequence == 1) & (frame.epoch == 2)].item() == 8.0
    assert "8.0" in repr(found) and "<mark>" in found._repr_html_()
    assert len(rebounding_tokens(arm, n=1)) == 1


def test_the_rise_is_the_least_of_all_seeds(tmp_path: Path) -> None:
    """Noise of each seed's own: the order is that of the least rise, and a token must rebound in both."""

    def noisy(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        return np.asarray(5.0 - (epoch == 1) + rng.normal(0.0, 0.5, entropy.shape))

    study = open_study(
        make_study(tmp_path / "s", arms={"a": {}}, seeds=(0, 1), n_documents=20, epochs=2, loss_fn=noisy)
    )
    arm = collect_arms(study)[0]
    rises, kept = [], []
    for run in arm.runs:
        records = run.records("validation")
        losses = np.stack([records.loss(epoch) for epoch in (0, 1, 2)])
        rises.append(losses[2] - losses.min(axis=0))
        kept.append((losses[0] - losses.min(axis=0) > 0.2) & (rises[-1] > 0.2))
    least = np.where(kept[0] & kept[1], np.minimum(*rises), -np.inf)
    best = [(row, int(at)) for row, at in enumerate(least.argmax(axis=1)) if least[row, at] > 0]
    best.sort(key=lambda place: -least[place])
    found = rebounding_tokens(arm)
    assert list(zip(found.sequence.tolist(), found.position.tolist(), strict=True)) == best[:15] and len(best) > 2


def test_an_empty_list_says_so(study: Study, tmp_path: Path) -> None:
    found = forgotten_tokens(collect_arms(study)[0])
    records = [run.records("validation") for run in collect_arms(study)[0].runs]
    lost = np.all([r.correct(0) & ~r.correct(2) & r.predicted for r in records], axis=0)
    assert f"{int(lost.sum()):,} no longer are at epoch 2 in each of 2 seeds" in found.note
    for row, at in zip(found.sequence, found.position, strict=True):
        assert lost[row, at]


def test_what_cannot_be_listed_is_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tokens are listed for one arm, and there are a, b"):
        rebounding_tokens(study)
    short = open_study(make_study(tmp_path / "short", arms={"a": {}}, seeds=(0,), n_documents=20, epochs=[0]))
    with pytest.raises(InputError, match="one epoch alone"):
        rebounding_tokens(short)
    summarize_study(study, tmp_path / "summary")
    with pytest.raises(InputError, match="keeps no tokens|sums by document|no tokens"):
        rebounding_tokens(collect_arms(open_summary(tmp_path / "summary"))[0])


def test_the_passage_that_rose_most_since_the_best_epoch(study: Study) -> None:
    arm = collect_arms(study)[0]
    records = arm.runs[0].records("validation")
    found = rebounding_passage(arm)
    # Sequence 1 has planted rises of 4 and 3 nats since epoch 1, sequence 0 of 2.
    assert found.tokens == tuple(records.token_texts(1))
    expected = np.where(records.predicted[1], 0.0, np.nan)
    expected[[7, 9]] = 4.0, 3.0
    np.testing.assert_array_equal(found.values, expected)
    assert found.note.startswith(f"a, validation, sequence {records.sequence_id[1]}: change of the loss from epoch 1")
    assert found.note in repr(found) and "<p>a, validation" in found._repr_html_()
