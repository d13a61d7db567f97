"""The commands that train or measure a model."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dynamics.cli.command import command, fail, same_command, suggest
from dynamics.cli.results import drawn, opened_from, print_summary
from dynamics.errors import InputError, require_folder

if TYPE_CHECKING:
    from dynamics.recipe.settings import Recipe

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or a packaged recipe's name.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="K=V", help="Override a key of the recipe; may be repeated."),
]
OutputOption = Annotated[Path | None, typer.Option(help="Directory of the result (default: runs/NAME).")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Report what it would need and write, without training.")]
FlopsOption = Annotated[float | None, typer.Option(min=1.0, help="Dry run: operations per second of each process.")]
TokensOption = Annotated[
    float | None, typer.Option(min=1.0, help="Dry run: tokens per document of a corpus that is not downloaded.")
]
ProcessesOption = Annotated[int, typer.Option(min=1, help="Dry run: processes that train one model together.")]
ConfigOption = Annotated[Path | None, typer.Option(help="Dry run: config.json of a model that is not downloaded.")]


def _goes_on() -> str:
    return f"Interrupted. What is complete is kept; this goes on where it stopped: {same_command()}"


def _resumes() -> str:
    return f"Interrupted. What is complete is kept; this goes on: {same_command('--resume')}"


@command(
    example="dynamics train recipe.yaml --set training.num_train_epochs=4 --output runs/first",
    interrupted=_resumes,
)
def train(
    recipe: RecipeArgument,
    set_: SetOption = None,
    output: OutputOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the output; start it if there is none.")
    ] = False,
    dry_run: DryRunOption = False,
    flops: FlopsOption = None,
    tokens_per_document: TokensOption = None,
    processes: ProcessesOption = 1,
    model_config: ConfigOption = None,
) -> None:
    """Train once, recording every token after every epoch."""
    from dynamics.recipe.loading import as_run, load_recipe
    from dynamics.reporting import Reporter

    loaded = as_run(load_recipe(recipe, set_ or ()), recipe)
    if _was_dry(loaded, dry_run, flops, tokens_per_document, processes, model_config):
        return
    folder = output or Path("runs") / loaded.name
    require_folder(folder)
    _need_training()
    from dynamics.training.environment.processes import leave_process_group
    from dynamics.training.recipe_run import train as train_run

    # Of the processes that a launcher started, the first speaks.
    first = os.environ.get("RANK", "0") == "0"
    reporter = Reporter() if first else Reporter.silent()
    train_run(loaded, folder, resume=resume, reporter=reporter)
    leave_process_group()
    if first:
        print_summary(opened_from([folder]), reporter)
        suggest(("dynamics", "figures", folder), ("dynamics", "explore", folder))


@command(example="dynamics study quickstart --output runs/quickstart", interrupted=_goes_on)
def study(
    recipe: RecipeArgument,
    set_: SetOption = None,
    output: OutputOption = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    list_: Annotated[bool, typer.Option("--list", help="Print one command per run, and run nothing.")] = False,
    index: Annotated[int | None, typer.Option(help="Run only this one of --list, counted from 0.")] = None,
    dry_run: DryRunOption = False,
    flops: FlopsOption = None,
    tokens_per_document: TokensOption = None,
    processes: ProcessesOption = 1,
    model_config: ConfigOption = None,
) -> None:
    """Run arms by seeds, then draw the figures.

    Run again, it goes on where it stopped. --list and --index spread a study over machines. If the recipe has tune:,
    trials come first, in the list too.
    """
    from dynamics.recipe.loading import as_study, load_recipe
    from dynamics.reporting import Reporter

    if list_ and index is not None:
        raise InputError("--list runs nothing and --index runs one of the list; give one of them")
    loaded = as_study(load_recipe(recipe, set_ or ()), recipe)
    if _was_dry(loaded, dry_run, flops, tokens_per_document, processes, model_config):
        return
    from dynamics.study import StudyFailure, check_arguments, list_runs, n_jobs, require_own_study, run_index, run_study

    folder = output or Path("runs") / loaded.name
    require_folder(folder)
    require_own_study(loaded, folder)
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
        fail(f"Error: {error}", 1)
    opened = opened_from([folder])
    files = drawn(opened, folder / "figures", reporter)
    print_summary(opened, reporter)
    for file in files:
        if file.suffix == ".png":
            reporter.line(f"figure: {file}")
    suggest(("dynamics", "figures", folder, "--venue", "icml2024"), ("dynamics", "explore", folder))


@command(example="dynamics reference recipe.yaml --set model.name=micro")
def reference(recipe: RecipeArgument, set_: SetOption = None) -> None:
    """Measure every token under the starting model.

    The result is kept in the cache, under the hashes of model and data.
    """
    from dynamics.recipe.loading import load_recipe
    from dynamics.recipe.studies import StudyRecipe
    from dynamics.reporting import Reporter

    loaded = load_recipe(recipe, set_ or ())
    _need_training()
    from dynamics.training.pretraining import reference as reference_pass

    reporter = Reporter()
    found = reference_pass(loaded, reporter)
    reporter.line(f"{found.pop('path')}{' (found in the cache)' if found.pop('cached') else ''}")
    for split, values in found.items():
        reporter.line(
            f"{split}: {values['n_tokens']:,} predicted tokens, mean loss {values['loss']:.3f} nats, "
            f"mean entropy {values['entropy']:.3f} nats"
        )
    options = [part for one in set_ or () for part in ("--set", one)]
    suggest(("dynamics", "study" if isinstance(loaded, StudyRecipe) else "train", recipe, *options))


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


def _was_dry(
    recipe: Recipe, dry: bool, flops: float | None, tokens: float | None, processes: int, config: Path | None
) -> bool:
    """Do the dry run, if one was asked for; refuse what is only read by one."""
    asked = {"flops": flops, "tokens-per-document": tokens, "model-config": config}
    given = [name for name, value in asked.items() if value is not None] + ["processes"] * (processes > 1)
    if not dry:
        if given:
            raise InputError(f"--{given[0]} is only read with --dry-run; add it, or leave --{given[0]} out")
        return False
    _need_training()
    from dynamics.reporting import Reporter
    from dynamics.training.dry_run import Assumptions, dry_run

    assumed = Assumptions(tokens_per_document=tokens, flops=flops, processes=processes, model_config=config)
    dry_run(recipe, assumed, Reporter())
    return True
