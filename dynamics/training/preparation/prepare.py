"""Everything before training that all arms and seeds share: corpus, tokenizer, starting model, reference pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainingArguments

from dynamics.corpus.packing import PackedSplit
from dynamics.corpus.sources import corpus_hash
from dynamics.corpus.tokenizer import (
    tokenizer_hash,
)
from dynamics.recipe.settings import Recipe
from dynamics.reporting import Reporter
from dynamics.training.environment.arguments import ARITHMETIC, check_training, training_arguments
from dynamics.training.loop.clean_pass import TokenValues
from dynamics.training.preparation.documents import base_documents, domain_documents, pack, recipe_tokenizer
from dynamics.training.preparation.reference_pass import reference_pass
from dynamics.training.preparation.starting_model import Pretrain, starting_model


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The starting point of a run.

    Attributes
    ----------
    tokenizer : PreTrainedTokenizerFast
    splits : dict of str to PackedSplit
        ``train``, ``validation``, ``tuning`` if the recipe has this part, and ``validation-NAME`` for each further
        validation set.
    reference : dict of str to TokenValues
        The values of every split under the starting model.
    reference_path : Path
        The folder of the reference pass in the cache.
    reference_cached : bool
        Whether it was already in the cache.
    reference_made : dict
        The device and precision that computed it.
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
    reference_made: dict[str, str]
    load_model: Callable[[], PreTrainedModel]
    facts: dict[str, Any]


_last: tuple[Any, Prepared] | None = None


def prepare(recipe: Recipe, reporter: Reporter, *, pretrain: Pretrain, precision: str | None = None) -> Prepared:
    """Return the starting point of a run of `recipe`, computed or found in the cache.

    All runs of a study share it, so the last result is kept in memory for the next run in the same process.

    Parameters
    ----------
    recipe : Recipe
    reporter : Reporter
    pretrain : callable
        See `Pretrain`.
    precision : str, optional
        The precision of a resumed run; see `training_arguments`.

    Raises
    ------
    InputError
        Something in the recipe cannot be done. Nothing has been written to the output yet.
    """
    global _last
    arithmetic = {name: recipe.training[name] for name in ARITHMETIC if name in recipe.training}
    key = (recipe.model_dump_json(include=_SHARED_FIELDS), arithmetic, precision)
    if _last is None or _last[0] != key:
        check_training(recipe.training)
        # Only the device and precision matter here. Other arguments might need several processes.
        args = training_arguments(arithmetic, output_dir=Path("unused"), seed=recipe.seed, precision=precision)
        _last = (key, _prepare(recipe, args, reporter, pretrain))
    return _last[1]


# What the starting point depends on, in addition to `ARITHMETIC`. Training, regularisers and seeds do not matter.
_SHARED_FIELDS = {"corpus", "tokenizer", "model", "base", "block_size", "validation", "tuning"}


def _prepare(recipe: Recipe, args: TrainingArguments, reporter: Reporter, pretrain: Pretrain) -> Prepared:
    if recipe.base is not None:
        check_training(recipe.base.training, where="base.training")
    reporter.stage("reading the corpus")
    parts, domain = domain_documents(recipe)
    base_docs = base_documents(recipe.base, domain) if recipe.base is not None else []
    reporter.stage("tokenising")
    tokenizer = recipe_tokenizer(recipe, [*base_docs, *parts["train"]])
    splits = {name: pack(docs, tokenizer, recipe.block_size) for name, docs in parts.items()}
    load_model, model_facts = starting_model(recipe, tokenizer, base_docs, reporter, pretrain)
    reference = reference_pass(splits, load_model, model_facts["hash"], args, reporter)
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
        reference=reference.values,
        reference_path=reference.path,
        reference_cached=reference.cached,
        reference_made=reference.made,
        load_model=load_model,
        facts=facts,
    )
