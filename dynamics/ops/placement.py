"""Whether the host does the computing, so that it can read a tensor's values without waiting."""

from __future__ import annotations

import torch


def host_computes(device: torch.device) -> bool:
    """Return whether the host computes, and can read a tensor's values at no cost.

    On other devices the host queues work and runs ahead, and reading a value makes it wait. All code in `dynamics.ops`
    that depends on this calls ``placement.host_computes``. Tests replace this function to run the accelerator code on
    a CPU.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    bool
    """
    return device.type == "cpu"
