"""A loop of one's own, as people write it, with a LoopRecorder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from dynamics import LoopRecorder, TokenRecorder
from support.doors.setting import Example, Load, Setting, Training
from support.models import Padder


def batches_of(examples: Sequence[Example], size: int) -> list[dict[str, torch.Tensor]]:
    """Examples padded to batches, in their order."""
    return [Padder()(list(examples[at : at + size])) for at in range(0, len(examples), size)]


def order_of(training: Training, examples: Sequence[Example], epoch: int) -> list[Example]:
    """A pass of a loop: shuffled, or by length."""
    if training.grouped:
        return sorted(examples, key=lambda one: -len(one["input_ids"]))
    generator = torch.Generator().manual_seed(100 * training.seed + epoch)
    return [examples[at] for at in torch.randperm(len(examples), generator=generator).tolist()]


def windows(training: Training, examples: Sequence[Example], epoch: int) -> list[list[dict[str, torch.Tensor]]]:
    """The optimiser steps of a pass, each of some micro-batches."""
    order = order_of(training, examples, epoch)
    if dist.is_initialized():
        # As DistributedSampler does: the same number for each, though one comes twice.
        world = dist.get_world_size()
        order = (order + order[: -len(order) % world])[dist.get_rank() :: world]
    batches = batches_of(order, training.batch)
    if training.drop_last and len(batches[-1]["input_ids"]) < training.batch:
        batches = batches[:-1]
    return [batches[at : at + training.accumulation] for at in range(0, len(batches), training.accumulation)]


def steps_of(training: Training, examples: Sequence[Example]) -> Iterator[tuple[int, list[Any], bool]]:
    """The pass, the micro-batches and whether the pass ends, of each optimiser step of a training."""
    per_pass = len(windows(training, examples, 1))
    total = training.steps or math.ceil(training.epochs * per_pass)
    for step in range(total):
        epoch, within = divmod(step, per_pass)
        yield epoch + 1, windows(training, examples, epoch + 1)[within], within == per_pass - 1


def save(file: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A checkpoint as one writes it oneself."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}
    torch.save(state, file)


def restore(file: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """What `save` wrote."""
    state = torch.load(file, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])


def one_step(
    model: Any,
    recorder: LoopRecorder,
    optimizer: torch.optim.Optimizer,
    window: list[Any],
    training: Training,
    *,
    stops: bool = False,
) -> None:
    """An optimiser step as one writes it; or half of one, where somebody `stops` it."""
    n_tokens, world = torch.stack([(one["labels"][:, 1:] != -100).sum() for one in window]).sum(), 1
    if dist.is_initialized():
        # DDP takes the mean of the processes' gradients.
        world = dist.get_world_size()
        dist.all_reduce(n_tokens)
    for batch in window:
        with recorder.batch(batch) as left, torch.autocast("cpu", training.dtype, enabled=training.bf16):
            outputs = model(**left)
            mean = outputs.loss
            if training.smoothing:
                logits, targets = outputs.logits[:, :-1].flatten(0, 1), left["labels"][:, 1:].flatten()
                mean = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=training.smoothing)
            if stops:
                raise KeyboardInterrupt
        (mean * world * (left["labels"][:, 1:] != -100).sum() / n_tokens).backward()
    optimizer.step()
    optimizer.zero_grad()
    recorder.step(learning_rate=optimizer.param_groups[0]["lr"])


def train_plain(setting: Setting, folder: Path, training: Training) -> torch.nn.Module:
    """Train, save the weights after each epoch as ``weights-EPOCH.pt``, and return the model."""
    inner = (training.wrap or (lambda model: model))(setting.fresh())
    model: Any = torch.compile(inner, backend="aot_eager") if training.compiled else inner
    if dist.is_initialized():
        model = DistributedDataParallel(model)
    rows = (training.rows or list)(setting.train)
    given: Any = DataLoader(rows, collate_fn=Padder()) if training.endless else batches_of(list(rows), 4)
    examples = setting.train
    steps = list(steps_of(training, examples))
    kind = torch.optim.SGD if training.sgd else torch.optim.AdamW
    optimizer = kind([p for p in model.parameters() if p.requires_grad], lr=training.rate)
    checkpoint = folder / "checkpoint"

    def keep(epoch: int) -> None:
        if not (dist.is_initialized() and dist.get_rank()):
            torch.save(inner.state_dict(), folder / f"weights-{epoch}.pt")

    with LoopRecorder(TokenRecorder(folder / "run", dtype="float32", batch_size=4), *training.methods()) as recorder:
        if training.resume:
            restore(checkpoint / "state.pt", inner, optimizer)
        done = recorder.begin(
            model,
            train=given,
            validation=batches_of(setting.validation, 4),
            total_steps=len(steps),
            seed=training.seed,
            dtype=training.dtype,
            settings={"learning_rate": training.rate, "batch_size": training.batch},
            resume_from=checkpoint if training.resume else None,
        )
        if not done:
            keep(0)
        for at, (epoch, window, ends) in enumerate(steps[done:], start=done + 1):
            one_step(model, recorder, optimizer, window, training, stops=at == training.stop_at)
            if ends:
                recorder.epoch()
                keep(epoch)
            if at == training.save_at:
                recorder.save(checkpoint)
                save(checkpoint / "state.pt", inner, optimizer)
        keep(steps[-1][0])
        recorder.finish()
    return inner


def loader(setting: Setting, training: Training) -> Load:
    """Bring weights that a loop saved."""

    def load(file: Path) -> torch.nn.Module:
        found = (training.wrap or (lambda model: model))(setting.fresh())
        found.load_state_dict(torch.load(file, weights_only=True))
        return found.double().eval()

    return load
