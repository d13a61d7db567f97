"""The fused operator: from hidden states and a head's weight to the loss, every token's statistics and the gradients.

A language model's head computes N x V logits, by far the largest tensor of a training step, and reduces them at once.
Here only a chunk of rows exists at a time. Loss, entropy and argmax are computed from the chunk, and so are the
gradients for hidden states and weight. This takes three matrix products in total, as many as training without any
statistics.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from dynamics.errors import InputError
from dynamics.ops import placement
from dynamics.ops.head_pass import PassResult, WeightFunction, head_pass
from dynamics.ops.row_statistics import HeadOptions
from dynamics.ops.token_statistics import IGNORE_INDEX

# Devices that support an asynchronous assertion, for which the host does not wait.
_ASSERTING = ("cpu", "cuda")


class LinearTokenStatistics(NamedTuple):
    """The loss of a batch, a scalar, and per-token values of shape (N,).

    Only ``total_loss`` has a gradient. At ignored targets, ``loss``, ``entropy`` and ``logsumexp`` are NaN and
    ``correct`` is False. ``loss`` does not include label smoothing.
    """

    total_loss: torch.Tensor
    loss: torch.Tensor
    entropy: torch.Tensor
    correct: torch.Tensor
    logsumexp: torch.Tensor


def linear_token_statistics(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    token_weight: torch.Tensor | WeightFunction | None = None,
    bias: torch.Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float | None = None,
    ignore_index: int = IGNORE_INDEX,
    label_smoothing: float = 0.0,
    chunk_rows: int | None = None,
) -> LinearTokenStatistics:
    """Return the loss of a linear head, and the loss, entropy and correctness of every token, in one pass.

    The logits are z = logit_scale (W h + b), capped to softcap tanh(z / softcap), as in transformers' models.

    Parameters
    ----------
    hidden : Tensor, shape (N, H)
        The last hidden states: float32, float64, bfloat16 or float16. Under autocast, hidden, weight and bias are
        cast as ``torch.nn.functional.linear`` casts them.
    weight : Tensor, shape (V, H)
    targets : Tensor of int64, shape (N,)
        The token that each row predicts, or `ignore_index`.
    token_weight : Tensor of shape (N,), or callable, optional
        The weight of each token's loss in the total. Weights of ignored rows count as 0, even if they are NaN. A
        function is called once per chunk with ``(loss, entropy, rows)``, and returns the weights of these rows, shape
        (n,). ``loss`` and ``entropy`` are detached, of shape (n,) and in the results' dtype. ``rows`` selects these
        rows among the N: a slice, or int64 indices on the inputs' device. Use it to index your own per-row data. The
        function must treat rows separately. It may get ignored rows (on accelerators). Weights get no gradient.
    bias : Tensor, shape (V,), optional
        -inf masks a column.
    softcap : float, optional
        Gemma 2's ``final_logit_softcapping``.
    logit_scale : float, optional
        Cohere's ``logit_scale``. Granite divides by ``logits_scaling`` instead: give its inverse.
    ignore_index : int
    label_smoothing : float
        Share of the target's probability spread evenly over the vocabulary; affects the total and its gradients.
    chunk_rows : int, optional
        Rows of logits held at a time; affects rounding. The default depends on the device (`ops.chunking`).

    Returns
    -------
    LinearTokenStatistics
        ``total_loss`` is the sum of weight times loss over the rows that are not ignored. Without weights it is their
        mean, and NaN with gradients of 0 if there are none (like cross_entropy). Arithmetic and results are float32
        (float64 for float64 inputs). ``correct`` is whether the target is the first argmax.

    Raises
    ------
    InputError
        Shapes, dtypes, devices or values do not fit.
    RuntimeError
        In the backward pass, if a gradient through a per-token value is needed (detach it), or a second derivative.

    Notes
    -----
    On a CPU the products are float32 for any inputs, and entropy is computed from the gradient where that is accurate
    (`head_pass.IDENTITY_BOUND`). On other devices half-precision factors give float32 products: logits are not rounded
    as a model's own are, but their gradient is, because it is a factor of the next products. On CUDA a Triton kernel
    treats the rows. Plain torch is used if Triton is missing, and on other devices. Neither has been run on a GPU yet.

    Gradients are computed here, for the inputs that need them. Under ``no_grad``, none are computed and nothing is
    saved. Detach results that you keep beyond the backward pass.

    Examples
    --------
    >>> hidden, weight = torch.zeros(3, 8, requires_grad=True), torch.zeros(4, 8)
    >>> result = linear_token_statistics(hidden, weight, torch.tensor([0, 1, -100]))
    >>> result.total_loss.backward()
    >>> [round(x, 4) for x in result.entropy.tolist()]  # ln 4
    [1.3863, 1.3863, nan]
    """
    options = _options(softcap, logit_scale, label_smoothing)
    _check_inputs(hidden, weight, bias, targets, token_weight, ignore_index, chunk_rows)
    static = _Static(token_weight, options, ignore_index, chunk_rows, _compute_type(hidden, weight, bias))
    return _evaluated(hidden, weight, bias, targets, static)


class _Static(NamedTuple):
    """The arguments that are not tensors for autograd."""

    token_weight: torch.Tensor | WeightFunction | None
    options: HeadOptions
    ignore_index: int
    chunk_rows: int | None
    compute_type: torch.dtype


def _evaluated(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor, static: _Static
) -> LinearTokenStatistics:
    """Use autograd if it is enabled and an input needs a gradient."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (hidden, weight, bias)):
        outputs = _LinearTokenStatistics.apply(hidden, weight, bias, targets, static)  # type: ignore[no-untyped-call]
        return LinearTokenStatistics(*outputs)
    return _named(_run(hidden, weight, bias, targets, static, needs=(False, False, False)))


