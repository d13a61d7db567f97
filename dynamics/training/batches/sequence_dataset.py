"""Packed sequences as the Trainer wants them, in an order that depends on seed and epoch alone."""

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
    token_id : ndarray of int, shape (n_sequences, n_positions)
    labels : ndarray of int64, shape (n_sequences, n_positions)
        -100 where there is no prediction.
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
    """A new permutation of the sequences in each epoch, keyed by (seed, epoch, sequence_id).

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
        """Choose the pass over the data. The data loader counts from 0, everything else here from 1."""
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
