"""What a bare machine lacks, followed through metadata that the tests write."""

import subprocess
import zipfile
from importlib import metadata
from types import SimpleNamespace

import pytest
from packaging.utils import canonicalize_name

from benchmarks.gpu import wheels
from dynamics.errors import InputError

INDEX = {
    "rival": ["Middle_Package >=2", "torch>=2", 'absent; platform_system == "Windows"', 'absent; extra == "docs"'],
    "middle-package": ["leaf[fast]<3", "rival", 'old; python_version < "3.12"', "scipy>=1.14"],
    "leaf": ['speedup; extra == "fast"', 'slow; extra == "slow"'],
    "speedup": [],
}
HAVE = {"torch": "2.11.0+cu130", "scipy": None}
PINS = {"rival": "1.0", "middle-package": "2.0", "leaf": "2.9", "speedup": "0.1"}


def lacking(requirements, have=HAVE, pins=PINS):
    return wheels.lacking(requirements, have, pins, lambda name, version: INDEX[name])


def test_requirements_are_followed_to_all_that_the_machine_lacks():
    found = lacking(["rival==1.*"])
    assert found.versions == {"leaf": "2.9", "middle-package": "2.0", "rival": "1.0", "speedup": "0.1"}
    assert found.unchecked == ["scipy>=1.14 (for middle-package 2.0)"]


def test_what_the_machine_has_is_neither_brought_nor_followed():
    assert lacking(["rival"], HAVE | {"middle-package": "2.5"}).versions == {"rival": "1.0"}


def test_an_extra_that_is_asked_for_second_is_followed_too():
    assert list(lacking(["leaf", "leaf[fast]"]).versions) == ["leaf", "speedup"]


def test_an_extra_of_what_the_machine_has_is_told():
    found = lacking(["middle-package"], HAVE | {"leaf": "2.0"})
    assert found.unchecked == ["leaf[fast]<3 (for middle-package 2.0)", "scipy>=1.14 (for middle-package 2.0)"]


@pytest.mark.parametrize(
    ("have", "pins", "message"),
    [
        (
            {"torch": "1.13.1"},
            {},
            "rival 1.0 needs torch>=2, and the machine has torch 1.13.1: change rival 1.0, or take torch off the list to bring it",
        ),
        (
            {},
            {"middle-package": "1.9"},
            "rival 1.0 needs Middle_Package>=2, and the constraints file pins middle-package 1.9: pin versions that go together",
        ),
        (
            {},
            {"leaf": None},
            "middle-package 2.0 needs leaf[fast]<3, which the machine lacks: pin leaf==VERSION in the constraints file",
        ),
    ],
)
def test_what_does_not_fit_is_one_message(have, pins, message):
    with pytest.raises(InputError) as error:
        lacking(["rival"], HAVE | have, PINS | pins)
    assert str(error.value) == message


def test_a_list_of_versions_is_read_with_those_that_it_names(tmp_path):
    (tmp_path / "shared.txt").write_text("Jinja2==3.1.6  # templates\n")
    (tmp_path / "list.txt").write_text(
        "# what is there\n-c shared.txt\n-e checkout\n\nhuggingface_hub==1.33.0\nscipy\nhere @ file:///tmp/here.whl\n"
    )
    expected = {"jinja2": "3.1.6", "huggingface-hub": "1.33.0", "scipy": None, "here": None}
    assert wheels.read_versions(tmp_path / "list.txt") == expected


def test_a_list_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="none.txt is not a file"):
        wheels.read_versions(tmp_path / "none.txt")


#: As the wheels of these two say it; they are for GPUs, and not installed where tests run.
RIVALS = {"liger-kernel": ["torch>=2.1.2", "triton>=2.3.1"], "cut-cross-entropy": ["torch", "triton"]}


def installed_requires(name, version):
    return RIVALS[name] if name in RIVALS else metadata.requires(name) or []


@pytest.fixture
def pins_read_here():
    """The older set's, but for the two whose metadata is read here in the version that is installed."""
    pins = wheels.read_versions(wheels.CONSTRAINTS)
    return pins | {canonicalize_name(name): metadata.version(name) for name in ("pydantic", "pydantic-core")}


