"""Wrong usage is one line in plain words; the version; the word example."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.command import Command
from support.synthetic import make_study

import dynamics
from dynamics import cli


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.training, "_need_training", lambda: None)
    return Command(monkeypatch, capsys)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("bogus", "there is no command 'bogus'; there are train, study, reference, check, "),
        ("stdy quickstart", "there is no command 'stdy'; did you mean 'study'?; see `dynamics --help`"),
        ("--foo", "--foo: there is no such option; there are --version, --help; see `dynamics --help`"),
        ("train", "RECIPE is missing; see `dynamics train --help`"),
        ("figures", "STUDY_OR_RUN is missing; see `dynamics figures --help`"),
        ("explore", "is missing; see `dynamics explore --help`"),
        ("export x", "--format is missing; see `dynamics export --help`"),
        ("train a b", "b: more arguments than this command takes; see `dynamics train --help`"),
        ("train a --outptu b", "--outptu: there is no such option; did you mean '--output'?; see"),
        ("check --x", "--x: there is no such option; there is --help; see `dynamics check --help`"),
        ("train a --output", "--output: needs a value after it; see `dynamics train --help`"),
        ("train a --dry-run=3", "--dry-run: takes no value; see `dynamics train --help`"),
        ("study quickstart --jobs 0", "--jobs: must be at least 1, not '0'; see `dynamics study --help`"),
        ("study quickstart --jobs=0", "--jobs: must be at least 1; see `dynamics study --help`"),
        ("study quickstart --jobs two", "--jobs: must be a whole number, not 'two'; see"),
        ("explore a --budget 0", "--budget: must be at least 0.1, not '0'; see `dynamics explore --help`"),
        ("explore a --buckets 500", "100, not '500'; see `dynamics explore --help`"),
        ("explore a --budget x", "--budget: must be a number, not 'x'; see `dynamics explore --help`"),
        ("train a --set corpus={source: x}", "corpus={source: is only a part of a --set value; put the whole value in"),
        ("study a --set seeds=[0, 1]", "seeds=[0, is only a part of a --set value; put the whole value in quotes"),
        ("study a --set seeds=0 seeds=1", "seeds=1: more arguments than this command takes; put a --set value that"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(command: Command, arguments: str, said: str) -> None:
    done = command(*arguments.split())
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("Error: ") and done.err.count("\n") == 1 and said in done.err, done.err
    assert not list(Path().iterdir())


def test_help_alone_is_no_error_message(command: Command) -> None:
    for arguments in ([], ["--help"], ["-h"], ["train", "-h"]):
        done = command(*arguments)
        # Without a command older versions of Typer end with 0.
        assert done.code == 0 or not arguments
        assert "Usage: dynamics" in done.out + done.err and "Error" not in done.out + done.err


def test_the_version_needs_no_torch(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from dynamics.cli import main; main()"
    run = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"dynamics {dynamics.__version__}\n", "")


@pytest.mark.parametrize(
    ("override", "option"),
    [
        ("name=a: b", "'name=\"a: b\"'"),
        ("corpus.template={question}", "'corpus.template=\"{question}\"'"),
        ("corpus.template={question}\\n{answer}", "'corpus.template=\"{question}\\n{answer}\"'"),
        ("corpus.template=Q: {question}", "'corpus.template=\"Q: {question}\"'"),
        ("name=@me", "'name=\"@me\"'"),
        ("corpus.template=[a] {b}", "'corpus.template=\"[a] {b}\"'"),
    ],
)
def test_text_that_yaml_reads_otherwise_is_shown_in_quotes(command: Command, override: str, option: str) -> None:
    recipe = "corpus: {source: a}\ntokenizer: {train: {vocab_size: 300}}\nmodel: {name: nano}\n"
    Path("recipe.yaml").write_text(recipe)
    done = command("train", "recipe.yaml", "--set", override)
    assert done.code == 2 and done.err.count("\n") == 1 and f"--set {option}" in done.err, done.err


def test_what_is_said_of_quotes_is_right(command: Command) -> None:
    """What the message says to write is taken by a shell and by YAML as the text that was given."""
    import shlex

    from dynamics.recipe.yaml_reading import apply_overrides, quoted_override

    for text in ("a: b", "{q}", "it's: {x}", 'say "x": y', r"\d{3}: {x}", "# no comment", "- a", "null", "*x", "@"):
        option, override = shlex.split(quoted_override("a.b", text))
        assert option == "--set" and apply_overrides({}, [override]) == {"a": {"b": text}}, text
    assert apply_overrides({}, [shlex.split(quoted_override("a", r"{q}\n{a}"))[1]]) == {"a": "{q}\n{a}"}


def test_the_word_example_is_the_packaged_study(command: Command) -> None:
    done = command("check", "example")
    lines = [line.split(" (")[0] for line in done.out.splitlines() if not line.startswith(" ")]
    assert (done.code, done.err) == (0, "")
    assert lines[0] == "example: ok" and "example/runs/entrodrop/seed-0: ok" in lines
    done = command("figures", "example", "--only", "table")
    assert (done.code, done.out.split()) == (0, [f"example-figures/table.{kind}" for kind in ("tex", "md", "csv")])
    done = command("export", "example", "--format", "parquet", "--output", "x")
    assert done.code == 2 and "export one of its runs, such as example/runs/baseline/seed-0\n" in done.err
    run = "example/runs/baseline/seed-0"
    assert command("export", run, "--format", "parquet", "--output", "tokens.parquet").code == 0
    assert command("explore", run, "--budget", "0.3").out.splitlines()[-1].startswith("example-explorer.html: ")
    assert command("summarize", "example", "--output", "kept").code == 0
    assert sorted(path.name for path in Path().iterdir()) == [
        "example-explorer.html", "example-figures", "kept", "tokens.parquet",
    ]  # fmt: skip
    done = command("check", "example/runs/nothing")
    assert done.code == 2 and "nothing" in done.err


@pytest.mark.filterwarnings("default")
def test_a_folder_named_example_goes_first_and_that_is_said_once(command: Command) -> None:
    make_study(Path("example"), arms={"mine": {}}, seeds=[4])
    done = command("check", "example", "example/runs/mine/seed-4")
    assert done.code == 0 and "example/runs/mine/seed-4: ok" in done.out and "baseline" not in done.out
    assert done.err == (
        "Warning: example: the file or folder of this name here is read, not the study that ships with the package\n"
    )
    assert command("figures", "example", "--only", "table").out.split()[0] == "example/figures/table.tex"


@pytest.mark.parametrize("name", ["check", "figures", "explore", "export", "summarize"])
def test_help_says_what_example_is(command: Command, name: str) -> None:
    assert "The word example is the study that ships with the package" in " ".join(command(name, "--help").out.split())
