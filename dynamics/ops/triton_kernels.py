"""The row kernel for CUDA: one program a row reads it once for all statistics, and once more to leave the gradient.

Import it only where Triton is installed. It is checked under Triton's interpreter (TRITON_INTERPRET=1, on a CPU) and
compiles for NVIDIA GPUs; it has not been run, or timed, on one.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from dynamics.ops.row_statistics import HeadOptions, RowValues

# By name, since type checkers need not find Triton.
triton: Any = importlib.import_module("triton")
tl: Any = importlib.import_module("triton.language")

_MAX_BLOCK = 4096
_WARPS = 8


# A program has one row, and holds BLOCK of its columns at a time. Parameters have no annotations because Triton looks
# their names up. The vocabulary is a constant of the compiled kernel: a model has one. What a kernel calls must be
# compiled for it too, and is put into it.
@triton.jit
def _tanh_of_ratio(z, softcap):  # type: ignore[no-untyped-def]
    """tanh(z / softcap), by the exponential."""
    return 1.0 - 2.0 / (1.0 + tl.exp(2.0 * z / softcap))


@triton.jit
def _scaled(u_row, column, valid, logit_scale):  # type: ignore[no-untyped-def]
    """Columns of a row times logit_scale in float32; the padding behind the last is -inf."""
    return tl.load(u_row + column, mask=valid, other=float("-inf")).to(tl.float32) * logit_scale


@triton.jit  # type: ignore[untyped-decorator]
def _reduced_row(  # type: ignore[no-untyped-def]
    u_row,
    target,
    logit_scale,
    softcap,
    N_VOCAB: tl.constexpr,
    CAPPED: tl.constexpr,
    SMOOTHED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Largest logit, its first column, sums of exp(z - top) and (z - top) exp(z - top), target's logit, sum of all.

    Online, after Milakov & Gimelshein, "Online normalizer calculation for softmax" (2018): the sums `mass` and `moment`
    are relative to the largest logit so far. The last is 0 but for smoothing.
    """
    # The start is finite, lest a masked first block (-inf) make NaN of -inf + inf.
    top = -3.0e38
    best = 0
    mass = 0.0
    moment = 0.0
    sum_z = 0.0
    target_z = 0.0
    for start in range(0, N_VOCAB, BLOCK):
        column = start + tl.arange(0, BLOCK)
        valid = column < N_VOCAB
        z = _scaled(u_row, column, valid, logit_scale)
        if CAPPED:
            z = softcap * _tanh_of_ratio(z, softcap)
            z = tl.where(valid, z, float("-inf"))  # padding must stay there
        block_top = tl.max(z, axis=0)
        block_best = tl.min(tl.where(z == block_top, column, 2147483647), axis=0)
        best = tl.where(block_top > top, block_best, best)  # strictly: the first of equals
        new_top = tl.maximum(top, block_top)
        shrink = tl.exp(top - new_top)
        distance = tl.maximum(z - new_top, -1.0e4)  # as good as -inf, but 0 times it is 0
        e = tl.exp(distance)
        moment = shrink * (moment + (top - new_top) * mass) + tl.sum(e * distance, axis=0)
        mass = shrink * mass + tl.sum(e, axis=0)
        top = new_top
        target_z += tl.sum(tl.where(column == target, z, 0.0), axis=0)
        if SMOOTHED:
            sum_z += tl.sum(tl.where(valid, z, 0.0), axis=0)
    return top, best, mass, moment, target_z, sum_z


