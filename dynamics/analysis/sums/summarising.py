"""Making summaries: from the records of a study's finished runs to files of sums that can be committed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynamics.analysis.sums.bits_per_byte import byte_counts
from dynamics.analysis.sums.document_sums import DocumentSums, Value, sums_by_value
from dynamics.analysis.tokens.buckets import bucket_labels, entropy_buckets
from dynamics.analysis.tokens.groups import Groups
from dynamics.analysis.tokens.told_groups import remade_groups, shown_groups, told_groups
from dynamics.display.results import Shown
from dynamics.display.tables import Card, Table
from dynamics.errors import InputError
from dynamics.records import schema
from dynamics.records.reader import Run, Study
from dynamics.records.summaries.files import (
    SHARED_FILE,
    STEP_COLUMNS,
    SUMMARY_FILE,
    VALUES,
    is_summary,
    read_summary,
    shared_identity,
    tensor,
    write_run,
    write_shared,
    write_summary,
)
from dynamics.records.summaries.reading import Summary
from dynamics.records.summaries.told import facts_of, require_same_settings, require_same_start, without_folders
from dynamics.records.tensors import Array, Hashes, read_tensors

#: Buckets by reference entropy in which sums are kept: they go together into halves and fifths.
N_BUCKETS = 10
_NO_BUCKET = 255


@dataclass(frozen=True, slots=True, repr=False)
class Summarized(Shown):
    """What became of the runs of a study, by (arm, seed).

    Attributes
    ----------
    added, held : list of (str, int)
        Now in the summary; and in it before.
    unfinished : dict of (str, int) to str
        Left out, and why.
    path : Path
    """

    added: list[tuple[str, int]]
    held: list[tuple[str, int]]
    unfinished: dict[tuple[str, int], str]
    path: Path

    def _shown(self) -> Table | Card:
        *runs, study = self.lines()
        return Card(study, [("", line) for line in runs])

    def lines(self) -> list[str]:
        """Return what became of them in words: a line for each that is new or left out, and one for the summary."""
        said = [f"{arm} seed {seed}: added" for arm, seed in self.added]
        said += [f"{arm} seed {seed}: left out, {why}" for (arm, seed), why in self.unfinished.items()]
        n_runs = len(self.added) + len(self.held)
        return [*said, f"{self.path}: {n_runs} finished runs of the study, {len(self.added)} of them new"]


def summarize_study(
    study: Study,
    output: str | Path,
    *,
    groups: Sequence[Groups] | None = None,
    on_run: Callable[[str, int], None] | None = None,
) -> Summarized:
    """Add the finished runs of a study to its summary, which is begun if it is not there.

    A finished run is complete, or diverged. What the first run says is frozen: the edges of the buckets, and the bucket
    of every token. A run of another machine, whose reference entropies may differ in their last digits, has its tokens
    in the same ones.

    Parameters
    ----------
    study : Study
        With records by token.
    output : path
        Folder of the summary.
    groups : sequence of Groups, optional
        Groups of tokens whose sums are kept beside the buckets, such as ``task_tokens("gsm8k")`` or those of
        `groups_by_match`; not those of `own_groups`, which no rule tells. A summary has the groups that it was begun
        with.
    on_run : callable, optional
        Told of every run (arm, seed) before its records are read.

    Returns
    -------
    Summarized

    Raises
    ------
    InputError
        If a run has other tokens, another starting model, or other settings than those of its arm in the summary; if
        the summary holds another run of the same arm and seed; for other groups than those of the summary, or groups
        of arrays; or if `output` is something else. Nothing of such a run is written.
    DamagedRecordError
        If records of a run, or the summary, are damaged.
    """
    output = Path(output)
    if isinstance(study, Summary):
        raise InputError(f"{study.path} is a summary already; give the study that it was made from")
    if output.exists() and not is_summary(output) and (not output.is_dir() or _others(output, study)):
        raise InputError(f"--output: {output} holds something else than a summary; name a new folder")
    begun = is_summary(output)
    content: dict[str, Any] = read_summary(output) if begun else {}
    asked = _asked(groups, study, content, output)
    result = Summarized([], [], _unfinished(study), output)
    finished = {key: run for key, run in study.runs.items() if key not in result.unfinished}
    result.held.extend(_held(finished, content, output))
    _require_same_choice(study, output)
    shared = _read_shared(output, content) if begun else {}
    for arm, seed in [key for key in finished if key not in result.held]:
        if on_run is not None:
            on_run(arm, seed)
        run = finished[arm, seed]
        if not content:
            shared, content = _begin(study, run, output, asked)
        _require_fitting(content, output, arm, run)
        entry = write_run(output, arm, seed, _sums_of_run(run, shared, asked, output), _told(run))
        entry["run_manifest_sha256"] = run.manifest[schema.SELF_HASH]
        content["runs"].setdefault(arm, {})[str(seed)] = entry
        content["settings"].setdefault(arm, _without_seed(run))
        content["arms"] = _in_order(content, study)
        write_summary(output, content)
        result.added.append((arm, seed))
    if content and study.tuning is not None:
        schema.atomic_write_bytes(output / schema.TUNING_FILE, (study.path / schema.TUNING_FILE).read_bytes())
    return result


def require_same_study(summary: Summary, arm: str, config: Mapping[str, Any], what: str) -> None:
    """Raise InputError if the runs of an arm in a summary were trained by other settings than a resolved recipe."""
    kept = summary.content["settings"].get(arm)
    if kept is not None:
        require_same_settings(kept, without_folders(config), summary=str(summary.path), run=what)


def _asked(
    groups: Sequence[Groups] | None, study: Study, content: Mapping[str, Any], output: Path
) -> dict[str, Groups]:
    """Return the groups to keep sums of, by name: those of the summary where it has begun."""
    found: dict[str, Groups] = {}
    told: dict[str, Any] = {}
    for group in groups or ():
        one = told_groups(group)
        if one is None:
            raise InputError(f"groups {group.name!r} are arrays, which a summary cannot tell; give groups by a pattern")
        if group.name in found:
            raise InputError(f"two groups are called {group.name!r}; name one otherwise")
        found[group.name], told[group.name] = group, one
    if content and groups is not None and told != content["groups"]:
        raise InputError(
            f"{output} keeps sums of the groups {shown_groups(content['groups'])}, and these were asked for: "
            f"{shown_groups(told)}; leave them out, or summarise into another folder"
        )
    if content and groups is None:
        return {name: remade_groups(study, one["key"]) for name, one in content["groups"].items()}
    return found


def _others(output: Path, study: Study) -> list[Path]:
    """Return what lies in a folder that no summary of the study that was interrupted at its begin left there."""
    ours = {SHARED_FILE, SHARED_FILE + schema.TEMPORARY_SUFFIX, SUMMARY_FILE + schema.TEMPORARY_SUFFIX, *study.arms}
    return [path for path in output.iterdir() if path.name not in ours]


def _unfinished(study: Study) -> dict[tuple[str, int], str]:
    found = {}
    for arm in study.arms:
        if arm in (SUMMARY_FILE, SHARED_FILE, schema.TUNING_FILE):
            raise InputError(f"{study.path}: arm {arm!r} is called as a file of the summary is; name it otherwise")
        for seed in study.seeds:
            run = study.runs.get((arm, seed))
            if run is None:
                found[arm, seed] = "has not been run yet"
            elif not run.complete and "diverged" not in run.manifest:
                found[arm, seed] = f"is not finished: {len(run.epochs)} epochs are recorded"
            elif not run.epochs:
                found[arm, seed] = "has no complete epoch"
    return found


def _held(finished: Mapping[tuple[str, int], Run], content: Mapping[str, Any], output: Path) -> list[tuple[str, int]]:
    """Return which runs a summary holds; InputError if it holds others of their names, or one cannot be added."""
    held = []
    for (arm, seed), run in finished.items():
        entry = content.get("runs", {}).get(arm, {}).get(str(seed))
        if entry is None:
            _require_fitting(content, output, arm, run)
        elif entry["run_manifest_sha256"] == run.manifest[schema.SELF_HASH]:
            held.append((arm, seed))
        else:
            raise InputError(
                f"{output} holds another run of arm {arm!r} with seed {seed} than {run.path}: a summary is never "
                "overwritten; take that run out of it, or summarise into another folder"
            )
    return held


def _require_fitting(content: Mapping[str, Any], output: Path, arm: str, run: Run) -> None:
    """Raise InputError unless a run has the tokens and start of a summary, and the settings of its arm there."""
    if content:
        require_same_start(content, facts_of(run.manifest), summary=str(output), run=str(run.path))
        if arm in content["settings"]:
            kept = content["settings"][arm]
            require_same_settings(kept, without_folders(run.config), summary=str(output), run=str(run.path))


def _begin(
    study: Study, run: Run, output: Path, groups: Mapping[str, Groups]
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Write what the runs share, from the first of them; returns it, and what ``study.json`` is to say."""
    if "train" not in run.splits:
        raise InputError(f"{run.path} has no training tokens, by which buckets are made")
    buckets = entropy_buckets(run.records("train"), N_BUCKETS)
    shared: dict[str, Array] = {}
    for split in run.splits:
        records = run.records(split)
        index = buckets.index(records)
        if (index[records.predicted] < 0).any():
            raise InputError(f"{run.path}: some predicted tokens of {split!r} have no reference entropy")
        stored = np.where(index < 0, _NO_BUCKET, index).astype(np.uint8)
        shared[tensor(split, "bucket")] = stored
        shared[tensor(split, "document_hash")] = np.asarray(records.document_hash)
        frozen = _frozen({tensor(split, "bucket"): stored})
        for name, group in _kinds(frozen, groups):
            _share(shared, run, split, group, name)
        chosen = np.asarray(records.predicted, dtype=bool)
        n_documents = len(shared[tensor(split, "documents")])
        cell = np.searchsorted(shared[tensor(split, "documents")], records.document_id[chosen]) * N_BUCKETS
        entropy = records.reference_entropy[chosen].astype(np.float64)
        sums = np.bincount(cell + index[chosen], entropy, minlength=n_documents * N_BUCKETS)
        shared[tensor(split, "reference_entropy")] = sums.reshape(n_documents, N_BUCKETS)
    for name in groups:
        if not any(len(shared[tensor(split, "documents", name)]) for split in run.splits):
            raise InputError(f"no token of any split of {run.path} is in the groups {name!r}; correct their pattern")
    facts = facts_of(run.manifest)
    content: dict[str, Any] = {
        "name": study.config.get("name", study.path.name),
        "config": without_folders(study.config),
        "arms": [],
        "settings": {},
        "tokens": facts["tokens"],
        **{key: facts[key] for key in ("model", "tokenizer", "precision", "data") if key in facts},
        "splits": run.splits,
        "edges": buckets.edges.tolist(),
        "groups": {name: told_groups(group) for name, group in groups.items()},
        "runs": {},
    }
    content["shared"] = write_shared(output, shared)
    return shared, content


