"""Tiny models of every architecture family, randomly initialised, and small data sets for them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoConfig,
    PhiConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

N_VOCAB = 64
PAD = 0
_SHAPE: dict[str, Any] = {
    "vocab_size": N_VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": False,
}

FAMILIES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**_SHAPE),
    "qwen2": Qwen2Config(**_SHAPE),
    "qwen3": Qwen3Config(**_SHAPE, head_dim=16, tie_word_embeddings=True),
    "mistral": MistralConfig(**_SHAPE),
    "gemma": GemmaConfig(**_SHAPE, head_dim=16),
    "gemma2": Gemma2Config(**_SHAPE, head_dim=16, final_logit_softcapping=5.0),
    "gemma3": Gemma3TextConfig(**_SHAPE, head_dim=16),
    "gpt_neox": GPTNeoXConfig(**_SHAPE),
    "gpt_neox-sequential": GPTNeoXConfig(**_SHAPE, use_parallel_residual=False),
    "olmo": OlmoConfig(**_SHAPE),
    "olmo2": Olmo2Config(**_SHAPE),
    "olmo3": Olmo3Config(**_SHAPE),
    "gpt2": GPT2Config(**_SHAPE, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0),
    "phi-with-bias": PhiConfig(**_SHAPE),
}


def build(name: str = "qwen3", **changes: Any) -> PreTrainedModel:
    """A model of a family, always with the same weights."""
    config = FAMILIES[name].from_dict({**FAMILIES[name].to_dict(), **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        # Larger than the initialisation makes them, so that predictions differ and soft caps bite.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(8.0)
    return model


def examples(n: int = 8, *, prompt: int = 0, seed: int = 0, lowest: int = 5, highest: int = 14) -> list[dict[str, Any]]:
    """Examples of different lengths; the first `prompt` tokens of each, and the first one always, have no label."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(n):
        length = int(torch.randint(lowest, highest + 1, (), generator=generator))
        ids = torch.randint(3, N_VOCAB, (length,), generator=generator).tolist()
        # A label at the first token would be predicted from padding, where a collator pads on the left.
        silent = min(max(prompt, 1), length)
        found.append({"input_ids": ids, "labels": [-100] * silent + ids[silent:]})
    return found


class Padder:
    """A collator that pads to the longest example of the batch."""

    def __init__(self, side: str = "right") -> None:
        self.side = side

    def __call__(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(len(example["input_ids"]) for example in batch)

        def pad(values: list[int], fill: int) -> list[int]:
            blank = [fill] * (width - len(values))
            return values + blank if self.side == "right" else blank + values

        ones = [[1] * len(example["input_ids"]) for example in batch]
        return {
            "input_ids": torch.tensor([pad(example["input_ids"], PAD) for example in batch]),
            "labels": torch.tensor([pad(example["labels"], -100) for example in batch]),
            "attention_mask": torch.tensor([pad(mask, 0) for mask in ones]),
        }
