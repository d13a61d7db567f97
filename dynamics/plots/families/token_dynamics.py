"""The token-dynamics figure: training and validation loss of low- and high-entropy tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dynamics.analysis.estimands.bucket_dynamics import BucketDynamics, bucket_dynamics
from dynamics.analysis.intervals.interval import Interval
from dynamics.analysis.sums.arms import Source
from dynamics.analysis.tokens.buckets import Buckets
from dynamics.plots.drawing.labels import (
    EndLabel,
    band_note,
    epoch_axis,
    epoch_columns,
    focus,
    label_line_ends,
    wrap_name,
)
from dynamics.plots.drawing.legends import legend_over_title
from dynamics.plots.drawing.lines import END_SIZE, draw_divergence
from dynamics.plots.drawing.notes import note_over, notes_of
from dynamics.plots.drawing.panels import given, in_panels, is_first, is_last, legend_over, panel_axes
from dynamics.plots.drawing.plot import Plot
from dynamics.plots.drawing.style import INK, Style, bucket_colors

Dynamics = Source | Iterable[Source] | BucketDynamics | Sequence[BucketDynamics]

_TRAIN = (0, (3.5, 1.6))
_MARKERS = "osD^vP*X<>"


def token_dynamics(
    data: Dynamics,
    *,
    ax: Axes | None = None,
    axes: Sequence[Axes] | None = None,
    buckets: Buckets | int = 2,
) -> Plot:
    """Draw the loss of each entropy bucket over epochs, one panel an arm.

    Training is dashed and validation solid, with 95 % bands, over seeds and documents where an arm has two seeds or
    more; colours and markers tell the buckets. All panels have the same limits.

    Parameters
    ----------
    data : Study, Run, iterable of them, BucketDynamics, or a sequence of these
    ax : Axes, optional
        Where to draw a single arm.
    axes : sequence of Axes, optional
        Where to draw several arms, one each; a new figure of the page's width otherwise.
    buckets : Buckets or int
        For records: 2 for the low and high half by the reference entropy of the training tokens.

    Returns
    -------
    Plot
        One panel per arm.

    Raises
    ------
    InputError
        If the number of axes is not that of the arms.
    """
    dynamics = as_dynamics(data, buckets=buckets)
    return in_panels(lambda found: _draw(dynamics, found), len(dynamics), ax, axes, "arms")


def as_dynamics(data: Dynamics, *, buckets: Buckets | int = 2) -> list[BucketDynamics]:
    """Return the numbers of the token-dynamics figure."""
    items, ready = given(data, BucketDynamics)
    return items if ready else bucket_dynamics(items, buckets=buckets)


def token_dynamics_axes(style: Style, n_arms: int) -> tuple[Figure, list[Axes]]:
    """Return a new figure and its panels: rows of up to four, fewer where the page is narrow."""
    return panel_axes(style, n_arms)


def token_dynamics_rows(dynamics: Sequence[BucketDynamics]) -> list[dict[str, Any]]:
    """Return the drawn numbers, one row an arm, split, bucket and epoch."""
    rows = []
    at = epoch_columns(dynamics)
    for arm in dynamics:
        for split, interval in (("train", arm.train), ("validation", arm.validation)):
            for k, label in enumerate(arm.labels):
                for e in range(len(arm.epochs)):
                    rows.append(
                        {
                            "arm": arm.arm,
                            "seeds": arm.n_seeds,
                            "split": split,
                            "bucket": label,
                            **at(arm, e),
                            "loss": interval.estimate[e, k],
                            "low": interval.low[e, k],
                            "high": interval.high[e, k],
                            "over": arm.over,
                        }
                    )
    return rows


def _draw(dynamics: Sequence[BucketDynamics], axes: Sequence[Axes]) -> list[Axes]:
    labels = dynamics[0].labels
    colors = bucket_colors(len(labels))
    for ax, arm in zip(axes, dynamics, strict=True):
        for k, color in enumerate(colors):
            _line(ax, arm.at, arm.train, k, color, train=True)
            _line(ax, arm.at, arm.validation, k, color, train=False)
        finite = np.isfinite(arm.validation.estimate)
        # A bucket without tokens has no value at any epoch, and others have.
        diverged = not (finite.all(axis=0) | ~finite.any(axis=0)).all() or not finite.any()
        ax.set_title(wrap_name(arm.arm, 24) + ("\n(diverged)" if diverged else ""))
        epoch_axis(ax, arm.at[-1], label=is_last(ax, axes))
        if is_first(ax, axes):
            ax.set_ylabel("Loss (nats per token)")
    # The limits of all arms together: panels are there to be compared.
    drawn = [
        (arm.at, np.concatenate([split.estimate, split.low, split.high], axis=1))
        for arm in dynamics
        for split in (arm.train, arm.validation)
    ]
    for ax in axes:
        focus(ax, drawn)
    notes = ["marker: best epoch on validation", f"band: {band_note([arm.over for arm in dynamics])}"]
    if _label_ends(axes, dynamics, colors):
        note_over(axes, notes)
    else:
        _legend(axes, labels, colors, notes)
    return list(axes)


def _line(ax: Axes, epochs: np.ndarray, values: Interval, k: int, color: Any, *, train: bool) -> None:
    low, high, estimate = values.low[:, k], values.high[:, k], values.estimate[:, k]
    if np.isfinite(low).any():
        ax.fill_between(epochs, low, high, color=color, alpha=0.10 if train else 0.18, linewidth=0)
    alone = len(epochs) == 1
    # A curve that is not finite everywhere has no best epoch: it diverged.
    marked = [int(np.argmin(estimate))] if not train and np.isfinite(estimate).all() else []
    ax.plot(
        epochs,
        np.where(np.isfinite(estimate), estimate, np.nan),
        color=color,
        linestyle=_TRAIN if train else "solid",
        linewidth=1.0 if train else 1.4,
        marker=_MARKERS[k % len(_MARKERS)],
        markevery=[0] if alone else marked,
        markersize=4.2,
        markerfacecolor="white" if train else color,
        markeredgecolor=color if train else "white",
        markeredgewidth=0.8 if train else 0.5,
        zorder=2 if train else 3,
    )
    if not train and not np.isfinite(estimate).all():
        draw_divergence(ax, epochs, estimate, color)
    if alone:
        ax.errorbar(epochs, estimate, [estimate - low, high - estimate], color=color, linewidth=0.9)


def _label_ends(axes: Sequence[Axes], dynamics: Sequence[BucketDynamics], colors: Sequence[Any]) -> bool:
    """Write what each line is at its end, in the last panel of the first row; False where there is no room."""
    arm, ax = next(
        (arm, ax)
        for arm, ax in reversed(list(zip(dynamics, axes, strict=True)))
        if ax.get_subplotspec() is None or ax.get_subplotspec().is_first_row()  # type: ignore[union-attr]
    )
    if len(arm.labels) != 2:
        return False
    ends = [
        EndLabel(float(arm.at[-1]), float(values.estimate[-1, k]), f"{label}, {split}", color)
        for k, (label, color) in enumerate(zip(arm.labels, colors, strict=True))
        for split, values in (("validation", arm.validation), ("training", arm.train))
    ]
    return label_line_ends(ax, ends, fontsize=END_SIZE)


def _legend(axes: Sequence[Axes], labels: Sequence[str], colors: Sequence[Any], notes: Sequence[str]) -> None:
    handles = [
        Line2D([], [], color=INK, linewidth=1.4, label="validation"),
        Line2D([], [], color=INK, linewidth=1.0, linestyle=_TRAIN, label="training"),
    ]
    handles += [
        Line2D(
            [],
            [],
            color=color,
            linewidth=1.4,
            marker=_MARKERS[k % len(_MARKERS)],
            markersize=4.2,
            markeredgecolor="white",
            markeredgewidth=0.5,
            label=f"{label} entropy" if len(labels) == 2 else f"entropy bucket {label}",
        )
        for k, (label, color) in enumerate(zip(labels, colors, strict=True))
    ]
    if len(axes) > 1:
        legend_over(axes, handles, title=notes_of(axes, notes), handlelength=2.8)
    else:
        legend_over_title(axes[0], handles, title="\n".join(notes))
