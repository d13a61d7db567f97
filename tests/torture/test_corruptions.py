"""A few of the corruptions of `make torture`: each is found, and none is read as values."""

from __future__ import annotations

from pathlib import Path

import pytest
from torture.corruptions import CORRUPTIONS, real_run, torture


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNAMICS_CACHE", str(tmp_path_factory.mktemp("cache")))
        return real_run(tmp_path_factory.mktemp("whole") / "run")


def test_corruptions_are_found_and_never_read_as_values(whole: Path, tmp_path: Path) -> None:
    result = torture(40, whole, tmp_path, seed=1)
    assert result["wrong"] == []
    assert result["found by check"] == 40
    assert result["read as values with hashes"] == 0
    assert result["kinds"] == {corruption.__name__: 8 for corruption in CORRUPTIONS}
    # The test has teeth: hashes find what sizes, headers and layouts do not.
    assert result["read as values without hashes"] > 0
    assert set(result["kinds read as values without hashes"]) == {"flip"}
