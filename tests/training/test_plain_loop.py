"""A loop of one's own: recorded as it is, changed by regularisers alone, and resumed as if nothing had happened."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.launching import launch
from support.models import Padder, build, examples
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset, IterableDataset

from dynamics import EntroDrop, LoopRecorder, TokenRecorder, WeightDecay, open_run
from dynamics.errors import InputError
from dynamics.records.check import check_run
from dynamics.regularizers.entropy_adaptive import EntropyAdaptiveWeighting
from dynamics.regularizers.hidden_dropout import HiddenDropout
from dynamics.regularizers.random_token_dropout import RandomTokenDropout

TESTS = Path(__file__).parents[1]
DATA = examples(13)
N_BATCHES = 4  # of four, the last of one
N_STEPS = 2  # of two batches


def batches(data=DATA, side="right", size=4):
    """All examples in batches, in order."""
    return [Padder(side)(data[start : start + size]) for start in range(0, len(data), size)]


def order(epoch):
    """The batches of a pass: other examples together in each, by a generator of its own."""
    rows = torch.randperm(len(DATA), generator=torch.Generator().manual_seed(epoch)).tolist()
    return [Padder()([DATA[row] for row in rows[start : start + 4]]) for start in range(0, len(DATA), 4)]


def model_with_dropout():
    """One that draws from the global generator in each forward pass."""
    return build("gpt2", resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1)


def optimizer_of(model):
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


def train(model, recorder, optimizer, *, epochs=3, resume_from=None, save=None, validation=None, **options):
    """A loop with accumulation over two batches; `save` is (step, folder, "step" or "epoch"), after which it ends."""
    done = recorder.begin(
        model,
        train=batches(),
        validation=validation,
        total_steps=epochs * N_STEPS,
        resume_from=resume_from,
        settings={"lr": 1e-2},
        **options,
    )
    start, skipped = divmod(done, N_STEPS)

    def saved(when):
        if save is None or (done, when) != (save[0], save[2]):
            return False
        recorder.save(save[1])
        torch.save([model.state_dict(), optimizer.state_dict(), torch.get_rng_state()], save[1] / "loop.pt")
        return True

    with recorder:
        for epoch in range(start, epochs):
            model.train()
            for number, batch in enumerate(order(epoch)):
                if number < 2 * skipped:
                    continue
                with recorder.batch(batch) as left:
                    loss = model(**left).loss / 2
                loss.backward()
                if number % 2 == 1:
                    optimizer.step()
                    optimizer.zero_grad()
                    recorder.step(learning_rate=1e-2)
                    done += 1
                    if saved("step"):
                        return
            skipped = 0
            recorder.epoch()
            if saved("epoch"):
                return
        recorder.finish()


def assert_plain(
    run, model, data, *, split="train", epoch, tolerance=2e-5, logits=lambda model, ids: model(ids).logits
):
    """Records equal what the model says of each example alone."""
    records = run.records(split)
    model.eval()
    assert len(records.token_id) == len(data)
    for row, example in enumerate(data):
        ids = torch.tensor(example["input_ids"])
        with torch.no_grad():
            log_p = logits(model, ids[None])[0].double().log_softmax(-1)
        at = torch.tensor([i for i, label in enumerate(example["labels"]) if label != -100 and i])
        assert np.flatnonzero(records.predicted[row]).tolist() == at.tolist()
        expected = -log_p[at - 1, ids[at]]
        np.testing.assert_allclose(records.loss(epoch)[row][at], expected, rtol=0, atol=tolerance)
        expected = -(log_p.exp() * log_p).sum(-1)[at - 1]
        np.testing.assert_allclose(records.entropy(epoch)[row][at], expected, rtol=0, atol=tolerance)


def equal_models(one, other):
    return all(torch.equal(p, q) for p, q in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def by_hand(model, *, epochs=3, dropped=None):
    """The same loop with nothing of ours; labels of tokens in `dropped[epoch][row]` are taken away."""
    optimizer = optimizer_of(model)
    for epoch in range(epochs):
        model.train()
        for number, batch in enumerate(order(epoch)):
            if dropped is not None:
                for row, (ids, mask) in enumerate(zip(batch["input_ids"], batch["attention_mask"], strict=True)):
                    here = mask.bool()
                    (example,) = (i for i, known in enumerate(DATA) if known["input_ids"] == ids[here].tolist())
                    gone = torch.from_numpy(dropped[epoch][example, : len(here)])
                    batch["labels"][row, : len(gone)][gone] = -100
            (model(**batch).loss / 2).backward()
            if number % 2 == 1:
                optimizer.step()
                optimizer.zero_grad()


def test_recording_changes_no_weight_and_is_what_the_model_says(tmp_path):
    one, other = model_with_dropout(), model_with_dropout()
    held_out = examples(5, seed=1, prompt=2)
    torch.manual_seed(3)
    by_hand(one)
    torch.manual_seed(3)
    recorder = LoopRecorder(TokenRecorder(tmp_path / "run", dtype="float32"))
    train(other, recorder, optimizer_of(other), validation=batches(held_out, "left"))
    assert equal_models(one, other)
    run = open_run(tmp_path / "run")
    assert run.complete and check_run(run.path).ok and run.epochs == [0, 1, 2, 3]
    assert_plain(run, other, DATA, epoch=3)
    assert_plain(run, other, held_out, split="validation", epoch=3)
    assert_plain(run, model_with_dropout(), DATA, epoch=0)
    rows = run.metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6] and {row["learning_rate"] for row in rows} == {1e-2}
    assert (
        run.config["training"] == {"lr": 1e-2, "total_steps": 6, "mask_seed": 0}
        and run.config["trainer"] == "LoopRecorder"
    )
    assert run.manifest["steps_per_epoch"] == 2


def test_what_is_dropped_is_what_the_records_say(tmp_path):
    """Labels taken away by hand, from the records, give the same weights to the last bit."""
    one, other = model_with_dropout(), model_with_dropout()
    torch.manual_seed(3)
    recorder = LoopRecorder(
        TokenRecorder(tmp_path / "run"), RandomTokenDropout(ratio=0.4, target="loss", schedule="constant")
    )
    train(one, recorder, optimizer_of(one))
    records = open_run(tmp_path / "run").records("train")
    dropped = [records.dropped(epoch) for epoch in (1, 2, 3)]
    assert all(0.2 < mask[records.predicted].mean() < 0.6 for mask in dropped) and not np.array_equal(*dropped[:2])
    torch.manual_seed(3)
    by_hand(other, dropped=dropped)
    assert equal_models(one, other)


@pytest.mark.parametrize("saved", [(3, "step"), (4, "step"), (4, "epoch")], ids=["inside", "at the end", "after"])
@pytest.mark.parametrize("source", ["previous_epoch", "current"])
def test_a_resumed_loop_is_one_that_was_not_interrupted(tmp_path, saved, source):
    methods = lambda: [EntroDrop(ratio=0.3, source=source, schedule="linear"), HiddenDropout(rate=0.1)]  # noqa: E731
    whole = model_with_dropout()
    torch.manual_seed(3)
    train(whole, LoopRecorder(TokenRecorder(tmp_path / "whole"), *methods()), optimizer_of(whole))

    model, folder = model_with_dropout(), tmp_path / "checkpoint"
    folder.mkdir()
    torch.manual_seed(3)
    recorder = LoopRecorder(TokenRecorder(tmp_path / "cut"), *methods())
    train(model, recorder, optimizer_of(model), save=(saved[0], folder, saved[1]))
    assert not open_run(tmp_path / "cut").complete
    model = model_with_dropout()
    optimizer = optimizer_of(model)
    weights, moments, generator = torch.load(folder / "loop.pt", weights_only=True)
    model.load_state_dict(weights)
    optimizer.load_state_dict(moments)
    torch.set_rng_state(generator)
    train(model, LoopRecorder(TokenRecorder(tmp_path / "cut"), *methods()), optimizer, resume_from=folder)

    assert equal_models(whole, model)
    one, other = open_run(tmp_path / "whole"), open_run(tmp_path / "cut")
    assert other.complete and check_run(other.path).ok and one.epochs == other.epochs == [0, 1, 2, 3]
    assert "resumed" not in other.manifest  # nothing was changed: it is the run that it would have been
    mine, theirs = one.records("train"), other.records("train")
    for epoch in one.epochs:
        assert one.passes(epoch) == other.passes(epoch) and one.step(epoch) == other.step(epoch)
        assert np.array_equal(mine.loss(epoch), theirs.loss(epoch), equal_nan=True)
        assert np.array_equal(mine.entropy(epoch), theirs.entropy(epoch), equal_nan=True)
        assert epoch == 0 or np.array_equal(mine.dropped(epoch), theirs.dropped(epoch)) and mine.dropped(epoch).any()
    told = ("step", "epoch", "learning_rate", "dropped_share", "ratio")
    assert [[row[key] for key in told] for row in one.metrics()] == [
        [row[key] for key in told] for row in other.metrics()
    ]


def test_a_pass_that_is_cut_says_how_much_of_it_was_made(tmp_path):
    model = build()
    with LoopRecorder(TokenRecorder(tmp_path / "run")) as recorder:
        recorder.begin(model, train=batches(), total_steps=10)
        for batch in order(0)[:3]:
            with recorder.batch(batch) as left:
                model(**left).loss.backward()
            recorder.step()
        recorder.finish()
    run = open_run(tmp_path / "run")
    assert run.complete and run.epochs == [0, 1] and run.passes(1) == 12 / 13
    assert run.manifest["total_steps"] == 3 and run.manifest["planned_steps"] == 10


class Rows(Dataset):
    """Examples, each looked up once."""

    def __len__(self):
        return len(DATA)

    def __getitem__(self, row):
        return DATA[row]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(DATA)


@pytest.mark.parametrize("kind", ["shuffled", "drop_last", "sampler of batches", "stream", "one batch a row"])
def test_a_loader_is_read_whole_and_in_order(tmp_path, kind):
    loader = {
        "shuffled": lambda: DataLoader(Rows(), batch_size=3, shuffle=True, collate_fn=Padder()),
        "drop_last": lambda: DataLoader(Rows(), batch_size=4, drop_last=True, collate_fn=Padder("left")),
        "sampler of batches": lambda: DataLoader(Rows(), batch_sampler=[[5, 3], [1]], collate_fn=Padder()),
        "stream": lambda: DataLoader(Stream(), batch_size=5, collate_fn=Padder()),
        "one batch a row": lambda: DataLoader(batches(), batch_size=None),
    }[kind]()
    before = torch.get_rng_state()
    recorder = LoopRecorder(TokenRecorder(tmp_path / "run"))
    assert recorder.begin(build(), train=loader, total_steps=1) == 0
    assert torch.equal(torch.get_rng_state(), before)
    records = open_run(tmp_path / "run").records("train")
    found = [records.token_id[row, : len(e["input_ids"])].tolist() for row, e in enumerate(DATA)]
    assert found == [example["input_ids"] for example in DATA]


def test_a_loader_without_an_end_is_refused(tmp_path, monkeypatch):
    class Endless(IterableDataset):
        def __iter__(self):
            while True:
                yield from DATA

    monkeypatch.setattr("dynamics.training.batches.dataset_sequences.MOST_EXAMPLES", 100)
    loader = DataLoader(Endless(), batch_size=4, collate_fn=Padder())
    with pytest.raises(InputError, match="LoopRecorder: train has no length and did not end after 100 rows"):
        LoopRecorder(TokenRecorder(tmp_path / "run")).begin(build(), train=loader, total_steps=1)


class Own(nn.Module):
    """Called as nobody else's models are: targets shifted already, and a pair for an answer."""

    def __init__(self, names_head):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.wte, self.mix, self.head = nn.Embedding(64, 16), nn.GRU(16, 16, batch_first=True), nn.Linear(16, 64)
        if names_head:
            self.get_output_embeddings = lambda: self.head

    def forward(self, idx, targets=None):
        x = self.mix(self.wte(idx))[0]
        logits = self.head(x if targets is not None else x[:, -1:])
        return logits, None if targets is None else nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


