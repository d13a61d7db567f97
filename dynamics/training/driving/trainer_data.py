"""The data sets of any Trainer, read as its batches will be, in their own order."""

from __future__ import annotations

from typing import Any

import datasets
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.models.auto import modeling_auto

from dynamics.errors import InputError
from dynamics.recipe.settings import SAFE_NAME
from dynamics.training.batches.dataset_sequences import (
    MOST_EXAMPLES,
    DatasetSequences,
    endless_message,
    gather_sequences,
)
from dynamics.training.environment.generators import isolated_rng

# The heads of transformers' models that predict something else than the next token.
_OTHER_HEADS = (
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES",
)


def require_causal(model: Any) -> None:
    """Raise InputError, in one line, for a model that is no causal language model, or whose inputs are not its tokens.

    Parameters
    ----------
    model : Module
        Not wrapped for several processes.
    """
    for config in getattr(model, "peft_config", {}).values():
        if getattr(config, "is_prompt_learning", False):
            raise InputError(
                f"the adapter {type(config).__name__} puts virtual tokens before every sequence, so that tokens are "
                "not where recording and regularisers expect them; use another kind of adapter (LoRA)"
            )
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    name = type(base).__name__
    if getattr(getattr(base, "config", None), "is_encoder_decoder", False):
        raise InputError(f"{name} is an encoder-decoder; recording and regularisers work on causal language models")
    causal = _names("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")
    others = {other for mapping in _OTHER_HEADS for other in _names(mapping)}
    if name in others - causal:
        raise InputError(
            f"{name} does not predict the next token; recording and regularisers work on causal language models"
        )


def read_dataset(trainer: Trainer, dataset: Any, *, split: str) -> DatasetSequences:
    """Return the sequences of a data set, in its order, as the trainer's own collator makes batches of them.

    The trainer's samplers have no part in it: nothing is left out (dataloader_drop_last), nothing grouped by length.

    Parameters
    ----------
    trainer : Trainer
    dataset : Dataset
        Of torch or of datasets, with a length or without.
    split : str
        For messages.

    Raises
    ------
    InputError
        There is none, it never ends, or its batches do not say which tokens are predicted.
    """
    if dataset is None:
        raise InputError("the trainer has no train_dataset; recording and regularisers need one")
    rows, collator = _collating(trainer, dataset)
    if not hasattr(dataset, "__len__"):
        collator = _ending(collator, trainer, split)
    with isolated_rng():
        loader: Any = DataLoader(rows, batch_size=trainer.args.per_device_eval_batch_size, collate_fn=collator)
        return gather_sequences(loader, tokenizer=tokenizer_of(trainer), pad_token_id=pad_token_id(trainer))


def _ending(collator: Any, trainer: Trainer, split: str) -> Any:
    """Return a collator that refuses a stream which goes on for longer than it can be of use.

    It counts what it is given: of packed rows, and of rows that it packs, only the data set knows how many there are.
    """
    if split == "train":
        most = max(trainer.args.max_steps, 1) * examples_per_step(trainer)
        message = (
            f"the training set has no length and goes on after the {most:,} examples that max_steps can train on, so "
            "that no pass over it ends and no epoch can be recorded; give it an end (dataset.take(N)), or raise "
            "max_steps"
        )
    else:
        most = MOST_EXAMPLES
        message = endless_message(f"the evaluation set {split}", "examples")
    n_examples = 0

    def collate(examples: list[Any]) -> Any:
        nonlocal n_examples
        n_examples += len(examples)
        if n_examples > most:
            raise InputError(message)
        return collator(examples)

    return collate


def evaluation_sets(trainer: Trainer) -> dict[str, Any]:
    """Return the trainer's evaluation data by the split that it is recorded as.

    Raises
    ------
    InputError
        A name becomes part of a file's, and cannot.
    """
    given = trainer.eval_dataset
    if given is None:
        return {}
    if not isinstance(given, dict):
        return {"validation": given}
    for name in given:
        if not SAFE_NAME.fullmatch(str(name)):
            raise InputError(
                f"eval_dataset: the name {name!r} becomes part of a file's name; begin with a letter or digit and use "
                "only letters, digits, '.', '_' and '-'"
            )
    return {f"validation-{name}": dataset for name, dataset in given.items()}


def tokenizer_of(trainer: Trainer) -> Any:
    """Return the trainer's tokenizer, or None."""
    given = trainer.processing_class
    return getattr(given, "tokenizer", given)


def pad_token_id(trainer: Trainer) -> int | None:
    """Return what the trainer pads with, or None."""
    found = getattr(tokenizer_of(trainer), "pad_token_id", None)
    return found if found is not None else getattr(getattr(trainer.model, "config", None), "pad_token_id", None)


def _collating(trainer: Any, dataset: Any) -> tuple[Any, Any]:
    """Return the rows and the collator with which the trainer's loaders would be made."""
    if isinstance(dataset, datasets.Dataset):
        return trainer._remove_unused_columns(dataset, description="recorded"), trainer.data_collator
    return dataset, trainer._get_collator_with_removed_columns(trainer.data_collator, description="recorded")


def _names(mapping: str) -> set[str]:
    """Return the classes that one of transformers' tables names."""
    found = getattr(modeling_auto, mapping, {}).values()
    return {name for value in found for name in (value if isinstance(value, tuple | list) else [value])}


def examples_per_step(trainer: Trainer) -> int:
    """Return how many examples an optimiser step takes, in all processes."""
    args = trainer.args
    return int(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)
