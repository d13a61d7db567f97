"""Everything before training, the same for all arms and seeds: corpus, tokenizer, starting model, reference pass."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Trainer

from dynamics.cache import cached_folder
from dynamics.corpus.packing import PackedSplit, pack_documents, split_documents
from dynamics.corpus.sources import Document, corpus_hash, load_documents
from dynamics.corpus.tokenizer import (
    encode_documents,
    load_tokenizer,
    pad_id,
    tokenizer_hash,
    train_tokenizer,
)
from dynamics.errors import InputError
from dynamics.recipe.settings import BaseSettings, CorpusSettings, ModelSettings, Recipe
from dynamics.reporting import Reporter
from dynamics.training.batches.dataset import SequenceDataset
from dynamics.training.environment.arguments import check_training, forward_dtype, training_arguments
from dynamics.training.environment.hardware import versions
from dynamics.training.environment.processes import launched
from dynamics.training.loop.clean_pass import TokenValues, evaluate_tokens
from dynamics.training.loop.session import Session, TrainingPass
from dynamics.training.preparation.models import build_model, model_hash
from dynamics.training.trainer import DynamicsTrainer

# What pretraining a small model from nothing wants; `base.training` overrides each.
BASE_TRAINING: dict[str, Any] = {
    "learning_rate": 2e-3,
    "per_device_train_batch_size": 16,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "weight_decay": 0.1,
}


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a run starts from.

    Attributes
    ----------
    tokenizer : PreTrainedTokenizerFast
    splits : dict of str to PackedSplit
        ``train``, ``validation`` and, where the recipe sets one aside, ``tuning``.
    reference : dict of str to TokenValues
        Of train and validation, under the frozen starting model.
    reference_path : Path
        The cached reference pass.
    reference_cached : bool
        Whether it was there already.
    load_model : callable
        Returns a fresh starting model.
    facts : dict
        Hashes and sizes for the manifest: ``data``, ``model``, ``tokenizer``.
    """

    tokenizer: PreTrainedTokenizerFast
    splits: dict[str, PackedSplit]
    reference: dict[str, TokenValues]
    reference_path: Path
    reference_cached: bool
    load_model: Callable[[], PreTrainedModel]
    facts: dict[str, Any]


_last: tuple[str, Prepared] | None = None


def prepare(recipe: Recipe, reporter: Reporter) -> Prepared:
    """Return what a run of `recipe` starts from, made or found in the cache.

    The runs of a study share all of it, so the last result is kept for the next run in the same process.

    Raises
    ------
    InputError
        For whatever in the recipe cannot be done; nothing has been written to the output then.
    """
    global _last
    key = recipe.model_dump_json(include=_SHARED_FIELDS)
    if _last is None or _last[0] != key:
        _last = (key, _prepare(recipe, reporter))
    return _last[1]


# What the starting point depends on; training, regularisers and seeds are left out.
_SHARED_FIELDS = {"corpus", "tokenizer", "model", "base", "block_size", "validation", "tuning"}


def reference(recipe: Recipe, reporter: Reporter) -> dict[str, Any]:
    """Do the reference pass alone; return its ``path``, whether it was ``cached``, and its means."""
    prepared = prepare(recipe, reporter)
    return {
        "path": prepared.reference_path,
        "cached": prepared.reference_cached,
        **{
            split: {
                "n_tokens": prepared.splits[split].n_predicted,
                "loss": values.mean_loss,
                "entropy": float(np.nanmean(values.entropy, dtype=np.float64)),
            }
            for split, values in prepared.reference.items()
        },
    }


def _prepare(recipe: Recipe, reporter: Reporter) -> Prepared:
    check_training(recipe.training)
    if recipe.base is not None:
        check_training(recipe.base.training, where="base.training")
    reporter.stage("reading the corpus")
    parts, domain = _documents(recipe)
    base_docs = _base_documents(recipe.base, domain) if recipe.base is not None else []
    reporter.stage("tokenising")
    tokenizer = _tokenizer(recipe, [*base_docs, *parts["train"]])
    splits = {name: _pack(docs, tokenizer, recipe.block_size) for name, docs in parts.items()}
    load_model, model_facts = _starting_model(recipe, tokenizer, base_docs, reporter)
    values, path, cached = _reference_pass(splits, load_model, model_facts["hash"], reporter)
    facts = {
        "data": {
            "corpus_hash": corpus_hash(domain),
            "documents": {name: len(docs) for name, docs in parts.items()},
            "base_corpus_hash": corpus_hash(base_docs) if base_docs else None,
            "base_documents": len(base_docs),
        },
        "model": model_facts,
        "tokenizer": {"hash": tokenizer_hash(tokenizer), "vocab_size": len(tokenizer)},
    }
    return Prepared(
        tokenizer=tokenizer,
        splits=splits,
        reference=values,
        reference_path=path,
        reference_cached=cached,
        load_model=load_model,
        facts=facts,
    )