def _run(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    static: _Static,
    *,
    needs: tuple[bool, bool, bool],
) -> PassResult:
    # The dtypes are chosen already. Autocast must not round the products of the chunks.
    with torch.autocast(hidden.device.type, enabled=False):
        return head_pass(
            hidden.to(static.compute_type),
            weight.to(static.compute_type),
            None if bias is None else bias.to(static.compute_type),
            targets.long(),
            static.token_weight,
            static.options,
            ignore_index=static.ignore_index,
            chunk_rows=static.chunk_rows,
            needs=needs,
        )


def _named(result: PassResult) -> LinearTokenStatistics:
    _, loss, entropy, correct, logsumexp = result.values
    return LinearTokenStatistics(result.total_loss, loss, entropy, correct, logsumexp)


class _LinearTokenStatistics(torch.autograd.Function):
    """Computes gradients in the forward pass. The backward pass multiplies them by the incoming gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        static: _Static,
    ) -> tuple[torch.Tensor, ...]:
        needs = ctx.needs_input_grad[:3]
        result = _run(hidden, weight, bias, targets, static, needs=needs)
        ctx.save_for_backward(result.grad_hidden, result.grad_weight, result.grad_bias, result.factor)
        ctx.types = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        ctx.set_materialize_grads(False)  # distinguishes a zero gradient from none
        named = _named(result)
        ctx.mark_non_differentiable(named.correct)
        return tuple(named)

    @staticmethod
    def backward(ctx: Any, grad_total: torch.Tensor | None, *grad_values: torch.Tensor | None) -> Any:
        if any(grad is not None for grad in grad_values):
            names = ("loss", "entropy", "correct", "logsumexp")
            asked = ", ".join(n for n, grad in zip(names, grad_values, strict=True) if grad is not None)
            raise RuntimeError(
                f"linear_token_statistics has no gradient through its per-token output {asked}: detach() it, and "
                "weight tokens in total_loss with token_weight"
            )
        if torch.is_grad_enabled():
            raise RuntimeError(
                "linear_token_statistics has no second derivative: call backward without create_graph=True"
            )
        if grad_total is None:
            return None, None, None, None, None
        *grads, factor = ctx.saved_tensors
        # Not a scalar, which would be rounded to half precision before it multiplies a half-precision gradient.
        multiplier = (grad_total if factor is None else grad_total * factor).reshape(1)
        # The buffers are multiplied in place, unless the graph may be used again.
        in_place = not _graph_is_kept()
        one = placement.host_computes(multiplier.device) and multiplier.item() == 1.0
        out: list[torch.Tensor | None] = []
        for grad, dtype in zip(grads, ctx.types, strict=True):
            if grad is None:
                out.append(None)
            elif one:
                out.append(grad.to(dtype))
            else:
                # One pass over the memory, rounded once.
                room = grad if in_place and grad.dtype == dtype else torch.empty_like(grad, dtype=dtype)
                out.append(torch.mul(grad, multiplier, out=room))
        return (*out, None, None)


def _graph_is_kept() -> bool:
    """Whether the current backward pass has retain_graph=True; also True if torch does not tell."""
    kept = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return True if kept is None else bool(kept())


def _options(softcap: float | None, logit_scale: float | None, label_smoothing: float) -> HeadOptions:
    for name, value in (("softcap", softcap), ("logit_scale", logit_scale)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value!r}: give a positive number, or None to leave it out")
    if not 0.0 <= label_smoothing < 1.0:
        raise InputError(f"label_smoothing is {label_smoothing!r}: give a share in [0, 1)")
    return HeadOptions(
        softcap=None if softcap is None else float(softcap),
        logit_scale=1.0 if logit_scale is None else float(logit_scale),
        label_smoothing=float(label_smoothing),
    )


def _check_inputs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    token_weight: torch.Tensor | WeightFunction | None,
    ignore_index: int,
    chunk_rows: int | None,
) -> None:
    if hidden.ndim != 2:
        raise InputError(f"hidden has shape {tuple(hidden.shape)}: flatten it to (rows, hidden size)")
    n_rows, n_hidden = hidden.shape
    if weight.ndim != 2 or weight.shape[1] != n_hidden or 0 in weight.shape:
        raise InputError(
            f"weight has shape {tuple(weight.shape)}: it must be (vocabulary, {n_hidden}), to match hidden's columns"
        )
    n_vocab = weight.shape[0]
    expected: list[tuple[str, Any, tuple[int, ...]]] = [("targets", targets, (n_rows,))]
    if bias is not None:
        expected.append(("bias", bias, (n_vocab,)))
    if isinstance(token_weight, torch.Tensor):
        expected.append(("token_weight", token_weight, (n_rows,)))
        if token_weight.requires_grad:
            raise InputError("token_weight requires grad, but no gradient goes through weights: detach() it")
    elif token_weight is not None and not callable(token_weight):
        raise InputError(f"token_weight is {token_weight!r}: give a tensor of shape ({n_rows},), a function or None")
    for name, value, shape in expected:
        if tuple(value.shape) != shape:
            raise InputError(f"{name} has shape {tuple(value.shape)}: it must be {shape}")
    for name, value, _ in [("weight", weight, ()), *expected]:
        if value.device != hidden.device:
            raise InputError(f"{name} is on {value.device} and hidden on {hidden.device}: move them to one device")
    if targets.dtype not in (torch.int64, torch.int32):
        raise InputError(f"targets have type {targets.dtype}: they must be token ids of type torch.int64")
    if chunk_rows is not None and (isinstance(chunk_rows, bool) or not isinstance(chunk_rows, int) or chunk_rows < 1):
        raise InputError(f"chunk_rows is {chunk_rows!r}: give an integer from 1, or None")
    wrong = (targets != ignore_index) & ((targets < 0) | (targets >= n_vocab))
    if placement.host_computes(hidden.device) or hidden.device.type not in _ASSERTING:
        if bool(wrong.any()):
            raise InputError(
                f"target {int(targets[wrong][0])} at row {int(wrong.nonzero()[0, 0])} is not in a vocabulary of "
                f"{n_vocab}: give ids from 0 to {n_vocab - 1}, or {ignore_index} to ignore a row"
            )
    else:
        # Checked on the device, so that the host need not wait. As in cross_entropy, it fails at the next wait.
        torch._assert_async(~wrong.any())


def _compute_type(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.dtype:
    """Return the dtype in which a linear layer would compute."""
    tensors = {"hidden": hidden, "weight": weight} | ({} if bias is None else {"bias": bias})
    for name, value in tensors.items():
        if value.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            raise InputError(f"{name} has type {value.dtype}: it must be torch.float32, float64, bfloat16 or float16")
    device_type = hidden.device.type
    if torch.is_autocast_enabled(device_type) and all(t.dtype != torch.float64 for t in tensors.values()):
        return torch.get_autocast_dtype(device_type)
    for name, value in tensors.items():
        if value.dtype != hidden.dtype:
            raise InputError(
                f"{name} has type {value.dtype} but hidden {hidden.dtype}: cast one to the other, or use autocast"
            )
    return hidden.dtype