def _share(shared: dict[str, Array], run: Run, split: str, group: Groups, name: str | None) -> None:
    """Put documents, tokens and bytes of the buckets (no name) or of a group into what runs share."""
    records = run.records(split)
    try:
        there = bool((np.asarray(records.predicted) & (group.index(records) >= 0)).any())
    except InputError:  # A pattern that matches nothing in this split, or a field that it did not keep.
        there = False
    if not there:
        shared[tensor(split, "documents", name)] = np.empty(0, dtype=np.int64)
        return
    sums = sums_by_value(records, values=("loss",), epochs=run.epochs[:1], buckets=group)["loss"]
    shared[tensor(split, "documents", name)] = sums.documents
    shared[tensor(split, "counts", name)] = sums.counts.astype(np.int32)
    try:
        shared[tensor(split, "bytes", name)] = byte_counts(run, split, run.epochs[:1], group)
    except InputError:
        pass  # The texts of its tokens are not exact; bits per byte are refused when they are asked for.


def _kinds(buckets: Groups, groups: Mapping[str, Groups]) -> list[tuple[str | None, Groups]]:
    """Return in what sums are kept: buckets, which have no name, and groups by theirs."""
    return [(None, buckets), *groups.items()]


def _frozen(shared: Mapping[str, Array]) -> Groups:
    """Return the buckets of every token as they are kept, whatever a run's own reference entropies are."""

    def of(records: Any) -> Array:
        stored = shared[tensor(records.split, "bucket")]
        return np.where(stored == _NO_BUCKET, -1, stored.astype(np.int16)).astype(np.int16)

    return Groups("reference entropy", bucket_labels(N_BUCKETS), ("kept buckets",), of)


