"""Whole runs: what they record is what plain transformers calls compute, and nothing else changes it."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from support.tiny import quiet, run_tiny, tiny_recipe
from transformers import AutoModelForCausalLM

from dynamics.analysis.sums.arms import Arm
from dynamics.analysis.sums.curves import mean_curve
from dynamics.corpus.packing import split_documents
from dynamics.corpus.sources import load_documents
from dynamics.errors import InputError
from dynamics.records import schema
from dynamics.records.check import check_run
from dynamics.training import recipe_run
from dynamics.training.loop.training_loop import TrainingLoop
from dynamics.training.preparation.documents import base_documents, domain_documents
from dynamics.training.recipe_run import make_ready, train, trainer_of


def weights(run):
    return load_file(run.path / "model" / "model.safetensors")


def same_weights(one, other):
    return all(np.array_equal(a, weights(other)[name]) for name, a in weights(one).items())


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    return run_tiny(tmp_path_factory.mktemp("runs") / "baseline", recording={"train_sequences": 40, "dtype": "float32"})


def recomputed(run, split, epoch):
    """Loss, entropy and correctness from the saved model in float64, with no code of this library."""
    records = run.records(split)
    model = AutoModelForCausalLM.from_pretrained(run.path / "model", dtype=torch.float64).eval()
    with torch.no_grad():
        z = model(torch.from_numpy(records.token_id.astype(np.int64))).logits.numpy()
    n_sequences, n_positions = records.token_id.shape
    loss = np.full((n_sequences, n_positions), np.nan)
    entropy, correct = loss.copy(), np.zeros(loss.shape, dtype=bool)
    for s in range(n_sequences):
        for p in range(1, n_positions):
            same_document = records.document_id[s, p] == records.document_id[s, p - 1]
            if records.document_id[s, p] < 0 or not same_document:
                continue
            row = z[s, p - 1] - z[s, p - 1].max()
            log_p = row - np.log(np.exp(row).sum())
            loss[s, p] = -log_p[records.token_id[s, p]]
            entropy[s, p] = -(np.exp(log_p) * log_p).sum()
            correct[s, p] = row.argmax() == records.token_id[s, p]
    return loss, entropy, correct


@pytest.mark.parametrize("split", ["train", "validation"])
def test_last_epoch_equals_a_float64_recomputation(baseline, split):
    records = baseline.records(split)
    last = baseline.epochs[-1]
    loss, entropy, correct = recomputed(baseline, split, last)
    for recorded, expected in ((records.loss(last), loss), (records.entropy(last), entropy)):
        assert np.array_equal(np.isnan(recorded), np.isnan(expected))
        known = ~np.isnan(expected)
        error = np.abs(recorded[known] - expected[known])
        assert (error <= 2e-5 * np.maximum(1, np.abs(expected[known]))).all(), error.max()
    assert np.array_equal(records.correct(last), correct)
    assert np.isnan(loss).any() and (~np.isnan(loss)).sum() > 500


def test_float16_records_are_near_the_float64_recomputation(tmp_path):
    run = run_tiny(tmp_path / "run")
    loss, entropy, _ = recomputed(run, "validation", 2)
    records = run.records("validation")
    for recorded, expected in ((records.loss(2), loss), (records.entropy(2), entropy)):
        known = ~np.isnan(expected)
        assert (np.abs(recorded - expected)[known] <= 2e-5 + 1e-3 * expected[known]).all()


def test_nothing_is_recorded_where_there_is_no_prediction(baseline):
    for split in baseline.splits:
        records = baseline.records(split)
        start = np.zeros(records.token_id.shape, dtype=bool)
        start[:, 0] = True
        start[:, 1:] = records.document_id[:, 1:] != records.document_id[:, :-1]
        start |= records.document_id < 0
        for epoch in baseline.epochs:
            assert np.array_equal(np.isnan(records.loss(epoch)), start)
            assert not records.correct(epoch)[start].any()
        assert np.array_equal(np.isnan(records.reference_entropy), start)
    steps = [row for row in baseline.metrics()]
    assert len(steps) == baseline.manifest["total_steps"]


def test_epoch_zero_is_the_reference(baseline):
    records = baseline.records("validation")
    np.testing.assert_allclose(records.loss(0), records.reference_loss, atol=1e-5)
    assert np.nanmean(records.loss(0)) == pytest.approx(np.log(300), abs=0.3)


def test_training_lowers_the_training_loss(baseline):
    records = baseline.records("train")
    assert np.nanmean(records.loss(2)) < np.nanmean(records.loss(0)) - 0.3


def test_recording_changes_no_weight_and_runs_repeat(tmp_path, baseline):
    again = run_tiny(tmp_path / "again", recording={"train_sequences": 40, "dtype": "float32"})
    little = run_tiny(tmp_path / "little", recording={"train_sequences": 1, "validation_sequences": 1})
    assert same_weights(baseline, again) and same_weights(baseline, little)
    for split in baseline.splits:
        for epoch in baseline.epochs:
            one, other = baseline.records(split), again.records(split)
            assert np.array_equal(one.loss(epoch), other.loss(epoch), equal_nan=True)
            assert np.array_equal(one.entropy(epoch), other.entropy(epoch), equal_nan=True)


def test_training_without_a_recorder_ends_in_the_same_weights(tmp_path, baseline):
    recipe = tiny_recipe(recording={"train_sequences": 40, "dtype": "float32"})
    prepared, methods, args = make_ready(recipe, tmp_path, quiet())
    trainer = trainer_of(prepared, TrainingLoop(methods), args, prepared.load_model())
    trainer.train()
    for name, weight in weights(baseline).items():
        assert np.array_equal(trainer.model.state_dict()[name].numpy(), weight), name


@pytest.mark.parametrize(
    "method",
    [
        {"name": "entrodrop", "ratio": 0.4, "pool": 0.5, "schedule": "constant"},
        {"name": "entrodrop", "ratio": 0.4, "pool": 0.5, "schedule": "constant", "target": "loss"},
        {"name": "entrodrop", "ratio": 0.4, "target": "both", "schedule": "constant", "normalize": "kept"},
        {"name": "entrodrop", "ratio": 0.4, "schedule": "constant", "replacement": "random"},
        {"name": "inverse_entrodrop", "ratio": 0.4, "schedule": "constant", "replacement": "mean"},
        {"name": "random_token_dropout", "ratio": 0.4, "schedule": "constant"},
        {"name": "weight_decay", "value": 1.0},
        {"name": "hidden_dropout", "rate": 0.2},
        {"name": "label_smoothing", "factor": 0.2},
        {"name": "neftune", "alpha": 5.0},
    ],
    ids=lambda m: "-".join(str(v) for v in m.values() if isinstance(v, str)),
)
def test_every_method_acts_and_the_run_is_whole(tmp_path, baseline, method):
    run = run_tiny(tmp_path / "run", regularizers=[method], recording={"train_sequences": "all", "training_pass": True})
    assert not same_weights(baseline, run)
    assert check_run(run.path).ok
    records = run.records("train")
    assert np.array_equal(np.isnan(records.training_loss(1)), ~records.predicted)
    dropped = records.dropped(1)
    if "ratio" not in method:
        assert not dropped.any()
        return
    predicted = ~np.isnan(records.reference_entropy)
    assert not dropped[~predicted].any()
    n = predicted.sum()
    assert abs(dropped.sum() / n - 0.4) < 3 * np.sqrt(0.4 * 0.6 / n)
    pool = np.nanquantile(records.reference_entropy, 0.5)
    if method["name"] == "entrodrop":
        assert records.reference_entropy[dropped].max() <= pool + 1e-6
    if method["name"] == "inverse_entrodrop":
        assert records.reference_entropy[dropped].min() >= pool - 1e-6
    shares = [row["dropped_share"] for row in run.metrics()]
    assert np.mean(shares) == pytest.approx(0.4, abs=0.03)


def test_masks_and_weights_do_not_depend_on_micro_batches_and_workers(tmp_path):
    method = [{"name": "entrodrop", "ratio": 0.3, "schedule": "linear"}]
    common = {"num_train_epochs": 2, "learning_rate": 1e-3}
    whole = run_tiny(
        tmp_path / "whole",
        regularizers=method,
        recording={"train_sequences": "all"},
        training={**common, "per_device_train_batch_size": 32},
    )
    parts = run_tiny(
        tmp_path / "parts",
        regularizers=method,
        recording={"train_sequences": "all"},
        training={
            **common,
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 4,
        },
    )
    workers = run_tiny(
        tmp_path / "workers",
        regularizers=method,
        recording={"train_sequences": "all"},
        training={**common, "per_device_train_batch_size": 32, "dataloader_num_workers": 2},
    )
    assert same_weights(whole, workers)
    for epoch in (1, 2):
        masks = [run.records("train").dropped(epoch) for run in (whole, parts, workers)]
        assert masks[0].any() and np.array_equal(masks[0], masks[1]) and np.array_equal(masks[0], masks[2])
    for name, weight in weights(whole).items():
        np.testing.assert_allclose(weight, weights(parts)[name], atol=2e-4)
    for one, other in zip(whole.metrics(), parts.metrics(), strict=True):
        assert one["dropped_share"] == other["dropped_share"]
        assert one["training_loss"] == pytest.approx(other["training_loss"], rel=1e-3)


def test_a_finished_run_is_left_alone_and_another_recipe_refused(baseline, tmp_path):
    recipe = tiny_recipe(recording={"train_sequences": 40, "dtype": "float32"})
    before = (baseline.path / "manifest.json").read_bytes()
    train(recipe, baseline.path, resume=True, reporter=quiet())
    assert (baseline.path / "manifest.json").read_bytes() == before
    with pytest.raises(InputError, match="is not empty"):
        train(recipe, baseline.path, reporter=quiet())
    with pytest.raises(InputError, match=r"differs in .*seed"):
        train(recipe.model_copy(update={"seed": 3}), baseline.path, resume=True, reporter=quiet())


def assert_recomputed(run, split):
    records, last = run.records(split), run.epochs[-1]
    rows = np.isin(np.arange(len(records.token_id)), records.sequence_id)
    assert rows.all()
    loss, entropy, correct = recomputed(run, split, last)
    np.testing.assert_allclose(records.loss(last), loss, atol=2e-4)
    np.testing.assert_allclose(records.entropy(last), entropy, atol=2e-4)
    assert (records.correct(last) == correct).mean() > 0.999
    return loss


def test_a_tuning_part_is_recorded_as_the_others_are(tmp_path):
    recording = {"train_sequences": 20, "validation_sequences": 10, "dtype": "float32"}
    run = run_tiny(tmp_path / "run", tuning={"fraction": 0.3}, recording=recording)
    assert run.splits == ["train", "validation", "tuning"] and check_run(run.path).ok
    loss = assert_recomputed(run, "tuning")
    means = [row["tuning_loss"] for row in run.metrics() if "tuning_loss" in row]
    assert len(means) == 3 and means[-1] == pytest.approx(np.nanmean(loss), abs=1e-5)
    (sums,) = Arm("it", [run]).seed_sums("tuning")
    np.testing.assert_allclose(mean_curve(sums)[:, 0], means, atol=1e-6)
    few = run_tiny(tmp_path / "few", tuning={"fraction": 0.3}, recording={**recording, "tuning_sequences": 3})
    assert len(few.records("tuning").sequence_id) == 3 and same_weights(run, few)


def test_several_validation_sets_are_recorded_beside_each_other_and_change_no_weight(baseline, tmp_path):
    recording = {"train_sequences": 40, "validation_sequences": "all", "dtype": "float32"}
    general = {"source": "builtin:python-docstrings", "documents": 4}
    sets = {"general": general, "domain": {"fraction": 0.3}}
    run = run_tiny(tmp_path / "run", validation=sets, recording=recording)
    assert run.splits == ["train", "validation", "validation-general"] and check_run(run.path).ok
    assert run.manifest["data"]["documents"]["validation-general"] == 4
    assert same_weights(baseline, run)
    for split in ("validation", "validation-general"):
        assert_recomputed(run, split)
    # The domain's set is the one that it was.
    assert (
        run.manifest["tokens"]["validation"]["tokens_hash"] == baseline.manifest["tokens"]["validation"]["tokens_hash"]
    )
    texts = {document.text for document in load_documents("builtin:python-docstrings", documents=4)}
    records = run.records("validation-general")
    assert {records.document_text(d) for d in range(4)} == texts
    # Another set is another run, by the tokens that it holds.
    with pytest.raises(InputError, match=r"holds a run .*validation-general"):
        changed = tiny_recipe(validation={**sets, "general": {**general, "documents": 5}}, recording=recording)
        incomplete = {**run.manifest, "status": "running"}
        schema.write_manifest(run.path / "manifest.json", incomplete)
        train(changed, run.path, resume=True, reporter=quiet())


def test_a_validation_set_of_documents_that_are_trained_on_is_refused(tmp_path):
    corpus = {"source": "builtin:python-reference", "documents": 16}
    leaking = {"domain": {"fraction": 0.3}, "general": {"source": "builtin:python-reference"}}
    with pytest.raises(InputError) as raised:
        run_tiny(tmp_path / "run", corpus=corpus, validation=leaking)
    docs = load_documents("builtin:python-reference", documents=16)
    n_trained = len(split_documents(docs, fraction=0.3)["train"])
    assert f"validation.general.source: {n_trained} documents are also in the training corpus" in str(raised.value)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=r"validation\.source: 16 documents are also in the training corpus"):
        run_tiny(tmp_path / "run", corpus=corpus, validation={"source": "builtin:python-reference"})
    # Nor may one lie in the part for tuning, by which settings are chosen.
    parts = split_documents(docs, fraction=0.3, tuning=0.3)
    file = tmp_path / "general.txt"
    for part, match in (("tuning", "1 documents are also in the training"), ("validation", None)):
        file.write_text(parts[part][0].text)
        recipe = tiny_recipe(
            corpus=corpus, tuning={"fraction": 0.3}, validation={**leaking, "general": {"source": str(file)}}
        )
        if match:
            with pytest.raises(InputError, match=match):
                domain_documents(recipe)
        else:
            assert domain_documents(recipe)[0]["validation-general"][0].text == parts[part][0].text


def test_held_out_general_text_is_left_out_of_pretraining():
    general = {"source": "builtin:python-docstrings", "documents": 5}
    recipe = tiny_recipe(
        validation={"domain": {"fraction": 0.3}, "general": general}, base={"corpus": "builtin:python-docstrings"}
    )
    parts, domain = domain_documents(recipe)
    base = {document.content_hash for document in base_documents(recipe.base, domain)}
    held_out = {document.content_hash for document in parts["validation-general"]}
    everything = {document.content_hash for document in load_documents("builtin:python-docstrings")}
    assert len(held_out) == 5 and base == everything - held_out - {doc.content_hash for doc in domain}


def test_a_run_leaves_nothing_of_its_trainer_behind(tmp_path, monkeypatch):
    """The next run of a study wants the room: a trainer is part of a circle, which is collected now and then."""
    made = []

    def noted(*parts):
        trainer = trainer_of(*parts)
        made.append((weakref.ref(trainer), weakref.ref(trainer.model)))
        return trainer

    monkeypatch.setattr(recipe_run, "trainer_of", noted)
    gc.disable()
    try:
        run_tiny(tmp_path / "run", corpus={"source": "builtin:python-reference", "documents": 5})
        assert [(trainer(), model()) for trainer, model in made] == [(None, None)]
    finally:
        gc.enable()