# ----------------------------------------------------------------------------- documents


def _load(corpus: CorpusSettings) -> list[Document]:
    return load_documents(
        corpus.source,
        documents=corpus.documents,
        field=corpus.field,
        template=corpus.template,
        split=corpus.split,
        subset=corpus.subset,
    )


def _documents(recipe: Recipe) -> tuple[dict[str, list[Document]], list[Document]]:
    """Return the parts of the corpus, and all domain documents together."""
    docs = _load(recipe.corpus)
    tuning = recipe.tuning.fraction if recipe.tuning is not None else 0.0
    if recipe.validation.fraction is not None:
        return split_documents(docs, fraction=recipe.validation.fraction, tuning=tuning), docs
    assert recipe.validation.source is not None
    held_out = _load(recipe.corpus.model_copy(update={"source": recipe.validation.source, "documents": None}))
    both = {doc.content_hash for doc in docs} & {doc.content_hash for doc in held_out}
    if both:
        first = next(doc.origin for doc in held_out if doc.content_hash in both)
        raise InputError(
            f"validation.source: {len(both)} documents are in the training corpus too (the first: {first}); remove them"
        )
    parts = split_documents(docs, fraction=0.0, tuning=tuning)
    return {**parts, "validation": held_out}, [*docs, *held_out]


def _base_documents(base: BaseSettings, domain: Sequence[Document]) -> list[Document]:
    docs = _load(base.corpus)
    if base.exclude_domain:
        excluded = {doc.content_hash for doc in domain}
        docs = [doc for doc in docs if doc.content_hash not in excluded]
    if not docs:
        raise InputError("base.corpus: nothing is left of it without the domain's documents; name a larger one")
    return docs


def _tokenizer(recipe: Recipe, docs: Sequence[Document]) -> PreTrainedTokenizerFast:
    if isinstance(recipe.tokenizer, str):
        return load_tokenizer(recipe.tokenizer)
    vocab_size = recipe.tokenizer.train.vocab_size
    texts = [doc.text for doc in docs]
    key = {
        "texts": corpus_hash(docs),
        "vocab_size": vocab_size,
        "tokenizers": versions()["tokenizers"],
    }
    folder, _ = cached_folder(
        "tokenizers",
        key,
        lambda path: _save_tokenizer(train_tokenizer(texts, vocab_size=vocab_size), path),
    )
    return load_tokenizer(str(folder))


def _save_tokenizer(tokenizer: PreTrainedTokenizerFast, path: Path) -> None:
    tokenizer.save_pretrained(path)


def _pack(docs: Sequence[Document], tokenizer: PreTrainedTokenizerFast, block_size: int) -> PackedSplit:
    texts = [doc.text for doc in docs]
    encoded = encode_documents(tokenizer, texts)
    return pack_documents(encoded, texts, block_size=block_size, pad_id=pad_id(tokenizer))


# ------------------------------------------------------------------------ starting model


