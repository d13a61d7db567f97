"""Each door's head is on, and a head that is not is told."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from support.steps import TINY, by_what

from benchmarks.gpu.steps import doors
from dynamics.training.driving import trainer_callback
from dynamics.training.loop import clean_pass

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    # torch's own: it deprecates what its compiler uses.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


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
