"""The `dynamics` command: exit codes, messages, what it passes on, and what it never loads."""

from __future__ import annotations

import shlex
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.command import Command, Done
from support.synthetic import make_run, make_study

from dynamics import cli
from dynamics.errors import DamagedRecordError, InputError

COMMANDS = ["train", "study", "reference", "check", "figures", "summarize", "explore", "export"]
SMALL = """
corpus: {source: builtin:python-reference}
tokenizer: {train: {vocab_size: 300}}
model: {name: nano}
"""


@pytest.fixture
def dynamics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command, in an empty folder that holds small.yaml; it loads no torch by itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.training, "_need_training", lambda: None)
    Path("small.yaml").write_text(SMALL)
    return Command(monkeypatch, capsys)


def stand_in(monkeypatch: pytest.MonkeyPatch, module: str, **functions: Any) -> None:
    fake = types.ModuleType(module)
    vars(fake).update(functions)
    monkeypatch.setitem(sys.modules, module, fake)


def raising(error: BaseException) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> None:
        raise error

    return function


# --------------------------------------------------------------------------- bad recipes

# Lines that are added to (or replace keys of) the small recipe, and what the message must say.
BAD_RECIPES = [
    ("blok_size: 3", "blok_size: unknown key; did you mean 'block_size'?"),
    ("block_size: 1", "block_size: must be at least 2, not 1"),
    ("block_size: 1000001", "block_size: must be at most 1000000, not 1000001"),
    ("block_size: '128'", "block_size: must be a whole number, not '128'"),
    ("block_size: 128.5", "block_size: must be a whole number, not 128.5"),
    ("seed: -1", "seed: must be at least 0, not -1"),
    ("seed: true", "seed: must be a whole number, not true"),
    ("seed: 4294967296", "seed: must be at most 4294967295"),
    ("seeds: [0, 1]", "seeds: only a study has seeds; add arms, or write seed: N"),
    ("name: a/b", "name: 'a/b' becomes a folder's name"),
    ("name: ..", "name: '..' becomes a folder's name"),
    ("name: 7", "name: must be text, not 7 (quotes make it text)"),
    ("corpus: {documents: 3}", "corpus.source: is missing"),
    ("corpus: null", "corpus: must be a mapping (key: value), not null"),
    ("corpus: []", "corpus: must be a path, builtin:NAME, hub:NAME or a list of these, not []"),
    ("corpus: {source: ''}", "corpus.source: must be a path, builtin:NAME, hub:NAME"),
    ("corpus: {source: [a, 3]}", "or a list of these, not ['a', 3]"),
    ("corpus: {source: a, documents: 0}", "corpus.documents: must be at least 1, not 0"),
    ("corpus: {source: a, documents: all}", "corpus.documents: must be a whole number, not 'all'"),
    ("corpus: {source: a, template: {question}}", "corpus.template: must be text, not {"),
    ("corpus: {source: a, subset: b}", "corpus: subset is only read with a source hub:NAME"),
    ("corpus: {sorce: a}", "corpus.sorce: unknown key; did you mean 'source'?"),
    ("tokenizer: 2048", "tokenizer: must be a path, hub name or cache:NAME, or {train: {vocab_size: N}}, not"),
    ("tokenizer: ''", "tokenizer: must be text that is not empty, not ''"),
    ("tokenizer: {train: {vocab_size: 257}}", "tokenizer.train.vocab_size: must be at least 258"),
    ("tokenizer: {train: 2048}", "tokenizer.train: must be a mapping (key: value), not 2048"),
    ("tokenizer: {}", "tokenizer.train: is missing"),
    ("model: nano", "model: must be a mapping (key: value), not 'nano'"),
    ("model: {size: nano}", "model.name: is missing"),
    ("model: {name: nano, trust_remote_code: 'yes'}", "must be true or false, not 'yes'"),
    ("base: builtin:python-docstrings", "base: must be a mapping (key: value), not 'builtin:"),
    ("base: {corpus: a, epochs: 0}", "base.epochs: must be at least 1, not 0"),
    ("base: {corpus: {source: a, field: 3}}", "base.corpus.field: must be text, not 3"),
    ("base: {corpus: a, training: {num_train_epochs: 2}}", "base.training: num_train_epochs is"),
    ("base: {corpus: a, training: {save_steps: 2}}", "base.training: save_steps belongs to the"),
    ("validation: {}", "validation: give exactly one of fraction and source"),
    ("validation: {fraction: 0.1, source: a}", "validation: give exactly one of fraction and"),
    ("validation: {fraction: 0}", "validation.fraction: must be above 0, not 0"),
    ("validation: {fraction: 1.0}", "validation.fraction: must be below 1, not 1.0"),
    ("validation: {fraction: .nan}", "validation.fraction: must be a finite number, not nan"),
    ("validation: 0.2", "validation: must be a mapping (key: value), not 0.2"),
    ("tuning: {fraction: 0.8}", "validation.fraction 0.2 and tuning.fraction 0.8 leave nothing"),
    ("tuning: {}", "tuning.fraction: is missing"),
    ("recording: {train_sequences: some}", "recording.train_sequences: must be 'all' or a whole"),
    ("recording: {train_sequences: 0}", "recording.train_sequences: must be 'all' or at least 1"),
    ("recording: {dtype: bfloat16}", "recording.dtype: must be 'float16' or 'float32', not 'bf"),
    ("regularizers: entrodrop", "regularizers: must be a list, not 'entrodrop'"),
    ("regularizers: [entrodrop]", "regularizers.0: must be a mapping (key: value), not 'entr"),
    ("regularizers: [{ratio: 0.1}]", "regularizers.0: has no name; give name: one of entrodrop,"),
    ("regularizers: [{name: entropdrop}]", "regularizers.0: name 'entropdrop' is unknown; did you"),
    ("regularizers: [{name: entrodrop, ratoi: 1}]", "regularizers.0.ratoi: unknown key; did you"),
    ("regularizers: [{name: entrodrop, ratio: 0.6}]", "ratio 0.6 is above its pool 0.5"),
    ("regularizers: [{name: entrodrop, ratio: '0.1'}]", "0.ratio: must be a number, not '0.1'"),
    ("regularizers: [{name: entrodrop, schedule: liner}]", "0.schedule: must be 'constant', 'line"),
    # The key of another method is not suggested.
    ("regularizers: [{name: random_token_dropout, pool: 1}]", "0.pool: unknown key; the keys here"),
    ("regularizers: [{name: weight_decay}]", "regularizers.0.value: is missing"),
    ("regularizers: [{name: neftune}, {name: neftune}]", "regularizers: neftune stands there twi"),
    (
        "regularizers: [{name: weight_decay, value: 1}]\ntraining: {weight_decay: 0.1}",
        "regularizers: weight_decay and training.weight_decay set the same value; keep one",
    ),
    (
        "regularizers: [{name: neftune}]\ntraining: {neftune_noise_alpha: 0.1}",
        "regularizers: neftune and training.neftune_noise_alpha set the same value",
    ),
    ("training: 12", "training: must be a mapping (key: value), not 12"),
    ("training: {num_train_epochs: 0}", "num_train_epochs must be a whole number of at least 1"),
    ("training: {num_train_epochs: 1.5}", "num_train_epochs must be a whole number of at least 1"),
    ("training: {num_train_epochs: .inf}", "num_train_epochs must be a whole number of at leas"),
    ("training: {num_train_epochs: true}", "num_train_epochs must be a whole number of at leas"),
    ("training: {learning_rate: .nan}", "training: learning_rate must be a finite number, not"),
    ("training: {x: {y: [2024-01-01]}}", "training: x.y.0 must be a number, text, true or false"),
    ("arms: {}", "arms: must not be empty"),
    ("arms: [a, b]", "arms: must be a mapping (key: value), not ['a', 'b']"),
    ("arms: {a b: {}}", "arms.a b: 'a b' becomes a folder's name"),
    ("arms: {a: {}, A: {}}", "arms: 'a' and 'A' differ in case alone; rename one"),
    ("arms: {a: {seed: 3}}", "arms.a.seed: unknown key; the keys here are regularizers, training"),
    ("arms: {a: {regularisers: []}}", "arms.a.regularisers: unknown key; did you mean 'regular"),
    ("arms: {a: {regularizers: [{name: entrodrop, pol: 1}]}}", "arms.a.regularizers.0.pol: unknow"),
    ("arms: {a: {training: {max_steps: 3}}}", "arms.a.training: max_steps belongs to the project"),
    (
        "training: {weight_decay: 1}\narms: {a: {regularizers: [{name: weight_decay, value: 1}]}}",
        "arms.a: regularizers: weight_decay and training.weight_decay set the same value",
    ),
    ("arms: {a: {}}\nseed: 3", "seed: is not read in a study; write seeds: [3]"),
    ("arms: {a: {}}\nseeds: []", "seeds: must not be empty"),
    ("arms: {a: {}}\nseeds: [1, 1]", "seeds: [1, 1] holds a seed twice; keep one"),
    ("arms: {a: {}}\nseeds: 3", "seeds: must be a list, not 3"),
    (
        "arms: {a: {}}\ntune: {seed: 3, arms: {a: [{}]}}",
        "tune: trials are compared on a part of their own; set tuning:",
    ),
    ("arms: {a: {}}\ntuning: {fraction: 0.1}\ntune: {seed: 0, arms: {a: [{}]}}", "tune.seed: 0 is one of the seeds"),
    (
        "arms: {a: {}, b: {}}\ntuning: {fraction: 0.1}\ntune: {seed: 3, arms: {a: {training.weight_decay: [1, 2]}}}",
        "tune: arms have unequal numbers of trials (a 2, b 0), which favours those that have more",
    ),
    ("arms: {a: {}}\nseeds: [-1]", "seeds.0: must be at least 0, not -1"),
    ("seed: 1\nseed: 2", "line 2, column 1: the key 'seed' stands twice"),
    ("seed: [", "line 4, column 1: while parsing a flow sequence, expected ',' or ']'"),
    ("seed: !!python/name:os.system", "line 1, column 7: could not determine a constructor"),
]
OWNED = [
    "output_dir", "seed", "data_seed", "save_strategy", "save_steps", "eval_strategy", "eval_steps",
    "do_eval", "remove_unused_columns", "max_steps", "resume_from_checkpoint", "logging_dir",
    "push_to_hub", "push_to_hub_token", "hub_model_id", "label_names", "load_best_model_at_end",
]  # fmt: skip
BAD_RECIPES += [(f"training: {{{key}: 1}}", f"training: {key} belongs to the project (") for key in OWNED]

