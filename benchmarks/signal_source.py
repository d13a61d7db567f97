"""What each source of EntroDrop's signal costs a training step: `python -m benchmarks.signal_source`.

Steps of the same model on the same batches, with the signal of the reference, of the last epoch, and of the current
weights (one more forward pass), against no EntroDrop at all; interleaved in one process.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, TrainingArguments

from benchmarks import timing
from dynamics import DynamicsTrainer, EntroDrop, TokenRecorder
from dynamics.recipe.named_sizes import NAMED_SIZES

N_ROUNDS, N_SEQUENCES, BLOCK, BATCH = 7, 64, 128, 16
SOURCES = ("none", "reference", "previous_epoch", "current")


def seconds_per_step(source: str, folder: Path) -> float:
    """Train one epoch of 4 steps and return the median time of a step, recording left out."""
    config = Qwen3Config(**dict(NAMED_SIZES["nano"]), vocab_size=2048, use_cache=False)
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    ids = torch.randint(0, 2048, (N_SEQUENCES, BLOCK), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": row, "labels": row, "sequence_id": at} for at, row in enumerate(ids)]
    args = TrainingArguments(
        str(folder / "out"),
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    methods = [] if source == "none" else [EntroDrop(ratio=0.3, schedule="constant", source=source)]
    trainer = DynamicsTrainer(
        model, args, train_dataset=data, regularizers=methods, recorder=TokenRecorder(folder / "run")
    )
    step, times = trainer.training_step, []

    def timed(*arguments: object, **options: object) -> object:
        start = time.perf_counter()
        result = step(*arguments, **options)
        times.append(time.perf_counter() - start)
        return result

    trainer.training_step = timed
    trainer.train()
    return statistics.median(times)


def main() -> None:
    torch.set_num_threads(1)
    times: dict[str, list[float]] = {source: [] for source in SOURCES}
    for _ in range(N_ROUNDS):
        for source in SOURCES:
            with tempfile.TemporaryDirectory() as folder:
                times[source].append(seconds_per_step(source, Path(folder)))
    result = {
        "hardware": timing.hardware("cpu"),
        "model": "nano",
        "batch": [BATCH, BLOCK],
        "rounds": N_ROUNDS,
        "seconds_per_step": {source: timing.spread(values) for source, values in times.items()},
        "ratio_to_none": timing.ratios(times, "none"),
    }
    print(json.dumps(result, indent=2))
    timing.write("signal_source", result)


if __name__ == "__main__":
    main()
