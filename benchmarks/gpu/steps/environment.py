"""The machine: the device, its driver, the versions, and whether anybody else is on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import torch

from benchmarks import timing
from benchmarks.gpu.protocol import Check, Found, Where, at_most, holds

PACKAGES = ("triton", "transformers", "accelerate", "numpy", "trl", "liger-kernel", "cut-cross-entropy")


def run(where: Where) -> Found:
    """Read what a result must name to mean anything."""
    measured = timing.hardware(where.device, PACKAGES)
    measured["memory of the host, GiB"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    if where.device != "cuda":
        return Found(measured | {"not on a CPU": ["driver", "who else is on the device"]}, [])
    cuda, checks = _of_cuda()
    return Found(measured | cuda, checks)


def _of_cuda() -> tuple[dict[str, Any], list[Check]]:
    properties = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info()
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0].split(", ")
        smi = dict(zip(("driver", "largest clock", "power limit"), told, strict=True))
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError) as error:
        smi = {"nvidia-smi": f"not read ({type(error).__name__}: {error})"}
    measured = {
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory, GiB": round(total / 2**30, 1),
        "L2, MiB": round(properties.L2_cache_size / 2**20, 1),
        "CUDA of torch": torch.version.cuda,
        "devices": torch.cuda.device_count(),
        "tf32 of products": torch.backends.cuda.matmul.allow_tf32,
        # What Triton builds its launchers with.
        "C compiler": next(filter(None, map(shutil.which, (os.environ.get("CC") or "gcc", "clang"))), None),
        "Python.h": Path(sysconfig.get_paths()["include"], "Python.h").exists(),
        **smi,
    }
    checks = [
        at_most("memory that others hold on the device, GiB", round((total - free) / 2**30, 2), 2.0),
        holds("the device computes in bfloat16", torch.cuda.is_bf16_supported()),
    ]
    return measured, checks
