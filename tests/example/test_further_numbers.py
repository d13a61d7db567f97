"""Bits per byte, accuracy, ensembles and changes of the example, recomputed from its files with numpy alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.prose import says

from dynamics import load_example
from dynamics.analysis.estimands.forgetting import forgetting
from dynamics.analysis.estimands.value_curves import value_curves
from dynamics.analysis.sums.arms import Arm, collect_arms
from dynamics.analysis.sums.ensembles import ensemble


def files_of(run: Path, epoch: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tokens of the validation set, and its values after an epoch."""
    tokens = load_file(run / "tokens" / "validation.safetensors")
    values = load_file(run / "epochs" / f"epoch-{epoch:04d}" / "validation-00000-of-00001.safetensors")
    rows = range(len(tokens["token_id"]))
    assert values["sequence_id"].tolist() == tokens["recorded_sequence_id"].tolist() == list(rows)
    return tokens, values


def test_the_numbers_of_the_example() -> None:
    study = load_example()
    arms = collect_arms(study)
    numbers = {
        number: {row.arm: row for row in value_curves(study, number)} for number in ("bits_per_byte", "accuracy")
    }
    changes = {row.arm: row for row in forgetting(study, split="validation")}
    for arm in arms:
        for epoch in (arm.epochs[0], arm.epochs[-1]):
            read = [files_of(run.path, epoch) for run in arm.runs]
            tokens = read[0][0]
            # Predicted is what follows a token of its own document in its row.
            document = tokens["document_id"]
            predicted = np.zeros(document.shape, dtype=bool)
            predicted[:, 1:] = (document[:, 1:] == document[:, :-1]) & (document[:, 1:] >= 0)
            losses = np.array([values["loss"].astype(np.float64)[predicted] for _, values in read])
            n_bytes = (tokens["byte_end"] - tokens["byte_start"])[predicted].sum()
            bits = losses.sum(axis=1) / np.log(2) / n_bytes
            assert numbers["bits_per_byte"][arm.name].by_seed[:, epoch, 0] == pytest.approx(bits, rel=1e-10)
            right = [
                np.unpackbits(values["correct"], axis=-1, bitorder="little")[:, : document.shape[1]][predicted].mean()
                for _, values in read
            ]
            assert numbers["accuracy"][arm.name].values.estimate[epoch, 0] == pytest.approx(np.mean(right), rel=1e-10)
            together = -np.log(np.exp(-losses).mean(axis=0)).mean()
            sums = ensemble(arm).sums("validation")
            found = sums.sums[epoch].sum() / sums.counts.sum()
            assert found == pytest.approx(together, rel=1e-10)
            before = [
                values["loss"].astype(np.float64)[predicted].mean()
                for _, values in (files_of(run.path, arm.epochs[0]) for run in arm.runs)
            ]
            change = losses.mean() - np.mean(before)
            assert changes[arm.name].values.estimate[epoch, 0] == pytest.approx(change, abs=1e-10)


def test_what_the_page_says_of_the_ensemble() -> None:
    arms = collect_arms(load_example())
    ends = {arm.name: mean_loss(arm) for arm in arms}
    together = mean_loss(ensemble(arms[0]))
    others = ", ".join(f"{name} {end:.3f}" for name, end in ends.items())
    said = f"the ensemble of three baselines ends at {together:.3f} nats; the arms' means over seeds are {others}"
    says("docs/analysis.md", said)


def mean_loss(arm: Arm) -> float:
    """After the last epoch, of all validation tokens and seeds."""
    sums = arm.sums("validation")
    return float(sums.sums[-1].sum() / sums.counts.sum())
