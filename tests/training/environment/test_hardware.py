"""What a manifest says of versions."""

from importlib import metadata

import dynamics
from dynamics.training.environment import hardware


def test_a_checkout_that_is_not_installed_has_a_version(monkeypatch):
    def installed(name):
        if name in ("learning-dynamics", "datasets"):
            raise metadata.PackageNotFoundError(name)
        return f"{name}'s"

    monkeypatch.setattr(hardware, "version", installed)
    found = hardware.versions()
    assert found["dynamics"] == dynamics.__version__ and found["torch"] == "torch's" and "datasets" not in found
