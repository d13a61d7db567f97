"""`Records.to_xarray`: the arrays of the records with labels, and nothing read before it is asked for."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from support.synthetic import SyntheticSplit, make_run

from dynamics.errors import DamagedRecordError, InputError
from dynamics.predicted import predicted_mask
from dynamics.records import epochs, schema, values, writer
from dynamics.records.reader import open_run
from dynamics.records.writer import SplitValues

NAN = np.nan

# Two documents in three sequences of four tokens; sequences 0 and 2 are recorded.
DOCUMENT = np.array([[0, 0, 0, 1], [1, 1, 1, 1], [1, 1, -1, -1]], dtype=np.int32)
LOSS = np.array([[NAN, 1, 2, NAN], [NAN, 4, NAN, NAN]])  # after epoch 0; after epoch 2, half of it


def hand_run(path: Path, *, training_pass: bool) -> Path:
    """Epochs 0 and 2 of "train", written by the real writer."""
    span = np.zeros_like(DOCUMENT)
    packed = SyntheticSplit(
        token_id=np.arange(12, dtype=np.int32).reshape(3, 4),
        document_id=DOCUMENT,
        byte_start=span,
        byte_end=span,
        text=np.frombuffer(b"ab", dtype=np.uint8),
        text_offset=np.array([0, 1, 2]),
        document_hash=np.zeros((2, 32), dtype=np.uint8),
    )
    reference = np.where(predicted_mask(DOCUMENT), 7.0, NAN)
    entry = writer.write_tokens(
        path,
        "train",
        packed,
        reference_loss=reference,
        reference_entropy=reference + 1,
        recorded_sequence_id=np.array([0, 2]),
    )
    for epoch in (0, 2):
        after = epoch == 2
        seen = {"training_loss": LOSS + 3, "training_entropy": LOSS + 4} if after and training_pass else {}
        split = SplitValues(
            sequence_id=np.array([0, 2]),
            loss=LOSS / 2 if after else LOSS,
            entropy=LOSS * 3,
            correct=LOSS == 2,
            dropped=(LOSS == 4) if after else None,
            **seen,
        )
        writer.write_epoch(path, epoch, {"train": split}, config_hash="c")
    manifest = {"format_version": 1, "status": "running", "config_hash": "c", "name": "hand"}
    extra = {"tokens": {"train": entry}, "versions": {"dynamics": "0.1.0", "torch": "2.13.0"}}
    schema.write_manifest(path / "manifest.json", manifest | extra)
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The names of what is read of every epoch's files, as they are read."""
    seen: list[tuple[str, str]] = []
    read = values.read_tensors

    def counting(path: Path, entry: Any, names: Any, **options: Any) -> Any:
        seen.extend((path.parent.name, name) for name in names if name != "sequence_id")
        return read(path, entry, names, **options)

    for module in (values, epochs):  # the tokens, and the epochs
        monkeypatch.setattr(module, "read_tensors", counting)
    return seen


def test_the_hand_example(tmp_path: Path) -> None:
    data = open_run(hand_run(tmp_path / "run", training_pass=True)).records("train").to_xarray()
    assert dict(data.sizes) == {"epoch": 2, "sequence": 2, "position": 4}
    assert data.epoch.values.tolist() == [0, 2]
    assert data.sequence.values.tolist() == [0, 2]  # ids, not rows
    assert data.position.values.tolist() == [0, 1, 2, 3]
    by_epoch = ["loss", "entropy", "correct", "dropped", "training_loss", "training_entropy"]
    by_token = ["token_id", "document_id", "predicted", "reference_loss", "reference_entropy"]
    assert list(data.data_vars) == by_epoch + by_token
    assert all(data[name].dims == ("epoch", "sequence", "position") for name in by_epoch)
    assert all(data[name].dims == ("sequence", "position") for name in by_token)
    np.testing.assert_array_equal(data.loss.values, np.stack([LOSS, LOSS / 2]))
    np.testing.assert_array_equal(data.entropy.sel(epoch=2).values, LOSS * 3)
    assert data.correct.values.astype(int).tolist() == [[[0, 0, 1, 0], [0] * 4]] * 2
    assert data.dropped.values.astype(int).tolist() == [[[0] * 4] * 2, [[0] * 4, [0, 1, 0, 0]]]
    np.testing.assert_array_equal(data.training_loss.values, np.stack([LOSS * NAN, LOSS + 3]))
    np.testing.assert_array_equal(data.training_entropy.sel(epoch=2).values, LOSS + 4)
    assert data.token_id.values.tolist() == [[0, 1, 2, 3], [8, 9, 10, 11]]
    assert data.document_id.values.tolist() == [[0, 0, 0, 1], [1, 1, -1, -1]]
    assert data.predicted.values.astype(int).tolist() == [[0, 1, 1, 0], [0, 1, 0, 0]]
    np.testing.assert_array_equal(data.reference_entropy.values, np.where(data.predicted, 8.0, NAN))
    kinds = [data[name].dtype.name for name in by_epoch + by_token]
    assert kinds == ["float32"] * 2 + ["bool"] * 2 + ["float32"] * 2 + ["int32"] * 2 + ["bool"] + ["float32"] * 2