BAD_OVERRIDES = [
    ("seed", "--set seed: is not of the form KEY=VALUE"),
    ("=3", "--set =3: is not of the form KEY=VALUE"),
    ("a..b=3", "--set a..b=3: is not of the form KEY=VALUE"),
    ("seed=[", "--set seed=[, line 1, column 2: while parsing a flow node"),
    ("seed=", "seed: must be a whole number, not null"),
    ("seed=1e3", "seed: must be a whole number, not 1000.0"),
    ("block_siez=3", "block_siez: unknown key; did you mean 'block_size'?"),
    ("model.name.x=3", "--set model.name.x=3: model.name is the single value 'nano'"),
    ("regularizers.0.ratio=0.3", "--set regularizers.0.ratio=0.3: regularizers is a list of 0"),
    ("training.output_dir=x", "training: output_dir belongs to the project (give --output)"),
    ("tuning.fraction=0.9", "validation.fraction 0.2 and tuning.fraction 0.9 leave nothing"),
]


def assert_one_message(done: Done, phrase: str) -> None:
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("Error: ") and done.err.count("\n") == 1
    assert phrase in done.err, done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(("lines", "phrase"), BAD_RECIPES)
def test_a_bad_recipe_is_one_message_and_exit_code_2(dynamics: Command, lines: str, phrase: str) -> None:
    keys = {line.partition(":")[0] for line in lines.splitlines()}
    kept = [line for line in SMALL.splitlines() if line.partition(":")[0] not in keys]
    Path("bad.yaml").write_text("\n".join([lines, *kept]), encoding="utf-8")
    done = dynamics("study" if "arms" in keys else "train", "bad.yaml")
    assert_one_message(done, phrase)
    assert done.err.startswith("Error: recipe bad.yaml")
    assert sorted(path.name for path in Path().iterdir()) == ["bad.yaml", "small.yaml"]


