"""Every figure and table by name, and saving them: PDF, SVG and PNG, with the drawn numbers as CSV."""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dynamics.analysis.sums.arms import Arm, collect_arms, has_sums_alone, shared_epochs
from dynamics.errors import InputError, nearest
from dynamics.plots.arm_tables.arm_table import arm_table, table_rows
from dynamics.plots.arm_tables.text import latex_table, markdown_table
from dynamics.plots.drawing.panels import panel_axes
from dynamics.plots.drawing.plot import FORMATS, rendered
from dynamics.plots.drawing.style import Style, load_style
from dynamics.plots.families.calibration import (
    as_calibrations,
    as_overconfidences,
    calibration,
    calibration_rows,
    overconfidence,
    overconfidence_rows,
)
from dynamics.plots.families.comparisons import (
    as_comparisons,
    comparison_rows,
    comparisons_axes,
    draw_comparisons,
)
from dynamics.plots.families.curriculum import (
    as_curricula,
    as_summaries,
    curriculum_axes,
    curriculum_rows,
    draw_curriculum,
    outcome_names,
    schedules,
)
from dynamics.plots.families.degradation import (
    TaskCurves,
    as_curves,
    as_task_curves,
    degradation_axes,
    degradation_rows,
    draw_degradation,
)
from dynamics.plots.families.distributions import as_distributions, distribution_rows, entropy_distribution
from dynamics.plots.families.gap import as_gaps, gap, gap_rows
from dynamics.plots.families.heat_map import (
    as_maps,
    bucket_map,
    bucket_map_rows,
    rebound_map,
)
from dynamics.plots.families.minus_baseline import as_differences
from dynamics.plots.families.rebound import as_rises, rebound, rebound_rows, shown
from dynamics.plots.families.token_dynamics import (
    as_dynamics,
    token_dynamics,
    token_dynamics_axes,
    token_dynamics_rows,
)
from dynamics.plots.families.trajectories import (
    as_cartography,
    as_class_shares,
    cartography,
    cartography_rows,
    draw_trajectory_classes,
    trajectory_class_rows,
)
from dynamics.records.reader import Run, Study
from dynamics.records.schema import atomic_write_bytes

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class FigureBuilder:
    """One figure.

    Attributes
    ----------
    build : callable
        Takes the arms and the style (``degradation`` a task too), gives the figure and the drawn numbers. Called in
        the style's context.
    missing : callable
        Takes the arms, gives what they lack for this figure, or None.
    tokens : bool
        Whether it needs tokens, so that it cannot be made of summaries, which keep sums by document.
    """

    build: Callable[..., tuple[Figure, Rows]]
    missing: Callable[[list[Arm]], str | None] = lambda arms: None
    tokens: bool = False

    def lacking(self, arms: list[Arm]) -> str | None:
        """Return why the figure cannot be made of these arms, or None."""
        without = [arm.name for arm in arms if self.tokens and has_sums_alone(arm)]
        if without:
            return f"it needs tokens, and of arm {without[0]!r} a summary keeps sums by document"
        return self.missing(arms)


def _degradation(arms: list[Arm], style: Style, task: str | None = None) -> tuple[Figure, Rows]:
    curves, differences, of_task = as_curves(arms), as_differences(arms), None
    if task is not None:
        of_task = TaskCurves(task, as_task_curves(arms, task=task), as_differences(arms, task=task))
    figure, axes = degradation_axes(style, 2 if differences else 1, 1 if of_task is None else 2)
    draw_degradation(curves, differences, axes, task=of_task)
    return figure, degradation_rows(curves, differences, of_task)


def _rebound(arms: list[Arm], style: Style) -> tuple[Figure, Rows]:
    curves = as_rises(arms)
    figure, axes = panel_axes(style, len(curves[0].labels), panel=2.0)
    rebound(curves, axes=axes)
    return figure, rebound_rows(shown(curves))


def _comparisons(arms: list[Arm], style: Style) -> tuple[Figure, Rows]:
    found = as_comparisons(arms)
    figure, ax = comparisons_axes(style, found)
    draw_comparisons(found, ax)
    return figure, comparison_rows(found)


def _token_dynamics(arms: list[Arm], style: Style) -> tuple[Figure, Rows]:
    dynamics = as_dynamics(arms)
    figure, axes = token_dynamics_axes(style, len(dynamics))
    token_dynamics(dynamics, axes=axes)
    return figure, token_dynamics_rows(dynamics)


def _curriculum(arms: list[Arm], style: Style) -> tuple[Figure, Rows]:
    curricula, summaries = as_curricula(arms), as_summaries(arms)
    figure, axes = curriculum_axes(style, outcome_names(summaries), len(schedules(curricula)))
    draw_curriculum(curricula, summaries, axes)
    return figure, curriculum_rows(curricula, summaries)


