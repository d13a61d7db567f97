"""Checks before training that the model cannot see tokens that methods drop from its input."""

from __future__ import annotations

from functools import partial

import torch

from dynamics.errors import InputError
from dynamics.regularizers.masked_input import MaskedInputRegularization
from dynamics.regularizers.probe import KEPT, dependence_on_dropped
from dynamics.regularizers.token_dropout import TokenDropout
from dynamics.training.environment.generators import evaluating
from dynamics.training.head.fused_head import causal_model
from dynamics.training.head.head_answer import logits_of
from dynamics.training.loop.clean_pass import forward_context
from dynamics.training.loop.methods import Methods


def require_hidden(model: torch.nn.Module, methods: Methods, *, dtype: torch.dtype) -> None:
    """Raise InputError if the logits depend on tokens that a method drops from the input.

    Parameters
    ----------
    model : Module
        The model as training runs it, with the methods' hooks. All ranks must call this.
    methods : Methods
    dtype : torch.dtype
        float32, or the autocast type of training.
    """
    device = next(model.parameters()).device

    def logits(ids: torch.Tensor) -> torch.Tensor:
        return logits_of(model(input_ids=ids))

    for method in methods.all:
        mask = method.input if isinstance(method, MaskedInputRegularization) else method
        if not isinstance(mask, TokenDropout) or mask.settings.target == "loss":
            continue
        with evaluating(model), forward_context(device, dtype):
            found = dependence_on_dropped(logits, mask.n_vocab, mask.armed_with, device)
            if found == 0.0 and mask.settings.replacement == "unattended":
                # The other tokens must not see the replacement token either.
                found = dependence_on_dropped(
                    lambda ids: logits(ids)[:, list(KEPT)],
                    mask.n_vocab,
                    partial(mask.armed_with, bare=True),
                    device,
                )
        if found > 0.0:
            raise InputError(
                f"{type(method).__name__}: the logits of {type(causal_model(model)).__name__} still depend on tokens "
                f"that are dropped from its input (by {found:.2g}), because the model also reads them elsewhere; "
                + ("use target: loss" if mask is method else "remove the method")
            )
