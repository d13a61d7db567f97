"""The token explorer: building a page of 20 MB from a million tokens by 20 epochs, and using it in Chromium.

    python -m benchmarks.explorer                     # 1 million tokens, 20 epochs
    python -m benchmarks.explorer --tokens 100000     # smaller

Two runs are written by the library's own writer into a temporary folder: four fifths of the tokens are training text,
words of a small vocabulary drawn by Zipf's law, and losses that fall, and on validation text rebound, with noise. Every
build is a process of its own, on one thread; time counts from after the imports, memory is the process's peak.

In Chromium, headless and without a GPU, each page is opened from the file system in a new context. `ready` is the time
from the start of the navigation until a passage is shown and coloured; `complete`, until all text can be searched. A
slider step is timed from the slider's event until the second animation frame after it, so that script, style, layout
and paint of the step lie within; one idle wait for two frames, in the same page, says how much of it is waiting. The
work of a step without its paint is timed by itself, by asking for the layout at once. `tokens` is the time in which the
list of all tokens, sorted, is there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dynamics.records import schema, writer

N_EPOCHS = 20
BLOCK_SIZE = 256
TOKENS_PER_DOCUMENT = 1000  # nearly the longest passage
VALIDATION_SHARE = 0.2
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]

# Two frames after the event: the first is this step's, and at the second it has been painted.
FRAMES = "const frames = () => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));"
STEPS = f"""async () => {{
    {FRAMES}
    const slider = document.getElementById("epoch"), taken = [], idle = [], work = [];
    for (let e = 0; e <= Number(slider.max); e++) {{
        await frames();
        let start = performance.now();
        await frames();
        idle.push(performance.now() - start);
        start = performance.now();
        slider.value = e;
        slider.dispatchEvent(new Event("input", {{ bubbles: true }}));
        document.body.offsetHeight;
        work.push(performance.now() - start);
        await frames();
        taken.push(performance.now() - start);
    }}
    const start = performance.now();
    document.getElementById("tab-tokens").click();
    await frames();
    return [taken, idle, work, performance.now() - start];
}}"""


class Packed:
    """As much of a packed split as the writer needs: documents of words, a token each."""

    def __init__(self, n_tokens: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        letters = np.frombuffer(b"etaoinshrdlucmfwypvbgkjqxz", dtype=np.uint8)
        words = [b" " + rng.choice(letters, n).tobytes() for n in rng.integers(1, 10, 8000)]
        shape = (n_tokens // BLOCK_SIZE, BLOCK_SIZE)
        n = shape[0] * shape[1]
        self.token_id = np.minimum(rng.zipf(1.3, n) - 1, len(words) - 1).astype(np.int32).reshape(shape)
        document = np.arange(n) // TOKENS_PER_DOCUMENT
        lengths = np.array([len(word) for word in words])[self.token_id.ravel()]
        ends = np.cumsum(lengths)
        first = np.concatenate([[0], ends[:-1]])[::TOKENS_PER_DOCUMENT]
        self.document_id = document.astype(np.int32).reshape(shape)
        self.byte_end = (ends - first[document]).astype(np.int32).reshape(shape)
        self.byte_start = (self.byte_end - lengths.reshape(shape)).astype(np.int32)
        self.text = np.frombuffer(b"".join(words[i] for i in self.token_id.ravel().tolist()), dtype=np.uint8)
        self.text_offset = np.concatenate([first, ends[-1:]]).astype(np.int64)
        self.document_hash = np.zeros((len(first), 32), dtype=np.uint8)

    def tokens_hash(self) -> str:
        return "0" * 64


def make_run(path: Path, n_tokens: int, seed: int) -> None:
    """Write a run of about `n_tokens` tokens in both splits together."""
    path.mkdir()
    config = {"name": path.name, "regularizers": [{"name": "entrodrop", "ratio": 0.15}] if seed else []}
    (path / schema.CONFIG_FILE).write_text(yaml.safe_dump(config))
    n_validation = int(n_tokens * VALIDATION_SHARE)
    tokens, base, predicted = {}, {}, {}
    for number, (split, size) in enumerate({"train": n_tokens - n_validation, "validation": n_validation}.items()):
        packed = Packed(size, number)
        predicted[split] = schema.predicted_mask(packed.document_id)
        drawn = np.random.default_rng(number).gamma(1.0, 2.5, packed.token_id.shape).astype(np.float32)
        base[split] = np.where(predicted[split], drawn, np.float32(np.nan))
        rows = np.arange(len(packed.token_id))
        tokens[split] = writer.write_tokens(
            path, split, packed, reference_loss=base[split], reference_entropy=base[split], recorded_sequence_id=rows
        )
    rng = np.random.default_rng([seed, 1])
    for epoch in range(N_EPOCHS):
        values = {}
        for split, loss in base.items():
            rebound = 0.0 if split == "train" else 0.03 * max(0, epoch - 6) ** 1.2 * (2 - seed)
            falling = loss * np.float32(0.93**epoch) if split == "train" else loss * np.float32(0.8)
            noise = 1 + 0.1 * rng.standard_normal(loss.shape, dtype=np.float32)
            drop = predicted[split] & (rng.random(loss.shape, dtype=np.float32) < 0.1)
            values[split] = writer.SplitValues(
                sequence_id=np.arange(len(loss)),
                loss=np.abs(falling * noise + np.float32(rebound)),
                entropy=np.abs(falling * np.float32(0.9) * noise[::-1]),
                correct=predicted[split] & (np.nan_to_num(falling) < 1),
                dropped=drop if seed and split == "train" and epoch else None,
            )
        writer.write_epoch(path, epoch, values, config_hash=schema.config_hash(config))
    manifest = {
        "format_version": schema.FORMAT_VERSION,
        "status": "complete",
        "name": path.name,
        "config_hash": schema.config_hash(config),
        "tokens": tokens,
    }
    schema.write_manifest(path / schema.MANIFEST_FILE, manifest)


def one_build(output: str, *runs: str) -> None:
    """Print seconds, the peak memory of this process in bytes, and what came out."""
    from dynamics.explorer.build import build_page
    from dynamics.records.reader import open_run

    before = _peak()
    start = time.perf_counter()
    page = build_page([open_run(run) for run in runs])
    page.save(output)
    seconds = time.perf_counter() - start
    told = {"bytes": len(page.html), "embedded": page.embedded, "recorded": page.total, "notes": page.notes}
    print(json.dumps({"seconds": seconds, "peak_bytes": _peak(), "bytes_before": before, **told}))


def _peak() -> int:
    # Not ru_maxrss, in which the memory of the parent process may be counted.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def built(output: Path, runs: list[Path]) -> dict[str, Any]:
    """Build a page in a process of its own, on one thread."""
    one = {f"{kind}_NUM_THREADS": "1" for kind in ("OMP", "OPENBLAS", "MKL")}
    command = [sys.executable, "-m", "benchmarks.explorer", "--build", str(output), *map(str, runs)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, env={**os.environ, **one}, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def used(browser: Any, page: Path, address: str, rounds: int) -> dict[str, Any]:
    """Open a page, several times, and take all steps of its slider."""
    from benchmarks import timing

    ready, complete, steps, idle, work, tokens = [], [], [], [], [], []
    for _ in range(rounds):
        context = browser.new_context(viewport={"width": 1400, "height": 1000})
        tab = context.new_page()
        start = time.perf_counter()
        tab.goto(f"{page.as_uri()}{address}", wait_until="commit")
        tab.wait_for_selector("html[data-ready]", timeout=60_000)
        ready.append(time.perf_counter() - start)
        tab.wait_for_selector("html[data-complete]", timeout=60_000)
        complete.append(time.perf_counter() - start)
        taken, waited, worked, listed = tab.evaluate(STEPS)
        steps += taken
        work += worked
        tokens.append(listed)
        idle += waited
        longest = tab.evaluate("document.querySelectorAll('.tokens > span').length")
        context.close()
    return {
        "address": address,
        "spans": longest,
        "ready_seconds": timing.spread(ready),
        "complete_seconds": timing.spread(complete),
        "step_milliseconds": {**timing.spread(steps), "p95": float(np.percentile(steps, 95))},
        "work_milliseconds": {**timing.spread(work), "p95": float(np.percentile(work, 95))},
        "tokens_milliseconds": timing.spread(tokens),
        "two_idle_frames_milliseconds": timing.spread(idle),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--build", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build:
        one_build(*arguments.build)
        return
    from playwright.sync_api import sync_playwright

    from benchmarks import timing  # Here, since it loads torch, which no build may.

    if arguments.rounds < 2:
        parser.error("--rounds must be at least 2, for quartiles")
    result: dict[str, Any] = {
        "hardware": timing.hardware("cpu") | {"threads": 1, "load": os.getloadavg()[0]},
        "tokens": arguments.tokens,
        "epochs": N_EPOCHS,
    }
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = Path(temporary)
        runs = [folder / "baseline", folder / "entrodrop"]
        for seed, run in enumerate(runs):
            make_run(run, arguments.tokens, seed)
        result["build"], pages = {}, {}
        for n, name in ((1, "one run"), (2, "two runs")):
            pages[name] = folder / f"{n}.html"
            rounds = [built(pages[name], runs[:n]) for _ in range(3)]
            result["build"][name] = {
                **{key: rounds[0][key] for key in ("bytes", "embedded", "recorded", "notes")},
                "seconds": timing.spread([each["seconds"] for each in rounds]),
                "peak_megabytes": max(each["peak_bytes"] for each in rounds) / 1e6,
                "megabytes_before": max(each["bytes_before"] for each in rounds) / 1e6,
            }
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        result["browser"] = f"Chromium {browser.version}"
        views = {"one run": "", "two runs, side by side": "#runs=side", "two runs, difference": "#runs=difference"}
        result["use"] = {
            view: used(browser, pages[view.split(",")[0]], address, arguments.rounds) for view, address in views.items()
        }
        browser.close()
    print(json.dumps(result, indent=1))
    print(timing.write("explorer", result))


if __name__ == "__main__":
    main()
