"""Where an interrupted run of a recipe continues: at its newest complete checkpoint, if it is the same run."""

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
    """What an output folder holds: whether its run is finished, and which permitted settings of its recipe changed."""

    finished: bool
    changed: dict[str, Any]


def claim(recipe: Recipe, output: Path, *, resume: bool, reporter: Reporter) -> Claim:
    """Check the output folder of a run, and those of the models measured next to it.

    Raises
    ------
    InputError
        An output folder holds something that does not belong to this run.
    """
    config = resolved(recipe)
    changed = _changed(output, config, resume=resume)
    if not (output / schema.MANIFEST_FILE).exists() or not open_run(output).complete:
        for method in methods_beside(build_regularizers(recipe.regularizers)):
            # The config of such a run is not a recipe, so defaults of newer keys are not filled in.
            beside = config_beside(config, method)
            _changed(output_beside(output, method), beside, resume=resume, common_only=True)
        return Claim(False, changed)
    length = changed.get("training.num_train_epochs")
    if length is not None:
        raise InputError(
            f"--output: {output} holds a finished run of {length[0]} epochs; its optimiser state was deleted, so it "
            f"cannot continue to {length[1]} epochs; to train {length[1]} from the start, name a new directory"
        )
    # Checkpoints are removed last, so a run that was killed at the very end may still have them.
    shutil.rmtree(output / schema.CHECKPOINTS_FOLDER, ignore_errors=True)
    reporter.line(f"{output}: the run is finished already; nothing to do")
    return Claim(True, changed)


def _changed(output: Path, config: Mapping[str, Any], *, resume: bool, common_only: bool = False) -> dict[str, Any]:
    """Return the permitted differences of a config from that of the run in `output`. Else raise InputError."""
    if output.exists() and not output.is_dir():
        raise InputError(f"--output: {output} is a file; name a new directory")
    # A run that was killed while it wrote its first file has left only this temporary file.
    torn = schema.CONFIG_FILE + schema.TEMPORARY_SUFFIX
    if not output.exists() or {path.name for path in output.iterdir()} <= {torn}:
        return {}
    config_file = output / schema.CONFIG_FILE
    if not config_file.exists():
        what = "a study" if (output / schema.STUDY_FILE).exists() else "something other than a run"
        raise InputError(f"--output: {output} is not empty, and holds {what}; name a new directory")
    before = config_in(config_file)
    if not resume and before != config and not common_only:
        raise InputError(
            f"--output: {output} is not empty: it holds another run, which differs from this recipe in "
            f"{told_differences(before, config)}; name a new directory, or {_REMEDY_RESUMING}"
        )
    if not resume:
        raise InputError(
            f"--output: {output} is not empty; give --resume to continue the run in it, or name a new directory"
        )
    return allowed_changes(before, config, common_only=common_only, what=f"--output: {output}", remedy=_REMEDY)


def config_hash_of(recipe: Recipe, output: Path) -> str:
    """Return the hash that ties epochs and checkpoints to the run in `output`: the hash of its original config."""
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
    """Return where an interrupted run continues, or None for its first epoch. Report what is skipped, and why.

    The run in `output` and those in `beside` must all have intact records up to that point.

    Raises
    ------
    InputError
        Data, tokenizer or starting model differ from those of the run, or its records cannot be read.
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
            reporter.line(f"{output}: the run was interrupted; it continues after epoch {point.epoch}")
            later = [epoch for epoch in run.epochs if epoch > point.epoch]
            if later:
                shown = ", ".join(map(str, later))
                reporter.line(f"{output}: epochs {shown} came after the checkpoint; they are trained again")
            return point
        place, epoch = missing[0]
        reporter.line(
            f"{place}: {point.path.name} is skipped: epoch {epoch}, which comes before it, is damaged or missing"
        )
    reporter.line(f"{output}: the run was interrupted before its first checkpoint; it starts from its first epoch")
    return None


def discard(*outputs: Path) -> None:
    """Remove what an interrupted attempt left in these folders. Only files that a run writes are removed."""
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
