"""The `dynamics` command.

Heavy imports are inside the commands, so that --help is quick and needs no torch.
"""

from __future__ import annotations

import errno
import functools
import importlib
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from dynamics.errors import DamagedRecordError, DeviceFull, InputError, TrainingDiverged

if TYPE_CHECKING:
    from dynamics.records.reader import Run, Study
    from dynamics.reporting import Reporter

app = typer.Typer(
    help="Learning dynamics of language models trained for many epochs on little data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or a packaged recipe's name.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="K=V", help="Override a key of the recipe; may be repeated."),
]
OutputOption = Annotated[Path | None, typer.Option(help="Directory of the result (default: runs/NAME).")]


def _goes_on() -> str:
    return f"Interrupted. What is complete is kept; this goes on where it stopped: {_same_command()}"


def _resumes() -> str:
    return f"Interrupted. What is complete is kept; this goes on: {_same_command('--resume')}"


def _same_command(*options: str) -> str:
    given = sys.argv[1:]
    return shlex.join(["dynamics", *given, *(option for option in options if option not in given)])


def _command(*, example: str, interrupted: Callable[[], str] = lambda: "Interrupted.") -> Callable[[Any], Any]:
    """Register a command, with one message and the right exit code for all that users can cause.

    Interrupts are taken here: what Typer makes of them differs between its versions.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            with warnings.catch_warnings():
                warnings.showwarning = functools.partial(_show_warning, set())
                try:
                    function(*args, **kwargs)
                except InputError as error:
                    _fail(f"Error: {error}", 2)
                except (DamagedRecordError, DeviceFull, TrainingDiverged) as error:
                    _fail(f"Error: {error}", 1)
                except OSError as error:
                    _fail_of_system(error)
                except KeyboardInterrupt:
                    _fail(interrupted(), 130)

        return app.command(epilog=f"\b\nExample:\n  {example}")(guarded)

    return register


@_command(
    example="dynamics train recipe.yaml --set training.num_train_epochs=4 --output runs/first",
    interrupted=_resumes,
)
def train(
    recipe: RecipeArgument,
    set_: SetOption = None,
    output: OutputOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output, or start it.")] = False,
) -> None:
    """Train once, recording every token after every epoch."""
    from dynamics.recipe.loading import as_run, load_recipe
    from dynamics.reporting import Reporter

    loaded = as_run(load_recipe(recipe, set_ or ()), recipe)
    folder = output or Path("runs") / loaded.name
    _need_folder(folder)
    _need_training()
    from dynamics.training.environment.processes import leave_process_group
    from dynamics.training.recipe_run import train as train_run

    # Of the processes that a launcher started, the first speaks.
    first = os.environ.get("RANK", "0") == "0"
    reporter = Reporter() if first else Reporter.silent()
    train_run(loaded, folder, resume=resume, reporter=reporter)
    leave_process_group()
    if first:
        _summary(_open([folder]), reporter)


@_command(example="dynamics study quickstart --output runs/quickstart", interrupted=_goes_on)
def study(
    recipe: RecipeArgument,
    set_: SetOption = None,
    output: OutputOption = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    list_: Annotated[bool, typer.Option("--list", help="Print one command a run, and run nothing.")] = False,
    index: Annotated[int | None, typer.Option(help="Run only this one of --list, from 0.")] = None,
) -> None:
    """Run arms by seeds, then draw the figures.

    Run again, it goes on where it stopped. --list and --index spread a study over machines. With tune: in the recipe,
    trials come first, and their commands first in the list.
    """
    from dynamics.recipe.loading import as_study, load_recipe
    from dynamics.reporting import Reporter

    if list_ and index is not None:
        raise InputError("--list runs nothing and --index runs one of the list; give one of them")
    loaded = as_study(load_recipe(recipe, set_ or ()), recipe)
    from dynamics.study import StudyFailure, check_arguments, list_runs, n_jobs, run_index, run_study

    folder = output or Path("runs") / loaded.name
    _need_folder(folder)
    if list_:
        for command in list_runs(loaded, folder):
            print(command)
        return
    if index is not None and not 0 <= index < n_jobs(loaded):
        raise InputError(f"--index: {index} is no run of this study; it has 0 to {n_jobs(loaded) - 1}")
    _need_training()
    check_arguments(loaded)
    reporter = Reporter()
    if index is not None:
        run_index(loaded, folder, index, reporter=reporter)
        return
    try:
        run_study(loaded, folder, jobs=jobs, reporter=reporter)
    except StudyFailure as error:
        _fail(f"Error: {error}", 1)
    opened = _open([folder])
    files = _figures(opened, folder / "figures", reporter)
    _summary(opened, reporter)
    for file in files:
        if file.suffix == ".png":
            reporter.line(f"figure: {file}")


@_command(example="dynamics reference recipe.yaml --set model.name=micro")
def reference(recipe: RecipeArgument, set_: SetOption = None) -> None:
    """Measure every token under the starting model.

    Once: the result is cached, by the hashes of model and data.
    """
    from dynamics.recipe.loading import load_recipe
    from dynamics.reporting import Reporter

    loaded = load_recipe(recipe, set_ or ())
    _need_training()
    from dynamics.training.pretraining import reference as reference_pass

    reporter = Reporter()
    found = reference_pass(loaded, reporter)
    reporter.line(f"{found.pop('path')}{' (found in the cache)' if found.pop('cached') else ''}")
    for split, values in found.items():
        reporter.line(
            f"{split}: {values['n_tokens']:,} predicted tokens, mean loss {values['loss']:.4f}, "
            f"mean entropy {values['entropy']:.4f} nats"
        )


@_command(example="dynamics check runs/quickstart")
def check(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs or studies.")],
) -> None:
    """Verify records against their manifests.

    Every byte of every file is read. Exit code 1 says that something is damaged.
    """
    from dynamics.records.check import check_path

    damaged = False
    for path in runs:
        for report in check_path(path):
            state = "ok" if report.ok else "DAMAGED"
            print(f"{report.path}: {state} ({report.n_files} files, {report.n_bytes:,} bytes)")
            for problem in report.problems:
                print(f"  {problem}")
            if not report.ok:
                print(f"  epochs still good: {_numbers(report.good_epochs)}")
            for note in report.notes:
                print(f"  note: {note}")
            damaged |= not report.ok
    if damaged:
        raise typer.Exit(1)


@_command(example="dynamics figures runs/quickstart --only degradation --venue icml2024 --format pdf")
def figures(
    paths: Annotated[list[Path], typer.Argument(metavar="STUDY_OR_RUN...", help="Studies or runs.")],
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this figure or table; may be repeated."),
    ] = None,
    venue: Annotated[str | None, typer.Option(help="Sizes and fonts of a conference, such as icml2024.")] = None,
    format_: Annotated[str, typer.Option("--format", help="Of pdf, svg and png, with commas.")] = "pdf,svg,png",
    output: Annotated[Path | None, typer.Option(help="Folder (default: figures/ in the first).")] = None,
) -> None:
    """Draw the figures of studies or runs.

    Next to each lie the numbers that it draws, as CSV. A table of arms comes as LaTeX, Markdown and CSV.
    """
    from dynamics.reporting import Reporter

    formats = [part.strip() for part in format_.split(",") if part.strip()]
    if not formats:
        raise InputError(f"--format: {format_!r} names no format; give some of pdf, svg and png")
    reporter = Reporter()
    folder = output or paths[0] / "figures"
    options = {"only": only, "venue": venue, "formats": formats}
    for file in _figures(_open(paths), folder, reporter, **options):
        reporter.line(str(file))


@_command(example="dynamics export runs/quickstart/runs/baseline/seed-0 --format parquet --output tokens.parquet")
def export(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="A run.")],
    format_: Annotated[str, typer.Option("--format", metavar="parquet|zarr", help="What to write.")],
    output: Annotated[Path, typer.Option(help="File (parquet) or directory (zarr) that is not there yet.")],
) -> None:
    """Write a run's records for other tools.

    Parquet: one row a token and epoch, for polars and duckdb. zarr: labelled arrays.
    """
    from dynamics.records.exporting.run_export import check_export, export_run
    from dynamics.records.reader import Run
    from dynamics.reporting import Reporter

    (opened,) = _open([path])
    if not isinstance(opened, Run):
        begun = next((str(run.path) for run in opened.runs.values()), None)
        raise InputError(f"{path} is a study; export one of its runs{f', such as {begun}' if begun else ''}")
    check_export(opened, output, format=format_)
    _need_folder(output.absolute().parent)
    reporter = Reporter()
    total = len(opened.epochs) * len(opened.splits)
    with reporter.progress(total, f"exporting {len(opened.epochs)} epochs of {path}") as bar:
        export_run(opened, output, format=format_, on_epoch=lambda: bar.update(1))
    reporter.line(str(output))


@_command(example="dynamics explore RUNS/baseline/seed-0 RUNS/entrodrop/seed-0 --output page.html")
def explore(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN [RUN]", help="A run, or two to compare.")],
    output: Annotated[Path, typer.Option(help="The page, an HTML file.")],
    budget: Annotated[float, typer.Option(min=0.1, metavar="MB", help="Size that the page may have.")] = 20.0,
    buckets: Annotated[int, typer.Option(min=2, max=100, help="Buckets by reference entropy.")] = 2,
) -> None:
    """Make a page of the text, token by token, epoch by epoch.

    One file that needs no network: open it in a browser, or send it.
    """
    from dynamics.explorer.build import build_page
    from dynamics.records.reader import open_run
    from dynamics.reporting import Reporter

    if output.is_dir():
        raise InputError(f"--output: {output} is a folder; name a file, such as {output / 'page.html'}")
    _need_folder(output.absolute().parent)
    page = build_page([open_run(path) for path in paths], budget=budget * 1e6, buckets=buckets)
    page.save(output)
    reporter = Reporter()
    for note in page.notes:
        reporter.line(note)
    reporter.line(f"{output}: {len(page.html) / 1e6:.1f} MB")


def main() -> None:
    """Run the command."""
    # A scheduler's SIGTERM ends a command as Ctrl-C does, wherever training does not finish its step first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Workers are forked after the tokenizer has been used; this is what it would warn about.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    app(prog_name="dynamics")


def _fail_of_system(error: OSError) -> NoReturn:
    """Say what the system refused; of a full disk, what is left and how to go on. Anything else is a bug."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error
    place = f" ({error.filename})" if error.filename else ""
    _fail(
        f"Error: the disk is full{place}. All complete epochs are kept; make room, and this goes on: "
        f"{_same_command('--resume') if 'train' in sys.argv[1:2] else _same_command()}",
        1,
    )