@pytest.mark.parametrize("names_head", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_of_ones_own(tmp_path, names_head, dtype):
    model = Own(names_head)
    start = copy.deepcopy(model.state_dict())
    logits = lambda model, ids: model(ids, ids)[0]  # noqa: E731
    optimizer = optimizer_of(model)
    with LoopRecorder(
        TokenRecorder(tmp_path / "run", dtype="float32"), EntroDrop(ratio=0.3, source="current")
    ) as recorder:
        recorder.begin(model, train=batches(), total_steps=4, logits=logits, embedding=model.wte, dtype=dtype)
        fed = []
        model.mix.register_forward_pre_hook(lambda module, args: fed.append(args[0]))
        for batch in order(0):
            with recorder.batch(batch) as left, torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                targets = nn.functional.pad(left["labels"][:, 1:], (0, 1), value=-100)
                _, loss = model(left["input_ids"], targets)
            loss.backward()
            optimizer.step()
            recorder.step()
        recorder.epoch()
        recorder.finish()
    run = open_run(tmp_path / "run")
    assert run.complete and check_run(run.path).ok and run.manifest["precision"] == str(dtype).removeprefix("torch.")
    tolerance = 2e-5 if dtype == torch.float32 else 5e-2
    assert_plain(run, model, DATA, epoch=1, logits=logits, tolerance=tolerance)
    model.load_state_dict(start)
    assert_plain(run, model, DATA, epoch=0, logits=logits, tolerance=tolerance)
    # A dropped token enters as zeros, and there were as many as were recorded.
    zeros = sum(int((x == 0).all(dim=2).sum()) for x in fed)
    assert zeros == run.records("train").dropped(1).sum() > 0
    assert not any(m._forward_hooks for m in (model, model.wte))


def test_what_is_out_of_turn_is_said(tmp_path):
    recorder = LoopRecorder(TokenRecorder(tmp_path / "run"))
    for call in (recorder.step, recorder.epoch, recorder.finish, lambda: recorder.save(tmp_path)):
        with pytest.raises(InputError, match=r"call begin\(\) before"):
            call()
    with pytest.raises(InputError, match=r"call begin\(\) before batch\(\)"), recorder.batch(batches()[0]):
        pass
    with pytest.raises(InputError, match="total_steps is 0; give the number of optimiser steps"):
        recorder.begin(build(), train=batches(), total_steps=0)
    recorder.begin(build(), train=batches(), total_steps=4)
    with pytest.raises(InputError, match=r"step\(\) without a batch since the last one"):
        recorder.step()
    with pytest.raises(InputError, match=r"epoch\(\) without a batch since the last one"):
        recorder.epoch()
    with recorder.batch(batches()[0]):
        for call in (recorder.step, recorder.epoch, recorder.finish, lambda: recorder.save(tmp_path)):
            with pytest.raises(InputError, match="inside `with recorder.batch"):
                call()
        with pytest.raises(InputError, match="inside `with recorder.batch"), recorder.batch(batches()[1]):
            pass
    recorder.step()
    recorder.finish()
    with pytest.raises(InputError, match=r"call begin\(\) before finish\(\)"):
        recorder.finish()


def test_a_block_that_fails_is_not_a_batch(tmp_path):
    model = build()
    recorder = LoopRecorder(TokenRecorder(tmp_path / "run"), EntroDrop(ratio=0.5, schedule="constant"))
    recorder.begin(model, train=batches(), total_steps=4)
    with pytest.raises(ZeroDivisionError), recorder.batch(batches()[0]):
        1 / 0  # noqa: B018
    with pytest.raises(InputError, match="without a batch"):
        recorder.step()
    with recorder.batch(batches()[0]) as left:
        model(**left)
    recorder.step()
    recorder.detach()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((EntroDrop(),), "is not a TokenRecorder; give the recorder first"),
        ((TokenRecorder("x"), TokenRecorder("y")), "is not a regulariser; give instances of regularisers"),
        ((TokenRecorder("x"), EntroDrop), "is not a regulariser; give instances of regularisers"),
        ((TokenRecorder("x", training_pass=True),), "training_pass=True records what the optimiser saw"),
        ((TokenRecorder("x"), WeightDecay(value=0.1)), "WeightDecay is a setting of the trainer"),
        ((TokenRecorder("x"), EntropyAdaptiveWeighting()), "needs a loss of its own; use DynamicsTrainer"),
    ],
)
def test_what_cannot_act_in_a_loop(parts, message):
    with pytest.raises(InputError, match=message):
        LoopRecorder(*parts)