@pytest.mark.parametrize(("override", "phrase"), BAD_OVERRIDES)
@pytest.mark.parametrize("command", ["train", "reference"])
def test_a_bad_override_is_one_message_and_exit_code_2(
    dynamics: Command, command: str, override: str, phrase: str
) -> None:
    Path("small.yaml").write_text(SMALL + "regularizers: []\n")
    assert_one_message(dynamics(command, "small.yaml", "--set", override), phrase)
    assert [path.name for path in Path().iterdir()] == ["small.yaml"]


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (["train", "quikstart"], "there is no such file, and no recipe of that name ships with"),
        (["train", "quikstart"], "did you mean 'quickstart'?"),
        (["train", "missing/recipe.yaml"], "recipe missing/recipe.yaml: there is no such file"),
        (["train", "small.yaml/x"], "recipe small.yaml/x: cannot be read (Not a directory)"),
        (["train", "."], "recipe .: is a folder; give a YAML file"),
        (["train", "done"], "recipe done: is a folder; give the file done/config.yaml"),
        (["train", "x" * 5000], "cannot be read (File name too long)"),
        (["train", "binary.yaml"], "byte 3 is not UTF-8; save the file as UTF-8"),
        (["train", "quickstart"], "has arms, so it is a study; use `dynamics study quickstart`"),
        (["study", "small.yaml"], "has no arms, so it is one run; use `dynamics train small.yaml`"),
        (["study", "quickstart", "--list", "--index", "0"], "--list runs nothing and --index runs"),
        (["check", "nowhere"], "nowhere"),
        (["figures", "nowhere"], "nowhere"),
        (["figures", "done", "--format", " , "], "--format: ' , ' names no format"),
        (["figures", "done", "--output", "small.yaml"], "--output: small.yaml is a file"),
        (["export", "nowhere", "--format", "zarr", "--output", "x"], "nowhere holds no study or run"),
        (["export", "done", "--format", "parqet", "--output", "x"], "unknown format 'parqet'; did you mean 'parquet'"),
        (["export", "done", "--format", "parquet", "--output", "small.yaml"], "small.yaml is there already"),
        (
            ["export", "done", "--format", "zarr", "--output", "small.yaml/x"],
            "small.yaml is no directory; name another",
        ),
    ],
)
def test_bad_arguments_are_one_message_and_exit_code_2(dynamics: Command, arguments: list[str], phrase: str) -> None:
    make_run(Path("done"))
    Path("binary.yaml").write_bytes(b"a: \xff")
    assert_one_message(dynamics(*arguments), phrase)


