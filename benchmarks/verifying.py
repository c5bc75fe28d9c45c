"""`verify RUN`, which digests every tensor again, as a ratio to hashing the run's bytes once.

    python benchmarks/verifying.py
    python benchmarks/verifying.py --mb 40 --reps 3        a first look

Four runs, each in a registry of its own: large tensors, some of which have a file of their own; both kinds; only small
ones in some files, or all in one. Both are done in this process, in turn, and each pair gives one ratio: the least of
what is measured is the same machine at the same time. Hashing reads every file of objects and packs in chunks, on one
thread and on two. `load` reads every tensor of every checkpoint with an empty cache of what was verified.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import harness
import numpy as np
from harness import REPOSITORY, Work

TARGET = 1.5  # times hashing every byte once
RUN = "20260101-000000-aaaaaa"
SHAPES = {
    "large": "tensors of 4 MiB",
    "mixed": "tensors of 2 MiB, and four of 64 KiB to each",
    "small": "tensors of 256 KiB in ten files",
    "one file": "tensors of 64 KiB in one file",
    "tiny": "tensors of 4 KiB in ten files",
}
_PACKAGE = "benchmark/model"
_CHECKPOINTS = 3
_CHUNK = 8 << 20
_MIB = 1 << 20


def names(shape: str, size: int) -> Iterator[tuple[str, int]]:
    """Yield tensors of together about `size` bytes: names, and lengths in bytes."""
    number = 0
    while size > 0:
        sizes = {"large": [4 * _MIB], "mixed": [2 * _MIB, *[_MIB // 16] * 4], "small": [_MIB // 4]}
        for nbytes in {**sizes, "one file": [_MIB // 16], "tiny": [4096]}[shape]:
            module = "net" if shape == "one file" else f"block{number % 10}"
            yield f"{module}.{number}.weight", nbytes
            number += 1
            size -= nbytes


def make(registry: Path, shape: str, megabytes: int) -> None:
    """Store a finished run of three checkpoints of together that size."""
    import msgspec

    from reprokit.checkpoint.format import SnapshotMessage, encode
    from reprokit.registry.local import LocalRegistry
    from reprokit.schema.facts import CheckpointFacts, meta_of
    from reprokit.schema.manifest import Entry, Manifest
    from reprokit.schema.record import CheckpointEntry, Record

    store, listed = LocalRegistry(registry), []
    for epoch in range(_CHECKPOINTS):
        rows: list[dict[str, Any]] = []
        offset = 0
        for name, nbytes in names(shape, megabytes * 1_000_000 // _CHECKPOINTS):
            row = {"section": "model", "name": name, "dtype": "F32", "shape": [nbytes // 4], "nbytes": nbytes}
            rows.append({**row, "offset": offset})
            offset += nbytes
        memory = memoryview(np.random.default_rng(epoch).bytes(offset))
        state = {"epoch": epoch}
        message = {"kind": "checkpoint", "framework": "numpy", "tensors": rows, "files": [], "state": state}
        pieces, digest = encode(msgspec.convert(message, SnapshotMessage), memory)
        with store.staging() as sink:
            entries = [Entry(p.key, p.size, sink.put_bytes(b"".join(p.parts))[0], p.meta) for p in pieces]
        facts = CheckpointFacts(kind="checkpoint", run=RUN, state_digest=digest, framework="numpy", epoch=epoch)
        manifest = Manifest.make(entries, message=None, user_meta=meta_of(facts))
        store.publish(_PACKAGE, manifest)
        listed.append(CheckpointEntry.of(facts, package=_PACKAGE, top_hash=manifest.top_hash))
    record = Record(
        run_id=RUN, name="made", status="finished", lock_hash=None, code=None, environment=None,
        started="2026-01-02T03:04:05.000Z", checkpoint_package=_PACKAGE, checkpoints=listed,
    )  # fmt: skip
    with store.staging() as sink:
        found, size = sink.put_bytes(record.encode())
    made = Manifest.make([Entry("record.json", size, found)], message="finished", user_meta=meta_of(record.summary()))
    store.publish(f"runs/{RUN}", made)


def hashing(files: list[Path], threads: int) -> None:
    """The limit: every byte read and hashed once."""

    def one(piece: tuple[Path, int]) -> bytes:
        with piece[0].open("rb", buffering=0) as handle:
            handle.seek(piece[1])
            buffer = memoryview(bytearray(min(_CHUNK, piece[0].stat().st_size - piece[1])))
            handle.readinto(buffer)
            return hashlib.sha256(buffer).digest()

    pieces = [(path, start) for path in files for start in range(0, path.stat().st_size, _CHUNK)]
    if threads == 1:
        list(map(one, pieces))
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, pieces))


def verifying(registry: Path, home: Path) -> None:
    from reprokit.comparison.verify import verify
    from reprokit.registry.context import Context
    from reprokit.registry.local import LocalRegistry

    found = verify([RUN], context=Context(home=home, cache=home, registry=LocalRegistry(registry)))
    if found.problems or found.versions != _CHECKPOINTS + 1:
        raise SystemExit(f"Wrong: {found} is said of an honest run.")


def loading(registry: Path, home: Path) -> None:
    from reprokit.checkpoint.load import load_checkpoint
    from reprokit.registry.local import LocalRegistry

    os.environ["REPROKIT_CACHE"] = str(home / f"cache-{time.time_ns()}")
    for epoch in range(_CHECKPOINTS):
        load_checkpoint(f"{RUN}@epoch={epoch}", registry=LocalRegistry(registry)).arrays()


def timed(step: Callable[[], None]) -> tuple[float, float]:
    """Return wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    if sys.argv[1:2] == ["--make"]:
        make(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=240, help="of each run (default: %(default)s)")
    harness.add_common_options(parser, reps=9)
    options = parser.parse_args()
    work = Work(options.work)
    shapes = harness.chosen(options.only, list(SHAPES))
    work.need(size=3 * len(shapes) * options.mb * 1_000_000, files=10_000)
    facts = harness.machine(work)
    trial = work.trial("verifying")
    rows: list[dict[str, Any]] = []
    for shape in shapes:
        registry = trial / shape
        harness.note(f"making {options.mb} MB in {SHAPES[shape]}")
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, __file__, "--make", registry, shape, str(options.mb)]
        subprocess.run(command, env=environment, check=True)
        files = [path for folder in ("objects", "packs") for path in (registry / folder).rglob("*") if path.is_file()]
        steps: dict[str, Callable[[], None]] = {
            "hash, one thread": lambda files=files: hashing(files, 1),  # type: ignore[misc]
            "hash, two threads": lambda files=files: hashing(files, 2),  # type: ignore[misc]
            "verify": lambda registry=registry: verifying(registry, trial / "home"),  # type: ignore[misc]
            "load": lambda registry=registry: loading(registry, trial / "home"),  # type: ignore[misc]
        }
        for repeat in range(-1, options.reps):  # the first touches all memory and is not counted
            for name in harness.rotated(list(steps), repeat):
                wall, cpu = timed(steps[name])
                if repeat >= 0:
                    rows.append({"shape": shape, "step": name, "repeat": repeat, "seconds": wall, "cpu_seconds": cpu})
    facts["load_at_end"] = harness.machine(work)["load"]
    report(rows, shapes)
    print(f"\n{harness.machine_line(facts)}; medians of the ratios of {options.reps} pairs, min – max", flush=True)
    harness.write_json(
        (options.out / "verifying").with_suffix(".json"),
        {
            "benchmark": "verifying",
            "megabytes": options.mb,
            "target": TARGET,
            "machine": facts,
            "commit": harness.commit(REPOSITORY),
            "samples": rows,
        },
    )
    work.clean()


