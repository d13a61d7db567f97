"""The scripts in examples/ run as they stand, on a small model in the hub's own layout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dynamics import open_run
from dynamics.corpus.builtin import builtin_texts
from dynamics.corpus.tokenizer import train_tokenizer
from dynamics.records.check import check_run

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its tokenizer, texts, and prompts with completions."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("examples")
    texts = [text for _, (text, _) in zip(range(24), builtin_texts("python-docstrings"), strict=False)]
    tokenizer = train_tokenizer(texts, vocab_size=400)
    tokenizer.save_pretrained(folder / "model")
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = Qwen3Config(**shape, **heads, **special, vocab_size=len(tokenizer), use_cache=False)
    Qwen3ForCausalLM(config).save_pretrained(folder / "model")
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text[:300]}) + "\n" for text in texts))
    pairs = [{"prompt": text[:40], "completion": text[40:200]} for text in texts]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return folder


def run(folder: Path, script: str, data: str) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, EXAMPLES / script, folder / "model", folder / data, folder / script.removesuffix(".py")]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_is_short(script: str) -> None:
    assert len((EXAMPLES / script).read_text().splitlines()) <= 40


def test_own_trainer(folder: Path) -> None:
    said = run(folder, "own_trainer.py", "texts.jsonl")
    losses = [float(loss) for loss in re.findall(r"validation loss (\d+\.\d+) nats", said)]
    assert len(losses) == 4 and losses[-1] < losses[0]
    opened = open_run(folder / "own_trainer" / "run")
    assert opened.complete and check_run(opened.path).ok
    records = opened.records("train")
    assert records.dropped(3).any() and not records.dropped(3)[~records.predicted].any()
    texts = [json.loads(line)["text"] for line in (folder / "texts.jsonl").read_text().splitlines()]
    for row in range(3):
        assert any(text.startswith(records.text(row)) for text in texts)
        tokens = [records.token_text(row, at) for at in range(int((records.document_id[row] >= 0).sum()))]
        assert "".join(tokens) == records.text(row)


def test_sft_trainer(folder: Path) -> None:
    said = run(folder, "sft_trainer.py", "pairs.jsonl")
    recorded = float(re.search(r"recorded entropy (\d+\.\d+)", said)[1])  # type: ignore[index]
    trl = float(re.search(r"TRL eval_entropy (\d+\.\d+)", said)[1])  # type: ignore[index]
    assert recorded == pytest.approx(trl, abs=1e-3)
    opened = open_run(folder / "sft_trainer" / "run")
    assert opened.complete and check_run(opened.path).ok
    records = opened.records("train")
    # A prompt has text and no values: nothing of it is predicted.
    first = records.predicted.argmax(axis=1)
    assert (first > 1).all() and np.isnan(records.loss(3)[0, : first[0]]).all()
    assert "".join(records.token_text(0, at) for at in range(int(first[0]))) != ""
    shares = [row["dropped_share"] for row in opened.metrics()]
    assert shares[0] == 0.0 and 0.05 < shares[-1] < 0.25
    assert opened.config["trainer"] == "SFTTrainer" and opened.config["regularizers"][0]["name"] == "entrodrop"
