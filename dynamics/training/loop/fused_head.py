"""Loss and statistics straight from a model's last hidden states, inside its own forward pass.

The logits of a whole batch are by far the largest tensor of a training step. Here the model's `forward` is patched on
the instance, for as long as it is wanted, so that a call with a `head_request` runs the decoder and then the fused
operator instead of the head. It stays a call of the model: what wraps it (DDP, FSDP2, PEFT) sees an ordinary forward
pass, whose gradients it synchronises and whose parameters it gathers.
"""

from __future__ import annotations

import functools
import logging
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.utils.generic import ModelOutput

from dynamics.ops.linear_statistics import linear_token_statistics
from dynamics.ops.token_statistics import shift, unshift
from dynamics.training.environment.generators import evaluating

log = logging.getLogger(__name__)

TokenWeight = torch.Tensor | Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class HeadRequest:
    """What a forward pass shall return instead of logits.

    Attributes
    ----------
    labels : Tensor of int64, shape (B, T)
        -100 where nothing is predicted.
    token_weight : Tensor of shape (B, T), callable or None
        As for `linear_token_statistics`; None is one for each token: their sum, not their mean.
    label_smoothing : float
    check : bool
        Return whether the head is what it was taken for, and nothing else.
    """

    labels: torch.Tensor
    token_weight: TokenWeight | None = None
    label_smoothing: float = 0.0
    check: bool = False


@dataclass
class HeadOutput(ModelOutput):
    """The answer to a `HeadRequest`: a scalar, and values of shape (B, T) that carry no gradient."""

    total_loss: torch.Tensor | None = None
    token_loss: torch.Tensor | None = None
    token_entropy: torch.Tensor | None = None
    token_correct: torch.Tensor | None = None
    agrees: bool | None = None


class _Head:
    """A linear head, its scale and its soft cap, as the model's configuration has them."""

    def __init__(self, model: Any) -> None:
        self.linear: nn.Linear = model.get_output_embeddings()
        config = model.config.get_text_config()
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self.scale = _scale(config)

    def plain(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits, to compare with."""
        logits = self.linear(hidden) * (1.0 if self.scale is None else self.scale)
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap


# What is known of a model's head: whether it agrees with the model's own logits.
_agrees: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()


@contextmanager
def fused_head(model: nn.Module) -> Iterator[bool]:
    """Let a model answer `head_request`; its forward is as before on leaving.

    Parameters
    ----------
    model : Module
        A causal language model, or what wraps one.

    Yields
    ------
    bool
        Whether it does. Not so for a head that is no plain linear layer, or one whose logits turn out not to be the
        model's: one line is logged then, once a model, and logits must be used.
    """
    inner = causal_model(model)
    known = _agrees.get(inner)
    if known is False or getattr(inner.forward, "answers_requests", False):
        yield bool(known)
        return
    problem = None if known else _unsuitable(inner)
    if problem is None:
        before = inner.__dict__.get("forward")
        inner.forward = _answering(inner)
        try:
            if known is None:
                _agrees[inner] = known = _check(model, inner)
            if known:
                yield True
                return
            problem = "its logits are not those of its last hidden states and its head alone"
        finally:
            if before is None:
                del inner.forward
            else:
                inner.forward = before
    _agrees[inner] = False
    log.warning("%s: %s; losses are computed from whole logits", type(inner).__name__, problem)
    yield False


def causal_model(model: nn.Module) -> Any:
    """Return the causal language model inside what wraps it (DDP, PEFT)."""
    while isinstance(getattr(model, "module", None), nn.Module):
        model = model.module  # type: ignore[assignment]
    get_base = getattr(model, "get_base_model", None)
    return model if get_base is None else get_base()


def _unsuitable(model: Any) -> str | None:
    head = getattr(model, "get_output_embeddings", lambda: None)()
    # A subclass or a replacement (an adapter on the head) may do more than one product.
    if type(head) is not nn.Linear:
        return f"its head is {type(head).__name__}, not Linear"
    if getattr(head, "_forward_hooks", None) or getattr(head, "_forward_pre_hooks", None):
        return "its head has hooks"
    decoder = getattr(model, "get_decoder", lambda: None)()
    return None if isinstance(decoder, nn.Module) and decoder is not model else "its decoder is not known"


def _scale(config: Any) -> float | None:
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name))
    divisor = getattr(config, "logits_scaling", None)
    return None if divisor is None else 1.0 / float(divisor)


def _answering(model: Any) -> Any:
    before = model.forward
    head = _Head(model)

    @functools.wraps(before)
    def forward(self: Any, *args: Any, head_request: HeadRequest | None = None, **kwargs: Any) -> Any:
        if head_request is None:
            return before(*args, **kwargs)
        for left_out in ("labels", "num_items_in_batch", "logits_to_keep"):
            kwargs.pop(left_out, None)
        hidden = self.get_decoder()(*args, **{**kwargs, "use_cache": False}).last_hidden_state
        if head_request.check:
            return HeadOutput(agrees=_same(head.plain(hidden), before(*args, **kwargs).logits))
        return _answer(head, hidden, head_request)

    forward.answers_requests = True  # type: ignore[attr-defined]
    return types.MethodType(forward, model)


def _answer(head: _Head, hidden: torch.Tensor, request: HeadRequest) -> HeadOutput:
    n_rows = len(hidden)
    rows, targets = shift(hidden, request.labels.to(hidden.device))
    weight: Any = request.token_weight
    if weight is None:
        weight = torch.ones(len(targets), device=hidden.device)
    elif isinstance(weight, torch.Tensor):
        weight = weight[:, 1:].flatten()
    found = linear_token_statistics(
        rows,
        head.linear.weight,
        targets,
        token_weight=weight,
        bias=head.linear.bias,
        softcap=head.softcap,
        logit_scale=head.scale,
        label_smoothing=request.label_smoothing,
    )
    values = (found.loss.detach(), found.entropy.detach(), found.correct)
    blanks = (torch.nan, torch.nan, False)
    loss, entropy, correct = (unshift(v, n_rows, blank) for v, blank in zip(values, blanks, strict=True))
    return HeadOutput(total_loss=found.total_loss, token_loss=loss, token_entropy=entropy, token_correct=correct)


def _check(model: nn.Module, inner: Any) -> bool:
    """Compare, on a few tokens, through all that wraps the model."""
    device = next(inner.parameters()).device
    ids = torch.arange(1, 9, device=device)[None] % inner.get_output_embeddings().weight.shape[0]
    with torch.no_grad(), evaluating(model):
        return bool(model(input_ids=ids, head_request=HeadRequest(labels=ids, check=True)).agrees)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape:
        return False
    scale = float(other.float().abs().max())
    # Both are products of the same numbers: half precision rounds them to 8 bits, and not always alike.
    tolerance = 1e-5 if one.dtype == other.dtype == torch.float32 else 2e-2
    return bool((one.float() - other.float()).abs().max() <= tolerance * max(1.0, scale))
