"""TrainingArguments as a recipe gives them: what is refused, and what the project sets."""

from __future__ import annotations

import os

import pytest
import torch
from support.simulated_cuda import simulated_cuda

from dynamics.errors import InputError
from dynamics.training.environment.arguments import check_training, forward_dtype, training_arguments


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"learning_rat": 1.0}, "training.learning_rat: .* did you mean 'learning_rate'"),
        ({"learning_rate": "fast"}, "training.learning_rate: 'fast' has the wrong type; TrainingArguments wants float"),
        ({"learning_rate": True}, "training.learning_rate: True has the wrong type; TrainingArguments wants float"),
        ({"learning_rate": 0.0}, "training.learning_rate: 0.0 is out of range; give above 0"),
        ({"per_device_train_batch_size": 0}, "give at least 1"),
        ({"per_device_train_batch_size": 1.5}, "1.5 has the wrong type; TrainingArguments wants int"),
        ({"adam_beta1": 1.5}, "training.adam_beta1: 1.5 is out of range"),
        ({"bf16": "yes"}, "training.bf16: 'yes' has the wrong type; TrainingArguments wants bool"),
        ({"lr_scheduler_type": 3}, "training.lr_scheduler_type: 3 has the wrong type"),
    ],
    ids=str,
)
def test_a_field_of_the_wrong_name_type_or_range(training, message):
    with pytest.raises(InputError, match=message):
        check_training(training)


def test_right_fields_pass_and_the_project_adds_its_own(tmp_path):
    training = {"learning_rate": 1e-3, "lr_scheduler_type": "cosine", "optim": "adamw_torch", "warmup_steps": 0.1}
    args = training_arguments(training, output_dir=tmp_path, seed=7)
    assert (args.learning_rate, str(args.lr_scheduler_type.value), args.warmup_steps) == (1e-3, "cosine", 0.1)
    assert args.seed == args.data_seed == 7 and not args.remove_unused_columns
    assert args.save_strategy == args.eval_strategy == "no"
    assert args.bf16 == (torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False))
    assert forward_dtype(args) == (torch.bfloat16 if args.bf16 else torch.float32)


def test_a_file_that_transformers_wants_and_does_not_find_is_one_message(tmp_path):
    with pytest.raises(InputError, match="^training: TrainingArguments refuses it .*nowhere.json"):
        training_arguments({"accelerator_config": "nowhere.json"}, output_dir=tmp_path, seed=0)


def test_what_only_transformers_finds_is_one_message(tmp_path):
    with pytest.raises(InputError, match="^training: .*lineer"):
        training_arguments({"lr_scheduler_type": "lineer"}, output_dir=tmp_path, seed=0)


@pytest.mark.parametrize(
    ("training", "precision", "wanted"),
    [
        ({}, None, torch.bfloat16),
        ({}, "float32", torch.float32),
        ({}, "float16", torch.float16),
        ({"bf16": False}, None, torch.float32),
        ({"fp16": True}, None, torch.float16),
        ({"fp16": True}, "bfloat16", torch.float16),
        ({"use_cpu": True}, None, torch.float32),
        ({"use_cpu": True}, "bfloat16", torch.bfloat16),
    ],
    ids=str,
)
def test_the_precision_on_a_cuda_device(tmp_path, training, precision, wanted):
    with simulated_cuda():
        args = training_arguments(training, output_dir=tmp_path, seed=0, precision=precision)
        on_cuda = not training.get("use_cpu", False)
        assert forward_dtype(args) == wanted and (args.device.type == "cuda") == on_cuda
        assert args.dataloader_pin_memory == args.accelerator_config.non_blocking == on_cuda


def test_a_device_that_emulates_bf16_trains_in_float32(tmp_path, monkeypatch):
    with simulated_cuda():
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
        assert forward_dtype(training_arguments({}, output_dir=tmp_path, seed=0)) == torch.float32
        monkeypatch.undo()


@pytest.mark.parametrize(("before", "wanted"), [(None, ":16:8"), (":4096:8", ":4096:8")])
def test_what_cublas_needs_for_a_deterministic_training_is_set_at_once(tmp_path, monkeypatch, before, wanted):
    for training, expected in (({}, before), ({"full_determinism": True}, wanted)):
        if before is None:
            monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
        else:
            monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", before)
        with simulated_cuda():
            training_arguments(training, output_dir=tmp_path, seed=0)
        assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == expected
