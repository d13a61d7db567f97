"""docs/gpu.md: what is in a result is on the page."""

from benchmarks.gpu import page

RESULT = {
    "steps": {
        "environment": {
            "status": "passed",
            "seconds": 3.2,
            "what": "The machine.",
            "measured": {"device": "NVIDIA H100", "torch": "2.11.0", "driver": "580"},
            "checks": [],
            "sources": "aa",
        },
        "operator_cost": {
            "status": "passed",
            "seconds": 60.0,
            "what": "Costs.",
            "measured": {
                "tokens": 8192,
                "rivals": {"plain": {"ms": 12.3456}, "ours": {"ms": 7.0, "peak": {"GiB": 2.5}}},
            },
            "checks": [
                {"what": "ratio", "value": 1.25, "limit": 1.3, "met": True, "target": True},
                {"what": "share", "value": 0.05, "limit": 0.02, "met": False, "target": True},
            ],
            "sources": "ab",
        },
        "resume": {"status": "timed out", "seconds": 90.0, "told": "first\nlast words", "sources": "ab"},
    }
}


def test_every_value_check_and_failure_is_on_the_page():
    text = page.results_section({"gpu-x.json": RESULT})
    for part in (
        "## NVIDIA H100",
        "torch 2.11.0 ([gpu-x.json](../benchmarks/results/gpu-x.json))",
        "| `operator_cost` | passed | 60 | 1 | 2 |",
        "| `resume` | timed out | 90 | 0 | 0 |",
        "- ratio: 1.25 (at most 1.3): holds",
        "- share: 0.05 (at most 0.02): **target missed**",
        "|  | ms | peak, GiB |\n| --- | --- | --- |\n| plain | 12.35 | - |\n| ours | 7 | 2.5 |",
        "| tokens | 8,192 |",
        "last words",
        "Not all steps are of the same state of the sources",
    ):
        assert part in text, part


def test_without_results_the_page_says_that_it_waits():
    assert page.results_section({}) == page.NOTHING


def test_lists_of_numbers_stand_in_a_line():
    assert page.tables({"chunks": [2048, 4096]}) == ["", "**chunks**: 2,048, 4,096"]
