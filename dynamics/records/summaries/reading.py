"""Reading summaries: a study whose runs hold sums by document, and no tokens.

A `Summary` goes wherever a `Study` goes. What asks its runs for sums gets them; what asks for tokens is refused with
one message.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, SupportsIndex

import numpy as np
import numpy.typing as npt

from dynamics.display.tables import Card
from dynamics.errors import DamagedRecordError, InputError, nearest
from dynamics.records import schema
from dynamics.records.epochs import numbers
from dynamics.records.reader import PathLike, Run, Study, require_same_tokens
from dynamics.records.summaries.files import (
    SHARED_FILE,
    STEP_COLUMNS,
    read_summary,
    run_file,
    run_identity,
    shared_identity,
    tensor,
)
from dynamics.records.tensors import Array, Hashes, read_identity, read_tensors
from dynamics.records.values import Records


def open_summary(path: PathLike, *, verify: bool = True) -> Summary:
    """Open the summary of a study, which ``dynamics summarize`` wrote: it goes wherever a study goes.

    Parameters
    ----------
    path : path
        Its folder, such as ``studies/NAME``.
    verify : bool
        Hash every file before anything in it is used: they are small, and a damaged one would give other numbers.

    Raises
    ------
    InputError
        If there is no summary at `path`, or one of a later version.
    DamagedRecordError
        If its manifest is damaged.

    Warns
    -----
    UserWarning
        When its runs are first asked for, if they were trained on different hardware or by different versions.
    """
    return Summary(path, verify=verify)


class Summary(Study):
    """A study's sums by document.

    Attributes
    ----------
    path, arms, seeds
        As of a `Study`. Not every arm need have every seed.
    config : dict
        The recipe of the study that was summarised first, without paths.
    content : dict
        What ``study.json`` says.
    """

    def __init__(self, path: PathLike, *, verify: bool = True) -> None:
        self.path = Path(path)
        self.verify = verify
        self.hashes = Hashes() if verify else None
        self.content = read_summary(path)
        self.config = self.content.get("config", {})
        self.arms = list(self.content["arms"])
        self.seeds = sorted({int(seed) for runs in self.content["runs"].values() for seed in runs})

    def _title(self) -> str:
        return f"Summary({str(self.path)!r}: {len(self.arms)} arms, {len(self.held)} runs)"

    @property
    def held(self) -> list[tuple[str, int]]:
        """The runs that are in the summary, by arm and seed."""
        runs = self.content["runs"]
        return [(arm, seed) for arm in self.arms for seed in self.seeds if str(seed) in runs.get(arm, {})]

    @cached_property
    def runs(self) -> dict[tuple[str, int], Run]:
        """The runs by (arm, seed); warns where their hardware or versions differ."""
        runs: dict[tuple[str, int], Run] = {key: SummaryRun(self, *key) for key in self.held}
        require_same_tokens(list(runs.values()))
        mixed = _mixed(runs)
        if mixed:
            warnings.warn(f"{self.path}: {mixed}", UserWarning, stacklevel=2)
        return runs

    @cached_property
    def shared(self) -> dict[str, Array]:
        """What all runs share, by name of tensor."""
        entry = self.content["shared"]
        return read_tensors(
            self.path / SHARED_FILE, entry, entry["tensors"], identity=shared_identity(), hashes=self.hashes
        )


class SummaryRun(Run):
    """A run of which sums by document are kept, and no tokens.

    Attributes
    ----------
    manifest : dict
        What is kept of the run's manifest; `config` its recipe without paths.
    """

    def __init__(self, summary: Summary, arm: str, seed: int) -> None:
        self.summary = summary
        self.path = summary.path / run_file(arm, seed)
        self.hashes = summary.hashes
        self._entry = summary.content["runs"][arm][str(seed)]
        arrays = read_tensors(
            self.path, self._entry, self._entry["tensors"], identity=run_identity(arm, seed), hashes=self.hashes
        )
        self._arrays = arrays
        try:
            told = read_identity(self.path)
            self.manifest = told["manifest"]
            # Not a cached property here, as it is of a run with a file for it.
            self.__dict__["config"] = told["config"]
            self.epochs = [int(epoch) for epoch in told["epochs"]]
            self._passes = [float(at) for at in told["passes"]]
            self._steps = list(told["steps"])
            self.splits = schema.in_split_order(self.manifest["tokens"])
            self.name = self.manifest.get("name") or f"{arm}-{seed}"
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedRecordError(f"{self.path}: its header is no run's: {error!r}") from error

    @cached_property
    def partial_epochs(self) -> dict[int, float]:
        """The epoch that was cut, if one was, and the passes over the data it stands for."""
        return {epoch: at for epoch, at in zip(self.epochs, self._passes, strict=True) if at != epoch}

    def step(self, epoch: SupportsIndex) -> int | None:
        """Return after how many optimiser steps `epoch` was recorded; None where its records did not say."""
        step: int | None = self._steps[self.epochs.index(self._recorded(epoch))]
        return step

    def metrics(self) -> list[dict[str, Any]]:
        """Return the step log, one dict a step: what is in `STEP_COLUMNS`, None where a step has none."""
        rows = []
        for row in self._arrays["steps"].tolist():
            named = {key: None if math.isnan(at) else at for key, at in zip(STEP_COLUMNS, row, strict=True)}
            rows.append(named | {"step": int(row[0])})
        return rows

    def records(self, split: str) -> Records:
        """Return what is kept of a split: its sums, and of its tokens nothing."""
        if split not in self.splits:
            raise InputError(
                f"{self.path} has no split {split!r}: it has {', '.join(self.splits)}{nearest(split, self.splits)}"
            )
        return SummaryRecords(self, split)

    def explore(self, *args: Any, **options: Any) -> NoReturn:
        """Refused: a page shows tokens."""
        raise no_tokens(self.path, "a page of its text")

    def sums_of(self, split: str) -> SplitSums:
        """Return the sums of a split."""
        return SplitSums(self, split)


class SummaryRecords(Records):
    """What stands in the place of a split's records: it holds sums, and refuses tokens by name."""

    def __init__(self, run: SummaryRun, split: str) -> None:
        self.run = run
        self.split = split

    def _title(self) -> str:
        return f"SummaryRecords({self.split}: sums by document)"

    def _described(self) -> Card:
        sums = self.sums_alone
        facts = [
            ("run", str(self.run.path)),
            ("documents", str(len(sums.documents()))),
            ("buckets", f"{len(sums.edges) + 1}, by reference entropy"),
            ("groups", ", ".join(sums.groups) or "none"),
            ("epochs", numbers(sums.epochs)),
            ("recorded", "sums of loss, entropy and correct; no tokens"),
        ]
        return Card(self._title(), facts)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in _OF_TOKENS:
            raise AttributeError(name)
        raise no_tokens(self.run.path, name)

    @property
    def sums_alone(self) -> SplitSums:
        """The sums; that records have this says that they have no tokens (`token_records.sums_alone`)."""
        assert isinstance(self.run, SummaryRun)
        return self.run.sums_of(self.split)

    def to_xarray(self) -> NoReturn:
        """Refused: a data set holds tokens."""
        raise no_tokens(self.run.path, "a data set")

    def _values(self, epoch: SupportsIndex, name: str, *, optional: bool = False, mapped: bool = False) -> Any:
        raise no_tokens(self.run.path, f"{name} by token")


