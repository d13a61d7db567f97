"""What is drawn by keys is the same on every device: numbers, masks, and what is looked up for them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.batches import rows_batch, training_data
from support.canonical import CANONICAL, method_of
from support.splitmix import uniform

from dynamics.ops.keyed_random import STREAM_DROP, STREAM_REPLACEMENT, keyed_uniform
from dynamics.regularizers.tables import DeviceTable
from dynamics.training.loop.methods import Methods

LARGE = [0, 1, 5, 2**31, 2**62]


@pytest.mark.parametrize(("seed", "stream", "epoch"), [(0, STREAM_DROP, 1), (2**64 - 2, STREAM_REPLACEMENT, 10**6)])
def test_numbers_are_those_of_python_integers(device, seed, stream, epoch):
    found = keyed_uniform(
        seed=seed,
        stream=stream,
        epoch=epoch,
        sequence_id=torch.tensor(LARGE, device=device)[:, None],
        position=torch.arange(9, device=device),
    )
    assert found.device.type == device.type and found.dtype == torch.float64
    assert found.tolist() == [[uniform(seed, stream, epoch, s, p) for p in range(9)] for s in LARGE]


def test_a_million_numbers_are_those_of_numpy(device):
    sequence, position = np.arange(1000, dtype=np.uint64)[:, None], np.arange(1000, dtype=np.uint64)

    def finalised(z):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    with np.errstate(over="ignore"):
        state = np.zeros(1, dtype=np.uint64)
        for key in (np.uint64(3), np.uint64(STREAM_DROP), np.uint64(2), sequence, position):
            state = finalised(state + (key + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    rows = torch.arange(1000, device=device)
    found = keyed_uniform(seed=3, stream=STREAM_DROP, epoch=2, sequence_id=rows[:, None], position=rows)
    assert np.array_equal(found.cpu().numpy(), (state >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def test_a_table_is_looked_up_where_the_batch_is(device):
    values = np.random.default_rng(0).random((60, 50)).astype(np.float32)
    table = DeviceTable(values)
    sequence, position = torch.randint(60, (4, 9)), torch.randint(50, (4, 9))
    batch = rows_batch(np.ones((60, 50), dtype=bool))
    batch = type(batch)(**{**vars(batch), "sequence_id": sequence.to(device), "position": position.to(device)})
    found = batch.look_up(table)
    assert found.device.type == device.type
    assert np.array_equal(found.cpu().numpy(), values[sequence.numpy(), position.numpy()])
    assert table.on(batch.sequence_id.device) is table.on(batch.sequence_id.device)  # copied once


@pytest.mark.parametrize("name", [name for name in CANONICAL if Methods(method_of(CANONICAL[name])).drop])
def test_masks_are_those_of_a_cpu_whatever_the_order_of_the_rows(device, name):
    data = training_data()
    predicted = torch.as_tensor(data.predicted)
    generator = torch.Generator().manual_seed(1)
    values = {key: torch.rand(predicted.shape, generator=generator) for key in ("loss", "entropy")}

    def mask(rows, where):
        (method,) = method_of(CANONICAL[name])
        method.prepare(data)
        if method.needs_epoch_values:
            method.end_epoch(0, data.reference_loss, data.reference_entropy)
        batch = rows_batch(data.predicted, rows, epoch=2, **values)
        fields = {key: v.to(where) if isinstance(v, torch.Tensor) else v for key, v in vars(batch).items()}
        found = method.dropped(type(batch)(**fields))
        assert found.device.type == torch.device(where).type
        return found.cpu()

    rows = torch.arange(16)
    here = mask(rows, "cpu")
    assert here.any() and torch.equal(mask(rows.flip(0), device).flip(0), here)
