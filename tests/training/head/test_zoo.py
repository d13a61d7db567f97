"""Architectures whose heads or decoders differ, as their values are recorded; all of them in acceptance/."""

from __future__ import annotations

import pytest
import transformers

from benchmarks.zoo import BF16_TOLERANCE, FLOAT32_TOLERANCE, examine, page
from benchmarks.zoo_models import architectures

# A scale, a cap, a bias, a projection before the head, several kinds of layers, a reader of bytes or of two sides.
SOME = [
    *("bamba", "bloom", "cohere2", "deepseek_v3", "falcon_h1", "gemma3n_text", "gpt2", "gptj", "granite", "llama"),
    *("mamba", "minicpm3", "modernbert-decoder", "mpt", "nemotron", "opt", "qwen3_next", "recurrent_gemma", "roberta"),
    *("rwkv", "xglm", "xlnet"),
]


@pytest.fixture(autouse=True)
def _quiet():
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(before)


@pytest.mark.parametrize("model_type", SOME)
def test_recorded_values_are_those_of_the_models_own_logits(model_type):
    found = examine(model_type)
    assert found.built and found.fused, found.reason
    assert found.errors["float32"] <= FLOAT32_TOLERANCE
    assert found.errors["bfloat16"] <= BF16_TOLERANCE
    # Grown, or held down by a soft cap.
    assert 10 < found.largest_logit < 40


def test_a_head_that_is_called_for_several_tokens_at_once_is_recorded_from_logits():
    found = examine("prophetnet")
    assert not found.fused and "its head returns (3, 2, 16, 96)" in found.reason
    assert found.errors["float32"] <= FLOAT32_TOLERANCE


def test_the_page_has_a_row_for_each():
    found = [examine("llama"), examine("musicgen")]
    text = page(found)
    assert "| llama | LlamaForCausalLM | " in text and "- `musicgen`: " in text
    assert len(architectures()) > 100
