"""A cache of its own for the tests, shared by them."""

import os

import pytest


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory):
    before = os.environ.get("DYNAMICS_CACHE")
    os.environ["DYNAMICS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["DYNAMICS_CACHE"]
    else:
        os.environ["DYNAMICS_CACHE"] = before
