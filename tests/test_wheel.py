"""The wheel: what it holds, and that the quickstart packaged with it runs from somewhere else."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Shorter, not simpler: base, three arms, figures. The full length is `make acceptance`.
SHORT = [
    *("--set", "corpus.documents=20"),
    *("--set", "base.corpus={source: 'builtin:python-reference', documents: 30}"),
    *("--set", "base.epochs=1"),
    *("--set", "training.num_train_epochs=1"),
    *("--set", "tokenizer.train.vocab_size=400"),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # The environment's own setuptools builds it, from a copy: setuptools leaves folders where it works.
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    source = folder / "source"
    for name in filter(None, listed.decode().split("\0")):
        target = source / name
        if (ROOT / name).is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(source)], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_modules_recipes_and_licence_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "dynamics/recipe/packaged/quickstart.yaml" in names and "dynamics/cli/__init__.py" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"dynamics", "learning_dynamics"}


def test_the_packaged_quickstart_runs_elsewhere(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site), "DYNAMICS_CACHE": str(tmp_path / "cache")}
    code = f"import dynamics; assert dynamics.__file__.startswith({str(site)!r}), dynamics.__file__"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:dynamics", "-m", "dynamics", "study", "quickstart", *SHORT],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = tmp_path / "runs" / "quickstart" / "figures"
    drawn = {file.stem for file in figures.glob("*.png")}
    assert drawn >= {"degradation", "token_dynamics", "curriculum", "bucket_map", "cartography"}, drawn
    assert {file.stem for file in figures.glob("*.csv")} >= drawn
    assert done.stdout.rstrip().splitlines()[-1].startswith("figure: ")
    for arm in ("baseline", "entrodrop", "random"):
        assert any(line.startswith(arm) and len(line.split()) > 6 for line in done.stdout.splitlines())
