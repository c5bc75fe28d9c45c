"""What every benchmark shares: fair measuring, peers in environments of their own, statistics, tables and JSON.

Knows no workload and draws nothing (see figures.py). Keep this module light: a child's peak memory as the kernel
reports it is never below its parent's at the time of the fork, so matplotlib is loaded after the last measurement.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "REPOSITORY",
    "Absent",
    "Failed",
    "Sample",
    "Series",
    "SpareMemory",
    "Spread",
    "Work",
    "add_common_options",
    "busy_seconds",
    "chosen",
    "clean_environment",
    "commit",
    "console",
    "figures_after",
    "machine",
    "machine_line",
    "measure",
    "note",
    "quiet_machine",
    "ratio_cell",
    "ratio_text",
    "rotated",
    "seconds_text",
    "system_tool",
    "table",
    "venv_tool",
    "write_json",
]

REPOSITORY = Path(__file__).resolve().parents[1]
_AGING = 40.0  # seconds for which ext4 scans past inodes deleted in bulk, slowing every creation that follows
_MANY = 500  # files; deleting more than this is worth waiting for


class Absent(Exception):
    """A runner cannot take part here; the message says why."""


class Failed(Exception):
    """A runner's command failed, or gave back other bytes than it was given."""


def note(text: str) -> None:
    """Print progress on stderr."""
    print(f"· {text}", file=sys.stderr, flush=True)


# --------------------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One operation: wall and CPU seconds of all its processes one after another, peak memory of the largest."""

    seconds: float
    cpu_seconds: float
    peak_mib: float

    def __add__(self, other: Sample) -> Sample:
        return Sample(
            seconds=self.seconds + other.seconds,
            cpu_seconds=self.cpu_seconds + other.cpu_seconds,
            peak_mib=max(self.peak_mib, other.peak_mib),
        )


def measure(
    argv: Sequence[str | Path],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    log: Path,
    timeout: float = 1800,
    started: Callable[[int], object] | None = None,
) -> Sample:
    """Run one process to its end and return what it cost; its output goes to `log`.

    Args:
        started: Called with its process ID.
    Raises:
        Failed: Another exit status than 0, with the last line of the log.
    """
    with log.open("wb") as sink:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in argv],
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
        timer = threading.Timer(timeout, process.kill)
        timer.start()
        try:
            if started is not None:
                started(process.pid)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - start
        except BaseException:
            process.kill()
            raise
        finally:
            timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        lines = log.read_text(errors="replace").strip().splitlines() or ["(no output)"]
        raise Failed(f"exit status {process.returncode}: {lines[-1][:200]}")
    return Sample(seconds=seconds, cpu_seconds=usage.ru_utime + usage.ru_stime, peak_mib=usage.ru_maxrss / 1024)


class SpareMemory:
    """Memory held as clean page cache of a sparse file, some of which is set free right before an operation.

    A virtual machine gives free memory back to its host, and whoever fills it next pays for every page anew: the same
    `cp` of 300 MB took 0.2 s or 1.5 s. Held so, all memory was touched once and what is free was touched a moment ago.
    The kernel takes such pages back from us whenever anyone needs them.
    """

    _RESERVE = 256 << 20

    def __init__(self, file: Path) -> None:
        self._total = _memory("MemTotal")
        self._handle = file.open("w+b", buffering=0)
        file.unlink()  # gone when closed, also after a crash
        self._handle.truncate(self._total)
        self._held = 0

    def hold(self) -> None:
        """Take all free memory but a little."""
        buffer = bytearray(4 << 20)
        self._handle.seek(self._held)
        left = _memory("MemFree") - self._RESERVE
        while left > 0 and (count := self._handle.readinto(buffer)):
            self._held += count
            left -= count

    def release(self, size: int) -> None:
        """Set the memory that was taken last free again, for the process that is measured next."""
        start = max(self._held - size, 0)
        os.posix_fadvise(self._handle.fileno(), start, self._held - start, os.POSIX_FADV_DONTNEED)
        self._held = start

    def close(self) -> None:
        self._handle.close()


def _memory(name: str) -> int:
    return int((_first_line("/proc/meminfo", name) or "0 kB").split()[0]) * 1024


