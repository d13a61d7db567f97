"""From a collated batch to what regularisers see of it: which sequence, and where in it, each token is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dynamics.errors import InputError
from dynamics.regularizers.base import Batch
from dynamics.training.batches.layout import Layout, layout, segment_hashes
from dynamics.training.batches.sequence_index import SequenceIndex


def where_in(inputs: Mapping[str, Any], *, pad_token_id: int | None) -> Layout:
    """Return where each token of a collated batch stands.

    Raises
    ------
    InputError
        The batch has no token ids or no labels, or no label for each token.
    """
    for name in ("input_ids", "labels"):
        if inputs.get(name) is None:
            raise InputError(
                f"the batches of this trainer have no {name} (they have {', '.join(map(str, inputs))}), by which "
                "tokens are known; use a collator that keeps them"
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
    """Knows the training set, and says of each batch which of its tokens are where.

    Parameters
    ----------
    keys : Tensor of int64, shape (n_sequences,)
        What the sequences are known by: `sequence_id`, or a hash of their tokens.
    n_positions : int
        Of the longest sequence.
    pad_token_id : int, optional
        What pads rows that have no attention mask.
    """

    def __init__(self, keys: torch.Tensor, n_positions: int, *, pad_token_id: int | None = None) -> None:
        self._index = SequenceIndex(keys)
        self.shape = (len(keys), n_positions)
        self._pad_token_id = pad_token_id

    def read(self, inputs: Mapping[str, Any], *, epoch: int, progress: float) -> tuple[Batch, torch.Tensor]:
        """Return what a collated batch is to regularisers, and how many of its rows hold an unknown sequence.

        No device is waited for: whether the second is 0 is for the caller to see when it has arrived.

        Parameters
        ----------
        inputs : mapping
            As the collator made it; tensors of shape (B, T).
        epoch : int
            The pass over the data, from 1.
        progress : float
            Optimiser steps done over all optimiser steps, in [0, 1).

        Returns
        -------
        Batch
            Tokens of unknown sequences are not predicted in it.
        Tensor of int64, scalar
        """
        where = where_in(inputs, pad_token_id=self._pad_token_id)
        ids, given = inputs["input_ids"], inputs.get("sequence_id")
        if given is None:
            size = ids.numel()
            # -1, padding, looks up the last sequence; nothing is predicted there.
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
    """Say that `n_rows` rows of training batches hold sequences that the training set did not have."""
    return (
        f"{n_rows} rows of a training batch hold a sequence that the training set did not have when training began; "
        "the data set or its collator changes tokens from epoch to epoch, and a token that is not the same cannot be "
        "recorded or dropped by rank"
    )
