"""Two checkpoints compared tensor by tensor (|Δ|, ULP distance, worst element), as a ratio to reading both once.

    python benchmarks/comparing.py
    python benchmarks/comparing.py --mb 20 --reps 1        a first look

The pairs differ in every element by rounding, in every element by seed, or in one element of one tensor; every tensor
has a digest of its own on both sides. Each sample is a process of its own; it reads with an empty cache of what was
verified (first) and once more (again). What imports take is not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import figures
import harness
import numpy as np
from harness import REPOSITORY, Series, SpareMemory, Work

TARGET = 3.0  # times reading both once, verified
PAIRS = {
    "rounding": "every element differs, by rounding",
    "seed": "every element differs, by seed",
    "one": "one element differs",
}
STEPS = {
    "plain": "open().read() of the tensors' files of both",
    "load": "every tensor of both, verified, and each byte read",
    "compare": "every tensor of both, verified, and its distance",
}
_PACKAGE = "benchmark/pair"


def tensors(seed: int, megabytes: int) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yield float32 tensors of that size together: eight large ones to each small one."""
    rng = np.random.default_rng(seed)
    width = 1024
    for number in range(max(1, megabytes * 1_000_000 // (4 * width * width))):
        yield f"layers.{number}.weight", rng.standard_normal((width, width), dtype="<f4")
        yield f"layers.{number}.bias", rng.standard_normal(width, dtype="<f4")


def make(registry: Path, pair: str, megabytes: int) -> None:
    """Store both checkpoints of a pair as `_PACKAGE` versions, tagged `left` and `right`."""
    import msgspec

    from reprokit.checkpoint.format import SnapshotMessage, encode
    from reprokit.registry.local import LocalRegistry
    from reprokit.schema.manifest import Entry, Manifest

    store = LocalRegistry(registry)
    for side in ("left", "right"):
        memory = bytearray()
        rows: list[dict[str, Any]] = []
        for number, (name, array) in enumerate(tensors(2 if (pair, side) == ("seed", "right") else 1, megabytes)):
            if side == "right" and pair == "rounding":
                array = np.nextafter(array, np.float32(9))
            elif side == "right" and pair == "one" and number == 0:
                array[500, 500] += 1
            row = {"section": "model", "name": name, "dtype": "F32", "shape": list(array.shape)}
            rows.append({**row, "offset": len(memory), "nbytes": array.nbytes})
            memory += array.tobytes()
        message = {"kind": "checkpoint", "framework": "numpy", "tensors": rows, "files": [], "state": {}}
        pieces, _ = encode(msgspec.convert(message, SnapshotMessage), memoryview(bytes(memory)))
        with store.staging() as sink:
            entries = [
                Entry(piece.key, len(data), sink.put_bytes(data)[0], piece.meta)
                for piece in pieces
                for data in [b"".join(piece.parts)]
            ]
        facts = {"reprokit": {"kind": "checkpoint", "framework": "numpy"}}
        manifest = Manifest.make(entries, message=None, user_meta=facts)
        store.publish(_PACKAGE, manifest)
        (registry / side).write_text(manifest.top_hash)
        plain = registry / f"{side}-plain"
        plain.mkdir()
        for piece in pieces:
            if piece.key.endswith(".safetensors"):
                (plain / piece.key.replace("/", "-")).write_bytes(b"".join(piece.parts))


def child(step: str, registry: str) -> dict[str, Any]:
    """Do one step twice in this process; return seconds, and what was seen."""
    from reprokit.checkpoint.reader import Checkpoint
    from reprokit.comparison.tensor_distance import distance
    from reprokit.packages.package import Package
    from reprokit.registry.local import LocalRegistry

    root = Path(registry)
    files = [path for side in ("left", "right") for path in sorted((root / f"{side}-plain").iterdir())]
    found: dict[str, Any] = {}
    for phase in ("first", "again"):
        differing = compared = 0
        start = time.perf_counter()
        if step == "plain":
            for path in files:
                compared += len(path.read_bytes())
        else:
            if phase == "first":
                store = LocalRegistry(root)
                left, right = (
                    Checkpoint(Package.open(f"{_PACKAGE}@{(root / side).read_text()}", registry=store))
                    for side in ("left", "right")
                )
            ours, theirs = left.arrays(), right.arrays()
            for name, array in ours.items():
                if step == "load":
                    for side in (array, theirs[name]):
                        np.bitwise_xor.reduce(np.frombuffer(side.data, "<u8"))
                    continue
                seen = distance(array, theirs[name])
                if seen is not None:
                    differing, compared = differing + seen.differing, compared + seen.elements
        found[phase] = time.perf_counter() - start
        found |= {"differing": differing, "compared": compared}
    return found


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(*sys.argv[2:])))
        return
    if sys.argv[1:2] == ["--make"]:
        make(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=300, help="size of each checkpoint (default: %(default)s)")
    harness.add_common_options(parser, reps=3)
    options = parser.parse_args()
    pairs = harness.chosen(options.only, list(PAIRS))
    work = Work(options.work)
    work.need(size=4 * len(pairs) * options.mb * 1_000_000, files=10_000)
    facts = harness.machine(work)
    trial = work.trial("comparing")
    environment = harness.clean_environment(work.home)
    environment |= {"REPROKIT_HOME": str(trial / "home"), "REPROKIT_CACHE": str(trial / "cache")}
    for pair in pairs:
        harness.note(f"making two checkpoints: {PAIRS[pair]}")
        command = [sys.executable, __file__, "--make", trial / pair, pair, str(options.mb)]
        subprocess.run(command, env=environment, check=True)
    harness.note("touching all free memory once")
    spare = SpareMemory(work.root / "spare-memory")
    series = Series()
    for repeat in range(options.reps):
        for pair in pairs:
            for step in harness.rotated(list(STEPS), repeat):
                warm = [path for path in (trial / pair).rglob("*") if path.is_file()]
                harness.quiet_machine(spare=spare, needed=5 * options.mb << 20, warm=warm)
                done = subprocess.run(
                    [sys.executable, __file__, "--child", step, trial / pair],
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=True,
                )
                result = json.loads(done.stdout)
                expected = {"rounding": result["compared"], "seed": None, "one": 1}[pair]
                if step == "compare" and expected not in (None, result["differing"]):
                    raise SystemExit(f"{pair}: {result['differing']:,} elements were said to differ, not {expected:,}.")
                for phase in ("first", "again"):
                    series.add(step, f"{pair} {phase}", repeat, seconds=result[phase])
                shown = "  ".join(f"{phase} {result[phase]:.3f} s" for phase in ("first", "again"))
                harness.note(f"{repeat + 1}/{options.reps} {pair:9} {step:8} {shown}")
    spare.close()
    facts["load_at_end"] = harness.machine(work)["load"]
    title = f"Two checkpoints of {options.mb} MB compared"
    subtitle = f"{harness.machine_line(facts)}; medians of {options.reps} interleaved repeats, min – max"
    stem = options.out / "comparing"
    harness.write_json(
        stem.with_suffix(".json"),
        {
            "benchmark": "comparing",
            "mb": options.mb,
            "target": TARGET,
            "machine": facts,
            "commit": harness.commit(REPOSITORY),
            "samples": series.rows,
        },
    )
    report(title, series, pairs)
    print(f"\n{subtitle}", flush=True)
    with harness.figures_after(options.out):
        draw(stem, title, subtitle, series, pairs)
    work.clean()


