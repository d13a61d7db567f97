"""Is the fused head on, in bfloat16, through each door?

The head steps aside where it does not know a model's logits, and then whole logits are used: right, but neither fast
nor small. It must not step aside on CUDA, in bfloat16, for models as people train them. So each door trains a small
Qwen3 for some steps and records it, while it is watched which way every pass over a batch took. `attach` and
`LoopRecorder` leave the training loss to whom it belongs, which makes whole logits; there the recordings alone must be
fused. The text is easy, so that the loss must fall.
"""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import PrinterCallback, Trainer

from benchmarks.gpu.head_watch import HeadWatch
from benchmarks.gpu.protocol import Check, Found, Where, at_most, holds
from benchmarks.trainings import CHECKPOINTING, arguments, qwen3, release
from dynamics import DynamicsTrainer, LoopRecorder, TokenRecorder, attach, open_run
from dynamics.ops.token_statistics import IGNORE_INDEX
from dynamics.recipe.settings import Recipe
from dynamics.records.check import check_run
from dynamics.reporting import Reporter
from dynamics.training import recipe_run
from dynamics.training.preparation import prepare as preparation
from dynamics.training.pretraining import prepare_recipe
from dynamics.validation import validated

_RATE = 3e-3


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large models and data are."""

    vocabulary: int
    batch: int
    block: int
    steps: int
    layers: int
    documents: int


FULL = Scale(vocabulary=151_936, batch=8, block=256, steps=12, layers=4, documents=96)
TINY = Scale(vocabulary=2048, batch=4, block=32, steps=4, layers=1, documents=8)

_WORDS = "north wind sun argue who strong cloak warm cold road traveller came along wrapped agreed first make take off"


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one door did: its watched passes, the losses at the beginning and the end in nats, and its run, if any."""

    watch: HeadWatch
    before: float
    after: float
    run: Path | None


def run(where: Where) -> Found:
    """Train through every door."""
    scale = TINY if where.tiny else FULL
    measured: dict[str, Any] = {}
    checks: list[Check] = []
    with (
        tempfile.TemporaryDirectory() as temporary,
        mock.patch.dict(os.environ, DYNAMICS_CACHE=str(Path(temporary) / "cache")),
        mock.patch.object(preparation, "_last", None),
    ):
        for name, door in DOORS.items():
            start = time.perf_counter()
            seen = door(where, scale, Path(temporary) / name.replace(" ", "-"))
            measured[name] = {**told(seen), "seconds": time.perf_counter() - start}
            checks += judged(name, seen, where)
            release()
    return Found(measured, checks)


def told(seen: Seen) -> dict[str, Any]:
    """Return what was seen, as JSON takes it."""
    return {
        "passes fused": dict(seen.watch.fused),
        "passes with whole logits": dict(seen.watch.whole),
        "types of the products": {phase: sorted(types) for phase, types in seen.watch.types.items()},
        "loss before, nats": seen.before,
        "loss after, nats": seen.after,
    }


def judged(name: str, seen: Seen, where: Where) -> list[Check]:
    """Say whether a door's head was on, in bfloat16, and what came of it."""
    # In these two the training loss is not ours; and a reference pass on a CPU is float32.
    ours = {"training", "measuring"} - ({"training"} if name in ("attach", "plain loop") else set())
    in_bfloat16 = ours - ({"measuring"} if name == "pretraining" and where.device == "cpu" else set())
    watch = seen.watch
    whole = sum(watch.whole[phase] for phase in ours)
    types = set().union(*(watch.types.get(phase, set()) for phase in in_bfloat16))
    falls = math.isfinite(seen.after) and seen.after < seen.before - 0.1
    checks = [
        holds(f"{name}: the fused head is on", all(watch.fused[phase] for phase in ours)),
        at_most(f"{name}: passes of ours that made whole logits", whole, 0),
        holds(f"{name}: type of the products", ", ".join(sorted(types)) or "none", types == {"bfloat16"}),
        holds(f"{name}: the loss falls", f"{seen.before:.2f} to {seen.after:.2f} nats", falls),
    ]
    if seen.run is not None:
        report = check_run(seen.run)
        whole_run = report.ok and open_run(seen.run).complete
        said = "; ".join(map(str, report.problems)) or ("nothing" if whole_run else "that it is not complete")
        checks.append(holds(f"{name}: what dynamics check finds", said, whole_run))
    return checks


# The doors. --------------------------------------------------------------------------------------


def pretraining(where: Where, scale: Scale, folder: Path) -> Seen:
    """A recipe's starting model, trained before the run; its reference pass comes along."""
    with HeadWatch(scale.block) as watch:
        prepare_recipe(_recipe(where, scale, folder.parent), Reporter.silent())
    losses = watch.training_losses or [math.nan]
    return Seen(watch, losses[0], losses[-1], None)