def _in_panels(
    style: Style,
    found: list[Any],
    plot: Callable[..., Any],
    rows: Callable[[list[Any]], Rows],
    *,
    n_panels: int | None = None,
    **options: Any,
) -> tuple[Figure, Rows]:
    """Draw one panel an arm, or as many as asked for."""
    figure, axes = panel_axes(style, n_panels or len(found))
    plot(found, axes=axes, **options)
    return figure, rows(found)


def _gap(arms: list[Arm], style: Style) -> tuple[Figure, Rows]:
    return _in_panels(style, as_gaps(arms, buckets=2), gap, gap_rows, n_panels=2)


def _bucket_map(arms: list[Arm], style: Style) -> tuple[Figure, Rows]:
    return _in_panels(style, as_maps(arms), bucket_map, bucket_map_rows)


def _rebound_map(arms: list[Arm], style: Style) -> tuple[Figure, Rows]:
    return _in_panels(style, as_maps(arms), rebound_map, bucket_map_rows)


def _calibration(arms: list[Arm], style: Style) -> tuple[Figure, Rows]:
    found = as_calibrations(arms)
    figure = style.figure(column="half", height=2.3)
    calibration(found, ax=figure.add_subplot())
    return figure, calibration_rows(found)


def _overconfidence(arms: list[Arm], style: Style) -> tuple[Figure, Rows]:
    return _in_panels(style, as_overconfidences(arms, buckets=2), overconfidence, overconfidence_rows, n_panels=2)


def _trajectory_classes(arms: list[Arm], style: Style) -> tuple[Figure, Rows]:
    shares = as_class_shares(arms, buckets=2)
    return draw_trajectory_classes(shares, style), trajectory_class_rows(shares)


def _cartography(arms: list[Arm], style: Style) -> tuple[Figure, Rows]:
    return _in_panels(style, as_cartography(arms), cartography, cartography_rows)


def _entropy_distribution(arms: list[Arm], style: Style) -> tuple[Figure, Rows]:
    return _in_panels(style, as_distributions(arms), entropy_distribution, distribution_rows)


def _no_schedule(arms: list[Arm]) -> str | None:
    return None if as_curricula(arms) else "no arm drops tokens on a schedule"


def _no_train(arms: list[Arm]) -> str | None:
    return None if "train" in arms[0].runs[0].splits else "the training tokens were not recorded"


def _one_epoch(arms: list[Arm]) -> str | None:
    """Tell what is missing to what shows a surface over epochs."""
    return next((f"arm {arm.name!r} has one epoch alone" for arm in arms if len(arm.epochs) < 2), _no_train(arms))


def _not_followed(arms: list[Arm]) -> str | None:
    """Tell what is missing to what follows tokens over the epochs that all arms have."""
    if len(shared_epochs(arms)) < 2:
        return _one_epoch(arms) or "the arms have fewer than two epochs in common, after the same passes over the data"
    return _no_train(arms)


def _nothing_to_compare(arms: list[Arm]) -> str | None:
    """Tell what is missing to what compares arms."""
    if len(arms) < 2:
        return f"arm {arms[0].name!r} is alone and has nothing to be compared with"
    return next((f"arm {arm.name!r} has one epoch alone" for arm in arms if len(arm.epochs) < 2), None)


FIGURES: dict[str, FigureBuilder] = {
    "degradation": FigureBuilder(_degradation),
    "rebound": FigureBuilder(_rebound, _one_epoch),
    "comparisons": FigureBuilder(_comparisons, _nothing_to_compare),
    "token_dynamics": FigureBuilder(_token_dynamics, _no_train),
    "curriculum": FigureBuilder(_curriculum, _no_schedule),
    "gap": FigureBuilder(_gap, _no_train),
    "bucket_map": FigureBuilder(_bucket_map, _one_epoch),
    "rebound_map": FigureBuilder(_rebound_map, _one_epoch),
    "calibration": FigureBuilder(_calibration, tokens=True),
    "overconfidence": FigureBuilder(_overconfidence, _no_train),
    "trajectory_classes": FigureBuilder(_trajectory_classes, _not_followed, tokens=True),
    "cartography": FigureBuilder(_cartography, _not_followed, tokens=True),
    "entropy_distribution": FigureBuilder(_entropy_distribution, _no_train, tokens=True),
}


#: Figures of older versions, and what shows more.
RETIRED = {
    "loss_landscape": "its levels hid what changes; bucket_map shows the change since epoch 0, rebound_map that since "
    "the best epoch"
}


