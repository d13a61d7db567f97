"""One pass over a linear head: the loss, the values of every token, and the gradients, chunk by chunk.

Shapes: N rows, H hidden size, V vocabulary. Only a chunk of the N x V logits exists at a time. Row weights and common
factors are applied to N x H tensors, which are smaller.

On a CPU all arithmetic is at least float32, and logits turn into their own gradient in place. On accelerators,
half-precision inputs remain the factors of the products, for the tensor cores, and products are float32. Only the
following are rounded to the inputs' dtype, once each: the gradient of the logits and the hidden states times their row
weights (both are factors of the next products), and the returned gradients. Logits are not rounded, nor is the weight's
gradient between chunks. float32 inputs are multiplied as torch.set_float32_matmul_precision says.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
from collections.abc import Callable
from typing import NamedTuple

import torch

from dynamics.errors import InputError
from dynamics.ops import placement
from dynamics.ops.chunking import rows_per_chunk, spans
from dynamics.ops.products import (
    Route,
    accumulate_outer_,
    accumulate_rows_,
    hidden_product,
    logits_product,
    weight_slices,
)
from dynamics.ops.routes import head_route
from dynamics.ops.row_statistics import HeadOptions, RowValues, direct_rows, identity_entropy, normalised_rows_

# Selects some of the N rows: a slice, or their indices as int64.
Rows = slice | torch.Tensor

# Maps loss and entropy of some rows, each of shape (n,), and the selection of these rows, to weights of shape (n,).
WeightFunction = Callable[[torch.Tensor, torch.Tensor, Rows], torch.Tensor]

# The largest |z| at which entropy is computed from the gradient instead of summed. Up to here its error stays near that
# of z itself, within 1e-6 (10 + max |z|). Above it, if W has a large common part, an error 1.5 times that was measured.
IDENTITY_BOUND = 32.0

# Accelerators: number of logits per call when plain torch computes probabilities, which takes another float32 tensor.
_TORCH_ELEMENTS = 1 << 26

# Accelerators: rows start at multiples of this many numbers (128 bytes in half precision), so that products and kernel
# can move 16 bytes at a time for any vocabulary size.
_ALIGNMENT = 64


@dataclasses.dataclass
class PassResult:
    """The result of a pass: per-token values of shape (N,), NaN and False at ignored rows.

    The gradients are of the total loss divided by `factor` (None means 1), which keeps them in the range of half
    precision. They are None for inputs that need none. Those of weight and bias are at least float32.
    """

    total_loss: torch.Tensor
    values: RowValues
    grad_hidden: torch.Tensor | None
    grad_weight: torch.Tensor | None
    grad_bias: torch.Tensor | None
    factor: torch.Tensor | None


@torch.no_grad()
def head_pass(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    token_weight: torch.Tensor | WeightFunction | None,
    options: HeadOptions,
    *,
    ignore_index: int,
    chunk_rows: int | None,
    needs: tuple[bool, bool, bool],
) -> PassResult:
    """Run the head once.

    Parameters
    ----------
    hidden : Tensor, shape (N, H)
    weight : Tensor, shape (V, H)
        Same dtype as `hidden`; so is `bias`.
    bias : Tensor, shape (V,), or None
    targets : Tensor of int64, shape (N,)
        Already checked by the caller.
    token_weight : Tensor of shape (N,), callable or None
    options : HeadOptions
    ignore_index : int
    chunk_rows : int or None
    needs : three bools
        Whether hidden, weight and bias need a gradient.

    Returns
    -------
    PassResult
    """
    on_cpu = placement.host_computes(hidden.device)
    exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    head = _settle_head(weight, bias, options, exact, identity=on_cpu and needs[0], upcast=on_cpu)
    kept = targets != ignore_index
    # On a CPU ignored rows are left out. On a GPU the host would have to wait for their number, so they are
    # computed with a weight of 0.
    index = kept.nonzero()[:, 0] if on_cpu and not bool(kept.all()) else None
    n_run = len(kept) if index is None else len(index)
    coefficient, factor = _coefficients(token_weight, kept, exact, normalise=hidden.dtype != exact)
    values = _no_values(kept, exact)
    gradients = _room_for_gradients(hidden, weight, needs, exact, n_run)

    chunk_rows = chunk_rows or rows_per_chunk(weight.shape[0], head.weight.dtype, hidden.device)
    buffers = None if on_cpu else _chunk_buffers(min(chunk_rows, n_run), head.weight, exact, gradient=any(needs))
    grad_logits: torch.Tensor | None = None
    for start, stop in spans(n_run, chunk_rows):
        rows: Rows = slice(start, stop) if index is None else index[start:stop]
        h = hidden[rows].to(head.weight.dtype).contiguous()
        y = targets[rows] if on_cpu else targets[rows].where(kept[rows], 0)
        grad_logits = None  # free the last chunk before the next one
        found, grad_logits, back = _run_rows(head, h, y, needs, buffers)
        if callable(token_weight):
            coefficient[rows] = _called(token_weight, found, rows, kept[rows])
        for destination, value in zip(values, found, strict=True):
            destination[rows] = value
        if any(needs):
            c = coefficient[rows]
            if gradients.hidden is not None and back is not None:
                gradients.hidden[rows] = (back * (c * head.scale)[:, None]).to(hidden.dtype)
            _accumulate_(gradients, head, grad_logits, h, c, first=start == 0)

    total = _total(coefficient, values.training_loss, kept, factor)
    if token_weight is None:
        total = total.where(kept.any(), torch.nan)  # the mean of no values
    if not on_cpu:
        values = _blank(values, kept)
    return PassResult(total, values, *gradients, factor)


class _Head(NamedTuple):
    """A head in the form that the products take, and the place where its logit_scale is applied."""

    weight: torch.Tensor  # in the factors' dtype
    bias: torch.Tensor | None
    slices: tuple[torch.Tensor, ...]
    route: Route
    scale: float  # the whole logit_scale
    hidden_scale: float  # the part of it applied to the rows of `hidden` before the product
    row_options: HeadOptions  # contain the part of it that is applied to the logits
    identity: bool  # whether entropy may be computed from the gradient


class _Buffers(NamedTuple):
    """An accelerator's chunk memory, reused for all chunks, because freeing it would fragment the allocator."""

    logits: torch.Tensor
    gradient: torch.Tensor | None  # the logits' own memory if the dtypes agree; None if no gradient is needed


