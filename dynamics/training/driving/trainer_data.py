"""The data sets of any Trainer, read as its batches will be, in their own order."""

from __future__ import annotations

from typing import Any

import datasets
from torch.utils.data import DataLoader
from transformers import Trainer

from dynamics.errors import InputError
from dynamics.recipe.names import SAFE_NAME
from dynamics.training.batches.dataset_sequences import (
    MOST_EXAMPLES,
    DatasetSequences,
    endless_message,
    gather_sequences,
)
from dynamics.training.environment.generators import isolated_rng


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


def examples_per_step(trainer: Trainer) -> int:
    """Return how many examples an optimiser step takes, in all processes."""
    args = trainer.args
    return int(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)
