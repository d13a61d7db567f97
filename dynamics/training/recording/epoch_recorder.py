"""Measures and writes the clean values of the chosen sequences after each epoch, as one immutable set of files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from dynamics.corpus.packing import PackedSplit
from dynamics.records.schema import quantise
from dynamics.records.values import Records
from dynamics.records.writer import SplitValues, seal_epoch, write_shard
from dynamics.training.environment.processes import over_ranks, rank, sum_over_ranks, wait_for_all, world_size
from dynamics.training.loop.clean_pass import TokenValues, evaluate_tokens
from dynamics.training.loop.training_pass import Moment, TrainingPass


class EpochRecorder:
    """Measures the chosen sequences of each split, and writes them as an epoch of a run.

    Parameters
    ----------
    run_dir : Path
        A run whose token files are already written.
    splits : mapping of str to PackedSplit
    recorded : mapping of str to ndarray of int
        The ids of the sequences to record from each split, ascending.
    config_hash : str
        Hash of the resolved recipe. It ties the epoch to its run.
    batch_size : int
        Sequences per forward pass.
    value_dtype : str
        ``float16`` or ``float32``, on disk.
    forward_dtype : torch.dtype
        The autocast type of training, or float32.

    Attributes
    ----------
    values : dict of str to TokenValues
        The last recorded values of each split, in the precision on disk, for all its sequences; NaN for sequences
        that are not recorded.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        splits: Mapping[str, PackedSplit],
        recorded: Mapping[str, np.ndarray],
        config_hash: str,
        batch_size: int,
        value_dtype: str = "float16",
        forward_dtype: torch.dtype = torch.float32,
    ) -> None:
        self._run_dir = run_dir
        self._splits = dict(splits)
        self._recorded = dict(recorded)
        self._labels = {split: packed.labels()[recorded[split]] for split, packed in splits.items()}
        self._config_hash = config_hash
        self._batch_size = batch_size
        self._value_dtype = value_dtype
        self._forward_dtype = forward_dtype
        self.values: dict[str, TokenValues] = {}

    def record(self, model: torch.nn.Module, moment: Moment, *, seen: TrainingPass | None = None) -> dict[str, float]:
        """Measure and write one moment of training.

        Parameters
        ----------
        model : Module
            Its mode is restored.
        moment : Moment
        seen : TrainingPass, optional
            What was dropped from the training set in this pass, and the values that the optimiser saw.

        Returns
        -------
        dict
            Mean loss of each split, in nats.
        """
        values, means, world = {}, {}, world_size()
        for split, packed in self._splits.items():
            rows, measured = measure_share(
                model,
                packed,
                self._recorded[split],
                labels=self._labels[split],
                batch_size=self._batch_size,
                dtype=self._forward_dtype,
            )
            values[split] = SplitValues(
                sequence_id=rows,
                loss=measured.loss,
                entropy=measured.entropy,
                correct=measured.correct,
                **(_of_rows(seen, rows) if split == "train" and seen is not None else {}),
            )
            known = ~np.isnan(measured.loss)
            sums = torch.from_numpy(np.array([measured.loss[known].sum(dtype=np.float64), known.sum()]))
            total, count = sum_over_ranks(sums).tolist()
            means[split] = total / count if count else float("nan")
            self.values[split] = values_over_ranks(self._spread(split, measured, rows))
        write_shard(self._run_dir, moment.epoch, values, rank=rank(), world=world, dtype=self._value_dtype)
        wait_for_all()
        if rank() == 0:
            seal_epoch(
                self._run_dir,
                moment.epoch,
                splits=list(values),
                world=world,
                config_hash=self._config_hash,
                step=moment.step,
                passes=moment.passes,
            )
        wait_for_all()
        return means

    def recorded(self, split: str, records: Records, epoch: int) -> TokenValues:
        """Return the recorded values of `split` at `epoch`, in the form of `values`."""
        found = TokenValues(loss=records.loss(epoch), entropy=records.entropy(epoch), correct=records.correct(epoch))
        return self._spread(split, found, self._recorded[split])

    def _spread(self, split: str, measured: TokenValues, rows: np.ndarray) -> TokenValues:
        """Put the values of some sequences into an array of all sequences, rounded to the precision on disk."""
        shape = self._splits[split].token_id.shape
        whole = {name: np.full(shape, np.nan, dtype=np.float32) for name in ("loss", "entropy")}
        for name, into in whole.items():
            into[rows] = quantise(getattr(measured, name), self._value_dtype)[0]
        correct = np.zeros(shape, dtype=np.bool_)
        correct[rows] = measured.correct
        return TokenValues(loss=whole["loss"], entropy=whole["entropy"], correct=correct)


