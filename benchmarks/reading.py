"""Reading every file of a version once, each verified, against `open().read()` of the same plain files.

    python benchmarks/reading.py [--n 60000] [--data DIR] [--sizes 1,10,100]

Plain files come from a warm page cache; they are the unit. Every reader runs in a process of its own, with an empty
cache folder of reprokit's: opening the version, a first pass over all files and a second one are timed apart; a third,
untimed pass compares the bytes. `--sizes` adds the bandwidth of larger files for the readers that look like files.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import figures
import harness
from harness import REPOSITORY, Absent, Failed, Series, SpareMemory, Work

REF = "benchmark/data"
_BLOCK = 1 << 20  # bytes that a reader of large files asks for at once
_PROCESS = 512 << 20  # bytes of memory that any of the readers may want besides the data
_LARGE = 1_000_000  # bytes from which a file is read in blocks
PHASES = {"first": "every file once", "again": "every file again", "open": "opening the version"}

# --------------------------------------------------------------------------------------------------- readers
#
# A reader is a generator function of (ref, keys, folder) that yields twice: when its imports are done, and, when the
# version is open, a function that returns all contents in the order of the keys. What follows the second yield cleans
# up. It raises Absent when this reprokit cannot read that way.

Read = Callable[[], Iterable[Any]]
Reader = Iterator[Read | None]


def _load(module: str, *names: str) -> list[Any]:
    try:
        loaded = importlib.import_module(module)
        return [getattr(loaded, name) for name in names]
    except (ImportError, AttributeError) as error:
        raise Absent(f"absent: {error}") from None


def _files(paths: Sequence[str]) -> Iterator[bytes | memoryview]:
    """Yield the content of files, those of 1 MiB and more in blocks."""
    if os.stat(paths[0]).st_size < _LARGE:
        for path in paths:
            with open(path, "rb") as handle:
                yield handle.read()
        return
    buffer = memoryview(bytearray(_BLOCK))
    for path in paths:
        with open(path, "rb", buffering=0) as handle:
            while count := handle.readinto(buffer):
                yield buffer[:count]


def plain(_: str, keys: Sequence[str], folder: str) -> Reader:
    yield None
    paths = [f"{folder}/{key}" for key in keys]
    yield lambda: _files(paths)


def package(ref: str, keys: Sequence[str], _: str) -> Reader:
    (opened,) = _load("reprokit.packages.package", "Package")
    yield None
    version = opened.open(ref)
    yield lambda: (version[key].read() for key in keys)


def torch_dataset(ref: str, keys: Sequence[str], _: str) -> Reader:
    (dataset,) = _load("reprokit.sources.torch", "Dataset")
    yield None
    version = dataset(ref)
    yield lambda: (version[number] for number in range(len(keys)))


def tf_data(ref: str, _keys: Sequence[str], _: str) -> Reader:
    (source,) = _load("reprokit.sources.tensorflow", "dataset")
    yield None
    version = source(ref, batch_size=256)
    yield lambda: (content for batch in version.as_numpy_iterator() for content in batch)


def vfs(ref: str, keys: Sequence[str], _: str) -> Reader:
    (setup,) = _load("reprokit.vfs", "setup")
    yield None
    root = setup(ref)
    paths = [f"{root}/{key}" for key in keys]
    yield lambda: _files(paths)


def mount(ref: str, keys: Sequence[str], _: str) -> Reader:
    command = [sys.executable, "-m", "reprokit", "mount"]
    if subprocess.run([*command, "--help"], capture_output=True, check=False).returncode:
        raise Absent("absent: this reprokit has no command `mount`")
    yield None
    with tempfile.TemporaryDirectory() as name:
        point = Path(name) / "mounted"
        point.mkdir()
        server = subprocess.Popen(
            [*command, "--foreground", ref, str(point)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            deadline = time.monotonic() + 60
            while not point.is_mount():
                if time.monotonic() > deadline or server.poll() is not None:
                    error = server.stderr.read().decode(errors="replace") if server.poll() is not None else "no mount"
                    raise Failed(f"failed: {error.strip()[-200:]}")
                time.sleep(0.002)
            paths = [f"{point}/{key}" for key in keys]
            yield lambda: _files(paths)
        finally:
            subprocess.run(["fusermount", "-u", str(point)], check=False, capture_output=True)
            server.terminate()
            server.wait(30)


READERS: dict[str, tuple[Callable[[str, Sequence[str], str], Reader], str]] = {
    "plain": (plain, "open().read() of plain files, page cache warm; nothing is verified"),
    "package": (package, "Package.open(ref)[key].read()"),
    "torch": (torch_dataset, "torch Dataset, by index, in this process"),
    "tf.data": (tf_data, "tf.data source, in order"),
    "vfs": (vfs, "open().read() through the hooks of reprokit.vfs"),
    "mount": (mount, "open().read() below `reprokit mount` (FUSE)"),
}
LIKE_FILES = ("plain", "vfs", "mount")


def _shown(name: str) -> str:
    return name if name == "plain" else f"reprokit {name}"


def child(name: str, ref: str, keys_file: str, folder: str) -> dict[str, Any]:
    """Run one reader in this process and return its times in seconds, bytes read and a checksum of all contents."""
    keys = json.loads(Path(keys_file).read_text())
    stages = READERS[name][0](ref, keys, folder)
    try:
        next(stages)
        start = time.perf_counter()
        read = next(stages)
        result: dict[str, Any] = {"open": time.perf_counter() - start}
        assert read is not None
        for phase in ("first", "again"):
            total = 0
            start = time.perf_counter()
            for content in read():
                total += len(content)
            result[phase] = time.perf_counter() - start
            result["bytes"] = total
        result["checksum"] = 0
        for content in read():
            result["checksum"] = zlib.crc32(content, result["checksum"])
        next(stages, None)
    except (Absent, Failed) as reason:
        return {"absent": str(reason)}
    with open("/proc/self/status") as lines:
        peak = next(line for line in lines if line.startswith("VmHWM"))
    return result | {"peak_mib": int(peak.split()[1]) / 1024}


# --------------------------------------------------------------------------------------------------- the parent


def build(source: Path, trial: Path, environment: dict[str, str]) -> Path:
    """Make a version of the folder and return a file with its keys in the order of the version."""
    harness.note(f"building a version of {source}")
    harness.measure(
        [sys.executable, "-m", "reprokit", "package", "build", source, REF],
        cwd=trial,
        environment=environment,
        log=trial / "log",
    )
    keys = trial / "keys.json"
    ordered = sorted(datasets.files_in(source), key=lambda key: key.split("/"))
    keys.write_text(json.dumps(ordered))
    return keys


def race(
    work: Work,
    source: Path,
    names: Sequence[str],
    reps: int,
    series: Series,
    label: str,
    *,
    spare: SpareMemory,
    checksums: dict[str, int],
) -> int:
    """Let readers read a version of `source` in turns, add samples named by `label`; return the bytes of the data."""
    trial = work.trial("reading")
    environment = harness.clean_environment(work.home) | {"REPROKIT_REGISTRY": str(trial / "registry")}
    keys = build(
        source, trial, environment | {"REPROKIT_HOME": str(trial / "home"), "REPROKIT_CACHE": str(trial / "c")}
    )
    sizes = datasets.files_in(source)
    for repeat in range(reps):
        for name in harness.rotated(names, repeat):
            if name in series.absent:
                continue
            own = trial / f"{name}-{repeat}".replace(" ", "-")
            own.mkdir()
            harness.quiet_machine(
                spare=spare, needed=3 * sum(sizes.values()) + _PROCESS, warm=[source / key for key in sizes]
            )
            done = subprocess.run(
                [sys.executable, __file__, "--child", name, REF, keys, source],
                cwd=own,
                env=environment | {"REPROKIT_HOME": str(own / "home"), "REPROKIT_CACHE": str(own / "cache")},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no output"])[-1]
                series.drop(name, f"failed: {last[:200]}")
                continue
            result = json.loads(done.stdout.splitlines()[-1])
            if reason := result.get("absent"):
                series.drop(name, reason)
                continue
            expected = checksums.setdefault(label, result["checksum"]) if name == "plain" else checksums.get(label)
            if result["bytes"] != sum(sizes.values()) or (expected and result["checksum"] != expected):
                series.drop(name, "failed: other bytes than the plain files hold")
                continue
            for phase in PHASES:
                series.add(name, label + phase, repeat, seconds=result[phase], peak_mib=result["peak_mib"])
            shown = "  ".join(f"{phase} {result[phase]:.3f} s" for phase in PHASES)
            harness.note(f"{repeat + 1}/{reps} {label}{name:8} {shown}")
    return sum(sizes.values())


def large_files(work: Work, megabytes: int) -> Path:
    """Return a folder of files of that size, about 200 MB together but three of them at least."""
    folder = work.data / f"files-{megabytes}mb"
    if not folder.exists():
        harness.note(f"making {folder}")
        draft = work.trial("files")
        for number in range(max(3, 200 // megabytes)):
            with (draft / f"{number:03d}.bin").open("wb") as handle:
                for _ in range(megabytes):
                    handle.write(os.urandom(1_000_000))
        draft.rename(folder)
    return folder


def print_table(title: str, series: Series, names: Sequence[str], sizes: Sequence[int], totals: dict[str, int]) -> None:
    from rich.text import Text

    table = harness.table(title)
    table.add_column("", no_wrap=True)
    for heading in ("\nevery file once", "\nevery file again", "opening\nthe version", "peak\nmemory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for size in sizes:
        table.add_column(f"{size} MB files\nonce, again", justify="right", no_wrap=True)
    for name in names:
        style = "" if name == "plain" else "bold cyan"
        if name in series.absent:
            table.add_row(Text(_shown(name)), *["–"] * (4 + len(sizes)), style="dim")
            continue
        cells: list[Any] = [
            harness.ratio_cell(series.spread(name, phase), series.spread("plain", phase))
            for phase in ("first", "again")
        ]
        opened, peak = series.spread(name, "open"), series.spread(name, "first", "peak_mib")
        cells.append(harness.seconds_text(opened.median) if opened and name != "plain" else "–")
        cells.append(f"{peak.median:,.0f} MiB" if peak else "–")
        for size in sizes:
            shares = []
            for phase in ("first", "again"):
                own, base = (series.spread(who, f"{size} MB {phase}") for who in (name, "plain"))
                if own and base:
                    shares.append((base.median / own.median, totals[f"{size} MB "] / own.median / 1e9))
            if not shares:
                cells.append("–")
                continue
            cell = Text()
            for number, (share, speed) in enumerate(shares):
                cell.append(("\n" if number else "") + harness.ratio_text(share))
                cell.append(f" {speed:5.2f} GB/s", style="not bold dim")
            cells.append(cell)
        table.add_row(Text(_shown(name)), *cells, style=style)
    screen = harness.console()
    screen.print()
    screen.print(table)
    screen.print(
        "  1× is what `plain` takes. For larger files: share of the bandwidth of `plain`, more is better.",
        highlight=False,
    )
    for name in names:
        text = series.absent.get(name) or READERS[name][1]
        screen.print(f"  {_shown(name):18} {text}", highlight=False, markup=False, soft_wrap=True)


def draw(file: Path, title: str, subtitle: str, series: Series, names: Sequence[str], sizes: Sequence[int]) -> None:
    panels = []
    headings = {"first": PHASES["first"], "again": PHASES["again"]}
    headings |= {f"{size} MB first": f"files of {size} MB once" for size in sizes}
    for phase, heading in headings.items():
        base = series.spread("plain", phase)
        bars = []
        for name in names:
            spread = series.spread(name, phase)
            if spread and base:
                ratio = spread.over(base.median)
                text, detail = harness.ratio_text(ratio.median), harness.seconds_text(spread.median)
                bars.append(figures.Bar(_shown(name), ratio.median, ratio.low, ratio.high, text, detail))
        panels.append(figures.Panel(heading, "1 = open().read() of plain files", bars))
    figures.bars(file, title, subtitle, panels, [f"{_shown(name)}: {reason}" for name, reason in series.absent.items()])


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(*sys.argv[2:])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=60_000, help="number of files of about 3 KB (default: %(default)s)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="read this folder's files instead")
    parser.add_argument("--sizes", default="1,10,100", metavar="MB,…", help="sizes of larger files; '' for none")
    harness.add_common_options(parser, reps=5)
    options = parser.parse_args()
    names = harness.chosen(options.only, list(READERS))
    if "plain" not in names:
        names.insert(0, "plain")  # the unit
    sizes = [int(size) for size in options.sizes.split(",") if size]
    work = Work(options.work)
    options.workload = "small"
    source = options.data.absolute() if options.data else datasets.make_data(work, "small", options)
    count = len(datasets.files_in(source))
    work.settle()
    facts = harness.machine(work)
    series = Series()
    harness.note("touching all free memory once")
    spare = SpareMemory(work.root / "spare-memory")
    checksums: dict[str, int] = {}
    totals = {"": race(work, source, names, options.reps, series, "", spare=spare, checksums=checksums)}
    for size in sizes:
        like_files = [name for name in names if name in LIKE_FILES and name not in series.absent]
        if len(like_files) > 1:
            folder = large_files(work, size)
            totals[f"{size} MB "] = race(
                work, folder, like_files, options.reps, series, f"{size} MB ", spare=spare, checksums=checksums
            )
    spare.close()
    sizes = [size for size in sizes if f"{size} MB " in totals]
    title = f"Reading every file of a version ({count:,} files, {totals[''] / 1e6:,.0f} MB)"
    subtitle = f"{harness.machine_line(facts)}; medians of {options.reps} interleaved repeats, min – max"
    stem = options.out / "reading"
    harness.write_json(
        stem.with_suffix(".json"),
        {
            "benchmark": "reading",
            "files": count,
            "bytes": totals,
            "machine": facts,
            "commit": harness.commit(REPOSITORY),
            "absent": series.absent,
            "samples": series.rows,
        },
    )
    print_table(title, series, names, sizes, totals)
    print(f"\n{subtitle}", flush=True)
    with harness.figures_after(options.out):
        draw(stem, title, subtitle, series, names, sizes)
    work.clean()


if __name__ == "__main__":
    main()
