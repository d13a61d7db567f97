"""Random input: recipes, YAML, `--set` and corpus files either work or raise InputError, and never hang.

Ten seconds in all by default; DYNAMICS_FUZZ_SECONDS says how many. Rounds of fixed seeds follow one another until the
time is up, beginning with DYNAMICS_FUZZ_SEED, so that a failure can be had again.
"""

from __future__ import annotations

import copy
import datetime
import io
import json
import math
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pyarrow
import pyarrow.parquet
import pytest

from dynamics import cli
from dynamics.corpus.sources import load_documents
from dynamics.errors import InputError
from dynamics.recipe.loading import differing_keys, dump_yaml, load_recipe, resolved
from dynamics.recipe.settings import Recipe
from dynamics.recipe.studies import StudyRecipe
from dynamics.recipe.yaml_reading import load_yaml
from dynamics.records import schema
from dynamics.validation import validated

SECONDS = float(os.environ.get("DYNAMICS_FUZZ_SECONDS", "10"))
FIRST_SEED = int(os.environ.get("DYNAMICS_FUZZ_SEED", "0"))
N_TARGETS = 8  # as many as there are calls of `fuzz`
# Far above what any example takes, even on a machine that does much else.
HANGS_AFTER = 30.0


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in what hangs, where a signal can interrupt it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise TimeoutError(f"still not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz(target: Callable[[Any], None], strategy: st.SearchStrategy[Any]) -> None:
    """Give `target` examples of `strategy` for its share of the time; it may raise InputError, and nothing else."""

    def guarded(example: Any) -> None:
        with within(HANGS_AFTER):
            try:
                target(example)
            except InputError as error:
                message = str(error)
                assert message.strip() and len(message) < 5_000, "a message is one that can be read"

    settings = hypothesis.settings(
        max_examples=60, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    seed, end = FIRST_SEED, time.monotonic() + SECONDS / N_TARGETS
    while time.monotonic() < end:
        hypothesis.seed(seed)(settings(hypothesis.given(strategy)(guarded)))()
        seed += 1
    print(f"{target.__name__}: rounds {FIRST_SEED} to {seed - 1} of 60 examples")


# ---------------------------------------------------------------------------------------- values

# Lone surrogates among them: YAML and JSON can both write them.
TEXTS = st.text(st.characters(exclude_categories=()), max_size=8)
WORDS = st.sampled_from(
    ["", " ", "\0", "../x", "/", "~nobody/x", ".", "nano", "builtin:python-reference", "builtin:", "hub:", "hub:x",
     "entrodrop", "goldfish_loss", "weight_decay", "neftune", "linear", "all", "float16", "1e-3", "on", "{x}", "{",
     "previous_epoch", "x" * 300, "\u2028", "\ud800", "NaN"]
)  # fmt: skip
NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, 1, -1, 2**31, 2**32, 2**63, 2**64, 1e308, 5e-324, 0.5, 1.0, True, False]),
)
ODD = st.one_of(
    st.none(),
    st.binary(max_size=4),
    st.dates(),
    st.datetimes(),
    st.just({1, 2}),
    st.just((1, 2)),
    st.just(datetime.timedelta(1)),
)
LEAVES = st.one_of(TEXTS, WORDS, NUMBERS, ODD)
KEYS = st.one_of(
    st.sampled_from(
        ["name", "source", "corpus", "train", "vocab_size", "model", "training", "regularizers", "ratio", "pool",
         "schedule", "seeds", "arms", "fraction", "num_train_epochs", "learning_rate", "lr_scheduler_type", "optim",
         "lr_scheduler_kwargs", "warmup_steps", "per_device_train_batch_size", "fsdp", "report_to", "0", "bf16"]
    ),
    TEXTS,
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=6,
)

