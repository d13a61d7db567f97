"""Recording and regularisers on trainers that people have: every family, every layout, against a plain forward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.models import FAMILIES, Padder, build, examples
from support.on_device import CHECKPOINTING
from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

from dynamics import DynamicsTrainer, EntroDrop, TokenRecorder, WeightDecay, attach, open_run
from dynamics.errors import InputError
from dynamics.records.check import check_run
from dynamics.regularizers.hidden_dropout import HiddenDropout
from dynamics.regularizers.random_token_dropout import RandomTokenDropout


def arguments(tmp_path, **changes):
    fields = {
        "output_dir": str(tmp_path / "out"),
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "learning_rate": 1e-2,
        "max_grad_norm": 0.0,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(**{**fields, **changes})


def trained(tmp_path, kind, model, *, regularizers=(), data=None, evaluation=None, collator=None, **changes):
    """Train two steps with recording, and return the trainer and the run."""
    recorder = TokenRecorder(tmp_path / "run", dtype="float32")
    common = {
        "model": model,
        "args": arguments(tmp_path, **changes),
        "train_dataset": examples() if data is None else data,
        "eval_dataset": examples(4, seed=1) if evaluation is None else evaluation,
        "data_collator": Padder() if collator is None else collator,
    }
    if kind == "attach":
        trainer = Trainer(**common)
        attach(trainer, recorder, *regularizers)
    else:
        trainer = DynamicsTrainer(**common, regularizers=regularizers, recorder=recorder)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    trainer.train()
    changed = [not torch.equal(p, before[name]) for name, p in model.named_parameters() if name in before]
    assert any(changed)
    return trainer, open_run(tmp_path / "run")


def assert_plain(run, model, data, split="train", epoch=None):
    """Records equal what the model says of each example alone, in the order of the data set."""
    records = run.records(split)
    epoch = run.epochs[-1] if epoch is None else epoch
    loss, entropy, correct = records.loss(epoch), records.entropy(epoch), records.correct(epoch)
    assert len(loss) == len(data)
    model.eval()
    for row, example in enumerate(data):
        ids = torch.tensor(example["input_ids"])
        with torch.no_grad():
            log_p = model(input_ids=ids[None]).logits[0].double().log_softmax(-1)
        n = len(ids)
        assert records.token_id[row, :n].tolist() == ids.tolist()
        labelled = np.array([label != -100 for label in example["labels"]])
        labelled[0] = False
        assert np.array_equal(~np.isnan(loss[row, :n]), labelled) and np.isnan(loss[row, n:]).all()
        assert np.array_equal(records.predicted[row, :n], labelled)
        at = torch.from_numpy(np.flatnonzero(labelled))
        expected = -log_p[at - 1, ids[at]]
        np.testing.assert_allclose(loss[row][at], expected, rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(entropy[row][at], -(log_p.exp() * log_p).sum(-1)[at - 1], rtol=2e-5, atol=2e-5)
        assert np.array_equal(correct[row][at], log_p[at - 1].argmax(-1) == ids[at])


@pytest.mark.parametrize("kind", ["attach", "subclass"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_records_what_a_plain_forward_pass_says(tmp_path, kind, family):
    model = build(family)
    methods = [EntroDrop(ratio=0.3, schedule="constant"), HiddenDropout(rate=0.2)]
    trainer, run = trained(tmp_path, kind, model, regularizers=methods)
    assert trainer.state.global_step == 2 and run.epochs == [0, 1] and run.complete
    assert_plain(run, model, examples())
    assert_plain(run, model, examples(4, seed=1), "validation")
    assert check_run(run.path).ok
    dropped = run.records("train").dropped(1)
    assert dropped.any() and not (dropped & ~run.records("train").predicted).any()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def lora(model):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))


SITUATIONS = {
    "prompts": {"data": examples(prompt=3)},
    "padded on the left": {"collator": Padder("left")},
    "packed": {"collator": DataCollatorWithFlattening()},
    "accumulation": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
    "checkpointing": {CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"use_reentrant": False}},
    "lora": {"model": lora},
    "untied": {"model": lambda model: build(tie_word_embeddings=False)},
    "bfloat16": {"bf16": True},
    "columns are kept": {"remove_unused_columns": False},
}


# peft asks for a property that transformers has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["attach", "subclass"])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_situation_records_what_a_plain_forward_pass_says(tmp_path, kind, situation):
    changes = dict(SITUATIONS[situation])
    change = changes.pop("model", lambda model: model)
    model = change(build())
    data = changes.get("data", examples())
    _, run = trained(tmp_path, kind, model, regularizers=[EntroDrop(ratio=0.3, schedule="constant")], **changes)
    assert run.records("train").dropped(1).any()
    if situation == "bfloat16":
        # Autocast rounds products, not statistics: the same numbers as an autocast pass of the plain model.
        with torch.autocast("cpu", torch.bfloat16):
            records = run.records("train")
            ids = torch.tensor(data[0]["input_ids"])
            log_p = model(input_ids=ids[None]).logits[0].double().log_softmax(-1).detach()
            expected = -log_p[torch.arange(len(ids) - 1), ids[1:]].numpy()
            np.testing.assert_allclose(records.loss(1)[0, 1 : len(ids)], expected, atol=0.15)
        return
    assert_plain(run, model, data)


@pytest.mark.parametrize("method", [None, "input", "loss", "both"])
def test_layouts_train_alike(tmp_path, method):
    """Padded on either side, packed, and one by one: the same tokens are dropped and the same weights come out."""
    regularizers = [] if method is None else [RandomTokenDropout(ratio=0.4, schedule="constant", target=method)]
    weights, masks, shares = {}, {}, {}
    for kind in ("attach", "subclass"):
        for name, changes in {
            "right": {},
            "left": {"collator": Padder("left")},
            "packed": {"collator": DataCollatorWithFlattening()},
            "accumulated": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        }.items():
            model = build()
            sampling = {"train_sampling_strategy": "sequential", "optim": "sgd"}
            folder = tmp_path / f"{kind}-{name}"
            _, run = trained(folder, kind, model, regularizers=regularizers, **changes, **sampling)
            weights[kind, name] = {key: p.detach().clone() for key, p in model.named_parameters()}
            masks[kind, name] = run.records("train").dropped(1)
            shares[kind, name] = [row["dropped_share"] for row in run.metrics()]
    first = next(iter(weights))
    for key, found in weights.items():
        assert np.array_equal(masks[key], masks[first]), key
        assert shares[key] == shares[first], key
        for name, weight in found.items():
            torch.testing.assert_close(weight, weights[first][name], rtol=1e-4, atol=2e-5, msg=f"{key} {name}")
    assert masks[first].any() == (method is not None)


def test_a_sequence_keeps_its_id_where_the_collator_keeps_it(tmp_path):
    class KeepsId(Padder):
        def __call__(self, batch):
            return {**super().__call__(batch), "sequence_id": torch.tensor([one["sequence_id"] for one in batch])}

    # Two examples with equal tokens are one sequence by hash, and two by id.
    data = examples(4)
    data[1] = dict(data[0])
    data = [{**example, "sequence_id": 100 + at} for at, example in enumerate(data)]
    _, run = trained(tmp_path / "ids", "subclass", build(), data=data, collator=KeepsId(), evaluation=data)
    assert len(run.records("train").token_id) == 4
    _, run = trained(tmp_path / "hashes", "subclass", build(), data=data, evaluation=data)
    assert len(run.records("train").token_id) == 3


def test_recording_changes_no_weight(tmp_path):
    plain, recorded = build(), build()
    Trainer(plain, arguments(tmp_path), Padder(), train_dataset=examples()).train()
    trained(tmp_path, "attach", recorded)
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), recorded.parameters(), strict=True))


def test_evaluation_and_generation_see_no_mask(tmp_path):
    class Watcher(Trainer):
        seen = None

        def evaluate(self, *args, **kwargs):
            with torch.no_grad():
                ids = torch.tensor([examples()[0]["input_ids"]])
                self.model.train()  # even then: nothing is armed without a gradient
                self.seen = self.model(input_ids=ids).logits
                self.model.eval()
                assert torch.equal(self.seen, self.model(input_ids=ids).logits)
            return super().evaluate(*args, **kwargs)

    args = arguments(tmp_path, eval_strategy="epoch")
    trainer = Watcher(build(), args, Padder(), train_dataset=examples(), eval_dataset=examples(4, seed=1))
    attach(trainer, EntroDrop(ratio=0.5, schedule="constant"))
    trainer.train()
    assert trainer.seen is not None


@pytest.mark.parametrize("kind", ["attach", "subclass"])
def test_two_trainings_in_a_row_are_two_runs(tmp_path, kind):
    model = build()
    trainer, run = trained(tmp_path, kind, model, regularizers=[EntroDrop(ratio=0.3, schedule="constant")])
    before = run.records("train").loss(1)
    trainer.train()
    again = open_run(tmp_path / "run-2")
    # It goes on from the weights that the first one left.
    np.testing.assert_allclose(again.records("train").loss(0), before, rtol=1e-6)
    assert again.complete and again.epochs == [0, 1] and check_run(again.path).ok
    assert np.array_equal(run.records("train").loss(1), before, equal_nan=True)
    assert_plain(again, model, examples())


def test_an_output_that_holds_something_is_refused(tmp_path):
    trained(tmp_path, "attach", build())
    with pytest.raises(InputError, match="run is not empty"):
        trained(tmp_path, "attach", build())


@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize("kind", ["attach", "subclass"])
def test_resuming_goes_on_with_the_run_and_its_ranks(tmp_path, kind, record):
    def make(data=None):
        args = arguments(tmp_path, num_train_epochs=3, save_strategy="epoch")
        common = (build(), args, Padder())
        data = {"train_dataset": data or examples(), "eval_dataset": examples(4, seed=1)}
        recorder = TokenRecorder(tmp_path / "run", dtype="float32") if record else None
        method = EntroDrop(ratio=0.4, schedule="constant")
        if kind == "subclass":
            return DynamicsTrainer(*common, **data, regularizers=[method], recorder=recorder)
        trainer = Trainer(*common, **data)
        attach(trainer, *([recorder] if record else []), method)
        return trainer

    whole, resumed = make(), make()
    whole.train()
    before = open_run(tmp_path / "run").records("train").loss(3) if record else None
    checkpoint = str(tmp_path / "out" / "checkpoint-4")
    resumed.train(resume_from_checkpoint=checkpoint)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    if record:
        run = open_run(tmp_path / "run")
        assert run.epochs == [0, 1, 2, 3] and run.complete and check_run(run.path).ok
        assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4, 5, 6]
        assert np.array_equal(run.records("train").loss(3), before, equal_nan=True)
    else:
        assert not list((tmp_path / "out").rglob("*.tmp"))
    with pytest.raises(InputError, match="different examples"):
        make(examples(8, seed=5)).train(resume_from_checkpoint=checkpoint)


# What is refused, each with its remedy.


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([EntroDrop], "is neither a TokenRecorder nor a regulariser; give an instance"),
        ([WeightDecay(value=0.1)], "WeightDecay is a setting of the trainer; give its arguments weight_decay=0.1"),
        (
            [EntroDrop(target="loss", normalize="kept")],
            "EntroDrop divides the loss by the kept tokens.* use normalize: all, or DynamicsTrainer",
        ),
        ([TokenRecorder("one"), TokenRecorder("two")], "2 recorders were given"),
    ],
)
def test_what_cannot_be_attached(tmp_path, parts, message):
    trainer = Trainer(build(), arguments(tmp_path), Padder(), train_dataset=examples())
    with pytest.raises(InputError, match=message):
        attach(trainer, *parts)


def test_ranks_by_the_last_epoch_need_a_recorder(tmp_path):
    method = EntroDrop(source="previous_epoch")
    trainer = DynamicsTrainer(build(), arguments(tmp_path), Padder(), train_dataset=examples(), regularizers=[method])
    with pytest.raises(InputError, match="EntroDrop: ranks tokens by the values of the last epoch.* TokenRecorder"):
        trainer.train()
    some = TokenRecorder(tmp_path / "some", train_sequences=3)
    trainer = DynamicsTrainer(
        build(), arguments(tmp_path), Padder(), train_dataset=examples(), regularizers=[method], recorder=some
    )
    with pytest.raises(InputError, match="EntroDrop: .* of 8 sequences"):
        trainer.train()


def test_changing_tokens_are_refused(tmp_path):
    class Changing(Padder):
        calls = 0

        def __call__(self, batch):
            out = super().__call__(batch)
            self.calls += 1
            out["input_ids"] = (out["input_ids"] + self.calls) % 60
            return out

    trainer = Trainer(build(), arguments(tmp_path), Changing(), train_dataset=examples())
    attach(trainer, EntroDrop())
    with pytest.raises(InputError, match="4 rows of a training batch hold a sequence that was not in the training set"):
        trainer.train()


def test_examples_without_labels_or_predictions_are_refused(tmp_path):
    class NoLabels(Padder):
        def __call__(self, batch):
            out = super().__call__(batch)
            del out["labels"]
            return out

    trainer = Trainer(build(), arguments(tmp_path), NoLabels(), train_dataset=examples())
    attach(trainer, EntroDrop())
    with pytest.raises(InputError, match="have no labels"):
        trainer.train()
    trainer = Trainer(build(), arguments(tmp_path), Padder(), train_dataset=examples(prompt=20))
    attach(trainer, EntroDrop())
    with pytest.raises(InputError, match="none of the examples has a token to predict"):
        trainer.train()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "bfloat16"}, "dtype 'bfloat16' is none of float16, float32"),
        ({"train_sequences": 0}, "train_sequences 0 is neither"),
        ({"validation_sequences": "some"}, "validation_sequences 'some' is neither"),
    ],
)
def test_a_recorder_with_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        TokenRecorder("run", **settings)


def test_a_field_set_twice_is_refused(tmp_path):
    args = arguments(tmp_path, weight_decay=0.5)
    with pytest.raises(InputError, match=r"args.weight_decay is 0.5, but a regulariser sets it to 0.1; keep one"):
        DynamicsTrainer(build(), args, Padder(), train_dataset=examples(), regularizers=[WeightDecay(value=0.1)])
    trainer = DynamicsTrainer(
        build(), arguments(tmp_path), Padder(), train_dataset=examples(), regularizers=[WeightDecay(value=0.1)]
    )
    assert trainer.args.weight_decay == 0.1


class OwnMean(type(build())):
    """A model whose forward takes no num_items_in_batch: its loss is the mean over the labels that it gets."""

    accepts_loss_kwargs = False


def test_a_mean_over_what_is_left_is_not_taken_for_one_over_all(tmp_path):
    model = build()
    model.__class__ = OwnMean
    for target, refused in (("input", False), ("loss", True), ("both", True)):
        trainer = Trainer(model, arguments(tmp_path), Padder(), train_dataset=examples())
        attach(trainer, RandomTokenDropout(ratio=0.4, schedule="constant", target=target))
        if refused:
            with pytest.raises(
                InputError, match="OwnMean averages its loss over the remaining tokens itself.* use DynamicsTrainer"
            ):
                trainer.train()
            assert not any(module._forward_pre_hooks for module in model.modules())
        else:
            trainer.train()


class OwnStep(Trainer):
    """A training step that does not hand on how many tokens the whole step predicts."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        model.train()
        loss = self.compute_loss(model, self._prepare_inputs(inputs))
        self.accelerator.backward(loss)
        return loss.detach()


