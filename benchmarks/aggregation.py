"""Curves and per-document sums from a large store, against pandas, polars and duckdb, and reading the bytes once.

    python -m benchmarks.aggregation                      # 10 million tokens, 20 epochs
    python -m benchmarks.aggregation --tokens 1000000     # smaller

The store is written by the library's own writer into a temporary folder: two splits, 20 epochs, loss and entropy as
float16. What is timed is everything from opening the run: reading the tokens, deciles by reference entropy frozen from
the training set, sums of loss and entropy by epoch, document and decile for both splits, and the decile and low/high
curves. A value is one token's loss or entropy in one epoch. Every measurement is a process of its own, competitors in
turn, round by round; time counts from after the imports.

- `pandas` gets the arrays from the same records and groups one epoch at a time by (document, decile).
- `polars` and `duckdb`, where installed, get Parquet files (one an epoch and split, uncompressed, float32) in which
  document and decile are columns already: their keys cost them nothing.
- `read` reads the files of all epochs once, into one buffer.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dynamics.records import schema, writer

N_EPOCHS = 20
BLOCK_SIZE = 256
TOKENS_PER_DOCUMENT = 500
VALIDATION_SHARE = 0.2


class Packed:
    """As much of a packed split as the writer needs: documents one after the other, no text."""

    def __init__(self, n_tokens: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        shape = (n_tokens // BLOCK_SIZE, BLOCK_SIZE)
        n = shape[0] * shape[1]
        lengths = rng.integers(
            TOKENS_PER_DOCUMENT // 2, TOKENS_PER_DOCUMENT * 3 // 2, n // TOKENS_PER_DOCUMENT + n // 2000
        )
        self.document_id = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)[:n].reshape(shape)
        assert self.document_id.shape == shape, "too few documents were drawn"
        self.token_id = rng.integers(0, 50_000, shape, dtype=np.int32)
        self.byte_start = np.zeros(shape, dtype=np.int32)
        self.byte_end = np.zeros(shape, dtype=np.int32)
        n_documents = int(self.document_id[-1, -1]) + 1
        self.text = np.empty(0, dtype=np.uint8)
        self.text_offset = np.zeros(n_documents + 1, dtype=np.int64)
        self.document_hash = np.zeros((n_documents, 32), dtype=np.uint8)

    def tokens_hash(self) -> str:
        return "0" * 64


def make_store(path: Path, n_tokens: int) -> None:
    """Write a run of about `n_tokens` tokens in both splits together."""
    path.mkdir()
    config = {"name": "benchmark"}
    (path / schema.CONFIG_FILE).write_text(yaml.safe_dump(config))
    n_validation = int(n_tokens * VALIDATION_SHARE)
    sizes = {"train": n_tokens - n_validation, "validation": n_validation}
    base, tokens, predicted = {}, {}, {}
    for seed, (split, size) in enumerate(sizes.items()):
        packed = Packed(size, seed)
        predicted[split] = schema.predicted_mask(packed.document_id)
        drawn = np.random.default_rng(seed).gamma(1.0, 2.0, packed.token_id.shape).astype(np.float32)
        base[split] = np.where(predicted[split], drawn, np.float32(np.nan))
        rows = np.arange(len(packed.token_id))
        tokens[split] = writer.write_tokens(
            path, split, packed, reference_loss=base[split], reference_entropy=base[split], recorded_sequence_id=rows
        )
    for epoch in range(N_EPOCHS):
        values = {}
        for split in sizes:
            # Another value for every token in every epoch, at the cost of two products instead of new random numbers.
            loss = base[split] * np.float32(1.0 - 0.03 * epoch) + np.roll(base[split], epoch, axis=1) * np.float32(0.1)
            values[split] = writer.SplitValues(
                sequence_id=np.arange(len(loss)),
                loss=np.where(predicted[split], np.nan_to_num(loss), np.float32(np.nan)),
                entropy=base[split] * np.float32(1.0 - 0.02 * epoch),
                correct=predicted[split] & (base[split] < 1),
            )
        writer.write_epoch(path, epoch, values, config_hash=schema.config_hash(config))
    manifest = {
        "format_version": schema.FORMAT_VERSION,
        "status": "complete",
        "name": "benchmark",
        "config_hash": schema.config_hash(config),
        "tokens": tokens,
    }
    schema.write_manifest(path / schema.MANIFEST_FILE, manifest)


# ------------------------------------------------------------------ what is compared, each in a process of its own


def ours(store: Path) -> Callable[[], Any]:
    from dynamics.analysis.sums.curves import mean_curve
    from dynamics.analysis.sums.document_sums import coarsen, sums_by_value
    from dynamics.analysis.tokens.buckets import entropy_buckets
    from dynamics.records.reader import open_run

    def measure() -> Any:
        run = open_run(store)
        records = {split: run.records(split) for split in run.splits}
        buckets = entropy_buckets(records["train"], 10)
        curves = {}
        for split in run.splits:
            for value, sums in sums_by_value(records[split], buckets=buckets).items():
                halves = coarsen(sums, [0] * 5 + [1] * 5, ["low", "high"])
                curves[split, value] = mean_curve(sums), mean_curve(halves)
        return curves["validation", "loss"][0]

    return measure


def pandas(store: Path) -> Callable[[], Any]:
    import pandas as pd

    from dynamics.records.reader import open_run

    def measure() -> Any:
        run = open_run(store)
        both = {split: run.records(split) for split in run.splits}
        edges = np.quantile(both["train"].reference_entropy[both["train"].predicted], np.arange(1, 10) / 10)
        curve = []
        for split, records in both.items():
            keys = {
                "document": records.document_id[records.predicted],
                "decile": np.digitize(records.reference_entropy[records.predicted], edges).astype(np.int8),
            }
            for epoch in run.epochs:
                values = {name: getattr(records, name)(epoch)[records.predicted] for name in ("loss", "entropy")}
                frame = pd.DataFrame({**keys, **values})
                groups = frame.groupby(["document", "decile"], sort=False)
                if epoch == run.epochs[0]:
                    counts = groups.size().groupby("decile").sum()
                sums = groups.sum()
                by_decile = sums.groupby("decile").sum()
                halves = by_decile.groupby(by_decile.index // 5).sum()
                assert len(halves) == 2
                if split == "validation":
                    curve.append((by_decile["loss"] / counts).to_numpy())
        return np.array(curve)

    return measure


def polars(store: Path) -> Callable[[], Any]:
    import polars as pl

    def measure() -> Any:
        curve = []
        for split in ("train", "validation"):
            for epoch in range(N_EPOCHS):
                sums = (
                    pl.scan_parquet(store / f"{split}-{epoch}.parquet")
                    .group_by("document", "decile")
                    .agg(pl.col("loss", "entropy").cast(pl.Float64).sum(), pl.len().alias("n"))
                    .collect()
                )
                by_decile = sums.group_by("decile").sum().sort("decile")
                if split == "validation":
                    curve.append((by_decile["loss"] / by_decile["n"]).to_numpy())
        return np.array(curve)

    return measure


def duckdb(store: Path) -> Callable[[], Any]:
    import duckdb as engine

    def measure() -> Any:
        connection = engine.connect()
        connection.execute("set threads = 1")
        curve = []
        for split in ("train", "validation"):
            for epoch in range(N_EPOCHS):
                connection.execute(
                    "create or replace temp table s as select document, decile, sum(loss::double) loss, "
                    f"sum(entropy::double) entropy, count(*) n from '{store}/{split}-{epoch}.parquet' group by all"
                )
                rows = connection.execute("select sum(loss) / sum(n) from s group by decile order by decile").fetchall()
                if split == "validation":
                    curve.append([row[0] for row in rows])
        return np.array(curve)

    return measure


def read(store: Path) -> Callable[[], Any]:
    files = sorted(store.glob("epochs/*/*.safetensors"))
    buffer = bytearray(4 << 20)

    def measure() -> Any:
        for file in files:
            with open(file, "rb", buffering=0) as handle:
                while handle.readinto(buffer):
                    pass

    return measure


def opening(store: Path) -> Callable[[], Any]:
    """Open the run and both splits, as far as the first value."""
    from dynamics.records.reader import open_run

    def measure() -> Any:
        run = open_run(store)
        for split in run.splits:
            run.records(split)

    return measure


def write_parquet(store: Path, folder: Path) -> None:
    """Write what polars and duckdb read."""
    import pyarrow as pa
    from pyarrow import parquet

    from dynamics.analysis.tokens.buckets import entropy_buckets
    from dynamics.records.reader import open_run

    run = open_run(store)
    buckets = entropy_buckets(run.records("train"), 10)
    folder.mkdir()
    for split in run.splits:
        records = run.records(split)
        keys = {
            "document": records.document_id[records.predicted],
            "decile": buckets.index(records)[records.predicted].astype(np.int8),
        }
        for epoch in run.epochs:
            values = {name: getattr(records, name)(epoch)[records.predicted] for name in ("loss", "entropy")}
            parquet.write_table(pa.table({**keys, **values}), folder / f"{split}-{epoch}.parquet", compression="NONE")


COMPETITORS = {"ours": ours, "pandas": pandas, "polars": polars, "duckdb": duckdb, "read": read, "opening": opening}


# Those that need no other library.
OWN = ("ours", "read", "opening")


def one_process(name: str, store: Path) -> None:
    """Print seconds, peak memory of the process in bytes, and the validation curve."""
    measure = COMPETITORS[name](store)
    before = _peak()
    start, start_cpu = time.perf_counter(), time.process_time()
    curve = measure()
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    result = {"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": _peak(), "bytes_before": before}
    print(json.dumps({**result, "curve": None if curve is None else np.asarray(curve).tolist()}))


def _peak() -> int:
    # Not ru_maxrss, in which the memory of the parent process may be counted.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def measured(name: str, store: Path) -> dict[str, Any]:
    """Run one competitor in a process of its own, on one thread."""
    threads = ("OMP", "OPENBLAS", "MKL", "POLARS", "RAYON")
    one = {f"{kind}{'_MAX' if kind == 'POLARS' else '_NUM'}_THREADS": "1" for kind in threads}
    command = [sys.executable, "-m", "benchmarks.aggregation", "--process", name, str(store)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, env={**os.environ, **one}, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--process", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.process:
        one_process(arguments.process[0], Path(arguments.process[1]))
        return
    from benchmarks import timing  # Here, since it loads torch, which no measurement may.

    names = [name for name in COMPETITORS if name in OWN or importlib.util.find_spec(name)]
    if arguments.rounds < 2:
        parser.error("--rounds must be at least 2, for quartiles")
    versions = {name: version(name) for name in ("numpy", "scipy", *names) if name not in OWN}
    hardware = timing.hardware("cpu") | {"threads": 1}
    result: dict[str, Any] = {"hardware": hardware, "versions": versions, "epochs": N_EPOCHS}
    with tempfile.TemporaryDirectory() as temporary:
        stores = {}
        for share in (10, 3, 1):
            n_tokens = arguments.tokens // share
            stores[n_tokens] = Path(temporary) / f"store-{n_tokens}"
            make_store(stores[n_tokens], n_tokens)
        parquet = Path(temporary) / "parquet"
        if {"polars", "duckdb"} & set(names):
            write_parquet(stores[arguments.tokens], parquet)
        found = {name: [] for name in names}
        for _ in range(arguments.rounds):
            for name in names:
                place = parquet if name in ("polars", "duckdb") else stores[arguments.tokens]
                found[name].append(measured(name, place))
        curves = {name: np.array(rounds[0]["curve"]) for name, rounds in found.items() if name not in OWN[1:]}
        for name, curve in curves.items():
            assert np.allclose(curve, curves["ours"], rtol=1e-5), f"{name} gives another curve"
        seconds = {name: [each["seconds"] for each in rounds] for name, rounds in found.items()}
        cpu = {name: statistics.median(each["cpu_seconds"] for each in rounds) for name, rounds in found.items()}
        n_values = arguments.tokens * N_EPOCHS * 2
        result |= {
            "tokens": arguments.tokens,
            "values": n_values,
            "seconds": {name: timing.spread(times) for name, times in seconds.items()},
            "cpu_seconds": cpu,
            "ns_per_value": {name: statistics.median(times) / n_values * 1e9 for name, times in seconds.items()},
            "times_ours": {
                name: timing.spread([other / mine for other, mine in zip(times, seconds["ours"], strict=True)])
                for name, times in seconds.items()
            },
            "peak_megabytes": {name: max(e["peak_bytes"] for e in rounds) / 1e6 for name, rounds in found.items()},
            "megabytes_before": {name: max(e["bytes_before"] for e in rounds) / 1e6 for name, rounds in found.items()},
        }
        # The least of several runs: what other work on the machine adds is not part of how time grows.
        best = {
            n: min(measured("ours", store)["seconds"] for _ in range(arguments.rounds)) for n, store in stores.items()
        }
        logs = np.log(list(best)), np.log(list(best.values()))
        result["seconds_by_tokens"] = {str(n): s for n, s in sorted(best.items())}
        result["exponent"] = float(np.polyfit(*logs, 1)[0])
        small, large = min(best), max(best)
        result["exponent_of_ends"] = math.log(best[large] / best[small]) / math.log(large / small)
    print(json.dumps(result, indent=1))
    print(timing.write("aggregation", result))


if __name__ == "__main__":
    main()
