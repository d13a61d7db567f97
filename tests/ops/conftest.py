"""Either route of the head's products, where it matters which."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dynamics.ops import routes


@pytest.fixture(params=routes.ROUTES)
def each_route(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test by one route and by the other; where there is one alone, both are that."""
    with routes.forced(request.param):
        yield request.param
