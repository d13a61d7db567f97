"""Compare a run that was made again with the one that is kept, by the mean loss of every epoch that both have.

    python -m recipes.study.again runs/again/runs/baseline/seed-0 --of example
    python -m recipes.study.again runs/again/runs/baseline/seed-0 --of studies/mathematics

Exits 1 where an epoch's means differ by more than the tolerance, and 2 where the two are not of the same tokens.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from dynamics import load_example, open_run, open_summary
from dynamics.analysis.sums.arms import Arm
from dynamics.analysis.sums.document_sums import require_same_documents
from dynamics.errors import DamagedRecordError, InputError
from dynamics.records.reader import Run, Study

# Nats per token: seeds differ by about ten times as much.
TOLERANCE = 1e-3


def differences(run: Run, study: Study, split: str = "validation") -> dict[int, float]:
    """Return by epoch how far the mean losses of a run and of its namesake in a study are apart, nats per token.

    Parameters
    ----------
    run : Run
        In a folder ARM/seed-S, as a study's runs are.
    study : Study
        A study or a summary of one, with a run of the same arm and seed.
    split : str

    Raises
    ------
    InputError
        If the study has no such run, or the two share no epoch or not their tokens.
    """
    arm, seed = run.path.parent.name, run.path.name.removeprefix("seed-")
    kept = study.runs.get((arm, int(seed))) if seed.isdigit() else None
    if kept is None:
        there = ", ".join(f"{name}/seed-{number}" for name, number in study.runs)
        raise InputError(f"{run.path}: {study.path} has no run {arm}/seed-{seed} to compare it with; it has {there}")
    epochs = sorted(set(run.epochs) & set(kept.epochs))
    if not epochs:
        raise InputError(f"{run.path} and {kept.path} have no epoch in common; train on")
    (again,), (before,) = (Arm("run", [one], epochs=epochs).seed_sums(split) for one in (run, kept))
    require_same_documents(again, before)
    means = [part.sums.sum(axis=(1, 2)) / part.counts.sum() for part in (again, before)]
    return dict(zip(epochs, np.abs(means[0] - means[1]).tolist(), strict=True))


def main(arguments: list[str] | None = None) -> int:
    """Print the differences, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--of", default="example", help="example, or a folder under studies/")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    args = parser.parse_args(arguments)
    try:
        study = load_example() if args.of == "example" else open_summary(args.of)
        found = differences(open_run(args.run), study)
    except (InputError, DamagedRecordError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    for epoch, apart in found.items():
        print(f"epoch {epoch}: {apart:.2g} nats apart")
    # Not `any(apart > ...)`: a NaN is not the same either.
    return int(not all(apart <= args.tolerance for apart in found.values()))


if __name__ == "__main__":
    sys.exit(main())
