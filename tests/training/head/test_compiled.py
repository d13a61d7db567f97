"""torch.compile and the fused head: the decoder is compiled, once, and the answers are the same."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from accelerate.utils import compile_regions
from support.models import N_VOCAB, Padder, build, examples
from torch import nn
from transformers import TrainingArguments

from dynamics import DynamicsTrainer
from dynamics.training.head.compiled import not_compilable, requests_past_compilation
from dynamics.training.head.fused_head import HeadRequest, fused_head

IDS = torch.randint(3, N_VOCAB, (3, 12), generator=torch.Generator().manual_seed(0))
LABELS = IDS.clone()
LABELS[:, 0] = -100

# torch's own: it deprecates what its compiler uses.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:The .grad attribute"
)


class Backend:
    """Runs graphs as they are and counts how often each kind of thing is asked of it."""

    def __init__(self):
        self.compiled = 0
        self.run = 0
        self.products = 0

    def __call__(self, graph, example_inputs):
        self.compiled += 1
        self.products = sum("linear" in str(node.target) for node in graph.graph.nodes)

        def forward(*args):
            self.run += 1
            return graph.forward(*args)

        return forward


@pytest.fixture(autouse=True)
def _afresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_a_request_runs_the_decoder_compiled_and_gives_the_same():
    plain = build()
    with fused_head(plain):
        expected = plain(input_ids=IDS, head_request=HeadRequest(labels=LABELS))
        expected.total_loss.backward()
    backend = Backend()
    inner = build()
    model = torch.compile(inner, backend=backend)
    outer = model.forward
    with fused_head(model) as fused:
        assert fused and backend.compiled == 0, "a check compiles nothing"
        for at in range(3):
            model.zero_grad()
            found = model(input_ids=IDS, head_request=HeadRequest(labels=LABELS))
            found.total_loss.backward()
            assert (backend.compiled, backend.run) == (1, at + 1)
    torch.testing.assert_close(found.token_loss, expected.token_loss, equal_nan=True)
    for mine, theirs in zip(inner.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    # All of the decoder's products: 7 a layer, and not the head's.
    assert backend.products == 14
    assert model.forward == outer and inner.model._compiled_call_impl is None and "forward" not in vars(inner)
    with fused_head(model):
        model(input_ids=IDS, head_request=HeadRequest(labels=LABELS))
    assert backend.compiled == 1, "a context entered again uses what was compiled"


def test_a_call_without_a_request_is_compiled_as_before():
    backend = Backend()
    model = torch.compile(build().eval(), backend=backend)
    expected = build().eval()(input_ids=IDS).logits
    with fused_head(model):
        torch.testing.assert_close(model(input_ids=IDS).logits, expected)
    assert backend.run >= 1


def test_a_model_compiled_in_place_says_why_it_is_not_fused(caplog):
    model = build()
    model.compile(backend=Backend())
    with caplog.at_level(logging.WARNING, logger="dynamics"), fused_head(model) as fused:
        assert not fused
    assert "it is compiled in place with compile()" in caplog.text


def test_a_decoder_compiled_in_place_is_fused():
    model, backend = build(), Backend()
    model.model.compile(backend=backend)
    with fused_head(model) as fused:
        assert fused
        model(input_ids=IDS, head_request=HeadRequest(labels=LABELS))
    assert (backend.compiled, backend.run) == (1, 1)


def test_a_model_compiled_region_by_region_is_fused():
    plain, backend = build(), Backend()
    model = compile_regions(build(), backend=backend)
    with fused_head(plain), fused_head(model) as fused:
        assert fused and backend.compiled == 0
        expected = plain(input_ids=IDS, head_request=HeadRequest(labels=LABELS)).token_loss
        found = model(input_ids=IDS, head_request=HeadRequest(labels=LABELS)).token_loss
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert backend.run >= 2


def test_a_compiled_model_without_a_known_decoder_is_not_fused():
    class Bare(nn.Module):
        def forward(self, x):
            return x

    bare = Bare()
    compiled = torch.compile(bare, backend=Backend())
    assert not_compilable([compiled, bare], bare) == "it is compiled and its decoder is unknown"
    assert not_compilable([bare], bare) is None
    with requests_past_compilation([bare], bare):
        pass


def test_the_trainers_torch_compile_compiles_the_decoder(tmp_path, monkeypatch):
    backend = Backend()
    # accelerate knows some backends by name alone.
    torch._dynamo.list_backends()
    monkeypatch.setitem(torch._dynamo.backends.registry._COMPILER_FNS, "eager", backend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = TrainingArguments(
            str(tmp_path),
            num_train_epochs=2,
            per_device_train_batch_size=4,
            max_grad_norm=0.0,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
            torch_compile=True,
            torch_compile_backend="eager",
        )
    data = examples(lowest=10, highest=10)
    trainer = DynamicsTrainer(build(), args, Padder(), train_dataset=data)
    asked = []
    trainer.model.register_forward_pre_hook(
        lambda module, args, kwargs: asked.append("head_request" in kwargs), with_kwargs=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train()
    assert asked.count(True) >= 4 and backend.run >= 4 and 1 <= backend.compiled <= 3 and backend.products == 14
