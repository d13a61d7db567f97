"""Tables of generated pages: nothing is lost where they are cut to the width."""

from __future__ import annotations

from benchmarks.markdown import WIDTH, code, table, wrapped


def test_a_narrow_table_is_one_table() -> None:
    assert table(["a", "b"], [["1", "2"]]) == ["| a | b |", "| --- | --- |", "| 1 | 2 |"]


def test_a_wide_table_is_cut_and_every_part_names_its_rows() -> None:
    header = ["key", *(f"column {i} " + "x" * 16 for i in range(6))]
    rows = [["first", *"abcdef"], ["second", *"ghijkl"]]
    lines = table(header, rows)
    assert max(map(len, lines)) <= WIDTH and lines.count("") == 1
    parts = "\n".join(lines).split("\n\n")
    assert [len(part.splitlines()) for part in parts] == [4, 4]
    assert all(
        line.startswith(name)
        for part in parts
        for line, name in zip(part.splitlines()[2:], ["| first", "| second"], strict=True)
    )
    text = "\n".join(lines)
    assert all(text.count(f"| {letter} |") + text.count(f" {letter} |") >= 1 for letter in "abcdefghijkl")
    assert all(text.count(name) == 1 for name in header[1:])


def test_a_cell_that_is_too_wide_becomes_an_item() -> None:
    lines = table(["step", "what it asks", "limit"], [["`a`", "word " * 40 + "end", "30 s"], ["`b`", "short", "9 s"]])
    assert max(len(line) for item in lines for line in item.splitlines()) <= WIDTH
    assert lines[0].startswith("- `a`: what it asks: word word") and lines[0].endswith("end; limit: 30 s")
    assert lines[1] == "- `b`: what it asks: short; limit: 9 s"
    assert table(["", ""], [["sum", "x " * 60 + "y"]])[0].startswith("- sum: x x")


def test_paragraphs_and_code_fit() -> None:
    assert max(map(len, wrapped("word " * 60).splitlines())) <= WIDTH
    lines = code(["short", "x" * 150, ""])
    assert lines[0] == lines[-1] == "```" and max(map(len, lines)) <= WIDTH
    assert "".join(lines[1:-1]) == "short" + "x" * 150
