"""A whole training step, and an epoch's recording, against transformers' own.

    python -m benchmarks.step --threads 1
    python -m benchmarks.step --threads 1 --quick    # a minute, into build/benchmarks: does it work?

- `step`: DynamicsTrainer (fused head, per-token statistics, metrics) over transformers.Trainer; the same model, batches
  and optimiser, from one step's end to the next one's. The head's products take the route that this machine chose
  (`dynamics.ops.routes`); `step, onednn` and `step, mm` are either one's, where there are two.
- `recording`: the clean pass after an epoch, files written and flushed, over a bare forward pass (logits, nothing done
  with them) on the same tokens.
- `epoch`: an epoch with recording of all training sequences and a quarter as many for validation, over one without.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import Trainer, TrainingArguments
from transformers.utils import logging as transformers_logging

from benchmarks import timing
from benchmarks.trainings import StepTimes, arguments, qwen3, sequences, wait
from dynamics import DynamicsTrainer, TokenRecorder
from dynamics.ops import routes
from dynamics.ops.products import has_onednn
from dynamics.recipe.named_sizes import NAMED_SIZES
from dynamics.training.loop.clean_pass import forward_context
from dynamics.training.recording.run_writer import RunWriter


def measure(size: str, vocabulary: int, given: argparse.Namespace, device: str) -> dict[str, Any]:
    shape: dict[str, Any] = dict(NAMED_SIZES[size])
    if given.layers:
        shape["num_hidden_layers"] = given.layers
    model = qwen3(size, vocabulary, **shape)
    train = sequences(given.batch * given.steps, given.block, vocabulary, 0)
    held_out = sequences(max(1, len(train) // 4), given.block, vocabulary, 1)
    where = torch.device(device)
    route = routes.head_route(shape["hidden_size"], vocabulary, torch.float32, where)
    either = routes.ROUTES if has_onednn(torch.float32, where) else (route,)
    times: dict[str, list[float]] = {}
    for round_ in range(given.rounds + 1):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            args = arguments(folder, given.batch, device, bf16=device == "cuda")
            kinds = ["plain", *either][:: 1 if round_ % 2 else -1]
            found = {kind: step_seconds(kind, copy.deepcopy(model), train, args) for kind in kinds}
            found["ours"] = found[route]
            found |= recording(copy.deepcopy(model), train, held_out, args, folder)
        if round_:  # the first warms up
            for name, seconds in found.items():
                times.setdefault(name, []).append(seconds)
    pairs = {"step": ("ours", "plain"), "recording": ("recording", "bare pass"), "epoch": ("with", "without")}
    pairs |= {f"step, {name}": (name, "plain") for name in either}
    return {
        "model": size,
        "layers": shape["num_hidden_layers"],
        "vocabulary": vocabulary,
        "route": route,
        "batch": [given.batch, given.block],
        "rounds": given.rounds,
        "seconds": {name: timing.spread(values) for name, values in times.items()},
        "ratios": {
            name: timing.spread([a / b for a, b in zip(times[one], times[other], strict=True)])
            for name, (one, other) in pairs.items()
        },
    }


def step_seconds(kind: str, model: Any, train: list[Any], args: TrainingArguments) -> float:
    """Seconds of a step: transformers' own for `plain`, otherwise ours by that route."""
    clock = StepTimes()
    if kind == "plain":
        Trainer(model, args=args, train_dataset=train, callbacks=[clock]).train()
    else:
        with routes.forced(kind):  # type: ignore[arg-type]
            DynamicsTrainer(model, args=args, train_dataset=train, callbacks=[clock]).train()
    return clock.median()


def recording(
    model: Any, train: list[Any], held_out: list[Any], args: TrainingArguments, folder: Path
) -> dict[str, float]:
    """Time an epoch without and with recording, and, within the latter, the recording alone; and a bare pass."""
    start = time.perf_counter()
    DynamicsTrainer(copy.deepcopy(model), args, train_dataset=train).train()
    without = time.perf_counter() - start
    recorder = TokenRecorder(folder / "run")
    spent: list[float] = []
    record = RunWriter.epoch

    def timed(*given: Any) -> Any:
        wait()
        begin = time.perf_counter()
        result = record(*given)
        spent.append(time.perf_counter() - begin)
        return result

    trainer = DynamicsTrainer(model, args, train_dataset=train, eval_dataset=held_out, recorder=recorder)
    with mock.patch.object(RunWriter, "epoch", timed):
        trainer.train()
    ids = torch.stack([one["input_ids"] for one in [*train, *held_out]]).to(trainer.args.device)
    trained = trainer.model.eval()
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    begin = time.perf_counter()
    with torch.no_grad(), forward_context(ids.device, dtype):
        for part in ids.split(args.per_device_eval_batch_size):
            trained(input_ids=part, use_cache=False)
    wait()
    bare = time.perf_counter() - begin
    shutil.rmtree(folder / "run")
    # With: training, and one recording more (that of epoch 0 belongs to the run, not to an epoch).
    return {"bare pass": bare, "recording": float(np.median(spent)), "without": without, "with": without + spent[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--block", type=int, default=128)
    parser.add_argument("--size", default="nano")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[4096, 32000])
    parser.add_argument("--quick", action="store_true", help="few rounds and steps, one vocabulary; no result to quote")
    parser.add_argument("--output", default=None, help="name of the result, step-DEVICE by default")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.steps, given.vocabulary = 2, 4, [4096]
    torch.set_num_threads(given.threads)
    transformers_logging.set_verbosity_error()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    hardware = timing.hardware(device, ("transformers",))
    print(hardware)
    cases = [measure(given.size, vocabulary, given, device) for vocabulary in given.vocabulary]
    for case in cases:
        shown = {name: f"{value['median']:.3f}" for name, value in case["ratios"].items()}
        print(case["model"], case["vocabulary"], "route", case["route"], shown)
    result = {"benchmark": "step", "hardware": hardware, "cases": cases, "routes": routes.chosen_routes()}
    print(timing.write(given.output or f"step-{device}", result, quick=given.quick))


if __name__ == "__main__":
    main()
