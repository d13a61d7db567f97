"""Every architecture that can be built small is recorded as its own logits have it."""

from __future__ import annotations

import pytest
import transformers

from benchmarks.zoo import examine
from benchmarks.zoo_models import architectures

# Those that need a package that is not here, or whose configuration does not shrink: docs/zoo.md says why.
AT_LEAST = 180


@pytest.fixture(scope="module")
def findings():
    transformers.logging.set_verbosity_error()
    return [examine(model_type) for model_type in architectures()]


def test_recorded_values_are_those_of_the_models_own_logits(findings):
    assert [(found.model_type, found.errors) for found in findings if not found.ok] == []


def test_nearly_all_are_built_and_fused(findings):
    assert sum(found.built for found in findings) >= AT_LEAST
    assert sum(found.fused for found in findings) >= AT_LEAST - 1
