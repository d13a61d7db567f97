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
from transformers import PreTrainedTokenizerBase

from dynamics.errors import InputError
from dynamics.ops.keyed_random import STREAM_DROP, STREAM_REPLACEMENT, keyed_uniform
from dynamics.regularizers.base import ActsOn, Batch, Regularizer, Removable, TrainingData
from dynamics.regularizers.pools import edge_of_share, lowest_share
from dynamics.regularizers.schedules import strength
from dynamics.regularizers.settings import (
    EntroDropSettings,
    InverseEntroDropSettings,
    PooledDropoutSettings,
    RandomTokenDropoutSettings,
    TokenDropoutSettings,
)
from dynamics.validation import validated


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
        self._predicted: torch.Tensor | None = None
        self._seed = 0
        self._replacement_id = -1
        self._armed: tuple[Batch, torch.Tensor] | None = None

    @property
    def pool(self) -> float:
        """Share of the predicted tokens that may be dropped."""
        return 1.0

    def eligible(self, batch: Batch) -> torch.Tensor:
        """Return the tokens of `batch` that may be dropped, bool of shape (B, T)."""
        return batch.predicted

    def prepare(self, data: TrainingData) -> None:
        self._predicted = torch.from_numpy(data.predicted)
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
        assert self._predicted is not None, "prepare() comes first"
        if self._armed is not None and self._armed[0] is batch:
            return self._armed[1]
        draw = self._draw(STREAM_DROP, batch)
        may_be = self.eligible(batch) & batch.predicted & batch.look_up(self._predicted)
        return may_be & (draw < self.ratio(batch.progress) / self.pool)

    def _draw(self, stream: int, batch: Batch) -> torch.Tensor:
        return keyed_uniform(
            seed=self._seed,
            stream=stream,
            epoch=batch.epoch,
            sequence_id=batch.sequence_id,
            position=batch.position,
        )

    def attach(self, model: nn.Module, embedding: nn.Module | None = None) -> Sequence[Removable]:
        if self.settings.target == "loss":
            return ()
        embedding = cast(Any, model).get_input_embeddings() if embedding is None else embedding
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
                draw = self._draw(STREAM_REPLACEMENT, batch)
                return cast(nn.Embedding, module).forward((draw * n_vocab).long())
        raise AssertionError(self.settings.replacement)


class _PooledDropout(TokenDropout):
    settings: PooledDropoutSettings
    _highest: ClassVar[bool]

    def __init__(self, settings: PooledDropoutSettings) -> None:
        super().__init__(settings)
        current = settings.source == "current"
        self.needs_current_values = current
        self.needs_epoch_values = settings.source == "previous_epoch" or (current and settings.ranks == "dataset")
        self._group: torch.Tensor | None = None
        self._eligible: torch.Tensor | None = None  # over the training set, where the pool is known beforehand
        self._edge = -torch.inf  # the highest value in the pool, where current values are ranked by the last epoch's

    @property
    def pool(self) -> float:
        return self.settings.pool

    def prepare(self, data: TrainingData) -> None:
        super().prepare(data)
        rows = np.arange(len(data.predicted))[:, None]
        group = {"dataset": None, "sequence": rows, "document": data.document_id}[self.settings.ranks]
        if group is not None:
            self._group = torch.from_numpy(np.broadcast_to(group, data.predicted.shape).astype(np.int64))
        self._rank(data.reference_loss, data.reference_entropy)

    def end_epoch(self, epoch: int, loss: np.ndarray | None, entropy: np.ndarray | None) -> None:
        if self.needs_epoch_values:
            assert loss is not None and entropy is not None, "the trainer gives what is asked for"
            self._rank(loss, entropy)

    def eligible(self, batch: Batch) -> torch.Tensor:
        if not self.needs_current_values:
            assert self._eligible is not None, "prepare() comes first"
            return batch.look_up(self._eligible)
        assert batch.loss is not None and batch.entropy is not None, "the trainer gives what is asked for"
        values = self._signal(batch.loss, batch.entropy)
        if self._group is None:
            return values <= self._edge
        # A document's tokens are ranked within its part in this sequence: no other is at hand.
        group = batch.sequence_id if self.settings.ranks == "sequence" else self._part(batch)
        return lowest_share(values, batch.predicted, self.settings.pool, group)

    def _rank(self, loss: np.ndarray, entropy: np.ndarray) -> None:
        """Rank the training set by values of one model."""
        assert self._predicted is not None, "prepare() comes first"
        values = self._signal(torch.from_numpy(loss), torch.from_numpy(entropy))
        unknown = (values.isnan() & self._predicted).any(dim=1).sum()
        if unknown and not self.needs_current_values:
            raise InputError(
                f"{type(self).__name__}: no value is known of {unknown} of {len(values)} sequences, so their tokens "
                "cannot be ranked; record all training sequences (train_sequences: all), and see that none is NaN"
            )
        if self.needs_current_values:
            self._edge = edge_of_share(values, self._predicted, self.settings.pool)
        else:
            self._eligible = lowest_share(values, self._predicted, self.settings.pool, self._group)

    def _signal(self, loss: torch.Tensor, entropy: torch.Tensor) -> torch.Tensor:
        values = entropy if self.settings.signal == "entropy" else loss
        return -values if self._highest else values

    def _part(self, batch: Batch) -> torch.Tensor:
        assert self._group is not None
        # Documents are numbered below 2**31, and so are sequences.
        return batch.look_up(self._group) + (batch.sequence_id << 32)


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
