"""Each door's head is on, and a head that is not is told."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from support.steps import TINY, by_what, measured_and_checks

from benchmarks.gpu.steps import compiled, doors
from dynamics.training.driving import trainer_callback
from dynamics.training.loop import clean_pass

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    # torch's own: it deprecates what its compiler uses.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def test_all_doors_are_on():
    measured, checks = measured_and_checks(doors)
    assert list(measured) == list(doors.DOORS) and len(measured) == 7
    assert [check for check in checks if not check.met] == []
    # One pass a step, and none by whole logits; but for those whose loss is their own.
    assert measured["DynamicsTrainer"]["passes fused"]["training"] == doors.TINY.steps
    assert measured["DynamicsTrainer"]["passes with whole logits"] == {}
    assert measured["attach"]["passes fused"].keys() == {"measuring"}
    assert measured["attach"]["passes with whole logits"] == {"training": doors.TINY.steps}


def test_a_compiled_model_is_on():
    measured, checks = measured_and_checks(compiled)
    assert [check for check in checks if not check.met] == []
    assert measured["graphs"] >= 2  # the decoder's, for measuring and for training


@pytest.mark.parametrize("where", [trainer_callback, clean_pass])
def test_a_head_that_steps_aside_is_told(tmp_path, monkeypatch, where):
    """In training, or in measuring alone: all else is as it was."""

    @contextmanager
    def aside(model, **given):
        yield False

    monkeypatch.setattr(where, "fused_head", aside)
    seen = doors.DOORS["DynamicsTrainer"](TINY, doors.TINY, tmp_path)
    found = by_what(doors.judged("DynamicsTrainer", seen, TINY))
    assert {what.partition(": ")[2] for what, check in found.items() if not check.met} == {
        "the fused head is on",
        "passes of ours that made whole logits",
    }


def test_products_in_another_type_are_told(tmp_path):
    seen = doors.through_trainer()(TINY, doors.TINY, tmp_path)
    seen.watch.types["training"] = {"float32"}
    (check,) = [check for check in doors.judged("DynamicsTrainer", seen, TINY) if not check.met]
    assert check.what == "DynamicsTrainer: type of the products" and check.value == "bfloat16, float32"
