"""Small entries in one file of the cache, and models that were put there."""

import json
import logging
import threading

import pytest

from dynamics.cache import cached_entry, placed_model, where_model_lies
from dynamics.errors import InputError


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path))
    return tmp_path


def refuse():
    raise AssertionError("made anew")


def test_an_entry_is_made_once(cache):
    assert cached_entry("small", "a", lambda: {"x": 1}) == {"x": 1}
    assert cached_entry("small", "b", lambda: 2) == 2
    assert cached_entry("small", "a", refuse) == {"x": 1}
    assert cached_entry("other", "a", lambda: 3) == 3
    assert json.loads((cache / "small.json").read_text()) == {"a": {"x": 1}, "b": 2}
    assert not list(cache.glob("*.partial"))


def test_of_several_one_makes_it():
    made, found = [], []
    ready = threading.Barrier(4)

    def make():
        made.append(1)
        return len(made)

    def run():
        ready.wait()
        found.append(cached_entry("small", "a", make))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1] * 4


def test_a_failure_leaves_nothing(cache):
    with pytest.raises(AssertionError, match="made anew"):
        cached_entry("small", "a", refuse)
    assert not (cache / "small.json").exists() and cached_entry("small", "a", lambda: 1) == 1


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_a_damaged_file_is_written_anew(cache, caplog, text):
    (cache / "small.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        assert cached_entry("small", "a", lambda: 1) == 1
    assert "small.json holds no JSON object" in caplog.text
    assert cached_entry("small", "a", refuse) == 1


def test_a_cache_that_cannot_be_written(monkeypatch, cache):
    (cache / "file").write_text("")
    monkeypatch.setenv("DYNAMICS_CACHE", str(cache / "file" / "below"))
    with pytest.raises(OSError):
        cached_entry("small", "a", lambda: 1)


# -------------------------------------------------------------------------------------------- models, by name


def test_a_placed_model_is_a_folder_of_the_cache(cache):
    (cache / "models" / "mine-1.0").mkdir(parents=True)
    assert placed_model("cache:mine-1.0") == str(cache / "models" / "mine-1.0")
    for other in ("nano", "owner/model", "/somewhere/cache:mine", "./cache:mine-1.0", "Cache:mine"):
        assert placed_model(other) == other


@pytest.mark.parametrize(
    "name", ["cache:", "cache:.", "cache:..", "cache:../x", "cache:a/b", "cache:/a", "cache:.hidden", "cache: a",
             "cache:a\n", "cache:a\0b", "cache:" + "a" * 300, "cache:a\\b"],
)  # fmt: skip
def test_a_name_that_is_none(cache, name):
    (cache / "models" / ".hidden").mkdir(parents=True)
    with pytest.raises(InputError, match="is no name of a model; write cache:NAME, the folder models/NAME"):
        placed_model(name)


def test_a_model_that_is_not_there(cache):
    with pytest.raises(InputError, match="'cache:mine': there is no folder .*mine; set DYNAMICS_CACHE if it is else"):
        placed_model("cache:mine")
    (cache / "models" / "mine2").mkdir(parents=True)
    (cache / "models" / ".mine.partial").mkdir()
    (cache / "models" / "mine").write_text("a file")
    with pytest.raises(InputError, match="recipes/study/pretrained.py.; did you mean 'mine2'"):
        placed_model("cache:mine")


def test_a_name_in_the_cache_is_no_path_whatever_lies_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("cache:mine", "owner/model"):
        (tmp_path / folder).mkdir(parents=True)
    assert where_model_lies("cache:mine") == "cache:mine"
    assert where_model_lies("./cache:mine") == str(tmp_path / "cache:mine")
    assert where_model_lies("owner/model") == str(tmp_path / "owner/model")
    assert where_model_lies("owner/other") == "owner/other"
