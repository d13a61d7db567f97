from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.synthetic import make_study

from dynamics.analysis.sums.summarising import summarize_study
from dynamics.errors import InputError
from dynamics.notebook import temporary_folder, tiny_language_model
from dynamics.records.reader import open_study
from dynamics.records.summaries.reading import open_summary


def test_a_tiny_model_of_a_study_s_texts(tmp_path: Path) -> None:
    study = open_study(make_study(tmp_path / "study", arms={"a": {}}, seeds=(0,), n_documents=40, epochs=1))
    tiny = tiny_language_model(study)
    assert len(tiny.train) == 12 and len(tiny.validation) == 8
    assert all(2 <= len(each["input_ids"]) <= 64 for each in tiny.train + tiny.validation)
    before = torch.random.get_rng_state()
    first, second = tiny.model(), tiny.model()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert first.num_parameters() < 50_000 and first.config.vocab_size == len(tiny.tokenizer)

    summarize_study(study, tmp_path / "summary")
    with pytest.raises(InputError):
        tiny_language_model(open_summary(tmp_path / "summary"))


def test_a_temporary_folder_goes_with_the_session() -> None:
    code = "from dynamics.notebook import temporary_folder as t; p = t(); (p / 'x').write_text('x'); print(p)"
    where = Path(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    )
    assert where.name and not where.exists()
    assert temporary_folder() != temporary_folder()
