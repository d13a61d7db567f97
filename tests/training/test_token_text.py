"""Trainings of one's own say how exact the texts of their tokens are, and bits per byte go by it."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.models import Padder, build
from transformers import TrainingArguments

from dynamics import DynamicsTrainer, LoopRecorder, TokenRecorder, open_run
from dynamics.analysis.estimands.forgetting import forgetting
from dynamics.analysis.estimands.value_curves import bits_per_byte_curves, curves_by_split
from dynamics.analysis.tokens.token_bytes import token_bytes
from dynamics.corpus.tokenizer import token_text_facts, train_tokenizer
from dynamics.errors import InputError
from dynamics.records.reader import Run

TEXTS = ["north wind and sun 😀 argue", "who of them is the stronger", "a warm cloak, eine kühle Straße"]


def tokenizer() -> Any:
    return train_tokenizer(TEXTS, vocab_size=270)


def examples(made: Any) -> list[dict[str, Any]]:
    rows = [[*made(text)["input_ids"], made.eos_token_id] for text in TEXTS]
    return [{"input_ids": ids, "labels": ids} for ids in rows]


def trained(folder: Path, processing_class: Any, *, epochs: int = 1, resume: bool = False, **more: Any) -> Run:
    arguments = TrainingArguments(
        output_dir=str(folder / "out"),
        num_train_epochs=epochs,
        per_device_train_batch_size=2,
        report_to="none",
        save_strategy="epoch",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    data = examples(tokenizer())
    given: dict[str, Any] = {"train_dataset": data, "eval_dataset": data, **more}
    DynamicsTrainer(
        model=build(vocab_size=270),
        args=arguments,
        data_collator=Padder(),
        processing_class=processing_class,
        recorder=TokenRecorder(folder / "run", dtype="float32"),
        **given,
    ).train(resume_from_checkpoint=resume)
    return open_run(folder / "run")


@pytest.mark.filterwarnings("ignore:intervals over")
def test_a_trainer_with_a_byte_level_tokenizer(tmp_path: Path) -> None:
    run = trained(tmp_path, tokenizer())
    assert run.manifest["token_text"] == {"spelled_as": "bytes", "special_ids": [0, 1]}
    records = run.records("validation")
    found = token_bytes(records)
    # Every text's bytes, without the special token at its end; what is predicted is all but the first token.
    assert found.sum(axis=1).tolist() == [len(text.encode()) for text in TEXTS]
    assert (found[:, 1:] * records.predicted[:, 1:]).sum() + found[:, 0].sum() == sum(len(t.encode()) for t in TEXTS)
    (curve,) = bits_per_byte_curves(run)
    bits = records.loss(1)[records.predicted].astype(np.float64).sum() / math.log(2)
    assert curve.values.estimate[1, 0] == pytest.approx(bits / (found.sum() - found[:, 0].sum()), rel=1e-12)


@pytest.mark.filterwarnings("ignore:intervals over")
def test_several_evaluation_sets_have_curves_and_forgetting(tmp_path: Path) -> None:
    data = examples(tokenizer())
    run = trained(tmp_path, tokenizer(), eval_dataset={"domain": data[:2], "general": data[2:]})
    curves = curves_by_split(run, "bits_per_byte")
    assert list(curves) == ["train", "validation-domain", "validation-general"]
    (row,) = forgetting(run)
    records = run.records("validation-general")
    before, after = (records.loss(e)[records.predicted].astype(float).mean() for e in (0, 1))
    assert row.final.estimate[0] == pytest.approx(after - before, rel=1e-9)
    with pytest.raises(InputError, match="no split 'validation': it has train, validation-domain, validation-general"):
        bits_per_byte_curves(run)


def test_what_goes_on_keeps_its_texts_and_what_was_said_of_them(tmp_path: Path) -> None:
    trained(tmp_path, tokenizer())
    run = trained(tmp_path, None, epochs=2, resume=True)
    assert run.epochs == [0, 1, 2] and run.manifest["token_text"]["spelled_as"] == "bytes"
    assert run.records("train").document_text(0).startswith(TEXTS[0])


def test_without_a_tokenizer_bytes_are_refused(tmp_path: Path) -> None:
    run = trained(tmp_path / "trainer", None)
    assert run.manifest["token_text"] == {"spelled_as": "numbers", "special_ids": []}
    with pytest.raises(InputError, match=r"trainer/run was recorded without a tokenizer; give the trainer its process"):
        bits_per_byte_curves(run)


def test_a_loop_of_ones_own_says_it_too(tmp_path: Path) -> None:
    made = tokenizer()
    batches = [
        {"input_ids": torch.tensor([row["input_ids"]]), "labels": torch.tensor([row["labels"]])}
        for row in examples(made)
    ]
    with LoopRecorder(TokenRecorder(tmp_path / "run")) as recorder:
        recorder.begin(build(vocab_size=270), train=batches, total_steps=3, tokenizer=made)
    run = open_run(tmp_path / "run")
    assert run.manifest["token_text"]["spelled_as"] == "bytes"
    found, records = token_bytes(run.records("train")), run.records("train")
    assert found.sum(axis=1).tolist() == [len(text.encode()) for text in TEXTS]
    assert records.document_text(0) == TEXTS[0] + made.eos_token


def test_what_is_said_of_tokenizers() -> None:
    made = tokenizer()
    made.add_special_tokens({"additional_special_tokens": ["<|user|>"]})
    made.add_tokens(["ordinary"])
    assert token_text_facts(made) == {
        "spelled_as": "bytes",
        "special_ids": [0, 1, made.convert_tokens_to_ids("<|user|>")],
    }
    slow = SimpleNamespace(all_special_ids=[3, 1])
    assert token_text_facts(slow) == {"spelled_as": "vocabulary", "special_ids": [1, 3]}
    assert token_text_facts(None) == {"spelled_as": "numbers", "special_ids": []}
