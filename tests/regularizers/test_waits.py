"""No method makes the host wait for the device while training goes on."""

import pytest
import torch
from support.batches import rows_batch, training_data
from support.canonical import CANONICAL, method_of
from support.models import build

from benchmarks.waits import counting_waits

N_VOCAB = 64


@pytest.mark.parametrize(
    "waits",
    [
        lambda x, mask: x[0].item(),
        lambda x, mask: float(x[1]),
        lambda x, mask: bool(mask[0]),
        lambda x, mask: x.tolist(),
        lambda x, mask: x.cpu(),
        lambda x, mask: x.numpy(),
        lambda x, mask: x[mask],
        lambda x, mask: x.masked_select(mask),
        lambda x, mask: mask.nonzero(),
        lambda x, mask: torch.where(mask),
        lambda x, mask: x.clone().__setitem__(mask, 0.0),
        lambda x, mask: torch.unique_consecutive(x),
        lambda x, mask: torch.equal(x, x),
        lambda x, mask: x.repeat_interleave(x.long()),
        lambda x, mask: x.to("meta"),
    ],
)
def test_what_waits_is_counted_with_its_place(waits):
    x = torch.arange(6.0)
    with counting_waits() as found:
        waits(x, x > 2)
    assert len(found) == 1 and found[0].stack[0].startswith("test_waits.py") and not found[0].ours


def test_what_does_not_wait_is_not_counted():
    x = torch.arange(6.0)
    mask = x > 2
    with counting_waits() as found:
        _ = x[torch.tensor([1])], x[1:], torch.where(mask, x, 0), x.masked_fill(mask, 0.0), x.sort().values, x.to("cpu")
    assert found == []


def step(method, data, device, epoch):
    """What training asks of a method in a step of two micro-batches, without the model's own forward."""
    for rows in (torch.arange(0, 8), torch.arange(8, 16)):
        values = {"loss": torch.rand(data.predicted.shape), "entropy": torch.rand(data.predicted.shape)}
        batch = on(device, rows_batch(data.predicted, rows, epoch=epoch, **values))
        loss, entropy = batch.loss[:, 1:].flatten(), batch.entropy[:, 1:].flatten()
        n = len(loss)
        with counting_waits() as found:
            method.token_weight(batch)  # as where kept tokens are counted beforehand
            method.begin_batch(batch)
            method.token_weight(batch)
            if method.adapts:
                kept = torch.ones(n, dtype=torch.bool, device=device)
                logits = torch.zeros(n, N_VOCAB, device=device) if method.needs_logits else None
                told = {"rows": slice(None)} if method.needs_rows else {}
                method.adaptive_weight(loss, entropy, kept, logits, **told)
            method.dropped(batch)
            method.begin_auxiliary(batch)
            method.end_auxiliary()
            method.end_batch()
        yield found
    with counting_waits() as found:
        method.ratio(0.5)
        method.end_step()
    yield found


def on(device, batch):
    moved = {key: value.to(device) for key, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    return type(batch)(**{**vars(batch), **moved})


def made(name, data):
    [method] = method_of(CANONICAL[name])
    method.prepare(data)
    method.attach(build())
    if method.needs_epoch_values:
        method.end_epoch(0, data.reference_loss, data.reference_entropy)
    return method


@pytest.fixture(scope="module")
def data():
    return training_data(16, 20, tokenizer=[None] * N_VOCAB)


@pytest.mark.parametrize("name", CANONICAL)
def test_no_method_waits_in_a_step(name, data):
    method = made(name, data)
    for epoch in (1, 2):
        for found in step(method, data, "cpu", epoch):
            assert found == []


@pytest.mark.parametrize("name", CANONICAL)
def test_tables_go_to_the_device_once(name, data):
    method = made(name, data)
    copies = [len(found) for found in step(method, data, "meta", 1)]
    assert copies[0] <= 3 and sum(copies[1:]) == 0
    assert not any(step(method, data, "meta", 2))


@pytest.mark.parametrize("name", CANONICAL)
def test_no_hook_waits_in_a_forward_pass(name, data):
    model = build(attn_implementation="eager").train()
    [method] = method_of(CANONICAL[name])
    method.prepare(data)
    method.attach(model)
    values = {"loss": torch.rand(data.predicted.shape), "entropy": torch.rand(data.predicted.shape)}
    batch = rows_batch(data.predicted, torch.arange(4), **values)
    ids = torch.from_numpy(data.token_id).long()[:4]
    with counting_waits() as found:
        method.begin_batch(batch)
        model(input_ids=ids).logits.sum().backward()
        method.begin_auxiliary(batch)
        model(input_ids=ids).logits.sum().backward()
        method.end_auxiliary()
        method.end_batch()
    assert [wait for wait in found if wait.ours] == []