def measure_share(
    model: torch.nn.Module,
    packed: PackedSplit,
    rows: np.ndarray,
    *,
    labels: np.ndarray,
    batch_size: int,
    dtype: torch.dtype,
) -> tuple[np.ndarray, TokenValues]:
    """Measure this rank's share of some sequences: every W-th one of W ranks. All make as many forward passes.

    Parameters
    ----------
    model : Module
    packed : PackedSplit
    rows : ndarray of int, shape (R,)
        Sequences of `packed`, ascending.
    labels : ndarray of int64, shape (R, P)
        The labels of these sequences.
    batch_size : int
    dtype : torch.dtype

    Returns
    -------
    ndarray of int, TokenValues
        The rows that this rank measured, and their values.
    """
    world = world_size()
    mine = slice(rank(), None, world)
    most = -(-len(rows) // world)
    found = evaluate_tokens(
        model,
        packed.token_id[rows[mine]],
        labels[mine],
        batch_size=batch_size,
        dtype=dtype,
        n_batches=-(-most // batch_size),
    )
    return rows[mine], found


def measure_all(model: torch.nn.Module, packed: PackedSplit, *, batch_size: int, dtype: torch.dtype) -> TokenValues:
    """Measure every sequence of a split, shared out over the ranks. All ranks return all values."""
    rows, found = measure_share(
        model,
        packed,
        np.arange(len(packed.token_id)),
        labels=packed.labels(),
        batch_size=batch_size,
        dtype=dtype,
    )
    shape = packed.token_id.shape
    whole = TokenValues(
        loss=np.full(shape, np.nan, dtype=np.float32),
        entropy=np.full(shape, np.nan, dtype=np.float32),
        correct=np.zeros(shape, dtype=np.bool_),
    )
    whole.loss[rows], whole.entropy[rows], whole.correct[rows] = found.loss, found.entropy, found.correct
    return values_over_ranks(whole)


def values_over_ranks(found: TokenValues) -> TokenValues:
    """Merge values of which each rank knows a part, so that all ranks have all of them."""
    return TokenValues(
        loss=over_ranks(found.loss, blank=np.nan),
        entropy=over_ranks(found.entropy, blank=np.nan),
        correct=over_ranks(found.correct, blank=False),
    )


def _of_rows(seen: TrainingPass, rows: np.ndarray) -> dict[str, np.ndarray]:
    arrays = {"dropped": seen.dropped, "training_loss": seen.loss, "training_entropy": seen.entropy}
    return {name: array[rows] for name, array in arrays.items() if array is not None}


def choose_sequences(n_sequences: int, wanted: int | str, *, split: str) -> np.ndarray:
    """Return the ids of the sequences to record, ascending: all of them, or `wanted` at random.

    The choice depends only on the two numbers, so every run of a study records the same sequences.
    """
    if wanted == "all" or int(wanted) >= n_sequences:
        return np.arange(n_sequences)
    generator = np.random.default_rng([n_sequences, int(wanted), len(split)])
    return np.sort(generator.permutation(n_sequences)[: int(wanted)])
