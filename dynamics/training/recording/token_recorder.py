"""What to record of your own training, and where. You give it to a trainer or a loop."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from dynamics.errors import InputError
from dynamics.records import schema
from dynamics.training.environment.processes import on_rank_zero

log = logging.getLogger(__name__)


class TokenRecorder:
    """Records loss, entropy and correctness of every token, before training and after each epoch.

    Give it to `DynamicsTrainer`, `attach` or `LoopRecorder`, and open the run with `open_run`. Each example is a
    document. The training set is recorded, and so is the trainer's eval_dataset, if it has one: as ``validation``, or,
    if it is a mapping of data sets, each as ``validation-NAME``.

    Parameters
    ----------
    output : path
        A new or empty directory, or the directory of the run that the trainer resumes. A second training with the
        same recorder is recorded next to it, in a directory whose name ends in ``-2``, and so on.
    name : str, optional
        Name of the run; by default the name of the directory.
    train_sequences, validation_sequences : int or "all"
        How many sequences to record. They are chosen at random, once.
    dtype : {"float16", "float32"}
        The dtype of loss and entropy on disk.
    training_pass : bool
        Also record the values that the optimiser saw of each token, separately from the clean values. Only with
        `DynamicsTrainer`. This makes the records larger.
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
                raise InputError(f'TokenRecorder: {split}_sequences {wanted!r} is neither "all" nor an integer from 1')
        self.given = Path(output)
        self._name = name
        self.dtype = dtype
        self.training_pass = training_pass
        self.batch_size = batch_size
        #: How many trainings have begun, not counting resumed ones.
        self.begun = 0

    @property
    def output(self) -> Path:
        """The directory of the current or last training."""
        return self.given if self.begun <= 1 else self.given.with_name(f"{self.given.name}-{self.begun}")

    @property
    def name(self) -> str:
        """The name of the run."""
        return self._name or self.output.absolute().name

    @property
    def metrics_path(self) -> Path:
        """The file with the metrics of each step."""
        return self.output / schema.METRICS_FILE

    def sequences(self, split: str) -> int | str:
        """Return how many sequences of a split to record."""
        return self._wanted["train" if split == "train" else "validation"]

    def claim_output(self) -> None:
        """Begin a new training in the given directory, or, for a second one, in another directory next to it.

        A training that failed before it wrote anything is not counted.

        Raises
        ------
        InputError
            The directory is not empty.
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
            log.warning("this training is recorded in %s", self.output)

    def _require_free(self) -> None:
        if self.output.exists() and not self.output.is_dir():
            raise InputError(f"TokenRecorder: {self.output} is a file; name a new directory")
        if not _is_free(self.output):
            raise InputError(
                f"TokenRecorder: {self.output} is not empty, but training starts from its first step; name a new "
                "directory, or resume the training of the run in it"
            )


def _is_free(folder: Path) -> bool:
    """Whether a new run may be written to a folder."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
