"""How the cost of a version grows with its number of entries: time and memory, with the power law fitted to each.

    python benchmarks/scaling.py [--entries 1000,10000,100000,300000,1000000] [--files 60000]

Synthetic manifests are built (made, named by their top hash, encoded) and opened (decoded and checked) in a process of
their own each. `--files` also reports the peak memory of a real `package build` of as many small files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import figures
import harness
from harness import REPOSITORY, Failed, Series, Work

STEPS = {"make": "make", "top_hash": "top hash", "encode": "encode", "open": "open"}
TOTALS = {"build": "build (make, top hash, encode)", "open": "open (decode, check)"}
_FIT_FROM = 10_000  # entries; below, start-up and caches are what is measured


def child(what: str, count: int, file: Path) -> dict[str, float | str]:
    """Build or open a manifest in this process; seconds of each step and peak memory in MiB."""
    from reprokit.core.digest import Digest
    from reprokit.schema.manifest import Entry, Manifest

    base = _peak()
    times: dict[str, float | str] = {}
    if what == "build":
        digests = (hashlib.sha256(number.to_bytes(8)).digest() for number in range(count))
        entries = [
            Entry(
                f"class{number % 100:02d}/{number:07d}.png",
                3000 + number % 97,
                (digest := Digest.chunked(raw)),
                {},
                (f"file:///srv/registry/objects/{digest.hex[:2]}/{digest.hex}",),
            )
            for number, raw in enumerate(digests)
        ]
        start = time.perf_counter()
        manifest = Manifest.make(entries, message="synthetic")
        made = time.perf_counter()
        top_hash = manifest.top_hash
        named = time.perf_counter()
        data = manifest.encode()
        encoded = time.perf_counter()
        times |= {"make": made - start, "top_hash": named - made, "encode": encoded - named, "build": encoded - start}
        file.write_bytes(data)
        file.with_suffix(".top").write_text(top_hash)
    else:
        top_hash = file.with_suffix(".top").read_text()
        start = time.perf_counter()
        manifest = Manifest.decode(file.read_bytes(), top_hash=top_hash, what="The manifest")
        times["open"] = time.perf_counter() - start
    if len(manifest.entries) != count:
        raise SystemExit(f"{len(manifest.entries)} entries instead of {count}")
    return times | {"peak_mib": _peak(), "base_mib": base}


def _peak() -> float:
    """Return the peak resident memory of this process in MiB."""
    with open("/proc/self/status") as lines:
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def fit(x: list[float], y: list[float]) -> tuple[float, float]:
    """Return (exponent, constant) of the power law through the points, by least squares of the logarithms."""
    slope, intercept = statistics.linear_regression([math.log(v) for v in x], [math.log(v) for v in y])
    return slope, math.exp(intercept)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", default="1000,10000,100000,300000,1000000", metavar="N,…")
    parser.add_argument(
        "--files", type=int, default=60_000, help="files of the real build; 0 for none (default: 60000)"
    )
    harness.add_common_options(parser, reps=3)
    options = parser.parse_args()
    counts = sorted(int(count) for count in options.entries.split(","))
    work = Work(options.work)
    facts = harness.machine(work)
    trial = work.trial("scaling")
    environment = harness.clean_environment(work.home)
    series = Series()
    for repeat in range(options.reps):
        for count in counts:
            for what in ("build", "open"):
                done = subprocess.run(
                    [sys.executable, __file__, "--child", what, str(count), trial / f"{count}.jsonl"],
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode:
                    raise SystemExit(f"{what} of {count:,} entries failed:\n{done.stderr[-2000:]}")
                result: dict[str, Any] = json.loads(done.stdout)
                peak = {"peak_mib": result.pop("peak_mib"), "base_mib": result.pop("base_mib")}
                for step, seconds in result.items():
                    series.add(str(count), step, repeat, seconds=seconds, **peak)
                harness.note(f"{repeat + 1}/{options.reps} {what:5} {count:>9,}  {result[what]:.3f} s")
    sizes = {count: (trial / f"{count}.jsonl").stat().st_size for count in counts}
    build_peak = real_build(work, options, environment, series) if options.files else None

    def column(step: str, quantity: str = "seconds") -> list[float]:
        return [spread.median for count in counts if (spread := series.spread(str(count), step, quantity))]

    def above_start(what: str) -> list[float]:
        peaks = zip(column(what, "peak_mib"), column(what, "base_mib"), strict=True)
        return [max(peak - base, 0.01) for peak, base in peaks]

    def curve(name: str, values: list[float]) -> figures.Curve:
        start = next((index for index, count in enumerate(counts) if count >= _FIT_FROM), 0)
        start = min(start, max(len(counts) - 2, 0))
        exponent, constant = fit([float(count) for count in counts[start:]], values[start:])
        return figures.Curve(name, counts, values, exponent, constant)

    lines = {what: curve(name, column(what)) for what, name in TOTALS.items()} if len(counts) > 1 else {}
    memory = {what: curve(name, above_start(what)) for what, name in TOTALS.items()} if len(counts) > 1 else {}
    table = harness.table("The cost of a version by its number of entries")
    for heading in ("entries", "manifest", *(f"{name}" for name in STEPS.values()), "build, peak", "open, peak"):
        table.add_column(heading, justify="right", no_wrap=True)
    for index, count in enumerate(counts):
        steps = [harness.seconds_text(column(step)[index]) for step in STEPS]
        peaks = [f"{column(what, 'peak_mib')[index]:,.0f} MiB" for what in TOTALS]
        table.add_row(f"{count:,}", f"{sizes[count] / 1e6:,.1f} MB", *steps, *peaks)
    largest = counts[-1]
    steps = [f"{column(step)[-1] / largest * 1e6:.2f} µs" for step in STEPS]
    peaks = [f"{above_start(what)[-1] * 2**20 / largest:,.0f} B" for what in TOTALS]
    table.add_section()
    table.add_row("per entry", f"{sizes[largest] / largest:.0f} B", *steps, *peaks, style="dim")
    screen = harness.console()
    screen.print()
    screen.print(table)
    for what, line in lines.items():
        screen.print(f"  {line.name}: ∝ n^{line.exponent:.2f} from {max(counts[0], _FIT_FROM):,} entries"
                     f" (1 is linear); memory ∝ n^{memory[what].exponent:.2f}", highlight=False)  # fmt: skip
    if build_peak is not None:
        screen.print(
            f"  `package build` of {options.files:,} files: {build_peak:,.0f} MiB at its peak", highlight=False
        )
    subtitle = f"{harness.machine_line(facts)}; medians of {options.reps} repeats"
    print(f"\n{subtitle}", flush=True)
    stem = options.out / "scaling"
    harness.write_json(
        stem.with_suffix(".json"),
        {
            "benchmark": "scaling",
            "machine": facts,
            "commit": harness.commit(REPOSITORY),
            "manifest_bytes": {str(count): size for count, size in sizes.items()},
            "exponents": {what: {"seconds": lines[what].exponent, "memory": memory[what].exponent} for what in lines},
            "build_peak_mib": build_peak,
            "samples": series.rows,
        },
    )
    if lines:
        with harness.figures_after(options.out):
            panels = [
                ("Time", "seconds", list(lines.values())),
                ("Peak memory above that of start-up", "MiB", list(memory.values())),
            ]
            figures.curves(stem, "The cost of a version by its number of entries", subtitle, panels)
    work.clean()


def real_build(work: Work, options: argparse.Namespace, environment: dict[str, str], series: Series) -> float | None:
    """Return the peak memory in MiB of a real build of that many files."""
    source = datasets.make_data(work, "small", argparse.Namespace(n=options.files))
    trial = work.trial("build")
    own = {"REPROKIT_HOME": "home", "REPROKIT_CACHE": "cache", "REPROKIT_REGISTRY": "registry"}
    environment = environment | {key: os.fspath(trial / name) for key, name in own.items()}
    try:
        sample = harness.measure(
            [sys.executable, "-m", "reprokit", "package", "build", source, "benchmark/data"],
            cwd=trial,
            environment=environment,
            log=trial / "log",
        )
    except Failed as failure:
        harness.note(f"package build: {failure}")
        return None
    series.add("package build", "build", 0, seconds=sample.seconds, peak_mib=sample.peak_mib)
    return sample.peak_mib


if __name__ == "__main__":
    main()
