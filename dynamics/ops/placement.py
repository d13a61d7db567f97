"""Where the arithmetic happens, and with it whether the host may look at a tensor at no cost."""

from __future__ import annotations

import torch


def host_computes(device: torch.device) -> bool:
    """Return whether the host computes, and so knows at once what a tensor holds.

    Elsewhere the host queues work and runs ahead; whatever makes it look at a value makes it wait. Every such decision
    of `dynamics.ops` asks here, as ``placement.host_computes``: tests put another answer in its place to send a CPU
    down the route of accelerators.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    bool
    """
    return device.type == "cpu"
