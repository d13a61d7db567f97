"""Training scripts that know nothing of this package, and the same with two lines more: the same weights, and a run.

The scripts in `scripts/` take the arguments of scripts that many people start from. Each is run as it stands, and again
with what `instrumented` puts in.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dynamics import open_run
from dynamics.corpus.builtin import builtin_texts
from dynamics.corpus.tokenizer import train_tokenizer
from dynamics.records.check import check_run
from dynamics.records.reader import Run

SCRIPTS = Path(__file__).parent / "scripts"
CHAT = (
    "{% for message in messages %}{{ message.role }}: {% if message.role == 'assistant' %}{% generation %}"
    "{{ message.content }}<|endoftext|>{% endgeneration %}{% else %}{{ message.content }}{% endif %}{{ '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
RECORDER = 'TokenRecorder("run", dtype="float32")'
ENTRODROP = 'EntroDrop(ratio=0.4, schedule="constant")'


def instrumented(script: str, *parts: str) -> str:
    """Return a script's source with recording and regularisers: at most three lines more, and none changed."""
    plain = (SCRIPTS / script).read_text()
    names = ", ".join(sorted(part.partition("(")[0] for part in parts))
    # Before the first import from transformers or trl, and before the line that trains.
    imported = re.sub(
        r"^(?=(from datasets|import torch))", f"from dynamics import attach, {names}\n", plain, count=1, flags=re.M
    )
    source = re.sub(
        r"^( +)(?=.*trainer\.train\()", rf"\1attach(trainer, {', '.join(parts)})\n\1", imported, count=1, flags=re.M
    )
    kept, added = plain.splitlines(), source.splitlines()
    assert len(added) - len(kept) <= 3
    left = iter(added)
    assert all(line in left for line in kept), "every line of the plain script is there, in its place"
    return source


