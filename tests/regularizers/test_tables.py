"""Tables over the training set: copied to a device once, looked up by place."""

import numpy as np
import torch

from dynamics.regularizers.base import Batch
from dynamics.regularizers.tables import DeviceTable


def test_a_table_is_copied_to_each_device_once():
    table = DeviceTable(np.arange(6).reshape(2, 3))
    cpu, meta = torch.device("cpu"), torch.device("meta")
    assert table.on(cpu).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert table.on(cpu) is table.on(cpu) and table.on(meta) is table.on(meta)
    assert table.on(meta).device.type == "meta"


def test_a_batch_looks_its_places_up():
    batch = Batch(
        sequence_id=torch.tensor([[1, 1, 0]]),
        position=torch.tensor([[0, 2, 1]]),
        predicted=torch.ones(1, 3, dtype=torch.bool),
        epoch=1,
        progress=0.0,
    )
    assert batch.look_up(DeviceTable(np.arange(6).reshape(2, 3))).tolist() == [[3, 5, 1]]
