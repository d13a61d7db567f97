"""What a run never does: keep pickles, run code that came with data, write outside its output, open a connection."""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import quiet, run_tiny, tiny_recipe

from dynamics.errors import InputError
from dynamics.recipe.loading import dump_yaml
from dynamics.recipe.settings import ModelSettings, Recipe
from dynamics.recipe.studies import StudyRecipe
from dynamics.records import schema
from dynamics.training.driving.trainer_callback import LoopCallback
from dynamics.validation import validated

# Training state that torch writes, pickles in a zip; only in checkpoints, which a finished run does not have.
TORCH_STATE = {"optimizer.pt", "scheduler.pt", "rng_state.pth"}


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNAMICS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def is_pickle(data: bytes) -> bool:
    """Whether the whole of `data` reads as one pickle, or a zip holds one; nothing is loaded."""
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return any(is_pickle(archive.read(name)) for name in archive.namelist())
    try:
        *_, (_, _, last) = pickletools.genops(data)
    except Exception:  # genops raises many kinds for what is none
        return False
    return last is not None and last == len(data) - 1


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_tiny(tmp_path_factory.mktemp("whole") / "run").path


def left_off(folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was interrupted when its first checkpoint was whole; return that checkpoint."""
    from dynamics.training.environment.interrupts import Interrupted
    from dynamics.training.recipe_run import train

    def ends(self: LoopCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == per_epoch + 1:
            raise Interrupted
        return step_end(self, args, state, control, **kwargs)

    step_end = LoopCallback.on_step_end
    per_epoch = schema.read_manifest(whole / "manifest.json")["steps_per_epoch"]
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(LoopCallback, "on_step_end", ends)
        train(tiny_recipe(), folder, reporter=quiet())
    (checkpoint,) = (folder / "checkpoints").glob("checkpoint-*")
    return checkpoint


def test_the_scan_knows_a_pickle() -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert is_pickle(pickle.dumps({"a": [1, None, "x"]}, protocol))
    target = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, target)
    assert is_pickle(target.getvalue())
    torch.save({"a": torch.zeros(2)}, target := io.BytesIO(), _use_new_zipfile_serialization=False)
    assert b"\x80\x02" in target.getvalue()[:4]
    assert not any(map(is_pickle, [b"", b"{}", b'{"a": 1}\n', b"name: x\n", bytes(100), b"text."]))


def test_no_file_of_a_finished_run_is_a_pickle(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dynamics.training.recipe_run import train

    checkpoint = left_off(tmp_path / "run", whole, monkeypatch)
    pickles = {name for name, data in files_below(tmp_path / "run").items() if is_pickle(data)}
    assert {Path(name).name for name in pickles} <= TORCH_STATE
    assert {Path(name).parent for name in pickles} == {checkpoint.relative_to(tmp_path / "run")}
    train(tiny_recipe(), tmp_path / "run", resume=True, reporter=quiet())
    for finished in (whole, tmp_path / "run"):
        files = files_below(finished)
        assert [name for name, data in files.items() if is_pickle(data)] == []
        assert [
            name for name, data in files.items() if data[:2] in (b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK")
        ] == []
        assert {Path(name).suffix for name in files} <= {".json", ".jsonl", ".yaml", ".safetensors", ".jinja"}


class Code:
    """Pickled, this makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("name", sorted(TORCH_STATE))
def test_code_in_a_checkpoint_does_not_run(
    name: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dynamics.training.recipe_run import train

    checkpoint = left_off(tmp_path / "run", whole, monkeypatch)
    assert (checkpoint / name).is_file()
    proof = tmp_path / "code was run"
    torch.save({"state": Code(proof)}, checkpoint / name)
    # By someone who can seal a manifest, too.
    manifest = schema.read_manifest(checkpoint / "manifest.json")
    manifest["files"][name] = schema.file_entry(checkpoint / name)
    schema.write_manifest(checkpoint / "manifest.json", manifest)
    with pytest.raises((pickle.UnpicklingError, RuntimeError, InputError)):
        train(tiny_recipe(), tmp_path / "run", resume=True, reporter=quiet())
    assert not proof.exists()
    torch.load(checkpoint / name, weights_only=False)  # The trap is one.
    assert proof.is_dir()


# --------------------------------------------------------------------- code that comes with a model

MODEL_CODE = """
from pathlib import Path
from transformers import Qwen3ForCausalLM
Path({proof!r}).touch()
class Own(Qwen3ForCausalLM):
    pass
"""


@pytest.fixture
def model_with_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from transformers import Qwen3Config, Qwen3ForCausalLM, dynamic_module_utils

    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    config = Qwen3Config(**shape, num_attention_heads=2, num_key_value_heads=2, vocab_size=300)
    folder = tmp_path / "model-with-code"
    Qwen3ForCausalLM(config).save_pretrained(folder)
    described = json.loads((folder / "config.json").read_text())
    described["auto_map"] = {"AutoModelForCausalLM": "own.Own"}
    (folder / "config.json").write_text(json.dumps(described))
    (folder / "own.py").write_text(MODEL_CODE.format(proof=str(tmp_path / "code was run")))
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    return folder


def tokenizer() -> Any:
    from dynamics.corpus.tokenizer import train_tokenizer

    return train_tokenizer(["some text"], vocab_size=260)


def test_code_that_comes_with_a_model_runs_by_an_explicit_key_alone(model_with_code: Path, tmp_path: Path) -> None:
    from dynamics.training.preparation.models import build_model

    words, proof = tokenizer(), tmp_path / "code was run"
    # The library knows this kind of model, and takes its own code unless it is told to trust the folder's.
    plain = build_model(ModelSettings(name=str(model_with_code)), tokenizer=words, block_size=16)
    assert type(plain).__module__.startswith("transformers.") and not proof.exists()
    trusting = ModelSettings(name=str(model_with_code), trust_remote_code=True)
    with pytest.warns(UserWarning, match="model.trust_remote_code: true runs the program code") as warned:
        model = build_model(trusting, tokenizer=words, block_size=16)
        build_model(trusting, tokenizer=words, block_size=16)
    assert len([one for one in warned if "trust_remote_code" in str(one.message)]) == 1
    assert type(model).__name__ == "Own" and proof.exists()


def test_a_kind_of_model_that_only_its_own_code_knows_is_refused(model_with_code: Path, tmp_path: Path) -> None:
    from dynamics.training.preparation.models import build_model

    file = model_with_code / "config.json"
    described = json.loads(file.read_text()) | {"model_type": "own-kind"}
    described["auto_map"]["AutoConfig"] = "own.Config"
    file.write_text(json.dumps(described))
    with pytest.raises(
        InputError, match=r"model\.name: .*custom code.*; if you trust .* model\.trust_remote_code: true"
    ):
        build_model(ModelSettings(name=str(model_with_code)), tokenizer=tokenizer(), block_size=16)
    assert not (tmp_path / "code was run").exists()


# --------------------------------------------------------------------------------- names and paths

ESCAPES = ["../x", "..", ".", "/tmp/x", "a/b", "a\\b", "a\0b", "~", "", ".hidden", "x" * 201, "C:x", "a b", "\u202ex"]


@pytest.mark.parametrize("name", ESCAPES)
def test_no_name_of_a_recipe_leaves_the_output(name: str) -> None:
    with pytest.raises(InputError, match="name"):
        tiny_recipe(name=name)
    fields = tiny_recipe().model_dump(exclude={"seed"})
    with pytest.raises(InputError, match="arms"):
        validated(StudyRecipe, {**fields, "arms": {name: {}}}, where="study")


def test_seeds_that_become_folders_are_numbers() -> None:
    fields = tiny_recipe().model_dump(exclude={"seed"})
    for seed in ("../x", "0", 1.0, True, -1):
        with pytest.raises(InputError, match="seeds"):
            validated(StudyRecipe, {**fields, "arms": {"a": {}}, "seeds": [seed]}, where="study")


@pytest.mark.parametrize("key", ["output_dir", "logging_dir", "save_only_model", "hub_model_id", "push_to_hub"])
def test_training_arguments_that_write_elsewhere_are_refused(key: str) -> None:
    with pytest.raises(InputError, match=f"training: {key} belongs to the project"):
        tiny_recipe(training={key: "/tmp/elsewhere"})


# ------------------------------------------------------------------------------------- the network

OFFLINE = """
import sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        with open({log!r}, "a") as file:
            file.write(f"{{event}} {{arguments[1:]}}\\n")
        raise RuntimeError(f"a connection was opened: {{event}}")

sys.addaudithook(watch)
sys.argv = ["dynamics", *{arguments!r}]
from dynamics.cli import main
main()
"""


def no_network(arguments: list[str], folder: Path) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run `dynamics` where every connection is refused and noted, and the hub is not switched off."""
    log = folder / "connections"
    log.write_text("")
    environment = {key: value for key, value in os.environ.items() if not re.fullmatch("HF_.*|TRANSFORMERS_.*", key)}
    # A home of its own, so that nothing was downloaded before.
    environment |= {"HF_HOME": str(folder / "hub"), "DYNAMICS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    code = OFFLINE.format(log=str(log), arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, cwd=folder
    )
    return done, log.read_text()


def small(**changes: Any) -> Recipe:
    return tiny_recipe(training={"num_train_epochs": 1, "per_device_train_batch_size": 32}, **changes)


def test_a_run_opens_no_connection_and_writes_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(dump_yaml(small()))
    done, connections = no_network(["train", "recipe.yaml", "--output", "out"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert connections == ""
    outside = {path.name for path in tmp_path.iterdir()} - {"hub"}
    assert outside == {"recipe.yaml", "connections", "cache", "out"}
    # The same files make a model and a tokenizer to start from, without a question to the hub either.
    model = str(tmp_path / "out" / "model")
    again = small(model={"name": model}, tokenizer=model)
    (tmp_path / "again.yaml").write_text(dump_yaml(again))
    done, connections = no_network(["train", "again.yaml", "--output", "again"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert connections == ""


def test_a_hub_name_asks_the_network_and_nothing_else_does(tmp_path: Path) -> None:
    # The watch has teeth: this one is noted.
    (tmp_path / "recipe.yaml").write_text(dump_yaml(small(model={"name": "owner/no-such-model"}, tokenizer=None)))
    done, connections = no_network(["train", "recipe.yaml", "--output", "out"], tmp_path)
    assert done.returncode == 2, done.stderr
    assert "socket." in connections
    assert not (tmp_path / "out").exists()