def _sums_of_run(run: Run, shared: Mapping[str, Array], groups: Mapping[str, Groups], output: Path) -> dict[str, Array]:
    """Return the tensors of a run's file."""
    values: tuple[Value, ...] = ("loss", "entropy", "correct")
    assert set(values) == set(VALUES)
    tensors = {"steps": _step_log(run)}
    for split in run.splits:
        records = run.records(split)
        if not np.array_equal(records.document_hash, shared[tensor(split, "document_hash")]):
            raise InputError(f"{run.path} and {output} have different documents in {split!r}; summarise it elsewhere")
        if records.token_id.shape != shared[tensor(split, "bucket")].shape:
            raise InputError(f"{run.path} recorded other sequences of {split!r} than {output}; summarise it elsewhere")
        for name, group in _kinds(_frozen(shared), groups):
            documents = shared[tensor(split, "documents", name)]
            if not len(documents):
                continue
            found = sums_by_value(records, values=values, buckets=group)
            _require_same_tokens(found["loss"], documents, shared[tensor(split, "counts", name)], run, output)
            for value in values:
                tensors[tensor(split, value, name)] = found[value].sums.astype(VALUES[value])
    return tensors


def _require_same_tokens(sums: DocumentSums, documents: Array, counts: Array, run: Run, output: Path) -> None:
    if not np.array_equal(sums.documents, documents) or not np.array_equal(sums.counts, counts):
        raise InputError(
            f"{run.path} recorded other tokens than {output}, which cannot be compared; summarise it elsewhere"
        )


