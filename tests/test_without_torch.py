"""Reading, analysing and drawing where torch is not installed: in an environment made without it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support.synthetic import make_study

ROOT = Path(__file__).parents[1]
PYTHON = Path(os.environ.get("DYNAMICS_LIGHT_PYTHON", ROOT / ".venv-light" / "bin" / "python"))

USE = """
import importlib.util, sys
for name in ("torch", "transformers", "datasets", "accelerate"):
    assert importlib.util.find_spec(name) is None, name
import dynamics
from pathlib import Path
from matplotlib.figure import Figure
from dynamics.plots.families.curriculum import curriculum, outcomes
from dynamics.plots.families.degradation import degradation
from dynamics.plots.saving import save_figures
from dynamics.plots.families.token_dynamics import token_dynamics
study = dynamics.open_study(sys.argv[1])
run = study.run("baseline", 0)
records = dynamics.open_run(run.path).records("validation")
assert records.loss(1).size
assert records.to_xarray().loss.sel(epoch=1).equals(records.to_xarray().loss.isel(epoch=1))
for plot in (degradation, curriculum, outcomes):
    plot(study, ax=Figure().add_subplot())
token_dynamics(study)
assert len(save_figures([study], output=Path(sys.argv[2]))) == 55
assert "srcdoc" in run.explore()._repr_html_()
assert dynamics.load_example().run("entrodrop", 0).records("train").dropped(1).any()
try:
    dynamics.DynamicsTrainer
except ImportError as error:
    assert "torch" in str(error)
else:
    raise AssertionError("a trainer without torch")
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    if not PYTHON.exists():
        pytest.fail(f"{PYTHON} is missing: `make test` makes an environment without torch there")
    return subprocess.run([PYTHON, *arguments], capture_output=True, text=True, check=False)


def test_records_analysis_and_every_plot_work(tmp_path):
    study = make_study(tmp_path / "study", n_documents=120, epochs=3, seeds=(0, 1, 2))
    done = run("-W", "error", "-c", USE, str(study), str(tmp_path / "figures"))
    assert done.returncode == 0, done.stderr


def test_commands_that_read_work_and_those_that_train_say_what_they_need(tmp_path):
    assert run("-m", "dynamics", "--help").returncode == 0
    study = make_study(tmp_path / "study", n_documents=120, epochs=2, seeds=(0, 1, 2))
    assert run("-m", "dynamics", "check", str(study)).returncode == 0
    done = run("-m", "dynamics", "figures", str(study), "--output", str(tmp_path / "figures"), "--format", "png")
    assert done.returncode == 0, done.stderr
    done = run("-m", "dynamics", "study", "quickstart", "--output", str(tmp_path / "new"))
    assert done.returncode == 2 and "torch" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()
    for kind, package in (("parquet", "pyarrow"), ("zarr", "zarr")):
        output = tmp_path / f"new.{kind}"
        done = run(
            *("-m", "dynamics", "export", str(study / "runs/baseline/seed-0"), "--format", kind),
            *("--output", str(output)),
        )
        assert done.returncode == 2 and not output.exists()
        assert f"written with {package}, which is not installed: pip install 'learning-dynamics[export]'" in done.stderr
