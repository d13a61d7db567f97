"""Rows of logits held at a time: by cache on a CPU, by memory elsewhere, and the same whenever it is asked."""

from types import SimpleNamespace

import pytest
import torch

from dynamics.ops import chunking
from dynamics.ops.chunking import rows_per_chunk, spans

CUDA = torch.device("cuda", 0)


@pytest.fixture
def card(monkeypatch):
    """Puts a card with so many bytes in place of what is there."""

    def put(total):
        chunking._device_bytes.cache_clear()
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=total))

    yield put
    chunking._device_bytes.cache_clear()


def test_on_a_cpu():
    for v in (1, 4_096, 32_000, 151_936):
        rows = rows_per_chunk(v, torch.float32, torch.device("cpu"))
        assert rows % 16 == 0 and 64 <= rows <= 192
        assert rows == 64 or rows * v * 4 <= 32 << 20


@pytest.mark.parametrize(
    ("gigabytes", "n_vocab", "dtype", "rows"),
    [
        # A sixteenth of an H100 is 5.31e9 bytes: over 6 * 151,936 that is 5,820 rows; in float32 8,730.
        (84.9, 151_936, torch.bfloat16, 5_632),
        (84.9, 151_936, torch.float16, 5_632),
        (84.9, 151_936, torch.float32, 8_192),
        (84.9, 151_936, torch.float64, 4_096),
        (84.9, 262_144, torch.bfloat16, 3_072),
        (84.9, 32_000, torch.bfloat16, 8_192),
        # An H200; cards with 24 GB; and one with 8, where fewer rows would spend too much on the weight's gradient.
        (150.0, 151_936, torch.bfloat16, 8_192),
        (25.3, 151_936, torch.bfloat16, 1_536),
        (25.3, 50_257, torch.bfloat16, 5_120),
        (8.5, 151_936, torch.bfloat16, 1_024),
    ],
)
def test_by_memory(card, gigabytes, n_vocab, dtype, rows):
    card(int(gigabytes * 1e9))
    assert rows_per_chunk(n_vocab, dtype, CUDA) == rows
    # Another driver's few MiB more or less change nothing.
    card(int(gigabytes * 1e9) - (16 << 20))
    assert rows_per_chunk(n_vocab, dtype, CUDA) == rows


def test_free_memory_does_not_matter(card, monkeypatch):
    def unasked(*args):
        raise AssertionError("asked for what is free")

    for name in ("mem_get_info", "memory_allocated", "memory_reserved"):
        monkeypatch.setattr(torch.cuda, name, unasked)
    card(int(84.9e9))
    assert {rows_per_chunk(151_936, torch.bfloat16, CUDA) for _ in range(3)} == {5_632}


@pytest.mark.parametrize("device", ["meta", "mps", "xpu"])
def test_a_device_that_does_not_tell(device):
    # 2**30 / (6 * 50,304) = 3,557.
    assert rows_per_chunk(50_304, torch.bfloat16, torch.device(device)) == 3_072
    assert rows_per_chunk(1, torch.float32, torch.device(device)) == 8_192
    assert rows_per_chunk(151_936, torch.bfloat16, torch.device(device)) == 1_024


def test_cuda_without_a_card(monkeypatch):
    # Tensors without values, on a machine that has none.
    chunking._device_bytes.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert rows_per_chunk(50_304, torch.bfloat16, CUDA) == 3_072
    chunking._device_bytes.cache_clear()


def test_spans():
    assert spans(5, 2) == [(0, 2), (2, 4), (4, 5)] and spans(0, 2) == []
