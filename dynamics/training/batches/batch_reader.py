"""Turns a collated batch into what regularisers use: the sequence and the position of each token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dynamics.errors import InputError
from dynamics.regularizers.base import Batch
from dynamics.training.batches.layout import Layout, layout, segment_hashes
from dynamics.training.batches.sequence_index import SequenceIndex


def where_in(inputs: Mapping[str, Any], *, pad_token_id: int | None) -> Layout:
    """Return the sequence and the position of each token of a collated batch.

    Raises
    ------
    InputError
        The batch has no token ids, no labels, or not one label per token.
    """
    for name in ("input_ids", "labels"):
        if inputs.get(name) is None:
            raise InputError(
                f"the batches of this trainer have no {name} (they have {', '.join(map(str, inputs))}), which is "
                "needed to identify tokens; use a collator that keeps it"
            )
    ids, labels = inputs["input_ids"], inputs["labels"]
    if ids.ndim != 2 or labels.shape != ids.shape:
        raise InputError(
            f"labels have shape {tuple(labels.shape)} and input_ids {tuple(ids.shape)}: recording and regularisers "
            "work on causal language models, whose batches have one label for each token"
        )
    return layout(
        ids,
        labels,
        attention_mask=inputs.get("attention_mask"),
        position_ids=inputs.get("position_ids"),
        pad_token_id=pad_token_id,
    )


class BatchReader:
    """Knows the training set, and finds the sequence and position of each token of a batch.

    Parameters
    ----------
    keys : Tensor of int64, shape (S,)
        Identify the sequences: `sequence_id`, or a hash of their tokens.
    n_positions : int
        Length of the longest sequence.
    pad_token_id : int, optional
        The token that pads rows without an attention mask.
    """

    def __init__(self, keys: torch.Tensor, n_positions: int, *, pad_token_id: int | None = None) -> None:
        self._index = SequenceIndex(keys)
        self.shape = (len(keys), n_positions)
        self._pad_token_id = pad_token_id

    def read(self, inputs: Mapping[str, Any], *, epoch: int, progress: float) -> tuple[Batch, torch.Tensor]:
        """Return a collated batch as regularisers see it, and the number of its rows with an unknown sequence.

        This does not wait for the device. The caller checks the number of unknown rows once it has arrived on the host.

        Parameters
        ----------
        inputs : mapping
            The collator's output; tensors of shape (B, T).
        epoch : int
            The pass over the data, from 1.
        progress : float
            Optimiser steps done, divided by all optimiser steps, in [0, 1).

        Returns
        -------
        Batch
            Tokens of unknown sequences are marked as not predicted.
        Tensor of int64, scalar
        """
        where = where_in(inputs, pad_token_id=self._pad_token_id)
        ids, given = inputs["input_ids"], inputs.get("sequence_id")
        if given is None:
            size = ids.numel()
            # At padding the segment is -1, which looks up the last sequence. Nothing is predicted there.
            rows = self._index.rows(segment_hashes(ids, where, size=size))[where.segment]
        else:
            rows = self._index.rows(torch.as_tensor(given).to(ids.device))[:, None].expand_as(ids)
        known = (rows >= 0) & (where.position < self.shape[1])
        unknown = (where.predicted & ~known).any(dim=1).sum()
        batch = Batch(
            sequence_id=rows.clamp_min(0),
            position=where.position.clamp_max(self.shape[1] - 1),
            predicted=where.predicted & known,
            epoch=epoch,
            progress=progress,
        )
        return batch, unknown


def unknown_rows_message(n_rows: int) -> str:
    """Return the message that `n_rows` rows of training batches hold sequences that are not in the training set."""
    return (
        f"{n_rows} rows of a training batch hold a sequence that was not in the training set when training began; "
        "the data set or its collator changes tokens between epochs, and changed tokens cannot be recorded or "
        "dropped by rank"
    )
