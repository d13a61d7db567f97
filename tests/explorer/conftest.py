"""An independent reader of pages, from the words in dynamics/explorer/payload.py; small runs; and a browser."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import shutil
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.synthetic import make_run

from dynamics.records.reader import Run, open_run

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
COMPLETE = "html[data-complete]"
FATES = ("may_drop", "rebound", "gap", "first_learned", "forgetting", "kind")


@dataclass
class Decoded:
    """One passage: columns over its tokens, codes as they lie in the page, and nats by (epoch, token)."""

    entry: dict[str, Any]
    split: str
    text: bytes
    columns: dict[str, list[int]]
    fates: list[dict[str, list[int]]]
    loss: list[np.ndarray]
    entropy: list[np.ndarray]
    correct: list[np.ndarray]
    dropped: list[np.ndarray | None]


@dataclass
class DecodedPage:
    meta: dict[str, Any]
    passages: list[Decoded]

    def of(self, split: str) -> list[Decoded]:
        return [passage for passage in self.passages if passage.split == split]


def unpacked(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def element(html: str, name: str) -> str:
    (found,) = re.findall(rf'<script type="text/plain" id="{name}">([^<]*)</script>', html)
    return str(found)


def nats(code: int, top: float) -> float:
    return float("nan") if code == 255 else top * (code / 254) ** 2


def decode_page(html: str) -> DecodedPage:
    meta = json.loads(unpacked(element(html, "meta")))
    lines = element(html, "chunks").split("\n")
    assert len(lines) == 2 * len(meta["passages"])
    passages = [
        _passage(meta, entry, unpacked(lines[2 * i]), unpacked(lines[2 * i + 1]))
        for i, entry in enumerate(meta["passages"])
    ]
    return DecodedPage(meta, passages)


def _passage(meta: dict[str, Any], entry: dict[str, Any], head: bytes, body: bytes) -> Decoded:
    at = 0

    def number(n_bytes: int) -> int:
        nonlocal at
        at += n_bytes
        return int.from_bytes(head[at - n_bytes : at], "little")

    n, n_text = number(4), number(4)
    columns = {name: [number(4) for _ in range(n)] for name in ("start", "end", "sequence", "token_id", "position")}
    columns["rank"] = [number(2) for _ in range(n)]
    for name in ("reference_loss", "reference_entropy", "bucket", "predicted"):
        columns[name] = [number(1) for _ in range(n)]
    fates = [{name: [number(1) for _ in range(n)] for name in FATES} for _ in meta["runs"]]
    text = head[at:]
    assert len(text) == n_text
    split, n_epochs, at = meta["splits"][entry["split"]], len(meta["epochs"]), 0
    values: dict[str, list[Any]] = {"loss": [], "entropy": [], "correct": [], "dropped": []}
    for _ in meta["runs"]:
        for name in ("loss", "entropy"):
            codes = np.frombuffer(body, np.uint8, n_epochs * n, at).reshape(n_epochs, n).astype(int)
            at += n_epochs * n
            codes = np.cumsum(codes, axis=0) % 256
            values[name].append(np.vectorize(nats, otypes=[float])(codes, meta["top"]))
        for name in ("correct", "dropped"):
            if name == "dropped" and split != "train":
                values[name].append(None)
                continue
            row = -(-n // 8)
            packed = body[at : at + n_epochs * row]
            at += n_epochs * row
            bits = [[packed[e * row + i // 8] >> (i % 8) & 1 for i in range(n)] for e in range(n_epochs)]
            values[name].append(np.array(bits, dtype=bool))
    assert at == len(body)
    return Decoded(entry, split, text, columns, fates, **values)


@pytest.fixture(scope="session")
def decode() -> Any:
    return decode_page


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """A baseline and EntroDrop on the same tokens: 12 training and 6 validation documents, epochs 0 to 4."""
    folder = tmp_path_factory.mktemp("explorer")
    drops = [{"name": "entrodrop", "ratio": 0.3, "pool": 0.5}]
    return [
        open_run(make_run(folder / "baseline" / "seed-0", loss_fn=noisy)),
        open_run(make_run(folder / "entrodrop" / "seed-0", regularizers=drops, seed=1, loss_fn=noisy)),
    ]


def noisy(epoch: int, split: str, entropy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other losses for every token, epoch and seed, from 0 to beyond 10 nats."""
    return rng.gamma(1.0, 2.0, entropy.shape)


@pytest.fixture
def run_path(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture(scope="session")
def browser():
    missing = None
    if CHROMIUM is None:
        missing = "no chromium on this system: install its package to test the explorer in a browser"
    elif importlib.util.find_spec("playwright") is None:
        missing = "no playwright in this environment: install it to test the explorer in a browser"
    if missing and os.environ.get("DYNAMICS_BROWSER") == "required":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Open a file at an address in it; at the end no request but for the file, no message, no error, no dialogue."""

    @contextmanager
    def opened(path, address="", *, wait=COMPLETE, **context):
        seen, requests = [], []
        with_options = browser.new_context(**{"viewport": {"width": 1400, "height": 1000}, **context})
        tab = with_options.new_page()
        tab.on("console", lambda message: seen.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error: seen.append(f"error: {error}"))
        tab.on("dialog", lambda dialog: (seen.append(f"dialogue: {dialog.message}"), dialog.dismiss()))
        tab.on("popup", lambda popup: seen.append("a window opened"))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(f"{path.as_uri()}{address}")
        if wait:
            tab.wait_for_selector(wait, timeout=20_000)
        try:
            yield tab
            assert seen == []
            assert [url.split("#")[0] for url in requests] == [path.as_uri()]
        finally:
            with_options.close()

    return opened
