"""One pass over a linear head: the loss, what is known of every token, and the gradients, chunk by chunk.

Shapes: N rows, H hidden size, V vocabulary. Of the N x V logits only a chunk of rows exists at a time; it turns into
its own gradient in place. A row's weight and the common factors enter where things are small, at N x H.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
from collections.abc import Callable

import torch

from dynamics.errors import InputError
from dynamics.ops import placement
from dynamics.ops.chunking import rows_per_chunk, spans
from dynamics.ops.products import accumulate_outer_, hidden_product, logits_product, weight_slices
from dynamics.ops.routes import head_route
from dynamics.ops.row_statistics import HeadOptions, RowValues, direct_rows, identity_entropy, normalised_rows_

# Which of the N rows: a slice, or their indices as int64.
Rows = slice | torch.Tensor

# Loss and entropy of some rows, each of shape (n,), and which rows they are, to their weights of shape (n,).
WeightFunction = Callable[[torch.Tensor, torch.Tensor, Rows], torch.Tensor]

# The largest |z| at which entropy is read off the gradient rather than summed: up to here its error stays near that of
# z itself, within 1e-6 (10 + max |z|); above it, where W has a large common part, it was seen to be 1.5 times that.
IDENTITY_BOUND = 32.0

# Elements of float32 that the torch rows turn half-precision logits into at a time.
_UPCAST_ELEMENTS = 1 << 26


@dataclasses.dataclass
class PassResult:
    """What a pass returns: per-token values of shape (N,), NaN and False where ignored.

    The gradients are of the total loss over `factor` (1 where that is None), which keeps them in the range of half
    precision; None for what needs none. The weight's and the bias's are float32 at least.
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
        Of the type of `hidden`, as is `bias`.
    bias : Tensor, shape (V,), or None
    targets : Tensor of int64, shape (N,)
        Checked by the caller.
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
    n_rows, n_hidden = hidden.shape
    n_vocab = weight.shape[0]
    device = hidden.device
    on_cpu = placement.host_computes(device)
    exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    hidden_type = hidden.dtype
    if on_cpu and hidden.dtype != exact:
        # CPUs gain little from half precision; the logits are not rounded to it there.
        weight, bias = weight.to(exact), None if bias is None else bias.to(exact)
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        weight = weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    logits_type = weight.dtype
    half = logits_type != exact
    need_hidden, need_weight, need_bias = needs
    need_any = any(needs)

    kept = targets != ignore_index
    # On a CPU ignored rows are left out. Elsewhere the host would have to wait for their number, so they run along
    # with a weight of 0.
    index = kept.nonzero()[:, 0] if on_cpu and not bool(kept.all()) else None
    coefficient, factor = _coefficients(token_weight, kept, exact, normalise=hidden_type != exact)

    nan = torch.full((n_rows,), torch.nan, dtype=exact, device=device)
    values = RowValues(nan, nan.clone(), nan.clone(), torch.zeros_like(kept), nan.clone())
    empty = torch.zeros if index is not None or not n_rows else torch.empty
    grad_hidden = empty(n_rows, n_hidden, dtype=hidden_type, device=device) if need_hidden else None
    grad_weight = torch.empty(n_vocab, n_hidden, dtype=exact, device=device) if need_weight else None
    grad_bias = torch.zeros(n_vocab, dtype=exact, device=device) if need_bias else None

    # Without rounding to half precision in between, scaling the rows of `hidden` is scaling the logits.
    scale = options.logit_scale
    row_options = options if half else dataclasses.replace(options, logit_scale=1.0)
    if bias is not None and not half and scale != 1.0:
        bias = bias * scale
    identity = on_cpu and bias is None and options.softcap is None and need_hidden
    route = head_route(n_hidden, n_vocab, logits_type, device)
    slices = weight_slices(weight, route)

    chunks = spans(n_rows if index is None else len(index), chunk_rows or rows_per_chunk(n_vocab, logits_type, device))
    logits: torch.Tensor | None = None
    for start, stop in chunks:
        rows: Rows = slice(start, stop) if index is None else index[start:stop]
        h = hidden[rows].to(logits_type).contiguous()
        y = targets[rows] if on_cpu else targets[rows].where(kept[rows], 0)
        logits = None  # frees the last chunk before the next comes
        logits = logits_product(h if half or scale == 1.0 else h * scale, slices, bias, route)
        normalised = normalised_rows_(logits, y, row_options, IDENTITY_BOUND) if identity else None
        if normalised is not None:
            found = normalised.values
        else:
            found, logits = _direct(logits, y, row_options, gradient=need_any)
        back = hidden_product(logits, weight, route) if need_hidden else None
        if normalised is not None and back is not None and options.statistics:
            product = torch.linalg.vecdot(h, back) * scale
            found = found._replace(entropy=identity_entropy(normalised, product))
        if callable(token_weight):
            coefficient[rows] = _called(token_weight, found, rows, kept[rows])
        for name, value in zip(RowValues._fields, found, strict=True):
            getattr(values, name)[rows] = value
        if need_any:
            c = coefficient[rows] * scale
            if grad_hidden is not None and back is not None:
                grad_hidden[rows] = (back * c[:, None]).to(hidden_type)
            if grad_weight is not None:
                accumulate_outer_(grad_weight, logits, (h * c[:, None]).to(logits_type), route, first=start == 0)
            if grad_bias is not None:
                grad_bias += torch.mv(logits.t(), c.to(logits_type)).to(exact)
    if not chunks and grad_weight is not None:
        grad_weight.zero_()

    total = _total(coefficient, values.training_loss, kept, factor)
    if token_weight is None:
        total = total.where(kept.any(), torch.nan)  # the mean of nothing
    if not on_cpu:
        values = _blank(values, kept)
    return PassResult(total, values, grad_hidden, grad_weight, grad_bias, factor)


