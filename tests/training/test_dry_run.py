"""Dry runs: against a real run's files and steps, with nothing of the hub at hand, and with a small hub's cache."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from transformers import Qwen3Config, Qwen3ForCausalLM

from dynamics import cli
from dynamics.corpus.tokenizer import train_tokenizer
from dynamics.recipe.loading import load_recipe
from dynamics.recipe.settings import ModelSettings
from dynamics.records.reader import open_run
from dynamics.reporting import Reporter
from dynamics.training import dry_run as door
from dynamics.training.preparation import model_size as sizes
from dynamics.training.recipe_run import train

PAPER = sorted((Path(__file__).parents[2] / "recipes" / "paper").glob("*.yaml"))
SMALL = {
    "corpus": "texts.jsonl",
    "tokenizer": {"train": {"vocab_size": 300}},
    "model": {"name": "nano"},
    "block_size": 32,
    "validation": {"fraction": 0.3},
    "regularizers": [{"name": "entrodrop", "ratio": 0.2}],
    "recording": {"train_sequences": 5, "training_pass": True},
    "training": {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "use_cpu": True,
    },
}


class Done(NamedTuple):
    code: int
    out: str
    err: str

    def row(self, name: str) -> list[str]:
        """The two cells beside `name` in the table."""
        line = next(line for line in self.out.splitlines() if line.startswith(name + "  "))
        return re.split(r"  +", line)[1:]


Command = Callable[..., Done]


@pytest.fixture
def dynamics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command, in an empty folder that holds small.yaml and its texts, on a machine without the hub and GPUs."""
    import datasets
    import huggingface_hub.constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for place in (huggingface_hub.constants, datasets.config):
        monkeypatch.setattr(place, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    rows = [{"text": f"text {n} " + "sun and moon " * (n % 7 + 1)} for n in range(40)]
    Path("texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("small.yaml").write_text(yaml.safe_dump(SMALL))

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["dynamics", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = capsys.readouterr()
        return Done(int(caught.value.code or 0), said.out, said.err)

    return run


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def estimated(*overrides: str, processes: int = 1) -> door.Estimate:
    """What a dry run of small.yaml estimates, as numbers."""
    found: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(door, "report", lambda *arguments, **more: found.append(arguments))
        assumed = door.Assumptions(flops=1e9, processes=processes)
        door.dry_run(load_recipe("small.yaml", overrides), assumed, Reporter.silent())
    (estimate,) = found[0][3]
    return estimate  # type: ignore[no-any-return]


# ----------------------------------------------------------------------------------------------------- beside a real run


def test_counts_bytes_and_memory_are_those_of_the_run(dynamics: Command, tmp_path: Path) -> None:
    del dynamics
    estimate = estimated()
    train(load_recipe("small.yaml"), tmp_path / "run", reporter=Reporter.silent())
    manifest = open_run(tmp_path / "run").manifest
    cost, memory = estimate.cost, estimate.memory
    assert (cost.steps_per_epoch, cost.steps) == (manifest["steps_per_epoch"], manifest["total_steps"])
    assert cost.tokens_bytes == on_disk(tmp_path / "run" / "tokens")
    assert cost.epochs_bytes == on_disk(tmp_path / "run" / "epochs")

    model = Qwen3ForCausalLM.from_pretrained(tmp_path / "run" / "model")
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.ones(1, 4, dtype=torch.int64)).logits.sum().backward()
    optimizer.step()
    n = sum(parameter.numel() for parameter in model.parameters())
    assert memory is not None
    assert memory.weights == sum(parameter.nbytes for parameter in model.parameters()) == 4 * n
    assert memory.gradients == sum(parameter.grad.nbytes for parameter in model.parameters())
    kept = [value for state in optimizer.state.values() for value in state.values()]
    assert memory.optimiser == sum(value.nbytes for value in kept)
    assert 0 <= (tmp_path / "run" / "model" / "model.safetensors").stat().st_size - 4 * n < 10_000  # its header


def test_fsdp_divides_what_is_sharded_and_steps_go_by_all_processes(dynamics: Command) -> None:
    del dynamics
    one, two = estimated(), estimated("training.fsdp=full_shard", "training.fsdp_config={fsdp_version: 2}", processes=2)
    apart = estimated(processes=2)
    assert one.memory is not None and two.memory is not None and apart.memory is not None
    assert (two.memory.weights, two.memory.gradients) == (one.memory.weights // 2, one.memory.gradients // 2)
    assert apart.memory.weights == one.memory.weights
    assert one.memory.copies is not None
    assert apart.memory.copies == one.memory.copies + one.memory.weights  # buckets of gradients
    assert one.cost.steps_per_epoch is not None
    assert two.cost.steps_per_epoch == apart.cost.steps_per_epoch == -(-one.cost.steps_per_epoch // 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_bytes_are_those_that_autograd_saves(dtype: torch.dtype) -> None:
    config = Qwen3Config(
        vocab_size=99, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    on = dtype != torch.float32
    with torch.autograd.graph.saved_tensors_hooks(note, lambda one: one), torch.autocast("cpu", dtype, enabled=on):
        out = model.model(input_ids=torch.zeros(4, 48, dtype=torch.int64))
    real = sum(storage.nbytes() for place, storage in held.items() if place not in weights)
    del out
    size = sizes.ModelSize(
        config=config, source="", parameters=1, tensors=1, vocabulary=99, embedding=1, layer=1, layers=3, hidden=64,
        weights_here=True,
    )  # fmt: skip
    fixed, each = sizes.saved_bytes(size, ModelSettings(name="nano"), block_size=48, dtype=dtype)
    assert fixed + 4 * each == pytest.approx(real, rel=0.1)


def test_a_step_is_timed_here_and_nothing_is_written(dynamics: Command, tmp_path: Path) -> None:
    before = {path for path in tmp_path.iterdir()}
    done = dynamics("train", "small.yaml", "--dry-run", "--output", "out")
    assert done.code == 0, done.err
    assert "2 steps and a recorded batch timed here" in done.out
    rate = float(done.row("training")[0].removesuffix(" tokens/s").replace(",", ""))
    assert rate > 0
    assert {path for path in tmp_path.iterdir()} <= before | {tmp_path / "cache"}
    assert max(map(len, done.out.splitlines())) <= 80


def test_steps_that_take_too_long_end_the_timing(dynamics: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_SECONDS", 0.0)
    done = dynamics("train", "small.yaml", "--dry-run")
    assert "time: 1 step and a recorded batch timed here" in done.out
    monkeypatch.setattr(door, "_MOST_OPERATIONS", {"cpu": 1.0})
    none = dynamics("train", "small.yaml", "--dry-run")
    assert none.row("time") == ["unknown", "see below"] and "give --flops" in none.out


def test_time_at_a_throughput_is_six_and_two_operations_a_parameter(dynamics: Command) -> None:
    done = dynamics("train", "small.yaml", "--dry-run", "--flops", "1e9")
    n = int(done.row("parameters")[0].replace(",", ""))
    train_, validation = (int(done.row(f"{split} sequences")[0]) for split in ("train", "validation"))
    # Three epochs of training; four recordings of five sequences, and of all of the validation set.
    operations = 32 * n * (6 * 3 * train_ + 2 * 4 * (5 + validation))
    assert done.row("time: one run")[0] == f"{operations / 1e9:.3g} s"
    assert "1e+09 FLOP/s" in done.out


# ------------------------------------------------------------------------------------------------- the paper's recipes


@pytest.mark.parametrize("recipe", PAPER, ids=lambda path: path.stem)
def test_recipes_of_the_paper_resolve_with_nothing_of_the_hub(dynamics: Command, recipe: Path) -> None:
    short = ("--set", "block_size=64")  # as many operations to follow, of smaller shapes
    done = dynamics("study", str(recipe), "--dry-run", "--tokens-per-document", "640", "--flops", "4e14", *short)
    assert done.code == 0, done.err
    assert done.row("parameters")[0] == ("8,190,735,360" if "8b" in recipe.stem else "596,049,920")
    documents = int(done.row("train documents")[0].replace(",", ""))
    assert done.row("train documents")[1] == "recipe"
    assert done.row("train sequences") == [f"{documents * 10:,}", "assumed"]
    assert "would be downloaded: hub:" in done.out and "would be downloaded: model Qwen/" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    arms = load_recipe(recipe).arms
    assert len(arms) == 8
    assert {arm.regularizers[0].ratio for name, arm in arms.items() if "entrodrop" in name or name == "random"} == {
        0.25
    }
    assert not Path("runs").exists()


def test_nothing_is_made_up_where_nothing_is_assumed(dynamics: Command) -> None:
    done = dynamics("study", str(PAPER[0]), "--dry-run", "--set", "block_size=64")
    assert done.code == 0
    for name in ("train tokens", "train sequences", "steps per run", "disk: epochs/ per run", "time"):
        assert done.row(name)[0] == "unknown", name
    assert "give --tokens-per-document N to assume a length" in " ".join(done.out.split())
    other = dynamics("study", str(PAPER[0]), "--dry-run", "--set", "model.name=somebody/else")
    assert other.row("parameters")[0] == "unknown"
    assert "somebody/else: its config.json would have to be downloaded" in " ".join(other.out.split())


def hub_cache(folder: Path, *, name: str) -> None:
    """A model's folder as the hub's library lays it out, with a tiny Qwen3 and its tokenizer."""
    commit = "c" * 40
    model = folder / "hub" / f"models--{name.replace('/', '--')}"
    snapshot = model / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    tokenizer = train_tokenizer(["If x is 3, x + 1 is 4."] * 3, vocab_size=300)
    tokenizer.save_pretrained(snapshot)
    config = Qwen3Config(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, tie_word_embeddings=True, max_position_embeddings=1024,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(snapshot)


def data_cache(folder: Path, *, name: str, rows: list[dict[str, Any]]) -> None:
    """A data set's folder as its library leaves it after a download."""
    import datasets
    from datasets.arrow_writer import ArrowWriter

    owner, short = name.split("/")
    module = datasets.naming.camelcase_to_snakecase(short)
    place = folder / "datasets" / f"{owner}___{module}" / "default" / "0.0.0" / ("d" * 40)
    place.mkdir(parents=True)
    data = datasets.Dataset.from_list(rows)
    with ArrowWriter(path=str(place / f"{module}-train.arrow"), features=data.features) as writer:
        for row in rows:
            writer.write(row)
        writer.finalize()
    info = datasets.DatasetInfo(
        features=data.features,
        builder_name="parquet",
        dataset_name=module,
        config_name="default",
        version="0.0.0",
        splits={"train": {"name": "train", "num_examples": len(rows), "dataset_name": module}},
    )
    info.write_to_directory(str(place))


def test_what_was_downloaded_is_counted(dynamics: Command, tmp_path: Path) -> None:
    hub_cache(tmp_path, name="Qwen/Qwen3-0.6B-Base")
    rows = [{"problem": f"What is {n} + 1?", "solution": f"It is {n + 1}.", "source": "made"} for n in range(60)]
    data_cache(tmp_path, name="AI-MO/NuminaMath-CoT", rows=rows)
    recipe = next(path for path in PAPER if path.stem == "numinamath")
    fewer = ("--set", "corpus.documents=50", "--set", "block_size=16")
    done = dynamics("study", str(recipe), "--dry-run", *fewer)
    assert done.code == 0, done.err
    assert "would be downloaded" not in done.out
    counts = [done.row(f"{split} documents") for split in ("train", "validation")]
    assert sum(int(count) for count, _ in counts) == 50 and {how for _, how in counts} == {"counted"}
    assert done.row("train tokens")[1] == "counted" and done.row("steps per run")[1] == "exact"
    # Two layers of 2 x (32 x 32) + 2 x (32 x 16) + 3 x (32 x 64) + 2 x 16 + 2 x 32, an embedding, and a last norm.
    assert done.row("parameters")[0] == f"{2 * (2 * 1024 + 2 * 512 + 3 * 2048 + 32 + 64) + 320 * 32 + 32:,}"
    assert "2 steps and a recorded batch timed here" in done.out
    none = dynamics("study", str(recipe), "--dry-run", *fewer, "--set", "corpus.template='{question}'")
    assert none.code == 2 and "there is no field 'question'" in none.err


def test_a_configuration_that_is_given(dynamics: Command, tmp_path: Path) -> None:
    hub_cache(tmp_path, name="some/one")
    config = next((tmp_path / "hub").rglob("config.json"))
    given = ("--model-config", str(config), "--set", "model.name=somebody/else", "--set", "block_size=64")
    done = dynamics("study", str(PAPER[0]), "--dry-run", *given)
    assert done.row("parameters") == ["28,896", "config.json (given)"]
    none = dynamics("study", str(PAPER[0]), "--dry-run", "--model-config", "gone.json")
    assert none.code == 2 and "--model-config: gone.json does not exist" in none.err
    Path("bad.json").write_text("{]")
    bad = dynamics("study", str(PAPER[0]), "--dry-run", "--model-config", "bad.json")
    assert bad.code == 2 and "--model-config: bad.json holds no configuration" in bad.err


# ---------------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dry-run", "--set", "corpus=gone.jsonl"], "corpus 'gone.jsonl' does not exist"),
        (["--dry-run", "--set", "model.name=nanno"], "model.name: 'nanno' is neither a named size"),
        (["--dry-run", "--set", "model.name=cache:none", "--set", "tokenizer=null"], "there is no folder"),
        (["--dry-run", "--set", "model.name=a/b"], "tokenizer: train makes a new vocabulary"),
        (["--dry-run", "--set", "tokenizer=./gone"], "tokenizer"),
        (["--dry-run", "--set", "training.learning_rat=1"], "training.learning_rat: TrainingArguments has no such"),
        (["--dry-run", "--set", "blok_size=3"], "blok_size: unknown key"),
        (["--flops", "1e12"], "--flops is only read with --dry-run"),
        (["--processes", "2"], "--processes is only read with --dry-run"),
        (["--dry-run", "--flops", "0"], "--flops"),
    ],
)
def test_bad_input(dynamics: Command, arguments: list[str], said: str) -> None:
    done = dynamics("train", "small.yaml", *arguments, "--output", "out")
    assert not Path("out").exists()
    assert done.code == 2
    assert said in done.err and "Traceback" not in done.err


def test_a_large_model_is_not_allocated(dynamics: Command) -> None:
    done = dynamics("train", "small.yaml", "--dry-run", "--set", "model.name=qwen3-8b", "--set", "block_size=16")
    assert done.code == 0, done.err
    # The published 8B without its vocabulary: 36 layers and a last norm; embedding and head of the tokenizer's size.
    layer = 4096 * (4096 + 1024 + 1024) + 4096 * 4096 + 3 * 4096 * 12288 + 2 * 128 + 2 * 4096
    vocabulary = int(re.search(r"(\d[\d,]*)", done.row("parameters")[0]).group().replace(",", ""))  # type: ignore[union-attr]
    assert (vocabulary - 36 * layer - 4096) % (2 * 4096) == 0
    assert "timed" not in done.out
