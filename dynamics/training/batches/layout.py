"""The sequence and the position of each token of a batch.

A trainer's batch may be padded on either side, or packed: several sequences in one row, whose position_ids start again
at 0. Recording and regularisers identify a token by (sequence, position), so they do not depend on the layout that a
collator chose. Shapes: B batch rows, T positions of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from dynamics.errors import InputError
from dynamics.ops.keyed_random import mixed
from dynamics.ops.token_statistics import IGNORE_INDEX


class Layout(NamedTuple):
    """The sequence and the position of each token of a batch of shape (B, T).

    Attributes
    ----------
    segment : Tensor of int64, shape (B, T)
        Sequence number within the batch, from 0 in reading order; -1 at padding.
    position : Tensor of int64, shape (B, T)
        Position in its sequence, from 0; 0 at padding.
    predicted : Tensor of bool, shape (B, T)
        Tokens that have a label and follow another token of the same sequence.
    """

    segment: torch.Tensor
    position: torch.Tensor
    predicted: torch.Tensor

    def n_segments(self) -> int:
        """Return the number of sequences in the batch. This waits for the device, so training does not call it."""
        return int(self.segment.max()) + 1


def layout(
    input_ids: torch.Tensor,
    labels: torch.Tensor,
    *,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    pad_token_id: int | None = None,
) -> Layout:
    """Return the sequence and the position of each token of a batch.

    Parameters
    ----------
    input_ids, labels : Tensor of int64, shape (B, T)
        Labels are -100 where nothing is predicted.
    attention_mask : Tensor, shape (B, T), optional
        0 at padding. Without it, padding is the run of `pad_token_id` without labels at the end of a row, and in a
        packed row each position 0 that follows a position 0.
    position_ids : Tensor of int64, shape (B, T) or (1, T), optional
        The model's input. A new sequence begins where they are 0.
    pad_token_id : int, optional

    Raises
    ------
    InputError
        The attention mask is not of shape (B, T), so padding cannot be recognised.
    """
    if attention_mask is not None:
        if attention_mask.shape != input_ids.shape:
            raise InputError(
                f"attention_mask has shape {tuple(attention_mask.shape)}, but recording needs the padding mask of "
                f"shape {tuple(input_ids.shape)}; let the model build masks of other shapes"
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
    """Return a hash of the token ids of each sequence of a batch. This does not wait for the device.

    Parameters
    ----------
    input_ids : Tensor of int64, shape (B, T)
    where : Layout
    size : int
        At least the number of sequences. B T is always enough.

    Returns
    -------
    Tensor of int64, shape (size,)
        A sum of SplitMix64 chains over (position, token), which does not depend on the place in the batch; 0 after the
        last sequence. Among a million sequences, two have the same hash with a probability of 3e-8.
    """
    real = where.segment >= 0
    keys = torch.where(real, mixed(where.position, input_ids), 0)
    # Values at padding are added to one extra entry, which is removed.
    index = torch.where(real, where.segment, size)
    sums = torch.zeros(size + 1, dtype=torch.int64, device=input_ids.device)
    return sums.index_add_(0, index.flatten(), keys.flatten())[:size]