def _direct(
    logits: torch.Tensor, y: torch.Tensor, options: HeadOptions, *, gradient: bool
) -> tuple[RowValues, torch.Tensor]:
    """The statistics, and the logits' gradient in the logits' type, by Triton or by torch."""
    if uses_triton(logits):
        from dynamics.ops import triton_kernels

        return triton_kernels.row_statistics_(logits, y, options, gradient=gradient), logits
    if placement.host_computes(logits.device):
        return direct_rows(logits, y, options, gradient=gradient)
    # Some rows at a time: the arithmetic is float32.
    parts = []
    for start, stop in spans(len(y), max(1, _UPCAST_ELEMENTS // logits.shape[1])):
        found, grad = direct_rows(logits[start:stop], y[start:stop], options, gradient=gradient)
        parts.append(found)
        if gradient:
            logits[start:stop] = grad
    return RowValues(*(torch.cat(column) for column in zip(*parts, strict=True))), logits


def uses_triton(logits: torch.Tensor) -> bool:
    """Whether the Triton kernel takes these rows; on a CPU only under Triton's interpreter, for tests."""
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
    """The weight of every row in the total, 0 where ignored, over a common factor if `normalise`.

    Weights are often 1 over the number of tokens, below what float16 resolves: the gradients are computed with the
    largest weight at 1. A function's weights are known too late for that, and stand as they are.
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
    """The weights that a function gives to rows, 0 where ignored."""
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
    """Sum of coefficient times loss over the rows kept, summed in float64 where there is one."""
    wide = training_loss.dtype if training_loss.device.type == "mps" else torch.float64
    total = (coefficient.to(wide) * training_loss.to(wide)).where(kept, 0.0).sum().to(training_loss.dtype)
    return total if factor is None else total * factor


def _blank(values: RowValues, kept: torch.Tensor) -> RowValues:
    """NaN and False in the rows ignored."""
    blanked = [v.where(kept, torch.nan if v.is_floating_point() else False) for v in values]
    return RowValues(*blanked)
