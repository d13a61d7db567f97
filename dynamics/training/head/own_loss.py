"""Whether a model's own training loss contains more than the cross-entropy of its tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from dynamics.ops.token_statistics import IGNORE_INDEX, shift, token_statistics
from dynamics.training.environment.generators import evaluating
from dynamics.training.head.fused_head import causal_model
from dynamics.training.head.head_answer import last_positions, logits_of


class OwnLoss(NamedTuple):
    """A model's own loss on one row of a batch, and the cross-entropy of the row's tokens alone, in nats."""

    own: float
    cross_entropy: float

    @property
    def excess(self) -> float:
        """What the model adds, for example a router's balance loss or a z-loss. Negative if it leaves something out."""
        return self.own - self.cross_entropy

    @property
    def is_cross_entropy(self) -> bool:
        """Whether the model adds nothing, up to rounding."""
        if not math.isfinite(self.cross_entropy):
            # A diverged model is accepted.
            return not math.isfinite(self.own)
        # float32 means agree to 1e-6, also under autocast, because both use the same logits.
        return abs(self.excess) <= 2e-5 * max(1.0, abs(self.cross_entropy))


def own_loss(model: nn.Module, inputs: Mapping[str, Any], *, dtype: torch.dtype = torch.float32) -> OwnLoss | None:
    """Compare a model's own loss of one row with the mean cross-entropy of the row's predicted tokens.

    A trainer that computes the token loss itself would miss what a model adds to its own loss, such as Mixtral's router
    loss or Bamba's z-loss. Some models add it only in training. Therefore the causal model's `training` flag is set,
    while its submodules stay in evaluation mode, without dropout. Modes and global generators are restored on return.

    Parameters
    ----------
    model : Module
        A causal language model, or a wrapper of one.
    inputs : mapping
        A collated batch, with `labels` of shape (B, T), on the model's device. The row with the most predicted tokens
        is used.
    dtype : torch.dtype
        float32, or the autocast type of training.

    Returns
    -------
    OwnLoss or None
        None if no row predicts a token, or the model returns no loss.
    """
    labels = inputs["labels"]
    n_predicted = (labels[:, 1:] != IGNORE_INDEX).sum(dim=1)
    row = int(n_predicted.argmax())
    if not int(n_predicted[row]):
        return None
    left_out = ("num_items_in_batch", "sequence_id")
    one = {
        key: value[row : row + 1] if isinstance(value, torch.Tensor) and value.shape[:1] == labels.shape[:1] else value
        for key, value in inputs.items()
        if key not in left_out
    }
    inner = causal_model(model)
    device = labels.device.type
    with torch.no_grad(), evaluating(model), torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
        inner.training = True  # only this flag: the submodules stay in evaluation mode
        output = model(**one)
    own = output[0] if isinstance(output, tuple) else getattr(output, "loss", None)
    if own is None or own.numel() != 1:
        return None
    # With labels, a tuple has the loss first.
    logits = logits_of(output[1:] if isinstance(output, tuple) else output)
    logits = last_positions(logits, one["labels"])
    # Some decoders (BART's) expect labels that are already shifted. This does not count as an addition.
    pairs = (shift(logits, one["labels"]), (logits.flatten(0, 1), one["labels"].flatten()))
    found = [_mean_loss(*pair) for pair in pairs]
    return OwnLoss(own=float(own), cross_entropy=min(found, key=lambda value: abs(value - float(own))))


def _mean_loss(logits: torch.Tensor, targets: torch.Tensor) -> float:
    # A few rows at a time: the float64 logits of a long row may need more memory than training itself.
    loss = token_statistics(logits, targets).loss[targets != IGNORE_INDEX]
    return float(loss.cpu().double().mean())
