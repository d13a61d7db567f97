"""Small trainings on any device, through the doors that people drive themselves."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments

from dynamics import LoopRecorder
from support.models import Padder, build, examples

DATA = examples(24)
STEPS_PER_PASS = 6  # of four examples

# The field's name before and after transformers 5.20 or so.
CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in TrainingArguments.__dataclass_fields__
)


def model(name: str = "qwen3", **changes: Any) -> PreTrainedModel:
    """A tiny model whose attention is plain products, which a device computes in one way alone."""
    return build(name, attn_implementation="eager", **changes)


def arguments(folder: Path, device: torch.device, **changes: Any) -> TrainingArguments:
    """Two passes over `DATA`, in float32 unless told otherwise, without checkpoints."""
    fields = {
        "output_dir": str(folder / "out"),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        # transformers' own look at each loss is no business of ours.
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "use_cpu": device.type == "cpu",
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(**{**fields, **changes})


def batches(device: torch.device) -> list[dict[str, torch.Tensor]]:
    """`DATA`, four examples a batch, on the device."""
    found = [Padder()(DATA[at : at + 4]) for at in range(0, len(DATA), 4)]
    return [{name: values.to(device) for name, values in batch.items()} for batch in found]


def steps(
    trained: PreTrainedModel, given: Iterable[Any], recorder: LoopRecorder | None, dtype: torch.dtype = torch.float32
) -> Any:
    """Take an optimiser step a batch as one writes it oneself, with a recorder or without; yields after each."""
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3)
    device_type = trained.device.type
    for batch in given:
        with torch.autocast(device_type, dtype, enabled=dtype != torch.float32):
            if recorder is None:
                loss = trained(**batch).loss
            else:
                with recorder.batch(batch) as left:
                    loss = trained(**left).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if recorder is not None:
            recorder.step()
        yield


def weights(trained: Any) -> dict[str, torch.Tensor]:
    """A model's weights on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in trained.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two models' weights are equal to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
