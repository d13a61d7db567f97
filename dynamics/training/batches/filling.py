"""Fills the last batch of several ranks with sequences without predicted tokens.

All ranks must take the same number of steps. accelerate fills a short last batch with the first sequences of the epoch,
which then count twice. Here `FILLER` takes the place of a missing example, and the collator removes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from dynamics.ops.token_statistics import IGNORE_INDEX


class _Filler:
    """Stands for a missing example. Each worker process has a single instance."""

    def __reduce__(self) -> str:
        return "FILLER"


FILLER = _Filler()


class FilledDataset(Dataset[Any]):
    """A data set with one more index at the end, which gives `FILLER`.

    Parameters
    ----------
    dataset : Dataset with a length
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        return FILLER if index == len(self) else self._dataset[index]

    def __iter__(self) -> Iterator[Any]:
        # Without this method, iteration would go by index and include the filler.
        return (self._dataset[index] for index in range(len(self)))


class FilledOrder(Sampler[int]):
    """The indices of a sampler, followed by indices of the filler, up to a multiple of `multiple`.

    Parameters
    ----------
    order : Sampler
    n : int
        Length of the data set.
    multiple : int
    """

    def __init__(self, order: Sampler[int], n: int, multiple: int) -> None:
        self._order = order
        self._n = n
        self._multiple = multiple

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch on to the sampler."""
        if hasattr(self._order, "set_epoch"):
            self._order.set_epoch(epoch)

    def __len__(self) -> int:
        return -(-len(self._order) // self._multiple) * self._multiple  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        count = 0
        for index in self._order:
            count += 1
            yield index
        yield from [self._n] * (-count % self._multiple)


class FillingCollator:
    """A collator that removes `FILLER`. A batch with nothing else becomes one example without labels.

    Parameters
    ----------
    collator : callable
    dataset : Dataset
        Provides that example.
    """

    def __init__(self, collator: Callable[[Sequence[Any]], dict[str, Any]], dataset: Any) -> None:
        self._collator = collator
        self._dataset = dataset

    def __call__(self, examples: Sequence[Any]) -> dict[str, Any]:
        real = [example for example in examples if example is not FILLER]
        if real:
            return self._collator(real)
        batch = self._collator([self._dataset[0]])
        return {**batch, "labels": torch.full_like(batch["labels"], IGNORE_INDEX)}
