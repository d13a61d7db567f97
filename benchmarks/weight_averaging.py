"""What a mean of the weights costs beside a training step: `python -m benchmarks.weight_averaging`.

A step (forward, backward, AdamW), the update of the mean, and the exchange of weights around a recording, in turn in
one process and on one thread, by processor time. The bytes are what tensors hold.
"""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any, cast

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from benchmarks import timing
from dynamics import WeightAveraging
from dynamics.recipe.named_sizes import NAMED_SIZES

N_ROUNDS, BLOCK, BATCH, N_VOCAB = 9, 128, 16, 2048
MODELS = ("nano", "micro", "mini")


def costs(size: str) -> dict[str, Any]:
    """Return the seconds of each part, and the bytes of the mean and of the exchange a weight."""
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**dict(NAMED_SIZES[size]), vocab_size=N_VOCAB, use_cache=False))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(0, N_VOCAB, (BATCH, BLOCK))
    method = WeightAveraging()
    method.attach(model)
    method.begin_batch(cast(Any, SimpleNamespace(progress=0.5)))

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def exchange() -> None:
        with method.averaged():
            pass

    parts = {"step": step, "update": method.end_step, "exchange": exchange}
    seconds = timing.interleaved(parts, N_ROUNDS, time.thread_time)
    n_weights = sum(weight.numel() for weight in model.parameters())
    held = sum(mean.nbytes for mean in method.tensors().values())
    return {
        "weights": n_weights,
        "bytes_a_weight": held / n_weights,
        "seconds": {name: timing.spread(values) for name, values in seconds.items()},
        "ratio_to_step": timing.ratios(seconds, "step"),
    }


def main() -> None:
    torch.set_num_threads(1)
    result = {
        "hardware": timing.hardware("cpu"),
        "batch": [BATCH, BLOCK],
        "rounds": N_ROUNDS,
        "models": {size: costs(size) for size in MODELS},
    }
    print(json.dumps(result, indent=2))
    timing.write("weight_averaging", result)


if __name__ == "__main__":
    main()
