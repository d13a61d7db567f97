"""The size of a recipe's corpus: counted if it is on this machine, otherwise computed from assumptions."""

from __future__ import annotations

import math
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from dynamics.corpus.packing import PackedSplit
from dynamics.corpus.sources import Document
from dynamics.corpus.tokenizer import load_tokenizer
from dynamics.errors import InputError
from dynamics.recipe.settings import CorpusSettings, Recipe
from dynamics.records import schema
from dynamics.training.preparation.documents import base_documents, domain_documents, n_ids, pack, recipe_tokenizer
from dynamics.training.preparation.model_size import offline

#: Assumed bytes of text per token, if the text is not available.
ASSUMED_TOKEN_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class SplitSize:
    """The size of one part of the corpus. None means unknown.

    Attributes
    ----------
    documents, tokens, sequences, text_bytes : int, optional
        Tokens include one end-of-text token per document, but no padding.
    fields_bytes : int
        Bytes of document fields other than the text.
    """

    documents: int | None = None
    tokens: int | None = None
    sequences: int | None = None
    text_bytes: int | None = None
    fields_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class CorpusSize:
    """What is known about a recipe's data.

    Attributes
    ----------
    splits : dict of str to SplitSize
        The splits as they would be recorded.
    base : SplitSize, optional
        The data on which the starting model is pretrained.
    vocabulary : int, optional
        Number of entries of the tokenizer.
    missing : list of str
        What would have to be downloaded.
    counted : bool
        Whether documents and tokens were counted. If not, token counts and what follows from them are assumptions.
    documents_counted : bool
        Whether at least the documents were counted.
    packed : PackedSplit, optional
        The training set, if it was counted.
    tokenizer : PreTrainedTokenizerFast, optional
        None if it is not on this machine.
    """

    splits: dict[str, SplitSize]
    base: SplitSize | None
    vocabulary: int | None
    missing: list[str]
    counted: bool
    documents_counted: bool = True
    packed: PackedSplit | None = None
    tokenizer: PreTrainedTokenizerFast | None = None


def corpus_size(recipe: Recipe, *, tokens_per_document: float | None = None) -> CorpusSize:
    """Return the size of a recipe's data. Nothing is downloaded.

    Parameters
    ----------
    recipe : Recipe
    tokens_per_document : float, optional
        Assumed length of documents that cannot be tokenised here.

    Raises
    ------
    InputError
        Data that is on this machine cannot be used.
    """
    with offline():
        missing = _missing_sources(recipe)
        parts, base = ({}, []) if missing else _documents(recipe)
        tokenizer = None
        if isinstance(recipe.tokenizer, str):
            tokenizer = _tokenizer_here(recipe.tokenizer)
            if tokenizer is None:
                missing.append(f"tokenizer {recipe.tokenizer}")
        if missing:
            return _assumed(recipe, parts, base, tokenizer, missing, tokens_per_document)
        tokenizer = recipe_tokenizer(recipe, [*base, *parts["train"]])
    packed = {name: pack(docs, tokenizer, recipe.block_size) for name, docs in parts.items()}
    return CorpusSize(
        splits={name: _counted(parts[name], packed[name]) for name in parts},
        base=_counted(base, pack(base, tokenizer, recipe.block_size)) if base else None,
        vocabulary=n_ids(tokenizer),
        missing=[],
        counted=True,
        packed=packed["train"],
        tokenizer=tokenizer,
    )


def _missing_sources(recipe: Recipe) -> list[str]:
    """Return the data sets of a recipe that are not in the local hub cache."""
    corpora = [recipe.corpus]
    corpora += [one.settings.corpus(recipe.corpus) for one in recipe.held_out if one.settings.source is not None]
    corpora += [recipe.base.corpus] if recipe.base is not None else []
    found = []
    for corpus in corpora:
        for source in [corpus.source] if isinstance(corpus.source, str) else corpus.source:
            if source.startswith("hub:") and not _is_here(source.removeprefix("hub:"), corpus):
                subset = "" if corpus.subset is None else f", subset {corpus.subset}"
                found.append(f"{source} (split {corpus.split}{subset})")
    return list(dict.fromkeys(found))


def _is_here(name: str, corpus: CorpusSettings) -> bool:
    import datasets

    from dynamics.corpus.sources import hub_place

    place = hub_place(name)
    try:
        datasets.load_dataset_builder(place.name, corpus.subset, data_dir=place.folder)
    except (OSError, ValueError, ConnectionError):  # not in the cache, or not this subset
        return place.local
    return True


def _tokenizer_here(name: str) -> PreTrainedTokenizerFast | None:
    try:
        return load_tokenizer(name)
    except InputError:
        # A hub name that is not in the cache is fine. A broken tokenizer here, or an impossible name, is an error.
        from transformers.utils.hub import cached_file

        if name.count("/") == 1 and not name.startswith((".", "/", "~", "cache:")):
            found = cached_file(
                name,
                "tokenizer_config.json",
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
            if found is None:
                return None
        raise


def _counted(docs: list[Document], packed: PackedSplit) -> SplitSize:
    fields = packed.document_fields
    return SplitSize(
        documents=len(docs),
        tokens=int((packed.document_id >= 0).sum()),
        sequences=len(packed.token_id),
        text_bytes=len(packed.text),
        fields_bytes=len(schema.pack_fields(fields, n_documents=len(docs))) if fields else 0,
    )


def _documents(recipe: Recipe) -> tuple[dict[str, list[Document]], list[Document]]:
    parts, domain = domain_documents(recipe)
    return parts, base_documents(recipe.base, domain) if recipe.base is not None else []


def _assumed(
    recipe: Recipe,
    parts: dict[str, list[Document]],
    base: list[Document],
    tokenizer: PreTrainedTokenizerFast | None,
    missing: list[str],
    each: float | None,
) -> CorpusSize:
    """Return what is known if something is missing: the documents, if they are here, or the numbers asked for."""
    documents: dict[str, int | None] = {name: len(docs) for name, docs in parts.items()} or _asked_for(recipe)
    vocabulary = n_ids(tokenizer) if tokenizer is not None else None
    if not isinstance(recipe.tokenizer, str):
        vocabulary = recipe.tokenizer.train.vocab_size
    of_base = None
    if recipe.base is not None:
        of_base = _of_documents(len(base) or recipe.base.corpus.documents, each, recipe.block_size)
    return CorpusSize(
        splits={name: _of_documents(n, each, recipe.block_size) for name, n in documents.items()},
        base=of_base,
        vocabulary=vocabulary,
        missing=missing,
        counted=False,
        documents_counted=bool(parts),
        tokenizer=tokenizer,
    )


def _asked_for(recipe: Recipe) -> dict[str, int | None]:
    shares = {one.split: one.settings.fraction for one in recipe.held_out if one.settings.fraction is not None}
    if recipe.tuning is not None:
        shares["tuning"] = recipe.tuning.fraction
    shares = {"train": 1.0 - sum(shares.values()), **shares}
    total = recipe.corpus.documents
    documents = {name: None if total is None else round(total * share) for name, share in shares.items()}
    for one in recipe.held_out:
        if one.settings.source is not None:
            documents[one.split] = one.settings.documents
    return documents


def _of_documents(documents: int | None, each: float | None, block_size: int) -> SplitSize:
    if documents is None or each is None:
        return SplitSize(documents=documents)
    tokens = round(documents * each)
    return SplitSize(
        documents=documents,
        tokens=tokens,
        sequences=math.ceil(tokens / block_size),
        text_bytes=tokens * ASSUMED_TOKEN_BYTES,
    )
