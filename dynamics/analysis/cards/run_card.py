"""A run's card: what was trained on what, how far it came, and its validation loss by epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from dynamics.analysis.sums.curves import best_epoch, mean_curve
from dynamics.analysis.sums.document_sums import document_sums
from dynamics.analysis.tokens.token_records import Floats, kept_sums_of
from dynamics.display.described import first_line
from dynamics.display.numbers import DIVERGED, decimals, whole
from dynamics.display.sparkline import Sparkline
from dynamics.display.tables import Card, Cell
from dynamics.records.reader import Run

#: So many values are read in about a second, and no more for a picture.
MOST_VALUES = 10_000_000


def run_card(run: Run) -> Card:
    """Return the card of a run; what cannot be read is said in its line."""
    facts: list[tuple[str, Cell]] = [
        ("status", status(run)),
        *(_said("method", lambda: methods(run.config.get("regularizers")))),
        *(_said("model", lambda: _name(run.manifest.get("model")) or _name(run.config.get("model")))),
        *(_said("corpus", lambda: _name((run.config.get("corpus") or {}), "source"))),
        ("tokens", _tokens(run)),
        ("epochs", _epochs(run)),
    ]
    return Card(run._title(), [*facts, *_loss(run)])


def status(run: Run) -> str:
    """Return whether a run is finished, and how it ended."""
    gone = run.manifest.get("diverged")
    if gone:
        at = gone.get("step") if isinstance(gone, dict) else None
        return "diverged" + (f" at step {at}" if at is not None else "")
    if run.complete:
        return "complete"
    last = f"after epoch {run.epochs[-1]}" if run.epochs else "before its first epoch was recorded"
    return f"not finished: it is running, or was interrupted, {last}"


def methods(settings: Any) -> str:
    """Return the names of a recipe's methods with their ratios; "none" without one."""
    shown = []
    for each in settings or []:
        ratio = each.get("ratio")
        shown.append(str(each.get("name")) + (f" (ratio {ratio:g})" if isinstance(ratio, int | float) else ""))
    return ", ".join(shown) or "none"


def values_to_read(runs: Iterable[Run], split: str = "validation") -> int:
    """Return how many values of a split the records of runs hold, over all epochs; 0 for those that hold sums."""
    total = 0
    for run in runs:
        entry = (run.manifest.get("tokens") or {}).get(split) or {}
        shape = ((entry.get("tensors") or {}).get("token_id") or {}).get("shape") or [0, 0]
        total += int(entry.get("n_recorded") or 0) * int(shape[-1]) * len(run.epochs)
    return total


def _said(name: str, read: Any) -> list[tuple[str, Cell]]:
    """Return a fact, or why it cannot be read; nothing where there is none."""
    try:
        value = read()
    except Exception as error:  # noqa: BLE001 - one damaged file must not hide what the others say
        return [(name, f"cannot be read: {first_line(error)}")]
    return [(name, str(value))] if value else []


def _name(of: Any, key: str = "name") -> str | None:
    return str(of[key]) if isinstance(of, dict) and of.get(key) else None


def _tokens(run: Run) -> str:
    """Return the predicted tokens of each split."""
    held = run.manifest.get("tokens") or {}
    return ", ".join(
        f"{split} {whole(held[split]['n_predicted'])}" if held[split].get("n_predicted") is not None else split
        for split in run.splits
    )


def _epochs(run: Run) -> str:
    asked = (run.manifest.get("epochs_asked"), (run.config.get("training") or {}).get("num_train_epochs"))
    of = next((each for each in asked if isinstance(each, int | float)), None)
    if not run.epochs:
        return "none recorded" + (f" of {of:g}" if of is not None else "")
    cut = "".join(f"; epoch {epoch} was cut at {at:g} passes" for epoch, at in run.partial_epochs.items())
    return f"{run.epochs[0]} to {run.epochs[-1]}" + (f" of {of:g}" if of is not None else "") + cut


def _loss(run: Run) -> list[tuple[str, Cell]]:
    """Return the lines on the validation loss: numbers, and the curve."""
    if not run.epochs or "validation" not in run.splits:
        return [("validation loss", "not recorded")]
    try:
        epochs, curve = _curve(run)
    except Exception as error:  # noqa: BLE001 - a damaged epoch is said, and the rest of the card stays
        return [("validation loss", f"cannot be read: {first_line(error)}")]
    left_out = len(run.epochs) - len(epochs)
    facts: list[tuple[str, Cell]] = [("validation loss", _numbers(epochs, curve) + " (nats per token)")]
    if len(epochs) > 1:
        facts.append(("by epoch", Sparkline(curve.tolist())))
    if left_out:
        facts.append(("", f"of {len(run.epochs)} epochs this card reads {len(epochs)}, as the records are large"))
    return facts


def _curve(run: Run) -> tuple[list[int], Floats]:
    """Return epochs and the mean validation loss after each: all, or as many as are read in a second."""
    records = run.records("validation")
    epochs = run.epochs
    size = values_to_read([run]) // len(epochs)
    if kept_sums_of(records) is None and size * len(epochs) > MOST_VALUES:
        n = min(len(epochs), max(2, MOST_VALUES // size))
        epochs = [epochs[i] for i in np.linspace(0, len(epochs) - 1, n).round().astype(int)]
    return epochs, mean_curve(document_sums(records, epochs=epochs))[:, 0]


def _numbers(epochs: list[int], curve: Floats) -> str:
    """Return the first, best and final loss in words."""
    best = best_epoch(curve, epochs)
    final = decimals(float(curve[-1])) if math.isfinite(curve[-1]) else DIVERGED
    said = [f"final {final} at epoch {epochs[-1]}"]
    if best >= 0:
        said.insert(0, f"best {decimals(float(curve[epochs.index(best)]))} at epoch {best}")
        said.insert(0, f"first {decimals(float(curve[0]))} at epoch {epochs[0]}")
    return ", ".join(said)
