"""Small runs and studies with planted curves, written by the real writer; no torch.

    run = open_run(make_run(tmp_path / "run", n_documents=40, epochs=[0, 1, 2, 3]))
    study = open_study(make_study(tmp_path / "study", arms={"baseline": {}, "entrodrop": {...}}))

Documents, tokens and reference values depend on `corpus_seed` alone, so that they are the same in
every arm and seed. A planted curve is a function ``(epoch, split, reference_entropy, rng) ->
(R, B)`` values; where nothing is predicted NaN is put afterwards. Half of the tokens (at random)
have a reference entropy in [0.1, 1), the other half in [3, 5).
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dynamics.predicted import predicted_mask
from dynamics.records import schema, writer

Array = np.ndarray[Any, Any]
Curve = Callable[[int, str, Array, np.random.Generator], Array]

VOCABULARY = 512
_WORDS = ("the", "list", "of", "données", "returns", "a", "module", "with", "über", "value")


def planted_loss(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
    """Loss without noise: low-entropy tokens fall on both splits; others rebound on validation.

    The lowest validation loss of high-entropy tokens is at epoch 2.
    """
    low = entropy < 2
    falling = entropy * 0.5**epoch
    rebounding = entropy - 0.5 + 0.125 * (epoch - 2) ** 2
    return falling if split == "train" else np.where(low, falling, rebounding)


def planted_entropy(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
    """Entropy that falls by a tenth an epoch everywhere."""
    return entropy * 0.9**epoch


@dataclass(frozen=True)
class SyntheticSplit:
    """The attributes of `dynamics.corpus.packing.PackedSplit` that the writer needs."""

    token_id: Array
    document_id: Array
    byte_start: Array
    byte_end: Array
    text: Array
    text_offset: Array
    document_hash: Array

    def tokens_hash(self) -> str:
        return hashlib.sha256(self.token_id.tobytes() + self.document_id.tobytes()).hexdigest()


def make_split(*, n_documents: int, block_size: int, seed: int, words: int = 40) -> SyntheticSplit:
    """Documents of about `words` words; tokens of up to 4 bytes, and an end-of-text token 0 each."""
    rng = np.random.default_rng(seed)
    texts = []
    for document in range(n_documents):
        chosen = rng.choice(_WORDS, size=int(rng.integers(words // 2, words * 3 // 2)))
        texts.append(f"{document}: {' '.join(chosen)}".encode())
    columns: list[tuple[int, int, int, int]] = []
    for document, text in enumerate(texts):
        for first in range(0, len(text), 4):
            last = min(first + 4, len(text))
            token = 2 + zlib.crc32(text[first:last]) % (VOCABULARY - 2)
            columns.append((token, document, first, last))
        columns.append((0, document, len(text), len(text)))
    columns += [(1, -1, 0, 0)] * (-len(columns) % block_size)
    token_id, document_id, start, end = (
        np.array(column, dtype=np.int32).reshape(-1, block_size) for column in zip(*columns, strict=True)
    )
    digests = b"".join(hashlib.sha256(text).digest() for text in texts)
    return SyntheticSplit(
        token_id=token_id,
        document_id=document_id,
        byte_start=start,
        byte_end=end,
        text=np.frombuffer(b"".join(texts), dtype=np.uint8),
        text_offset=np.cumsum([0, *(len(text) for text in texts)]).astype(np.int64),
        document_hash=np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32),
    )


def make_run(
    path: Path,
    *,
    n_documents: int = 12,
    block_size: int = 16,
    epochs: int | Sequence[int] = 4,
    loss_fn: Curve = planted_loss,
    entropy_fn: Curve = planted_entropy,
    regularizers: Sequence[Mapping[str, Any]] = (),
    recorded: Mapping[str, Sequence[int]] | None = None,
    held_out: Sequence[str] = ("validation",),
    name: str = "synthetic",
    seed: int = 0,
    corpus_seed: int = 1,
    dtype: str = "float16",
    status: str = "complete",
    cut: float | None = None,
    document_fields: Callable[[int], Mapping[str, Sequence[Any]]] | None = None,
) -> Path:
    """Write a run and return its path.

    Parameters
    ----------
    n_documents
        In training; half as many are in validation, and in each other split of `held_out`.
    epochs
        The number of epochs of training (0 is written besides), or the epochs to write.
    regularizers
        As in a recipe. The first one with a ``ratio`` r drops tokens with probability r times
        epoch / last epoch, at random among those predicted.
    recorded
        The ids of the recorded sequences by split; all where absent.
    held_out
        The splits beside the training set.
    status
        "running" leaves out the model and the entries of a complete manifest.
    cut
        The passes that the last epoch stands for, if it was cut; 10 optimiser steps make a pass.
    document_fields
        From the number of documents of a split to what the corpus kept of each.
    """
    path.mkdir(parents=True)
    written = list(range(epochs + 1)) if isinstance(epochs, int) else list(epochs)
    last = max(written)
    config = {
        "name": name,
        "corpus": {"source": "synthetic", "documents": n_documents},
        "model": {"name": "none"},
        "block_size": block_size,
        "validation": {"fraction": 0.33},
        "regularizers": [dict(regularizer) for regularizer in regularizers],
        "training": {"num_train_epochs": last, "learning_rate": 0.001},
        "seed": seed,
    }
    (path / schema.CONFIG_FILE).write_bytes(yaml.safe_dump(config, sort_keys=False).encode())
    ratio = next((float(r["ratio"]) for r in regularizers if "ratio" in r), 0.0)

    packed, reference, rows, tokens = {}, {}, {}, {}
    for at, split in enumerate(("train", *held_out)):
        packed[split] = make_split(
            n_documents=n_documents if split == "train" else max(1, n_documents // 2),
            block_size=block_size,
            seed=corpus_seed + 1000 * at,
        )
        reference[split] = _reference_entropy(packed[split], corpus_seed)
        every = range(len(packed[split].token_id))
        rows[split] = np.asarray((recorded or {}).get(split, every), dtype=np.int32)
        tokens[split] = writer.write_tokens(
            path,
            split,
            packed[split],
            reference_loss=reference[split] + 0.25,
            reference_entropy=reference[split],
            recorded_sequence_id=rows[split],
            document_fields=None
            if document_fields is None
            else document_fields(n_documents if split == "train" else max(1, n_documents // 2)),
        )

    rng = np.random.default_rng([seed, 7])
    for epoch in written:
        values = {}
        for split in packed:
            at = rows[split]
            predicted = predicted_mask(packed[split].document_id)[at]
            entropy = reference[split][at]
            loss = np.where(predicted, loss_fn(epoch, split, entropy, rng), np.nan)
            drop = predicted & (rng.random(predicted.shape) < ratio * epoch / max(last, 1))
            values[split] = writer.SplitValues(
                sequence_id=at,
                loss=loss,
                entropy=np.where(predicted, entropy_fn(epoch, split, entropy, rng), np.nan),
                correct=predicted & (np.nan_to_num(loss, nan=np.inf) < 0.5),
                dropped=drop if split == "train" and epoch > 0 and ratio else None,
            )
        passes = cut if cut is not None and epoch == last else float(epoch)
        writer.write_epoch(
            path,
            epoch,
            values,
            config_hash=schema.config_hash(config),
            dtype=dtype,
            step=round(10 * passes),
            passes=passes,
        )

    writer.append_metrics(path / schema.METRICS_FILE, _metrics(last, ratio))
    manifest: dict[str, Any] = {
        "format_version": schema.FORMAT_VERSION,
        "status": status,
        "name": name,
        "config_hash": schema.config_hash(config),
        "config_sha256": schema.sha256_file(path / schema.CONFIG_FILE),
        "versions": {"dynamics": "0.1.0"},
        "hardware": {},
        "seeds": {"seed": seed},
        "data": {"corpus_hash": tokens["train"]["tokens_hash"]},
        "model": {"name": "none"},
        "tokenizer": {"hash": "none"},
        "tokens": tokens,
        "curriculum": _curriculum(regularizers, ratio),
        "steps_per_epoch": 10,
        "total_steps": 10 * last,
        "timing": {"seconds": 1.0},
    }
    if status == "complete":
        model = path / schema.MODEL_FOLDER
        model.mkdir()
        (model / "config.json").write_text('{"model_type": "none"}\n')
        (model / "model.safetensors").write_bytes(bytes(range(256)))
        manifest |= writer.finished_files(path)
    schema.write_manifest(path / schema.MANIFEST_FILE, manifest)
    return path


def make_study(
    path: Path,
    *,
    arms: Mapping[str, Mapping[str, Any]] | None = None,
    seeds: Sequence[int] = (0, 1),
    loss_fns: Mapping[str, Curve] | None = None,
    skip: Sequence[tuple[str, int]] = (),
    **run: Any,
) -> Path:
    """Write a study and return its path.

    Parameters
    ----------
    arms
        Overrides by name, as in a recipe; ``regularizers`` is used. By default a baseline and
        EntroDrop at ratio 0.2.
    loss_fns
        The planted curve of an arm, where it is not the default one.
    skip
        (arm, seed) pairs that have not been run.
    run
        Passed on to `make_run`.
    """
    if arms is None:
        arms = {
            "baseline": {},
            "entrodrop": {"regularizers": [{"name": "entrodrop", "ratio": 0.2, "pool": 0.5}]},
        }
    path.mkdir(parents=True)
    recipe = {
        "name": path.name,
        "arms": {arm: dict(overrides) for arm, overrides in arms.items()},
        "seeds": list(seeds),
    }
    (path / schema.STUDY_FILE).write_bytes(yaml.safe_dump(recipe, sort_keys=False).encode())
    for arm, overrides in arms.items():
        for seed in seeds:
            if (arm, seed) in skip:
                continue
            options = dict(run)
            if loss_fns and arm in loss_fns:
                options["loss_fn"] = loss_fns[arm]
            make_run(
                path / schema.RUNS_FOLDER / arm / f"seed-{seed}",
                name=f"{arm}-{seed}",
                seed=seed,
                regularizers=overrides.get("regularizers", ()),
                **options,
            )
    return path


def _reference_entropy(packed: SyntheticSplit, seed: int) -> Array:
    rng = np.random.default_rng([seed, packed.token_id.size])
    low = rng.choice([True, False], size=packed.token_id.shape)
    values = np.where(low, rng.uniform(0.1, 1.0, low.shape), rng.uniform(3.0, 5.0, low.shape)).astype(np.float32)
    return np.where(predicted_mask(packed.document_id), values, np.float32(np.nan))


def _metrics(last: int, ratio: float) -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "epoch": step / 10,
            "training_loss": 4.0 * 0.9**step,
            "learning_rate": 0.001,
            "ratio": ratio * step / max(10 * last, 1),
            "dropped_share": ratio * step / max(10 * last, 1),
        }
        for step in range(0, 10 * last + 1, 5)
    ]


def _curriculum(regularizers: Sequence[Mapping[str, Any]], ratio: float) -> dict[str, Any] | None:
    if not ratio:
        return None
    first = next(r for r in regularizers if "ratio" in r)
    return {
        "name": first.get("name", "entrodrop"),
        "ratio": ratio,
        "pool": first.get("pool", 0.5),
        "schedule": first.get("schedule", "linear"),
        "mean_ratio": ratio / 2,
    }
