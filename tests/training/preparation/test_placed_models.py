"""Models in the cache by name, and the hash that a recipe expects: at every place where a model or tokenizer is named."""

from __future__ import annotations

import io
import json
import shutil

import pytest
import torch
from rich.console import Console
from support.tiny import quiet, run_tiny, tiny_recipe
from transformers import AutoModelForCausalLM

from dynamics.corpus.tokenizer import load_tokenizer, train_tokenizer
from dynamics.errors import InputError
from dynamics.recipe.loading import dump_yaml
from dynamics.recipe.settings import ModelSettings
from dynamics.records import schema
from dynamics.reporting import Reporter
from dynamics.training import recipe_run
from dynamics.training.head.pretrained import model_hash, pretrained_model
from dynamics.training.preparation import prepare
from dynamics.training.preparation.models import build_model
from dynamics.training.recipe_run import make_ready, train

TEXT = ["def f(x): return x + 1  # a comment, and another\n" * 9]


@pytest.fixture
def placed(tmp_path, monkeypatch):
    """A model and its tokenizer in a cache of their own, as cache:tiny; its folder."""
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "models" / "tiny"
    tokenizer = train_tokenizer(TEXT, vocab_size=280)
    build_model(ModelSettings(name="nano"), tokenizer=tokenizer, block_size=32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def hash_in(folder):
    return model_hash(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))


def change(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1
    model.save_pretrained(folder)


def recipe(**changes):
    return {"model": {"name": "cache:tiny"}, "tokenizer": "cache:tiny", **changes}


def test_a_recipe_names_it_and_says_what_it_must_be(placed, tmp_path):
    expected = hash_in(placed)
    run = run_tiny(tmp_path / "run", **recipe(model={"name": "cache:tiny", "hash": expected}))
    assert run.manifest["model"] == {"name": "cache:tiny", "hash": expected}
    # Nothing of this machine is in the recipe that the run keeps.
    assert run.config["model"]["name"] == run.config["tokenizer"] == "cache:tiny"
    assert str(placed) not in (run.path / schema.CONFIG_FILE).read_text()


def test_other_weights_are_refused(placed, tmp_path):
    wanted, found = "0" * 64, hash_in(placed)
    for base in (None, {"corpus": "builtin:python-docstrings"}):
        fields = recipe(model={"name": "cache:tiny", "hash": wanted}, base=base)
        with pytest.raises(
            InputError, match=f"^model.hash: the weights of 'cache:tiny' .* have hash {found}.* expects {wanted}"
        ):
            train(tiny_recipe(**fields), tmp_path / "run", reporter=quiet())
        assert not (tmp_path / "run" / schema.MANIFEST_FILE).exists()
        assert not (tmp_path / "cache" / "base-models").exists()


def test_a_named_size_has_a_hash_too(placed, tmp_path):
    expected = hash_in(placed)  # of nano with init_seed 0
    fields = {"name": "nano", "hash": expected}
    make_ready(tiny_recipe(**recipe(model=fields)), tmp_path / "run", quiet())
    with pytest.raises(InputError, match="model.hash: the weights of 'nano' .* have hash"):
        make_ready(tiny_recipe(**recipe(model={**fields, "init_seed": 1})), tmp_path / "run", quiet())


@pytest.mark.parametrize("value", ["abc", "A" * 64, "0" * 65, "", 5, True])
def test_a_hash_that_is_none(value):
    with pytest.raises(InputError, match="model.hash"):
        tiny_recipe(model={"name": "nano", "hash": value})


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"model": {"name": "cache:tinny"}}, "model.name: 'cache:tinny'"),
        ({"tokenizer": "cache:tinny"}, "tokenizer 'cache:tinny'"),
        (
            {"regularizers": [{"name": "entrodrop", "ratio": 0.2, "pool": 0.5, "source": {"model": "cache:tinny"}}]},
            "source.model: 'cache:tinny'",
        ),
    ],
)
def test_every_name_of_a_model_that_is_not_there(placed, tmp_path, fields, key):
    with pytest.raises(InputError, match=f"^{key}: there is no folder .*; did you mean 'tiny'"):
        train(tiny_recipe(**recipe(**fields)), tmp_path / "run", reporter=quiet())


def test_it_is_another_model_to_a_method(placed, tmp_path):
    entrodrop = {"name": "entrodrop", "ratio": 0.4, "pool": 0.4, "schedule": "constant"}
    runs = [
        run_tiny(tmp_path / f"run-{number}", **recipe(regularizers=[{**entrodrop, **source}]))
        for number, source in enumerate(({"source": {"model": "cache:tiny"}}, {}))
    ]
    # The starting model itself: what is dropped is what its own reference values say.
    dropped = [run.records("train").dropped(1) for run in runs]
    assert dropped[0].any() and (dropped[0] == dropped[1]).all()
    assert runs[0].config["regularizers"][0]["source"]["model"] == "cache:tiny"


