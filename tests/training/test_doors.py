"""Every door in every situation: the records are those of a float64 recomputation, or one line refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from support.doors.checks import assert_exact, assert_whole, assert_within_bf16, expected_masks
from support.doors.setting import N_VOCAB, Stream, Training, setting_in
from support.doors.table import BF16, TABLE, cells, rendered
from support.doors.through import train
from support.models import build, examples

from dynamics.errors import InputError
from dynamics.training.batches import dataset_sequences
from dynamics.training.head.fused_head import fused_head

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return setting_in(tmp_path_factory.mktemp("setting"))


def hub_stream(rows):
    return datasets.IterableDataset.from_generator(lambda: iter(rows))


def lora_on_head(model):
    from peft import LoraConfig, get_peft_model

    # The head is seen as it is before the adapter comes.
    with fused_head(model) as plain:
        assert plain
    config = LoraConfig(r=4, target_modules=["lm_head"], task_type="CAUSAL_LM")
    return get_peft_model(model, config, autocast_adapter_dtype=False)


def with_lora(setting):
    from peft import PeftModel

    return lambda folder: PeftModel.from_pretrained(setting.fresh().double(), folder).double().eval()


SITUATIONS = {
    "float32": Training(),
    "bf16 on a CPU": Training(bf16=True),
    "accumulation, a short last window": Training(batch=2, accumulation=2),
    "max_steps within an epoch": Training(steps=4),
    "a fractional num_train_epochs": Training(epochs=1.5),
    "dataloader_drop_last": Training(drop_last=True),
    "batches by length": Training(grouped=True),
    "a stream (datasets)": Training(rows=hub_stream, steps=8),
    "a stream (torch)": Training(rows=Stream, steps=8),
    "an endless stream": Training(rows=lambda rows: Stream(rows, endless=True), steps=8, endless=True),
    "LoRA on lm_head": Training(wrap=lora_on_head),
    "torch_compile": Training(compiled=True, epochs=1),
}
# Of the last epoch that was recorded: what part of the data its pass saw, by the door.
CUT = {
    "max_steps within an epoch": {"plain loop": 1 + 4 / 9, "trainers": 1 + 1 / 3},
    "a fractional num_train_epochs": {"plain loop": 1 + 8 / 9, "trainers": 1 + 2 / 3},
    "a stream (datasets)": {"plain loop": 2 + 8 / 9, "trainers": 2 + 8 / 9},
    "a stream (torch)": {"plain loop": 2 + 8 / 9, "trainers": 2 + 8 / 9},
}
STEPS = {"max_steps within an epoch": 4, "a fractional num_train_epochs": 5, "dataloader_drop_last": 4}
# peft asks for a property that transformers has renamed, and says that it saves what an adapter on the head shares.
ignored = [
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",
    "ignore:Setting `save_embedding_layers` to `True`:UserWarning",
]


def prepared(situation, door, setting, folder):
    """The setting and the training of a cell."""
    training = SITUATIONS[situation]
    if situation == "LoRA on lm_head" and door != "plain loop":
        training = replace(training, load=with_lora(setting))
    if situation == "batches by length" and door != "recipe":
        setting = replace(setting, train=examples(9))
    if situation == "torch_compile":
        # Tracing takes long: one layer, and one shape of batches.
        build("llama", vocab_size=N_VOCAB, num_hidden_layers=1).save_pretrained(folder / "one-layer")
        setting = replace(setting, model=folder / "one-layer", train=setting.train[: None if door == "recipe" else 8])
        training = replace(training, batch=9) if door == "recipe" else training
        torch._dynamo.reset()
    return setting, training


@pytest.mark.parametrize(("situation", "door"), cells(*SITUATIONS))
@pytest.mark.filterwarnings(*ignored)
def test_every_cell(situation, door, setting, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_sequences, "MOST_EXAMPLES", 1000)
    setting, training = prepared(situation, door, setting, tmp_path)
    cell = TABLE[situation][door]
    if cell.refusal is not None:
        with pytest.raises(InputError) as caught:
            train(door, setting, tmp_path, training)
        assert cell.refusal in str(caught.value) and "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())
        return
    trained = train(door, setting, tmp_path, training)
    assert_whole(trained)
    if cell is BF16:
        assert_within_bf16(trained)
    else:
        assert_exact(trained)
    run = trained.run
    cut = CUT.get(situation, {}).get("plain loop" if door == "plain loop" else "trainers")
    assert run.partial_epochs == ({} if cut is None else {run.epochs[-1]: pytest.approx(cut)})
    assert run.manifest["epochs_trained"] == pytest.approx(run.epochs[-1] if cut is None else cut)
    if situation in STEPS:
        assert run.manifest["total_steps"] == STEPS[situation] == run.step(run.epochs[-1])
    assert [row["step"] for row in run.metrics()] == list(range(1, run.manifest["total_steps"] + 1))
    if situation == "LoRA on lm_head":
        adapters = {name: p for name, p in trained.model.named_parameters() if "lora_B" in name}
        assert adapters and all("lm_head" in name and p.abs().max() > 1e-3 for name, p in adapters.items())
    masks_are_those_of_every_door(trained, whole=situation != "dataloader_drop_last")


def masks_are_those_of_every_door(trained, *, whole):
    """By the definition of the method, on what each pass saw."""
    records = trained.run.records("train")
    for epoch in trained.run.epochs[1:]:
        dropped, expected = records.dropped(epoch), expected_masks(records.predicted, epoch)
        assert dropped.any() and not (dropped & ~expected).any()
        if whole and epoch not in trained.run.partial_epochs:
            assert np.array_equal(dropped, expected)
        else:
            # A sequence was in the pass as a whole, or was not.
            seen = dropped.any(axis=1)
            assert np.array_equal(dropped[seen], expected[seen])


@pytest.mark.parametrize("door", ["DynamicsTrainer", "attach"])
def test_batches_by_length_are_recorded_in_the_order_of_the_data(door, setting, tmp_path):
    runs = []
    for seed in (0, 1):
        training = Training(grouped=True, seed=seed, epochs=1)
        mixed = replace(setting, train=examples(9))
        trained = train(door, mixed, tmp_path / str(seed), training)
        assert_exact(trained)
        runs.append(trained.run)
    one, other = (run.records("train") for run in runs)
    assert np.array_equal(one.token_id, other.token_id) and np.array_equal(one.loss(0), other.loss(0), equal_nan=True)
    assert np.array_equal(other.dropped(1), expected_masks(other.predicted, 1, seed=1))


def test_the_page_shows_the_table():
    page = (ROOT / "docs" / "your-own-trainer.md").read_text()
    assert rendered() in page
    assert all(cell.refusal in page for row in TABLE.values() for cell in row.values() if cell.refusal is not None)