def ratios(rows: list[dict[str, Any]], shape: str, step: str, unit: str, quantity: str = "seconds") -> list[float]:
    """Return the ratio of each pair."""
    mine, units = (
        {row["repeat"]: row[quantity] for row in rows if (row["shape"], row["step"]) == (shape, name)}
        for name in (step, unit)
    )
    return [mine[repeat] / units[repeat] for repeat in mine]


def report(rows: list[dict[str, Any]], shapes: list[str]) -> None:
    table = harness.table("A run verified, and its checkpoints loaded, to hashing their bytes once")
    columns = [
        ("verify", "hash, one thread", "seconds"),
        ("verify", "hash, two threads", "seconds"),
        ("verify", "hash, one thread", "cpu_seconds"),
        ("load", "hash, one thread", "seconds"),
    ]
    for heading in ("", "verify to one thread", "to two threads", "CPU time", "load to one thread"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=bool(heading))
    for shape in shapes:
        cells = []
        for column in columns:
            found = ratios(rows, shape, *column)
            cells.append(f"{statistics.median(found):.2f} ×\n{min(found):.2f} – {max(found):.2f}")
        table.add_row(f"{shape}: {SHAPES[shape]}", *cells)
    screen = harness.console()
    screen.print()
    screen.print(table)
    worst = max(statistics.median(ratios(rows, shape, *columns[0])) for shape in shapes)
    said = "met" if worst <= TARGET else "missed"
    screen.print(f"  target: verify within {TARGET:g} × hashing every byte once, on one thread: {worst:.2f} ×, {said}")


if __name__ == "__main__":
    main()
