"""Documents from files, folders, hub data sets and lists of these; every kind of bad input."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from dynamics.corpus.sources import Document, corpus_hash, hub_place, load_documents, require_kept
from dynamics.errors import InputError


def write(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def write_rows(path: Path, *rows: object) -> str:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def texts(*args: Any, **kwargs: Any) -> list[str]:
    return [document.text for document in load_documents(*args, **kwargs)]


def test_the_content_hash_is_of_the_text_alone() -> None:
    expected = hashlib.sha256("é".encode()).hexdigest()
    assert Document("é", "a").content_hash == Document("é", "b").content_hash == expected


def test_the_corpus_hash_depends_on_texts_and_order() -> None:
    a, b = Document("a", "1"), Document("b", "2")
    by_hand = hashlib.sha256(hashlib.sha256(b"a").digest() + hashlib.sha256(b"b").digest())
    assert corpus_hash([a, b]) == by_hand.hexdigest()
    assert corpus_hash([b, a]) != corpus_hash([a, b])


def test_text_files_are_read_as_they_are(tmp_path: Path) -> None:
    source = write(tmp_path / "a.TXT", b"\xef\xbb\xbf" * 2 + b"one\r\ntwo\x00 \xf0\x9f\x98\x80\r")
    (document,) = load_documents(source)
    # The first byte-order mark goes; a second one, NUL and all line ends stay.
    assert document == Document("\ufeffone\r\ntwo\x00 \U0001f600\r", source)


def test_json_lines(tmp_path: Path) -> None:
    content = '\ufeff{"text": "a\u2028b"}\r\n\n  \n{"text": "\\ud83d\\ude00"}\n{"text": " \\n"}'
    source = write(tmp_path / "a.jsonl", content)
    # U+2028 does not end a line, blank lines and empty documents are passed over.
    assert load_documents(source) == [
        Document("a\u2028b", f"{source}:1"),
        Document("\U0001f600", f"{source}:4"),
    ]


def test_template_and_field(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", {"question": "1+1?", "answer": 2, "body": "b"})
    assert texts(source, template="{question}\n{answer}") == ["1+1?\n2"]
    assert texts(source, field="body") == ["b"]


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    source = str(tmp_path / "a=1.parquet")
    table = pa.table({"text": ["é", "", "z"], "n": [1, 2, 3], "when": [None, None, None]})
    parquet.write_table(table, source, row_group_size=1)
    assert load_documents(source) == [
        Document("é", f"{source} row 1"),
        Document("z", f"{source} row 3"),
    ]
    assert texts(source, template="{n}{text}") == ["1é", "2", "3z"]
    with pytest.raises(InputError, match=r"a=1\.parquet: there is no field 'txt'.*'text', 'n'"):
        load_documents(source, field="txt")
    with pytest.raises(InputError, match="row 1: field 'n' holds a value of type int"):
        load_documents(source, field="n")
    with pytest.raises(InputError, match="row 1: field 'when' holds nothing"):
        load_documents(source, template="{n}{when}")
    broken = write(tmp_path / "b.parquet", b"PAR1 but no more")
    with pytest.raises(InputError, match=r"b\.parquet: cannot be read as parquet"):
        load_documents(broken)


def test_a_folder_is_read_by_relative_path(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a.txt", "a/b/c.txt", "B.txt"):
        write(tmp_path / name, name)
    write_rows(tmp_path / "a" / "rows.jsonl", {"text": "row"})
    for name in ("a/image.png", ".git/x.txt", "a/._b.txt"):
        write(tmp_path / name, b"\xff")
    order = ["B.txt", "a.txt", "a/b/c.txt", "row", "a/z.md", "b.txt"]
    assert texts(str(tmp_path)) == order


def test_a_list_is_read_in_its_order(tmp_path: Path) -> None:
    one, two = write(tmp_path / "1.txt", "one"), write(tmp_path / "2.txt", "two")
    assert texts([two, one, two]) == ["two", "one", "two"]
    mixed = load_documents([one, "builtin:python-reference"])
    assert mixed[0].text == "one"
    assert mixed[1].origin.startswith("builtin:python-reference")


def test_documents_keeps_the_lowest_hashes_in_source_order(tmp_path: Path) -> None:
    words = [f"document {i}" for i in range(20)]
    source = write_rows(tmp_path / "a.jsonl", *({"text": word} for word in words))
    chosen = sorted(words, key=lambda word: hashlib.sha256(word.encode()).hexdigest())
    assert texts(source, documents=7) == sorted(chosen[:7], key=words.index)
    assert texts(source, documents=20) == words


def test_documents_with_equal_hashes_are_taken_in_order(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", {"text": "same"}, {"text": "same"})
    (document,) = load_documents(source, documents=1)
    assert document.origin == f"{source}:1"


@pytest.mark.parametrize("documents", [3, 0, -1])
def test_documents_beyond_what_there_is(tmp_path: Path, documents: int) -> None:
    source = write_rows(tmp_path / "a.jsonl", {"text": "a"}, {"text": "b"}, {"text": ""})
    with pytest.raises(InputError, match=rf"documents: {documents} .*a\.jsonl.* 2 documents"):
        load_documents(source, documents=documents)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"ab\nc\xffd", r"a\.txt: not UTF-8 at byte 4 \(line 2, value 0xff\).*save"),
        ("a.jsonl", b'\xef\xbb\xbf{"text": "\xc3("}', r"a\.jsonl: not UTF-8 at byte 13 "),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"\n', r"a\.jsonl:2: not valid JSON.*character 13"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl:1: is list, not an object"),
        ("a.jsonl", b'"text"\n', r"a\.jsonl:1: is str, not an object"),
        ("a.jsonl", b'{"txt": "a"}', r"a\.jsonl:1: there is no field 'text'; did you mean 'txt'"),
        ("a.jsonl", b"{}", r"a\.jsonl:1: .*its fields are none"),
        ("a.jsonl", b'{"text": 5}', r"a\.jsonl:1: field 'text' holds a value of type int"),
        ("a.jsonl", b'\n{"text": "\\ud83d"}', r"a\.jsonl:2: holds a lone surrogate"),
        ("a.jsonl", b"[" * 200_000, r"a\.jsonl:1: (this JSON cannot be read|not valid JSON)"),
        ("a.jsonl", b'{"text": ' + b"1" * 9999 + b"}", r"a\.jsonl:1: this JSON cannot be read"),
        ("a.csv", b"text", r"a\.csv: files ending in '\.csv'.*known are \.txt, \.md"),
        ("a.json", b"{}", r"a\.json: .*did you mean '\.jsonl'"),
        ("LICENSE", b"text", r"LICENSE: files ending in 'no extension'"),
        ("a.txt", b" \n", r"corpus .*a\.txt holds no text"),
        ("a.jsonl", b"", r"corpus .*a\.jsonl holds no text"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_documents(write(tmp_path / name, content))


def test_missing_sources(tmp_path: Path) -> None:
    write(tmp_path / "corpus.jsonl", "")
    with pytest.raises(InputError, match=r"does not exist.*did you mean 'corpus\.jsonl'"):
        load_documents(str(tmp_path / "corpus.json"))
    with pytest.raises(InputError, match=r"/nowhere/x\.txt' does not exist"):
        load_documents(str(tmp_path / "nowhere" / "x.txt"))
    with pytest.raises(InputError, match="did you mean 'builtin:python-source'"):
        load_documents("python-source")
    with pytest.raises(InputError, match="did you mean 'builtin:python-source'"):
        load_documents("buitlin:python-source")
    with pytest.raises(InputError, match=r"builtin:python-sauce.*did you mean 'python-source'"):
        load_documents("builtin:python-sauce")
    with pytest.raises(InputError, match="empty list"):
        load_documents([])
    for odd in ("~no-such-user-here/b.txt", "a\0b.txt", "x" * 5000, ""):
        with pytest.raises(InputError, match="does not exist"):
            load_documents(odd)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"folder .*empty holds no file.*\.parquet"):
        load_documents(str(tmp_path / "empty"))
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(InputError, match=r"pipe\.txt' is neither a file nor a folder"):
        load_documents(str(tmp_path / "pipe.txt"))


def test_a_bad_template_is_found_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"template '\{a"):
        load_documents(str(tmp_path / "missing.txt"), template="{a")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the hub library off the network and out of the user's cache."""
    datasets = pytest.importorskip("datasets")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.mark.usefixtures("offline")
