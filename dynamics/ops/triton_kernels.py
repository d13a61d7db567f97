"""The row kernel for CUDA: one program per row reads it once for all statistics, and once more for the gradient.

Import it only if Triton is installed. It is tested under Triton's interpreter (TRITON_INTERPRET=1, on a CPU) and
compiles for NVIDIA GPUs. It has not been run or timed on a GPU.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from dynamics.ops.row_statistics import HeadOptions, RowValues

# Imported by name, because type checkers may not find Triton.
triton: Any = importlib.import_module("triton")
tl: Any = importlib.import_module("triton.language")

# Columns that a program holds at a time: 8 per thread, two 16-byte loads in float32 and one 16-byte store in half
# precision. Each thread keeps sums for each of its 8 columns (see `_reduced_row`), in about 64 registers. So three or
# four programs of 8 warps fit on a multiprocessor, with more than enough loads in flight for its share of bandwidth.
_MAX_BLOCK = 2048
_WARPS = 8


# A program handles one row, BLOCK columns at a time. Parameters have no annotations, because Triton looks their names
# up. The vocabulary is a constant of the compiled kernel, since a model has only one. All blocks but the last are full
# and need no mask, which would narrow their loads where V is odd. Functions that a kernel calls must be compiled by
# Triton too, and are inlined.
@triton.jit
def _tanh_of_ratio(z, softcap):  # type: ignore[no-untyped-def]
    """Return tanh(z / softcap), computed with the exponential."""
    return 1.0 - 2.0 / (1.0 + tl.exp(2.0 * z / softcap))


@triton.jit  # type: ignore[untyped-decorator]
def _as_logits(u, logit_scale, softcap, CAPPED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return products times logit_scale, capped, in float32."""
    z = u * logit_scale
    if CAPPED:
        z = softcap * _tanh_of_ratio(z, softcap)
    return z


@triton.jit
def _taken_in(z, start, top, best, mass, moment):  # type: ignore[no-untyped-def]
    """Merge a block's logits into running values, one set per column of the block.

    An online algorithm after Milakov & Gimelshein, "Online normalizer calculation for softmax" (2018): `mass`, the sum
    of exp(z - top), and `moment`, of (z - top) exp(z - top), are relative to the largest logit so far.
    """
    rise = z - top
    higher = z > top  # strict: the first of equal logits stays. False for NaN, which goes into mass
    shared = tl.exp(-tl.abs(rise))
    rise = tl.minimum(tl.maximum(rise, -1.0e4), 1.0e4)  # as good as infinite, but times 0 it is 0
    moment = tl.where(higher, shared * (moment - rise * mass), moment + shared * rise)
    mass = tl.where(higher, shared * mass + 1.0, mass + shared)
    return tl.maximum(top, z), tl.where(higher, start, best), mass, moment