def test_a_step_that_does_not_say_how_many_tokens_there_are(tmp_path):
    trainer = OwnStep(build(), arguments(tmp_path), Padder(), train_dataset=examples())
    attach(trainer, RandomTokenDropout(ratio=0.4, schedule="constant", target="loss"))
    with pytest.raises(InputError, match="averages its loss over the remaining tokens itself"):
        trainer.train()
    trainer = OwnStep(build(), arguments(tmp_path), Padder(), train_dataset=examples())
    attach(trainer, RandomTokenDropout(ratio=0.4, schedule="constant"))
    trainer.train()


class Shuffled(torch.utils.data.Sampler):
    """Its order comes from the global generator, which is elsewhere when a training is resumed."""

    def __init__(self, n):
        self._n = n

    def __len__(self):
        return self._n

    def __iter__(self):
        return iter(torch.randperm(self._n).tolist())


class DrawnAnew(Trainer):
    def _get_train_sampler(self, train_dataset=None):
        return Shuffled(len(self.train_dataset))


def test_a_resumed_pass_in_another_order_is_not_taken_for_whole(tmp_path):
    def make():
        args = arguments(
            tmp_path, num_train_epochs=2, per_device_train_batch_size=1, save_strategy="steps", save_steps=10
        )
        trainer = DrawnAnew(build(), args, Padder(), train_dataset=examples(8))
        attach(trainer, TokenRecorder(tmp_path / "run"), EntroDrop(ratio=0.3, schedule="constant"))
        return trainer

    make().train()
    with pytest.raises(InputError, match="pass 2, which was resumed, ended without some of the sequences"):
        make().train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-10"))


