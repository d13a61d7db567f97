"""The wheels that a bare machine lacks: listed with their sizes, and gathered into one folder.

    python -m benchmarks.gpu.wheels FOLDER
    python -m benchmarks.gpu.wheels FOLDER --have its-pip-freeze.txt --constraints constraints-torch-2.11.txt

A machine that is lent for minutes has torch, Triton and transformers, and no network. What this project and its rivals
need beyond what it has (bare_machine.txt, unless its own `pip freeze` is given) is followed through the requirements of
each wheel, in the versions of the constraints file, for Python 3.12 on Linux, x86_64. Requirements are held against
the versions that the machine has, where those are known. The project itself runs there from its checkout.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import tomllib
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from packaging.metadata import parse_email
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name, parse_wheel_filename

from dynamics.errors import InputError

ROOT = Path(__file__).parents[2]
BARE_MACHINE = Path(__file__).with_name("bare_machine.txt")
CONSTRAINTS = ROOT / "constraints-torch-2.11.txt"
MOST_BYTES = 10_000_000

#: What a requirement's marker may ask of the machine.
MACHINE = {
    "implementation_name": "cpython",
    "implementation_version": "3.12.3",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.12.3",
    "python_version": "3.12",
    "sys_platform": "linux",
}
#: What pip may take for it, beside wheels of pure Python.
TAGS = ["--python-version", "3.12", "--implementation", "cp"]
TAGS += [f"--platform={tag}_x86_64" for tag in ("manylinux_2_28", "manylinux_2_17", "manylinux2014")]

Versions = Mapping[NormalizedName, str | None]


@dataclasses.dataclass(frozen=True)
class Lacking:
    """What a machine lacks.

    Attributes
    ----------
    versions : dict of str to str
        Of each distribution to bring, by name.
    unchecked : list of str
        Requirements on what the machine has in a version that is not known, with who asks for it.
    """

    versions: dict[NormalizedName, str]
    unchecked: list[str]


def read_versions(path: Path) -> dict[NormalizedName, str | None]:
    """Return the versions in a file as `pip freeze` or `-c` takes it, None where it says none.

    Lines ``-c FILE`` are followed; other options, an editable checkout for one, name nothing that is installed.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file: give one with a line NAME or NAME==VERSION for each distribution")
    found: dict[NormalizedName, str | None] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("-c "):
            found |= read_versions(path.parent / text[3:].strip())
        elif text and not text.startswith("-"):
            requirement = Requirement(text)
            exact = [part.version for part in requirement.specifier if part.operator == "=="]
            found[canonicalize_name(requirement.name)] = exact[0] if exact else None
    return found


