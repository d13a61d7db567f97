"""The `dynamics` command. Heavy imports are inside the commands, so that --help is quick and needs no torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from dynamics.errors import DamagedRecordError, InputError

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


@app.command(epilog="Example: dynamics train recipe.yaml --set training.num_train_epochs=4 --output runs/first")
def train(
    recipe: RecipeArgument,
    set_: SetOption = None,
    output: OutputOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output, or start it.")] = False,
) -> None:
    """Train once, recording every token after every epoch."""
    from dynamics.config import as_run, load_recipe
    from dynamics.reporting import Reporter

    loaded = as_run(load_recipe(recipe, set_ or ()), recipe)
    _need_training()
    from dynamics.training.run import train as train_run

    folder = output or Path("runs") / loaded.name
    reporter = Reporter()
    train_run(loaded, folder, resume=resume, reporter=reporter)
    _summary([folder], reporter)


@app.command(epilog="Example: dynamics study quickstart --output runs/quickstart")
def study(
    recipe: RecipeArgument,
    set_: SetOption = None,
    output: OutputOption = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    list_: Annotated[bool, typer.Option("--list", help="Print one command a run, and run nothing.")] = False,
    index: Annotated[int | None, typer.Option(help="Run only this one of --list, from 0.")] = None,
) -> None:
    """Run arms by seeds, then draw the figures; run again, it goes on where it stopped."""
    from dynamics.config import as_study, load_recipe
    from dynamics.reporting import Reporter
    from dynamics.study import list_runs, run_index, run_study

    loaded = as_study(load_recipe(recipe, set_ or ()), recipe)
    folder = output or Path("runs") / loaded.name
    if list_:
        for command in list_runs(loaded, folder):
            print(command)
        return
    _need_training()
    reporter = Reporter()
    if index is not None:
        run_index(loaded, folder, index, reporter=reporter)
        return
    run_study(loaded, folder, jobs=jobs, reporter=reporter)
    files = _figures([folder], folder / "figures", reporter)
    _summary([folder], reporter)
    reporter.line("figures: " + " ".join(str(file) for file in files if file.suffix == ".png"))


@app.command(epilog="Example: dynamics reference recipe.yaml --set model.name=micro")
def reference(recipe: RecipeArgument, set_: SetOption = None) -> None:
    """Measure every token under the frozen starting model, once; the result is cached."""
    from dynamics.config import load_recipe
    from dynamics.reporting import Reporter

    loaded = load_recipe(recipe, set_ or ())
    _need_training()
    from dynamics.training.prepare import reference as reference_pass

    reporter = Reporter()
    found = reference_pass(loaded, reporter)
    reporter.line(f"{found.pop('path')}{' (found in the cache)' if found.pop('cached') else ''}")
    for split, values in found.items():
        reporter.line(
            f"{split}: {values['n_tokens']:,} predicted tokens, mean loss {values['loss']:.4f}, mean entropy "
            f"{values['entropy']:.4f} nats"
        )


@app.command(epilog="Example: dynamics check runs/quickstart")
def check(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs or studies.")],
) -> None:
    """Verify every file of runs against their manifests."""
    from dynamics.records.check import check_path

    damaged = 0
    for path in runs:
        for report in check_path(path):
            state = "ok" if report.ok else "DAMAGED"
            print(f"{report.path}: {state} ({report.n_files} files, {report.n_bytes:,} bytes)")
            for problem in report.problems:
                print(f"  {problem}")
            for note in report.notes:
                print(f"  note: {note}")
            damaged += not report.ok
    if damaged:
        raise typer.Exit(1)


@app.command(epilog="Example: dynamics figures runs/quickstart --only degradation --venue icml2024 --format pdf")
def figures(
    opened: Annotated[list[Path], typer.Argument(metavar="STUDY_OR_RUN...", help="Studies or runs.")],
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this figure; may be repeated.")] = None,
    venue: Annotated[str | None, typer.Option(help="Sizes and fonts of a conference, such as icml2024.")] = None,
    format_: Annotated[str, typer.Option("--format", help="Of pdf, svg and png, with commas.")] = "pdf,svg,png",
    output: Annotated[Path | None, typer.Option(help="Folder (default: figures/ in the first).")] = None,
) -> None:
    """Draw the figures of studies or runs, each with the numbers that it draws as CSV."""
    from dynamics.reporting import Reporter

    reporter = Reporter()
    formats = [part.strip() for part in format_.split(",") if part.strip()]
    for file in _figures(opened, output or opened[0] / "figures", reporter, only=only, venue=venue, formats=formats):
        reporter.line(str(file))


def main() -> None:
    """Run the command; bad input is one message and exit code 2, damaged records are exit code 1."""
    # A hub name is looked up by the hub's own library; its bars and advice are not ours to print.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except InputError as error:
        _fail(str(error), 2)
    except DamagedRecordError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted; the same command with --resume (a study: the same command) goes on", 130)
    except RuntimeError as error:
        if type(error).__name__ != "StudyFailure":
            raise
        _fail(str(error), 1)


def _fail(message: str, code: int) -> None:
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(code)


def _need_training() -> None:
    try:
        import accelerate  # noqa: F401
        import torch  # noqa: F401
        import transformers
    except ModuleNotFoundError as error:
        raise InputError(f"this command trains, and {error.name} is not installed: pip install {error.name}") from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _figures(paths: list[Path], output: Path, reporter: object, **options: object) -> list[Path]:
    from dynamics.plots.figures import save_figures
    from dynamics.records.reader import open_any

    opened = [open_any(path) for path in paths]
    return save_figures(opened, output=output, on_skip=reporter.line, **options)  # type: ignore[attr-defined,arg-type]


def _summary(paths: list[Path], reporter: object) -> None:
    from dynamics.analysis.summary import arm_summary
    from dynamics.records.reader import open_any

    rows = []
    for path in paths:
        for arm in arm_summary(open_any(path)):
            rows.append(
                (
                    arm.arm,
                    f"{arm.best:.4f}",
                    str(arm.best_epoch),
                    f"{arm.final:.4f}",
                    f"[{arm.final_low:.4f}, {arm.final_high:.4f}]",
                    f"{arm.rebound:.4f}",
                    f"{arm.rebound_cross_fitted:.4f}",
                    f"{arm.dropped_share:.4f}",
                )
            )
    header = (
        "arm",
        "best",
        "epoch",
        "final",
        "95 % interval",
        "rebound",
        "cross-fitted",
        "dropped",
    )
    reporter.line("validation loss, nats per token")  # type: ignore[attr-defined]
    reporter.table(header, rows)  # type: ignore[attr-defined]
