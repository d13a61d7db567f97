"""Whatever a user can get wrong is one line that says what and where, exit code 2, and no output."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from dynamics.cli import main

RECIPE = """
corpus: {source: corpus}
tokenizer: {train: {vocab_size: 300}}
model: {name: nano}
block_size: 16
validation: {fraction: 0.5}
training: {num_train_epochs: 1, per_device_train_batch_size: 4}
"""
STUDY = RECIPE + "arms: {plain: {}, dropped: {regularizers: [{name: entrodrop, ratio: 0.1}]}}\n"
JSONL = "corpus={source: rows.jsonl%s}"

Command = Callable[[list[str]], str]


@dataclass(frozen=True)
class Case:
    """Files are written, the command is run, and the message holds every phrase."""

    id: str
    phrases: tuple[str, ...]
    set: tuple[str, ...] = ()
    recipe: str = RECIPE
    files: dict[str, str | bytes] = field(default_factory=dict)
    args: tuple[str, ...] = ("train", "recipe.yaml")


def bad_set(id: str, *overrides: str, says: tuple[str, ...], recipe: str = RECIPE, **more: str | bytes) -> Case:
    """A good recipe with overrides; `more` are files whose name has '_' for '.'."""
    files = {name.replace("_", "."): content for name, content in more.items()}
    command = "study" if recipe is STUDY else "train"
    return Case(id, says, set=overrides, recipe=recipe, files=files, args=(command, "recipe.yaml"))


CASES = [
    # The recipe as a file.
    Case("no such recipe", ("nowhere.yaml", "no such file", "quickstart"), args=("train", "nowhere.yaml")),
    Case("unknown packaged recipe", ("quikstart", "did you mean 'quickstart'?"), args=("study", "quikstart")),
    Case("recipe is a folder", ("corpus", "folder", "give a YAML file"), args=("train", "corpus")),
    Case("recipe is not UTF-8", ("bad.yaml", "byte 6"), files={"bad.yaml": b"name: \xff"}, args=("train", "bad.yaml")),
    Case("bad YAML", ("recipe.yaml, line 2, column 8",), recipe="name: x\nmodel: ]"),
    Case("key twice", ("line 9", "'block_size' stands twice"), recipe=RECIPE + "model2: {}\nblock_size: 8\n"),
    Case("key that is no text", ("line 8", "1"), recipe=RECIPE + "1: x\n"),
    Case("empty recipe", ("recipe.yaml: holds no mapping",), recipe=""),
    Case("tag that makes objects", ("python/object",), recipe=RECIPE + "name: !!python/object:os.system {}\n"),
    Case("list that holds itself", ("recipe.yaml",), recipe=RECIPE + "regularizers: &a [*a]\n"),
    Case(
        "nothing but a name", ("corpus: is missing", "tokenizer: is missing", "model: is missing"), recipe="name: x\n"
    ),
    Case("study given to train", ("has arms", "dynamics study recipe.yaml"), recipe=STUDY),
    Case("run given to study", ("has no arms", "dynamics train recipe.yaml"), args=("study", "recipe.yaml")),
    # --set.
    bad_set("--set without =", "seed", says=("--set seed", "KEY=VALUE")),
    bad_set("--set with an empty key", "model..name=nano", says=("--set model..name=nano", "KEY=VALUE")),
    bad_set("--set with bad YAML", "seed=[1", says=("--set seed=[1",)),
    bad_set("--set below a value", "block_size.x=1", says=("--set block_size.x=1", "no keys")),
    bad_set("--set beyond a list", "arms.dropped.regularizers.3.ratio=1", says=("'3'", "list of 1"), recipe=STUDY),
    # Keys and types.
    bad_set("unknown key", "blocksize=3", says=("blocksize: unknown key", "did you mean 'block_size'?")),
    bad_set("unknown nested key", "model.nam=x", says=("model.nam: unknown key", "did you mean 'name'?")),
    bad_set("wrong type", "block_size=abc", says=("block_size: must be a whole number, not 'abc'",)),
    bad_set("true is no number", "block_size=true", says=("block_size: must be a whole number, not true",)),
    bad_set("text where a mapping belongs", "model=nano", says=("model: must be a mapping", "'nano'")),
    bad_set("out of range", "block_size=1", says=("block_size: must be at least 2, not 1",)),
    bad_set("number where text belongs", "corpus.field=3", says=("corpus.field: must be text, not 3",)),
    bad_set("not a number", "validation.fraction=.nan", says=("validation.fraction", "nan")),
    bad_set("both kinds of validation", "validation.source=x", says=("validation: give exactly one of",)),
    bad_set("nothing left to train on", "tuning.fraction=0.5", says=("validation.fraction", "tuning.fraction")),
    bad_set("name that is no folder", "name=../x", says=("name: '../x'", "letters, digits")),
    bad_set("seed too large", "seed=4294967296", says=("seed: must be at most 4294967295",)),
    bad_set(
        "tokenizer of a wrong kind", "tokenizer=3", says=("tokenizer: ", "path, hub name or cache:NAME", "vocab_size")
    ),
    bad_set("vocabulary below the bytes", "tokenizer.train.vocab_size=200", says=("tokenizer.train.vocab_size", "258")),
    # Regularisers, and what else sets the same.
    bad_set(
        "unknown regulariser", "regularizers=[{name: entrodop}]", says=("regularizers.0", "did you mean 'entrodrop'?")
    ),
    bad_set("regulariser without name", "regularizers=[{ratio: 0.1}]", says=("regularizers.0", "name", "entrodrop")),
    bad_set(
        "ratio above its pool",
        "regularizers=[{name: entrodrop, ratio: 0.6, pool: 0.5}]",
        says=("regularizers.0: ratio 0.6 is above its pool 0.5", "lower ratio or raise pool"),
    ),
    bad_set(
        "ranks of what is not recorded",
        "regularizers=[{name: entrodrop, source: previous_epoch}]",
        "recording.train_sequences=5",
        says=("regularizers.0: source: previous_epoch", "recording.train_sequences is 5", "set it to all"),
    ),
    bad_set(
        "two that drop by the same draws",
        "regularizers=[{name: entrodrop}, {name: random_token_dropout}]",
        says=("entrodrop and random_token_dropout", "keep one"),
    ),
    bad_set(
        "kept tokens counted before they are known",
        "regularizers=[{name: entrodrop, source: current, target: loss, normalize: kept}]",
        says=("regularizers.0", "source: current", "use normalize: all"),
    ),
    bad_set(
        "regulariser twice",
        "regularizers=[{name: neftune}, {name: neftune}]",
        says=("regularizers: neftune stands there twice",),
    ),
    bad_set(
        "weight decay set twice",
        "regularizers=[{name: weight_decay, value: 0.1}]",
        "training.weight_decay=0.1",
        says=("weight_decay and training.weight_decay", "keep one"),
    ),
    bad_set(
        "replacement token not in the vocabulary",
        "regularizers=[{name: entrodrop, replacement: token, replacement_token: 5000}]",
        says=("replacement_token: 5000", "vocabulary"),
    ),
    # TrainingArguments.
    bad_set(
        "training of a wrong type", "training.learning_rate=fast", says=("training.learning_rate: 'fast'", "float")
    ),
    bad_set("training out of range", "training.learning_rate=-1", says=("training.learning_rate: -1", "above 0")),
    bad_set("training owned", "training.output_dir=x", says=("training: output_dir belongs", "--output")),
    bad_set("training owned by prefix", "training.save_steps=5", says=("training: save_steps belongs", "leave it out")),
    bad_set(
        "training unknown", "training.learning_rat=1", says=("training.learning_rat:", "did you mean 'learning_rate'?")
    ),
    bad_set("half an epoch", "training.num_train_epochs=1.5", says=("num_train_epochs must be a whole number", "1.5")),
    bad_set("unknown scheduler", "training.lr_scheduler_type=lineer", says=("training", "lineer")),
    bad_set("base training unknown", "base={corpus: corpus, training: {lr: 1}}", says=("base.training.lr: ",)),
    bad_set("base epochs twice", "base={corpus: corpus, training: {num_train_epochs: 1}}", says=("set base.epochs",)),
    # Studies.
    bad_set("no arms", "arms={}", says=("arms: must not be empty",), recipe=STUDY),
    bad_set(
        "arm with a key it may not change", "arms.plain.seed=3", says=("arms.plain.seed: unknown key",), recipe=STUDY
    ),
    bad_set("arm whose name is no folder", "arms={a/b: {}}", says=("arms", "'a/b'"), recipe=STUDY),
    bad_set("seed twice", "seeds=[1, 1]", says=("seeds: [1, 1] holds a seed twice",), recipe=STUDY),
    bad_set("seed in a study", "seed=3", says=("seed: is not read in a study", "seeds: [3]"), recipe=STUDY),
    bad_set("seeds in a run", "seeds=[3]", says=("seeds", "arms")),
    bad_set(
        "arm set against the study",
        "training.weight_decay=0.1",
        "arms.plain.regularizers=[{name: weight_decay, value: 1.0}]",
        says=("arms.plain", "keep one"),
        recipe=STUDY,
    ),
    # The corpus.
    bad_set("no such corpus", "corpus.source=corpsu", says=("'corpsu' does not exist", "did you mean 'corpus'?")),
    bad_set("unknown built-in corpus", "corpus.source='builtin:python'", says=("python-reference",)),
    bad_set("empty source", "corpus.source=", says=("corpus.source", "must be a path")),
    bad_set("empty file", "corpus.source=empty.txt", says=("empty.txt", "holds no text"), empty_txt=""),
    bad_set("only spaces", "corpus.source=empty.txt", says=("empty.txt", "holds no text"), empty_txt=" \n\t\n"),
    bad_set(
        "validation part empty",
        "corpus.source=one.txt",
        "validation.fraction=0.01",
        says=("validation part", "use more documents"),
        one_txt="just one document",
    ),
    bad_set("more documents than there are", "corpus.documents=500", says=("documents: 500", "from 1 to 12")),
    bad_set(
        "not UTF-8",
        "corpus.source=bad.txt",
        says=("bad.txt", "not UTF-8 at byte 5 (line 2", "save the file"),
        bad_txt=b"good\n\xff\n",
    ),
    bad_set("unknown file type", "corpus.source=table.csv", says=("table.csv", "'.csv'", ".jsonl"), table_csv="a,b\n"),
    bad_set("broken line", JSONL % "", says=("rows.jsonl:2: not valid JSON",), rows_jsonl='{"text": "a"}\n{"text": \n'),
    bad_set("line that is a list", JSONL % "", says=("rows.jsonl:1: is list",), rows_jsonl="[1]\n"),
    bad_set(
        "field that is missing",
        JSONL % "",
        says=("rows.jsonl:1", "no field 'text'", "'txt'"),
        rows_jsonl='{"txt": "a"}\n',
    ),
    bad_set(
        "template field that is missing",
        JSONL % ", template: '{question} {anser}'",
        says=("rows.jsonl:1", "no field 'anser'", "did you mean 'answer'?"),
        rows_jsonl='{"question": "a", "answer": "b"}\n',
    ),
    bad_set(
        "malformed template",
        JSONL % ", template: '{question'",
        says=("template", "malformed"),
        rows_jsonl='{"text": "a"}\n',
    ),
    bad_set(
        "parquet that is none", "corpus.source=rows.parquet", says=("rows.parquet", "parquet"), rows_parquet="text"
    ),
    bad_set("validation within training", "validation={source: corpus}", says=("validation.source: 12 documents",)),
    bad_set("nothing left for the base", "base={corpus: corpus}", says=("base.corpus", "no documents are left")),
    # Model and tokenizer.
    bad_set("no such model", "model.name=nanoo", says=("model.name: 'nanoo'", "did you mean 'nano'?")),
    bad_set("folder that holds no model", "model.name=corpus", says=("model.name", "corpus", "save_pretrained")),
    bad_set(
        "vocabulary above the model's",
        "model.name=small-model",
        "tokenizer=short-model",
        says=("tokenizer: it needs 265 ids, more than the 64", "small-model", "leave tokenizer out"),
    ),
    bad_set(
        "block above the positions",
        "model.name=short-model",
        "tokenizer=null",
        "block_size=64",
        says=("block_size: 64", "32"),
    ),
    bad_set(
        "a new vocabulary for a pretrained model",
        "model.name=short-model",
        says=("tokenizer: train makes a new vocabulary", "short-model", "--set tokenizer=null"),
    ),
    bad_set(
        "a model without a tokenizer",
        "model.name=small-model",
        "tokenizer=null",
        says=("tokenizer", "small-model", "no vocabulary", "tokenizer: PATH"),
    ),
    bad_set("a hub name without its owner", "model.name=gpt2", says=("model.name: 'gpt2'", "openai-community/gpt2")),
    bad_set("a study without a tokenizer", "tokenizer=null", says=("tokenizer: is missing",), recipe=STUDY),
    bad_set("no such tokenizer", "tokenizer=./nowhere", says=("tokenizer './nowhere' does not exist",)),
    # What only a later arm would meet.
    bad_set(
        "arm's training of a wrong type",
        "arms.dropped.training.learning_rate=fast",
        says=("learning_rate: 'fast'",),
        recipe=STUDY,
    ),
    bad_set(
        "arm's scheduler unknown", "arms.dropped.training.lr_scheduler_type=lineer", says=("lineer",), recipe=STUDY
    ),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two saved models: one with 64 tokens and no tokenizer, one with 32 positions and a tokenizer."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from dynamics.corpus.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("models")
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    for name, vocabulary, positions in (("small-model", 64, 2048), ("short-model", 300, 32)):
        config = Qwen3Config(**shape, **heads, vocab_size=vocabulary, max_position_embeddings=positions)
        Qwen3ForCausalLM(config).save_pretrained(folder / name)
    train_tokenizer(["some words, some words, some words"] * 3, vocab_size=265).save_pretrained(folder / "short-model")
    return folder


@pytest.fixture
def refused(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Run `dynamics` in a folder with a good corpus and recipe; return its one line of complaint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "corpus").mkdir()
    for number in range(12):
        words = " ".join(f"word{(number * 7 + at) % 23}" for at in range(40))
        (tmp_path / "corpus" / f"{number}.txt").write_text(f"Document {number}: {words}\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)

    def command(args: list[str]) -> str:
        monkeypatch.setattr(sys, "argv", ["dynamics", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert ended.value.code == 2, said
        assert "Traceback" not in said.out + said.err
        assert said.err.startswith("Error: ") and len(said.err.splitlines()) == 1, said.err
        return said.err

    return command


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_bad_input_is_one_line_and_leaves_no_output(case: Case, refused: Command, tmp_path: Path, models: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(case.recipe)
    for name, content in case.files.items():
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    for model in models.iterdir():
        (tmp_path / model.name).symlink_to(model)
    overrides = [part for override in case.set for part in ("--set", override)]
    message = refused([*case.args, *overrides, "--output", "out"])
    assert [phrase for phrase in case.phrases if phrase not in message] == [], message
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "runs").exists()


def test_a_later_arm_whose_token_is_unknown(refused: Command, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    bad = "arms.dropped.regularizers=[{name: entrodrop, replacement: token, replacement_token: 5000}]"
    assert "replacement_token: 5000" in refused(["study", "study.yaml", "--set", bad, "--output", "out"])
    assert not (tmp_path / "out").exists()


def test_every_mistake_is_named_at_once(refused: Command) -> None:
    mistakes = {
        "trainin.x=1": "trainin: unknown key; did you mean 'training'?",
        "arms.entrodrop.regularizers.0.ratoi=3": "arms.entrodrop.regularizers.0.ratoi: unknown key; did you mean 'ratio'?",
        "block_size=abc": "block_size: must be a whole number, not 'abc'",
        "arms.random.regularizers.0.name=randm": "arms.random.regularizers.0: name 'randm' is unknown",
    }
    overrides = [part for override in mistakes for part in ("--set", override)]
    message = refused(["study", "quickstart", *overrides])
    assert [phrase for phrase in mistakes.values() if phrase not in message] == [], message


@pytest.mark.parametrize(
    ("args", "phrases"),
    [
        (["check", "nowhere"], ("nowhere", "no run")),
        (["figures", "nowhere"], ("nowhere", "study")),
        (["check", "corpus"], ("corpus",)),
        (["figures", "corpus"], ("corpus",)),
        (["reference", "recipe.yaml", "--set", "blocksize=3"], ("blocksize", "block_size")),
    ],
    ids=lambda value: " ".join(value),
)
def test_other_commands(args: list[str], phrases: tuple[str, ...], refused: Command) -> None:
    message = refused(args)
    assert [phrase for phrase in phrases if phrase not in message] == [], message


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_output_that_may_not_be_used_stays_as_it_is(refused: Command, tmp_path: Path) -> None:
    from dynamics.recipe.loading import load_recipe, resolved

    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    before = files_of(out)
    assert "not empty" in refused(["train", "recipe.yaml", "--output", "out"])
    assert "something other than a run" in refused(["train", "recipe.yaml", "--output", "out", "--resume"])
    (tmp_path / "study.yaml").write_text(STUDY)
    for more in ([], ["--list"], ["--index", "0"]):
        assert "something else" in refused(["study", "study.yaml", "--output", "out", *more])
    assert files_of(out) == before

    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_text(yaml.safe_dump(resolved(load_recipe(tmp_path / "recipe.yaml"))))
    before = files_of(other)
    changed = ["--set", "block_size=8", "--set", "training.learning_rate=1e-3"]
    message = refused(["train", "recipe.yaml", *changed, "--output", "other", "--resume"])
    assert "holds a run that differs in" in message and "give the recipe of that run" in message
    assert "block_size" in message and "training.learning_rate" in message
    message = refused(["train", "recipe.yaml", *changed, "--output", "other"])
    assert "it holds another run, which differs from this recipe in block_size (16 there, 8 here), " in message
    assert "training.learning_rate (not set there, 0.001 here)" in message
    (tmp_path / "study.yaml").write_text(STUDY)
    assert "holds a run, and not this study" in refused(["study", "study.yaml", "--output", "other"])
    assert "not empty" in refused(["train", "recipe.yaml", "--output", "other"])
    assert files_of(other) == before


def test_an_output_that_holds_another_study(refused: Command, tmp_path: Path) -> None:
    from dynamics.recipe.loading import as_study, load_recipe
    from dynamics.study import write_plan

    (tmp_path / "study.yaml").write_text(STUDY)
    write_plan(as_study(load_recipe(tmp_path / "study.yaml"), "study.yaml"), tmp_path / "out")
    before = files_of(tmp_path / "out")
    for more in ([], ["--list"], ["--index", "0"]):
        message = refused(["study", "study.yaml", "--set", "seeds=[5]", "--output", "out", *more])
        assert "holds another study, which differs from this recipe in seeds.0 (0 there, 5 here)" in message
        assert "dynamics study out/study.yaml --output out" in message
    assert files_of(tmp_path / "out") == before


@pytest.mark.parametrize("output", ["recipe.yaml", "recipe.yaml/below"])
@pytest.mark.parametrize("command", ["train", "study"])
def test_an_output_that_is_a_file(command: str, output: str, refused: Command, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    recipe = "recipe.yaml" if command == "train" else "study.yaml"
    assert "--output" in refused([command, recipe, "--output", output])


def test_an_index_that_is_no_run(refused: Command, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    message = refused(["study", "study.yaml", "--output", "out", "--index", "2"])
    assert "--index: 2 is no run" in message and "0 to 1" in message
    assert not (tmp_path / "out").exists()
