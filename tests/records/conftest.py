"""One small run and one small study, written once; tests that change files take a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.synthetic import make_run, make_study


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of epochs 0 to 2; never to be changed."""
    path = tmp_path_factory.mktemp("whole") / "run"
    return make_run(path, n_documents=4, epochs=2, regularizers=[{"name": "x", "ratio": 0.4}])


@pytest.fixture
def run_path(whole_run: Path, tmp_path: Path) -> Path:
    """A copy of the whole run, to be changed."""
    return Path(shutil.copytree(whole_run, tmp_path / "run"))


@pytest.fixture
def study_path(tmp_path: Path) -> Path:
    return make_study(tmp_path / "study", n_documents=4, epochs=1, seeds=(3, 1), skip=[("entrodrop", 1)])