def busy_seconds() -> float:
    """Return the CPU seconds that all processes together, and the kernel, have used since the machine started."""
    with open("/proc/stat") as lines:
        user, nice, system, _idle, _iowait, irq, softirq = map(int, next(lines).split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def quiet_machine(*, spare: SpareMemory | None = None, needed: int = 0, warm: Iterable[Path] = ()) -> None:
    """Make the next operation pay for nothing but itself.

    Writes back what earlier runners left dirty, as an fsync would wait for it, and reads files into the page cache.

    Args:
        spare: For large data: `needed` bytes of memory are made free and are known to be the machine's own.
    """
    os.sync()
    if spare is not None:
        spare.hold()
        spare.release(needed)
    buffer = bytearray(1 << 20)
    for file in warm:  # last, as taking memory may drop them
        with file.open("rb", buffering=0) as handle:
            while handle.readinto(buffer):
                pass


def _first_line(file: str, start: str) -> str | None:
    """Return what follows the colon in the first line of a file of /proc that starts so."""
    with open(file) as lines:
        return next((line.split(":")[1].strip() for line in lines if line.startswith(start)), None)


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """Return the names starting elsewhere at each turn, so that no runner is always first in line."""
    turn %= max(len(names), 1)
    return [*names[turn:], *names[:turn]]


# --------------------------------------------------------------------------------------------------- statistics


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest of the samples of one operation by one runner."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values), len(values))

    def over(self, unit: float) -> Spread:
        return Spread(self.median / unit, self.low / unit, self.high / unit, self.count)


@dataclass
class Series:
    """All samples of a benchmark: rows as they go to the JSON file, and spreads computed from them."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    def add(self, runner: str, operation: str, repeat: int, **values: Any) -> None:
        self.rows.append({"runner": runner, "operation": operation, "repeat": repeat, **values})

    def spread(self, runner: str, operation: str, quantity: str = "seconds") -> Spread | None:
        values = [
            row[quantity]
            for row in self.rows
            if row["runner"] == runner and row["operation"] == operation and quantity in row
        ]
        return Spread.of(values) if values else None

    def runners(self) -> list[str]:
        return list(dict.fromkeys(row["runner"] for row in self.rows))

    def drop(self, runner: str, reason: str) -> None:
        """Take a runner out of the race: no half of its samples is compared."""
        self.rows = [row for row in self.rows if row["runner"] != runner]
        self.absent[runner] = reason
        note(f"{runner}: {reason}")


# --------------------------------------------------------------------------------------------------- work folder


class Work:
    """The folder of data sets, peers' environments and trials; one benchmark at a time holds it.

    Nothing of a trial is deleted before `clean`, and whatever follows a large deletion waits until it has aged.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.data = self.root / "data"
        self.venvs = self.root / "venvs"
        self.home = self.root / "home"
        self._trials = self.root / "trials"
        for folder in (self.data, self.venvs, self.home, self._trials):
            folder.mkdir(parents=True, exist_ok=True)
        self._deleted = self.root / "last-deletion"
        self._lock = (self.root / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"Another benchmark works in {self.root}; two at once would measure each other.") from None
        self.clean()  # what an interrupted benchmark left

    def trial(self, name: str) -> Path:
        """Return a new empty folder."""
        folder = self._trials / f"{name}-{time.time_ns()}"
        folder.mkdir()
        return folder

    def delete(self, folder: Path) -> None:
        files = sum(len(names) for _, _, names in os.walk(folder))
        shutil.rmtree(folder)
        if files > _MANY:
            self.disturbed()

    def disturbed(self) -> None:
        """Remember that many files were deleted just now."""
        self._deleted.touch()

    def clean(self) -> None:
        for folder in self._trials.iterdir():
            self.delete(folder)

    def settle(self) -> None:
        """Wait until the last large deletion no longer slows the creation of files."""
        age = time.time() - self._deleted.stat().st_mtime if self._deleted.exists() else _AGING
        if age < _AGING:
            note(f"waiting {_AGING - age:.0f} s: many files were deleted just now")
            time.sleep(_AGING - age)

    def need(self, *, size: int, files: int) -> None:
        """Refuse to start what would fill the disk."""
        free = os.statvfs(self.root)
        if size > free.f_bavail * free.f_frsize:
            raise SystemExit(f"{self.root} needs {size / 1e9:.0f} GB free; choose another folder with --work.")
        if free.f_files and files > free.f_favail:
            raise SystemExit(f"{self.root} needs {files:,} free inodes; choose another folder with --work.")


def add_common_options(parser: argparse.ArgumentParser, *, reps: int) -> None:
    """Add the options that every benchmark has."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument("--reps", type=int, default=reps, metavar="N", help=f"interleaved repeats (default: {reps})")
    parser.add_argument("--only", metavar="A,B", help="these runners only")
    parser.add_argument(
        "--work",
        type=Path,
        default=cache / "reprokit-benchmarks",
        metavar="DIR",
        help="folder of data sets, peers and trials (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("benchmark-results"),
        metavar="DIR",
        help="folder of the JSON file and the figures (default: %(default)s)",
    )


def chosen(only: str | None, known: Sequence[str]) -> list[str]:
    """Return the runners that --only names, in the order of `known`.

    Raises:
        SystemExit: A name that is not known.
    """
    if not only:
        return list(known)
    names = [name.strip() for name in only.split(",") if name.strip()]
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"No runner {unknown[0]!r}; there are {', '.join(known)}.")
    return [name for name in known if name in names]


# --------------------------------------------------------------------------------------------------- peers

_FOREIGN = (
    "REPROKIT_", "GIT_", "DVC_", "QUILT_", "RESTIC_", "BORG_", "MLFLOW_", "WANDB_", "AWS_", "XDG_", "PYTHON",
    "VIRTUAL_ENV",
)  # fmt: skip


def clean_environment(home: Path) -> dict[str, str]:
    """Return an environment in which nothing of the user's is read or written, and no peer calls home."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
    return environment | {
        "HOME": str(home),
        "CI": "1",
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "QUILT_DISABLE_USAGE_METRICS": "1",
        "QUILT_MINIMIZE_STDOUT": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
        "TQDM_DISABLE": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "benchmark",
        "GIT_AUTHOR_EMAIL": "benchmark@example.org",
        "GIT_COMMITTER_NAME": "benchmark",
        "GIT_COMMITTER_EMAIL": "benchmark@example.org",
        "RESTIC_PASSWORD": "example",
        "RESTIC_PROGRESS_FPS": "0",
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        "PYTHONPATH": str(REPOSITORY),
    }


def venv_tool(work: Work, name: str, requirement: str, program: str) -> str:
    """Return a program of a Python peer, installed into a virtual environment of its own when it is not yet.

    Raises:
        Absent: It cannot be installed.
    """
    venv = work.venvs / name
    path = venv / "bin" / program
    whole = (venv / "installed").exists() or venv.is_symlink()  # a link: somebody's own, not ours to mend
    if not path.exists() or not whole:
        note(f"installing {requirement} into {venv}")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        for argv in (
            [sys.executable, "-m", "venv", "--clear", str(venv)],
            [str(venv / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", requirement],
        ):
            done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no output"])[-1]
                raise Absent(f"absent: {requirement} cannot be installed ({last[:120]})")
        (venv / "installed").write_text(requirement + "\n")
        work.disturbed()
    return str(path)


def system_tool(work: Work, program: str, package: str | None = None) -> str:
    """Return a program of the system; root on a Debian installs `package` when it is missing.

    Raises:
        Absent: There is none.
    """
    if path := shutil.which(program):
        return path
    if package is None or not shutil.which("apt-get"):
        raise Absent("absent: not installed")
    if os.geteuid() != 0:
        raise Absent(f"absent: not installed, and only root can `apt-get install {package}`")
    note(f"installing {package} with apt-get")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for argv in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", package]):
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    work.disturbed()
    if path := shutil.which(program):
        return path
    raise Absent(f"absent: apt-get install {package}: {(done.stderr.strip().splitlines() or ['no output'])[-1][:120]}")


# --------------------------------------------------------------------------------------------------- reporting


def machine(work: Work) -> dict[str, Any]:
    """Return what a reader of the ratios needs to know of the machine."""
    cpu = _first_line("/proc/cpuinfo", "model name") or platform.machine()
    kind = subprocess.run(
        ["findmnt", "-n", "-o", "FSTYPE", "-T", work.root], capture_output=True, text=True, check=False
    ).stdout
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": cpu,
        "memory_gib": round(_memory("MemTotal") / 2**30, 1),
        "file_system": kind.strip(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def machine_line(facts: Mapping[str, Any]) -> str:
    """Return the machine in one line."""
    return (
        f"{facts['cpus']} CPUs ({facts['cpu']}), {facts['memory_gib']:.0f} GiB, {facts['file_system']}, "
        f"Python {facts['python']}, load {facts['load'][0]:.1f} at the start"
    )


def commit(folder: Path) -> str:
    """Return the commit of the code that was measured, with `+` when files differ from it."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def console() -> Any:
    """Return a rich console wide enough for the tables, also into a file."""
    from rich.console import Console

    found = Console()
    return found if found.width >= 132 else Console(width=132)


def table(title: str) -> Any:
    """Return an empty rich table in the style of all."""
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, header_style="bold")


def ratio_cell(spread: Spread | None, unit: Spread | None) -> Any:
    """Return a table's cell: ratio to the unit and median, below them least and greatest sample."""
    from rich.text import Text

    if spread is None or unit is None:
        return Text("–", style="dim")
    cell = Text(ratio_text(spread.median / unit.median), no_wrap=True)
    cell.append(f"  {seconds_text(spread.median):>6}", style="not bold dim")
    low, high = seconds_text(spread.low), seconds_text(spread.high)
    if low.split()[1] == high.split()[1]:
        low = low.split()[0]
    cell.append(f"\n{low}–{high}", style="not bold dim")
    return cell


def seconds_text(seconds: float) -> str:
    """Return a duration with three digits: 0.071 s, 1.24 s, 61.3 s."""
    if seconds >= 100:
        return f"{seconds:.0f} s"
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def ratio_text(ratio: float) -> str:
    """Return a ratio with two or three digits: 0.16×, 1.3×, 21×."""
    if ratio >= 9.95:
        return f"{ratio:,.0f}×"
    return f"{ratio:.1f}×" if ratio >= 1.95 else f"{ratio:.2f}×"


def write_json(file: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a benchmark."""

    def plain(value: object) -> object:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.asdict(value)
        raise TypeError(type(value).__name__)

    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1, ensure_ascii=False, default=plain) + "\n")


@contextmanager
def figures_after(out: Path) -> Iterator[None]:
    """Say where the figures are, or how to get them when matplotlib is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        note("no figure: `pip install 'reprokit-runs[benchmarks]'` brings matplotlib")
    else:
        note(f"results in {out}")
