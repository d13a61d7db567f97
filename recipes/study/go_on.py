"""Go on with a study from its committed summary: train the runs that it lacks, and add each when it is done.

    python -m recipes.study.go_on recipes/study/mathematics.yaml \\
        --summaries studies/mathematics --output runs/mathematics

Runs come seed by seed, all arms of one before the next, so that whenever it is stopped every arm has as many seeds as
another, or one fewer. It can be stopped at any moment and begun again, on another machine too: what the summary holds
is not trained again, trials neither. Nothing is removed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dynamics.analysis.sums.summarising import require_same_study, summarize_study
from dynamics.analysis.tokens.told_groups import named_group
from dynamics.errors import DamagedRecordError, InputError, TrainingDiverged
from dynamics.recipe.loading import as_study, load_recipe, resolved
from dynamics.recipe.studies import StudyRecipe
from dynamics.records import schema
from dynamics.records.reader import open_study
from dynamics.records.summaries.files import is_summary
from dynamics.records.summaries.reading import open_summary
from dynamics.reporting import Reporter
from dynamics.study import StudyFailure, check_arguments, run_some, run_trials, write_plan


def missing_runs(recipe: StudyRecipe, summaries: Path) -> list[tuple[str, int]]:
    """Return the runs (arm, seed) of a recipe that a summary does not hold, seed by seed.

    Raises
    ------
    InputError
        If the summary holds runs of an arm of that name that were trained by other settings.
    """
    held: list[tuple[str, int]] = []
    if is_summary(summaries):
        summary = open_summary(summaries)
        held = summary.held
        tuned = bool(summary.tuning)
        for arm, _, run in recipe.plan():
            # What trials chose is in the settings of the runs, not in the recipe.
            if not tuned:
                require_same_study(summary, arm, resolved(run), f"arm {arm!r} of the recipe")
    wanted = [(arm, seed) for seed in recipe.seeds for arm in recipe.arms]
    return [key for key in wanted if key not in held]


def go_on(
    recipe: StudyRecipe,
    output: Path,
    summaries: Path,
    *,
    groups: Sequence[str] | None = None,
    jobs: int = 1,
    minutes: float | None = None,
    reporter: Reporter,
    clock: Callable[[], float] = time.monotonic,
) -> list[tuple[str, int]]:
    """Train the runs that a summary lacks, and add each; returns those that it lacks still.

    Parameters
    ----------
    recipe : StudyRecipe
    output : Path
        Where the records of the runs go, those of this machine alone.
    summaries : Path
        The summary, which is begun if it is not there.
    groups : sequence of str, optional
        As ``dynamics summarize --group``, where it is begun.
    jobs : int
        Runs at a time.
    minutes : float, optional
        After these no further run begins; what has begun is finished.
    clock : callable
        Seconds.
    """
    end = None if minutes is None else clock() + 60.0 * minutes
    named = None if groups is None else [named_group(text) for text in groups]
    wanted = missing_runs(recipe, summaries)
    if not wanted:
        reporter.line(f"{summaries} holds all runs of the study")
        return []
    write_plan(recipe, output)
    kept, choice = summaries / schema.TUNING_FILE, output / schema.TUNING_FILE
    if kept.exists() and not choice.exists():
        schema.atomic_write_bytes(choice, kept.read_bytes())
    run_trials(recipe, output, jobs=jobs, reporter=reporter)
    write_plan(recipe, output)  # Of the runs, now that their settings are chosen.
    while wanted and (end is None or clock() < end):
        batch, wanted = wanted[:jobs], wanted[jobs:]
        try:
            run_some(recipe, output, batch, jobs=jobs, reporter=reporter)
        except (TrainingDiverged, StudyFailure) as error:
            reporter.line(str(error))
        done = summarize_study(open_study(output), summaries, groups=named)
        for arm, seed in done.added:
            reporter.line(f"{summaries}: {arm} seed {seed} added")
    return missing_runs(recipe, summaries)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 1 where runs are missing still."""
    about, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m recipes.study.go_on",
        description=about,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", help="of the study")
    parser.add_argument("--summaries", type=Path, required=True, help="folder of the summary, studies/NAME")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs that are trained here")
    parser.add_argument("--set", action="append", default=[], metavar="K=V", help="override a key of the recipe")
    parser.add_argument("--group", action="append", metavar="NAME=REGEX", help="as of dynamics summarize")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--minutes", type=float, help="after these no further run begins")
    given = parser.parse_args(arguments)
    reporter = Reporter()
    try:
        if given.jobs < 1:
            raise InputError(f"--jobs: {given.jobs} runs at a time are none; give 1 or more")
        recipe = as_study(load_recipe(given.recipe, given.set), given.recipe)
        check_arguments(recipe)
        missing = go_on(
            recipe,
            given.output,
            given.summaries,
            groups=given.group,
            jobs=given.jobs,
            minutes=given.minutes,
            reporter=reporter,
        )
    except (InputError, DamagedRecordError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        print("Interrupted. What is complete is kept; the same command goes on where it stopped", file=sys.stderr)
        return 130
    if missing:
        reporter.line(f"not run yet: {', '.join(f'{arm} seed {seed}' for arm, seed in missing)}")
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
