"""Loss threshold: a token counts only while its own loss lies on one side of a threshold.

MemFT (Xu et al. 2026, arXiv 2605.30260) spends the training on the tokens that are not learned by heart yet: one whose
probability is above 1/2, a loss below ln 2, is recalled by greedy decoding whatever the others are, and leaves the
loss. Of its two variants this is the one with the threshold alone (MemFT-OT), as in the code that the authors published
(zjunlp/ParametricMemoryLaw, steer/trainer/MemFTModelTrainer.py): a token counts if its loss in this very step is above
the threshold. What differs from it:

- The sum is divided by the number of all predicted tokens of the accumulated batch, as in loss truncation and
  entropy-adaptive weighting; theirs by the number of tokens that count, which is known only once all losses are.
- Where no token counts, the loss is 0, as in their `only_threshold_zero_bp`; their `only_threshold` takes the mean over
  all tokens then.

Their aim is to memorise better. As a baseline against overfitting both directions make sense: `counts: above`, theirs,
stops at a loss of ln 2, so that what is known is not learned by heart any further; `counts: below` leaves out what the
model fits worst, as loss truncation does by a quantile.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dynamics.regularizers.base import ActsOn, Regularizer, signature_of_settings
from dynamics.validation import Settings

if TYPE_CHECKING:
    import torch


class LossThresholdSettings(Settings):
    """Loss threshold: a token counts while its loss is above ln 2 (MemFT, arXiv 2605.30260)."""

    name: Literal["loss_threshold"] = "loss_threshold"
    threshold: float = Field(
        default=math.log(2.0), gt=0.0, description="in nats; ln 2 is the loss of a token of probability 1/2"
    )
    counts: Literal["above", "below"] = Field(
        default="above",
        description="the tokens that count: those whose loss is above the threshold, or those at or below it",
    )


class LossThreshold(Regularizer):
    """Give no weight to tokens whose loss in this step is at or below a threshold, or to those above it.

    Which tokens these are is known only once their losses are, so that they are not among the records' dropped
    tokens.

    Parameters
    ----------
    threshold : float, default ln 2
        In nats, above 0; ln 2 is the loss of a token of probability 1/2 (MemFT, arXiv 2605.30260).
    counts : {"above", "below"}, default "above"
        Which tokens count: those whose loss is above the threshold (the paper), or those at or below it.

    Raises
    ------
    InputError
        A setting is unknown, given by position, of the wrong type or out of range.
    """

    settings_model = LossThresholdSettings
    acts_on: ClassVar[tuple[ActsOn, ...]] = ("token losses",)
    adapts = True
    settings: LossThresholdSettings

    @signature_of_settings
    def __init__(self, *, threshold: float = math.log(2.0), counts: Literal["above", "below"] = "above") -> None: ...

    def adaptive_weight(
        self, loss: torch.Tensor, entropy: torch.Tensor, kept: torch.Tensor, logits: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return 1 for the tokens that count, else 0; a loss of NaN counts, so that it is seen."""
        threshold = self.settings.threshold
        left_out = loss <= threshold if self.settings.counts == "above" else loss > threshold
        return (~left_out).float()