class _Gradients(NamedTuple):
    """The buffers that chunks write to; None for inputs that need no gradient."""

    hidden: torch.Tensor | None
    weight: torch.Tensor | None
    bias: torch.Tensor | None


def _settle_head(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    options: HeadOptions,
    exact: torch.dtype,
    *,
    identity: bool,
    upcast: bool,
) -> _Head:
    """Choose dtypes, layouts and route. CPUs gain little from half precision: `upcast` avoids rounding logits to it."""
    if upcast and weight.dtype != exact:
        weight, bias = weight.to(exact), None if bias is None else bias.to(exact)
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        weight = weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    identity = identity and bias is None and options.softcap is None
    scale = hidden_scale = options.logit_scale
    if weight.dtype != exact:
        hidden_scale = 1.0
    else:
        # Without rounding to half precision in between, scaling the rows of `hidden` is scaling the logits.
        options = dataclasses.replace(options, logit_scale=1.0)
        if bias is not None and scale != 1.0:
            bias = bias * scale
    n_vocab, n_hidden = weight.shape
    route = head_route(n_hidden, n_vocab, weight.dtype, weight.device)
    return _Head(weight, bias, weight_slices(weight, route), route, scale, hidden_scale, options, identity)


def _no_values(kept: torch.Tensor, dtype: torch.dtype) -> RowValues:
    """Return the values of rows that are not computed: NaN and False."""
    nan = torch.full(kept.shape, torch.nan, dtype=dtype, device=kept.device)
    return RowValues(nan, nan.clone(), nan.clone(), torch.zeros_like(kept), nan.clone())


def _room_for_gradients(
    hidden: torch.Tensor, weight: torch.Tensor, needs: tuple[bool, bool, bool], exact: torch.dtype, n_run: int
) -> _Gradients:
    """Allocate gradient buffers: zeros if `n_run` rows do not fill them. The first chunk overwrites the weight's."""
    need_hidden, need_weight, need_bias = needs
    for_hidden = torch.empty if n_run == len(hidden) else torch.zeros
    for_weight = torch.empty if n_run else torch.zeros
    return _Gradients(
        for_hidden(hidden.shape, dtype=hidden.dtype, device=hidden.device) if need_hidden else None,
        for_weight(weight.shape, dtype=exact, device=hidden.device) if need_weight else None,
        torch.zeros(len(weight), dtype=exact, device=hidden.device) if need_bias else None,
    )


