"""Versions and hardware of a run, for its manifest."""

from __future__ import annotations

import gc
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dynamics.errors import DeviceFull
from dynamics.version import __version__

# The file in which Linux reports the version of NVIDIA's driver.
_DRIVER = Path("/proc/driver/nvidia/version")

_PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "tokenizers",
    "datasets",
    "numpy",
    "safetensors",
)


def versions() -> dict[str, str]:
    """Return the versions of Python, of this library and of the libraries that it computes with."""
    found = {"python": platform.python_version(), "dynamics": __version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware(device: torch.device) -> dict[str, Any]:
    """Return the processor, its cores and threads, and the device that computes.

    Parameters
    ----------
    device : torch.device
        Where the model is. For a CUDA device, the result includes its name, compute capability, memory in bytes, the
        versions of CUDA and of the driver, and the precision of float32 matrix products (`ieee` or `tf32`).
    """
    found: dict[str, Any] = {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device.type,
    }
    if device.type == "cuda":
        found["device"] = torch.cuda.get_device_name(device)
        found["capability"] = ".".join(map(str, torch.cuda.get_device_capability(device)))
        found["memory"] = torch.cuda.get_device_properties(device).total_memory
        found["cuda"] = torch.version.cuda
        found["driver"] = _driver()
        found["float32_products"] = float32_products()
    return found


def visible_devices() -> list[str]:
    """Return the CUDA devices that this process can see, as CUDA_VISIBLE_DEVICES names them."""
    named, n = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    return named.split(",")[:n] if named else [str(number) for number in range(n)]


@contextmanager
def leaving_the_device_free() -> Iterator[None]:
    """Free the device's memory on exit, and report an out-of-memory error in one line.

    Raises
    ------
    DeviceFull
        Replaces torch's own out-of-memory error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        said = " ".join(str(error).split())
        raise DeviceFull(
            f"the device has no memory left ({said[:200]}); lower training.per_device_train_batch_size and raise "
            "training.gradient_accumulation_steps, or checkpoint activations"
        ) from error
    finally:
        # A trainer is part of a reference cycle. Until the next collection, its model and optimiser state would stay
        # on the device, next to those of the next run.
        gc.collect()


def weight_dtype(model: torch.nn.Module) -> torch.dtype:
    """Return the dtype of a model's weights: that of its first floating-point parameter."""
    return next((weight.dtype for weight in model.parameters() if weight.is_floating_point()), torch.float32)


def float32_products() -> str:
    """Return the precision of float32 matrix products on CUDA, as torch is set: `ieee` or `tf32`."""
    matmul: Any = torch.backends.cuda.matmul
    # torch 2.9 has a named setting. Reading the older one after the newer one was written is an error.
    set_to = getattr(matmul, "fp32_precision", None)
    if set_to is None:
        set_to = "tf32" if matmul.allow_tf32 else "ieee"
    return "tf32" if set_to == "tf32" else "ieee"


def _driver() -> str | None:
    """Return the version of NVIDIA's driver, if the system reports it."""
    found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", _DRIVER.read_text()) if _DRIVER.is_file() else None
    return found.group() if found else None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
