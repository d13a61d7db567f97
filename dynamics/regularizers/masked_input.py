"""Masked-input regularisation: the loss on the text as it is, and a part of the loss on a randomly masked copy.

MIR (Xu et al. 2026, arXiv 2606.06888): each micro-batch goes through the model twice, once clean and once with random
tokens of its input masked. Both passes predict the same tokens, and the loss is the clean one plus 0.4 times the other.
Of each sequence, in each epoch, another share is masked, drawn uniformly between 0 and 0.5. The code that the authors
published (yixinw-lab/dc_pretrain, dcp/train4_diffusionauxiliary_impl.py, as its scripts call it) differs in

- the mask: a token that is added to the vocabulary, whose embedding is learned. Here the vocabulary stays as it is, so
  that arms share their model; `replacement: mask_token` makes such a token of one that no text holds.
- what is never masked: the first 8 positions of a sequence there; here what has no prediction, as in every method.
- its draws: one generator there; here keys, so that masks do not depend on how a batch is split.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from dynamics.regularizers.base import ActsOn, Batch, Regularizer, Removable, TrainingData, signature_of_settings
from dynamics.regularizers.token_dropout import TokenDropout, TokenDropoutSettings
from dynamics.validation import Settings

if TYPE_CHECKING:
    import torch
    from torch import nn


class MaskedInputRegularizationSettings(Settings):
    """Masked-input regularisation: a second pass, on masked input, adds to the loss (MIR, arXiv 2606.06888)."""

    name: Literal["masked_input_regularization"] = "masked_input_regularization"
    weight: float = Field(
        default=0.4, gt=0.0, le=100.0, description="what the masked pass's loss counts beside the clean one's"
    )
    max_ratio: float = Field(
        default=0.5,
        gt=0.0,
        le=1.0,
        description="the highest share of a sequence's predicted tokens that is masked; its own is uniform below that",
    )
    replacement: Literal["zero", "mean", "token", "mask_token", "random"] = Field(
        default="zero", description="what stands in the input in place of a masked token's embedding"
    )
    replacement_token: int | str | None = Field(
        default=None,
        description="for `replacement: token` or `mask_token`, whose embedding learns where it stands for others: a "
        "token's id or its text in the vocabulary",
    )

    @model_validator(mode="after")
    def _replacement_is_complete(self) -> MaskedInputRegularizationSettings:
        if (self.replacement in ("token", "mask_token")) != (self.replacement_token is not None):
            raise ValueError(
                "replacement_token (a token's id or its text) belongs to replacement: token or mask_token, and each of "
                f"them needs it; replacement is {self.replacement}"
            )
        return self


class MaskedInput(TokenDropout):
    """What the second pass reads: of each sequence a share of its own is masked, another one in each epoch."""

    settings_model = TokenDropoutSettings

    def share(self, batch: Batch) -> torch.Tensor:
        """Return which share of its sequence is masked, for each token: float64 of shape (B, T).

        Uniform between 0 and the settings' `ratio`, by a draw that depends on (seed, epoch, sequence_id) alone.
        """
        import torch

        from dynamics.ops.keyed_random import STREAM_SHARE, keyed_uniform

        draw = keyed_uniform(
            seed=self._seed,
            stream=STREAM_SHARE,
            epoch=batch.epoch,
            sequence_id=batch.sequence_id,
            position=torch.zeros_like(batch.position),
        )
        return draw * self.settings.ratio

    def dropped(self, batch: Batch) -> torch.Tensor:
        """Return the tokens of `batch` that are masked, bool of shape (B, T): each with its sequence's probability."""
        from dynamics.ops.keyed_random import STREAM_MASKED

        if self._armed is not None and self._armed[0] is batch:
            return self._armed[1]
        assert self._predicted is not None, "prepare() comes first"
        may_be = batch.predicted & batch.look_up(self._predicted)
        return may_be & (self._draw(STREAM_MASKED, batch) < self.share(batch))


class MaskedInputRegularization(Regularizer):
    """Add `weight` times the loss on a randomly masked copy of the input (MIR, arXiv 2606.06888).

    A step takes two forward passes and their gradients, so it lasts about twice as long and holds the activations of
    both. What is recorded is the first pass's: its loss is the run's `training_loss`, nothing counts as dropped, and
    `auxiliary_loss` in the metrics is what the second adds to it.

    Parameters
    ----------
    weight : float, default 0.4
        What the masked pass's loss counts beside the clean one's, in (0, 100] (the paper's value).
    max_ratio : float, default 0.5
        The highest share of a sequence's predicted tokens that is masked, in (0, 1]; each sequence has a share of its
        own in each epoch, uniform between 0 and this (the paper's value).
    replacement : {"zero", "mean", "token", "mask_token", "random"}, default "zero"
        What stands in the input for a masked token, as in `EntroDrop`. The paper's is a learned mask token:
        "mask_token".
    replacement_token : int or str, optional
        A token's id, or its text in the vocabulary, for `replacement` "token" or "mask_token".

    Raises
    ------
    InputError
        A setting is unknown, given by position, of the wrong type or out of range, or a replacement's token is
        missing.
    """

    settings_model = MaskedInputRegularizationSettings
    acts_on: ClassVar[tuple[ActsOn, ...]] = ("input embeddings", "loss")
    settings: MaskedInputRegularizationSettings

    @signature_of_settings
    def __init__(
        self,
        *,
        weight: float = 0.4,
        max_ratio: float = 0.5,
        replacement: Literal["zero", "mean", "token", "mask_token", "random"] = "zero",
        replacement_token: int | str | None = None,
    ) -> None: ...

    def set_up(self) -> None:
        self.auxiliary_weight = self.settings.weight
        #: What the second pass reads.
        self.input = MaskedInput(
            ratio=self.settings.max_ratio,
            replacement=self.settings.replacement,
            replacement_token=self.settings.replacement_token,
        )

    def prepare(self, data: TrainingData) -> None:
        self.input.prepare(data)

    def attach(self, model: nn.Module, embedding: nn.Module | None = None) -> Sequence[Removable]:
        """Hook the model's input and its embeddings, as `TokenDropout` does; armed in the second pass alone."""
        return self.input.attach(model, embedding)

    def begin_auxiliary(self, batch: Batch) -> None:
        self.input.begin_batch(batch)

    def end_auxiliary(self) -> None:
        self.input.end_batch()