def test_a_hub_data_set(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    for split, words in {"train": ["a", "b"], "test": ["c"]}.items():
        table = pa.table({"text": words, "n": list(range(len(words)))})
        parquet.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")
    source = f"hub:{folder}"
    assert load_documents(source) == [
        Document("a", f"{source} train row 1"),
        Document("b", f"{source} train row 2"),
    ]
    assert texts(source, split="test", template="{text}{n}") == ["c0"]
    with pytest.raises(InputError, match=r"hub data set .* there is no field 'body'.*'text', 'n'"):
        load_documents(source, field="body")
    with pytest.raises(InputError, match=r"split 'valid'\) could not be loaded.*Check the name"):
        load_documents(source, split="valid")


@pytest.mark.usefixtures("offline")
def test_a_hub_data_set_that_cannot_be_had() -> None:
    with pytest.raises(InputError, match=r"'someone/no-such-set' .*could not be loaded: .*offline"):
        load_documents("hub:someone/no-such-set")
    with pytest.raises(InputError, match="needs the name"):
        load_documents("hub:")


# ------------------------------------------------------------------------ what is kept of a row


def test_fields_are_kept_beside_the_text(tmp_path: Path) -> None:
    rows = write_rows(
        tmp_path / "rows.jsonl",
        {"text": "a", "topic": "é", "year": 10**400, "share": 0.5, "good": True},
        {"text": "b", "topic": None, "year": float("nan")},
        {"text": " ", "topic": "of no document"},
    )
    plain = write(tmp_path / "plain.txt", "c")
    keep = ["year", "<source>", "topic", "good", "share"]
    found = load_documents([rows, plain, "builtin:python-reference"], keep=keep)
    kept = [dict(document.kept) for document in found[:3]]
    assert [list(each) for each in kept] == [keep] * 3
    assert kept[0] == {"year": 10**400, "<source>": "rows.jsonl", "topic": "é", "good": True, "share": 0.5}
    assert kept[1] == {"year": None, "<source>": "rows.jsonl", "topic": None, "good": None, "share": None}
    assert kept[2] == {"year": None, "<source>": "plain.txt", "topic": None, "good": None, "share": None}
    assert dict(found[3].kept)["<source>"] == "builtin:python-reference"
    require_kept(found)
    assert load_documents(rows) == [Document("a", f"{rows}:1"), Document("b", f"{rows}:2")]
    # Every one that is kept is to be there in some document.
    with pytest.raises(InputError, match="none of the 1 documents has the field 'topic'; name a field of the rows"):
        require_kept(load_documents(plain, keep=["<source>", "topic"]))


def test_sources_that_end_alike_are_told_apart_by_their_whole_names(tmp_path: Path) -> None:
    places = [write_rows(tmp_path / name / "a.jsonl", {"text": name}) for name in ("one", "two")]
    assert [document.kept for document in load_documents(places, keep=["<source>"])] == [
        (("<source>", place),) for place in places
    ]


def test_fields_of_tables_are_kept_where_there_are_columns(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    one, two = str(tmp_path / "one.parquet"), str(tmp_path / "two.parquet")
    parquet.write_table(pa.table({"text": ["a", "b"], "n": [1, None], "image": [b"x", b"y"]}), one)
    parquet.write_table(pa.table({"text": ["c"]}), two)
    assert [document.kept for document in load_documents([one, two], keep=["n"])] == [
        (("n", 1),),
        (("n", None),),
        (("n", None),),
    ]
    with pytest.raises(InputError, match=r"one.parquet row 1: field 'image' holds a value of type bytes, and corpus.k"):
        load_documents(one, keep=["image"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[1]", "field 'x' holds a value of type list, and corpus.keep takes text, numbers and true or false"),
        ('{"a": 1}', "holds a value of type dict"),
        ("Infinity", "field 'x' holds inf, and"),
        ("1e999", "field 'x' holds inf, and"),
        ('"\\ud800"', "a.jsonl:1: holds a lone surrogate"),
    ],
)
def test_values_that_cannot_be_kept(value: str, message: str, tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", f'{{"text": "a", "x": {value}}}')
    assert texts(source) == ["a"]
    with pytest.raises(InputError, match=message):
        load_documents(source, keep=["x"])


def test_what_a_hub_source_names(tmp_path: Path) -> None:
    assert hub_place("owner/set") == ("owner/set", None, False)
    assert hub_place("owner/set/python/small") == ("owner/set", "python/small", False)
    assert hub_place("set") == ("set", None, False)
    assert hub_place(str(tmp_path)) == (str(tmp_path), None, True)
    assert hub_place("/no/such/folder") == ("/no/such/folder", None, False)


def test_a_folder_of_a_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = {}

    def load_dataset(name: str, subset: str | None, *, data_dir: str | None, split: str) -> datasets.Dataset:
        asked.update(name=name, subset=subset, data_dir=data_dir, split=split)
        return datasets.Dataset.from_list([{"content": "import os"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (document,) = load_documents("hub:bigcode/starcoderdata/python", field="content")
    assert document.text == "import os"
    assert asked == {"name": "bigcode/starcoderdata", "subset": None, "data_dir": "python", "split": "train"}
