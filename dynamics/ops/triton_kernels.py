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
# their names up. The vocabulary is a constant of the compiled kernel: a model has one.
def _row_kernel(  # type: ignore[no-untyped-def]
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
    row = tl.program_id(0).to(tl.int64)
    u_row = u_ptr + row * row_stride  # 64 bits: rows times columns exceeds 2**31
    target = tl.load(target_ptr + row).to(tl.int32)
    columns = tl.arange(0, BLOCK)

    # Online, after Milakov & Gimelshein, "Online normalizer calculation for softmax" (2018): `mass` is the sum of
    # exp(z - top), `moment` the sum of (z - top) exp(z - top), both relative to the largest logit so far.
    # The start is finite, lest a masked first block (-inf) make NaN of -inf + inf.
    top = -3.0e38
    best = 0
    mass = 0.0
    moment = 0.0
    sum_z = 0.0
    target_z = 0.0
    for start in range(0, N_VOCAB, BLOCK):
        column = start + columns
        valid = column < N_VOCAB
        z = tl.load(u_row + column, mask=valid, other=float("-inf")).to(tl.float32) * logit_scale
        if CAPPED:
            # tanh by the exponential; padding must stay at -inf
            z = softcap * (1.0 - 2.0 / (1.0 + tl.exp(2.0 * z / softcap)))
            z = tl.where(valid, z, float("-inf"))
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
        for start in range(0, N_VOCAB, BLOCK):
            column = start + columns
            valid = column < N_VOCAB
            z = tl.load(u_row + column, mask=valid, other=float("-inf")).to(tl.float32) * logit_scale
            slope = 1.0
            if CAPPED:
                capped = 1.0 - 2.0 / (1.0 + tl.exp(2.0 * z / softcap))
                slope = 1.0 - capped * capped
                z = softcap * capped
            grad = tl.exp(z - top) / mass - tl.where(column == target, 1.0 - label_smoothing, 0.0)
            if SMOOTHED:
                grad -= label_smoothing / N_VOCAB
            grad = grad * slope
            tl.store(u_row + column, grad.to(u_ptr.dtype.element_ty), mask=valid)


row_kernel = triton.jit(_row_kernel)


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
