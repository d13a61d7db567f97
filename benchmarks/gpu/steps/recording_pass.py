"""What recording an epoch costs, against a bare forward pass over the same tokens, at Qwen3-0.6B's shape.

A recording is a forward pass over every sequence, with loss, entropy and correctness of each token, and the files that
these become, written and flushed. The forward pass cannot be avoided; the rest should cost next to nothing. The bare
pass makes logits and does nothing with them. Both run in bfloat16 under autocast, take turns, and see the same batches.
What a recording takes is split into computing and files.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks import timing
from benchmarks.gpu.protocol import Found, Where, holds, speed
from benchmarks.trainings import qwen3, wait
from dynamics.corpus.packing import PackedSplit
from dynamics.records.check import check_run
from dynamics.training.loop.clean_pass import TokenValues, forward_context
from dynamics.training.loop.training_pass import Moment, TrainingPass
from dynamics.training.recording import epoch_recorder
from dynamics.training.recording.run_writer import RunPlan, RunWriter


@dataclasses.dataclass(frozen=True)
class Scale:
    """The model, its sequences and the rounds."""

    size: str
    vocabulary: int
    sequences: int
    block: int
    batch: int
    rounds: int
    changes: dict[str, Any]


_FULL = Scale("qwen3-0.6b", 151_936, sequences=256, block=1024, batch=8, rounds=5, changes={})
_TINY = Scale("nano", 512, sequences=16, block=32, batch=4, rounds=2, changes={"num_hidden_layers": 1})


def run(where: Where) -> Found:
    """Time recordings and bare passes in turns."""
    scale = _TINY if where.tiny else _FULL
    model = qwen3(scale.size, scale.vocabulary, device=where.device, **scale.changes).eval()
    packed = random_split(scale)
    ids = torch.from_numpy(packed.token_id.astype(np.int64)).to(where.device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        recordings = Recordings(folder, packed, scale, where)
        calls: dict[str, Callable[[], Any]] = {
            "recording": lambda: recordings.one(model),
            "bare pass": lambda: bare_pass(model, ids, scale.batch),
        }
        seconds = timing.interleaved(calls, scale.rounds)
        recordings.writer.complete()
        report = check_run(folder)
        written = sum(path.stat().st_size for path in (folder / "epochs" / "epoch-0000").iterdir())
    ratio = timing.ratios(seconds, "bare pass")["recording"]
    computing = statistics.median(recordings.computing[1:])  # the first warms up
    recording = statistics.median(seconds["recording"])
    measured = {
        "model": scale.size,
        "tokens": packed.token_id.size,
        "batch": [scale.batch, scale.block],
        "bare pass, s": statistics.median(seconds["bare pass"]),
        "recording, s": recording,
        "recording: computing, s": computing,
        "recording: files, s": recording - computing,
        "recording: bytes written": written,
        "recording over bare pass": ratio,
    }
    said = "; ".join(map(str, report.problems)) or "nothing"
    checks = [
        speed("recording pass over a bare forward pass", ratio["median"], 1.05, where),
        holds("recording pass: what dynamics check finds", said, report.ok),
    ]
    return Found(measured, checks)


class Recordings:
    """A run whose epochs are recorded, one after the other, of a model that does not change."""

    def __init__(self, folder: Path, packed: PackedSplit, scale: Scale, where: Where) -> None:
        nothing = np.where(packed.predicted, np.float32(0.0), np.float32(np.nan))
        reference = TokenValues(loss=nothing, entropy=nothing, correct=np.zeros(nothing.shape, dtype=np.bool_))
        plan = RunPlan(
            output=folder,
            name="recording",
            config={"name": "recording"},
            splits={"train": packed},
            reference={"train": reference},
            sequences={"train": "all"},
            forward_dtype=torch.bfloat16,
            batch_size=scale.batch,
            device=where.torch_device,
        )
        self.writer = RunWriter(plan)
        self.writer.begin(total_steps=scale.rounds, steps_per_epoch=1, resumption=None)
        #: Seconds of each recording's forward passes, values on the host included.
        self.computing: list[float] = []
        self._epoch = 0

    def one(self, model: Any) -> None:
        """Record one more epoch, as training does after a pass over the data."""
        own = epoch_recorder.measure_share

        def timed(*given: Any, **more: Any) -> Any:
            wait()
            start = time.perf_counter()
            found = own(*given, **more)
            self.computing.append(time.perf_counter() - start)
            return found

        moment = Moment(epoch=self._epoch, step=self._epoch, passes=float(self._epoch))
        with mock.patch.object(epoch_recorder, "measure_share", timed):
            self.writer.epoch(model, moment, TrainingPass())
        self._epoch += 1


@torch.no_grad()
def bare_pass(model: Any, ids: torch.Tensor, batch: int) -> None:
    """Make the logits of every sequence, and forget them."""
    with forward_context(ids.device, torch.bfloat16):
        for part in ids.split(batch):
            model(input_ids=part, use_cache=False)


def random_split(scale: Scale) -> PackedSplit:
    """Return sequences of random tokens, a document each; its text is a byte a token."""
    rng = np.random.default_rng(0)
    shape = (scale.sequences, scale.block)
    start = np.broadcast_to(np.arange(scale.block, dtype=np.int32), shape)
    return PackedSplit(
        token_id=rng.integers(scale.vocabulary, size=shape, dtype=np.int32),
        document_id=np.repeat(np.arange(scale.sequences, dtype=np.int32)[:, None], scale.block, axis=1),
        byte_start=np.ascontiguousarray(start),
        byte_end=np.ascontiguousarray(start + 1),
        text=np.full(scale.sequences * scale.block, ord("x"), dtype=np.uint8),
        text_offset=np.arange(scale.sequences + 1, dtype=np.int64) * scale.block,
        document_hash=rng.integers(256, size=(scale.sequences, 32), dtype=np.uint8),
    )