def project_requirements(extras: Iterable[str], pyproject: Path = ROOT / "pyproject.toml") -> list[str]:
    """Return what the project and these extras of it require."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    offered = project["optional-dependencies"]
    for extra in extras:
        if extra not in offered:
            raise InputError(f"--extras {extra}: pyproject.toml has {', '.join(offered)}")
    return [*project["dependencies"], *(text for extra in extras for text in offered[extra])]


def lacking(
    requirements: Iterable[str],
    have: Versions,
    pins: Versions,
    requires: Callable[[NormalizedName, str], Iterable[str]],
) -> Lacking:
    """Follow requirements to all that a machine lacks.

    Parameters
    ----------
    requirements : iterable of str
        The project's own.
    have, pins : dict of str to str or None
        By name: what the machine has, and in which version it is to get what it lacks.
    requires : callable
        From a name and a version to what that distribution requires, as its metadata says it.

    Raises
    ------
    InputError
        Where something is neither there nor pinned, or a version is not one that is asked for.
    """
    versions: dict[NormalizedName, str] = {}
    unchecked: list[str] = []
    followed: set[tuple[NormalizedName, str]] = set()
    waiting = deque(("this project", text, "") for text in requirements)
    while waiting:
        by, text, extra = waiting.popleft()
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({**MACHINE, "extra": extra}):
            continue
        name = canonicalize_name(needed.name)
        there = name in have
        version = have[name] if there else pins.get(name)
        if version is None and not there:
            raise InputError(
                f"{by} needs {needed}, which the machine lacks: pin {name}==VERSION in the constraints file"
            )
        # What a machine has says nothing of the extras that it has it with.
        if version is None or (there and needed.extras):
            unchecked.append(f"{needed} (for {by})")
        if version is not None and not needed.specifier.contains(version, prereleases=True):
            holder, remedy = "the constraints file pins", "pin versions that go together"
            if there:
                holder, remedy = "the machine has", f"change {by}, or take {name} off the list to bring it"
            raise InputError(f"{by} needs {needed}, and {holder} {name} {version}: {remedy}")
        if there or version is None:
            continue
        versions[name] = version
        for wanted in {"", *needed.extras}:
            if (name, wanted) not in followed:
                followed.add((name, wanted))
                waiting.extend((f"{name} {version}", inner, wanted) for inner in requires(name, version))
    return Lacking(dict(sorted(versions.items())), unchecked)


class WheelFolder:
    """A folder that wheels are fetched into.

    Parameters
    ----------
    path : Path
        Empty, or not there yet.
    """

    def __init__(self, path: Path) -> None:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path} is not an empty folder: give one that is, or is not there yet")
        path.mkdir(parents=True, exist_ok=True)
        self.path = path

    def requires(self, name: NormalizedName, version: str) -> list[str]:
        """Fetch a wheel for the machine if it is not here yet, and return what its metadata requires."""
        if name not in self.wheels():
            self._fetch(name, version)
        with zipfile.ZipFile(self.wheels()[name]) as wheel:
            (metadata,) = (file for file in wheel.namelist() if file.endswith(".dist-info/METADATA"))
            return parse_email(wheel.read(metadata))[0].get("requires_dist", [])

    def wheels(self) -> dict[NormalizedName, Path]:
        """Return the wheels that are here by the names of their distributions."""
        return {parse_wheel_filename(path.name)[0]: path for path in sorted(self.path.glob("*.whl"))}

    def _fetch(self, name: NormalizedName, version: str) -> None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *TAGS]
        done = subprocess.run([*command, "--dest", self.path, f"{name}=={version}"], capture_output=True, text=True)
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise InputError(f"no wheel of {name} {version} for Python 3.12 on Linux, x86_64; pip said: {said}")


def kind(wheel: Path) -> str:
    """Say whether a wheel is pure Python, and what it is compiled for where it is not."""
    tags = parse_wheel_filename(wheel.name)[3]
    if all(tag.abi == "none" and tag.platform == "any" for tag in tags):
        return "pure Python"
    interpreters, platforms = {tag.interpreter for tag in tags}, {tag.platform for tag in tags}
    return f"compiled for {' or '.join(sorted(interpreters))} on {' or '.join(sorted(platforms))}"


def listing(found: Lacking, wheels: Mapping[NormalizedName, Path], folder: Path) -> str:
    """Return the table of wheels, and how the machine takes them."""
    sizes = {name: wheels[name].stat().st_size for name in found.versions}
    rows = [("name", "version", "kB", "")]
    rows += [
        (name, version, f"{sizes[name] / 1e3:,.0f}", kind(wheels[name])) for name, version in found.versions.items()
    ]
    wide, versions, size = (max(len(row[column]) for row in rows) for column in range(3))
    table = [f"{a:{wide}}  {b:{versions}}  {c:>{size}}  {d}".rstrip() for a, b, c, d in rows]
    unknown = [f"    {text}" for text in found.unchecked]
    return "\n".join(
        [
            *table,
            "",
            f"{len(sizes)} wheels, {sum(sizes.values()) / 1e6:.2f} MB of {MOST_BYTES / 1e6:.0f}",
            "",
            *(["Asked of what the machine has in a version that is not known:", *unknown, ""] if unknown else []),
            "There, with DIR any folder:",
            f"    python3 -m pip install --no-index --no-deps --no-compile --target DIR {folder}/*.whl",
            "and then, in a checkout of this project:",
            "    PYTHONPATH=$PWD:DIR python3 -m benchmarks.gpu",
        ]
    )


def gather(path: Path, have: Path, constraints: Path, extras: Iterable[str]) -> str:
    """Gather into a folder what a machine lacks, and return what to tell about it."""
    folder = WheelFolder(path)
    found = lacking(project_requirements(extras), read_versions(have), read_versions(constraints), folder.requires)
    wheels = folder.wheels()
    total = sum(wheel.stat().st_size for wheel in wheels.values())
    if total > MOST_BYTES:
        largest = max(wheels.values(), key=lambda wheel: wheel.stat().st_size)
        raise InputError(
            f"{path} holds {total / 1e6:.2f} MB of wheels, and at most {MOST_BYTES / 1e6:.0f} MB may be: choose fewer "
            f"--extras; the largest is {largest.name}, {largest.stat().st_size / 1e6:.2f} MB"
        )
    return listing(found, wheels, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the wheels are gathered")
    parser.add_argument("--have", type=Path, default=BARE_MACHINE, help="what the machine has, as pip freeze writes it")
    parser.add_argument("--constraints", type=Path, default=CONSTRAINTS, help="the versions of what it lacks")
    parser.add_argument("--extras", nargs="*", default=["benchmarks"], help="of this project; benchmarks if not given")
    given = parser.parse_args()
    try:
        print(gather(given.folder, given.have, given.constraints, given.extras))
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