def _step_log(run: Run) -> Array:
    """Return the log by step, shape (steps, columns), NaN where a step has no value of a column."""
    steps = [row for row in run.metrics() if "tuning_loss" not in row]
    rows = [[np.nan if row.get(key) is None else float(row[key]) for key in STEP_COLUMNS] for row in steps]
    return np.asarray(rows, dtype=np.float64).reshape(-1, len(STEP_COLUMNS))


def _told(run: Run) -> dict[str, Any]:
    """Return what the header of a run's file tells of it."""
    return {
        "manifest": facts_of(run.manifest),
        "config": without_folders(run.config),
        "epochs": run.epochs,
        "passes": [run.passes(epoch) for epoch in run.epochs],
        "steps": [run.step(epoch) for epoch in run.epochs],
    }


def _without_seed(run: Run) -> dict[str, Any]:
    return {key: value for key, value in without_folders(run.config).items() if key not in ("seed", "name")}


def _in_order(content: Mapping[str, Any], study: Study) -> list[str]:
    """Return the arms that have runs: in the order of a study that has all of them, else new ones last."""
    there = [arm for arm in content["runs"]]
    if set(there) <= set(study.arms):
        return [arm for arm in study.arms if arm in there]
    before = [arm for arm in content["arms"] if arm in there]
    return before + [arm for arm in study.arms if arm in there and arm not in before]


def _read_shared(output: Path, content: Mapping[str, Any]) -> dict[str, Array]:
    entry = content["shared"]
    return read_tensors(output / SHARED_FILE, entry, entry["tensors"], identity=shared_identity(), hashes=Hashes())


def _require_same_choice(study: Study, output: Path) -> None:
    """Raise InputError if the trials of a study chose otherwise than what the summary keeps."""
    source, kept = study.path / schema.TUNING_FILE, output / schema.TUNING_FILE
    if study.tuning is not None and kept.exists() and kept.read_bytes() != source.read_bytes():
        raise InputError(f"{source} and {kept} hold different choices; summarise into another folder")