def _fail(message: str, code: int) -> NoReturn:
    print(" ".join(message.splitlines()), file=sys.stderr)
    raise typer.Exit(code)


def _show_warning(said: set[str], message: Warning | str, *args: Any, **kwargs: Any) -> None:
    if str(message) not in said:  # every figure of a study says how few its seeds are
        print(f"Warning: {message}", file=sys.stderr)
    said.add(str(message))


def _need_folder(output: Path) -> None:
    """Refuse an output that cannot be made, before any work goes into it."""
    found = output.absolute()
    while not os.path.lexists(found):
        found = found.parent
    problem = (
        "is no directory"
        if not found.is_dir()
        else "may not be written to"
        if not os.access(found, os.W_OK | os.X_OK)
        else None
    )
    if problem is not None:
        raise InputError(f"--output: {output} cannot be used, as {found} {problem}; name another")


def _need_training() -> None:
    """Load what training needs, quietly; most of a command's starting time is spent here."""
    try:
        for name in ("torch", "accelerate", "transformers"):
            importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(f"this command trains, and {error.name} is not installed: pip install {error.name}") from error
    log = importlib.import_module("transformers.utils.logging")
    log.set_verbosity_error()
    log.disable_progress_bar()


def _open(paths: Sequence[Path]) -> list[Study | Run]:
    from dynamics.records.reader import open_any

    return [open_any(path) for path in paths]


def _figures(opened: list[Study | Run], output: Path, reporter: Reporter, **options: Any) -> list[Path]:
    from dynamics.plots.figures import save_figures

    if output.exists() and not output.is_dir():
        raise InputError(f"--output: {output} is a file; name a folder")
    return save_figures(opened, output=output, on_skip=reporter.line, **options)


def _summary(opened: list[Study | Run], reporter: Reporter) -> None:
    """Print the closing table, one row an arm."""
    from dynamics.analysis.estimands.summary import note_on_passes
    from dynamics.plots.tables import arm_table, closing_table

    table = arm_table(opened)
    against = f"; * marks ends that differ from {table.baseline}'s" if table.baseline else ""
    reporter.line(f"validation loss, nats per token{against}")
    reporter.table(*closing_table(table))
    if note := note_on_passes(table.rows):
        reporter.line(note)


def _numbers(epochs: Sequence[int]) -> str:
    return ", ".join(map(str, epochs)) or "none"
