from __future__ import annotations

import re

import numpy as np
import pytest
from support.synthetic import make_run

from dynamics.errors import InputError
from dynamics.notebook import ColoredText, colored_text
from dynamics.records.reader import open_run
from dynamics.records.values import Records


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    path = tmp_path_factory.mktemp("color") / "run"
    return open_run(make_run(path, n_documents=6, epochs=[0, 1])).records("validation")


def test_a_token_has_the_colour_of_its_number() -> None:
    text = ColoredText(("<a>", " b", "c", "d"), (3.0, -1.5, float("nan"), 0.0), 3.0, "nats")
    page = text._repr_html_()
    spans = re.findall(r"<span (.*?)>(.*?)</span>", page)
    assert spans[0] == ('style="background: rgba(213, 94, 0, 0.60)" title="+3.00 nats"', "<b>&lt;a&gt;</b>")
    assert spans[1] == ('style="background: rgba(0, 114, 178, 0.30)" title="-1.50 nats"', " b")
    assert spans[2] == ('style="background: rgba(0, 114, 178, 0.00)"', "c")
    assert repr(text) == "[<a>]+3.0 [ b]-1.5 cd"


def test_numbers_of_a_split_or_of_a_sequence(records: Records) -> None:
    loss = records.loss(1)
    whole, row = colored_text(records, 1, loss), colored_text(records, 1, loss[1])
    assert whole.tokens == row.tokens == tuple(records.token_texts(1))
    np.testing.assert_array_equal(whole.values, row.values)
    np.testing.assert_array_equal(whole.values, loss[1].astype(np.float64))


def test_what_does_not_fit_is_refused(records: Records) -> None:
    with pytest.raises(InputError, match="a sequence of this split has shape"):
        colored_text(records, 0, np.zeros(3))
    with pytest.raises(InputError, match="full: 0 must be a number above 0"):
        colored_text(records, 0, records.loss(1), full=0)
    with pytest.raises(InputError, match="no sequence 999"):
        colored_text(records, 999, records.loss(1))
