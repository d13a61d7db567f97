"""The quickstart at full length, from the wheel, in an environment made for it: `make acceptance` runs this."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from dynamics import open_study
from dynamics.plots.arm_tables.arm_table import arm_table


def test_the_quickstart_learns_then_degrades_and_token_dropout_changes_that(elsewhere: Path) -> None:
    command = elsewhere / "venv/bin/dynamics"
    environment = {**os.environ, "DYNAMICS_CACHE": str(elsewhere / "cache")}
    started = time.monotonic()
    done = subprocess.run(
        [command, "study", "quickstart"], cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
    )
    minutes = (time.monotonic() - started) / 60
    print(done.stdout)
    print(f"{minutes:.1f} minutes")
    assert done.returncode == 0, done.stderr
    assert minutes < 6
    table = arm_table(open_study(elsewhere / "runs/quickstart"))
    baseline, *others = table.rows
    assert [row.arm for row in table.rows] == ["baseline", "entrodrop", "random"]
    # The model has learned its language before the study begins: 4 nats of these tokens are about 1.7 bits per byte.
    assert {row.start for row in others} == {baseline.start} and baseline.start < 4
    # The loss falls, then rises; and the arms end at different losses.
    assert 0 < baseline.best_epoch < baseline.final_epoch
    assert baseline.start - baseline.best_cross_fitted >= 0.02
    assert baseline.rebound_cross_fitted_low > 0.05
    assert all(table.significant(table.differences[row.arm]) for row in others)
    subprocess.run([command, "check", "runs/quickstart"], cwd=elsewhere, check=True, stdout=subprocess.DEVNULL)