def _starting_model(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    base_docs: Sequence[Document],
    reporter: Reporter,
) -> tuple[Callable[[], PreTrainedModel], dict[str, Any]]:
    settings = recipe.model

    def untrained() -> PreTrainedModel:
        return build_model(settings, tokenizer=tokenizer, block_size=recipe.block_size)

    if recipe.base is None:
        return untrained, {"name": settings.name, "hash": model_hash(untrained())}
    base = recipe.base
    training = {**BASE_TRAINING, **base.training, "num_train_epochs": base.epochs}
    key = {
        "corpus": corpus_hash(base_docs),
        "tokenizer": tokenizer_hash(tokenizer),
        "untrained": model_hash(untrained()),
        "block_size": recipe.block_size,
        "seed": base.seed,
        "training": training,
        "versions": {name: versions()[name] for name in ("torch", "transformers")},
        "cuda": torch.cuda.is_available(),
    }

    def build(path: Path) -> None:
        _need_one_process("the starting model is not pretrained yet")
        model = untrained()
        loss = _pretrain(
            model,
            _pack(base_docs, tokenizer, recipe.block_size),
            training,
            base.seed,
            path,
            reporter,
        )
        model.save_pretrained(path)
        (path / "facts.json").write_text(json.dumps({"hash": model_hash(model), "training_loss": loss}))

    folder, cached = cached_folder("base-models", key, build)
    facts = json.loads((folder / "facts.json").read_text())
    reporter.stage(
        f"starting model {'found in the cache' if cached else 'ready'}: {settings.name}, pretrained on "
        f"{len(base_docs):,} documents to a training loss of {facts['training_loss']:.3f}"
    )
    loaded = ModelSettings(name=str(folder))

    def pretrained() -> PreTrainedModel:
        return build_model(loaded, tokenizer=tokenizer, block_size=recipe.block_size)

    return pretrained, {"name": settings.name, "base_training": training, **facts}


def _pretrain(
    model: PreTrainedModel,
    packed: PackedSplit,
    training: dict[str, Any],
    seed: int,
    path: Path,
    reporter: Reporter,
) -> float:
    """Train `model` in place; return its mean training loss over the last epoch, in nats."""
    args = training_arguments(training, output_dir=path, seed=seed, where="base.training")
    args.save_strategy = "no"
    losses: list[float] = []
    with reporter.progress(
        len(packed.token_id) * int(training["num_train_epochs"]), "pretraining the base"
    ) as progress:

        def on_epoch(trainer: Trainer, epoch: int, seen: TrainingPass) -> None:
            if seen.mean_loss is not None:
                losses.append(seen.mean_loss)

        session = Session(on_epoch=on_epoch, on_batch=progress.update)
        session.open(torch.arange(len(packed.token_id)), packed.token_id.shape[1])
        trainer = DynamicsTrainer(
            model=model,
            args=args,
            train_dataset=SequenceDataset(packed.token_id, packed.labels()),
            session=session,
        )
        trainer.train()
    model.to("cpu")  # type: ignore[arg-type]
    return losses[-1]


def _need_one_process(what: str) -> None:
    if launched() > 1:
        raise InputError(
            f"{what}, and {launched()} processes were started: run `dynamics reference RECIPE` once, in one process, "
            "with the same $DYNAMICS_CACHE; what it makes is found in the cache then"
        )


# ------------------------------------------------------------------------ reference pass


def _reference_pass(
    splits: dict[str, PackedSplit],
    load_model: Callable[[], PreTrainedModel],
    weights_hash: str,
    reporter: Reporter,
) -> tuple[dict[str, TokenValues], Path, bool]:
    wanted = {name: splits[name] for name in ("train", "validation")}
    args = training_arguments({}, output_dir=Path("unused"), seed=0)
    dtype = forward_dtype(args)
    tokens = hashlib.sha256("".join(packed.tokens_hash() for packed in wanted.values()).encode()).hexdigest()
    key = {
        "model": weights_hash,
        "tokens": tokens,
        "dtype": str(dtype),
        "versions": {name: versions()[name] for name in ("torch", "transformers")},
    }

    def build(path: Path) -> None:
        _need_one_process("the reference pass is not done yet")
        model = load_model()
        model.to(args.device)  # type: ignore[arg-type]
        arrays: dict[str, np.ndarray] = {}
        n_sequences = sum(len(packed.token_id) for packed in wanted.values())
        with reporter.progress(n_sequences, "reference pass") as progress:
            for name, packed in wanted.items():
                values = evaluate_tokens(
                    model,
                    packed.token_id,
                    packed.labels(),
                    batch_size=_REFERENCE_BATCH,
                    dtype=dtype,
                    on_batch=progress.update,
                )
                arrays |= {
                    f"{name}.loss": values.loss,
                    f"{name}.entropy": values.entropy,
                    f"{name}.correct": values.correct,
                }
        save_file(arrays, path / "reference.safetensors")

    folder, cached = cached_folder("references", key, build)
    arrays = load_file(folder / "reference.safetensors")
    values = {
        name: TokenValues(
            loss=arrays[f"{name}.loss"],
            entropy=arrays[f"{name}.entropy"],
            correct=arrays[f"{name}.correct"],
        )
        for name in wanted
    }
    return values, folder, cached


_REFERENCE_BATCH = 16