def test_other_data_and_other_settings_are_refused(tmp_path):
    model = build()

    def begin(**changes):
        recorder = LoopRecorder(TokenRecorder(tmp_path / "run"))
        fields = {"train": batches(), "total_steps": 4, "settings": {"lr": 0.1, "betas": (0.9, 0.95), "at": tmp_path}}
        return recorder, recorder.begin(model, **{**fields, **changes})

    with pytest.raises(InputError, match=r"settings has total_steps 5, but begin\(\) was given 4; remove it"):
        begin(settings={"total_steps": 5, "seed": 3})
    recorder, _ = begin()
    with recorder.batch(Padder()([{"input_ids": [9, 9, 9], "labels": [9, 9, 9]}])) as left:
        model(**left)
    with pytest.raises(InputError, match="1 rows of a training batch hold a sequence that was not in the training set"):
        recorder.step()
        recorder.epoch()
    shutil.rmtree(tmp_path / "run")
    recorder, _ = begin()
    with recorder.batch(batches()[0]) as left:
        model(**left)
    recorder.step()
    recorder.save(tmp_path / "checkpoint")
    with pytest.raises(InputError, match="is not empty, but training starts from its first step"):
        begin()
    with pytest.raises(InputError, match="has no dynamics.json"):
        begin(resume_from=tmp_path / "nowhere")
    resume = {"resume_from": tmp_path / "checkpoint"}
    with pytest.raises(InputError, match="holds a run with different examples .train."):
        begin(train=batches(DATA[::-1]), **resume)
    with pytest.raises(InputError, match=r"differs in training.lr \(0.1 then, 0.2 now\); use the settings"):
        begin(settings={"lr": 0.2, "betas": (0.9, 0.95), "at": tmp_path}, **resume)
    # Training may last longer than was planned: it is noted.
    assert begin(total_steps=6, **resume)[1] == 1
    assert open_run(tmp_path / "run").manifest["resumed"][-1]["changed"] == {"training.total_steps": [4, 6]}
    assert open_run(tmp_path / "run").config["training"]["betas"] == [0.9, 0.95]


