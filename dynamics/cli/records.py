"""The commands that read records: they need no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dynamics.cli.command import command, suggest
from dynamics.cli.places import OR_EXAMPLE, beside, other_runs, place_of, telling_runs
from dynamics.cli.results import drawn, opened_from
from dynamics.errors import InputError, require_folder


@command(example="dynamics check runs/quickstart")
def check(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help=f"Runs, studies or summaries. {OR_EXAMPLE}")],
) -> None:
    """Verify records against their manifests.

    It reads every byte of every file. Exit code 1 means that something is damaged.
    """
    from dynamics.records.epochs import numbers
    from dynamics.records.summaries.check import check_any

    damaged = False
    for path in runs:
        place = place_of(path)
        for report in check_any(place):
            state = "ok" if report.ok else "DAMAGED"
            shown = path / report.path.relative_to(place)
            print(f"{shown}: {state} ({report.n_files} files, {report.n_bytes:,} bytes)")
            for problem in report.problems:
                print(f"  {problem}")
            if not report.ok:
                print(f"  epochs still good: {numbers(report.good_epochs)}")
            for note in report.notes:
                print(f"  note: {note}")
            damaged |= not report.ok
    if damaged:
        raise typer.Exit(1)


@command(example="dynamics figures runs/quickstart --only degradation --venue icml2024 --format pdf")
def figures(
    paths: Annotated[
        list[Path], typer.Argument(metavar="STUDY_OR_RUN...", help=f"Studies, runs or summaries. {OR_EXAMPLE}")
    ],
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this figure or table; may be repeated."),
    ] = None,
    venue: Annotated[str | None, typer.Option(help="Sizes and fonts of a conference, such as icml2024.")] = None,
    format_: Annotated[str, typer.Option("--format", help="File formats, separated by commas.")] = "pdf,svg,png",
    output: Annotated[
        Path | None, typer.Option(help="Folder (default: figures/ in the first; example-figures/ for the example).")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(metavar="gsm8k|REGEX", help="Add the accuracy on a task's results to degradation and table."),
    ] = None,
) -> None:
    """Draw the figures of studies or runs.

    Each figure comes with the numbers that it draws, as CSV. The table of arms comes as LaTeX, Markdown and CSV.
    """
    from dynamics.records.summaries.reading import Summary
    from dynamics.reporting import Reporter

    formats = [part.strip() for part in format_.split(",") if part.strip()]
    if not formats:
        raise InputError(f"--format: {format_!r} names no format; give some of pdf, svg and png")
    reporter = Reporter()
    folder = output or beside(paths[0], "figures")
    options = {"only": only, "venue": venue, "formats": formats, "task": task}
    opened = opened_from(paths)
    for file in drawn(opened, folder, reporter, **options):
        reporter.line(str(file))
    if not isinstance(opened[0], Summary):
        suggest(("dynamics", "explore", paths[0]))


@command(example="dynamics summarize runs/mathematics --output studies/mathematics --group gsm8k")
def summarize(
    path: Annotated[Path, typer.Argument(metavar="STUDY", help=f"A study. {OR_EXAMPLE}")],
    output: Annotated[Path, typer.Option(help="Folder of the summary: a new one, or one to add to.")],
    group: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=REGEX", help="Keep sums of the tokens that match, or of a task's; may be repeated."),
    ] = None,
) -> None:
    """Keep a study's sums by document, without its text.

    A summary is small enough to be committed. Figures, tables and comparisons are made from it as from the study. Run
    again, this command adds the runs that were finished since.
    """
    from dynamics.analysis.sums.summarising import summarize_study
    from dynamics.analysis.tokens.told_groups import named_group
    from dynamics.records.reader import open_study
    from dynamics.reporting import Reporter

    groups = [named_group(text) for text in group] if group else None
    summarized = summarize_study(open_study(place_of(path)), output, groups=groups)
    for line in summarized.lines():
        Reporter().line(line)
    if summarized.added or summarized.held:
        suggest(("dynamics", "figures", output), ("dynamics", "check", output))


@command(example="dynamics export runs/quickstart/runs/baseline/seed-0 --format parquet --output tokens.parquet")
def export(
    path: Annotated[Path, typer.Argument(metavar="RUN", help=f"A run. {OR_EXAMPLE}")],
    format_: Annotated[str, typer.Option("--format", metavar="parquet|zarr", help="The format to write.")],
    output: Annotated[Path, typer.Option(help="A new file (parquet) or a new folder (zarr).")],
) -> None:
    """Write a run's records for other tools.

    Parquet has one row per token and epoch, for polars and duckdb. zarr has labelled arrays.
    """
    from dynamics.records.exporting.run_export import check_export, export_run
    from dynamics.records.reader import Run, open_any
    from dynamics.reporting import Reporter

    opened = open_any(place_of(path))
    if not isinstance(opened, Run):
        begun = next((str(path / run.path.relative_to(opened.path)) for run in opened.runs.values()), None)
        raise InputError(f"{path} is a study; export one of its runs{f', such as {begun}' if begun else ''}")
    check_export(opened, output, format=format_)
    require_folder(output.absolute().parent)
    reporter = Reporter()
    total = len(opened.epochs) * len(opened.splits)
    with reporter.progress(total, f"exporting {len(opened.epochs)} epochs of {path}") as bar:
        export_run(opened, output, format=format_, on_epoch=lambda: bar.update(1))
    reporter.line(str(output))
    file = json.dumps(str(output), ensure_ascii=False)  # double quotes: the shell's are single ones
    read = f"pyarrow.parquet; print(pyarrow.parquet.read_schema({file}))"
    if format_ == "zarr":
        read = f'xarray; print(xarray.open_datatree({file}, engine="zarr", consolidated=False))'
    suggest(("python", "-c", f"import {read}"))


@command(example="dynamics explore runs/quickstart --output page.html")
def explore(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="STUDY|RUN [RUN]", help=f"A study, a run, or two runs to compare. {OR_EXAMPLE}"),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            help="The page, an HTML file (default: explorer.html in the first; example-explorer.html for the example)."
        ),
    ] = None,
    budget: Annotated[float, typer.Option(min=0.1, metavar="MB", help="Largest size of the page.")] = 20.0,
    buckets: Annotated[int, typer.Option(min=2, max=100, help="Buckets by reference entropy.")] = 2,
) -> None:
    """Make a page of the text, token by token, epoch by epoch.

    The page is one file that needs no network: open it in a browser, or send it. For a study it shows two runs with the
    lowest seed: the baseline's, and that of the arm with EntroDrop or, without one, of the next arm.
    """
    from dynamics.explorer.build import build_page
    from dynamics.explorer.saving import check_place
    from dynamics.records.reader import Run, open_any
    from dynamics.reporting import Reporter

    reporter, places = Reporter(), [place_of(path) for path in paths]
    page_file = output or beside(paths[0], "explorer.html")
    check_place(page_file)
    opened = [open_any(place) for place in places]
    runs = [one for one in opened if isinstance(one, Run)]
    for path, one in zip(paths, opened, strict=True):
        if isinstance(one, Run):
            continue
        chosen = telling_runs(one)
        if len(paths) > 1:
            such = path / chosen[0].path.relative_to(one.path)
            raise InputError(f"{path} is a study; give it alone, or name one of its runs, such as {such}")
        runs = list(chosen)
        reporter.line(other_runs(one, path, runs))
    require_folder(page_file.absolute().parent)
    page = build_page(runs, budget=budget * 1e6, buckets=buckets)
    page.save(page_file)
    for note in page.notes:
        reporter.line(note)
    reporter.line(f"{page_file}: {len(page.html) / 1e6:.1f} MB")
    suggest(("python", "-m", "webbrowser", page_file.absolute().as_uri()))
