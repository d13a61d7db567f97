"""What a summary tells of a run, without the text it was trained on and without a path of the machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from dynamics.errors import InputError
from dynamics.records import schema

#: What is kept of a run's manifest, where it says so; what came of its tokens is in `_TOKEN_FACTS`.
_FACTS = (
    "format_version", "status", "diverged", "name", "config_hash", "versions", "hardware", "seeds", "data", "model",
    "tokenizer", "token_text", "precision", "reference", "curriculum", "steps_per_epoch", "total_steps",
    "planned_steps", "epochs_trained", "resumed", "timing", "tuned",
)  # fmt: skip
_TOKEN_FACTS = ("tokens_hash", "n_documents", "n_sequences", "n_recorded", "n_predicted")

#: Settings that runs of one arm may differ in: their seed, what is known by the hash of its content, and what changes
#: no weight.
_MAY_DIFFER = re.compile(
    r"(name|seed|corpus|tokenizer|model|base|validation|tuning)(\..*)?"
    r"|training\.(use_cpu|per_device_eval_batch_size|disable_tqdm|(dataloader|logging|log|save|eval|report)_.*)"
)

_ROOTED = re.compile(r"(/|~|\.\.?[/\\]|[A-Za-z]:[/\\]|\\\\)")


def facts_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a summary keeps of a run's manifest: facts without paths, and of its tokens hashes and numbers."""
    kept: dict[str, Any] = {key: manifest[key] for key in _FACTS if key in manifest}
    kept["tokens"] = {
        split: {key: entry[key] for key in _TOKEN_FACTS if key in entry} for split, entry in manifest["tokens"].items()
    }
    kept[schema.SELF_HASH] = manifest[schema.SELF_HASH]
    told: dict[str, Any] = without_folders(kept)
    return told


def without_folders(value: Any) -> Any:
    """Return settings with every path in them, at any depth, cut to its last part.

    A path begins at a root, a home or a dot, or is there on this machine; or has folders in folders. What is neither
    (the name of a model on the hub, ``builtin:`` or ``cache:`` names, templates) stays as it is.
    """
    if isinstance(value, Mapping):
        return {key: without_folders(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(each) for each in value]
    return _last_part(value) if isinstance(value, str) else value


def _last_part(text: str) -> str:
    if "\n" in text or not re.search(r"[/\\]", text) or "://" in text:
        return text
    folders = text.count("/") > 1 and not re.search(r"\s", text)
    if _ROOTED.match(text) or folders or os.path.exists(text):
        return re.split(r"[/\\]", text.rstrip("/\\"))[-1] or "."
    return text


def require_same_settings(kept: Mapping[str, Any], found: Mapping[str, Any], *, summary: str, run: str) -> None:
    """Raise InputError, naming both and the key, if two runs of one arm were trained by other settings.

    Parameters
    ----------
    kept, found : mapping
        Resolved recipes, as `without_folders` returns them. Seeds may differ, and where things lie: what they hold is
        compared by its hash (`require_same_start`).
    summary, run : str
        Names of both, for the message.
    """
    before, now = dict(_leaves(kept)), dict(_leaves(found))
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key) and not _MAY_DIFFER.fullmatch(key):
            raise InputError(
                f"{run} has {key} {now.get(key)!r}, and the runs of its arm in {summary} have {before.get(key)!r}: "
                "seeds of one arm differ in their seed alone; summarise it into another folder"
            )


def require_same_start(kept: Mapping[str, Any], found: Mapping[str, Any], *, summary: str, run: str) -> None:
    """Raise InputError, naming both, unless two runs have the same tokens in the same splits, model and tokenizer.

    Parameters
    ----------
    kept, found : mapping
        Facts, as `facts_of` returns them.
    """
    here, there = (
        {
            "splits": ", ".join(schema.in_split_order(facts["tokens"])),
            **{f"tokens of {split!r}": entry.get("tokens_hash") for split, entry in facts["tokens"].items()},
            **{f"recorded rows of {split!r}": entry.get("n_recorded") for split, entry in facts["tokens"].items()},
            "starting model": (facts.get("model") or {}).get("hash"),
            "tokenizer": (facts.get("tokenizer") or {}).get("hash"),
            "precision": facts.get("precision"),
        }
        for facts in (found, kept)
    )
    for key, value in here.items():
        if value != there.get(key):
            raise InputError(
                f"{run} has other {key} ({value}) than {summary} ({there.get(key)}), so that they cannot be compared; "
                "summarise it into another folder"
            )


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(config, Mapping) and config:
        for key, value in config.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif config is not None:
        yield prefix, config
