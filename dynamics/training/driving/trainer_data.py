"""Reads the data sets of any Trainer, collated like its batches, in the order of the data set."""

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
    """Return the sequences of a data set, in its order, collated into batches by the trainer's own collator.

    The trainer's samplers are not used: nothing is left out (dataloader_drop_last) or grouped by length.

    Parameters
    ----------
    trainer : Trainer
    dataset : Dataset
        A data set of torch or of datasets, with or without a length.
    split : str
        The split's name, for messages.

    Raises
    ------
    InputError
        There is no data set, it never ends, or its batches do not say which tokens are predicted.
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
    """Return a collator that raises InputError if a stream has more examples than training can use.

    It counts the examples that it gets. With packing, only the data set knows how many examples make a row.
    """
    if split == "train":
        most = max(trainer.args.max_steps, 1) * examples_per_step(trainer)
        message = (
            f"the training set has no length and did not end after the {most:,} examples that max_steps can train "
            "on, so no pass over it ends and no epoch can be recorded; give it an end (dataset.take(N)), or raise "
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
    """Return the trainer's evaluation data sets by the name of their split in the records.

    Raises
    ------
    InputError
        The name of a data set cannot be part of a file name.
    """
    given = trainer.eval_dataset
    if given is None:
        return {}
    if not isinstance(given, dict):
        return {"validation": given}
    for name in given:
        if not SAFE_NAME.fullmatch(str(name)):
            raise InputError(
                f"eval_dataset: the name {name!r} becomes part of a file name; begin with a letter or digit and use "
                "only letters, digits, '.', '_' and '-'"
            )
    return {f"validation-{name}": dataset for name, dataset in given.items()}


def tokenizer_of(trainer: Trainer) -> Any:
    """Return the trainer's tokenizer, or None."""
    given = trainer.processing_class
    return getattr(given, "tokenizer", given)


def pad_token_id(trainer: Trainer) -> int | None:
    """Return the id of the trainer's padding token, or None."""
    found = getattr(tokenizer_of(trainer), "pad_token_id", None)
    return found if found is not None else getattr(getattr(trainer.model, "config", None), "pad_token_id", None)


def _collating(trainer: Any, dataset: Any) -> tuple[Any, Any]:
    """Return the rows and the collator that the trainer's own loader would use."""
    if isinstance(dataset, datasets.Dataset):
        return trainer._remove_unused_columns(dataset, description="recorded"), trainer.data_collator
    return dataset, trainer._get_collator_with_removed_columns(trainer.data_collator, description="recorded")


def examples_per_step(trainer: Trainer) -> int:
    """Return the number of examples per optimiser step, over all ranks."""
    args = trainer.args
    return int(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)
