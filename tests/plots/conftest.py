from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot
from support.synthetic import make_run, make_study

from dynamics.records.reader import Run, Study, open_run, open_study

Array = np.ndarray[Any, Any]

#: Validation loss by epoch of each arm, planted for every token; on training it is 1 less.
PLANTED = {
    "baseline": [4.0, 3.0, 3.25, 3.75],
    "entrodrop": [4.0, 3.25, 3.0, 3.125],
    "random": [4.0, 3.25, 3.0, 3.0625],
    "inverse": [4.0, 3.5, 3.25, 3.0],
}


def planted(curve: list[float]) -> Any:
    def loss(epoch: int, split: str, entropy: Array, rng: np.random.Generator) -> Array:
        return np.full(entropy.shape, curve[epoch] - (split == "train"))

    return loss


@pytest.fixture(scope="session")
def losses() -> dict[str, list[float]]:
    """The planted curves of `study`."""
    return PLANTED


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Four arms, three seeds, three epochs; entrodrop and random are matched, inverse is not."""
    arms: dict[str, dict[str, Any]] = {
        "baseline": {},
        "entrodrop": {"regularizers": [{"name": "entrodrop", "ratio": 0.2, "schedule": "linear"}]},
        "random": {"regularizers": [{"name": "random_token_dropout", "ratio": 0.2, "schedule": {"name": "linear"}}]},
        "inverse": {
            "regularizers": [
                {
                    "name": "inverse_entrodrop",
                    "ratio": 0.4,
                    "schedule": {"name": "step", "at": 0.5, "midpoint": 0.5, "steepness": 10.0},
                }
            ]
        },
    }
    path = tmp_path_factory.mktemp("plots") / "study"
    make_study(
        path,
        arms=arms,
        seeds=(0, 1, 2),
        n_documents=100,
        epochs=3,
        loss_fns={arm: planted(curve) for arm, curve in PLANTED.items()},
    )
    return open_study(path)


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run without token dropout."""
    path = tmp_path_factory.mktemp("plots") / "run"
    return open_run(make_run(path, n_documents=100, epochs=3, name="quickstart"))


@pytest.fixture(scope="session")
def started_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of which epoch 0 alone is there."""
    path = tmp_path_factory.mktemp("plots") / "started"
    regularizers: list[dict[str, Any]] = [{"name": "entrodrop", "ratio": 0.2}]
    run = open_run(make_run(path, n_documents=100, epochs=2, regularizers=regularizers, status="running"))
    run.epochs = [0]
    (Path(path) / "metrics.jsonl").write_text("")
    return run


@pytest.fixture(autouse=True)
def no_open_figures() -> Iterator[None]:
    """Figures of the library are known to pyplot, which would warn at the 21st."""
    yield
    pyplot.close("all")