# ---------------------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("--output: taken"), 2, "Error: --output: taken\n"),
        (DamagedRecordError("epoch 3 is cut"), 1, "Error: epoch 3 is cut\n"),
        (
            KeyboardInterrupt(),
            130,
            "Interrupted. What is complete is kept; this goes on: dynamics train small.yaml --resume\n",
        ),
    ],
)
def test_exit_codes_of_train(
    dynamics: Command,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    message: str,
) -> None:
    stand_in(monkeypatch, "dynamics.training.recipe_run", train=raising(error))
    assert dynamics("train", "small.yaml") == (code, "", message)


def test_a_bug_shows_its_traceback(dynamics: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "dynamics.training.recipe_run", train=raising(ZeroDivisionError("bug")))
    with pytest.raises(ZeroDivisionError, match="bug"):
        dynamics("train", "small.yaml")


def test_an_interrupted_study_says_how_to_go_on(dynamics: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynamics.study.run_study", raising(KeyboardInterrupt()))
    done = dynamics("study", "quickstart")
    assert done == (
        130,
        "",
        "Interrupted. What is complete is kept; this goes on where it stopped: dynamics study quickstart\n",
    )


def test_a_study_with_failed_runs_has_exit_code_1(dynamics: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from dynamics.study import StudyFailure

    monkeypatch.setattr("dynamics.study.run_study", raising(StudyFailure("1 of 3 runs failed")))
    assert dynamics("study", "quickstart") == (1, "", "Error: 1 of 3 runs failed\n")


# ------------------------------------------------------------------------ what is passed on


def test_train_passes_everything_on_and_ends_with_a_table(dynamics: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def train(recipe: Any, output: Path, *, resume: bool, reporter: Any) -> None:
        calls.append((recipe.name, recipe.seed, output, resume))
        reporter.line("epoch 1/1  validation [1.5]")
        if not output.exists():
            make_run(output, n_documents=120)

    stand_in(monkeypatch, "dynamics.training.recipe_run", train=train)
    done = dynamics("train", "small.yaml", "--set", "seed=3", "--set", "name=other")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "epoch 1/1  validation [1.5]"
    assert lines[-2].split() == [
        *("arm", "start", "best", "epoch", "final", "rebound", "dropped"), *("95", "%", "interval"),
    ]  # fmt: skip
    # Planted: the lowest validation loss is at epoch 2, and the curve rises to epoch 4.
    start, best, epoch, final, rebound, _, low, high = lines[-1].split()[1:]
    assert epoch == "2" and float(best) < min(float(final), float(start))
    assert float(low.strip("[,")) < float(final) < float(high.strip("]"))
    assert float(rebound) == pytest.approx(float(final) - float(best), abs=1.1e-3)
    steps = [["dynamics", "figures", "runs/other"], ["dynamics", "explore", "runs/other"]]
    assert dynamics.next_steps == steps
    dynamics("train", "small.yaml", "--output", "runs/other", "--resume")
    assert calls == [
        ("other", 3, Path("runs/other"), False),
        ("small", 0, Path("runs/other"), True),
    ]


def test_the_table_of_a_study_says_where_training_was_cut(dynamics: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_study(recipe: Any, output: Path, *, jobs: int, reporter: Any) -> None:
        make_study(output, n_documents=120, epochs=2, cut=1.4, seeds=(0, 1, 2))

    monkeypatch.setattr("dynamics.study.run_study", run_study)
    monkeypatch.setattr(cli.training, "drawn", lambda *_: [])
    done = dynamics("study", "quickstart")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1] == "Training was cut within an epoch, after 1.4 passes over the data."
    # Planted: the lowest validation loss is at the last epoch of two.
    assert [line.split()[3] for line in done.out.splitlines()[-3:-1]] == ["1.4", "1.4"]
    assert dynamics.next_steps[-1] == ["dynamics", "explore", "runs/quickstart"]


def test_study_runs_then_draws_then_sums_up(dynamics: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def run_study(recipe: Any, output: Path, *, jobs: int, reporter: Any) -> None:
        calls.append((recipe.name, recipe.seeds, output, jobs))
        make_study(output, n_documents=120, seeds=(0, 1, 2))

    monkeypatch.setattr("dynamics.study.run_study", run_study)
    done = dynamics("study", "quickstart", "--set", "seeds=[1, 2]", "--jobs", "2")
    assert (done.code, done.err) == (0, "")
    folder = Path("runs/quickstart")
    assert calls == [("quickstart", [1, 2], folder, 2)]
    lines = done.out.splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("arm "))
    assert max(map(len, lines[start : start + 3])) <= 80
    assert [line.split()[0] for line in lines[start + 1 : start + 3]] == ["baseline", "entrodrop"]
    # The baseline is compared with none; the other by the difference of the two ends, and its interval.
    header, baseline, entrodrop = (line.split() for line in lines[start : start + 3])
    assert header[7:] == ["baseline", "95", "%", "interval"] and len(baseline) == 7
    assert lines[start - 1].split() == ["against"]
    difference, low, high = (float(cell.strip("[,]*")) for cell in entrodrop[7:])
    assert difference == pytest.approx(float(entrodrop[4]) - float(baseline[4]), abs=1.1e-3)
    assert low <= difference <= high
    figures = [Path(line.removeprefix("figure: ")) for line in lines[start + 3 :]]
    assert folder / "figures" / "degradation.png" in figures
    assert all(figure.is_file() and figure.with_suffix(".csv").is_file() for figure in figures)
    assert "\x1b" not in done.out  # no colours where there is no terminal


def test_study_lists_commands_and_nothing_else(dynamics: Command, tmp_path: Path) -> None:
    done = dynamics("study", "quickstart", "--set", "seeds=[0, 7]", "--list", "--output", "my study")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert len(lines) == 2 * len(yaml.safe_load(Path("my study/study.yaml").read_text())["arms"])
    run = tmp_path / "my study" / "runs" / "baseline" / "seed-7"
    expected = f"dynamics train '{run}/config.yaml' --output '{run}' --resume"
    assert expected in lines
    assert yaml.safe_load((run / "config.yaml").read_text())["seed"] == 7


def test_study_runs_one_of_the_list(dynamics: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def run_index(recipe: Any, output: Path, index: int, *, reporter: Any) -> None:
        calls.append((output, index))

    monkeypatch.setattr("dynamics.study.run_index", run_index)
    assert dynamics("study", "quickstart", "--index", "2", "--output", "o") == (0, "", "")
    assert calls == [(Path("o"), 2)]


TUNED = """
tuning: {fraction: 0.1}
arms: {a: {}}
tune: {seed: 7, arms: {a: {training.weight_decay: [0.1, 3.2]}}}
"""


def test_a_study_that_tunes_lists_trials_first(dynamics: Command, tmp_path: Path) -> None:
    Path("tuned.yaml").write_text(SMALL + TUNED)
    trial, out = tmp_path / "o" / "tuning" / "a" / "trial-1", tmp_path / "o"
    done = dynamics("study", "tuned.yaml", "--list", "--output", "o")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[1:] == [
        f"dynamics train {trial}/config.yaml --output {trial} --resume",
        f"dynamics study {out}/study.yaml --output {out} --index 2",
    ]
    assert yaml.safe_load((trial / "config.yaml").read_text())["training"] == {"weight_decay": 3.2}
    assert_one_message(
        dynamics(*shlex.split(done.out.splitlines()[2])[1:]),
        "--index: 2 is a run whose settings are chosen once all 2 trials are finished; run --index 0, 1 first",
    )
    assert_one_message(dynamics("study", "tuned.yaml", "--output", "o", "--index", "3"), "it has 0 to 2")
    assert dynamics("check", "o").out == ("o: ok (0 files, 0 bytes)\n  note: runs/a/seed-0 has not been run yet\n")


def test_reference_says_where_and_what(dynamics: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def reference(recipe: Any, reporter: Any) -> dict[str, Any]:
        values = {"n_tokens": 12345, "loss": 3.25, "entropy": 3.0}
        return {"path": Path("/cache/x"), "cached": True, "train": values}

    stand_in(monkeypatch, "dynamics.training.pretraining", reference=reference)
    for recipe in ("small.yaml", "quickstart"):
        assert dynamics("reference", recipe).out.splitlines() == [
            "/cache/x (found in the cache)",
            "train: 12,345 predicted tokens, mean loss 3.250 nats, mean entropy 3.000 nats",
        ]
        assert dynamics.next_steps == [["dynamics", "train" if recipe == "small.yaml" else "study", recipe]]


# ---------------------------------------------------------------------- check and figures


def test_check_finds_damage(dynamics: Command) -> None:
    make_run(Path("good"), epochs=2)
    make_run(Path("bad"), epochs=2)
    done = dynamics("check", "good")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("good: ok (") and "DAMAGED" not in done.out
    file = next(Path("bad/epochs/epoch-0001").glob("train-*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    done = dynamics("check", "bad", "good")
    assert (done.code, done.err) == (1, "")
    assert "good: ok (" in done.out and "bad: DAMAGED (" in done.out
    assert f"  epochs/epoch-0001/{file.name}: " in done.out
    assert "  epochs still good: 0, 2\n" in done.out


def test_a_study_is_summarised_and_the_summary_drawn_and_checked(dynamics: Command) -> None:
    make_study(Path("runs"), n_documents=120, seeds=(0, 1, 2, 3), skip=[("entrodrop", 3)])
    done = dynamics("summarize", "runs", "--output", "kept/mine", "--group", "words=(list|the)")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-2:] == [
        "entrodrop seed 3: left out, has not been run yet",
        "kept/mine: 7 finished runs of the study, 7 of them new",
    ]
    assert [done.code for done in dynamics.follow()] == [0, 0]
    done = dynamics("summarize", "runs", "--output", "kept/mine")
    assert done.out.splitlines()[-1] == "kept/mine: 7 finished runs of the study, 0 of them new"
    done = dynamics("check", "kept/mine")
    assert (done.code, done.out.partition(" (")[0]) == (0, "kept/mine: ok")
    for source in ("runs", "kept/mine"):
        assert (
            dynamics("figures", source, "--only", "degradation", "--only", "table", "--output", f"of-{source}").code
            == 0
        )
    for file in Path("of-runs").iterdir():
        assert file.read_bytes() == (Path("of-kept/mine") / file.name).read_bytes(), file.name
    done = dynamics("figures", "kept/mine", "--only", "cartography")
    assert_one_message(done, "figure 'cartography' cannot be made: it needs tokens")
    summary = "kept/mine is the summary of a study, which keeps sums and no tokens, and this needs a "
    assert_one_message(dynamics("export", "kept/mine", "--format", "zarr", "--output", "x"), f"{summary}study or run")
    assert_one_message(dynamics("explore", "kept/mine", "--output", "x.html"), f"{summary}study or run")
    assert_one_message(dynamics("summarize", "kept/mine", "--output", "x"), f"{summary}study")
    two = dynamics("explore", "runs", "runs", "--output", "x.html")
    assert_one_message(
        two, "runs is a study; give it alone, or name one of its runs, such as runs/runs/baseline/seed-0\n"
    )
    run = "runs/runs/baseline/seed-0"
    assert_one_message(dynamics("summarize", run, "--output", "x"), f"{run} is a run, and this needs a study")
    assert_one_message(dynamics("summarize", "runs", "--output", "x", "--group", "gsm"), "--group: 'gsm' is no task")
    assert not Path("x").exists()
    Path("kept/mine/baseline/seed-1.safetensors").unlink()
    done = dynamics("check", "kept/mine")
    assert done.code == 1 and "baseline/seed-1.safetensors is missing" in done.out


def test_figures_go_where_they_are_wanted(dynamics: Command) -> None:
    make_study(Path("study"), n_documents=120, seeds=(0, 1, 2))
    done = dynamics("figures", "study", "--only", "degradation", "--format", "svg, png")
    assert (done.code, done.err) == (0, "")
    names = ["degradation.csv", "degradation.png", "degradation.svg"]
    assert sorted(done.out.split()) == [f"study/figures/{name}" for name in names]
    assert sorted(path.name for path in Path("study/figures").iterdir()) == names
    assert dynamics.next_steps == [["dynamics", "explore", "study"]]
    drawn = Path("study/figures/degradation.svg").read_bytes()
    done = dynamics("figures", "study", "--only", "degradation", "--format", "svg", "--task", "list|a")
    assert (done.code, done.err) == (0, "") and Path("study/figures/degradation.svg").read_bytes() != drawn
    assert "task_accuracy" in Path("study/figures/degradation.csv").read_text().splitlines()[0]
    assert_one_message(dynamics("figures", "study", "--task", "gsm8"), "did you mean 'gsm8k'")
    run = "study/runs/baseline/seed-0"
    done = dynamics("figures", run, "--output", "f", "--only", "token_dynamics")
    assert done.code == 0
    kinds = ["csv", "pdf", "png", "svg"]
    assert sorted(Path("f").iterdir()) == [Path(f"f/token_dynamics.{kind}") for kind in kinds]
    done = dynamics("figures", "study", "--only", "table", "--output", "t")
    assert (done.code, done.out.split()) == (0, ["t/table.tex", "t/table.md", "t/table.csv"])
    done = dynamics("figures", "study", "--only", "degradatoin")
    assert_one_message(done, "degradatoin")
    done = dynamics("figures", "study", "--venue", "nowhere2024")
    assert_one_message(done, "nowhere2024")
    done = dynamics("figures", "study", "--format", "gif")
    assert_one_message(done, "gif")


@pytest.mark.parametrize("kind", ["parquet", "zarr"])
def test_export_writes_one_run(dynamics: Command, kind: str) -> None:
    make_run(Path("run"), epochs=2)
    output = f"new/folder/run.{kind}"
    done = dynamics("export", "run", "--format", kind, "--output", output)
    assert done == (0, f"exporting 3 epochs of run\n{output}\n", "")
    assert [path.name for path in Path("new/folder").iterdir()] == [f"run.{kind}"]
    (step,) = dynamics.next_steps
    read = subprocess.run([sys.executable, *step[1:]], capture_output=True, text=True, check=True)
    assert "training_loss" not in read.stdout and "reference_loss" in read.stdout and read.stderr == ""
    assert_one_message(dynamics("export", "run", "--format", kind, "--output", output), "is there already")
    next(Path("run/epochs/epoch-0001").glob("train-*")).write_bytes(b"x")
    done = dynamics("export", "run", "--format", kind, "--output", "other")
    assert done.code == 1 and done.err.startswith("Error: Epoch 1 of run is damaged") and not Path("other").exists()


def test_export_of_a_study_names_one_of_its_runs(dynamics: Command) -> None:
    make_study(Path("study"), seeds=[3], skip=[("baseline", 3)])
    done = dynamics("export", "study", "--format", "zarr", "--output", "x")
    assert_one_message(done, "study is a study; export one of its runs, such as study/runs/entrodrop/seed-3\n")
    make_study(Path("empty"), arms={"a": {}}, seeds=[0], skip=[("a", 0)])
    assert_one_message(dynamics("export", "empty", "--format", "zarr", "--output", "x"), "one of its runs\n")


@pytest.mark.filterwarnings("default")
def test_warnings_are_one_line_each(dynamics: Command) -> None:
    make_study(Path("study"), n_documents=28, epochs=1)
    done = dynamics("figures", "study", "--only", "degradation", "--only", "gap", "--format", "png")
    assert done.code == 0
    # Each once, although every figure has its intervals.
    documents, seeds = done.err.splitlines()
    assert [done.code for done in dynamics.follow()] == [0]
    assert documents.startswith("Warning: intervals over 14 documents are too narrow")
    assert seeds.startswith("Warning: 2 seeds hardly know the variance between seeds")


# ------------------------------------------------------------------------- help and imports


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(dynamics: Command, command: str) -> None:
    done = dynamics(command, "--help")
    assert (done.code, done.err) == (0, "")
    assert f"Usage: dynamics {command}" in done.out
    assert f"Example:\n    dynamics {command} " in done.out


def test_help_names_every_command(dynamics: Command) -> None:
    done = dynamics("--help")
    assert done.code == 0 and all(f"\n  {command} " in done.out for command in COMMANDS)
    assert "..." not in done.out.partition("Commands:")[2]


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["train", "bad"], ["check", "run"]])
def test_nothing_heavy_is_loaded(tmp_path: Path, arguments: list[str]) -> None:
    make_run(tmp_path / "run", epochs=1)
    code = (
        "import sys, atexit\n"
        "heavy = {'torch', 'transformers', 'datasets', 'accelerate', 'matplotlib', 'seaborn'}\n"
        "atexit.register(lambda: print('loaded:', sorted(heavy & set(sys.modules))))\n"
        "from dynamics.cli import main; main()"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == (2 if "bad" in arguments else 0), done.stderr
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_python_dash_m_is_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dynamics", "train", "quickstart"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "use `dynamics study quickstart`" in done.stderr


def test_training_says_when_torch_is_missing(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from dynamics.cli import main; main()"
    command = [sys.executable, "-c", code, "study", "quickstart"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("Error: this command trains, and torch is not installed: pip install torch\n")
    assert not list(tmp_path.iterdir())