@pytest.mark.parametrize("kind", ["attach", "subclass"])
def test_resuming_inside_a_pass_takes_back_what_was_recorded_after_it(tmp_path, kind):
    """The run went on to its end before: the pass of the checkpoint, and those after it, are recorded anew."""

    def make():
        args = arguments(tmp_path, num_train_epochs=3, save_strategy="steps", save_steps=3, optim="sgd")
        common = {"model": build(), "args": args, "data_collator": Padder(), "train_dataset": examples()}
        parts = [TokenRecorder(tmp_path / "run", dtype="float32"), EntroDrop(ratio=0.4, schedule="constant")]
        if kind == "subclass":
            return DynamicsTrainer(**common, recorder=parts[0], regularizers=parts[1:])
        trainer = Trainer(**common)
        attach(trainer, *parts)
        return trainer

    make().train()
    run = open_run(tmp_path / "run")
    losses = [run.records("train").loss(epoch).copy() for epoch in run.epochs]
    dropped = [run.records("train").dropped(epoch).copy() for epoch in run.epochs[1:]]
    make().train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    again = open_run(tmp_path / "run")
    assert again.complete and again.epochs == run.epochs == [0, 1, 2, 3] and check_run(again.path).ok
    for epoch in again.epochs:
        assert np.array_equal(again.records("train").loss(epoch), losses[epoch], equal_nan=True)
    for epoch in again.epochs[1:]:
        assert np.array_equal(again.records("train").dropped(epoch), dropped[epoch - 1])
    assert [row["step"] for row in again.metrics()] == [1, 2, 3, 4, 5, 6]
