"""What a Trainer does beside training, behind the doors: evaluation, losses of its own, models that are none of ours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.doors.checks import assert_exact, assert_whole, expected_masks, hooks_on
from support.doors.own_loop import batches_of, one_step, windows
from support.doors.setting import DOORS, N_VOCAB, RATIO, TRAINERS, Stream, Trained, Training, pretrained, setting_in
from support.doors.table import TABLE, cells
from support.doors.through import arguments, bare, finished, make_trainer, recipe_fields, train
from support.models import Padder, build
from transformers import EarlyStoppingCallback, MixtralConfig, MixtralForCausalLM, Trainer, TrainerCallback

from dynamics import LoopRecorder, TokenRecorder, attach, open_run
from dynamics.errors import InputError
from dynamics.records.check import check_run
from dynamics.regularizers.random_token_dropout import RandomTokenDropout


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return setting_in(tmp_path_factory.mktemp("setting"))


# Evaluation. -------------------------------------------------------------------------------------

EVALUATED = {
    "eval_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_loss",
    "greater_is_better": False,
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "logging_strategy": "epoch",
}
EVALUATION = "evaluation, early stop, best model"


class PredictsWithin(TrainerCallback):
    """Runs the held-out data in the middle of a pass."""

    trainer = None
    seen = None

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            self.seen = self.trainer.predict(self.trainer.eval_dataset).predictions


@pytest.mark.parametrize("door", TRAINERS)
def test_evaluation_before_within_and_after_training(door, setting, tmp_path):
    within = PredictsWithin()
    trainer = make_trainer(
        door,
        setting,
        tmp_path,
        Training(epochs=8, arguments=EVALUATED),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=1), within],
    )
    within.trainer = trainer
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    assert hooks_on(bare(trainer)) == [] and within.seen is not None
    trained = finished(door, trainer, setting, tmp_path, Training(epochs=8))
    assert_whole(trained)
    assert_exact(trained)
    run, history = trained.run, {}
    for row in trainer.state.log_history[:-1]:
        if "eval_loss" in row:
            history[round(row["epoch"])] = row["eval_loss"]
    # It stopped early, at the end of an epoch, and the best one's weights are there again.
    assert 1 < run.epochs[-1] < 8 and run.partial_epochs == {}
    assert run.manifest["epochs_trained"] == run.epochs[-1] and run.manifest["planned_steps"] == 24
    best = min(range(1, run.epochs[-1] + 1), key=history.__getitem__)
    assert best < run.epochs[-1] and str(trainer.state.best_model_checkpoint).endswith(f"checkpoint-{3 * best}")
    # The Trainer's own figure is the mean over the tokens of its batches; here there is one batch.
    recorded = {epoch: np.nanmean(run.records("validation").loss(epoch)) for epoch in run.epochs}
    assert history == pytest.approx({epoch: recorded[epoch] for epoch in history}, abs=2e-5)
    assert (before, after) == pytest.approx((recorded[0], recorded[best]), abs=2e-5)


def test_evaluation_and_weights_are_those_of_a_plain_trainer(setting, tmp_path):
    training = Training(epochs=3, arguments=EVALUATED, methods=list)
    plain = Trainer(
        setting.fresh(),
        arguments(tmp_path / "plain", training),
        Padder(),
        train_dataset=setting.train,
        eval_dataset=setting.validation,
    )
    recorded = make_trainer("attach", setting, tmp_path / "recorded", training)
    histories = []
    for trainer in (plain, recorded):
        trainer.train()
        keys = ("epoch", "step", "loss", "grad_norm", "learning_rate", "eval_loss")
        histories.append([{key: row.get(key) for key in keys} for row in trainer.state.log_history])
    assert histories[0] == histories[1]
    for one, other in zip(plain.model.parameters(), recorded.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_evaluation_in_a_loop_of_ones_own(setting, tmp_path):
    training = Training(epochs=8)
    model = setting.fresh()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-2)
    held_out = batches_of(setting.validation, 4)

    def evaluate():
        model.eval()
        with torch.no_grad():
            found = float(model(**held_out[0]).loss)
        model.train()
        return found

    losses, weights = [evaluate()], {0: tmp_path / "weights-0.pt"}
    torch.save(model.state_dict(), weights[0])
    with LoopRecorder(TokenRecorder(tmp_path / "run", dtype="float32"), *training.methods()) as recorder:
        recorder.begin(model, train=batches_of(setting.train, 4), validation=held_out, total_steps=24)
        for epoch in range(1, 9):
            for window in windows(training, setting.train, epoch):
                evaluate()
                one_step(model, recorder, optimizer, window, training)
            recorder.epoch()
            weights[epoch] = tmp_path / f"weights-{epoch}.pt"
            torch.save(model.state_dict(), weights[epoch])
            losses.append(evaluate())
            if losses[-1] > min(losses):
                break
        recorder.finish()
    # The best model, put back when all is recorded.
    model.load_state_dict(torch.load(weights[int(np.argmin(losses))], weights_only=True))

    def load(file):
        found = setting.fresh()
        found.load_state_dict(torch.load(file, weights_only=True))
        return found.double().eval()

    run = open_run(tmp_path / "run")
    trained = Trained(
        run=run, model=model, weights=weights, load=load, train=setting.train, validation=setting.validation,
        training=training,
    )  # fmt: skip
    assert_whole(trained)
    assert_exact(trained)
    assert run.epochs[-1] < 8 and run.manifest["planned_steps"] == 24
    means = [np.nanmean(run.records("validation").loss(epoch)) for epoch in run.epochs]
    np.testing.assert_allclose(losses, means, atol=2e-5)


def test_a_recipe_refuses_evaluation(setting):
    with pytest.raises(InputError) as caught:
        setting.recipe(recipe_fields(Training(arguments={"eval_strategy": "epoch"})))
    assert TABLE[EVALUATION]["recipe"].refusal in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("door", TRAINERS)
def test_several_evaluation_sets(door, setting, tmp_path):
    sets = {"one": setting.validation[:3], "two": setting.validation[2:]}
    training = Training(arguments={"eval_strategy": "epoch"})
    trainer = make_trainer(door, setting, tmp_path, training, eval_dataset=sets)
    trainer.train()
    run = open_run(tmp_path / "run")
    assert run.splits == ["train", "validation-one", "validation-two"]
    found = finished(door, trainer, setting, tmp_path, training)
    assert_whole(found)
    assert_exact(found, splits={"train": setting.train, **{f"validation-{name}": rows for name, rows in sets.items()}})
    spoilt = make_trainer(door, setting, tmp_path / "spoilt", training, eval_dataset={"a/b": setting.validation})
    with pytest.raises(InputError, match="the name 'a/b' becomes part of a file name"):
        spoilt.train()


class Enough(TrainerCallback):
    """Ends a training, or only the epoch, after a step."""

    def __init__(self, step, what="training"):
        self._step = step
        self._what = what

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self._step:
            setattr(control, f"should_{self._what}_stop", True)


@pytest.mark.parametrize("rows", [list, Stream], ids=["list", "stream"])
@pytest.mark.parametrize("door", TRAINERS)
def test_a_callback_ends_training_within_an_epoch(door, rows, setting, tmp_path):
    training = Training(rows=rows, steps=9)
    trainer = make_trainer(door, setting, tmp_path, training, callbacks=[Enough(4)])
    trainer.train()
    trained = finished(door, trainer, setting, tmp_path, training)
    assert_whole(trained)
    assert_exact(trained)
    run = trained.run
    share = 1 / 3 if rows is list else 4 / 9
    assert run.partial_epochs == {2: pytest.approx(1 + share)} and run.step(2) == 4
    assert run.manifest["total_steps"] == 4 and run.manifest["planned_steps"] == 9


@pytest.mark.parametrize("rows", [list, Stream], ids=["list", "stream"])
@pytest.mark.parametrize("door", TRAINERS)
def test_epochs_that_end_early_are_not_followed_by_others(door, rows, setting, tmp_path):
    training = Training(rows=rows, steps=9)
    trainer = make_trainer(door, setting, tmp_path, training, callbacks=[Enough(2, "epoch")])
    with pytest.raises(InputError, match="something ended epoch 1 early"):
        trainer.train()
    assert hooks_on(bare(trainer)) == []
    run = open_run(tmp_path / "run")
    assert run.epochs == [0, 1] and list(run.partial_epochs) == [1] and check_run(run.path).ok
    # Nothing is recorded without a recorder, and so nothing refused.
    alone = Trainer(
        setting.fresh(),
        arguments(tmp_path / "alone", training),
        Padder(),
        train_dataset=rows(setting.train),
        callbacks=[Enough(2, "epoch")],
    )
    attach(alone, *training.methods())
    alone.train()
    assert alone.state.global_step > 2


# Losses. -----------------------------------------------------------------------------------------


def double_loss(outputs, labels, num_items_in_batch=None):
    """A user's own: twice the sum over tokens, over all of the step."""
    logits, targets = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    total = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
    return 2 * total / num_items_in_batch


