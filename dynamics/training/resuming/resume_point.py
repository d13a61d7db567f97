"""Where an interrupted run of a recipe goes on: its newest whole checkpoint, if it is the same run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dynamics.corpus.packing import PackedSplit
from dynamics.errors import InputError
from dynamics.recipe.loading import config_in, resolved, told_differences
from dynamics.recipe.settings import Recipe
from dynamics.records import schema
from dynamics.records.epochs import good_epochs
from dynamics.records.reader import open_run
from dynamics.regularizers.registry import build_regularizers
from dynamics.reporting import Reporter
from dynamics.training.resuming.beside import config_beside, methods_beside, output_beside
from dynamics.training.resuming.checkpoints import Checkpoint, Checkpoints
from dynamics.training.resuming.same import allowed_changes, require_same_facts, require_same_tokens

_REMEDY = "give the recipe of that run, or name a new directory"
_REMEDY_RESUMING = "give that run's recipe and --resume to go on with it"


class Claim(NamedTuple):
    """What an output holds: whether the run in it is finished, and what of its recipe differs and may."""

    finished: bool
    changed: dict[str, Any]


def claim(recipe: Recipe, output: Path, *, resume: bool, reporter: Reporter) -> Claim:
    """Look what is in the output of a run, and in those of the models measured beside it.

    Raises
    ------
    InputError
        An output holds something that this run may not have.
    """
    config = resolved(recipe)
    changed = _changed(output, config, resume=resume)
    if not (output / schema.MANIFEST_FILE).exists() or not open_run(output).complete:
        for method in methods_beside(build_regularizers(recipe.regularizers)):
            # What stands for its recipe is none, and is not read with the defaults of keys that came later.
            beside = config_beside(config, method)
            _changed(output_beside(output, method), beside, resume=resume, common_only=True)
        return Claim(False, changed)
    length = changed.get("training.num_train_epochs")
    if length is not None:
        raise InputError(
            f"--output: {output} holds a finished run of {length[0]} epochs, whose optimiser state is gone, so that it "
            f"cannot go on to {length[1]}; name a new directory to train {length[1]} epochs from the start"
        )
    # Removed last, and so what may be left of a run that was killed when all was done.
    shutil.rmtree(output / schema.CHECKPOINTS_FOLDER, ignore_errors=True)
    reporter.line(f"{output}: the run is finished already; nothing to do")
    return Claim(True, changed)


def _changed(output: Path, config: Mapping[str, Any], *, resume: bool, common_only: bool = False) -> dict[str, Any]:
    """Return what of a config differs from that of the run in `output`, and may; InputError if it is another run."""
    if output.exists() and not output.is_dir():
        raise InputError(f"--output: {output} is a file; name a new directory")
    # A run that was killed while it wrote its very first file has left that one alone.
    torn = schema.CONFIG_FILE + schema.TEMPORARY_SUFFIX
    if not output.exists() or {path.name for path in output.iterdir()} <= {torn}:
        return {}
    config_file = output / schema.CONFIG_FILE
    if not config_file.exists():
        what = "a study" if (output / schema.STUDY_FILE).exists() else "something else than a run"
        raise InputError(f"--output: {output} is not empty, and holds {what}; name a new directory")
    before = config_in(config_file)
    if not resume and before != config and not common_only:
        raise InputError(
            f"--output: {output} is not empty: it holds another run, which differs from this recipe in "
            f"{told_differences(before, config)}; name a new directory, or {_REMEDY_RESUMING}"
        )
    if not resume:
        raise InputError(
            f"--output: {output} is not empty; give --resume to go on with the run in it, or name a new directory"
        )
    return allowed_changes(before, config, common_only=common_only, what=f"--output: {output}", remedy=_REMEDY)


def config_hash_of(recipe: Recipe, output: Path) -> str:
    """Return the hash that binds epochs and checkpoints to the run in `output`: as it began, not as it goes on."""
    if (output / schema.MANIFEST_FILE).exists():
        return str(open_run(output).manifest["config_hash"])
    return schema.config_hash(resolved(recipe))


def resume_point(
    output: Path,
    checkpoints: Checkpoints,
    *,
    splits: Mapping[str, PackedSplit],
    facts: Mapping[str, Any],
    reporter: Reporter,
    beside: Sequence[Path] = (),
) -> Checkpoint | None:
    """Return where an interrupted run goes on; None to start from its first epoch. Says what is skipped, and why.

    Not only the run in `output` must be good as far, but those `beside` it too.

    Raises
    ------
    InputError
        Data, tokenizer or starting model are not those of the run, or its records cannot be read.
    """
    if not (output / schema.MANIFEST_FILE).exists():
        return None
    run = open_run(output)
    what, remedy = f"--output: {output}", "restore what it was made from, or name a new directory"
    require_same_facts(run, facts, what=what, remedy=remedy)
    require_same_tokens(run, splits, what=what, remedy=remedy)
    good = {output: set(good_epochs(run))}
    for other in beside:
        good[other] = set(good_epochs(open_run(other))) if (other / schema.MANIFEST_FILE).exists() else set()
    for point in checkpoints.latest(on_skip=lambda reason: reporter.line(f"{output}: {reason}")):
        needed = range(point.epoch + 1)
        missing = [(place, epoch) for place, there in good.items() for epoch in needed if epoch not in there]
        if not missing:
            reporter.line(f"{output}: the run was interrupted; it goes on after epoch {point.epoch}")
            later = [epoch for epoch in run.epochs if epoch > point.epoch]
            if later:
                shown = ", ".join(map(str, later))
                reporter.line(f"{output}: epochs {shown} came after the checkpoint; they are trained again")
            return point
        place, epoch = missing[0]
        reporter.line(
            f"{place}: {point.path.name} is skipped: epoch {epoch}, which comes before it, is damaged or missing"
        )
    reporter.line(f"{output}: the run was interrupted before a checkpoint was whole; it starts from its first epoch")
    return None


def discard(*outputs: Path) -> None:
    """Remove what an interrupted attempt at these runs left: only names that a run writes."""
    for output in outputs:
        for name in (schema.MANIFEST_FILE, schema.METRICS_FILE):
            (output / name).unlink(missing_ok=True)
        for name in (
            schema.TOKENS_FOLDER,
            schema.EPOCHS_FOLDER,
            schema.MODEL_FOLDER,
            schema.CHECKPOINTS_FOLDER,
        ):
            shutil.rmtree(output / name, ignore_errors=True)
