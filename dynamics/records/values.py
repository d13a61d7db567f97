"""The recorded values of one split, token by token and epoch by epoch.

Nothing is read before the file's size, the identity in its header and its layout were compared
with its manifest, and nothing but the tokens is kept in memory.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from dynamics.display.described import Described
from dynamics.display.tables import Card
from dynamics.errors import DamagedRecordError, InputError
from dynamics.records import schema
from dynamics.records.epochs import good_epochs, numbers, read_epoch, sealed_epoch_manifest, shown_path
from dynamics.records.tensors import Array, read_tensors

if TYPE_CHECKING:
    import xarray

    from dynamics.records.reader import Run

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

_BY_SEQUENCE = (
    "token_id",
    "document_id",
    "byte_start",
    "byte_end",
    "reference_loss",
    "reference_entropy",
)


@dataclass(frozen=True, slots=True)
class WholeSplit:
    """The tokens of all sequences of a split, recorded or not: arrays of shape (S, P).

    Attributes
    ----------
    recorded : ndarray of int32, shape (S,)
        The rows whose values are recorded: those of `Records`.
    document_id, predicted, reference_loss, reference_entropy
        As in `Records`.
    """

    recorded: npt.NDArray[np.int32]
    document_id: npt.NDArray[np.int32]
    predicted: Bools
    reference_loss: Floats
    reference_entropy: Floats


@dataclass(frozen=True, slots=True)
class WholeSpans:
    """What all tokens of a split stand for, in the order of the text: arrays of shape (S, P).

    Attributes
    ----------
    token_id, byte_start, byte_end : ndarray of int32
        As in `Records`.
    """

    token_id: npt.NDArray[np.int32]
    byte_start: npt.NDArray[np.int32]
    byte_end: npt.NDArray[np.int32]


class Records(Described):
    """The tokens of one split and, epoch by epoch, what was recorded of them.

    Only recorded sequences are exposed. S is their number, P the block size. A value belongs to
    the token that was predicted, and is NaN (or false) where `predicted` is false.

    Attributes
    ----------
    run, split
        Where the records come from.
    sequence_id : (S,) int32
        Their ids, rising. Elsewhere in this class `sequence` is a row, not an id.
    token_id, document_id : (S, P) int32
        `document_id` is -1 at padding.
    byte_start, byte_end : (S, P) int32
        The token's span [start, end) in the bytes of its document.
    reference_loss, reference_entropy : (S, P) float32
        Values of the frozen starting model, in nats.
    predicted : (S, P) bool
        Which tokens have a prediction.
    document_hash : (D, 32) uint8
        SHA-256 of every document of the split, recorded or not.
    """

    def __init__(self, run: Run, split: str) -> None:
        self.run = run
        self.split = split
        entry = run.manifest["tokens"][split]
        arrays = read_tensors(
            run.path / schema.tokens_file(split),
            entry,
            entry["tensors"],
            identity=schema.tokens_identity(split),
            hashes=run.hashes,
            mapped=True,  # Most readers look at two or three of the columns; the file never changes.
        )
        rows: Array = arrays["recorded_sequence_id"]
        if len(rows) == len(arrays["token_id"]):
            recorded = arrays  # All of them: no copies.
        else:
            recorded = {name: arrays[name][rows] for name in _BY_SEQUENCE}
        self.sequence_id: npt.NDArray[np.int32] = rows
        self.token_id: npt.NDArray[np.int32] = recorded["token_id"]
        self.document_id: npt.NDArray[np.int32] = recorded["document_id"]
        self.byte_start: npt.NDArray[np.int32] = recorded["byte_start"]
        self.byte_end: npt.NDArray[np.int32] = recorded["byte_end"]
        self.reference_loss: Floats = recorded["reference_loss"]
        self.reference_entropy: Floats = recorded["reference_entropy"]
        #: All sequences: what is ranked within a split is ranked among these.
        self.whole = WholeSplit(
            rows,
            arrays["document_id"],
            schema.predicted_of(arrays),
            arrays["reference_loss"],
            arrays["reference_entropy"],
        )
        #: And their tokens, whose spans follow on one another from row to row.
        self.whole_spans = WholeSpans(arrays["token_id"], arrays["byte_start"], arrays["byte_end"])
        self.predicted: Bools = self.whole.predicted[rows]
        self.document_hash: npt.NDArray[np.uint8] = arrays["document_hash"]
        #: By field of the corpus that was kept (``corpus.keep``), one value for every document of the split.
        self.document_fields: dict[str, list[Any]] = schema.fields_of(arrays)
        self._text: npt.NDArray[np.uint8] = arrays["text"]
        self._text_offset: npt.NDArray[np.int64] = arrays["text_offset"]

    def _title(self) -> str:
        n_sequences, block_size = self.token_id.shape
        return f"Records({self.split}: {n_sequences} sequences of {block_size} tokens)"

    def _described(self) -> Card:
        facts = [
            ("run", shown_path(self.run.path)),
            ("sequences × positions", " × ".join(map(str, self.token_id.shape))),
            ("predicted tokens", f"{int(self.predicted.sum()):,}"),
            ("documents", str(self.n_documents)),
            ("epochs", numbers(self.run.epochs)),
        ]
        if self.run.epochs:
            manifest = sealed_epoch_manifest(self.run, self.run.epochs[-1])
            held = manifest["files"][schema.shard_file(self.split, 0, manifest["world"])]["tensors"]
            facts.append(("recorded", ", ".join(name for name in held if name != "sequence_id")))
        return Card(self._title(), facts)

    # Values, read from disk at every call. ------------------------------------------------------

    def loss(self, epoch: SupportsIndex) -> Floats:
        """Return the clean loss -log p of each token after `epoch`: (S, P) float32, nats.

        NaN where nothing is predicted. Stored as float16 by default.

        Raises
        ------
        InputError
            If there is no such epoch.
        DamagedRecordError
            If its records are damaged; names the epochs that are still good.
        """
        values: Floats = self._values(epoch, "loss").astype(np.float32)
        return values

    def entropy(self, epoch: SupportsIndex) -> Floats:
        """Return the entropy of each token's clean predictive distribution, as `loss` does."""
        values: Floats = self._values(epoch, "entropy").astype(np.float32)
        return values

    def correct(self, epoch: SupportsIndex) -> Bools:
        """Return which tokens were the most probable ones: (S, P) bool. Raises as `loss` does."""
        return schema.unpack_bits(self._values(epoch, "correct"), self.token_id.shape[1])

    def stored(self, value: str, epoch: SupportsIndex) -> Array:
        """Return the loss or the entropy as it lies on disk, for readers that stream over epochs.

        Read-only, and where one process wrote the epoch a view of the mapped file: pages are read when they are looked
        at, and nothing stays in memory.

        Parameters
        ----------
        value : {"loss", "entropy"}

        Returns
        -------
        numpy.ndarray
            (S, P) float16 or float32, nats. Raises as `loss` does.
        """
        assert value in ("loss", "entropy"), value
        values: Array = self._values(epoch, value, mapped=True)
        values.flags.writeable = False
        return values

    def dropped(self, epoch: SupportsIndex) -> Bools:
        """Return what the regulariser dropped while training `epoch`: (S, P) bool.

        All false where the run had no regulariser that drops tokens.

        Raises
        ------
        InputError
            For epoch 0, for other splits than "train", and if there is no such epoch.
        DamagedRecordError
            As for `loss`.
        """
        if self.split != "train":
            raise InputError(f"Nothing is ever dropped from {self.split!r}: ask the records of 'train'")
        if operator.index(epoch) == 0:
            raise InputError("Epoch 0 is before training, so nothing was dropped: ask from epoch 1")
        bits = self._values(epoch, "dropped", optional=True)
        if bits is None:
            return np.zeros(self.token_id.shape, dtype=bool)
        return schema.unpack_bits(bits, self.token_id.shape[1])

    def training_loss(self, epoch: SupportsIndex) -> Floats:
        """Return the loss of each token as the optimiser saw it in `epoch`: (S, P) float32, nats.

        With the weights of the step in which the token came, with what regularisers dropped and dropout drew; without
        label smoothing. NaN where nothing is predicted.

        Raises
        ------
        InputError
            For epoch 0 and other splits than "train", if there is no such epoch, or if it was not recorded.
        DamagedRecordError
            As for `loss`.
        """
        return self._seen(epoch, "training_loss")

    def training_entropy(self, epoch: SupportsIndex) -> Floats:
        """Return the entropy of each token's prediction as the optimiser saw it, as `training_loss` does."""
        return self._seen(epoch, "training_entropy")

    def _seen(self, epoch: SupportsIndex, name: str) -> Floats:
        if self.split != "train":
            raise InputError(f"The optimiser never saw {self.split!r}: ask the records of 'train'")
        if operator.index(epoch) == 0:
            raise InputError("Epoch 0 is before training, so the optimiser saw nothing: ask from epoch 1")
        found = self._values(epoch, name, optional=True)
        if found is None:
            raise InputError(
                f"{self.run.path} does not hold what the optimiser saw: set recording.training_pass: true (or "
                "TokenRecorder(training_pass=True)) before training"
            )
        values: Floats = found.astype(np.float32)
        return values

    def _values(self, epoch: SupportsIndex, name: str, *, optional: bool = False, mapped: bool = False) -> Any:
        """Read one tensor of one epoch, in the order of `sequence_id`; None if absent."""
        epoch = operator.index(epoch)
        run = self.run
        if epoch not in run.epochs:
            raise InputError(f"{run.path} has no complete epoch {epoch}: it has {numbers(run.epochs)}")
        try:
            manifest = sealed_epoch_manifest(run, epoch)
            folder = run.path / schema.epoch_folder(epoch)
            rows = self.sequence_id
            return read_epoch(
                folder, manifest, self.split, name, rows, optional=optional, mapped=mapped, hashes=run.hashes
            )
        except DamagedRecordError as error:
            raise DamagedRecordError(
                f"Epoch {epoch} of {run.path} is damaged: {error}. Still good, by the same cheap "
                f"checks: {numbers(good_epochs(run))}. 'dynamics check {run.path}' checks all"
            ) from error

    def to_xarray(self) -> xarray.Dataset:
        """Return a labelled data set of everything, with the dimensions epoch, sequence and position.

        It is lazy: making it reads no value, and what is recorded by epoch is read from disk each time it is indexed,
        only the epochs that the index asks for. ``.load()`` keeps what was read.

        Returns
        -------
        xarray.Dataset
            (epoch, sequence, position): ``loss``, ``entropy`` (float32, nats), ``correct``; for "train" also
            ``dropped`` (false in epoch 0) and, where recorded, ``training_loss`` and ``training_entropy`` (NaN in
            epoch 0). (S, P): ``token_id``, ``document_id``, ``predicted``, ``reference_loss``,
            ``reference_entropy``. The coordinate ``sequence`` holds `sequence_id`, and ``passes``, along epoch, the
            passes over the data: the epoch, but for a last one that was cut. Attributes name the run, its split, hashes
            and versions.

        Raises
        ------
        InputError
            If xarray is not installed. Indexing raises what `loss` does.
        """
        try:
            from dynamics.records.labelled import labelled
        except ModuleNotFoundError as error:
            raise InputError(f"to_xarray() needs {error.name}, which is not installed: pip install xarray") from error
        return labelled(self)

    # Text. --------------------------------------------------------------------------------------

    @property
    def n_documents(self) -> int:
        """The number of documents of the split, recorded or not."""
        return len(self._text_offset) - 1

    def document_text(self, document: SupportsIndex) -> str:
        """Return the whole text of a document of the split.

        Raises
        ------
        InputError
            If there is no such document.
        """
        return self._decode(_row(document, self.n_documents, "document"), 0, None)

    def document_bytes(self, document: SupportsIndex) -> bytes:
        """Return the same in UTF-8, which token spans count in. Raises as `document_text` does."""
        row = _row(document, self.n_documents, "document")
        first, last = self._text_offset[row : row + 2].tolist()
        return self._text[first:last].tobytes()

    def text(self, sequence: SupportsIndex) -> str:
        """Return the text of a sequence, the row in these records, its documents joined as they are.

        A character that the sequence's edge cuts comes out as U+FFFD.

        Raises
        ------
        InputError
            If there is no such row.
        """
        row = _row(sequence, len(self.token_id), "sequence")
        document_id = self.document_id[row]
        parts = []
        for document in dict.fromkeys(document_id[document_id >= 0].tolist()):
            here = document_id == document
            start = int(self.byte_start[row][here].min())
            end = int(self.byte_end[row][here].max())
            parts.append(self._decode(document, start, end))
        return "".join(parts)

    def token_text(self, sequence: SupportsIndex, position: SupportsIndex) -> str:
        """Return the text of one token: "" at padding and for the end-of-text token.

        Where one character is split over several tokens, each part comes out as U+FFFD.

        Raises
        ------
        InputError
            If there is no such row or position.
        """
        at = (
            _row(sequence, len(self.token_id), "sequence"),
            _row(position, self.token_id.shape[1], "position"),
        )
        document = int(self.document_id[at])
        if document < 0:
            return ""
        return self._decode(document, int(self.byte_start[at]), int(self.byte_end[at]))

    def token_texts(self, sequence: SupportsIndex) -> list[str]:
        """Return the texts of all P tokens of a sequence, each as `token_text` gives it.

        Raises
        ------
        InputError
            If there is no such row.
        """
        row = _row(sequence, len(self.token_id), "sequence")
        # Padding has no document, and no bytes: any offset will do.
        first = self._text_offset[np.maximum(self.document_id[row], 0)]
        starts, ends = (first + self.byte_start[row]).tolist(), (first + self.byte_end[row]).tolist()
        raw = self._text.data
        return [str(raw[start:end], "utf-8", "replace") for start, end in zip(starts, ends, strict=True)]

    def _decode(self, document: int, start: int, end: int | None) -> str:
        first, last = self._text_offset[document : document + 2].tolist()
        stop = last if end is None else first + end
        return self._text[first + start : stop].tobytes().decode("utf-8", errors="replace")


def _row(index: SupportsIndex, length: int, what: str) -> int:
    row = operator.index(index)
    if not 0 <= row < length:
        raise InputError(f"There is no {what} {row}: the records have {what}s 0 to {length - 1}")
    return row
