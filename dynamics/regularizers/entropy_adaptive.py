"""Entropy-adaptive weighting: a token's loss counts for as much as its prediction was uncertain.

EAFT (Diao et al. 2026, arXiv 2601.02151) multiplies each token's loss by the entropy of the prediction, without a
gradient through it. A model that is sure of another token (low entropy, high loss: a "confident conflict") is left
as it is. The entropy is that of the 20 most probable tokens, renormalised. What it is divided by differs:

- `paper`: ln K, so that the weight is in [0, 1] (K the vocabulary's size where `top_k` is null);
- `llama_factory`: 3.0, for ln 20 = 2.996 (hiyouga/LLaMA-Factory, src/llamafactory/train/trainer_utils.py, where the
  authors merged their code), whatever K;
- `axolotl`: nothing (axolotl-ai-cloud/axolotl, src/axolotl/monkeypatch/loss/eaft.py), so that weights reach
  ln K: three times the gradient of the others.

Both codes divide the weighted sum by the number of predicted tokens, not by the sum of weights, and so does this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field

from dynamics.errors import InputError
from dynamics.regularizers.base import ActsOn, Regularizer, Removable, signature_of_settings
from dynamics.validation import Settings

if TYPE_CHECKING:
    import torch
    from torch import nn


class EntropyAdaptiveWeightingSettings(Settings):
    """Entropy-adaptive weighting: each loss times the entropy of its prediction (EAFT, arXiv 2601.02151)."""

    name: Literal["entropy_adaptive_weighting"] = "entropy_adaptive_weighting"
    top_k: int | None = Field(
        default=20,
        ge=2,
        description="entropy over the K most probable tokens, renormalised; null: over the whole vocabulary",
    )
    alpha: float = Field(default=1.0, gt=0.0, le=100.0, description="power of the weight")
    normalize: Literal["paper", "llama_factory", "axolotl"] = Field(
        default="paper", description="what the entropy is divided by: ln K, 3, or nothing"
    )


class EntropyAdaptiveWeighting(Regularizer):
    """Multiply each token's loss by (entropy / c)**alpha (EAFT, arXiv 2601.02151).

    Parameters
    ----------
    top_k : int, optional, default 20
        The entropy is that of the `top_k` most probable tokens, renormalised, at least 2. None takes the whole
        vocabulary, and then no logits are held.
    alpha : float, default 1.0
        Power of the weight, in (0, 100].
    normalize : {"paper", "llama_factory", "axolotl"}, default "paper"
        What the entropy is divided by (c): ln K, with K the `top_k` or the vocabulary's size; 3; or 1.

    Raises
    ------
    InputError
        A setting is unknown, given by position, of the wrong type or out of range.
    """

    settings_model = EntropyAdaptiveWeightingSettings
    acts_on: ClassVar[tuple[ActsOn, ...]] = ("token losses",)
    adapts = True
    settings: EntropyAdaptiveWeightingSettings

    @signature_of_settings
    def __init__(
        self,
        *,
        top_k: int | None = 20,
        alpha: float = 1.0,
        normalize: Literal["paper", "llama_factory", "axolotl"] = "paper",
    ) -> None: ...

    def set_up(self) -> None:
        #: The whole vocabulary's entropy comes with the loss; that of the most probable tokens is found in logits.
        self.needs_logits = self.settings.top_k is not None
        self._n_vocab: int | None = None

    def attach(self, model: nn.Module, embedding: nn.Module | None = None) -> Sequence[Removable]:
        """Note the vocabulary's size; nothing is hooked."""
        import torch

        head = cast(Any, model).get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        for module in (head, embedding):
            if self._n_vocab is None and isinstance(weight := getattr(module, "weight", None), torch.Tensor):
                self._n_vocab = weight.shape[0]
        return ()

    def adaptive_weight(
        self, loss: torch.Tensor, entropy: torch.Tensor, kept: torch.Tensor, logits: torch.Tensor | None = None
    ) -> torch.Tensor:
        if self.settings.top_k is not None:
            assert logits is not None, "whoever computes losses gives what is asked for"
            size = min(self.settings.top_k, logits.shape[1])
            entropy = top_entropy(logits, size)
        else:
            size = self._vocabulary(logits)
        divisor = {"paper": math.log(size), "llama_factory": 3.0, "axolotl": 1.0}[self.settings.normalize]
        # Rounding may leave an entropy just below 0, of which a power would be NaN.
        return (entropy.float().clamp_min(0.0) / divisor) ** self.settings.alpha

    def _vocabulary(self, logits: torch.Tensor | None) -> int:
        size = self._n_vocab if logits is None else logits.shape[1]
        if size is None and self.settings.normalize == "paper":
            raise InputError(
                "entropy_adaptive_weighting: normalize: paper with top_k: null divides by the logarithm of the "
                "vocabulary's size, and the model does not tell it; give its input embedding to attach"
            )
        return size or 2


def top_entropy(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Return the entropy of the k most probable tokens' probabilities, renormalised to sum to 1.

    Parameters
    ----------
    logits : Tensor, shape (N, V)
        Any floating type.
    k : int
        At most V.

    Returns
    -------
    Tensor of float32, shape (N,)
        In nats, in [0, ln k].
    """
    import torch

    # Sorting in the logits' own type chooses the same, and spares a float32 copy of them.
    log_p = logits.topk(k, dim=-1).values.float().log_softmax(dim=-1)
    p = log_p.exp()
    # 0 log 0 = 0, where a logit is -inf. No term is below 0, of which a power would be NaN.
    return torch.where(p > 0, -p * log_p, 0.0).sum(dim=-1)
