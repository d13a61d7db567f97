"""What to record of one's own training, and where: what a user gives to a trainer or a loop."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from dynamics.errors import InputError
from dynamics.records import schema
from dynamics.training.environment.processes import on_rank_zero

log = logging.getLogger(__name__)


class TokenRecorder:
    """Says that loss, entropy and correctness of every token are recorded, before training and after each epoch.

    Give it to `DynamicsTrainer` or `attach`. The run opens with `open_run`; each example is a document. The training
    set and, where the trainer has one, its eval_dataset are recorded: as ``validation``, or, of a mapping of data sets,
    each as ``validation-NAME``.

    Parameters
    ----------
    output : path
        A new or empty directory; or that of the run which the trainer resumes. A second training with the same
        recorder goes to the directory beside it with ``-2`` at the end of its name, and so on.
    name : str, optional
        Of the run; by default that of the directory.
    train_sequences, validation_sequences : int or "all"
        How many sequences to record, chosen at random once.
    dtype : {"float16", "float32"}
        Of loss and entropy on disk.
    training_pass : bool
        Record also, apart from the clean values, what the optimiser saw of each token: with `DynamicsTrainer` alone,
        at the cost of its bytes.
    batch_size : int, optional
        Sequences per forward pass; by default the trainer's per_device_eval_batch_size.

    Raises
    ------
    InputError
        A setting is out of range.
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        *,
        name: str | None = None,
        train_sequences: int | str = "all",
        validation_sequences: int | str = "all",
        dtype: str = "float16",
        training_pass: bool = False,
        batch_size: int | None = None,
    ) -> None:
        if dtype not in schema.VALUE_DTYPES:
            raise InputError(f"TokenRecorder: dtype {dtype!r} is none of {', '.join(schema.VALUE_DTYPES)}")
        self._wanted = {"train": train_sequences, "validation": validation_sequences}
        for split, wanted in self._wanted.items():
            if wanted != "all" and (isinstance(wanted, str) or isinstance(wanted, bool) or wanted < 1):
                raise InputError(f'TokenRecorder: {split}_sequences {wanted!r} is neither "all" nor a number from 1')
        self.given = Path(output)
        self._name = name
        self.dtype = dtype
        self.training_pass = training_pass
        self.batch_size = batch_size
        #: How many trainings have begun, not counting those that resumed one.
        self.begun = 0

    @property
    def output(self) -> Path:
        """Where the training that begins now, or began last, is recorded."""
        return self.given if self.begun <= 1 else self.given.with_name(f"{self.given.name}-{self.begun}")

    @property
    def name(self) -> str:
        """Of the run."""
        return self._name or self.output.absolute().name

    @property
    def metrics_path(self) -> Path:
        """Where the scalars of each step go."""
        return self.output / schema.METRICS_FILE

    def sequences(self, split: str) -> int | str:
        """Return how many sequences of a split to record."""
        return self._wanted["train" if split == "train" else "validation"]

    def claim_output(self) -> None:
        """Begin a new training: in the directory given, or, for a second one, in another beside it.

        A training that failed before it wrote anything does not count.

        Raises
        ------
        InputError
            It is not new or empty.
        """
        before = self.begun
        if not before or not on_rank_zero(lambda: _is_free(self.output)):
            self.begun += 1
        try:
            on_rank_zero(self._require_free)
        except InputError:
            self.begun = before
            raise
        if self.begun > 1:
            log.warning("the training that begins now is recorded in %s", self.output)

    def _require_free(self) -> None:
        if self.output.exists() and not self.output.is_dir():
            raise InputError(f"TokenRecorder: {self.output} is a file; name a new directory")
        if not _is_free(self.output):
            raise InputError(
                f"TokenRecorder: {self.output} is not empty, and training starts from its first step; name a new "
                "directory, or resume the training whose run it holds"
            )


def _is_free(folder: Path) -> bool:
    """Whether a new run may go there."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
