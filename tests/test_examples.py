"""The scripts in examples/ run as they stand, on a small model in the hub's own layout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

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
    assert len((EXAMPLES / script).read_text().splitlines()) <= (40 if "trainer" in script else 90)


def printed(said: str) -> list[float]:
    """The validation losses of epochs 0 to 3, as a script prints them."""
    found = [(int(epoch), float(loss)) for epoch, loss in re.findall(r"epoch (\d+): validation loss (\d+\.\d+)", said)]
    assert [epoch for epoch, _ in found] == [0, 1, 2, 3]
    return [loss for _, loss in found]


def mean_loss(model: Any, sequences: list[list[int]]) -> float:
    """Mean loss of all tokens but the first of each sequence, in nats, in float64; one sequence at a time."""
    losses = []
    model.double().eval()
    for ids in map(torch.tensor, sequences):
        with torch.no_grad():
            logits = model(ids[None])
        logits = logits[0] if isinstance(logits, torch.Tensor) else logits.logits[0]
        losses.append(cross_entropy(logits[:-1], ids[1:], reduction="none"))
    return float(torch.cat(losses).mean())


def held_out(folder: Path) -> list[list[int]]:
    """What the scripts set aside, tokenised here."""
    from datasets import load_dataset

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    rows = load_dataset("json", data_files=str(folder / "texts.jsonl"), split="train", cache_dir=str(folder / "hub"))
    texts = rows.train_test_split(test_size=0.25, seed=0)["test"]["text"]
    return [tokenizer(text, truncation=True, max_length=256)["input_ids"] for text in texts]


def test_own_trainer(folder: Path) -> None:
    said = run(folder, "own_trainer.py", "texts.jsonl")
    losses = printed(said)
    assert losses[-1] < losses[0]
    # What is printed of epoch 0 and of epoch 3 is what the model says that was given, and the one that was saved last.
    checkpoints = (folder / "own_trainer" / "trainer").glob("checkpoint-*")
    last = max(checkpoints, key=lambda path: int(path.name.split("-")[1]))
    for model, loss in ((folder / "model", losses[0]), (last, losses[3])):
        expected = mean_loss(AutoModelForCausalLM.from_pretrained(model), held_out(folder))
        assert loss == pytest.approx(expected, abs=3e-4)
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


def test_accelerate_loop(folder: Path) -> None:
    losses = printed(run(folder, "accelerate_loop.py", "texts.jsonl"))
    for model, loss in ((folder / "model", losses[0]), (folder / "accelerate_loop" / "model", losses[3])):
        expected = mean_loss(AutoModelForCausalLM.from_pretrained(model), held_out(folder))
        assert loss == pytest.approx(expected, abs=3e-4)
    opened = open_run(folder / "accelerate_loop" / "run")
    assert opened.complete and check_run(opened.path).ok and opened.config["trainer"] == "LoopRecorder"
    # 18 examples are five batches, three steps a pass.
    assert opened.manifest["total_steps"] == 9 == len(opened.metrics())
    rates = [row["learning_rate"] for row in opened.metrics()]
    assert rates == pytest.approx([1e-3 * (8 - step) / 9 for step in range(9)])
    records = opened.records("train")
    assert len(records.token_id) == 18 and records.dropped(3)[records.predicted].mean() > 0.05


def test_nano_gpt_loop(folder: Path) -> None:
    said = run(folder, "nano_gpt_loop.py", "texts.jsonl")
    losses = printed(said)
    entropy = float(re.findall(r"entropy (\d+\.\d+)", said)[-1])
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    texts = [json.loads(line)["text"] for line in (folder / "texts.jsonl").read_text().splitlines()]
    ids = [token for text in texts for token in tokenizer(text)["input_ids"]]
    blocks = torch.tensor(ids[: len(ids) // 32 * 32]).view(-1, 32)
    n_train = len(blocks) * 3 // 4
    state = {
        name: value.double()
        for name, value in torch.load(folder / "nano_gpt_loop" / "model.pt", weights_only=True)["model"].items()
    }
    logits = by_hand(state, blocks[n_train:])[:, :-1].flatten(0, 1)
    expected = cross_entropy(logits, blocks[n_train:, 1:].flatten())
    assert losses[3] == pytest.approx(float(expected), abs=3e-4) and losses[3] < losses[0]
    assert entropy == pytest.approx(float(torch.distributions.Categorical(logits=logits).entropy().mean()), abs=3e-4)
    opened = open_run(folder / "nano_gpt_loop" / "run")
    assert opened.complete and check_run(opened.path).ok and opened.config["model"] == {"name": "GPT"}
    assert opened.config["training"]["batch_size"] == 8
    records = opened.records("train")
    # Equal blocks are one sequence.
    different = list(dict.fromkeys(map(tuple, blocks[:n_train].tolist())))
    assert records.token_id.tolist() == [list(block) for block in different]
    assert records.text(0) == tokenizer.decode(blocks[0])
    assert records.dropped(3)[records.predicted].mean() > 0.05 and not records.dropped(3)[:, 0].any()


def by_hand(state: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """The logits of the script's GPT, of two layers with two heads, from its weights."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    x = state["wte.weight"][ids] + state["wpe.weight"][: ids.shape[1]]
    future = torch.ones(ids.shape[1], ids.shape[1]).triu(1).bool()
    for layer in (0, 1):
        q, k, v = linear(norm(x, f"blocks.{layer}.ln_1"), f"blocks.{layer}.qkv").split(32, dim=-1)
        heads = []
        for head in (slice(0, 16), slice(16, 32)):
            scores = (q[..., head] @ k[..., head].transpose(1, 2) / 4.0).masked_fill(future, -torch.inf)
            heads.append(scores.softmax(-1) @ v[..., head])
        x = x + linear(torch.cat(heads, dim=-1), f"blocks.{layer}.proj")
        inner = linear(norm(x, f"blocks.{layer}.ln_2"), f"blocks.{layer}.mlp.0")
        x = x + linear(inner * 0.5 * (1 + torch.erf(inner / 2**0.5)), f"blocks.{layer}.mlp.2")
    return norm(x, "ln_f") @ state["wte.weight"].T
