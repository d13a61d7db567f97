"""Makes the archives of `load_example` from a study: ``python -m dynamics.example.pack STUDY``.

One archive a seed, with everything that a run is but its weights. The same study gives the same bytes, and none that
tells where it was made.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from dynamics.errors import InputError
from dynamics.records import schema
from dynamics.records.check import check_path
from dynamics.records.reader import Study, open_study, study_run_path

HERE = Path(__file__).parent
# Bytes: what a repository bears in one file, and what a package bears for an example.
MOST, MOST_IN_ALL = 5_000_000, 20_000_000
# An absolute path or a home folder, of any system; neither a relative path, a hub name nor a URL.
PLACE = re.compile(r"(?<![\w.\-/:])(?:/(?=[\w.])|~[\w.-]*[/\\]|[A-Za-z]:[\\/](?!/)|\\\\)|:/(?=[\w.])|\bfile:")


def pack(study: Study, output: Path = HERE) -> list[Path]:
    """Write one archive a seed, in which what its arms share is found to repeat.

    Raises
    ------
    InputError
        If a run is not complete or damaged, if a file names a place of this machine, or if the archives are larger
        than they may be.
    """
    archives = {}
    for seed in study.seeds:
        content = {schema.STUDY_FILE: (study.path / schema.STUDY_FILE).read_bytes()}
        for arm in study.arms:
            run = study.run(arm, seed)
            (report,) = check_path(run.path)
            if not run.complete or not report.ok:
                raise InputError(f"{run.path} is not complete and whole; only such a run can be an example")
            for path in sorted(run.path.rglob("*")):
                name = path.relative_to(run.path)
                if path.is_file() and name.parts[0] != schema.MODEL_FOLDER:
                    content[(study_run_path("", arm, seed) / name).as_posix()] = path.read_bytes()
            # Without weights, which the manifest then does not vouch for.
            manifest = {key: value for key, value in run.manifest.items() if key != "model_files"}
            sealed = (study_run_path("", arm, seed) / schema.MANIFEST_FILE).as_posix()
            with TemporaryDirectory() as folder:
                schema.write_manifest(Path(folder) / schema.MANIFEST_FILE, manifest)
                content[sealed] = (Path(folder) / schema.MANIFEST_FILE).read_bytes()
        for stored, file in content.items():
            if named := [text for text in written(stored, file) if PLACE.search(text)]:
                raise InputError(
                    f"{stored} of seed {seed} names a place of this machine, {named[0]!r}; "
                    "name corpora by 'builtin:' and models by 'cache:' or a hub name"
                )
        archives[output / f"seed-{seed}.tar.xz"] = _archive(content)
    sizes = {path.name: len(archive) for path, archive in archives.items()}
    if max(sizes.values()) > MOST or sum(sizes.values()) > MOST_IN_ALL:
        raise InputError(
            f"the archives have {sizes} bytes, above {MOST} or {MOST_IN_ALL} in all; record fewer sequences"
        )
    for path, archive in archives.items():
        schema.atomic_write_bytes(path, archive)
    return list(archives)


def written(name: str, content: bytes) -> Iterator[str]:
    """Yield every key and string that a file of a run writes down; of tensors their metadata, not the corpus."""
    ending = Path(name).suffix
    if ending == ".safetensors":
        length = int.from_bytes(content[:8], "little")
        yield from _strings(json.loads(content[8 : 8 + length]).get("__metadata__", {}))
    elif ending == ".jsonl":
        yield from _strings([json.loads(line) for line in content.splitlines()])
    else:
        yield from _strings((yaml.safe_load if ending == ".yaml" else json.loads)(content.decode()))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _archive(content: dict[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        # Tensors of one kind beside each other, so that what repeats between arms is found.
        for name in sorted(content, key=lambda name: (Path(name).name, name)):
            entry = tarfile.TarInfo(name)  # neither time nor owner
            entry.size = len(content[name])
            archive.addfile(entry, io.BytesIO(content[name]))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    return lzma.compress(raw.getvalue(), format=lzma.FORMAT_XZ, filters=filters)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", help="the folder that `dynamics study` wrote")
    for path in pack(open_study(parser.parse_args().study)):
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