def recipe(where: Where, scale: Scale, folder: Path) -> Seen:
    """`dynamics train`, on the starting model that `pretraining` left in the cache; bfloat16 on CUDA by itself."""
    with HeadWatch(scale.block) as watch:
        recipe_run.train(_recipe(where, scale, folder.parent), folder, reporter=Reporter.silent())
    return _recorded(watch, folder)


def _recipe(where: Where, scale: Scale, folder: Path) -> Recipe:
    cpu: dict[str, Any] = {"use_cpu": True, "bf16": True} if where.device == "cpu" else {}
    training = {"learning_rate": _RATE, "per_device_train_batch_size": scale.batch, **cpu}
    fields = {
        "name": "doors",
        "corpus": _texts(folder / "domain", scale.documents, seed=0),
        "tokenizer": {"train": {"vocab_size": 300}},
        "model": {"name": "nano"},
        "base": {"corpus": _texts(folder / "base", scale.documents, seed=1), "training": training},
        "block_size": scale.block,
        "regularizers": [{"name": "entrodrop", "ratio": 0.15}],
        "recording": {"train_sequences": 16, "validation_sequences": 16, "training_pass": True},
        "training": {**training, "num_train_epochs": 2},
    }
    return validated(Recipe, fields, where="doors")


def _texts(folder: Path, n: int, *, seed: int) -> str:
    """Write documents of 60 words into a folder, once, and return it."""
    rng = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    for at in range(n):
        (folder / f"{at}.txt").write_text(" ".join(rng.choice(_WORDS.split(), size=60)))
    return str(folder)


def through_trainer(
    *, attached: bool = False, weights: torch.dtype = torch.float32, **given: Any
) -> Callable[[Where, Scale, Path], Seen]:
    """Return a door: DynamicsTrainer, or a plain Trainer that is attached to, with more arguments."""

    def door(where: Where, scale: Scale, folder: Path) -> Seen:
        model = qwen3("nano", scale.vocabulary, device=where.device, dtype=weights, num_hidden_layers=scale.layers)
        autocast = weights == torch.float32
        args = arguments(folder, scale.batch, where.device, bf16=autocast, learning_rate=_RATE, **given)
        recorder = TokenRecorder(folder / "run", training_pass=not attached)
        kind = Trainer if attached else DynamicsTrainer
        parts: dict[str, Any] = {} if attached else {"recorder": recorder}
        trainer = kind(model, args, train_dataset=easy(scale), **parts)
        trainer.remove_callback(PrinterCallback)
        if attached:
            attach(trainer, recorder)
        with HeadWatch(scale.block) as watch:
            trainer.train()
        return _recorded(watch, folder / "run")

    return door


def plain_loop(where: Where, scale: Scale, folder: Path) -> Seen:
    """A loop of one's own under autocast, without accelerate."""
    model = qwen3("nano", scale.vocabulary, device=where.device, num_hidden_layers=scale.layers)
    model.train()
    rows = easy(scale)
    batches = [
        {key: torch.stack([row[key] for row in rows[at : at + scale.batch]]).to(where.device) for key in rows[0]}
        for at in range(0, len(rows), scale.batch)
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE)
    with HeadWatch(scale.block) as watch, LoopRecorder(TokenRecorder(folder / "run")) as recorder:
        recorder.begin(model, train=batches, total_steps=len(batches), dtype=torch.bfloat16)
        for given in batches:
            with recorder.batch(given) as batch, torch.autocast(where.device, torch.bfloat16):
                loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            recorder.step()
        recorder.epoch()
        recorder.finish()
    return _recorded(watch, folder / "run")


DOORS: dict[str, Callable[[Where, Scale, Path], Seen]] = {
    "pretraining": pretraining,
    "recipe": recipe,
    "DynamicsTrainer": through_trainer(),
    "attach": through_trainer(attached=True),
    "plain loop": plain_loop,
    "bfloat16 weights": through_trainer(weights=torch.bfloat16),
    "activation checkpointing": through_trainer(**{CHECKPOINTING: True}),
}


def easy(scale: Scale) -> list[dict[str, torch.Tensor]]:
    """Return examples that count upwards through a few tokens, from different ones."""
    first = torch.arange(scale.batch * scale.steps)[:, None]
    ids = (first + torch.arange(scale.block)) % min(1000, scale.vocabulary)
    labels = ids.clone()
    labels[:, 0] = IGNORE_INDEX
    return [{"input_ids": one, "labels": label} for one, label in zip(ids, labels, strict=True)]


def _recorded(watch: HeadWatch, folder: Path) -> Seen:
    """Take the losses from the records: means over the training set before and after."""
    found = open_run(folder)
    records = found.records("train")
    before, after = (float(np.nanmean(records.loss(epoch), dtype=np.float64)) for epoch in (0, found.epochs[-1]))
    return Seen(watch, before, after, folder)