def _arm_table(arms: list[Arm], task: str | None = None) -> dict[str, bytes]:
    table = arm_table(arms, task=task)
    return {
        "tex": latex_table(table).encode("utf-8"),
        "md": markdown_table(table).encode("utf-8"),
        "csv": _table(table_rows(table)),
    }


#: Tables take the arms and a task, if any, and give their files by ending: always LaTeX, Markdown and CSV.
TABLES: dict[str, Callable[[list[Arm], str | None], dict[str, bytes]]] = {"table": _arm_table}


def save_figures(
    opened: Sequence[Study | Run],
    *,
    output: Path,
    only: str | Sequence[str] | None = None,
    venue: str | None = None,
    formats: str | Sequence[str] = FORMATS,
    task: str | None = None,
    on_skip: Callable[[str], None] | None = None,
) -> list[Path]:
    """Make the figures and tables of a study, its summary or a run, or of several side by side.

    Everything is checked and drawn before the first file is written, and each file is written whole
    or not at all. The same records give the same bytes.

    Parameters
    ----------
    opened : sequence of Study or Run
        Several are drawn as the arms of one figure; they must share their tokens.
    output : Path
        Folder of the figures, made if it is not there.
    only : str or sequence of str, optional
        Names of figures and tables; default: all for which the records hold what they need.
    venue : str, optional
        Sizes and fonts of a conference, such as ``icml2024``.
    formats : str or sequence of str
        Of ``pdf``, ``svg`` and ``png``, for figures.
    task : str, optional
        Draw the accuracy on the tokens that carry a task's results below the loss in ``degradation``: ``gsm8k``, or a
        regular expression of these tokens (`dynamics.analysis.tokens.matches.task_tokens`). ``table`` has it too.
    on_skip : callable, optional
        Told of every figure that is left out, and why. Default: a UserWarning.

    Returns
    -------
    list of Path
        NAME.pdf, NAME.svg, NAME.png and NAME.csv (the drawn numbers) of each figure; NAME.tex, NAME.md and NAME.csv
        of each table.

    Raises
    ------
    InputError
        For an unknown figure, venue or format; for a task without what shows it, or whose results occur nowhere; if a
        figure of `only` cannot be made from these records; if no epoch is complete, or tokens differ.
    """
    names = _known(only, [*FIGURES, *TABLES], "figure")
    kinds = _known(formats, FORMATS, "format")
    if task is not None and not {"degradation", "table"}.intersection(names):
        raise InputError(f"the task {task!r} is shown in degradation and table alone; name one of them too")
    style = load_style(venue)
    arms = collect_arms(opened)
    wanted = []
    for name in names:
        reason = FIGURES[name].lacking(arms) if name in FIGURES else None
        if reason is None:
            wanted.append(name)
        elif only is not None:
            raise InputError(f"figure {name!r} cannot be made: {reason}; leave it out of --only")
        else:
            _skip(f"figure {name!r} is left out: {reason}", on_skip)
    files: dict[Path, bytes] = {}
    output = Path(output)
    with style.context():
        for name in wanted:
            if name in TABLES:
                files |= {output / f"{name}.{kind}": content for kind, content in TABLES[name](arms, task).items()}
                continue
            options = {"task": task} if name == "degradation" else {}
            figure, rows = FIGURES[name].build(arms, style, **options)
            for kind in kinds:
                files[output / f"{name}.{kind}"] = rendered(figure, kind)
            files[output / f"{name}.csv"] = _table(rows)
    output.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        atomic_write_bytes(path, content)
    return list(files)


def _known(names: str | Sequence[str] | None, there_are: Sequence[str] | dict[str, Any], what: str) -> list[str]:
    if names is None:
        return list(there_are)
    names = [names] if isinstance(names, str) else names
    if not names:
        raise InputError(f"no {what} asked for; there are {', '.join(there_are)}")
    for name in names:
        if name in RETIRED and name not in there_are:
            raise InputError(f"there is no {what} {name!r} any more: {RETIRED[name]}")
        if name not in there_are:
            raise InputError(f"unknown {what} {name!r}{nearest(name, there_are)}; there are {', '.join(there_are)}")
    return list(dict.fromkeys(names))


def _skip(message: str, on_skip: Callable[[str], None] | None) -> None:
    if on_skip is not None:
        on_skip(message)
    else:
        warnings.warn(message, UserWarning, stacklevel=3)


def _table(rows: Rows) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _cell(value) for key, value in row.items()})
    return buffer.getvalue().encode("utf-8")


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        # Ten digits: the last bits of a sum may depend on the number of threads. An unknown value
        # is empty.
        return "" if math.isnan(value) else format(value, ".10g")
    return value
