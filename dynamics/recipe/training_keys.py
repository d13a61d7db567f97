"""The `training:` part of a recipe, as far as it can be checked without transformers.

Names, types and ranges are checked against TrainingArguments in `dynamics.training.environment.arguments`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dynamics.regularizers.base import Regularizer
from dynamics.regularizers.registry import METHODS
from dynamics.validation import shown

# TrainingArguments fields that a recipe may not set, and what to do instead.
_OWNED = {
    "output_dir": "give --output",
    "logging_dir": "metrics.jsonl lies in the output",
    "seed": "set the recipe's seed",
    "data_seed": "set the recipe's seed",
    "remove_unused_columns": "sequence_id must reach the trainer",
    "max_steps": "set num_train_epochs: recording is by epoch",
    "resume_from_checkpoint": "give --resume",
    "load_best_model_at_end": "the records hold every epoch",
    "label_names": "the project computes the loss",
    "do_eval": "every epoch is recorded",
    "do_train": "`dynamics train` trains",
    "do_predict": "every epoch is recorded",
    "auto_find_batch_size": "masks and steps belong to one batch size",
    "dataloader_drop_last": "every sequence counts in every epoch",
    "use_liger_kernel": "its loss hides the logits from recording",
}
_OWNED_PREFIXES = {
    "save_": "every run saves its model",
    "eval_": "every epoch is recorded",
    "hub_": "nothing is pushed",
    "push_to_hub": "push the folder model/ of the finished run",
}
_ALLOWED = {"eval_accumulation_steps"}


def checked_training(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields, if the project leaves them to the recipe and JSON can hold them.

    Raises
    ------
    ValueError
        Naming the fields.
    """
    refused = [
        f"{key} belongs to the project ({reason}); leave it out"
        for key in training
        if (reason := _owner(key)) is not None
    ]
    if refused:
        raise ValueError("; ".join(refused))
    epochs = training.get("num_train_epochs", 1)
    if not _is_whole(epochs) or epochs < 1:
        raise ValueError(
            f"num_train_epochs must be a whole number of at least 1, not {shown(epochs)}: recording is by epoch"
        )
    for key, value in training.items():
        require_plain(value, key)
    return dict(training)


def conflict(regularizers: Sequence[Mapping[str, Any]], training: Mapping[str, Any]) -> str | None:
    """Return what regularisers and training arguments contradict each other in, if they do.

    All else combines: weights on token losses multiply, masks on the input follow NEFTune's noise, and what adapts
    to the step's own losses acts on those that the others keep.

    Parameters
    ----------
    regularizers : sequence of mapping
        The settings of each: `name`, and of the others those that can contradict (`target`, `normalize`,
        `replacement`).
    training : mapping
        The recipe's `training:`.
    """
    names = [one["name"] for one in regularizers]
    # One that somebody wrote for themselves says nothing here of what it goes with.
    methods = [METHODS.get(name, Regularizer) for name in names]
    apart = [(name, method.told_apart(one)) for one, name, method in zip(regularizers, names, methods, strict=True)]
    drawing: dict[str, str] = {}
    divisors: dict[str, str] = {}
    for one, (name, kind), method in zip(regularizers, apart, methods, strict=True):
        if apart.count((name, kind)) > 1:
            return f"regularizers: {name} stands there twice{kind and f' as {kind}'}; keep one"
        field = method.argument[1] if method.argument is not None else None
        if field in training:
            return f"regularizers: {name} and training.{field} set the same value; keep one of them"
        if method.draws is not None and (other := drawing.setdefault(method.draws, name)) != name:
            return (
                f"regularizers: {other} and {name} are each other's controls and drop by the same draws, so that "
                "their masks are not independent; keep one of them"
            )
        if (divisor := method.divisor(one)) is not None:
            divisors[divisor] = name
    deleting = next((one["name"] for one in regularizers if one.get("replacement") == "deleted"), None)
    if deleting is not None and "masked_input_regularization" in names:
        return (
            f"regularizers: {deleting} with replacement: deleted moves tokens within their rows, and "
            "masked_input_regularization masks them where they stood; give another replacement, or keep one of them"
        )
    if len(divisors) > 1:
        return (
            f"regularizers: {divisors['kept']} divides the loss by the tokens kept (normalize: kept), and "
            f"{divisors['all']} by all predicted tokens (normalize: all); give both the same normalize"
        )
    return None


def deep_merged(fields: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return `fields` with `change` on top: mappings are merged, all else is replaced."""
    result = dict(fields)
    for key, value in change.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = deep_merged(below, value) if both else value  # type: ignore[arg-type]
    return result


def _owner(key: str) -> str | None:
    if key in _ALLOWED:
        return None
    by_prefix = (why for prefix, why in _OWNED_PREFIXES.items() if key.startswith(prefix))
    return _OWNED.get(key) or next(by_prefix, None)


def _is_whole(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or value.is_integer()


def require_plain(value: Any, key: str) -> None:
    """Raise ValueError for what the resolved recipe, whose hash is that of its JSON, could not hold."""
    if isinstance(value, list):
        for at, one in enumerate(value):
            require_plain(one, f"{key}.{at}")
    elif isinstance(value, dict):
        for name, one in value.items():
            if not isinstance(name, str):
                raise ValueError(f"{key}: the key {shown(name)} must be text")
            require_plain(one, f"{key}.{name}")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{key} must be a finite number, not {shown(value)}")
    elif value is not None and not isinstance(value, bool | int | str):
        raise ValueError(f"{key} must be a number, text, true or false, not {shown(value)}")
