"""What a run says that it ran on, and a device that is full."""

from __future__ import annotations

from importlib import metadata

import pytest
import torch
from support.models import build
from support.simulated_cuda import CUDA, simulated_cuda

import dynamics
from dynamics.errors import DeviceFull
from dynamics.training.environment import hardware as module
from dynamics.training.environment.hardware import float32_products, hardware, leaving_the_device_free, weight_dtype


@pytest.fixture
def precision():
    yield
    torch.backends.fp32_precision = "none"


def test_the_device_is_the_one_that_computes_and_not_the_one_that_there_is(monkeypatch, tmp_path, precision):
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n")
    monkeypatch.setattr(module, "_DRIVER", version)
    with simulated_cuda():
        assert hardware(torch.device("cpu"))["device"] == "cpu" and "capability" not in hardware(torch.device("cpu"))
        found = hardware(CUDA)
        torch.backends.fp32_precision = "tf32"
        assert hardware(CUDA)["float32_products"] == "tf32"
    assert found["device"] == "a simulated device" and found["capability"] == "9.0" and found["memory"] == 1 << 30
    assert found["driver"] == "580.65.06" and found["float32_products"] == "ieee"
    monkeypatch.setattr(module, "_DRIVER", tmp_path / "none")
    with simulated_cuda():
        assert hardware(CUDA)["driver"] is None


def test_float32_products_where_torch_has_the_older_setting_alone(monkeypatch):
    for allowed, wanted in ((True, "tf32"), (False, "ieee")):
        monkeypatch.setattr(torch.backends.cuda, "matmul", type("Matmul", (), {"allow_tf32": allowed})())
        assert float32_products() == wanted


def test_the_type_of_a_models_weights():
    assert weight_dtype(build()) == torch.float32 and weight_dtype(build().to(torch.bfloat16)) == torch.bfloat16
    assert weight_dtype(torch.nn.Module()) == torch.float32


def test_a_full_device_is_one_line_with_what_to_do():
    with pytest.raises(DeviceFull, match="no memory left .CUDA out of memory. Tried to allocate 2.00 GiB.*batch_size"):
        with leaving_the_device_free():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\n GPU 0 has 1 GiB")


def test_a_checkout_that_is_not_installed_has_a_version(monkeypatch):
    def installed(name):
        if name in ("learning-dynamics", "datasets"):
            raise metadata.PackageNotFoundError(name)
        return f"{name}'s"

    monkeypatch.setattr(module, "version", installed)
    found = module.versions()
    assert found["dynamics"] == dynamics.__version__ and found["torch"] == "torch's" and "datasets" not in found
