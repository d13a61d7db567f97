"""The three matrix products of a linear head, by either of two routes.

Results are at least float32. For half-precision factors this saves the rounding that torch.mm does at the end: on CUDA
the tensor cores accumulate and write float32. On devices whose torch.mm has no such output, the factors are converted
to float32, which gives the same products.

On x86 CPUs torch's own float32 products (``torch.mm``) use MKL. torch also includes oneDNN, whose dense float32 product
is available through the operator that TorchInductor generates code for. Which one is faster differs between processors
of one family, and between shapes: `dynamics.ops.routes` chooses. Both are exact to float32 rounding, but round
differently.
"""

from __future__ import annotations

import platform
from typing import Literal

import torch

from dynamics.ops import placement
from dynamics.ops.chunking import spans

Route = Literal["onednn", "mm"]

# Elements of a partial product of the weight's gradient: 1 MiB of float32, which is still in cache when it is added.
_PARTIAL_ELEMENTS = 1 << 18

# oneDNN sums a dot product sequentially in float32. With more terms, the error of logits gets close to
# 1e-6 (10 + max |z|). Longer dot products are split into slices, which are then added.
_MOST_TERMS = 512
_SLICE_TERMS = 256


def has_onednn(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether there are two routes: for float32 on an x86 CPU, unless oneDNN is switched off in torch.

    Parameters
    ----------
    dtype : torch.dtype
        The dtype of the factors.
    device : torch.device

    Returns
    -------
    bool
    """
    return (
        dtype == torch.float32
        and placement.host_computes(device)
        and platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch._C._get_mkldnn_enabled()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _onednn(route: Route, *factors: torch.Tensor) -> bool:
    """Whether oneDNN multiplies these factors on a route: only matrices, or transposes of matrices, in memory.

    oneDNN has a fast kernel for these. For two factors cut out of wider matrices it uses one that takes seconds
    (observed in torch 2.13).
    """
    return route == "onednn" and all(a.numel() > 0 and (a.is_contiguous() or a.t().is_contiguous()) for a in factors)


def _by_onednn(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return a b^T + bias in a new tensor."""
    out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return out


def _half(a: torch.Tensor) -> bool:
    return a.dtype in (torch.bfloat16, torch.float16)


def _product(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Return a b: float32 for half-precision factors, otherwise in the factors' dtype. Write to `out` if given."""
    if not _half(a):
        return torch.mm(a, b, out=out)
    if a.device.type == "cuda":
        return torch.mm(a, b, out_dtype=torch.float32, out=out)
    return torch.mm(a.float(), b.float(), out=out)


def _add_product_(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Add a b, computed like `_product`, to `total`."""
    if not _half(a):
        total.addmm_(a, b)
    elif a.device.type != "cuda":
        total.addmm_(a.float(), b.float())
    else:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)


def weight_slices(weight: torch.Tensor, route: Route) -> tuple[torch.Tensor, ...]:
    """Split a weight by columns for `logits_product`. Called once per pass. Several slices are copies.

    Parameters
    ----------
    weight : Tensor, shape (V, H)
    route : "onednn" or "mm"

    Returns
    -------
    Tensors of shape (V, at most H)
        Placed side by side, they are `weight`.
    """
    if weight.shape[1] <= _MOST_TERMS or not _onednn(route, weight):
        return (weight,)
    transposed = weight.t().contiguous()  # slices of its rows keep a layout that is fast
    return tuple(transposed[start:stop].t() for start, stop in spans(weight.shape[1], _SLICE_TERMS))


def logits_product(
    hidden: torch.Tensor,
    slices: tuple[torch.Tensor, ...],
    bias: torch.Tensor | None,
    route: Route,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return hidden weight^T + bias.

    Parameters
    ----------
    hidden : Tensor, shape (N, H)
    slices : Tensors of shape (V, at most H)
        From `weight_slices`, for the same route.
    bias : Tensor, shape (V,), or None
    route : "onednn" or "mm"
    out : Tensor, shape (N, V), optional
        The output, in the result's dtype. By default a new tensor. Not for oneDNN.

    Returns
    -------
    Tensor, shape (N, V)
        float32 for half-precision factors, like every product here.
    """
    if not _onednn(route, hidden, *slices):
        (weight,) = slices
        if bias is not None and not _half(hidden):
            return torch.addmm(bias, hidden, weight.t(), out=out)
        logits = _product(hidden, weight.t(), out)
        return logits if bias is None else logits.add_(bias)
    assert out is None
    out = _by_onednn(hidden[:, : slices[0].shape[1]], slices[0], bias)
    start = slices[0].shape[1]
    for part in slices[1:]:
        stop = start + part.shape[1]
        out.add_(_by_onednn(hidden[:, start:stop], part))
        start = stop
    return out


def hidden_product(grad: torch.Tensor, weight: torch.Tensor, route: Route) -> torch.Tensor:
    """Return grad weight in a new tensor: the gradient for the hidden states.

    Parameters
    ----------
    grad : Tensor, shape (N, V)
    weight : Tensor, shape (V, H)
    route : "onednn" or "mm"

    Returns
    -------
    Tensor, shape (N, H)
    """
    if not (_onednn(route, grad, weight) and weight.is_contiguous()):
        return _product(grad, weight)
    out: torch.Tensor | None = None
    for start, stop in spans(grad.shape[1], _MOST_TERMS):
        partial = _by_onednn(grad[:, start:stop], weight[start:stop].t())
        out = partial if out is None else out.add_(partial)
    assert out is not None
    return out


def accumulate_outer_(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor, route: Route, *, first: bool) -> None:
    """Add a^T b to `total`, or overwrite `total` with it.

    Parameters
    ----------
    total : Tensor, shape (V, H)
        Changed in place. In the factors' dtype, or float32 for half-precision factors.
    a : Tensor, shape (N, V)
    b : Tensor, shape (N, H)
    route : "onednn" or "mm"
    first : bool
        Overwrite `total`, which may be uninitialised.
    """
    if _onednn(route, a, b):
        # oneDNN cannot write to or add to an output. Slices keep what is added in the cache.
        bt = b.t()
        for start, stop in spans(total.shape[0], max(64, _PARTIAL_ELEMENTS // total.shape[1])):
            partial = _by_onednn(a[:, start:stop].t(), bt)
            if first:
                total[start:stop].copy_(partial)
            else:
                total[start:stop].add_(partial)
    elif first:
        _product(a.t(), b, total)
    else:
        _add_product_(total, a.t(), b)


def accumulate_rows_(total: torch.Tensor, a: torch.Tensor, c: torch.Tensor, scale: float) -> None:
    """Add scale a^T c to `total`.

    Parameters
    ----------
    total : Tensor, shape (V,)
        Changed in place. In the factors' dtype, or float32 for half-precision factors.
    a : Tensor, shape (N, V)
    c : Tensor, shape (N,)
    scale : float
    """
    total.add_(_product(c[None], a)[0] if _half(a) else torch.mv(a.t(), c), alpha=scale)