def test_what_it_says_of_itself(tmp_path: Path) -> None:
    run = open_run(hand_run(tmp_path / "run", training_pass=False))
    data = run.records("train").to_xarray()
    assert data.attrs == {
        "run": "hand",
        "split": "train",
        "units": "nats",
        "config_hash": "c",
        "tokens_hash": run.manifest["tokens"]["train"]["tokens_hash"],
        "dynamics_version": "0.1.0",
        "torch_version": "2.13.0",
    }
    in_nats = {name for name in data.data_vars if data[name].attrs.get("units") == "nats"}
    assert in_nats == {"loss", "entropy", "reference_loss", "reference_entropy"}
    assert all(data[name].attrs["long_name"] for name in data.data_vars)
    assert "training_loss" not in data


def test_validation_has_nothing_of_training(whole_run: Path) -> None:
    run = open_run(whole_run)
    data = run.records("validation").to_xarray()
    assert not {"dropped", "training_loss", "training_entropy"} & set(data)
    assert data.attrs["split"] == "validation"


def test_nothing_is_read_until_it_is_indexed(whole_run: Path, reads: list[tuple[str, str]]) -> None:
    records = open_run(whole_run).records("train")
    reads.clear()
    data = records.to_xarray()
    repr(data), data.nbytes, data.loss.sel(epoch=1).isel(sequence=0)
    assert reads == []
    loss = data.loss.sel(epoch=1)
    np.testing.assert_array_equal(loss.isel(sequence=[2, 0]).values, records.loss(1)[[2, 0]])
    assert set(reads) == {("epoch-0001", "loss")}
    reads.clear()
    assert data.correct.isel(epoch=slice(1, None), sequence=0, position=-1).values.shape == (2,)
    assert reads == [("epoch-0001", "correct"), ("epoch-0002", "correct")]
    reads.clear()
    data.isel(epoch=0).load()
    assert {epoch for epoch, _ in reads} == {"epoch-0000"}


INDEXES = [
    {"epoch": 1},
    {"epoch": -1, "sequence": 0, "position": 3},
    {"epoch": slice(None, None, -1), "sequence": slice(4, 0, -2)},
    {"epoch": [2, 0, 2], "sequence": [1, 1, 0], "position": [0, 5]},
    {"epoch": []},
    {"epoch": [], "sequence": 0},
    {"position": slice(2, 9, 3)},
    {"epoch": np.array([False, True, True]), "position": np.arange(16) % 5 == 1},
]


@pytest.mark.parametrize("index", INDEXES)
def test_every_index_gives_what_numpy_gives(whole_run: Path, index: dict[str, Any]) -> None:
    records = open_run(whole_run).records("train")
    data = records.to_xarray()
    whole = np.stack([records.loss(epoch) for epoch in (0, 1, 2)])
    found = data.loss.isel(index).values
    np.testing.assert_array_equal(found, xarray.DataArray(whole, dims=data.loss.dims).isel(index).values)
    assert found.dtype == np.float32


def test_points_are_picked_together(whole_run: Path) -> None:
    records = open_run(whole_run).records("train")
    at = {"epoch": ("token", [0, 2]), "sequence": ("token", [1, 3]), "position": ("token", [4, 5])}
    picked = records.to_xarray().loss.isel({dim: xarray.Variable(*of) for dim, of in at.items()})
    assert picked.values.tolist() == [records.loss(0)[1, 4], records.loss(2)[3, 5]]


