"""Damage a finished run at random, once a copy: `check` must find it, and no reader may take it for values.

`python tests/torture/corruptions.py --corruptions 200 --seed 0`. The run is a real one. Each corruption is made on a
fresh copy: a bit flipped, a file cut short, deleted, swapped with another, or copied under another name, over all files
of the run. Found means that the report names the file and its epoch, and holds every other epoch, and no more, for
good. Nothing read as values means that `open_run(path, verify=True)` and everything that it gives either raise
DamagedRecordError or InputError, or give the bytes of the whole run. The same is counted without `verify`, where sizes,
headers and layouts alone are compared: what those cannot see is a flipped bit among the values.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from dynamics.errors import DamagedRecordError, InputError
from dynamics.records import schema
from dynamics.records.check import check_run
from dynamics.records.reader import Run, open_run

#: What a reader may say of a damaged run.
REFUSALS = (DamagedRecordError, InputError)


@dataclass
class Damage:
    """What was done to a copy.

    Parameters
    ----------
    kind
        For the counts.
    what
        For messages.
    files
        What is no longer as it was, relative to the run. The check must name every one (of a whole epoch, its folder)
        but those whose manifest is among them too.
    epochs
        The epochs that can no longer be good.
    """

    kind: str
    what: str
    files: list[str] = field(default_factory=list)
    epochs: set[int] = field(default_factory=set)


def real_run(path: Path) -> Path:
    """Train a tiny model, with all that an epoch may hold: dropped tokens, and what the optimiser saw."""
    from support.tiny import run_tiny

    recording = {"train_sequences": 40, "validation_sequences": 30, "training_pass": True}
    return run_tiny(path, regularizers=[{"name": "entrodrop", "ratio": 0.3}], recording=recording).path


def files_of(run: Path) -> list[str]:
    return sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())


def epoch_of(name: str) -> int | None:
    parts = name.split("/")
    return schema.parse_epoch(parts[1]) if parts[0] == schema.EPOCHS_FOLDER and len(parts) > 1 else None


# ------------------------------------------------------------------------------------ corruptions


def flip(run: Path, rng: random.Random) -> Damage:
    name = rng.choice(files_of(run))
    raw = bytearray((run / name).read_bytes())
    at, bit = rng.randrange(len(raw)), rng.randrange(8)
    raw[at] ^= 1 << bit
    (run / name).write_bytes(raw)
    return _damage("flip", f"bit {bit} of byte {at} of {name}", name)


def truncate(run: Path, rng: random.Random) -> Damage:
    name = rng.choice(files_of(run))
    raw = (run / name).read_bytes()
    # Often by a little, which is what a torn write loses.
    keep = rng.choice([rng.randrange(len(raw)), len(raw) - 1, max(0, len(raw) - rng.randrange(1, 64)), 0])
    (run / name).write_bytes(raw[:keep])
    return _damage("truncate", f"{name} to {keep} of {len(raw)} bytes", name)


def delete(run: Path, rng: random.Random) -> Damage:
    folders = [f"epochs/{path.name}" for path in sorted((run / "epochs").iterdir())]
    name = rng.choice([*files_of(run), *folders, "model", "tokens"])
    if (run / name).is_file():
        (run / name).unlink()
        return _damage("delete", name, name)
    gone = [f"{name}/{file}" for file in files_of(run / name)]
    shutil.rmtree(run / name)
    # Of an epoch that is gone as a whole, the folder is named.
    return _damage("delete", f"folder {name}", *([f"{name}/"] if name in folders else gone))


def swap(run: Path, rng: random.Random) -> Damage:
    epochs = sorted(path.name for path in (run / "epochs").iterdir())
    if rng.random() < 0.25:
        one, other = (f"epochs/{name}" for name in rng.sample(epochs, 2))
        named = [f"{one}/", f"{other}/"]
    else:
        one = rng.choice(files_of(run))
        # As often as not with its like in another epoch or split: same size, same shapes.
        alike = [name for name in files_of(run) if name != one and Path(name).suffix == Path(one).suffix]
        others = alike if alike and rng.random() < 0.5 else [name for name in files_of(run) if name != one]
        other = rng.choice(others)
        named = [one, other]
    aside = run.with_name("aside")
    os.rename(run / one, aside)
    os.rename(run / other, run / one)
    os.rename(aside, run / other)
    return _damage("swap", f"{one} and {other}", *named)


def duplicate(run: Path, rng: random.Random) -> Damage:
    epochs = sorted(path.name for path in (run / "epochs").iterdir())
    way = rng.choice(["epoch", "over an epoch", "shard", "name", "over a file"])
    if way in ("epoch", "over an epoch"):
        source = f"epochs/{rng.choice(epochs)}"
        free = [f"epochs/epoch-{number:04d}" for number in range(len(epochs), len(epochs) + 3)]
        there = [f"epochs/{name}" for name in epochs if not source.endswith(name)]
        target = rng.choice(free if way == "epoch" else there)
        shutil.rmtree(run / target, ignore_errors=True)
        shutil.copytree(run / source, run / target)
        return _damage("duplicate", f"{source} as {target}", f"{target}/")
    source = rng.choice(files_of(run))
    if way == "shard":
        source = rng.choice([name for name in files_of(run) if "-of-" in name])
        target = source.replace(
            "-00000-of-00001", rng.choice(["-00001-of-00001", "-00001-of-00002", "-00000-of-00002"])
        )
    elif way == "name":
        # Beside its like: what lies at the top of a run's folder is the user's own, and only noted.
        folder = rng.choice(["tokens", "model", "epochs", *(f"epochs/{name}" for name in epochs)])
        target = f"{folder}/{rng.choice(['copy of ', 'test', '.'])}{Path(source).name}"
    else:
        target = rng.choice([name for name in files_of(run) if name != source])
    shutil.copy(run / source, run / target)
    return _damage("duplicate", f"{source} as {target}", target)


CORRUPTIONS: list[Callable[[Path, random.Random], Damage]] = [flip, truncate, delete, swap, duplicate]


def _damage(kind: str, what: str, *files: str) -> Damage:
    return Damage(kind, what, list(files), {epoch for name in files if (epoch := epoch_of(name)) is not None})


# ---------------------------------------------------------------------------------------- judging


def state(run: Path) -> dict[str, str]:
    return {name: schema.sha256_file(run / name) for name in files_of(run)}


def unfound(run: Path, damage: Damage, epochs: set[int]) -> str | None:
    """Return what the check of a damaged run fails to say."""
    report = check_run(run)
    named = {problem.file: problem.epoch for problem in report.problems}
    for name in damage.files:
        # What a manifest vouches for has nothing to be compared with where that is damaged itself; it is named then.
        voucher = f"{Path(name).parent}/{schema.MANIFEST_FILE}" if epoch_of(name) is not None else schema.MANIFEST_FILE
        if voucher in damage.files and name != voucher:
            continue
        about = [file for file in named if (file + "/").startswith(name) or file == name]
        if not about:
            return f"{name} is not named, but {sorted(named) or 'nothing'}"
        if epoch_of(name) is not None and epoch_of(name) not in {named[file] for file in about}:
            return f"{name} is named without its epoch"
    good, expected = set(report.good_epochs), epochs - damage.epochs
    return None if good == expected else f"epochs {sorted(good)} are called good, and {sorted(expected)} are"


def readings(run: Run) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield a name and a function for all that can be read of a run, the values of every epoch among them."""
    yield "config", lambda: run.config
    yield "metrics", lambda: run.metrics()
    for split in run.splits:
        yield from _readings_of_split(run, split)


