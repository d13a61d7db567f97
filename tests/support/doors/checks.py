"""What must be of every training: records recomputed in float64, masks by their definition, a model left as found."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dynamics.ops.keyed_random import STREAM_DROP, keyed_uniform
from dynamics.records.check import check_run
from dynamics.records.reader import Run
from support.doors.setting import RATIO, Example, Trained


def recomputed(model: torch.nn.Module, examples: Sequence[Example], width: int) -> dict[str, np.ndarray]:
    """Loss, entropy and correctness of each token by plain float64 arithmetic, NaN and false where none is predicted."""
    found = {name: np.full((len(examples), width), np.nan) for name in ("loss", "entropy")}
    correct = np.zeros((len(examples), width), dtype=bool)
    with torch.no_grad():
        for row, example in enumerate(examples):
            ids, labels = (torch.tensor(example[name]) for name in ("input_ids", "labels"))
            log_p = model(input_ids=ids[None]).logits[0].double().log_softmax(-1)[:-1]
            at = torch.nonzero(labels[1:] != -100).flatten()
            found["loss"][row, at + 1] = -log_p[at, ids[at + 1]]
            found["entropy"][row, at + 1] = -(log_p.exp() * log_p).sum(-1)[at]
            correct[row, at + 1] = (log_p[at].argmax(-1) == ids[at + 1]).numpy()
    return {**found, "correct": correct}


def assert_exact(
    trained: Trained,
    *,
    splits: Mapping[str, Sequence[Example]] | None = None,
    atol: float = 2e-5,
    rtol: float = 2e-5,
) -> None:
    """Every recorded epoch whose weights were kept equals the recomputation, the last one and the first among them."""
    run = trained.run
    assert run.complete and run.epochs[-1] in trained.weights
    models = {epoch: trained.load(kept) for epoch, kept in trained.weights.items()}
    given = {"train": trained.train, "validation": trained.validation} if splits is None else splits
    for split, examples in given.items():
        records = run.records(split)
        width = records.token_id.shape[1]
        assert len(records.token_id) == len(examples)
        for row, example in enumerate(examples):
            n = len(example["input_ids"])
            assert records.token_id[row, :n].tolist() == example["input_ids"]
            known = [label != -100 for label in example["labels"]]
            assert records.predicted[row].tolist() == known + [False] * (width - n)
        for epoch, model in models.items():
            expected = recomputed(model, examples, width)
            where = f"{split}, epoch {epoch}"
            for name in ("loss", "entropy"):
                recorded = getattr(records, name)(epoch)
                np.testing.assert_allclose(recorded, expected[name], atol=atol, rtol=rtol, err_msg=f"{where}: {name}")
            assert np.array_equal(records.correct(epoch), expected["correct"]), where


def assert_within_bf16(trained: Trained) -> None:
    """Records are those of the model's own logits under autocast, but for the rounding of those logits.

    Both round alike up to the last hidden states. There the model rounds each logit to bf16, which moves it by at most
    max |z| / 512, and the fused operator rounds none: the log-sum-exp and the token's own logit may each be apart by
    that much, and so the loss by twice as much. The entropy, a mean over all logits, moves by less.
    """
    run = trained.run
    assert run.complete and run.epochs[-1] in trained.weights
    for epoch, kept in trained.weights.items():
        model = trained.load(kept).float()
        for split in ("train", "validation"):
            records = run.records(split)
            ids = torch.from_numpy(records.token_id.astype(np.int64))
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                logits = torch.cat([model(input_ids=part).logits for part in ids.split(4)])[:, :-1]
            assert logits.dtype == torch.bfloat16
            known, log_p = records.predicted[:, 1:], logits.double().log_softmax(-1)
            tolerance = 2 * float(logits.abs().max()) / 512
            assert tolerance < 0.025
            loss = -log_p.gather(-1, ids[:, 1:, None])[..., 0].numpy()
            entropy = -(log_p.exp() * log_p).sum(-1).numpy()
            for name, expected in (("loss", loss), ("entropy", entropy)):
                recorded = getattr(records, name)(epoch)[:, 1:]
                np.testing.assert_allclose(recorded[known], expected[known], rtol=0, atol=tolerance, err_msg=name)
            # Which is the largest logit is rounding's business where two are as near as that.
            first, second = logits.double().topk(2).values.unbind(-1)
            clear = known & ((first - second).numpy() > tolerance)
            correct = (logits.argmax(-1) == ids[:, 1:]).numpy()
            assert np.array_equal(records.correct(epoch)[:, 1:][clear], correct[clear])


def assert_whole(trained: Trained) -> None:
    """The run can be trusted, and the model is as it was found."""
    assert trained.run.complete and check_run(trained.run.path).ok
    assert hooks_on(trained.model) == []


def expected_masks(predicted: np.ndarray, epoch: int, *, seed: int = 0) -> np.ndarray:
    """What `RandomTokenDropout(ratio=RATIO)` drops of rows in the order of the data set, by its definition alone."""
    n_rows, width = predicted.shape
    draw = keyed_uniform(
        seed=seed,
        stream=STREAM_DROP,
        epoch=epoch,
        sequence_id=torch.arange(n_rows)[:, None],
        position=torch.arange(width)[None],
    )
    return predicted & (draw < RATIO).numpy()


def steps(run: Run) -> list[dict[str, Any]]:
    """The rows of metrics but for what a clock says."""
    return [{key: value for key, value in row.items() if key != "tokens_per_second"} for row in run.metrics()]


def assert_the_same(one: Trained, other: Trained) -> None:
    """Two runs hold the same, bit for bit."""
    assert one.run.epochs == other.run.epochs and one.run.splits == other.run.splits
    assert steps(one.run) == steps(other.run)
    for split in one.run.splits:
        mine, theirs = one.run.records(split), other.run.records(split)
        names = ["loss", "entropy", "correct"]
        if split == "train":
            names += ["dropped", *(["training_loss", "training_entropy"] if one.training.training_pass else [])]
        for epoch in one.run.epochs:
            for name in names:
                if epoch or name in ("loss", "entropy", "correct"):
                    found = [getattr(records, name)(epoch) for records in (mine, theirs)]
                    assert np.array_equal(*found, equal_nan=name not in ("correct", "dropped")), (split, epoch, name)
    for (name, weight), same in zip(one.model.state_dict().items(), other.model.state_dict().values(), strict=True):
        assert torch.equal(weight, same), name


def hooks_on(model: torch.nn.Module) -> list[str]:
    """The modules of a model that have hooks, or on the instance a forward that is not their class's."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        name or type(module).__name__
        for name, module in model.named_modules()
        if any(getattr(module, hooks) for hooks in names) or not _is_own(module)
    ]


def _is_own(module: torch.nn.Module) -> bool:
    """Whether a module's forward is that of its class; accelerate leaves that one bound, once or twice."""
    found, own = vars(module).get("forward"), inspect.unwrap(type(module).forward)
    while hasattr(found, "__func__"):
        found = found.__func__
    return found is None or (inspect.unwrap(found) is own and found in (own, type(module).forward))
