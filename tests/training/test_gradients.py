"""Accumulated gradients are those of the whole batch, for every method that acts on the loss.

transformers' own label smoother divided by each micro-batch's tokens until 5.15.
"""

from __future__ import annotations

import pytest
import torch
from support.models import Padder, build, examples
from transformers import TrainerCallback, TrainingArguments

from dynamics import DynamicsTrainer
from dynamics.regularizers.entrodrop import EntroDrop
from dynamics.regularizers.entropy_adaptive import EntropyAdaptiveWeighting
from dynamics.regularizers.goldfish import GoldfishLoss
from dynamics.regularizers.label_smoothing import LabelSmoothing
from dynamics.regularizers.loss_threshold import LossThreshold
from dynamics.regularizers.loss_truncation import LossTruncation
from dynamics.regularizers.masked_input import MaskedInputRegularization
from dynamics.regularizers.selective_loss import SelectiveLoss

METHODS = {
    "none": lambda: [],
    "label smoothing": lambda: [LabelSmoothing(factor=0.2)],
    "loss dropout": lambda: [EntroDrop(ratio=0.4, schedule="constant", target="loss")],
    "loss dropout, kept": lambda: [EntroDrop(ratio=0.4, schedule="constant", target="loss", normalize="kept")],
    "goldfish": lambda: [GoldfishLoss(h=2, k=3)],
    "entropy-adaptive": lambda: [EntropyAdaptiveWeighting()],
    "truncation": lambda: [LossTruncation(fraction=0.4, warmup=1)],
    "threshold": lambda: [LossThreshold(threshold=3.5)],
    "masked input": lambda: [MaskedInputRegularization()],
    "masked input and goldfish, kept": lambda: [
        MaskedInputRegularization(replacement="random"),
        GoldfishLoss(h=2, k=3),
    ],
    "selective": lambda: [SelectiveLoss(share=0.5)],
    "lowest, stairs": lambda: [
        EntroDrop(ratio=0.4, choice="lowest", target="loss", schedule={"name": "linear", "stairs": 2})
    ],
    "three together": lambda: [
        LabelSmoothing(factor=0.2),
        EntroDrop(ratio=0.4, schedule="constant", target="both"),
        EntropyAdaptiveWeighting(),
    ],
}


class Gradients(TrainerCallback):
    """Keeps the gradients that the optimiser gets in each step."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append({name: p.grad.clone() for name, p in model.named_parameters()})


def gradients(path, methods, size, accumulation):
    """Of 2 steps of 12 examples whose lengths differ widely, with a learning rate of 0."""
    args = TrainingArguments(
        output_dir=str(path),
        num_train_epochs=1,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulation,
        learning_rate=0.0,
        max_grad_norm=0.0,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    kept = Gradients()
    data = examples(24, lowest=3, highest=30)
    trainer = DynamicsTrainer(build(), args, Padder(), train_dataset=data, regularizers=methods, callbacks=[kept])
    trainer.train()
    assert len(kept.steps) == 2
    return kept.steps


@pytest.mark.parametrize("name", METHODS)
def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path, name):
    whole = gradients(tmp_path / "whole", METHODS[name](), 12, 1)
    plain = gradients(tmp_path / "plain", [], 12, 1)
    differs = any(not torch.allclose(one, plain[1][key]) for key, one in whole[1].items())
    assert differs == (name != "none")
    for size, accumulation in ((4, 3), (1, 12)):
        parts = gradients(tmp_path / str(size), METHODS[name](), size, accumulation)
        for one, other in zip(whole, parts, strict=True):
            for key, gradient in one.items():
                scale = float(gradient.abs().max())
                torch.testing.assert_close(other[key], gradient, rtol=0, atol=1e-5 * scale, msg=f"{key} {size}")
