"""Is the fused head on, in bfloat16, for a model that torch.compile compiled?

A step of its own, for compiling takes as long as all other doors together. One layer: what is asked is whether the head
finds its way past the compiled model, and whether the decoder is compiled for training and for recording.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import torch
import torch._dynamo.utils

from benchmarks.gpu.protocol import Found, Where, holds
from benchmarks.gpu.steps import doors


def run(where: Where) -> Found:
    """Train a compiled model through DynamicsTrainer."""
    scale = dataclasses.replace(doors.TINY if where.tiny else doors.FULL, layers=1)
    backend = "eager" if where.tiny else "inductor"
    door = doors.through_trainer(torch_compile=True, torch_compile_backend=backend)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with tempfile.TemporaryDirectory() as temporary:
        seen = door(where, scale, Path(temporary))
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        measured = {**doors.told(seen), "backend": backend, "graphs": graphs}
        checks = [*doors.judged("compiled", seen, where), holds("compiled: graphs", str(graphs), graphs > 0)]
    torch._dynamo.reset()
    return Found(measured, checks)