#: What records have of tokens: their annotated attributes and those that need these.
_OF_TOKENS = {
    "sequence_id", "token_id", "document_id", "byte_start", "byte_end", "reference_loss", "reference_entropy",
    "predicted", "document_hash", "document_fields", "whole", "whole_spans", "n_documents",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SplitSums:
    """The sums of one split of a run: by epoch, document and bucket, and by epoch and document of groups of tokens.

    Shapes: E epochs, D documents with a token, K buckets or groups.
    """

    run: SummaryRun
    split: str

    @property
    def epochs(self) -> list[int]:
        """The epochs, along the first axis of `values`."""
        return self.run.epochs

    @property
    def study(self) -> str:
        """The name of the summary's folder."""
        return self.run.summary.path.name

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """Interior edges of the buckets, nats of reference entropy, shape (K - 1,)."""
        return np.asarray(self.run.summary.content["edges"], dtype=np.float64)

    def edges_of(self, n: int) -> npt.NDArray[np.float64]:
        """Return the edges of `n` buckets of equal size, which are among those that are kept.

        Raises
        ------
        InputError
            If buckets that are kept do not go together into `n`.
        """
        every = len(self.edges) + 1
        if every % n:
            fitting = [str(k) for k in range(1, every + 1) if every % k == 0]
            raise InputError(
                f"{self.run.path} keeps sums in {every} buckets of reference entropy, which do not make {n}: ask for "
                f"{', '.join(fitting)}, or open the study that it was made from"
            )
        step = every // n
        return self.edges[step - 1 :: step][: n - 1]

    @property
    def groups(self) -> dict[str, dict[str, Any]]:
        """The groups of tokens by name: ``labels``, and ``key``, the rule that puts tokens into them."""
        return dict(self.run.summary.content["groups"])

    def documents(self, group: str | None = None) -> npt.NDArray[np.int64]:
        """Return the ids of the documents that have a token, (D,); none where no token is in the group."""
        return self._shared("documents", group)

    def counts(self, group: str | None = None) -> npt.NDArray[np.float64]:
        """Return the predicted tokens, (D, K)."""
        return self._shared("counts", group).astype(np.float64)

    def n_bytes(self, group: str | None = None) -> npt.NDArray[np.float64] | None:
        """Return the bytes of the predicted tokens, (D, K); None where they are not known exactly."""
        name = tensor(self.split, "bytes", group)
        return self.run.summary.shared.get(name)

    def reference_entropy(self) -> npt.NDArray[np.float64]:
        """Return the sums of the reference model's entropy, nats, (D, K)."""
        return self._shared("reference_entropy", None)

    def values(self, value: str, group: str | None = None) -> npt.NDArray[np.float64]:
        """Return the sums of ``loss``, ``entropy`` or ``correct``, (E, D, K)."""
        return self.run._arrays[tensor(self.split, value, group)].astype(np.float64)

    def _shared(self, what: str, group: str | None) -> Array:
        return self.run.summary.shared[tensor(self.split, what, group)]


def no_tokens(path: PathLike, what: str) -> InputError:
    """Return the one error for what a summary cannot give."""
    return InputError(
        f"{path} keeps sums by document, and no tokens: {what} cannot be had from it; open the study that it was made "
        "from"
    )


def _mixed(runs: dict[tuple[str, int], Run]) -> str | None:
    """Say which runs have other hardware or versions than others; None where all are alike."""
    found = []
    for what in ("hardware", "versions"):
        by_facts: dict[bytes, list[tuple[str, int]]] = {}
        for key, run in runs.items():
            by_facts.setdefault(schema.canonical_json(run.manifest.get(what)), []).append(key)
        if len(by_facts) > 1:
            found.append(f"{what} ({_told(runs, what, list(by_facts.values()))})")
    if not found:
        return None
    return (
        f"its runs were trained with different {' and '.join(found)}. Rounding differs between them, so that a "
        "difference between arms may be theirs where one arm has more of them than another"
    )


def _told(runs: dict[tuple[str, int], Run], what: str, kinds: Sequence[list[tuple[str, int]]]) -> str:
    """Return in which facts kinds of runs differ, and how many runs are of each."""
    facts = [runs[keys[0]].manifest.get(what) or {} for keys in kinds]
    differing = sorted(key for key in set().union(*facts) if len({str(each.get(key)) for each in facts}) > 1)
    return "; ".join(
        f"{len(keys)} runs, such as {keys[0][0]} seed {keys[0][1]}: "
        + ", ".join(f"{key} {each.get(key)}" for key in differing)
        for keys, each in zip(kinds, facts, strict=True)
    )
