"""EntroDrop and the two controls that make a claim about it worth anything.

EntroDrop (arXiv 2512.23422) drops tokens that the model predicts with low entropy, more of them as training
goes on. This is a reconstruction from its abstract and summaries; docs/methods.md lists the readings. The
controls drop the same expected share of tokens: `RandomTokenDropout` from all predicted tokens,
`InverseEntroDrop` from those of high entropy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dynamics.errors import InputError
from dynamics.ops.keyed_random import STREAM_DROP, STREAM_REPLACEMENT, keyed_uniform
from dynamics.regularizers.base import ActsOn, Batch, Regularizer, TrainingData
from dynamics.regularizers.schedules import strength
from dynamics.regularizers.settings import (
    EntroDropSettings,
    InverseEntroDropSettings,
    PooledDropoutSettings,
    RandomTokenDropoutSettings,
    TokenDropoutSettings,
)
from dynamics.validation import validated


def lowest_share(values: np.ndarray, predicted: np.ndarray, share: float) -> np.ndarray:
    """Return the predicted tokens with the lowest values.

    Parameters
    ----------
    values : ndarray, shape (n_sequences, n_positions)
    predicted : ndarray of bool, same shape
    share : float
        In (0, 1].

    Returns
    -------
    ndarray of bool, same shape
        round(share n) of the n predicted tokens. Among equal values the earlier token comes first, so that
        the pool has exactly its size.
    """
    where = np.flatnonzero(predicted)
    order = np.argsort(values.reshape(-1)[where], kind="stable")
    chosen = np.zeros(predicted.size, dtype=bool)
    chosen[where[order[: round(share * len(where))]]] = True
    return chosen.reshape(predicted.shape)


def replace_embeddings(embedding: torch.Tensor, mask: torch.Tensor, replacement: torch.Tensor | float) -> torch.Tensor:
    """Return `embedding` (B, T, H) with the rows where `mask` (B, T) is set replaced."""
    if isinstance(replacement, float):
        return embedding.masked_fill(mask[..., None], replacement)
    return torch.where(mask[..., None], replacement.to(embedding.dtype), embedding)


class TokenDropout(Regularizer):
    """What EntroDrop and its controls share: a mask keyed by token and epoch, and what it does to a token."""

    acts_on: ClassVar[tuple[ActsOn, ...]] = ("input embeddings", "token losses")
    settings: TokenDropoutSettings

    def __init__(self, settings: TokenDropoutSettings) -> None:
        self.settings = settings
        self._eligible: torch.Tensor | None = None
        self._seed = 0
        self._replacement_id = -1
        self._armed: tuple[Batch, torch.Tensor] | None = None

    @property
    def pool(self) -> float:
        """Share of the predicted tokens that may be dropped."""
        return 1.0

    def eligible(self, data: TrainingData) -> np.ndarray:
        """Return the tokens that may be dropped, bool of shape (n_sequences, n_positions)."""
        return data.predicted

    def prepare(self, data: TrainingData) -> None:
        self._eligible = torch.from_numpy(self.eligible(data) & data.predicted)
        self._seed = data.seed
        if self.settings.replacement == "token":
            self._replacement_id = _token_id(self.settings.replacement_token, data.tokenizer)

    def ratio(self, progress: float) -> float:
        return self.settings.ratio * strength(self.settings.schedule, progress)

    def dropped(self, batch: Batch) -> torch.Tensor:
        """Return the tokens of `batch` that are dropped, bool of shape (B, T).

        Each eligible token is dropped with probability ratio / pool, by a draw that depends on nothing but
        (seed, epoch, sequence_id, position).
        """
        assert self._eligible is not None, "prepare() comes first"
        device = batch.sequence_id.device
        eligible = self._eligible[batch.sequence_id.to(self._eligible.device)].to(device)
        draw = keyed_uniform(
            seed=self._seed,
            stream=STREAM_DROP,
            epoch=batch.epoch,
            sequence_id=batch.sequence_id,
            n_positions=eligible.shape[1],
        )
        return eligible & batch.predicted & (draw < self.ratio(batch.progress) / self.pool)

    def attach(self, model: PreTrainedModel) -> Sequence[RemovableHandle]:
        if self.settings.target == "loss":
            return ()
        embedding = model.get_input_embeddings()
        if not isinstance(embedding, nn.Module):
            raise InputError(
                f"{type(self).__name__}: {type(model).__name__} has no input embeddings to act on; use target: loss"
            )
        return (embedding.register_forward_hook(self._replace),)

    def begin_batch(self, batch: Batch) -> None:
        self._armed = (batch, self.dropped(batch))

    def end_batch(self) -> None:
        self._armed = None

    def token_weight(self, batch: Batch) -> torch.Tensor | None:
        return None if self.settings.target == "input" else (~self.dropped(batch)).float()

    @property
    def normalizes_by_kept(self) -> bool:
        return self.settings.normalize == "kept"

    def _replace(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        if self._armed is None:  # evaluation, generation, recording
            return None
        batch, mask = self._armed
        return replace_embeddings(output, mask, self._replacement(module, batch))

    def _replacement(self, module: nn.Module, batch: Batch) -> torch.Tensor | float:
        # module.forward, not module(...): other hooks (NEFTune's noise) must not act on the replacement.
        device = batch.sequence_id.device
        match self.settings.replacement:
            case "zero":
                return 0.0
            case "mean":
                weight = cast(torch.Tensor, module.weight).detach()
                return weight.mean(dim=0) * getattr(module, "scalar_embed_scale", 1.0)
            case "token":
                embed = cast(nn.Embedding, module)
                return embed.forward(torch.tensor(self._replacement_id, device=device)).detach()
            case "random":
                n_vocab = cast(torch.Tensor, module.weight).shape[0]
                draw = keyed_uniform(
                    seed=self._seed,
                    stream=STREAM_REPLACEMENT,
                    epoch=batch.epoch,
                    sequence_id=batch.sequence_id,
                    n_positions=batch.predicted.shape[1],
                )
                return cast(nn.Embedding, module).forward((draw * n_vocab).long())
        raise AssertionError(self.settings.replacement)


class _PooledDropout(TokenDropout):
    settings: PooledDropoutSettings
    _highest: ClassVar[bool]

    @property
    def pool(self) -> float:
        return self.settings.pool

    def eligible(self, data: TrainingData) -> np.ndarray:
        values = data.reference_entropy if self.settings.signal == "entropy" else data.reference_loss
        return lowest_share(-values if self._highest else values, data.predicted, self.settings.pool)


class EntroDrop(_PooledDropout):
    """Drop tokens of low reference entropy along a curriculum (arXiv 2512.23422, reconstructed).

    Parameters
    ----------
    **settings
        Fields of `EntroDropSettings`: ratio, pool, schedule, signal, target, replacement, replacement_token,
        normalize.

    Raises
    ------
    InputError
        A field is unknown, of the wrong type or out of range, or `ratio` exceeds `pool`.
    """

    _highest = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(validated(EntroDropSettings, settings, where="EntroDrop"))


class InverseEntroDrop(_PooledDropout):
    """The control that drops tokens of high reference entropy; parameters as for `EntroDrop`."""

    _highest = True

    def __init__(self, **settings: Any) -> None:
        super().__init__(validated(InverseEntroDropSettings, settings, where="InverseEntroDrop"))


class RandomTokenDropout(TokenDropout):
    """The control that drops any predicted token; parameters as for `EntroDrop`, without pool and signal."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(validated(RandomTokenDropoutSettings, settings, where="RandomTokenDropout"))


def _token_id(token: int | str | None, tokenizer: PreTrainedTokenizerBase) -> int:
    if isinstance(token, int):
        if 0 <= token < len(tokenizer):
            return token
    elif token in (vocabulary := tokenizer.get_vocab()):
        return vocabulary[token]
    raise InputError(
        f"replacement_token: {token!r} is not in the tokenizer's vocabulary of {len(tokenizer)} entries; give an id "
        "below that, or a token as the vocabulary spells it"
    )