class Workplace:
    """A folder with a model and data, and a process that runs scripts in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "CUDA_VISIBLE_DEVICES": ""}
        environment |= {
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        }
        self._server = subprocess.Popen(
            [sys.executable, SCRIPTS / "server.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=environment,
        )

    def run(self, source: str, name: str, *arguments: Any) -> tuple[Path, str]:
        """Run a script in a folder of its own; return the folder, and what it said. Arguments name files of ours."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "script.py").write_text(source)
        log = folder / "log.txt"
        job = {
            "script": str(folder / "script.py"),
            "arguments": [str(a) for a in arguments],
            "folder": str(folder),
            "log": str(log),
        }
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        status = self._server.stdout.readline().strip()
        said = log.read_text()
        assert status == "0", f"{name} ended with {status}:\n{said[-6000:]}"
        return folder, said

    def close(self) -> None:
        """End the process."""
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(timeout=30)
        self._server.stdout.close()


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """Two models, texts, conversations, prompts with completions, and tasks."""
    from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("scripts")
    place = Workplace(folder)
    texts = [text[:400] for _, (text, _) in zip(range(30), builtin_texts("python-docstrings"), strict=False)]
    tokenizer = train_tokenizer(texts, vocab_size=400)
    tokenizer.chat_template = CHAT
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    # With dropout: whatever draws from the global generator beside training changes the weights.
    gpt2 = GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, vocab_size=len(tokenizer), **special)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "attention_dropout": 0.1}
    qwen3 = Qwen3Config(**shape, **heads, **special, vocab_size=len(tokenizer), max_position_embeddings=256)
    for name, model in (("gpt2", GPT2LMHeadModel(gpt2)), ("qwen3", Qwen3ForCausalLM(qwen3))):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for part, some in (("train", texts[:22]), ("test", texts[22:])):
        rows: dict[str, list[dict[str, Any]]] = {
            "texts": [{"text": text} for text in some],
            "pairs": [{"prompt": text[:40], "completion": text[40:160]} for text in some],
            "chats": [
                {
                    "messages": [
                        {"role": "user", "content": text[:30]},
                        {"role": "assistant", "content": text[30:90]},
                        {"role": "user", "content": text[90:110]},
                        {"role": "assistant", "content": text[110:150]},
                    ]
                }
                for text in some
            ],
        }
        for kind, lines in rows.items():
            (folder / kind).mkdir(exist_ok=True)
            (folder / kind / f"{part}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "texts.txt").write_text("\n".join(texts))
    tasks = [
        {"instruction": t[:30], "input": t[30:60] if i % 2 else "", "output": t[60:140]} for i, t in enumerate(texts)
    ]
    (folder / "tasks.json").write_text(json.dumps(tasks))
    yield place
    place.close()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for name in ("model.safetensors", "adapter_model.safetensors"):
        if (folder / name).is_file():
            found |= load_file(folder / name)
    assert found
    return found


def assert_equal_weights(one: Path, other: Path) -> None:
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name


def assert_records_are_of(
    run: Run, saved: Path, epoch: int, *, base: Path | None = None, tolerance: float = 2e-5
) -> None:
    """An epoch's records equal what a saved model says of each sequence alone, in float64."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(saved if base is None else base, dtype=torch.float64)
    if base is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, saved).double()
    model.eval()
    for split in run.splits:
        records = run.records(split)
        loss, entropy, correct, predicted = (
            records.loss(epoch),
            records.entropy(epoch),
            records.correct(epoch),
            records.predicted,
        )
        assert np.array_equal(~np.isnan(loss), predicted) and predicted.any()
        for row in range(len(loss)):
            (at,) = predicted[row].nonzero()
            if not len(at):
                continue
            ids = torch.from_numpy(records.token_id[row, : at[-1] + 1].astype(np.int64))
            with torch.no_grad():
                log_p = model(input_ids=ids[None]).logits[0, at - 1].log_softmax(-1)
            np.testing.assert_allclose(loss[row, at], -log_p[torch.arange(len(at)), ids[at]], rtol=0, atol=tolerance)
            np.testing.assert_allclose(entropy[row, at], -(log_p.exp() * log_p).sum(-1), rtol=0, atol=tolerance)
            if tolerance < 1e-4:
                assert np.array_equal(correct[row, at], log_p.argmax(-1) == ids[at])


def pair(place: Workplace, script: str, name: str, *arguments: Any) -> tuple[Path, Path, Run]:
    """Run a script as it stands and with a recorder; return both folders, and the run, which holds."""
    plain, _ = place.run((SCRIPTS / script).read_text(), f"{name}-plain", *arguments)
    recorded, said = place.run(instrumented(script, RECORDER), f"{name}-recorded", *arguments)
    assert_equal_weights(plain / "out", recorded / "out")
    run = open_run(recorded / "run")
    assert run.complete and check_run(run.path).ok
    return plain, recorded, run


def dropping(place: Workplace, script: str, name: str, *arguments: Any) -> Run:
    """Run a script with a recorder and EntroDrop; return the run, in which something is dropped in each epoch."""
    folder, _ = place.run(instrumented(script, RECORDER, ENTRODROP), f"{name}-dropping", *arguments)
    run = open_run(folder / "run")
    assert run.complete and check_run(run.path).ok
    records = run.records("train")
    for epoch in run.epochs[1:]:
        dropped = records.dropped(epoch)
        assert not dropped[~records.predicted].any()
        assert 0.25 < dropped.sum() / records.predicted.sum() < 0.55
    return run


COMMON = [
    "--output_dir",
    "out",
    "--report_to",
    "none",
    "--learning_rate",
    "1e-3",
    "--use_cpu",
    "--disable_tqdm",
    "true",
]


# transformers' run_clm. ---------------------------------------------------------------------------------------------


def clm(place: Workplace, *more: Any) -> list[Any]:
    return [
        *("--model_name_or_path", place.folder / "gpt2", "--train_file", place.folder / "texts" / "train.jsonl"),
        *("--validation_file", place.folder / "texts" / "test.jsonl", "--block_size", 32, "--do_train", "--do_eval"),
        *("--num_train_epochs", 2, "--per_device_train_batch_size", 16, "--per_device_eval_batch_size", 16),
        *(*COMMON, *more),
    ]


CLM: dict[str, list[Any]] = {
    "default": [],
    "accumulation": [
        "--gradient_accumulation_steps",
        3,
        "--max_train_samples",
        60,
        "--config_overrides",
        "resid_pdrop=0.2",
    ],
    "bf16": ["--bf16"],
}


@pytest.mark.parametrize("arguments", CLM.values(), ids=CLM)
def test_run_clm(workplace: Workplace, arguments: list[Any], request: pytest.FixtureRequest) -> None:
    name = f"clm-{request.node.callspec.id}"
    _, folder, run = pair(workplace, "run_clm.py", name, *clm(workplace, *arguments))
    assert run.epochs == [0, 1, 2] and run.splits == ["train", "validation"]
    assert_records_are_of(run, folder / "out", 2, tolerance=0.1 if "--bf16" in arguments else 2e-5)
    assert_records_are_of(run, workplace.folder / "gpt2", 0, tolerance=0.1 if "--bf16" in arguments else 2e-5)
    if "--max_train_samples" in arguments:
        assert run.records("train").token_id.shape == (60, 32)
    # The script's own eval_loss is divided by all labels, the first of each block among them, which nothing predicts.
    said = json.loads((folder / "out" / "eval_results.json").read_text())["eval_loss"] * 32 / 31
    records = run.records("validation")
    assert records.loss(2)[records.predicted].mean() == pytest.approx(said, abs=5e-3 if "--bf16" in arguments else 1e-4)


def test_run_clm_evaluates_and_keeps_the_best(workplace: Workplace) -> None:
    steps = [
        "--eval_strategy",
        "steps",
        "--eval_steps",
        4,
        "--save_steps",
        4,
        "--load_best_model_at_end",
        "--metric_for_best_model",
        "accuracy",
    ]
    _, folder, run = pair(workplace, "run_clm.py", "clm-best", *clm(workplace, *steps))
    state = json.loads((folder / "out" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] is not None and run.manifest["total_steps"] == state["global_step"]
    last = folder / "out" / f"checkpoint-{state['global_step']}"
    assert_records_are_of(run, last, 2)
    assert dropping(workplace, "run_clm.py", "clm-best", *clm(workplace, *steps)).epochs == [0, 1, 2]


def test_run_clm_streams(workplace: Workplace) -> None:
    stream = ["--streaming", "--max_train_samples", 40, "--max_steps", 5, "--do_eval", "false"]
    _, folder, run = pair(workplace, "run_clm.py", "clm-stream", *clm(workplace, *stream))
    # 40 blocks are three steps; the second pass is cut after two: 32 of 40.
    assert run.epochs == [0, 1, 2] and [run.passes(epoch) for epoch in run.epochs] == [0.0, 1.0, 1.8]
    assert run.manifest["total_steps"] == 5
    assert_records_are_of(run, folder / "out", 2)


def assert_resumes(place: Workplace, name: str, arguments: list[Any], step: int) -> Run:
    """Run a script with EntroDrop; again from its checkpoint of a step, the only one left; return the second run.

    Weights, records and metrics are the same.
    """
    source = instrumented("run_clm.py", RECORDER, ENTRODROP)
    whole, cut = place.folder / f"{name}-whole", place.folder / f"{name}-{step}"
    if not whole.exists():
        place.run(source, whole.name, *arguments)
    # What is there when a process is killed before it can save again, but for what it has recorded since.
    shutil.copytree(whole, cut)
    for path in (cut / "out").iterdir():
        if path.name != f"checkpoint-{step}":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    _, said = place.run(source, cut.name, *arguments)
    assert "A checkpoint was found" in said
    assert_equal_weights(whole / "out", cut / "out")
    one, other = open_run(whole / "run"), open_run(cut / "run")
    assert other.complete and check_run(other.path).ok and one.epochs == other.epochs
    assert "resumed" not in other.manifest  # nothing was changed: it is the run that it would have been
    for epoch in one.epochs:
        assert (one.passes(epoch), one.step(epoch)) == (other.passes(epoch), other.step(epoch))
        for split in one.splits:
            mine, theirs = one.records(split), other.records(split)
            assert np.array_equal(mine.loss(epoch), theirs.loss(epoch), equal_nan=True)
            assert np.array_equal(mine.entropy(epoch), theirs.entropy(epoch), equal_nan=True)
            assert np.array_equal(mine.correct(epoch), theirs.correct(epoch))
            if split == "train" and epoch:
                assert np.array_equal(mine.dropped(epoch), theirs.dropped(epoch)) and mine.dropped(epoch).any()
    told = ("step", "epoch", "learning_rate", "dropped_share", "ratio")
    rows = [[[row[key] for key in told] for row in run.metrics()] for run in (one, other)]
    assert rows[0] == rows[1]
    return other


def test_run_clm_resumes_where_it_was_interrupted(workplace: Workplace) -> None:
    run = assert_resumes(workplace, "clm", clm(workplace, "--save_steps", 3), 3)
    assert run.epochs == [0, 1, 2] and run.step(1) == 8


@pytest.mark.parametrize("step", [2, 3, 6])
def test_run_clm_resumes_within_a_stream(workplace: Workplace, step: int) -> None:
    """Within the first pass, which is of three steps; and at the end of the first and the second one."""
    stream = ["--streaming", "--max_train_samples", 40, "--max_steps", 9, "--do_eval", "false", "--save_steps", 1]
    run = assert_resumes(workplace, "clm-stream", clm(workplace, *stream), step)
    assert [run.step(epoch) for epoch in run.epochs] == [0, 3, 6, 9]


def test_run_clm_does_not_resume_within_the_second_pass_of_a_stream(workplace: Workplace) -> None:
    stream = ["--streaming", "--max_train_samples", 40, "--max_steps", 9, "--do_eval", "false", "--save_steps", 1]
    with pytest.raises(
        AssertionError, match="the checkpoint of step 5 is within pass 2 of a data set without a length"
    ):
        assert_resumes(workplace, "clm-stream", clm(workplace, *stream), 5)
    # Nothing was taken from the run.
    assert open_run(workplace.folder / "clm-stream-5" / "run").epochs == [0, 1, 2, 3]


# TRL's sft. ---------------------------------------------------------------------------------------------------------


def sft(place: Workplace, data: str, *more: Any) -> list[Any]:
    return [
        *("--model_name_or_path", place.folder / "qwen3", "--dataset_name", place.folder / data, "--dtype", "float32"),
        *("--num_train_epochs", 2, "--per_device_train_batch_size", 8, "--max_length", 96, "--bf16", "false"),
        *(*COMMON, *more),
    ]


SFT: dict[str, tuple[str, list[Any]]] = {
    "default": ("pairs", ["--eval_strategy", "epoch"]),
    "packing": ("texts", ["--packing", "--eval_strategy", "steps", "--eval_steps", 2]),
    "assistant_only_loss": ("chats", ["--assistant_only_loss"]),
    "whole_pairs": ("pairs", ["--completion_only_loss", "false", "--gradient_accumulation_steps", 2]),
    "peft": ("pairs", ["--use_peft", "--lora_target_modules", "q_proj", "v_proj", "--lora_r", 4]),
}


# peft asks for a property that transformers has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(("data", "arguments"), SFT.values(), ids=SFT)
def test_sft(workplace: Workplace, data: str, arguments: list[Any], request: pytest.FixtureRequest) -> None:
    name = f"sft-{request.node.callspec.id}"
    _, folder, run = pair(workplace, "sft.py", name, *sft(workplace, data, *arguments))
    assert run.epochs == [0, 1, 2]
    assert run.splits == (["train", "validation"] if "--eval_strategy" in arguments else ["train"])
    base = workplace.folder / "qwen3" if "--use_peft" in arguments else None
    assert_records_are_of(run, folder / "out", 2, base=base)
    records = run.records("train")
    prompts = (records.document_id >= 0) & ~records.predicted
    prompts[:, 0] = False
    assert prompts.any() == (name in ("sft-default", "sft-assistant_only_loss", "sft-peft"))


@pytest.mark.parametrize(("data", "arguments"), [SFT["packing"], SFT["peft"]], ids=["packing", "peft"])
def test_sft_drops(workplace: Workplace, data: str, arguments: list[Any], request: pytest.FixtureRequest) -> None:
    dropping(workplace, "sft.py", f"sft-{request.node.callspec.id}", *sft(workplace, data, *arguments))


# Alpaca's train. ----------------------------------------------------------------------------------------------------


def test_train(workplace: Workplace) -> None:
    arguments = [
        *("--model_name_or_path", workplace.folder / "qwen3", "--data_path", workplace.folder / "tasks.json"),
        *("--num_train_epochs", 3, "--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2, *COMMON),
    ]
    _, folder, run = pair(workplace, "train.py", "alpaca", *arguments)
    assert run.epochs == [0, 1, 2, 3] and run.splits == ["train"] and len(run.records("train").token_id) == 30
    assert_records_are_of(run, folder / "out", 3)
    assert (folder / "out" / "trainer_state.json").is_file()
    text = run.records("train").text(0)
    assert text.startswith("Answer as the task asks.\n\n### Task:\n") and text.endswith("<|endoftext|>")
    dropping(workplace, "train.py", "alpaca", *arguments)
