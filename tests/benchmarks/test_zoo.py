"""docs/zoo.md: every architecture is on the page, with its errors in the units that the page names."""

from __future__ import annotations

from benchmarks.markdown import WIDTH
from benchmarks.zoo import Finding, page

ERRORS = {"float32": 1.7e-6, "bfloat16": 0.15, "float32, whole": 2e-6, "bfloat16, whole": 9.04e-7}
LONG = "MossTranscribeDiarizeForConditionalGeneration"


def test_the_page_has_every_finding() -> None:
    text = page(
        [
            Finding(model_type="moss_transcribe_diarize", class_name=LONG, built=True, fused=True, errors=ERRORS),
            Finding(model_type="whole", class_name="A", built=True, reason="its head is not plain", errors=ERRORS),
            Finding(
                model_type="half", class_name="B", built=True, fused=True, reason="fails", errors={"float32": 4e-6}
            ),
            Finding(model_type="blt", reason="shapes " * 20, errors={}),
        ]
    )
    assert f"| moss_transcribe_diarize | {LONG} | 1.7 | 15 | 2.0 | 0.90 |" in text
    assert "| half | B | 4.0 |  |  |  |" in text and "- `half`: fails" in text
    assert "- `whole`: whole logits: its head is not plain" in text
    assert "- `blt`: reads bytes in patches" in text
    assert "model for 4 model types. 3 of them are built here at a small size. For 2 of these" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= WIDTH