def _chunk_buffers(n_rows: int, weight: torch.Tensor, exact: torch.dtype, *, gradient: bool) -> _Buffers:
    """Allocate logits in the exact dtype, and their gradient in the factors' dtype if it differs."""
    n_vocab = len(weight)
    width = -(-n_vocab // _ALIGNMENT) * _ALIGNMENT

    def room(dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(n_rows, width, dtype=dtype, device=weight.device).narrow(1, 0, n_vocab)

    logits = room(exact)
    if not gradient:
        return _Buffers(logits, None)
    return _Buffers(logits, logits if weight.dtype == exact else room(weight.dtype))


def _run_rows(
    head: _Head, h: torch.Tensor, y: torch.Tensor, needs: tuple[bool, bool, bool], buffers: _Buffers | None
) -> tuple[RowValues, torch.Tensor, torch.Tensor | None]:
    """Return the values of some rows, the gradient of their loss for the logits, and that for `h` if needed.

    The gradients are divided by logit_scale. The first one is undefined if nothing needs it.
    """
    # A single variable, so that no second tensor of the chunk's size stays alive during the products.
    room = None if buffers is None else buffers.logits[: len(y)]
    scaled = h if head.hidden_scale == 1.0 else h * head.hidden_scale
    logits = logits_product(scaled, head.slices, head.bias, head.route, room)
    normalised = normalised_rows_(logits, y, head.row_options, IDENTITY_BOUND) if head.identity else None
    if normalised is not None:
        found = normalised.values
    elif buffers is None:
        found, logits = direct_rows(logits, y, head.row_options, gradient=any(needs))
    else:
        room = None if buffers.gradient is None else buffers.gradient[: len(y)]
        found = _accelerator_rows(logits, y, head.row_options, room)
        logits = logits if room is None else room
    back = hidden_product(logits, head.weight, head.route) if needs[0] else None
    if normalised is not None and back is not None and head.row_options.statistics:
        product = torch.linalg.vecdot(h, back) * head.scale
        found = found._replace(entropy=identity_entropy(normalised, product))
    return found, logits, back


def _accumulate_(
    gradients: _Gradients, head: _Head, grad_logits: torch.Tensor, h: torch.Tensor, c: torch.Tensor, *, first: bool
) -> None:
    """Add the contribution of some rows to the gradients of weight and bias; `c`, shape (n,), multiplies the rows."""
    if gradients.weight is not None:
        weighted = (h * (c * head.scale)[:, None]).to(grad_logits.dtype)
        accumulate_outer_(gradients.weight, grad_logits, weighted, head.route, first=first)
    if gradients.bias is not None:
        accumulate_rows_(gradients.bias, grad_logits, c.to(grad_logits.dtype), head.scale)


def _accelerator_rows(
    logits: torch.Tensor, y: torch.Tensor, options: HeadOptions, grad: torch.Tensor | None
) -> RowValues:
    """Compute statistics with Triton or torch, and write the logits' gradient to `grad`. Overwrites the logits."""
    if uses_triton(logits):
        from dynamics.ops import triton_kernels

        return triton_kernels.row_statistics(logits, y, options, grad)
    parts = []
    for start, stop in spans(len(y), max(1, _TORCH_ELEMENTS // logits.shape[1])):
        found, p = direct_rows(logits[start:stop], y[start:stop], options, gradient=grad is not None)
        parts.append(found)
        if grad is not None:
            grad[start:stop] = p
    return RowValues(*(torch.cat(column) for column in zip(*parts, strict=True)))


def uses_triton(logits: torch.Tensor) -> bool:
    """Whether the Triton kernel handles these rows. On a CPU only under Triton's interpreter, for tests."""
    if logits.dtype == torch.float64 or not _has_triton():
        return False
    interpreted = logits.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    return logits.device.type == "cuda" or interpreted


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _coefficients(
    token_weight: torch.Tensor | WeightFunction | None, kept: torch.Tensor, dtype: torch.dtype, *, normalise: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return each row's weight in the total (0 if ignored), divided by a common factor if `normalise`.

    Weights are often 1 over the number of tokens, which is below float16's resolution. Therefore gradients are computed
    with the largest weight at 1. The weights of a function are known too late for that, and are used unchanged.
    """
    if callable(token_weight):
        return torch.zeros(len(kept), dtype=dtype, device=kept.device), None
    if token_weight is None:
        weights = kept.to(dtype) / kept.sum().clamp_min(1)
    else:
        weights = token_weight.detach().to(dtype).where(kept, 0.0)
    if not normalise or not len(kept):
        return weights, None
    factor = weights.abs().amax().clamp_min(torch.finfo(dtype).tiny)
    return weights / factor, factor


def _called(function: WeightFunction, found: RowValues, rows: Rows, kept: torch.Tensor) -> torch.Tensor:
    """Return a function's weights for some rows, 0 if ignored."""
    with torch.enable_grad():
        weights = function(found.loss, found.entropy, rows)
    if not isinstance(weights, torch.Tensor) or weights.shape != found.loss.shape:
        shape = tuple(weights.shape) if isinstance(weights, torch.Tensor) else type(weights).__name__
        raise InputError(
            f"token_weight returned {shape} for {len(kept)} rows: return a tensor of shape ({len(kept)},), one weight "
            "per row"
        )
    if weights.requires_grad:
        raise InputError("token_weight returned a tensor that requires grad: no gradient reaches it; detach it")
    return weights.to(found.loss.dtype).where(kept, 0.0)


def _total(
    coefficient: torch.Tensor, training_loss: torch.Tensor, kept: torch.Tensor, factor: torch.Tensor | None
) -> torch.Tensor:
    """Return the sum of coefficient times loss over the kept rows, in float64 if the device has it."""
    wide = training_loss.dtype if training_loss.device.type == "mps" else torch.float64
    total = (coefficient.to(wide) * training_loss.to(wide)).where(kept, 0.0).sum().to(training_loss.dtype)
    return total if factor is None else total * factor


def _blank(values: RowValues, kept: torch.Tensor) -> RowValues:
    """Set ignored rows to NaN and False."""
    blanked = [v.where(kept, torch.nan if v.is_floating_point() else False) for v in values]
    return RowValues(*blanked)
