"""What a summary tells of a run: no path of the machine, and what must be the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dynamics.errors import InputError
from dynamics.records.summaries.told import facts_of, require_same_settings, require_same_start, without_folders


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("/data/gsm8k/train.jsonl", "train.jsonl"),
        ("/data/models/smol/", "smol"),
        ("~/models/smol", "smol"),
        ("../data/gsm8k/train.jsonl", "train.jsonl"),
        ("./model", "model"),
        ("data/gsm8k/train.jsonl", "train.jsonl"),
        (r"C:\models\smol", "smol"),
        (r"\\server\models\smol", "smol"),
        ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M"),
        ("builtin:python-reference", "builtin:python-reference"),
        ("cache:smollm2-135m-instruct-q4_1", "cache:smollm2-135m-instruct-q4_1"),
        ("https://host/a/b", "https://host/a/b"),
        ("Question: {question}\nAnswer: a/b/c", "Question: {question}\nAnswer: a/b/c"),
        ("one / two / three", "one / two / three"),
        ("/", "."),
        ("", ""),
    ],
)
def test_paths_are_cut_to_their_last_part(written: str, told: str) -> None:
    assert without_folders({"a": [{"source": written}], "b": 3, "c": None}) == {
        "a": [{"source": told}],
        "b": 3,
        "c": None,
    }


def test_a_folder_that_is_there_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert without_folders(["models/mine", "models/other"]) == ["mine", "models/other"]


MANIFEST: dict[str, Any] = {
    "format_version": 2,
    "status": "complete",
    "manifest_sha256": "ab",
    "config_sha256": "cd",
    "head_routes": {"x": "y"},
    "model_files": {"model/config.json": {}},
    "model": {"name": "/somewhere/smol", "hash": "h"},
    "tokenizer": {"hash": "t"},
    "precision": "bfloat16",
    "tokens": {
        "train": {"tokens_hash": "1", "n_recorded": 3, "file": "tokens/train.safetensors", "tensors": {}},
        "validation": {"tokens_hash": "2", "n_recorded": 4},
    },
}


def test_facts_are_those_named_and_no_others() -> None:
    assert facts_of(MANIFEST) == {
        "format_version": 2,
        "status": "complete",
        "manifest_sha256": "ab",
        "model": {"name": "smol", "hash": "h"},
        "tokenizer": {"hash": "t"},
        "precision": "bfloat16",
        "tokens": {
            "train": {"tokens_hash": "1", "n_recorded": 3},
            "validation": {"tokens_hash": "2", "n_recorded": 4},
        },
    }


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 2, "name": "b"},
        {"corpus": {"source": "elsewhere"}, "model": {"name": "x", "hash": "y"}, "tokenizer": "x"},
        {"training": {"learning_rate": 1e-4, "use_cpu": False, "dataloader_num_workers": 3}},
        {"training": {"learning_rate": 1e-4}, "tuned": None},
    ],
)
def test_what_may_differ_may(other: dict[str, Any]) -> None:
    kept = {"seed": 1, "name": "a", "corpus": {"source": "here"}, "training": {"learning_rate": 1e-4, "use_cpu": True}}
    require_same_settings(kept, {**kept, **other}, summary="S", run="R")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"training": {"learning_rate": 2e-4}},
            "R has training.learning_rate 0.0002, and the runs of its arm in S have 0.0001",
        ),
        ({"regularizers": [{"name": "entrodrop"}]}, "R has regularizers [{'name': 'entrodrop'}], .* S have []"),
        ({"block_size": 128}, "R has block_size 128, .* S have None"),
        ({"training": {}}, "R has training {}, .* S have None"),
    ],
)
def test_other_settings_are_refused_by_their_key(other: dict[str, Any], message: str) -> None:
    kept = {"training": {"learning_rate": 1e-4}, "regularizers": []}
    with pytest.raises(InputError, match=re.escape(message).replace(r"\.\*", ".*")):
        require_same_settings(kept, {**kept, **other}, summary="S", run="R")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"hash": "other"}}, r"R has other starting model \(other\) than S \(h\)"),
        ({"tokenizer": {"hash": "other"}}, "R has other tokenizer"),
        ({"precision": "float32"}, r"R has other precision \(float32\) than S \(bfloat16\)"),
        ({"tokens": {"train": {"tokens_hash": "1"}}}, r"R has other splits \(train\) than S \(train, validation\)"),
        (
            {"tokens": {**MANIFEST["tokens"], "validation": {"tokens_hash": "9", "n_recorded": 4}}},
            r"R has other tokens of 'validation' \(9\) than S \(2\)",
        ),
        (
            {"tokens": {**MANIFEST["tokens"], "validation": {"tokens_hash": "2", "n_recorded": 5}}},
            r"R has other recorded rows of 'validation' \(5\) than S \(4\)",
        ),
    ],
)
def test_another_start_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    kept = facts_of(MANIFEST)
    require_same_start(kept, facts_of(MANIFEST), summary="S", run="R")
    with pytest.raises(InputError, match=message):
        require_same_start(kept, {**kept, **change}, summary="S", run="R")
