"""Which token of a batch belongs to which sequence, and where in it.

A trainer's batch may be padded on either side, or packed: several sequences in one row, told apart by
position_ids that start again at 0. Recording and regularisers know a token by (sequence, position) alone, so that
they do not depend on how a collator laid it out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from dynamics.errors import InputError
from dynamics.ops.keyed_random import mixed
from dynamics.ops.token_statistics import IGNORE_INDEX


class Layout(NamedTuple):
    """Where each token of a batch of shape (B, T) stands.

    Attributes
    ----------
    segment : Tensor of int64, shape (B, T)
        Sequences of the batch, numbered from 0 in reading order; -1 at padding.
    position : Tensor of int64, shape (B, T)
        Position in its sequence, from 0; 0 at padding.
    predicted : Tensor of bool, shape (B, T)
        Tokens with a label and a token of the same sequence before them.
    """

    segment: torch.Tensor
    position: torch.Tensor
    predicted: torch.Tensor

    def n_segments(self) -> int:
        """Return how many sequences the batch holds. Waits for the device: not for training's own batches."""
        return int(self.segment.max()) + 1


def layout(
    input_ids: torch.Tensor,
    labels: torch.Tensor,
    *,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    pad_token_id: int | None = None,
) -> Layout:
    """Return where each token of a batch stands.

    Parameters
    ----------
    input_ids, labels : Tensor of int64, shape (B, T)
        Labels are -100 where nothing is predicted.
    attention_mask : Tensor, shape (B, T), optional
        0 at padding. Without it, padding is the run of `pad_token_id` without labels at the end of a row, and in a
        packed row each position 0 that follows a position 0.
    position_ids : Tensor of int64, shape (B, T) or (1, T), optional
        As the model gets them; a new sequence begins where they are 0.
    pad_token_id : int, optional

    Raises
    ------
    InputError
        The attention mask is not of shape (B, T), so that padding cannot be told.
    """
    if attention_mask is not None:
        if attention_mask.shape != input_ids.shape:
            raise InputError(
                f"attention_mask has shape {tuple(attention_mask.shape)}; recording needs the padding mask of shape "
                f"{tuple(input_ids.shape)}: leave masks of other shapes to the model"
            )
        real = attention_mask != 0
    elif pad_token_id is not None:
        blank = (input_ids == pad_token_id) & (labels == IGNORE_INDEX)
        real = ~blank.flip(1).cumprod(1).flip(1).bool()
    else:
        real = torch.ones_like(input_ids, dtype=torch.bool)
    start = torch.zeros_like(real)
    start[:, 0] = True
    if position_ids is not None:
        at_zero = (position_ids == 0).expand_as(input_ids)
        start |= at_zero
    # The first token after padding on the left begins a sequence too.
    start[:, 1:] |= ~real[:, :-1]
    start &= real
    number = start.flatten().cumsum(0).view_as(input_ids) - 1
    column = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
    first = torch.where(start, column, 0).cummax(1).values
    predicted = (labels != IGNORE_INDEX) & real & ~start
    return Layout(torch.where(real, number, -1), torch.where(real, column - first, 0), predicted)


def segment_hashes(input_ids: torch.Tensor, where: Layout, *, size: int) -> torch.Tensor:
    """Return a hash of the token ids of each sequence of a batch; no device is waited for.

    Parameters
    ----------
    input_ids : Tensor of int64, shape (B, T)
    where : Layout
    size : int
        At least the number of sequences; B T is never too small.

    Returns
    -------
    Tensor of int64, shape (size,)
        A sum of SplitMix64 chains over (position, token), so that it does not depend on the place in the batch;
        0 past the last sequence. Of a million sequences, two share a hash with a probability of 3e-8.
    """
    real = where.segment >= 0
    keys = torch.where(real, mixed(where.position, input_ids), 0)
    # Padding adds to one place more than there are.
    index = torch.where(real, where.segment, size)
    sums = torch.zeros(size + 1, dtype=torch.int64, device=input_ids.device)
    return sums.index_add_(0, index.flatten(), keys.flatten())[:size]
