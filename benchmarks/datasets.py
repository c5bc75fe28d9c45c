"""Versions of a folder: reprokit, its peers and the physical limit, side by side as ratios of one run.

    python benchmarks/datasets.py small [--n 20000]      20,000 files of about 3 KB in 10 folders
    python benchmarks/datasets.py large [--mb 100]       10 files of 100 MB
    python benchmarks/datasets.py cifar --data DIR       a folder of yours, such as CIFAR-10 as 60,000 images

Operations are whole processes: the first version, a version when nothing changed, versions after one file changed,
restoring the newest version into an empty folder; then the size of the store. benchmarks/README.md says more.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import figures
import harness
from harness import REPOSITORY, Absent, Failed, Sample, Series, SpareMemory, Work

HERE = Path(__file__).resolve().parent
OPERATIONS = {
    "first": "first version",
    "unchanged": "nothing changed",
    "changed": "one file changed",
    "restore": "restored",
    "store": "store of 3 versions",
}
_RACY = 2.0  # seconds: a file changed this recently is read again by tools that trust its mtime otherwise
_PROCESS = 256 << 20  # bytes of memory that any of the tools may want besides the data
_LARGE = 256 << 20  # bytes of data from which a trial is deleted as soon as it ends, if it has few files
_FEW = 1000

# --------------------------------------------------------------------------------------------------- runners


@dataclass(frozen=True, slots=True)
class Trial:
    """One repeat of one runner in a folder of its own: `repo/data` is what it versions, `out` where it restores."""

    program: str
    root: Path

    @property
    def repo(self) -> Path:
        return self.root / "repo"

    @property
    def data(self) -> Path:
        return self.repo / "data"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def out(self) -> Path:
        return self.root / "out"


Commands = list[list[str | Path]]


@dataclass(frozen=True, kw_only=True)
class Runner:
    """How one tool keeps versions; commands run in `repo`.

    Attributes:
        find: Returns the program, installing it if need be, or raises Absent.
        save: Commands that make a version; the label is new for each of them.
        kept: What counts as the store.
        before_restore: Untimed.
        restored: Where the restored tree is.
        stores, syncs, verifies: Does the save store bytes and wait for the disk; does the restore check hashes?
    """

    find: Callable[[Work], str]
    save: Callable[[Trial, str], Commands]
    restore: Callable[[Trial], Commands]
    setup: Callable[[Trial], Commands] = lambda _: []
    before_restore: Callable[[Trial], object] = lambda _: None
    kept: Callable[[Trial], list[Path]] = lambda trial: [trial.store]
    restored: Callable[[Trial], Path] = lambda trial: trial.out
    stores: bool = True
    syncs: bool
    verifies: bool
    note: str = ""


def _python(_: Work) -> str:
    return sys.executable


def _limit(*options: str) -> Runner:
    script = HERE / "peers" / "limit.py"
    return Runner(
        find=_python,
        save=lambda trial, _: [[trial.program, script, "save", trial.data, trial.store, *options]],
        restore=lambda trial: [[trial.program, script, "restore", trial.store, trial.out]],
        syncs=bool(options),
        verifies=True,
        note="plain Python: one read, one write, SHA-256 per 8 MiB, two threads from 1 MiB up; no history",
    )


def _git(_: Trial) -> Commands:
    return [["git", "init", "-q", "."], ["git", "config", "gc.auto", "0"]]


def _dvc(trial: Trial) -> Commands:
    settings = {
        "core.analytics": "false",
        "core.check_update": "false",
        "core.site_cache_dir": str(trial.root / "site"),
        "cache.dir": str(trial.store),
    }
    return [
        *_git(trial),
        [trial.program, "init", "-q"],
        *([trial.program, "config", key, value] for key, value in settings.items()),
    ]


def _newest(trial: Trial, suffix: str = "") -> Path:
    return trial.store / f"v3{suffix}"


RUNNERS: dict[str, Runner] = {
    "reprokit": Runner(
        find=_python,
        save=lambda trial, _: [[trial.program, "-m", "reprokit", "package", "build", trial.data, "benchmark/data"]],
        restore=lambda trial: [[trial.program, "-m", "reprokit", "install", "benchmark/data", trial.out]],
        syncs=True,
        verifies=True,
    ),
    "limit": _limit(),
    "limit-fsync": _limit("--fsync"),
    "tar": Runner(
        find=lambda work: harness.system_tool(work, "tar"),
        setup=lambda trial: [["mkdir", trial.store]],
        save=lambda trial, label: [[trial.program, "-cf", trial.store / f"{label}.tar", "-C", trial.data, "."]],
        restore=lambda trial: [[trial.program, "-xf", _newest(trial, ".tar"), "-C", trial.out]],
        kept=lambda trial: [trial.store / f"v{number}.tar" for number in (1, 2, 3)],
        syncs=False,
        verifies=False,
        note="a whole copy for each version",
    ),
    "cp": Runner(
        find=lambda work: harness.system_tool(work, "cp"),
        setup=lambda trial: [["mkdir", trial.store]],
        save=lambda trial, label: [[trial.program, "-r", trial.data, trial.store / label]],
        restore=lambda trial: [[trial.program, "-rT", _newest(trial), trial.out]],
        kept=lambda trial: [trial.store / f"v{number}" for number in (1, 2, 3)],
        syncs=False,
        verifies=False,
        note="a whole copy for each version",
    ),
    "dvc": Runner(
        find=lambda work: harness.venv_tool(work, "dvc", "dvc==3.67.1", "dvc"),
        setup=_dvc,
        save=lambda trial, _: [[trial.program, "add", "-q", "data"]],
        before_restore=lambda trial: trial.data.rename(trial.root / "gone"),
        restore=lambda trial: [[trial.program, "checkout", "-q", "data.dvc"]],
        restored=lambda trial: trial.data,
        syncs=False,
        verifies=False,
        note="`dvc add`, `dvc checkout`; files are copied to and from its cache",
    ),
    "quilt3": Runner(
        find=lambda work: harness.venv_tool(work, "quilt3", "quilt3==8.0.0", "python"),
        setup=lambda trial: [["mkdir", trial.store]],
        save=lambda trial, _: [[trial.program, HERE / "peers/quilt_package.py", "save", trial.data, trial.store]],
        restore=lambda trial: [[trial.program, HERE / "peers/quilt_package.py", "restore", trial.store, trial.out]],
        stores=False,
        syncs=False,
        verifies=False,
        note="`build` hashes but stores no bytes (it cannot push to a folder); `fetch` copies from the original folder",
    ),
    "restic": Runner(
        find=lambda work: harness.system_tool(work, "restic", "restic"),
        setup=lambda trial: [[trial.program, "init", "-q", "-r", trial.store]],
        save=lambda trial, _: [[trial.program, "backup", "-q", "-r", trial.store, "data"]],
        restore=lambda trial: [[trial.program, "restore", "latest", "-q", "-r", trial.store, "--target", trial.out]],
        restored=lambda trial: trial.out / "data",
        syncs=True,
        verifies=True,
        note="encrypts and, from its format 2 on, compresses",
    ),
    "borg": Runner(
        find=lambda work: harness.system_tool(work, "borg", "borgbackup"),
        setup=lambda trial: [[trial.program, "init", "-e", "none", trial.store]],
        save=lambda trial, label: [[trial.program, "create", f"{trial.store}::{label}", "data"]],
        restore=lambda trial: [["env", "-C", trial.out, trial.program, "extract", f"{trial.store}::v3"]],
        restored=lambda trial: trial.out / "data",
        syncs=True,
        verifies=True,
        note="without encryption; compresses with lz4",
    ),
    "git": Runner(
        find=lambda work: harness.system_tool(work, "git"),
        setup=_git,
        save=lambda trial, label: [
            [trial.program, "add", "-A"],
            [trial.program, "commit", "-qm", label, "--allow-empty"],
        ],
        restore=lambda trial: [[trial.program, "checkout-index", "-a", f"--prefix={trial.out}/"]],
        restored=lambda trial: trial.out / "data",
        kept=lambda trial: [trial.repo / ".git"],
        syncs=False,
        verifies=False,
        note="`git add -A`, `git commit`; compresses with zlib; loose objects are not synced by default",
    ),
}

# --------------------------------------------------------------------------------------------------- data


def make_data(work: Work, workload: str, options: argparse.Namespace) -> Path:
    """Return the folder to version, made once: bytes that do not compress, as in images and shards."""
    if workload == "cifar":
        return options.data.absolute()
    size = f"{options.n}" if workload == "small" else f"{options.mb}mb"
    folder = work.data / f"{workload}-{size}"
    if folder.exists():
        return folder
    harness.note(f"making {folder}")
    draft = work.data / f".{folder.name}.part"
    if draft.exists():
        work.delete(draft)
    numbers = random.Random(0)
    if workload == "small":
        for number in range(10):
            (draft / f"class{number}").mkdir(parents=True)
        for number in range(options.n):
            file = draft / f"class{number % 10}" / f"{number:06d}.png"
            file.write_bytes(numbers.randbytes(numbers.randint(2500, 3500)))
    else:
        draft.mkdir()
        for number in range(10):
            with (draft / f"shard{number}.bin").open("wb") as handle:
                for _ in range(options.mb):
                    handle.write(numbers.randbytes(1_000_000))
    draft.rename(folder)
    return folder


def files_in(root: Path) -> dict[str, int]:
    """Return the size of every file below `root` by its relative path, in order."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            found[os.path.relpath(path, root)] = os.lstat(path).st_size
    return dict(sorted(found.items()))