RECIPE: dict[str, Any] = {
    "name": "run",
    "corpus": {"source": "builtin:python-reference", "documents": 16, "field": "text", "template": None},
    "tokenizer": {"train": {"vocab_size": 300}},
    "model": {"name": "nano", "init_seed": 0, "trust_remote_code": False},
    "base": {"corpus": "builtin:python-docstrings", "epochs": 1, "training": {"learning_rate": 0.1}},
    "block_size": 32,
    "validation": {"fraction": 0.3},
    "tuning": {"fraction": 0.1},
    "regularizers": [
        {"name": "entrodrop", "ratio": 0.3, "pool": 0.5, "schedule": {"name": "linear"}, "source": "reference"},
        {"name": "hidden_dropout", "rate": 0.1},
    ],
    "recording": {"train_sequences": 40, "validation_sequences": "all", "dtype": "float16"},
    "training": {"num_train_epochs": 2, "learning_rate": 1e-3, "per_device_train_batch_size": 8},
    "on_divergence": "stop",
    "seed": 0,
}
STUDY = {key: value for key, value in RECIPE.items() if key != "seed"} | {
    "arms": {"plain": {"regularizers": []}, "other": {"training": {"weight_decay": 0.1}}},
    "seeds": [0, 1],
    "validation": {"domain": {"fraction": 0.3}, "general": {"source": "builtin:python-docstrings", "documents": 2}},
    "tune": {
        "seed": 9,
        "arms": {"plain": {"training.weight_decay": [0.1, 3.2]}, "other": [{}, {"regularizers.0.ratio": 0.1}]},
        "choose": "best",
    },
}