@pytest.mark.parametrize(("situation", "door"), cells("label_smoothing_factor", "compute_loss_func"))
def test_losses_of_other_kinds(situation, door, setting, tmp_path):
    training = Training(
        epochs=1,
        batch=4,
        accumulation=3,
        sgd=True,
        smoothing=0.2 if situation == "label_smoothing_factor" else 0.0,
        methods=lambda: [RandomTokenDropout(ratio=RATIO, schedule="constant", target="loss")],
    )
    if training.smoothing:
        trained = train(door, setting, tmp_path, training)
    else:
        trainer = make_trainer(door, setting, tmp_path, training, compute_loss_func=double_loss)
        trainer.train()
        trained = finished(door, trainer, setting, tmp_path, training)
    assert_whole(trained)
    assert_exact(trained)
    masks = trained.run.records("train").dropped(1)
    assert np.array_equal(masks, expected_masks(trained.run.records("train").predicted, 1))
    # One step of gradient descent, by hand in float64: the sum over kept tokens over the predicted ones of the step.
    model, total, n_predicted = pretrained(setting.model), 0.0, 0
    for example, dropped in zip(setting.train, masks, strict=True):
        ids, labels = (torch.tensor(example[name]) for name in ("input_ids", "labels"))
        kept = labels[1:].masked_fill(torch.from_numpy(dropped[1 : len(ids)]), -100)
        log_p = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        at = torch.nonzero(kept != -100).flatten()
        own, others = -log_p[at, kept[at]], -log_p[at].mean(-1)
        each = (1 - training.smoothing) * own + training.smoothing * others
        total = total + each.sum() * (1 if training.smoothing else 2)
        n_predicted += int((labels[1:] != -100).sum())
    (total / n_predicted).backward()
    found = trained.load(trained.weights[1]).state_dict()
    for name, weight in model.named_parameters():
        expected = weight.detach() - 1e-2 * weight.grad
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6, msg=lambda said, name=name: name + said)


