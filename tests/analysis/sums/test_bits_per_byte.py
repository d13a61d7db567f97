from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.synthetic import make_run, make_study

from dynamics.analysis.intervals.contributions import curve_contributions
from dynamics.analysis.sums.arms import Arm, collect_arms, reference_buckets
from dynamics.analysis.sums.bits_per_byte import bits_per_byte_sums
from dynamics.analysis.sums.curves import mean_curve
from dynamics.analysis.sums.ensembles import ensemble
from dynamics.analysis.tokens.buckets import moving_buckets
from dynamics.analysis.tokens.groups import own_groups
from dynamics.errors import InputError
from dynamics.records.reader import Study, open_run, open_study


def by_seed(epoch: int, split: str, entropy: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    return np.asarray(entropy + rng.random(entropy.shape))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    path = tmp_path_factory.mktemp("bytes") / "study"
    return open_study(make_study(path, n_documents=30, epochs=2, loss_fns={"baseline": by_seed}))


def definition(records: Any, epoch: int, chosen: np.ndarray[Any, Any]) -> float:
    """The number as it is defined, from what records hold by token."""
    loss = records.loss(epoch)[chosen].astype(np.float64).sum()
    return float(loss / (math.log(2) * (records.byte_end - records.byte_start)[chosen].sum()))


def test_the_definition_in_all_tokens_and_in_buckets(study: Study) -> None:
    arm = collect_arms(study)[0]
    whole = bits_per_byte_sums(arm, "validation")
    halves = reference_buckets([arm])
    split = bits_per_byte_sums(arm, "validation", buckets=halves)
    moving = moving_buckets(3, value="loss")
    moved = bits_per_byte_sums(arm, "validation", buckets=moving)
    assert len(whole) == len(split) == len(moved) == 2
    for s, run in enumerate(arm.runs):
        records = run.records("validation")
        of = halves.index(records)
        for e in range(3):
            expected = definition(records, e, records.predicted)
            assert mean_curve(whole[s])[e, 0] == pytest.approx(expected, rel=1e-12)
            expected = [definition(records, e, records.predicted & (of == k)) for k in range(2)]
            assert mean_curve(split[s])[e] == pytest.approx(expected, rel=1e-12)
            now = moving.index(records, e)
            expected = [definition(records, e, now == k) for k in range(3)]
            assert mean_curve(moved[s])[e] == pytest.approx(expected, rel=1e-12)
    assert mean_curve(whole[0])[2, 0] != mean_curve(whole[1])[2, 0]


def test_an_ensemble_has_the_bytes_of_its_members(study: Study) -> None:
    arm = collect_arms(study)[0]
    (part,) = bits_per_byte_sums(ensemble(arm), "validation")
    records = [run.records("validation") for run in arm.runs]
    here = records[0].predicted
    loss = -np.log(np.mean([np.exp(-each.loss(1)[here].astype(float)) for each in records], axis=0))
    n_bytes = (records[0].byte_end - records[0].byte_start)[here].sum()
    assert mean_curve(part)[1, 0] == pytest.approx(loss.sum() / math.log(2) / n_bytes, rel=1e-12)


def test_a_document_is_left_out_with_its_bytes(study: Study) -> None:
    (part, _) = bits_per_byte_sums(collect_arms(study)[0], "validation")
    sums, counts = part.sums[:, :, 0], part.counts[:, 0]
    without = [np.delete(sums, d, 1).sum(axis=1) / np.delete(counts, d).sum() for d in range(part.n_documents)]
    contributions = curve_contributions([part])
    left_out = contributions.estimate[:, 0] - contributions.documents[:, :, 0]
    np.testing.assert_allclose(left_out, without, rtol=1e-12)


def test_a_bucket_without_a_byte_is_nan_and_a_nan_loss_too(tmp_path: Path) -> None:
    def diverged(epoch: int, split: str, entropy: Any, rng: Any) -> Any:
        return entropy * np.nan if epoch == 1 else entropy

    run = open_run(make_run(tmp_path / "run", epochs=1, loss_fn=diverged))
    arm, records = Arm("one", [run]), run.records("validation")
    end = np.where(records.byte_end > records.byte_start, "text", "end")
    groups = own_groups("text", {"validation": end}, order=["text", "end", "nothing"])
    curve = mean_curve(bits_per_byte_sums(arm, "validation", buckets=groups)[0])
    assert np.isnan(curve).tolist() == [[False, True, True], [True, True, True]]
    # The end of text counts among the losses: without its bytes, but with it.
    both = mean_curve(bits_per_byte_sums(arm, "validation")[0])[0, 0]
    assert both > curve[0, 0]
    assert both == pytest.approx(definition(records, 0, records.predicted), rel=1e-12)


def test_unknown_bytes_are_refused(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "run", epochs=1))
    run.manifest["token_text"] = {"spelled_as": "numbers", "special_ids": []}
    with pytest.raises(InputError, match="without a tokenizer"):
        bits_per_byte_sums(Arm("one", [run]), "validation")
