"""A recipe's documents, their division into parts, the tokenizer, and the tokens."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from dynamics.cache import cached_folder
from dynamics.corpus.packing import PackedSplit, pack_documents, split_documents
from dynamics.corpus.sources import Document, corpus_hash, load_documents, require_kept
from dynamics.corpus.tokenizer import encode_documents, load_tokenizer, pad_id, train_tokenizer
from dynamics.errors import InputError
from dynamics.recipe.named_sizes import NAMED_SIZES
from dynamics.recipe.settings import BaseSettings, CorpusSettings, Recipe
from dynamics.training.environment.hardware import versions


def _load(corpus: CorpusSettings) -> list[Document]:
    return load_documents(
        corpus.source,
        documents=corpus.documents,
        field=corpus.field,
        template=corpus.template,
        split=corpus.split,
        subset=corpus.subset,
        keep=corpus.keep,
    )


def domain_documents(recipe: Recipe) -> tuple[dict[str, list[Document]], list[Document]]:
    """Return the parts of the corpus and the separate validation sets, and all their documents together.

    Raises
    ------
    InputError
        A validation set with its own source contains documents that are used for training or tuning.
    """
    docs = _load(recipe.corpus)
    require_kept(docs)
    shares = {one.split: one.settings.fraction for one in recipe.held_out if one.settings.fraction is not None}
    parts = split_documents(
        docs,
        fraction=shares.pop("validation", 0.0),
        tuning=recipe.tuning.fraction if recipe.tuning is not None else 0.0,
        others=shares,
    )
    used = {doc.content_hash for part in ("train", "tuning") for doc in parts.get(part, [])}
    together = list(docs)
    for one in recipe.held_out:
        if one.settings.source is None:
            continue
        try:
            found = _load(one.settings.corpus(recipe.corpus))
        except InputError as error:
            raise InputError(f"{one.key}: {error}") from None
        both = used & {doc.content_hash for doc in found}
        if both:
            first = next(doc.origin for doc in found if doc.content_hash in both)
            raise InputError(
                f"{one.key}.source: {len(both)} documents are also in the training corpus (the first: {first}); "
                "remove them"
            )
        parts[one.split] = found
        together += found
    return parts, together


def base_documents(base: BaseSettings, domain: Sequence[Document]) -> list[Document]:
    docs = _load(base.corpus)
    if base.exclude_domain:
        excluded = {doc.content_hash for doc in domain}
        docs = [doc for doc in docs if doc.content_hash not in excluded]
    if not docs:
        raise InputError("base.corpus: no documents are left without those of the domain; name a larger corpus")
    return docs


def recipe_tokenizer(recipe: Recipe, docs: Sequence[Document]) -> PreTrainedTokenizerFast:
    if isinstance(recipe.tokenizer, str):
        own = recipe.tokenizer == recipe.model.name
        try:
            tokenizer = load_tokenizer(recipe.tokenizer)
        except InputError as error:
            raise (InputError(f"model.name: its own {error}") if own else error) from error.__cause__
        if not own and recipe.model.name not in NAMED_SIZES:
            _say_where_meanings_differ(tokenizer, recipe)
        return tokenizer
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


def n_ids(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many ids a model must have: one more than the largest, which may be more than the entries."""
    return 1 + max(tokenizer.get_vocab().values())


def _say_where_meanings_differ(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> None:
    """Warn where a pretrained model's own tokenizer, if it has one, gives many ids to other texts."""
    try:
        own = load_tokenizer(recipe.model.name)
    except InputError:
        return  # a model without one, or a name that whoever loads the model will refuse
    meanings = {index: token for token, index in own.get_vocab().items()}
    n_other = sum(meanings.get(index, token) != token for token, index in tokenizer.get_vocab().items())
    n_entries = len(tokenizer)
    if n_other > n_entries / 2:
        warnings.warn(
            f"tokenizer: {n_other:,} of its {n_entries:,} ids stand for other texts in the tokenizer of the pretrained "
            f"model {recipe.model.name!r}, which knows nothing of these; leave tokenizer out to use the model's own",
            stacklevel=2,
        )


def _save_tokenizer(tokenizer: PreTrainedTokenizerFast, path: Path) -> None:
    tokenizer.save_pretrained(path)


def pack(docs: Sequence[Document], tokenizer: PreTrainedTokenizerFast, block_size: int) -> PackedSplit:
    texts = [doc.text for doc in docs]
    encoded = encode_documents(tokenizer, texts)
    packed = pack_documents(encoded, texts, block_size=block_size, pad_id=pad_id(tokenizer))
    names = [name for name, _ in docs[0].kept]
    return replace(packed, document_fields={name: [doc.kept[at][1] for doc in docs] for at, name in enumerate(names)})