def report(title: str, series: Series, pairs: list[str]) -> None:
    from rich.text import Text

    table = harness.table(title)
    table.add_column("")
    for phase in ("first", "again"):
        for step in STEPS:
            table.add_column(f"{step}\n{phase}", justify="right", no_wrap=True)
    screen = harness.console()
    worst = 0.0
    for pair in pairs:
        cells: list[Any] = []
        for phase in ("first", "again"):
            unit = series.spread("load", f"{pair} {phase}")
            for step in STEPS:
                spread = series.spread(step, f"{pair} {phase}")
                cells.append(harness.ratio_cell(spread, unit))
                if (step, phase) == ("compare", "first") and spread and unit:
                    worst = max(worst, spread.median / unit.median)
        table.add_row(Text(PAIRS[pair]), *cells)
    screen.print()
    screen.print(table)
    screen.print(
        "  1× is `load` of the same phase; `again`, reprokit need not verify the bytes once more.", highlight=False
    )
    for step, text in STEPS.items():
        screen.print(f"  {step:8} {text}", highlight=False, markup=False)
    said = "met" if worst <= TARGET else "missed"
    screen.print(
        f"  target: comparing takes at most {TARGET:g} × reading and verifying both once: {worst:.2f} ×, {said}"
    )


def draw(file: Path, title: str, subtitle: str, series: Series, pairs: list[str]) -> None:
    panels = []
    for pair in pairs:
        for phase in ("first", "again"):
            unit = series.spread("load", f"{pair} {phase}")
            bars = []
            for step in STEPS:
                spread = series.spread(step, f"{pair} {phase}")
                if spread and unit:
                    ratio = spread.over(unit.median)
                    text, detail = harness.ratio_text(ratio.median), harness.seconds_text(spread.median)
                    bars.append(figures.Bar(step, ratio.median, ratio.low, ratio.high, text, detail))
            panels.append(figures.Panel(f"{PAIRS[pair]}, {phase}", "1 = reading every tensor of both", bars))
    figures.bars(file, title, subtitle, panels, [f"{step}: {text}" for step, text in STEPS.items()])


if __name__ == "__main__":
    main()