def test_labels_carry_through_arithmetic(tmp_path: Path) -> None:
    """The gap between two splits, by hand: the planted values are 1 on validation and 0.5 on training."""
    path = make_run(
        tmp_path / "run",
        n_documents=4,
        epochs=1,
        loss_fn=lambda epoch, split, entropy, rng: np.full(entropy.shape, 1.0 if split == "validation" else 0.5),
    )
    run = open_run(path)
    means = {split: run.records(split).to_xarray().loss.mean(("sequence", "position")) for split in run.splits}
    gap = means["validation"] - means["train"]
    assert gap.dims == ("epoch",) and gap.values.tolist() == [0.5, 0.5]


def test_the_records_are_not_changed_through_it(whole_run: Path) -> None:
    data = open_run(whole_run).records("train").to_xarray()
    with pytest.raises(ValueError, match="read-only"):
        data.token_id.values[0, 0] = 1
    data["loss"] = data.loss * 2  # a change of the data set alone
    assert data.loss.isel(epoch=0).shape


def test_it_can_be_sent_to_another_process(whole_run: Path) -> None:
    data = open_run(whole_run).records("train").to_xarray()
    assert pickle.loads(pickle.dumps(data)).identical(data)


def test_a_damaged_epoch_is_named_when_it_is_read(run_path: Path) -> None:
    records = open_run(run_path).records("validation")
    next((run_path / "epochs/epoch-0001").glob("validation-*")).write_bytes(b"x")
    data = records.to_xarray()
    assert data.loss.sel(epoch=2).values.any()
    with pytest.raises(DamagedRecordError, match="Epoch 1 of .* Still good, by the same cheap checks: 0, 2"):
        _ = data.loss.values
    (run_path / "epochs/epoch-0002/manifest.json").write_text("{}")
    assert "dropped" in open_run(run_path).records("train").to_xarray()


def test_an_epoch_without_what_the_optimiser_saw(tmp_path: Path) -> None:
    """Training goes on with recording.training_pass where it began without: those epochs hold nothing of it."""
    path = hand_run(tmp_path / "run", training_pass=False)
    split = SplitValues(
        sequence_id=np.array([0, 2]),
        loss=LOSS,
        entropy=LOSS,
        correct=LOSS == 2,
        training_loss=LOSS + 3,
        training_entropy=LOSS + 4,
    )
    writer.write_epoch(path, 3, {"train": split}, config_hash="c")
    data = open_run(path).records("train").to_xarray()
    np.testing.assert_array_equal(data.training_loss.values, np.stack([LOSS * NAN, LOSS * NAN, LOSS + 3]))


def test_opening_loads_no_xarray(whole_run: Path) -> None:
    code = (
        "import sys; from dynamics.records.reader import open_run\n"
        "records = open_run(sys.argv[1]).records('train'); records.loss(1); records.text(0)\n"
        "assert 'xarray' not in sys.modules and 'pandas' not in sys.modules\n"
        "records.to_xarray(); assert 'xarray' in sys.modules and 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, whole_run], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_without_xarray_it_says_what_to_install(whole_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    monkeypatch.delitem(sys.modules, "dynamics.records.labelled", raising=False)
    records = open_run(whole_run).records("train")
    with pytest.raises(InputError, match="to_xarray\\(\\) needs xarray, which is not installed: pip install xarray"):
        records.to_xarray()


def test_the_texts_of_a_sequence_are_its_tokens_texts(whole_run: Path) -> None:
    records = open_run(whole_run).records("train")
    for row in (0, 3, len(records.token_id) - 1):
        assert records.token_texts(row) == [records.token_text(row, position) for position in range(16)]
    assert records.token_texts(len(records.token_id) - 1)[-1] == ""  # padding
    with pytest.raises(InputError, match="There is no sequence 999"):
        records.token_texts(999)


def test_passes_stand_along_the_epochs(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "run", n_documents=4, epochs=2, cut=1.5))
    data = run.records("train").to_xarray()
    assert data.passes.dims == ("epoch",)
    assert data.passes.values.tolist() == [0.0, 1.0, 1.5]
    assert data.epoch.values.tolist() == [0, 1, 2]
    assert float(data.loss.sel(epoch=2).passes) == 1.5