def test_the_list_that_ships_lacks_these(pins_read_here):
    have = wheels.read_versions(wheels.BARE_MACHINE)
    required = wheels.project_requirements(["benchmarks"])
    found = wheels.lacking(required, have, pins_read_here, installed_requires)
    names = "annotated-types cut-cross-entropy datasets dill liger-kernel multiprocess platformdirs pydantic pydantic-core trl tueplots typing-inspection"
    assert list(found.versions) == names.split()
    without = wheels.lacking(wheels.project_requirements([]), have, pins_read_here, installed_requires)
    assert set(found.versions) - set(without.versions) == {"cut-cross-entropy", "liger-kernel", "trl"}


def test_an_extra_that_the_project_has_not_is_named():
    with pytest.raises(InputError, match="--extras gpu: pyproject.toml has notebooks, .*benchmarks"):
        wheels.project_requirements(["gpu"])


@pytest.fixture
def registry(monkeypatch):
    """Where pip downloads from: each file's size by its name, and what was asked for."""
    served = SimpleNamespace(
        sizes={"leaf-2.9-cp312-cp312-manylinux_2_17_x86_64.whl": 100, "speedup-0.1-py3-none-any.whl": 100}, asked=[]
    )

    def run(command, **_):
        wanted = command[-1]
        served.asked.append(wanted)
        name, version = wanted.split("==")
        for file, size in served.sizes.items():
            if file.startswith(f"{name}-{version}-"):
                folder = command[command.index("--dest") + 1]
                with zipfile.ZipFile(folder / file, "w") as wheel:
                    text = "".join(f"Requires-Dist: {one}\n" for one in INDEX[name])
                    wheel.writestr(f"{name}-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\n{text}\n")
                    wheel.writestr(f"{name}/data", bytes(size))
                return subprocess.CompletedProcess(command, 0, "", "")
        return subprocess.CompletedProcess(
            command, 1, "", f"WARNING: x\nERROR: No matching distribution for {wanted}\n"
        )

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(wheels, "project_requirements", lambda extras: ["leaf[fast]", "scipy>=1.14"])
    return served


@pytest.fixture
def lists(tmp_path):
    (tmp_path / "have.txt").write_text("scipy\n")
    (tmp_path / "pins.txt").write_text("leaf==2.9\nspeedup==0.1\n")
    return tmp_path / "have.txt", tmp_path / "pins.txt"


def test_wheels_are_gathered_and_listed_with_sizes(tmp_path, registry, lists):
    folder = tmp_path / "folder"
    registry.sizes["leaf-2.9-cp312-cp312-manylinux_2_17_x86_64.whl"] = 2_000_000
    told = wheels.gather(folder, *lists, ["benchmarks"]).splitlines()
    assert registry.asked == ["leaf==2.9", "speedup==0.1"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(registry.sizes)
    assert told[:6] == [
        "name     version     kB",
        "leaf     2.9      2,000  compiled for cp312 on manylinux_2_17_x86_64",
        "speedup  0.1          0  pure Python",
        "",
        "2 wheels, 2.00 MB of 10",
        "",
    ]
    assert "    scipy>=1.14 (for this project)" in told
    assert f"    python3 -m pip install --no-index --no-deps --no-compile --target DIR {folder}/*.whl" in told


def test_a_wheel_that_is_missing_is_one_message(tmp_path, registry, lists):
    del registry.sizes["speedup-0.1-py3-none-any.whl"]
    with pytest.raises(InputError) as error:
        wheels.gather(tmp_path / "folder", *lists, [])
    assert str(error.value) == (
        "no wheel of speedup 0.1 for Python 3.12 on Linux, x86_64; pip said: ERROR: No matching distribution for speedup==0.1"
    )


def test_more_than_ten_megabytes_are_refused(tmp_path, registry, lists):
    registry.sizes["speedup-0.1-py3-none-any.whl"] = 10_000_000
    with pytest.raises(InputError) as error:
        wheels.gather(tmp_path / "folder", *lists, [])
    assert str(error.value).endswith(
        "folder holds 10.00 MB of wheels, and at most 10 MB may be: choose fewer --extras; the largest is speedup-0.1-py3-none-any.whl, 10.00 MB"
    )


def test_a_folder_that_holds_anything_is_refused(tmp_path, registry, lists):
    with pytest.raises(InputError, match="is not an empty folder: give one that is, or is not there yet"):
        wheels.gather(tmp_path, *lists, [])
    assert registry.asked == []