def test_a_backward_pass_in_the_block_may_run_the_forward_pass_again(tmp_path):
    def gradients(again):
        model = Own(False)

        def forward(ids):
            return model(ids, ids)[0]

        method = RandomTokenDropout(ratio=0.4, schedule="constant")
        with LoopRecorder(TokenRecorder(tmp_path / f"run-{again}"), method) as recorder:
            options = {"logits": lambda model, ids: model(ids, ids)[0], "embedding": model.wte}
            recorder.begin(model, train=batches(), total_steps=4, **options)
            with recorder.batch(batches()[0]) as batch:
                ids = batch["input_ids"]
                logits = checkpoint(forward, ids, use_reentrant=False) if again else forward(ids)
                nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()).backward()
        return [p.grad for p in model.parameters()]

    for one, other in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(one, other) and one.any()


def test_a_token_that_enters_elsewhere_too_is_refused(tmp_path):
    class Twice(Own):
        """Looks ids up in a second table, past what the model is given."""

        def forward(self, idx, targets=None):
            table = self.head.weight
            x = self.mix(self.wte(idx) + table[targets])[0]
            return self.head(x), None

    model = Twice(False)
    with LoopRecorder(TokenRecorder(tmp_path / "run"), EntroDrop()) as recorder:
        options = {"train": batches(), "total_steps": 4, "logits": lambda model, ids: model(ids, ids)[0]}
        with pytest.raises(InputError, match="the logits of Twice still depend on tokens that are dropped"):
            recorder.begin(model, embedding=model.wte, **options)
        with pytest.raises(InputError, match="Twice does not say what its input embeddings are; give the module"):
            recorder.begin(model, **options)
    assert not (tmp_path / "run").exists()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_second_training_is_a_second_run(tmp_path):
    recorder = LoopRecorder(TokenRecorder(tmp_path / "run"))
    for _ in range(2):
        # One that fails before anything is written does not count.
        with pytest.raises(InputError, match="none of the examples has a token to predict"):
            recorder.begin(build(), train=batches([{"input_ids": [5, 6], "labels": [5, -100]}]), total_steps=1)
        model = build()
        train(model, recorder, optimizer_of(model), epochs=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run-2"]
    assert open_run(tmp_path / "run").complete and open_run(tmp_path / "run-2").complete
    assert open_run(tmp_path / "run-2").name == "run-2"


TOGETHER = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch
from accelerate import Accelerator
from support.models import build
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from dynamics import EntroDrop, InputError, LoopRecorder, TokenRecorder

size, epochs = int(sys.argv[2]), 2
accelerator = Accelerator(cpu=True)

def train(output, n_rows):
    ids = torch.randint(3, 64, (n_rows, 9), generator=torch.Generator().manual_seed(0))
    loader = DataLoader([{"input_ids": row, "labels": row} for row in ids], batch_size=size)
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model, optimizer, batches = accelerator.prepare(model, optimizer, loader)
    if output == "run" and accelerator.num_processes > 1:
        try:
            LoopRecorder(TokenRecorder("other")).begin(model, train=list(batches), total_steps=1)
        except InputError as error:
            print(json.dumps(str(error)))
    method = EntroDrop(ratio=0.4, schedule="constant", source="previous_epoch")
    with LoopRecorder(TokenRecorder(output, dtype="float32"), method) as recorder:
        recorder.begin(model, train=batches, validation=loader, total_steps=epochs * len(batches))
        for _ in range(epochs):
            model.train()
            for batch in batches:
                with recorder.batch(batch) as left:
                    loss = model(**left).loss
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                recorder.step()
            recorder.epoch()
        recorder.finish()

train("run", 16)
train("filled", 17)
accelerator.end_training()
"""


def test_two_processes_equal_one(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    command = [sys.executable, "-c", TOGETHER, str(TESTS), "8"]
    done = subprocess.run(command, cwd=tmp_path / "one", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = launch(tmp_path / "two", ["-c", TOGETHER, str(TESTS), "4"])
    for each in said:
        refused = json.loads(each.splitlines()[0])
        assert "differs between ranks in its sequences or their order" in refused
    for name, n_rows, tolerances in (("run", 16, (1e-5, 1e-4, 1e-3)), ("filled", 17, (1e-5,))):
        alone, run = open_run(tmp_path / "one" / name), open_run(tmp_path / "two" / name)
        assert run.complete and check_run(run.path).ok and run.epochs == [0, 1, 2] == alone.epochs
        assert run.manifest["hardware"]["processes"] == 2
        for split in ("train", "validation"):
            mine, theirs = run.records(split), alone.records(split)
            assert np.array_equal(mine.token_id, theirs.token_id) and len(mine.token_id) == n_rows
            for epoch, tolerance in enumerate(tolerances):
                np.testing.assert_allclose(mine.loss(epoch), theirs.loss(epoch), rtol=0, atol=tolerance)
        mine, theirs = run.records("train"), alone.records("train")
        # accelerate fills the last batch with the first sequences: what is dropped of them is the same again.
        assert np.array_equal(mine.dropped(1), theirs.dropped(1)) and mine.dropped(1).any()
        shares = [[row["dropped_share"] for row in one.metrics()] for one in (run, alone)]
        assert name == "filled" or shares[0] == pytest.approx(shares[1], abs=1e-9)


def test_a_save_in_the_middle_of_a_step_is_refused(tmp_path):
    model = build()
    with LoopRecorder(TokenRecorder(tmp_path / "run")) as recorder:
        recorder.begin(model, train=batches(), total_steps=2)
        with recorder.batch(batches()[0]) as batch:
            model(**batch).loss.backward()
        with pytest.raises(InputError, match=r"save\(\) between a batch and its step"):
            recorder.save(tmp_path / "kept")
        recorder.step()
        recorder.save(tmp_path / "kept")
    assert (tmp_path / "kept" / "dynamics.json").is_file()


def test_a_model_that_is_refused_keeps_no_hook(tmp_path, monkeypatch):
    def refuses(*args, **options):
        raise InputError("no")

    monkeypatch.setattr("dynamics.training.plain_loop.require_hidden", refuses)
    model = build()
    with pytest.raises(InputError, match="no"):
        LoopRecorder(TokenRecorder(tmp_path / "run"), EntroDrop()).begin(model, train=batches(), total_steps=2)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_model_in_a_data_parallel_is_refused(tmp_path):
    """Each device would see a part of the batch, under a mask of the whole."""
    recorder = LoopRecorder(TokenRecorder(tmp_path / "run"), RandomTokenDropout(ratio=0.4))
    with pytest.raises(InputError, match="in a DataParallel, .* give the model itself"):
        recorder.begin(nn.DataParallel(build()), train=batches(), total_steps=4)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def defaults():
    """Tensors that do not say what they are, or where, are float64, and nowhere."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(before)


def test_what_is_made_beside_a_training_is_no_matter_of_defaults(tmp_path, request):
    def run(name):
        models[name].train()
        recorder = LoopRecorder(TokenRecorder(tmp_path / name), EntroDrop(ratio=0.4, schedule="constant"))
        train(models[name], recorder, optimizers[name], epochs=2)
        return open_run(tmp_path / name)

    models = {name: build() for name in ("plain", "strange")}
    optimizers = {name: torch.optim.SGD(model.parameters(), lr=1e-2) for name, model in models.items()}
    plain = run("plain")
    given = {epoch: order(epoch) for epoch in range(2)}
    everything = batches()
    monkeypatch = request.getfixturevalue("monkeypatch")
    monkeypatch.setitem(globals(), "order", given.get)
    monkeypatch.setitem(globals(), "batches", lambda: everything)
    request.getfixturevalue("defaults")
    strange = run("strange")
    assert equal_models(*models.values())
    for values in ("loss", "entropy", "dropped"):
        one, other = (getattr(run.records("train"), values)(2) for run in (plain, strange))
        assert np.array_equal(one, other, equal_nan=values != "dropped")