def places(data: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every key and index of a recipe, as a path from its top."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [place for key, value in inner for place in ((*above, key), *places(value, (*above, key)))]


@st.composite
def recipes(draw: st.DrawFn) -> dict[str, Any]:
    """A good recipe with some values replaced, keys added and keys removed."""
    recipe = copy.deepcopy(draw(st.sampled_from([RECIPE, STUDY])))
    for _ in range(draw(st.integers(1, 3))):
        *above, key = draw(st.sampled_from(places(recipe)))
        inner: Any = recipe
        for step in above:
            inner = inner[step]
        what = draw(st.sampled_from(["replace", "replace", "add", "remove"]))
        if what == "remove":
            del inner[key]
        elif what == "add" and isinstance(inner[key], dict):
            inner[key][draw(KEYS)] = draw(VALUES)
        else:
            inner[key] = draw(VALUES)
    return recipe


def accepted(recipe: Recipe) -> None:
    """What is accepted can be hashed, written, and read back as it is."""
    plain = resolved(recipe)
    schema.config_hash(plain)
    written = dump_yaml(recipe).encode().decode()
    again = load_yaml(written, "written")
    assert differing_keys(again, plain) == []


def test_values_of_a_recipe() -> None:
    def of_recipe(data: dict[str, Any]) -> None:
        accepted(validated(StudyRecipe if "arms" in data else Recipe, data, where="recipe"))

    fuzz(of_recipe, st.one_of(recipes(), st.dictionaries(KEYS, VALUES, max_size=4)))


def test_training_arguments() -> None:
    from transformers.utils import logging as transformers_logging

    from dynamics.training.environment.arguments import _hints, training_arguments

    transformers_logging.set_verbosity_error()  # as the command does
    # Left out: what imports a program that may not be there, or talks to a service.
    names = sorted(set(_hints()) - {"deepspeed", "report_to", "trackio_space_id", "fsdp", "fsdp_config"})

    def of_training(training: dict[str, Any]) -> None:
        fields = validated(Recipe, RECIPE | {"training": training}, where="recipe").training
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            training_arguments(fields, output_dir=Path("unused"), seed=0)

    fuzz(of_training, st.dictionaries(st.sampled_from(names), VALUES, min_size=1, max_size=2))


# ------------------------------------------------------------------------------------------ YAML

PIECES = st.sampled_from(
    ["a: ", "- ", "\n", "  ", "&a ", "*a", "<<: ", "!!int ", "!!float ", "!!bool ", "!!null ", "!!timestamp ",
     "!!binary ", "!!set ", "!!omap ", "!!pairs ", "!!str ", "!!map ", "!!seq ", "!!python/name:os.system ", "!x ",
     "!<tag:yaml.org,2002:int> ", "{", "}", "[", "]", '"', "'", "|\n", ">-\n", "? ", ": ", ", ", "%YAML 1.2\n",
     "%TAG ! x\n", "---\n", "...\n", "1e999", ".nan", "-.inf", "0x", "0o9", "0b", "1:2:3", "2001-01-01", "2001-13-41",
     "2001-01-01T25:61:61Z", "2001-01-01 1:1:1 +99:99", "\t", "\0", "\ufeff", "# ", "~", "\\ud800", "\\x", "\\U0011",
     "\x85", "block_size: ", "model: ", "nano", "training: ", "corpus: ", "_", "+", "9" * 5000, "0x" + "f" * 5000,
     "=", "!!value ", "@", "`", "!!int _", "yes", "0_", "[" * 50, "- " * 50]
)  # fmt: skip
GOOD = dump_yaml(validated(Recipe, RECIPE, where="recipe"))


@st.composite
def yaml_texts(draw: st.DrawFn) -> str:
    """Pieces of YAML, on their own or in the middle of a good recipe."""
    made = "".join(draw(st.lists(st.one_of(PIECES, TEXTS), min_size=1, max_size=8)))
    if draw(st.booleans()):
        at = draw(st.integers(0, len(GOOD)))
        return GOOD[:at] + made + GOOD[at + draw(st.integers(0, 20)) :]
    return made


def test_bytes_of_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"

    def of_bytes(data: bytes) -> None:
        file.write_bytes(data)
        accepted(load_recipe(file))

    utf_8 = yaml_texts().map(lambda text: text.encode("utf-8", "surrogatepass"))
    utf_16 = yaml_texts().map(lambda text: text.encode("utf-16", "surrogatepass"))
    fuzz(of_bytes, st.one_of(utf_8, utf_8, utf_16, st.binary(max_size=40)))


@st.composite
def overrides(draw: st.DrawFn) -> str:
    place = draw(st.sampled_from(places(STUDY) + places(RECIPE)))
    key = draw(st.one_of(st.just(".".join(map(str, place))), KEYS))
    keys = [key, *draw(st.lists(KEYS, max_size=2))]
    return draw(st.sampled_from(["=", "=", "=", "", " = "])).join([".".join(keys), draw(yaml_texts())[:200]])


def test_overrides() -> None:
    def of_overrides(given: list[str]) -> None:
        accepted(load_recipe("quickstart", given))

    fuzz(of_overrides, st.lists(st.one_of(overrides(), TEXTS), min_size=1, max_size=3))


def test_overrides_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(GOOD)
    monkeypatch.setattr(cli.training, "_need_training", lambda: None)

    def train(*args: Any, **kwargs: Any) -> None:
        raise InputError("the recipe is accepted")

    monkeypatch.setattr("dynamics.training.recipe_run.train", train)

    def of_arguments(given: list[str]) -> None:
        said = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")  # as standard error is
        arguments = [part for one in given for part in ("--set", one)]
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(sys, "argv", ["dynamics", "train", str(recipe), "--output", str(tmp_path / "o"), *arguments])
            patch.setattr(sys, "stderr", said)
            cli.main()
        assert ended.value.code == 2
        said.flush()
        text = said.buffer.getvalue().decode()  # type: ignore[attr-defined]
        assert "Traceback" not in text
        assert text.startswith(("Error: ", "Usage: ")), text
        assert text.startswith("Usage: ") or text.count("\n") == 1, text
        assert not (tmp_path / "o").exists()

    # An argument of the system holds no NUL.
    fuzz(of_arguments, st.lists(overrides().map(lambda text: text.replace("\0", "")), min_size=1, max_size=2))


# ---------------------------------------------------------------------------------------- corpora

TEMPLATES = st.one_of(
    st.none(), st.sampled_from(["{text}", "{text} {other}", "{{{text}}}", "{", "{0}", "{text.x}", "{text!r}"]), TEXTS
)


def of_file(example: tuple[Path, bytes, str, str | None]) -> None:
    path, data, field, template = example
    path.write_bytes(data)
    for document in load_documents(str(path), field=field, template=template):
        # Later stages rely on it.
        assert document.text.strip()
        assert len(document.content_hash) == 64
        document.text.encode()


def files(name: str, data: st.SearchStrategy[bytes]) -> st.SearchStrategy[Any]:
    path = Path(tempfile.gettempdir()) / f"fuzz-{os.getpid()}" / name
    path.parent.mkdir(exist_ok=True)
    return st.tuples(st.just(path), data, st.one_of(st.just("text"), TEXTS), TEMPLATES)


@pytest.fixture(autouse=True)
def _no_leftovers() -> Iterator[None]:
    yield
    folder = Path(tempfile.gettempdir()) / f"fuzz-{os.getpid()}"
    for path in folder.glob("*"):
        path.unlink()
    if folder.exists():
        folder.rmdir()


JSON_PIECES = st.sampled_from(
    ['{"text": "a"}', "\n", "\r\n", "\r", '{"text": ', "}", "{", "[", "]", '"', "\\ud800", "\\u0000", "null", "NaN",
     "-Infinity", "1e999", "9" * 5000, "[" * 3000, '{"text":' * 1200, ",", ":", " ", "\u2028", "\ufeff", "true", "\\",
     '"text"', '"other"', "\x0b", "\x1c", '{"text": "a", "text": 1}']
)  # fmt: skip
JSON_ROWS = st.dictionaries(
    st.one_of(st.sampled_from(["text", "other"]), TEXTS),
    st.recursive(st.one_of(TEXTS, st.integers(), st.floats(), st.none(), st.booleans()), st.lists, max_leaves=3),
    max_size=3,
).map(json.dumps)


def test_bytes_of_json_lines() -> None:
    lines = st.lists(st.one_of(JSON_ROWS, JSON_PIECES, TEXTS), max_size=6)
    joined = st.builds(lambda sep, parts: sep.join(parts), st.sampled_from(["\n", "", "\r\n"]), lines)
    data = joined.map(lambda text: text.encode("utf-8", "surrogatepass"))
    fuzz(of_file, files("rows.jsonl", st.one_of(data, data, st.binary(max_size=60))))


def test_bytes_of_text() -> None:
    data = st.one_of(st.binary(max_size=60), TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")))
    fuzz(of_file, st.one_of(files("a.txt", data), files("b.md", data), files("c.TXT", data), files("d.csv", data)))


def a_parquet() -> bytes:
    target = io.BytesIO()
    table = pyarrow.table(
        {"text": ["one", "two", None, "four"], "other": [1.5, math.nan, None, 0.0], "list": [[1], [], None, [2, 3]]}
    )
    pyarrow.parquet.write_table(table, target)
    return target.getvalue()


PARQUET = a_parquet()


@st.composite
def parquets(draw: st.DrawFn) -> bytes:
    """A good file with some bytes changed, cut out or put in; the footer, at the end, is where it hurts."""
    data = bytearray(PARQUET)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.one_of(st.integers(0, len(data) - 1), st.integers(max(0, len(data) - 600), len(data) - 1)))
        what = draw(st.sampled_from(["change", "change", "cut", "put"]))
        piece = draw(st.binary(min_size=1, max_size=4))
        data[at : at + (0 if what == "put" else len(piece))] = b"" if what == "cut" else piece
        if len(data) < 10:
            break
    return bytes(data)


TYPED = st.sampled_from(
    [
        [b"bytes"], [datetime.date(2001, 1, 1)], [{"a": 1}], [[1]], [True], [1.5], [2**62], [""], ["\0"], [None],
        [datetime.timedelta(1)], [datetime.datetime(9999, 12, 31)],
    ]
)  # fmt: skip


def typed(values: list[Any]) -> bytes:
    target = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": values, "other": ["x"]}), target)
    return target.getvalue()


def test_bytes_of_parquet() -> None:
    fuzz(of_file, files("rows.parquet", st.one_of(parquets(), parquets(), TYPED.map(typed), st.binary(max_size=60))))
