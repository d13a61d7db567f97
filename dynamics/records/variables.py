"""The variables of a split's records by name: what `to_xarray` labels and `dynamics export` writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dynamics.errors import DamagedRecordError
from dynamics.records import schema
from dynamics.records.epochs import read_epoch_manifest
from dynamics.records.tensors import Array

if TYPE_CHECKING:
    from dynamics.records.reader import Run
    from dynamics.records.values import Records

EPOCH_DIMS = ("epoch", "sequence", "position")
TOKEN_DIMS = ("sequence", "position")


@dataclass(frozen=True, slots=True)
class Variable:
    """One recorded quantity.

    Attributes
    ----------
    name : str
        That of the attribute or method of `Records` that gives it.
    dtype : str
        Of the values as `Records` gives them; "float32" where they are NaN if undefined.
    description : str
    units : str
        "nats", or "" for what has no unit.
    """

    name: str
    dtype: str
    description: str
    units: str = ""

    @property
    def attributes(self) -> dict[str, str]:
        """What a labelled array says of itself."""
        return {"long_name": self.description} | ({"units": self.units} if self.units else {})


#: (epoch, sequence, position). The last three are there in "train" alone.
PER_EPOCH = (
    Variable("loss", "float32", "clean loss of the token after the epoch", "nats"),
    Variable("entropy", "float32", "entropy of the token's clean predictive distribution after the epoch", "nats"),
    Variable("correct", "bool", "whether the token was the most probable one after the epoch"),
    Variable("dropped", "bool", "whether a regulariser dropped the token while training the epoch"),
    Variable("training_loss", "float32", "loss of the token as the optimiser saw it in the epoch", "nats"),
    Variable("training_entropy", "float32", "entropy of the token as the optimiser saw it in the epoch", "nats"),
)

#: (S, P).
PER_TOKEN = (
    Variable("token_id", "int32", "id of the token in the vocabulary"),
    Variable("document_id", "int32", "document that the token belongs to, -1 at padding"),
    Variable("predicted", "bool", "whether the token has a prediction"),
    Variable("reference_loss", "float32", "loss of the token under the frozen starting model", "nats"),
    Variable("reference_entropy", "float32", "entropy of the token under the frozen starting model", "nats"),
)


#: What the coordinate ``passes`` says of itself.
PASSES_ATTRIBUTES = {"long_name": "passes over the training data when the epoch was recorded"}


def passes_of(run: Run) -> Array:
    """Return the passes over the training data at every epoch, shape (E,): its number, but for a cut one."""
    return np.asarray([run.passes(epoch) for epoch in run.epochs], dtype=np.float64)


def recorded_variables(records: Records) -> list[Variable]:
    """Return those of `PER_EPOCH` that a split has.

    Reads the manifest of one epoch and no value: what the optimiser saw is recorded on request only.
    """
    absent: set[str] = set()
    if records.split != "train":
        absent = {"dropped", *schema.TRAINING_VALUES}
    else:
        absent = set(schema.TRAINING_VALUES) - _tensors(records)
    return [variable for variable in PER_EPOCH if variable.name not in absent]


def epoch_values(records: Records, variable: Variable, epoch: int) -> Array:
    """Return one variable after one epoch: (S, P).

    As the method of `Records` gives it. Where that refuses, since there is nothing to give (epoch 0 of what happens in
    training, an epoch recorded without what the optimiser saw), nothing was dropped and all else is NaN.

    Raises
    ------
    InputError
        If there is no such epoch.
    DamagedRecordError
        If its records are damaged.
    """
    shape = records.token_id.shape
    if variable.name == "dropped" and epoch == 0:
        return np.zeros(shape, dtype=bool)
    if variable.name in schema.TRAINING_VALUES and (epoch == 0 or variable.name not in _tensors(records, epoch)):
        return np.full(shape, np.nan, dtype=np.float32)
    values: Array = getattr(records, variable.name)(epoch)
    return values


def run_attributes(records: Records) -> dict[str, str]:
    """Return what a data set says of where it comes from: flat text, which every format can hold."""
    manifest = records.run.manifest
    versions = {f"{name}_version": str(version) for name, version in manifest.get("versions", {}).items()}
    hashes = {"config_hash": manifest["config_hash"], "tokens_hash": manifest["tokens"][records.split]["tokens_hash"]}
    return {"run": records.run.name, "split": records.split, "units": "nats", **hashes, **versions}


def _tensors(records: Records, epoch: int | None = None) -> set[str]:
    """Return the names of what is on disk of an epoch; by default of the last one whose manifest can be read."""
    run = records.run
    for each in reversed(run.epochs) if epoch is None else [epoch]:
        try:
            manifest = read_epoch_manifest(run.path, each, run.manifest["config_hash"])
        except DamagedRecordError:
            if epoch is not None:
                raise
            continue  # Reading its values says so; building says what there is.
        # Epoch 0 never holds what happens in training, so it tells nothing.
        if each > 0 and (file := schema.shard_file(records.split, 0, manifest["world"])) in manifest["files"]:
            return set(manifest["files"][file]["tensors"])
    return set()
