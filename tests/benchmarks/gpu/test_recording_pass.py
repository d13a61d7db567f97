"""A recording is timed against a bare pass over the same tokens, and what it writes is a whole run."""

from __future__ import annotations

from support.steps import TINY

from benchmarks.gpu.steps import recording_pass
from dynamics.training.recording import epoch_recorder


def test_a_run_that_is_not_whole_is_told(monkeypatch):
    seal = epoch_recorder.seal_epoch

    def damaged(folder, epoch, **given):
        sealed = seal(folder, epoch, **given)
        if epoch == 1:
            (shard,) = sealed.glob("train-*")
            content = shard.read_bytes()
            shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        return sealed

    monkeypatch.setattr(epoch_recorder, "seal_epoch", damaged)
    (check,) = [check for check in recording_pass.run(TINY).checks if not check.target]
    assert not check.met and "epochs/epoch-0001/train-00000-of-00001.safetensors" in check.value