def test_a_models_own_loss_is_seen_after_a_batch_that_predicts_nothing(setting, tmp_path):
    def mixture(_):
        shape = {"vocab_size": N_VOCAB, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 4}
        return MixtralForCausalLM(MixtralConfig(**shape, **heads, output_router_logits=True))

    def silent_first(rows):
        return [{**row, "labels": [-100] * len(row["labels"])} for row in rows[:4]] + rows[4:]

    arguments = {"train_sampling_strategy": "sequential"}
    training = Training(wrap=mixture, rows=silent_first, arguments=arguments)
    with pytest.raises(InputError, match="MixtralForCausalLM: its own training loss on a row is"):
        train("DynamicsTrainer", setting, tmp_path, training)


# Models that are none of ours. -------------------------------------------------------------------


def encoder_decoder():
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=N_VOCAB, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    return T5ForConditionalGeneration(config)


def bert(kind):
    import transformers

    config = transformers.BertConfig(
        vocab_size=N_VOCAB, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    return getattr(transformers, kind)(config)


def prompted():
    from peft import PromptTuningConfig, get_peft_model

    return get_peft_model(build(vocab_size=N_VOCAB), PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))


NOT_CAUSAL = {
    "encoder-decoder": (encoder_decoder, "T5ForConditionalGeneration is an encoder-decoder"),
    "masked": (lambda: bert("BertForMaskedLM"), "BertForMaskedLM does not predict the next token"),
    "classification": (
        lambda: bert("BertForSequenceClassification"),
        "BertForSequenceClassification does not predict the next token",
    ),
    "prompt tuning": (prompted, "the adapter PromptTuningConfig adds virtual tokens before every sequence"),
}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
# A recipe names no adapter.
@pytest.mark.parametrize(
    ("door", "kind"), [(d, k) for d in DOORS for k in NOT_CAUSAL if (d, k) != ("recipe", "prompt tuning")]
)
def test_models_that_predict_something_else(door, kind, setting, tmp_path):
    make, line = NOT_CAUSAL[kind]
    if door == "recipe":
        make().save_pretrained(tmp_path / "model")
        setting, training = replace(setting, model=tmp_path / "model"), Training()
        line = "cannot be loaded as a causal language model" if kind == "encoder-decoder" else "attends to later tokens"
    else:
        training = Training(wrap=lambda model: make())
    with pytest.raises(InputError) as caught:
        train(door, setting, tmp_path, training)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


def test_a_head_without_weights_is_refused(setting, tmp_path):
    state = build(vocab_size=N_VOCAB, tie_word_embeddings=False).state_dict()
    setting.fresh().save_pretrained(
        tmp_path / "model", state_dict={k: v for k, v in state.items() if "lm_head" not in k}
    )
    with pytest.raises(InputError, match=r"model.name: .* has no weights for lm_head.weight; they would be random"):
        train("recipe", replace(setting, model=tmp_path / "model"), tmp_path, Training())
