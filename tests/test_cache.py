"""Small entries in one file of the cache."""

import json
import logging
import threading

import pytest

from dynamics.cache import cached_entry


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
