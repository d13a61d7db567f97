"""Filling the last batch of several processes with sequences in which nothing is predicted.

All processes must take the same steps. accelerate fills a short last batch with the first sequences of the epoch,
which then count twice; here the place of a missing one is taken by `FILLER`, which the collator turns into nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from dynamics.ops.token_statistics import IGNORE_INDEX


class _Filler:
    """Stands in for an example that is not there; one object in every worker process."""

    def __reduce__(self) -> str:
        return "FILLER"


FILLER = _Filler()


class FilledDataset(Dataset[Any]):
    """A data set whose index one past the last is `FILLER`.

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
        # Without it, iteration would go by index, and past the last.
        return (self._dataset[index] for index in range(len(self)))


class FilledOrder(Sampler[int]):
    """The indices of a sampler, filled up to a multiple with the index one past the last.

    Parameters
    ----------
    order : Sampler
    n : int
        Of the data set.
    multiple : int
    """

    def __init__(self, order: Sampler[int], n: int, multiple: int) -> None:
        self._order = order
        self._n = n
        self._multiple = multiple

    def set_epoch(self, epoch: int) -> None:
        """Hand the pass over the data on."""
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
    """A collator that leaves `FILLER` out; a batch of nothing else is one example without labels.

    Parameters
    ----------
    collator : callable
    dataset : Dataset
        For the example.
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