def test_a_folder_of_that_name_here_changes_nothing(placed, tmp_path, monkeypatch):
    shutil.copytree(placed, tmp_path / "here" / "cache:tiny")
    change(tmp_path / "here" / "cache:tiny")
    monkeypatch.chdir(tmp_path / "here")
    loaded = tiny_recipe(**recipe())
    assert loaded.model.name == loaded.tokenizer == "cache:tiny"
    model = build_model(loaded.model, tokenizer=load_tokenizer(loaded.tokenizer), block_size=32)
    assert model_hash(model) == hash_in(placed)


def cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def other_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 2 * config["hidden_size"]}))


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        other_shape,
        lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 99),
        lambda folder: (folder / "config.json").write_text('{"model_type": "qwen3", "hidden_size": "many"}'),
        lambda folder: (folder / "config.json").unlink(),
    ],
)
def test_damage_is_one_message(placed, damage):
    damage(placed)
    for name, remedy in (("cache:tiny", f"remove {placed}, and make it again"), (str(placed), "give a folder that ")):
        with pytest.raises(InputError) as caught:
            pretrained_model(name, trust_remote_code=False, key="model.name", trust_key="model.trust_remote_code")
        said = str(caught.value)
        assert said.startswith(f"model.name: {name!r} cannot be loaded as a causal language model") and remedy in said


# ------------------------------------------------------------------------------------------ where it changes


@pytest.fixture
def study(placed, tmp_path):
    """A study of one arm whose first run is finished."""
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / schema.STUDY_FILE).write_text(dump_yaml(tiny_recipe(**recipe())))
    run_tiny(folder / "runs" / "baseline" / "seed-0", **recipe(training={"num_train_epochs": 1}))
    return folder


def test_runs_of_one_study_start_from_one_model(study, placed, tmp_path, monkeypatch):
    fields = recipe(seed=1)
    make_ready(tiny_recipe(**fields), study / "runs" / "baseline" / "seed-1", quiet())
    change(placed)
    # In the process that ran the others: what it knows of the model is not what it would load.
    with pytest.raises(InputError, match="model.name: 'cache:tiny' is not the model that this study"):
        train(tiny_recipe(**fields), study / "runs/baseline/seed-1", reporter=quiet())
    monkeypatch.setattr(prepare, "_last", None)  # as in a process that has run nothing yet
    for place in ("runs/baseline/seed-1", "tuning/baseline/trial-0"):
        with pytest.raises(InputError, match="model.name: 'cache:tiny' is not the model that .*seed-0 started from"):
            train(tiny_recipe(**fields), study / place, reporter=quiet())
        assert not (study / place / schema.MANIFEST_FILE).exists()
    # A run of no study may start from what it likes, wherever it lies.
    for alone in (tmp_path / "alone", study / "runs" / "alone", tmp_path / "other" / "runs" / "arm" / "seed-0"):
        make_ready(tiny_recipe(**fields), alone, quiet())


def test_a_pretrained_start_of_other_bits_is_said(study, monkeypatch):
    said = io.StringIO()
    fields = recipe(seed=1, base={"corpus": "builtin:python-docstrings"})
    loaded, output = tiny_recipe(**fields), study / "runs" / "baseline" / "seed-1"
    prepared = type("Prepared", (), {"facts": {"model": {"hash": "0" * 64}}})()
    recipe_run._say_where_starts_differ(loaded, output, prepared, Reporter(Console(file=said, width=500)))
    assert "its pretrained starting model is not bit-identical to that of" in said.getvalue()


def test_a_damaged_run_beside_it_is_no_reason(study):
    manifest = study / "runs" / "baseline" / "seed-0" / schema.MANIFEST_FILE
    for content in (b"{", b"[]", b'{"model": null}', b"\xff"):
        manifest.write_bytes(content)
        make_ready(tiny_recipe(**recipe(seed=1)), study / "runs" / "baseline" / "seed-1", quiet())


def test_a_run_does_not_go_on_from_another_model(placed, tmp_path):
    folder = tmp_path / "run"
    run_tiny(folder, **recipe())
    manifest = json.loads((folder / schema.MANIFEST_FILE).read_text())
    schema.write_manifest(folder / schema.MANIFEST_FILE, {**manifest, "status": "running"})
    change(placed)
    with pytest.raises(InputError, match="holds a run with different data .model.hash."):
        train(tiny_recipe(**recipe()), folder, resume=True, reporter=quiet())
    wrong = recipe(model={"name": "cache:tiny", "hash": manifest["model"]["hash"]})
    with pytest.raises(InputError, match="model.hash: the weights of 'cache:tiny' .* have hash"):
        train(tiny_recipe(**wrong), folder, resume=True, reporter=quiet())
