"""From runs to a page: choose passages within the budget, code them, and say what was left out."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynamics.analysis.intervals.over_documents import FEW_DOCUMENTS
from dynamics.analysis.tokens.buckets import Buckets, make_buckets
from dynamics.analysis.tokens.trajectories import CLASSES
from dynamics.errors import InputError
from dynamics.explorer.overview import curves_of, labels_of, looks_of, recipe_text
from dynamics.explorer.page import fill
from dynamics.explorer.passage_encoder import Candidates, PassageEncoder
from dynamics.explorer.passages import reading_order
from dynamics.explorer.payload import packed
from dynamics.explorer.quantise import Scale
from dynamics.explorer.saving import save_page
from dynamics.explorer.split_tokens import SplitTokens
from dynamics.records.reader import Run, common_epochs, require_same_tokens
from dynamics.records.schema import in_split_order

BUDGET = 20_000_000
# One byte holds an epoch's place.
_MOST_EPOCHS = 250
# Nats. Worse predictions are shown as this, and counted: one of them would cost all others their resolution.
_HIGHEST = 30.0
# A token and epoch takes more than this in the page, so that no more tokens need reading.
_LEAST_BYTES = 0.3


@dataclass(frozen=True, slots=True, repr=False)
class Page:
    """A page, and what is in it.

    Attributes
    ----------
    html : str
    embedded, total : dict of str to int
        Tokens by split: in the page, and recorded.
    notes : list of str
        What was chosen and how exact it is, as the page says it too.
    """

    html: str
    embedded: dict[str, int]
    total: dict[str, int]
    notes: list[str]

    def __repr__(self) -> str:
        return f"<explorer page: {len(self.html) / 1e6:.1f} MB, {sum(self.embedded.values()):,} tokens>"

    def _repr_html_(self) -> str:
        """Show the page in Jupyter: in a frame of its own, which runs its script and nothing else."""
        source = html.escape(self.html)
        return (
            '<iframe title="Token explorer" sandbox="allow-scripts" '
            f'style="width: 100%; height: 52rem; border: 0" srcdoc="{source}"></iframe>'
        )

    def save(self, path: str | Path) -> Path:
        """Write the page, whole or not at all, over nothing but an explorer page.

        Parameters
        ----------
        path : str or Path
            A new file, or an explorer page, which is replaced. Folders that are missing are made.

        Returns
        -------
        Path
            `path`.

        Raises
        ------
        InputError
            If something else is there, or the file cannot be written; OSError if the disk is full.
        """
        return save_page(path, self.html)


def build_page(runs: Run | Sequence[Run], *, budget: float = BUDGET, buckets: int = 2, seed: int = 0) -> Page:
    """Return the page that explores a run, or two side by side.

    Parameters
    ----------
    runs : Run or sequence of Run
        One or two, with the same tokens.
    budget : float
        Bytes that the page may have.
    buckets : int
        By reference entropy, with edges from the training set.
    seed : int
        Of the passages that are chosen at random.

    Raises
    ------
    InputError
        If the budget is no number or holds no passage, there are not one or two runs, their tokens differ, or fewer
        than two epochs are complete in all of them.
    """
    if not math.isfinite(budget):
        raise InputError(f"budget: {budget} is no number of bytes; give one such as {BUDGET}")
    runs = [runs] if isinstance(runs, Run) else list(runs)
    if not 1 <= len(runs) <= 2:
        raise InputError(f"a page shows one run or two; got {len(runs)}")
    require_same_tokens(runs)
    epochs, n_all_epochs = _epochs(runs)
    splits = _splits(runs, epochs)
    frozen = _buckets(splits, buckets)
    order = reading_order([split.rebounds() for split in splits], seed=seed)
    most = int(budget / (_LEAST_BYTES * len(epochs) * len(runs)))
    candidates = _candidates(splits, order, most)
    measured = {
        (s, r): split.measured(r, candidates[s].tokens) for s, split in enumerate(splits) for r in range(len(runs))
    }
    highest = max([found.highest for found in measured.values()] + [split.highest for split in splits])
    scale = Scale(max(min(highest, _HIGHEST), 1e-3))
    encoder = PassageEncoder(splits, candidates, measured, frozen, scale)

    meta: dict[str, Any] = {
        "runs": [
            {"name": name, "look": look, "recipe": recipe_text(run), **curves}
            for name, look, run, curves in zip(
                labels_of(runs), looks_of(runs), runs, curves_of(splits, frozen), strict=True
            )
        ],
        "epochs": epochs,
        "splits": [split.split for split in splits],
        "top": scale.top,
        "buckets": [] if frozen is None else list(frozen.labels),
        "edges": [] if frozen is None else frozen.edges.tolist(),
        "classes": list(CLASSES),
        "pools": [None if pool is None else pool.method for pool in splits[0].pools],
    }
    meta["colours"] = encoder.colours([run["best"] for run in meta["runs"]])
    room = budget - len(fill(json.dumps(meta), "")) - 4000  # of notes
    chunks, listed, full = _encoded(encoder, order, room)
    if not listed:
        raise InputError(f"a page of {budget:,.0f} bytes holds no passage of these runs; raise --budget")
    # In the order of the corpus, so that neighbours are neighbours.
    ranks = sorted(range(len(listed)), key=lambda i: (listed[i]["split"], listed[i]["document"], listed[i]["part"]))
    meta["passages"] = [listed[i] for i in ranks]
    embedded = {split.split: 0 for split in splits}
    for entry in listed:
        embedded[splits[entry["split"]].split] += entry["tokens"]
    total = {split.split: sum(len(passage.tokens) for passage in split.passages) for split in splits}
    meta["recorded"] = [len(split.passages) for split in splits]
    megabytes = f"{budget / 1e6:g} MB"
    limit = f"a page may have {megabytes}" if full else f"no more than {most:,} are read for a page of {megabytes}"
    meta["notes"] = [
        *_notes_on_choice(listed, splits, embedded, total, limit),
        *_notes_on_values(encoder.error, scale, highest),
        _note_on_classes(len(runs)),
        *_notes_on_runs(runs, splits, epochs, n_all_epochs),
    ]
    filled = fill(json.dumps(meta), "\n".join(line for i in ranks for line in chunks[i]))
    return Page(filled, embedded, total, meta["notes"])


def _epochs(runs: list[Run]) -> tuple[list[int], int]:
    common = common_epochs(runs)
    if len(common) < 2:
        places = " and ".join(str(run.path) for run in runs)
        raise InputError(f"{places}: a page needs two or more complete epochs, and there are {len(common)} in common")
    if len(common) <= _MOST_EPOCHS:
        return common, len(common)
    some = np.unique(np.linspace(0, len(common) - 1, _MOST_EPOCHS).round().astype(int))
    return [common[i] for i in some], len(common)


def _splits(runs: list[Run], epochs: list[int]) -> list[SplitTokens]:
    # What is set aside for tuning is never reported.
    both = set.intersection(*(set(run.splits) for run in runs)) - {"tuning"}
    names = sorted(in_split_order(both), key="train".__eq__)  # the training set last
    if not names:
        raise InputError(f"{runs[0].path} holds neither training nor validation tokens; record one of them")
    return [SplitTokens(runs, name, epochs) for name in names]


def _buckets(splits: list[SplitTokens], n: int) -> Buckets | None:
    train = splits[0].train[0]
    if train is None or np.isnan(train.reference_entropy[train.predicted]).all():
        return None
    return make_buckets(train, "reference_entropy", n=n)


def _candidates(splits: list[SplitTokens], order: list[tuple[int, int, str]], most: int) -> list[Candidates]:
    """Return as many passages as could ever fit, by split."""
    chosen = [Candidates() for _ in splits]
    read = 0
    for s, p, _ in order:
        passage = splits[s].passages[p]
        chosen[s].add(p, passage.tokens)
        read += len(passage.tokens)
        if read > most:
            break
    return chosen


def _encoded(
    encoder: PassageEncoder, order: list[tuple[int, int, str]], room: float
) -> tuple[list[list[str]], list[dict[str, Any]], bool]:
    """Return the passages that fit into `room` bytes, their entries in the list, and whether another did not fit."""
    chunks: list[list[str]] = []
    listed: list[dict[str, Any]] = []
    for s, p, why in order:
        if encoder.place(s, p) is None:
            break
        pair = [packed(encoder.head(s, p)), packed(encoder.body(s, p))]
        entry = {"split": s, "why": why, **encoder.facts(s, p)}
        room -= sum(map(len, pair)) + 2 + len(json.dumps(entry)) + 1
        if room < 0:
            return chunks, listed, True
        chunks.append(pair)
        listed.append(entry)
    return chunks, listed, False


def _notes_on_choice(
    listed: list[dict[str, Any]],
    splits: list[SplitTokens],
    embedded: dict[str, int],
    total: dict[str, int],
    limit: str,
) -> list[str]:
    """Say which tokens are in the page, and why not the others."""
    notes = []
    for split in splits:
        name = split.split
        what = f"recorded {name} tokens" if len(split.records) == 1 else f"{name} tokens that both runs recorded"
        if embedded[name] == total[name]:
            notes.append(f"All {total[name]:,} {what} are in this page.")
        else:
            random = sum(entry["why"] == "random" for entry in listed if splits[entry["split"]] is split)
            most = sum(entry["why"] == "rebound" for entry in listed if splits[entry["split"]] is split)
            notes.append(
                f"{embedded[name]:,} of {total[name]:,} {what} are in this page, in {_passages(random)} chosen at "
                f"random and {_passages(most)} whose tokens rebounded most, since {limit}."
            )
    return notes


def _notes_on_values(error: float, scale: Scale, highest: float) -> list[str]:
    """Say how exact values are: what is said holds, so it is rounded up."""
    notes = [
        f"Losses and entropies are in 8 bits: off by at most {_up(error):.3f} nats here (any value up to "
        f"{scale.top:.1f} by at most {_up(scale.bound):.3f}), least where they are small."
    ]
    if highest > scale.top:
        notes.append(f"Values above {scale.top:g} nats are shown as that; the highest is {highest:.1f}.")
    return notes


def _note_on_classes(n_runs: int) -> str:
    """Say what the classes, and lists sorted by rebound, are worth: they were chosen by the losses that they show."""
    other = (
        "the list of tokens counts those of the same class in the other run" if n_runs > 1 else "one run confirms none"
    )
    return (
        f"Classes and rebounds of single tokens are chosen by a run's own losses and hold its luck: {other}. "
        "dynamics.analysis.estimands.trajectory_shares.class_shares validates them on the seeds of an arm."
    )


def _notes_on_runs(runs: list[Run], splits: list[SplitTokens], epochs: list[int], n_all_epochs: int) -> list[str]:
    """Say what of the runs is not compared, and what cannot be trusted."""
    notes = []
    for split in splits:
        recorded = [len(records.sequence_id) for records in split.records]
        if max(recorded) > len(split.rows[0]):
            notes.append(
                f"Only the {len(split.rows[0]):,} {split.split} sequences that both runs recorded are compared; they "
                f"recorded {recorded[0]:,} and {recorded[1]:,}."
            )
    if not all(split.same_reference for split in splits):
        notes.append(
            "The runs began as different models: reference values, and the buckets, ranks and gaps that come from "
            "them, are those of A in both."
        )
    few = [split.split for split in splits if len({passage.document for passage in split.passages}) < FEW_DOCUMENTS]
    if few:
        *most, last = few
        splits_of = f"{', '.join(most)} and {last}" if most else last
        notes.append(
            f"Fewer than {FEW_DOCUMENTS} documents of {splits_of}: the intervals of these curves are too narrow."
        )
    alone = sorted(set(runs[0].epochs).symmetric_difference(runs[-1].epochs))
    if alone:
        notes.append(f"Epochs that only one run has are left out: {', '.join(map(str, alone))}.")
    for epoch in sorted(set(runs[0].epochs).intersection(runs[-1].epochs).difference(common_epochs(runs))):
        in_a, in_b = (f"{run.passes(epoch):g}" for run in runs)
        notes.append(f"Epoch {epoch} is left out: it stands for {in_a} passes over the data in A and for {in_b} in B.")
    if n_all_epochs > len(epochs):
        notes.append(f"Of {n_all_epochs} epochs {len(epochs)}, evenly spaced, are in this page.")
    for epoch, passes in runs[0].partial_epochs.items():
        if epoch in epochs:
            notes.append(f"Epoch {epoch} was cut: it stands for {passes:g} passes over the data.")
    return notes


def _passages(n: int) -> str:
    return f"{n} passage{'' if n == 1 else 's'}"


def _up(nats: float) -> float:
    return math.ceil(nats * 1000) / 1000