@triton.jit  # type: ignore[untyped-decorator]
def _leave_gradient(  # type: ignore[no-untyped-def]
    u_row,
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
    """Overwrite a row with its loss's gradient."""
    for start in range(0, N_VOCAB, BLOCK):
        column = start + tl.arange(0, BLOCK)
        valid = column < N_VOCAB
        z = _scaled(u_row, column, valid, logit_scale)
        slope = 1.0
        if CAPPED:
            capped = _tanh_of_ratio(z, softcap)
            slope = 1.0 - capped * capped
            z = softcap * capped
        grad = tl.exp(z - top) / mass - tl.where(column == target, 1.0 - label_smoothing, 0.0)
        if SMOOTHED:
            grad -= label_smoothing / N_VOCAB
        grad = grad * slope
        tl.store(u_row + column, grad.to(u_row.dtype.element_ty), mask=valid)


@triton.jit  # type: ignore[untyped-decorator]
def row_kernel(  # type: ignore[no-untyped-def]
    u_ptr,
    target_ptr,
    training_loss_ptr,
    loss_ptr,
    entropy_ptr,
    correct_ptr,
    logsumexp_ptr,
    row_stride,
    logit_scale,
    softcap,
    label_smoothing,
    N_VOCAB: tl.constexpr,
    CAPPED: tl.constexpr,
    SMOOTHED: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Reduce one row, store its statistics, and with GRADIENT overwrite it."""
    row = tl.program_id(0).to(tl.int64)
    u_row = u_ptr + row * row_stride  # 64 bits: rows times columns exceeds 2**31
    target = tl.load(target_ptr + row).to(tl.int32)
    top, best, mass, moment, target_z, sum_z = _reduced_row(
        u_row, target, logit_scale, softcap, N_VOCAB, CAPPED, SMOOTHED, BLOCK
    )
    log_mass = tl.log(mass)
    loss = log_mass + (top - target_z)
    training_loss = loss
    if SMOOTHED:
        mean_loss = log_mass + (top - sum_z / N_VOCAB)
        training_loss = (1.0 - label_smoothing) * loss + label_smoothing * mean_loss
    tl.store(loss_ptr + row, loss)
    tl.store(training_loss_ptr + row, training_loss)
    tl.store(entropy_ptr + row, log_mass - moment / mass)
    tl.store(logsumexp_ptr + row, top + log_mass)
    tl.store(correct_ptr + row, (best == target) & (target_z == top))
    if GRADIENT:
        _leave_gradient(
            u_row, target, top, mass, logit_scale, softcap, label_smoothing, N_VOCAB, CAPPED, SMOOTHED, BLOCK
        )


def row_statistics_(u: torch.Tensor, y: torch.Tensor, options: HeadOptions, *, gradient: bool) -> RowValues:
    """Return the statistics of rows, in float32; with `gradient`, overwrite them with their loss's gradient.

    Parameters
    ----------
    u : Tensor, shape (N, V)
        The product, before logit_scale and softcap: bfloat16, float16 or float32, rows contiguous.
    y : Tensor of int64, shape (N,)
        Targets, all of them columns.
    options : HeadOptions
    gradient : bool
        Leave d training_loss / d u over logit_scale in `u`.

    Returns
    -------
    RowValues
        As `row_statistics.direct_rows` gives them.
    """
    n_rows, n_vocab = u.shape
    assert u.stride(1) == 1, u.stride()
    training_loss, loss, entropy, logsumexp = torch.empty(4, n_rows, dtype=torch.float32, device=u.device)
    correct = torch.empty(n_rows, dtype=torch.bool, device=u.device)
    if n_rows:
        # Triton launches on the current device; on a CPU this does nothing.
        with torch.cuda.device_of(u):  # type: ignore[no-untyped-call]
            row_kernel[(n_rows,)](
                u,
                y,
                training_loss,
                loss,
                entropy,
                correct,
                logsumexp,
                u.stride(0),
                options.logit_scale,
                1.0 if options.softcap is None else options.softcap,
                options.label_smoothing,
                N_VOCAB=n_vocab,
                CAPPED=options.softcap is not None,
                SMOOTHED=options.label_smoothing > 0,
                GRADIENT=gradient,
                BLOCK=min(_MAX_BLOCK, triton.next_power_of_2(n_vocab)),
                num_warps=_WARPS,
            )
    loss.clamp_(min=0.0)
    entropy.clamp_(min=0.0)
    if not options.label_smoothing:
        training_loss = loss
    return RowValues(training_loss, loss, entropy, correct, logsumexp)
