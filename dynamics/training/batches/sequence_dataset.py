"""Packed sequences as a data set for the Trainer, in an order that depends only on seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from dynamics.ops.keyed_random import STREAM_ORDER, keyed_uniform


class SequenceDataset(Dataset[dict[str, torch.Tensor]]):
    """Sequences as ``input_ids``, ``labels`` and ``sequence_id``.

    Parameters
    ----------
    token_id : ndarray of int, shape (S, P)
    labels : ndarray of int64, shape (S, P)
        -100 where nothing is predicted.
    """

    def __init__(self, token_id: np.ndarray, labels: np.ndarray) -> None:
        self._token_id = torch.from_numpy(token_id.astype(np.int64))
        self._labels = torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self._token_id)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {
            "input_ids": self._token_id[index],
            "labels": self._labels[index],
            "sequence_id": torch.tensor(index, device="cpu"),
        }


class KeyedOrder(Sampler[int]):
    """A new permutation of the sequences for each epoch, determined by (seed, epoch, sequence_id).

    Parameters
    ----------
    n_sequences : int
    seed : int
    """

    def __init__(self, n_sequences: int, seed: int) -> None:
        self._n_sequences = n_sequences
        self._seed = seed
        self._epoch = 1

    def set_epoch(self, epoch: int) -> None:
        """Set the pass over the data. The data loader counts from 0; this library counts from 1."""
        self._epoch = epoch + 1

    def __len__(self) -> int:
        return self._n_sequences

    def __iter__(self) -> Iterator[int]:
        draw = keyed_uniform(
            seed=self._seed,
            stream=STREAM_ORDER,
            epoch=self._epoch,
            sequence_id=torch.arange(self._n_sequences, device="cpu"),
            position=torch.zeros(1, dtype=torch.int64, device="cpu"),
        )
        return iter(torch.argsort(draw, stable=True).tolist())
