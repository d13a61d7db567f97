"""A training set of random values, and batches of it, for tests of regularisers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dynamics.regularizers.base import Batch, TrainingData


def training_data(
    n_sequences: int = 60, n_positions: int = 50, seed: int = 5, tokenizer: Any = None, n_vocab: int = 64
) -> TrainingData:
    """Documents of 17 tokens, packed; nine tenths of the others have a prediction."""
    rng = np.random.default_rng(0)
    predicted = rng.random((n_sequences, n_positions)) < 0.9
    predicted[:, 0] = False
    entropy = rng.random(predicted.shape).astype(np.float32)
    loss = rng.random(predicted.shape).astype(np.float32)
    entropy[~predicted] = loss[~predicted] = np.nan
    return TrainingData(
        token_id=rng.integers(0, n_vocab, predicted.shape).astype(np.int32),
        document_id=(np.arange(predicted.size) // 17).reshape(predicted.shape).astype(np.int32),
        predicted=predicted,
        reference_loss=loss,
        reference_entropy=entropy,
        tokenizer=tokenizer,
        seed=seed,
    )


def rows_batch(predicted: Any, rows: Any = None, *, epoch: int = 1, progress: float = 0.5, **values: Any) -> Batch:
    """A batch whose rows are whole sequences: `rows` of the training set, or all."""
    predicted = torch.as_tensor(predicted)
    rows = torch.arange(len(predicted)) if rows is None else torch.as_tensor(rows)
    shape = (len(rows), predicted.shape[1])
    return Batch(
        sequence_id=rows[:, None].expand(shape),
        position=torch.arange(shape[1]).expand(shape),
        predicted=predicted[rows],
        epoch=epoch,
        progress=progress,
        **{name: value[rows] for name, value in values.items()},
    )