def _readings_of_split(run: Run, split: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    try:
        records = run.records(split)
    except REFUSALS as error:
        refusal = error

        def refuse() -> Any:
            raise refusal

        yield f"{split}: tokens", refuse
        return
    for name in ("sequence_id", "token_id", "document_id", "byte_start", "byte_end", "predicted", "document_hash"):
        yield f"{split}: {name}", lambda name=name: getattr(records, name)  # type: ignore[misc]
    for name in ("reference_loss", "reference_entropy"):
        yield f"{split}: {name}", lambda name=name: getattr(records, name)  # type: ignore[misc]
    yield f"{split}: texts", lambda: [records.document_text(document) for document in range(records.n_documents)]
    for epoch in run.epochs:
        names = ["loss", "entropy", "correct"]
        if split == "train" and epoch > 0:
            names += ["dropped", "training_loss", "training_entropy"]
        for name in names:
            yield f"{split}: {name} {epoch}", lambda name=name, epoch=epoch: getattr(records, name)(epoch)  # type: ignore[misc]
        yield f"{split}: stored {epoch}", lambda epoch=epoch: records.stored("loss", epoch)  # type: ignore[misc]


def content(value: Any) -> str:
    if isinstance(value, np.ndarray):
        header = f"{value.dtype} {value.shape} ".encode()
        return hashlib.sha256(header + np.ascontiguousarray(value).tobytes()).hexdigest()
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_all(path: Path, *, verify: bool) -> tuple[dict[str, str], list[str]]:
    """Return the content of all that can be read, and what was said of all that cannot."""
    said: list[str] = []
    found: dict[str, str] = {}
    try:
        run = open_run(path, verify=verify)
    except REFUSALS as error:
        return {}, [str(error)]
    found["manifest"] = content(run.manifest)
    for name, read in readings(run):
        try:
            found[name] = content(read())
        except REFUSALS as error:
            said.append(str(error))
    return found, said


def torture(n: int, whole: Path, root: Path, *, seed: int = 0) -> dict[str, Any]:
    """Make `n` corruptions of the run `whole`, each on a copy below `root`; return counts and what went wrong."""
    rng = random.Random(seed)
    before = state(whole)
    expected, said = read_all(whole, verify=True)
    assert not said and check_run(whole).ok, "the run was damaged before"
    epochs = set(open_run(whole).epochs)
    kinds: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    unseen: Counter[str] = Counter()
    wrong: list[str] = []
    while kinds.total() < n:
        copy = root / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        damage = CORRUPTIONS[kinds.total() % len(CORRUPTIONS)](copy, rng)
        if state(copy) == before:  # Files of the same content swapped, or one copied over its like.
            continue
        kinds[damage.kind] += 1
        problem = unfound(copy, damage, epochs)
        outcomes["found by check"] += problem is None
        if problem is not None:
            wrong.append(f"{damage.kind} {damage.what}: check: {problem}")
        for verify in (True, False):
            found, said = read_all(copy, verify=verify)
            misread = sorted(name for name, value in found.items() if expected.get(name) != value)
            how = "with hashes" if verify else "without hashes"
            outcomes[f"read as values {how}"] += bool(misread)
            outcomes[f"refused by the reader {how}"] += bool(said)
            if misread and not verify:
                unseen[damage.kind] += 1
            if misread and verify:
                wrong.append(f"{damage.kind} {damage.what}: read as {', '.join(misread)}")
    shutil.rmtree(root / "copy")
    return {
        "corruptions": n,
        "seed": seed,
        "kinds": dict(kinds),
        **outcomes,
        "kinds read as values without hashes": dict(unseen),
        "wrong": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--corruptions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        os.environ["DYNAMICS_CACHE"] = str(root / "cache")
        result = torture(given.corruptions, real_run(root / "whole"), root, seed=given.seed)
    text = json.dumps(result, indent=2)
    print(text)
    if given.output is not None:
        given.output.write_text(text + "\n")
    sys.exit(bool(result["wrong"]))


if __name__ == "__main__":
    main()