def change_one(root: Path, number: int) -> None:
    """Overwrite a file that is small, or 1 MiB in the middle of a large one, with bytes never seen before."""
    files = files_in(root)
    key = list(files)[number * 7919 % len(files)]
    size = min(files[key], 1 << 20)
    with (root / key).open("r+b") as handle:
        handle.seek((files[key] - size) // 2)
        handle.write(random.Random(f"{number} {key}").randbytes(size))


def allocated(paths: Sequence[Path]) -> int:
    """Return the bytes that files and folders occupy on the disk, hard links once."""
    seen: dict[tuple[int, int], int] = {}
    for top in paths:
        walked = [os.path.join(folder, name) for folder, kinds, names in os.walk(top) for name in [*kinds, *names]]
        for path in [str(top), *walked]:
            status = os.lstat(path)
            seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


def check_same(expected: Path, found: Path) -> None:
    """Raise Failed unless both trees hold the same bytes."""
    left, right = files_in(expected), files_in(found)
    if left != right:
        odd = sorted(left.items() ^ right.items())[0][0]
        raise Failed(f"restored {len(right):,} files of {len(left):,}, or other sizes; see {odd}")
    for key in left:
        if not filecmp.cmp(expected / key, found / key, shallow=False):
            raise Failed(f"restored other bytes for {key}")


# --------------------------------------------------------------------------------------------------- trials


def _deletes(count: int, size: int) -> bool:
    """Can a trial go as soon as it ends? Many files deleted slow the next trial; many bytes kept fill the disk."""
    return size >= _LARGE and count <= _FEW


def run_trial(
    work: Work,
    name: str,
    program: str,
    source: Path,
    repeat: int,
    *,
    spare: SpareMemory | None = None,
    pause: float = _RACY,
) -> list[tuple[str, dict[str, float]]]:
    """Take one runner through all operations on a fresh copy of the data; `pause` lets its mtimes age."""
    runner = RUNNERS[name]
    trial = Trial(program, work.trial(name))
    trial.out.mkdir()
    shutil.copytree(source, trial.data)
    sizes = files_in(trial.data)
    size = sum(sizes.values())
    environment = harness.clean_environment(work.home) | {
        "REPROKIT_HOME": str(trial.root / "home"),
        "REPROKIT_CACHE": str(trial.root / "cache"),
        "REPROKIT_REGISTRY": str(trial.store),
        "RESTIC_CACHE_DIR": str(trial.root / "cache"),
        "BORG_BASE_DIR": str(trial.root / "borg"),
    }

    def run(commands: Commands, *, timed: bool = True) -> dict[str, float]:
        total = Sample(seconds=0, cpu_seconds=0, peak_mib=0)
        if timed:
            files = [trial.data / key for key in files_in(trial.data)] if trial.data.exists() else []
            harness.quiet_machine(spare=spare, needed=2 * size + _PROCESS, warm=files)
        for argv in commands:
            total += harness.measure(argv, cwd=trial.repo, environment=environment, log=trial.root / "log")
        return {"seconds": total.seconds, "cpu_seconds": total.cpu_seconds, "peak_mib": total.peak_mib}

    results: list[tuple[str, dict[str, float]]] = []
    run(runner.setup(trial), timed=False)
    time.sleep(pause)
    results.append(("first", run(runner.save(trial, "v1"))))
    time.sleep(pause)
    results.append(("unchanged", run(runner.save(trial, "same"))))
    for number, label in enumerate(("v2", "v3")):
        change_one(trial.data, 2 * repeat + number)
        time.sleep(pause)
        results.append(("changed", run(runner.save(trial, label))))
    os.sync()  # blocks are allocated when they are written
    kept = allocated(runner.kept(trial))
    results.append(("store", {"ratio": kept / size, "bytes": kept}))
    runner.before_restore(trial)
    results.append(("restore", run(runner.restore(trial))))
    gone = trial.root / "gone"
    check_same(gone if gone.exists() else trial.data, runner.restored(trial))
    if _deletes(len(sizes), size):
        work.delete(trial.root)
    return results


def warm_up(work: Work, source: Path) -> Path:
    """Return a tiny tree: every runner versions it once, unrecorded, so that its program is in the page cache."""
    tiny = work.trial("tiny")
    for number, (key, size) in enumerate(files_in(source).items()):
        if number == 20:
            break
        (tiny / key).parent.mkdir(parents=True, exist_ok=True)
        (tiny / key).write_bytes(random.Random(number).randbytes(min(size, 3000)))
    return tiny


# --------------------------------------------------------------------------------------------------- results


def units(workload: str) -> dict[str, str]:
    """Return which runner is 1× for each operation: what no tool that does the same work can beat by much."""
    of_copy = "limit" if workload == "large" else "tar"
    return {"first": of_copy, "unchanged": "limit", "changed": "limit", "restore": "tar"}


def _two_lines(heading: str) -> str:
    return heading.replace(" ", "\n", 1) if " " in heading else f"\n{heading}"


def print_table(title: str, series: Series, unit: dict[str, str], names: Sequence[str]) -> None:
    from rich.text import Text

    def flag(value: bool) -> Text:
        return Text("yes") if value else Text("–", style="dim")

    table = harness.table(title)
    table.add_column("", no_wrap=True)
    for operation, heading in OPERATIONS.items():
        of = f"1× = {unit[operation]}" if operation in unit else "1× = data"
        table.add_column(f"{_two_lines(heading)}\n{of}", justify="right", no_wrap=True)
    for heading in ("\nstores\nbytes", "waits\nfor\ndisk", "\nverified\nrestore"):
        table.add_column(heading, justify="center", no_wrap=True)
    for name in names:
        runner = RUNNERS[name]
        if name in series.absent:
            table.add_row(Text(name), *["–"] * 8, style="dim")
            continue
        cells = [
            harness.ratio_cell(series.spread(name, operation), series.spread(runner_, operation))
            for operation, runner_ in unit.items()
        ]
        kept = series.spread(name, "store", "ratio")
        cells.append(Text(f"{kept.median:.2f}×" if kept else "–"))
        flags = map(flag, (runner.stores, runner.syncs, runner.verifies))
        table.add_row(Text(name), *cells, *flags, style="bold cyan" if name == "reprokit" else "")
    screen = harness.console()
    screen.print()
    screen.print(table)
    peers = [name for name in names if name != "reprokit" and name not in series.absent]
    if series.spread("reprokit", "first") and peers:
        table = harness.table("How many times as long as reprokit it takes")
        table.add_column("")
        for operation in unit:
            table.add_column(OPERATIONS[operation], justify="right")
        for name in peers:
            row = []
            for operation in unit:
                other, own = series.spread(name, operation), series.spread("reprokit", operation)
                row.append(harness.ratio_text(other.median / own.median) if other and own else "–")
            table.add_row(name, *row)
        screen.print(table)
    for name in names:
        if text := series.absent.get(name) or RUNNERS[name].note:
            screen.print(f"  {name:12} {text}", highlight=False, markup=False, soft_wrap=True)


def draw(
    file: Path, title: str, machine: str, series: Series, unit: dict[str, str], names: Sequence[str]
) -> list[Path]:
    panels = []
    present = [name for name in names if name not in series.absent]
    for operation, heading in OPERATIONS.items():
        quantity = "ratio" if operation == "store" else "seconds"
        base = series.spread(unit[operation], operation) if operation in unit else None
        bars = []
        for name in present:
            spread = series.spread(name, operation, quantity)
            if spread is None or (operation == "store" and not RUNNERS[name].stores):
                continue
            ratio = spread.over(base.median) if base else spread
            text = f"{spread.median:.2f}×" if operation == "store" else harness.ratio_text(ratio.median)
            detail = "" if operation == "store" else harness.seconds_text(spread.median)
            star = "" if RUNNERS[name].stores else " *"
            bars.append(figures.Bar(name + star, ratio.median, ratio.low, ratio.high, text, detail))
        what = f"1 = {unit[operation]}" if operation in unit else "1 = size of the data"
        panels.append(figures.Panel(heading, what, bars))
    lines = [f"{name}: {reason}" for name, reason in series.absent.items()]
    if "quilt3" in present:
        lines.append("* stores no bytes: hashes and writes a manifest only")
    return figures.bars(file, title, machine, panels, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=("small", "large", "cifar"))
    parser.add_argument("--n", type=int, default=20_000, help="small: number of files (default: %(default)s)")
    parser.add_argument("--mb", type=int, default=100, help="large: megabytes of each of 10 files (default: 100)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="cifar: the folder of images")
    harness.add_common_options(parser, reps=3)
    options = parser.parse_args()
    workload = options.workload
    if workload == "cifar" and (options.data is None or not options.data.is_dir()):
        parser.error("cifar needs --data DIR, the folder of images")
    names = harness.chosen(options.only, list(RUNNERS))
    work = Work(options.work)
    source = make_data(work, workload, options)
    sizes = files_in(source)
    count, size = len(sizes), sum(sizes.values())
    if not count:
        parser.error(f"{source} holds no files")
    trials = 1 if _deletes(count, size) else options.reps * len(names)
    work.need(size=(size + 4096 * count) * 6 * trials, files=count * 4 * trials)

    series = Series()
    programs = {}
    for name in names:
        try:
            programs[name] = RUNNERS[name].find(work)
        except Absent as reason:
            series.drop(name, str(reason))
    work.settle()
    facts = harness.machine(work)
    tiny = warm_up(work, source)
    harness.note("touching all free memory once")
    spare = SpareMemory(work.root / "spare-memory")
    for repeat in range(-1, options.reps):
        for name in harness.rotated(list(programs), repeat):
            if name in series.absent:
                continue
            try:
                if repeat < 0:
                    run_trial(work, name, programs[name], tiny, 0, pause=0)
                    continue
                results = run_trial(work, name, programs[name], source, repeat, spare=spare)
            except Failed as failure:
                series.drop(name, f"failed: {failure}")
                continue
            for operation, values in results:
                series.add(name, operation, repeat, **values)
            seen = {operation: values.get("seconds", values.get("ratio", 0)) for operation, values in results}
            harness.note(
                f"{repeat + 1}/{options.reps} {name:12}"
                + "  ".join(f"{key} {value:.2f}" for key, value in seen.items())
            )
    spare.close()
    unit = {
        operation: runner if series.spread(runner, operation) else next(iter(series.runners()), runner)
        for operation, runner in units(workload).items()
    }
    shape = f"{count:,} files, {size / 1e6:,.0f} MB"
    title = {"small": "many small files", "large": "a few large files", "cifar": source.name}[workload]
    title = f"Versions of a folder: {title} ({shape})"
    work_line = f"{harness.machine_line(facts)}; medians of {options.reps} interleaved repeats, min – max"
    stem = options.out / f"datasets-{workload}"
    harness.write_json(
        stem.with_suffix(".json"),
        {
            "benchmark": "datasets",
            "workload": workload,
            "files": count,
            "bytes": size,
            "machine": facts,
            "commit": harness.commit(REPOSITORY),
            "units": unit,
            "absent": series.absent,
            "notes": {name: RUNNERS[name].note for name in names},
            "samples": series.rows,
        },
    )
    print_table(title, series, unit, names)
    print(f"\n{work_line}", flush=True)
    with harness.figures_after(options.out):
        draw(stem, title, work_line, series, unit, names)
    work.clean()


if __name__ == "__main__":
    main()