@triton.jit  # type: ignore[untyped-decorator]
def _reduced_row(  # type: ignore[no-untyped-def]
    u_row,
    logit_scale,
    softcap,
    N_VOCAB: tl.constexpr,
    CAPPED: tl.constexpr,
    SMOOTHED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Return the largest logit, its first column, sums of exp(z - top) and (z - top) exp(z - top), and that of all.

    Threads are combined once, at the end. In the loop each keeps these values for its own columns. The last sum is 0
    without label smoothing.
    """
    FULL: tl.constexpr = N_VOCAB // BLOCK * BLOCK
    lane = tl.arange(0, BLOCK)
    # Start with a finite value, because masked columns (-inf) would give -inf + inf, which is NaN.
    top = tl.full((BLOCK,), -3.0e38, tl.float32)
    best = tl.zeros((BLOCK,), tl.int32)
    mass = tl.zeros((BLOCK,), tl.float32)
    moment = tl.zeros((BLOCK,), tl.float32)
    sum_z = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, FULL, BLOCK):
        z = _as_logits(tl.load(u_row + start + lane), logit_scale, softcap, CAPPED)
        top, best, mass, moment = _taken_in(z, start, top, best, mass, moment)
        if SMOOTHED:
            sum_z += z
    if FULL < N_VOCAB:
        valid = FULL + lane < N_VOCAB
        z = _as_logits(tl.load(u_row + FULL + lane, mask=valid, other=0.0), logit_scale, softcap, CAPPED)
        if SMOOTHED:
            sum_z += tl.where(valid, z, 0.0)
        z = tl.where(valid, z, float("-inf"))
        top, best, mass, moment = _taken_in(z, FULL, top, best, mass, moment)
    row_top = tl.max(top, axis=0)
    first = tl.min(tl.where(top == row_top, best + lane, 2147483647), axis=0)
    fall = tl.maximum(top - row_top, -1.0e4)
    share = tl.exp(fall)
    moment = tl.sum(share * (moment + fall * mass), axis=0)
    return row_top, first, tl.sum(share * mass, axis=0), moment, tl.sum(sum_z, axis=0)


@triton.jit  # type: ignore[untyped-decorator]
def _gradient(  # type: ignore[no-untyped-def]
    u,
    column,
    target,
    top,
    inverse_mass,
    logit_scale,
    softcap,
    label_smoothing,
    N_VOCAB: tl.constexpr,
    CAPPED: tl.constexpr,
    SMOOTHED: tl.constexpr,
):
    """Return the loss's gradient for the products of some columns, divided by logit_scale."""
    z = u * logit_scale
    slope = 1.0
    if CAPPED:
        capped = _tanh_of_ratio(z, softcap)
        slope = 1.0 - capped * capped
        z = softcap * capped
    grad = tl.exp(z - top) * inverse_mass - tl.where(column == target, 1.0 - label_smoothing, 0.0)
    if SMOOTHED:
        grad -= label_smoothing / N_VOCAB
    return grad * slope


@triton.jit  # type: ignore[untyped-decorator]
def _write_gradient(  # type: ignore[no-untyped-def]
    u_row,
    grad_row,
    target,
    top,
    mass,
    logit_scale,
    softcap,
    label_smoothing,
    N_VOCAB: tl.constexpr,
    CAPPED: tl.constexpr,
    SMOOTHED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write a row's gradient, possibly over the row itself.

    Goes from the last block to the first, because what was read last is still in the L2 cache.
    """
    FULL: tl.constexpr = N_VOCAB // BLOCK * BLOCK
    lane = tl.arange(0, BLOCK)
    inverse_mass = 1.0 / mass
    if FULL < N_VOCAB:
        column = FULL + lane
        valid = column < N_VOCAB
        u = tl.load(u_row + column, mask=valid, other=0.0)
        grad = _gradient(
            u, column, target, top, inverse_mass, logit_scale, softcap, label_smoothing, N_VOCAB, CAPPED, SMOOTHED
        )
        tl.store(grad_row + column, grad.to(grad_row.dtype.element_ty), mask=valid)
    for done in range(0, FULL, BLOCK):
        column = (FULL - BLOCK - done) + lane
        grad = _gradient(
            tl.load(u_row + column),
            column,
            target,
            top,
            inverse_mass,
            logit_scale,
            softcap,
            label_smoothing,
            N_VOCAB,
            CAPPED,
            SMOOTHED,
        )
        tl.store(grad_row + column, grad.to(grad_row.dtype.element_ty))


@triton.jit  # type: ignore[untyped-decorator]
def row_kernel(  # type: ignore[no-untyped-def]
    u_ptr,
    grad_ptr,
    target_ptr,
    training_loss_ptr,
    loss_ptr,
    entropy_ptr,
    correct_ptr,
    logsumexp_ptr,
    row_stride,
    grad_stride,
    logit_scale,
    softcap,
    label_smoothing,
    N_VOCAB: tl.constexpr,
    CAPPED: tl.constexpr,
    SMOOTHED: tl.constexpr,
    STATISTICS: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Reduce one row and store its statistics; with GRADIENT, also its loss's gradient."""
    row = tl.program_id(0).to(tl.int64)  # 64 bits, because rows times columns may exceed 2**31
    u_row = u_ptr + row * row_stride
    target = tl.load(target_ptr + row).to(tl.int32)
    # Read this before anything overwrites it.
    target_z = _as_logits(tl.load(u_row + target), logit_scale, softcap, CAPPED)
    top, first, mass, moment, sum_z = _reduced_row(u_row, logit_scale, softcap, N_VOCAB, CAPPED, SMOOTHED, BLOCK)
    log_mass = tl.log(mass)
    loss = log_mass + (top - target_z)
    training_loss = loss
    if SMOOTHED:
        mean_loss = log_mass + (top - sum_z / N_VOCAB)
        training_loss = (1.0 - label_smoothing) * loss + label_smoothing * mean_loss
    tl.store(loss_ptr + row, loss)
    tl.store(training_loss_ptr + row, training_loss)
    tl.store(logsumexp_ptr + row, top + log_mass)
    if STATISTICS:
        tl.store(entropy_ptr + row, log_mass - moment / mass)
        tl.store(correct_ptr + row, (first == target) & (mass > 0.0))  # mass is NaN if a logit is
    else:  # the compiler removes what only these need
        tl.store(entropy_ptr + row, float("nan"))
        tl.store(correct_ptr + row, False)
    if GRADIENT:
        grad_row = grad_ptr + row * grad_stride
        _write_gradient(
            u_row, grad_row, target, top, mass, logit_scale, softcap, label_smoothing, N_VOCAB, CAPPED, SMOOTHED, BLOCK
        )


def row_statistics(u: torch.Tensor, y: torch.Tensor, options: HeadOptions, grad: torch.Tensor | None) -> RowValues:
    """Return the statistics of rows, in float32, and write their loss's gradient.

    Parameters
    ----------
    u : Tensor of float32, shape (N, V)
        The product, before logit_scale and softcap. Rows are contiguous, and start ideally at multiples of 16 numbers.
    y : Tensor of int64, shape (N,)
        Targets; each must be a column.
    options : HeadOptions
    grad : Tensor, shape (N, V), or None
        Output for d training_loss / d u divided by logit_scale, of any floating-point dtype, with contiguous rows:
        `u` itself, or separate memory.

    Returns
    -------
    RowValues
        As `row_statistics.direct_rows` gives them.
    """
    n_rows, n_vocab = u.shape
    assert u.dtype == torch.float32 and u.stride(1) == 1 and y.is_contiguous(), (u.dtype, u.stride(), y.stride())
    target = u if grad is None else grad
    assert target.shape == u.shape and target.stride(1) == 1, (target.shape, target.stride())
    training_loss, loss, entropy, logsumexp = torch.empty(4, n_rows, dtype=torch.float32, device=u.device)
    correct = torch.empty(n_rows, dtype=torch.bool, device=u.device)
    if n_rows:
        # Triton launches on the current device. On a CPU this does nothing.
        with torch.cuda.device_of(u):  # type: ignore[no-untyped-call]
            row_kernel[(n_rows,)](
                u,
                target,
                y,
                training_loss,
                loss,
                entropy,
                correct,
                logsumexp,
                u.stride(0),
                target.stride(0),
                options.logit_scale,
                1.0 if options.softcap is None else options.softcap,
                options.label_smoothing,
                N_VOCAB=n_vocab,
                CAPPED=options.softcap is not None,
                SMOOTHED=options.label_smoothing > 0,
                STATISTICS=options.statistics,
                GRADIENT=grad is not None,
                BLOCK=min(_MAX_BLOCK, triton.next_power_of_2(n_vocab)),
                num_warps=_WARPS,
                enable_fp_fusion=True,  # the current default of Triton, which will change
            )
    loss.clamp_(min=0.0)
    entropy.clamp_(min=0.0)
    if not options.label_smoothing:
        training_loss = loss
    return RowValues(training_loss, loss, entropy, correct, logsumexp)
