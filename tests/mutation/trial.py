"""Make each change to a module in a fork of one warm process, and see whether a test notices.

The tests are collected once. A change inside a function is made by exchanging the code of the live function, which
costs no import; one of the module's own level by importing everything anew. Only tests that reach the changed lines
are run, the fastest first, until one fails.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.abc
import importlib.util
import math
import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any, TypeAlias

import pytest
from _pytest.runner import runtestprotocol

from tests.mutation.changes import Change, apply

__all__ = ["BrokenBefore", "Outcome", "trial", "trial_apart", "work"]

ROOT = Path(__file__).resolve().parents[2]
HOUSE = ROOT / "reprokit"
_SLOW = 4.0  # seconds of the processors; a test that takes longer is not asked
_PATIENCE = 4.0  # seconds, on top of ten times what the tests take: what is not done by then hangs, which is noticed
_MEMORY = 12 << 30
_PROCESSES = {"project", "pair"}  # fixtures that start a `reprokit` of their own
_FOLDERS = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - where to sync costs nothing
_Lines: TypeAlias = dict[str, set[int]]
_Live: TypeAlias = dict[tuple[str, int], list[FunctionType]]
_NOTICED, _SURVIVED, _BROKEN = 1, 0, 3


class BrokenBefore(Exception):
    """The tests cannot be run even without a change."""


@dataclass(frozen=True)
class Outcome:
    """What became of one change to the module `file`.

    Attributes:
        by: The test that failed, or how it was noticed without one; None if it was not.
        asked: How many tests reach it.
    """

    file: str
    change: Change
    by: str | None
    asked: int
    seconds: float


@dataclass
class _Reach:
    """What each test reaches: lines by module, and how long it takes."""

    lines: dict[str, dict[str, set[int]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def of(self, file: str, change: Change) -> list[str]:
        """Return the tests that reach a change, file by file, the fastest first; all reach what an import executes."""
        wanted = range(change.first, change.last + 1)
        found = [test for test, lines in self.lines.items() if change.at_import or not lines[file].isdisjoint(wanted)]
        fastest: dict[str, float] = {}
        for test in found:
            file_ = test.partition("::")[0]
            fastest[file_] = min(fastest.get(file_, math.inf), self.seconds[test])
        return sorted(found, key=lambda test: (fastest[file_ := test.partition("::")[0]], file_, self.seconds[test]))


def trial(tests: Sequence[str], wanted: Mapping[str, Sequence[Change]]) -> list[Outcome]:
    """Return what tests make of changes.

    Args:
        tests: Files or folders of tests, or single tests, below `tests/`.
        wanted: The changes to each module below `reprokit/`.
    Raises:
        BrokenBefore: The tests cannot be run even without a change.
    """
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory(prefix="mutation-", dir=_FOLDERS, ignore_cleanup_errors=True) as folder:
        plugin = _Trials(wanted, Path(folder))
        status = _pytest(tests, Path(folder) / "base", [plugin])
    if plugin.failed is not None:
        raise BrokenBefore(plugin.failed)
    if len(plugin.outcomes) != sum(map(len, wanted.values())):
        raise BrokenBefore(f"{', '.join(tests)} cannot be collected (exit {status})")
    return plugin.outcomes


def trial_apart(tests: Sequence[str], wanted: Mapping[str, Sequence[Change]]) -> list[Outcome]:
    """Try changes in a process of its own; see `trial`."""
    done = subprocess.run(
        [sys.executable, "-c", "from tests.mutation.trial import work; work()"],
        input=pickle.dumps((tests, wanted)),
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},  # a fork has none of its parent's
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise BrokenBefore(f"{', '.join(tests)} did not get as far as trying changes")
    outcomes: list[Outcome] = pickle.loads(done.stdout)  # noqa: S301
    return outcomes


def work() -> None:
    """Read tests and changes from the standard input, and write the outcomes to the output, which nothing else uses."""
    told = os.fdopen(os.dup(1), "wb")
    quiet = os.open(os.devnull, os.O_RDWR)
    os.dup2(quiet, 1)
    tests, wanted = pickle.load(sys.stdin.buffer)  # noqa: S301
    os.dup2(quiet, 0)
    try:
        outcomes = trial(tests, wanted)
    except BrokenBefore as error:
        sys.exit(str(error))
    pickle.dump(outcomes, told)
    told.close()


def _pytest(tests: Sequence[str], base: Path, plugins: list[Any]) -> int:
    arguments = ["-q", "-x", "-s", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={base}"]
    return int(pytest.main([*arguments, *(f"tests/{test}" for test in tests)], plugins=[_Hypothesis(), *plugins]))


class _Hypothesis:
    """The same draws each time, and none kept: a change is noticed or it is not."""

    def pytest_configure(self) -> None:
        import hypothesis

        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        hypothesis.settings.register_profile(
            "mutation",
            database=None,
            derandomize=True,
            deadline=None,
            phases=phases,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        hypothesis.settings.load_profile("mutation")


class _Trials:
    """In place of running the tests: run them once to see what they reach, and then for each change."""

    def __init__(self, wanted: Mapping[str, Sequence[Change]], folder: Path) -> None:
        self.wanted, self.folder = wanted, folder
        self.outcomes: list[Outcome] = []
        self.failed: str | None = None
        self.tracer: _Tracer | None = None
        self.into: tuple[_Lines, _Lines] = {}, {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            return False
        items = {item.nodeid: item for item in session.items if _may_be_asked(item)}
        session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        reach = self._reach(items)
        if reach is None:
            return True
        for file, changes in self.wanted.items():
            live = _live_functions(str(HOUSE / file))
            for change in changes:
                self.outcomes.append(self._try(file, change, live, items, reach))
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        if self.tracer is not None:
            self.tracer.note(self.into[0])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self) -> None:
        if self.tracer is not None:
            self.tracer.note(self.into[1])

    def _reach(self, items: dict[str, pytest.Item]) -> _Reach | None:
        def look() -> int:
            made: dict[str, _Lines] = {}  # by file of tests, what is reached while fixtures are made for any of them
            with _Tracer({str(HOUSE / file): file for file in self.wanted}) as tracer:
                self.tracer = tracer
                for (name, item), following in zip(items.items(), [*list(items.values())[1:], None], strict=True):
                    shared = made.setdefault(name.partition("::")[0], tracer.lines_of_none())
                    self.into = shared, (own := tracer.lines_of_none())
                    start, worked = time.perf_counter(), sum(os.times()[:4])
                    reports = runtestprotocol(item, log=False, nextitem=following)
                    if any(report.failed for report in reports):
                        failing.append(name)
                    elif sum(os.times()[:4]) - worked <= _SLOW:  # however much else the machine has to do
                        reach.lines[name], reach.seconds[name] = own, time.perf_counter() - start
            for name, lines in reach.lines.items():
                for file, some in made[name.partition("::")[0]].items():
                    lines[file] |= some
            note.write_bytes(pickle.dumps((reach, _third_parties(before), failing)))
            return 0

        failing: list[str] = []

        before, reach, note = set(sys.modules), _Reach(), self.folder / "reach"
        status = _forked(look, 600)
        if not note.exists():
            self.failed = f"the tests ended their process with {status}"
            return None
        reach, modules, failing = pickle.loads(note.read_bytes())  # noqa: S301
        for name in failing:
            print(f"not asked, for it fails as it is: {name}", file=sys.stderr)
        for module in modules:
            with contextlib.suppress(Exception):
                importlib.import_module(module)
        return reach

    def _try(self, file: str, change: Change, live: _Live, items: dict[str, pytest.Item], reach: _Reach) -> Outcome:
        asked = reach.of(file, change)
        start = time.perf_counter()
        if not asked:
            return Outcome(file, change, None, 0, 0.0)
        path = HOUSE / file
        code = compile(apply(path.read_text(), change.number), str(path), "exec", dont_inherit=True)
        exchange = None if change.at_import else _exchange(code, live)
        note = self.folder / "note"
        note.unlink(missing_ok=True)

        def run() -> int:
            if exchange is None:
                return self._anew(path, code, asked, note)
            for function, new in exchange:
                function.__code__ = new
            for name, following in zip(asked, [*asked[1:], None], strict=True):
                after = items[following] if following is not None else None
                if any(report.failed for report in runtestprotocol(items[name], log=False, nextitem=after)):
                    note.write_text(name)
                    return _NOTICED
            return _SURVIVED

        status = _forked(run, _PATIENCE + 10 * sum(map(reach.seconds.__getitem__, asked)))
        by = None if status == _SURVIVED else note.read_text() if note.exists() else f"it ended with {status}"
        return Outcome(file, change, by, len(asked), time.perf_counter() - start)

    def _anew(self, path: Path, code: CodeType, asked: Sequence[str], note: Path) -> int:
        """Import the changed module and all that stand on it, and run the tests."""
        for name in [name for name in sys.modules if name.split(".")[0] in ("reprokit", "tests")]:
            del sys.modules[name]
        sys.meta_path.insert(0, _Finder(path, code))
        first = _First()
        status = _pytest([name.removeprefix("tests/") for name in asked], self.folder / "anew", [first])
        if status:
            note.write_text(first.name or "it cannot be imported")
        return _NOTICED if status else _SURVIVED


def _may_be_asked(item: pytest.Item) -> bool:
    """False for tests of what other processes do, which run the code as it is, and for one that mounts: it may die."""
    return _PROCESSES.isdisjoint(getattr(item, "fixturenames", ())) and "full_disk" not in item.name


class _First:
    """Remember which test failed."""

    name: str | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self.name is None:
            self.name = report.nodeid


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Where a module is looked for: its changed code instead of its file."""

    def __init__(self, path: Path, code: CodeType) -> None:
        parts = path.relative_to(ROOT).with_suffix("").parts
        self.name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        self.path, self.code = path, code

    def find_spec(self, fullname: str, _path: object, _target: object = None) -> Any:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)

    def create_module(self, _spec: object) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        exec(self.code, module.__dict__)  # noqa: S102


class _Tracer:
    """Note which lines of some files are executed, in all threads."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self.files = files
        self.active = False
        self.note(self.lines_of_none())

    def lines_of_none(self) -> _Lines:
        return {name: set() for name in self.files.values()}

    def note(self, into: _Lines) -> None:
        """Go on with other sets of lines; Python forgets a tracer in which the recursion limit was reached."""
        self.lines = {file: into[name] for file, name in self.files.items()}
        if self.active:
            sys.settrace(self._call)

    def __enter__(self) -> _Tracer:
        self.active = True
        threading.settrace(self._call)
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        self.active = False
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]

    def _call(self, frame: FrameType, event: str, arg: object) -> Callable[..., Any] | None:
        if frame.f_code.co_filename not in self.files:
            return None
        return self._line(frame, event, arg)

    def _line(self, frame: FrameType, _event: str, _arg: object) -> Callable[..., Any]:
        self.lines[frame.f_code.co_filename].add(frame.f_lineno)
        return self._line


def _live_functions(file: str) -> _Live:
    found: _Live = {}
    for one in gc.get_objects():
        if isinstance(one, FunctionType) and one.__code__.co_filename == file:
            found.setdefault(_place(one.__code__), []).append(one)
    return found


def _exchange(code: CodeType, live: _Live) -> list[tuple[FunctionType, CodeType]] | None:
    """Return which functions get which code; None if the change is not in a function's body alone."""
    for new in _functions(code):
        for function in live.get(_place(new), []):
            if new == function.__code__:
                continue
            if len(new.co_freevars) != len(function.__code__.co_freevars):
                return None
            return [(function, new) for function in live[_place(new)]]
    return None


def _functions(code: CodeType) -> Iterator[CodeType]:
    """Return the code of the outermost functions: of a module's, and of its classes'."""
    for one in code.co_consts:
        if isinstance(one, CodeType):
            if one.co_flags & 2:  # it has locals of its own, which the body of a class has not
                yield one
            else:
                yield from _functions(one)


def _place(code: CodeType) -> tuple[str, int]:
    return code.co_qualname, code.co_firstlineno


def _third_parties(before: set[str]) -> list[str]:
    """Return what else the tests import: worth having before the forks."""
    ours = ("reprokit", "tests", "tensorflow", "keras", "torch", "jax")
    return sorted(name for name in set(sys.modules) - before if name.split(".")[0] not in ours)


def _forked(work: Callable[[], int], patience: float) -> int:
    """Do work in a fork, in a process group of its own, and return how it ended; -9 if it had to be."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        status = _BROKEN
        try:
            os.setsid()
            quiet = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(quiet, number)
            resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
            status = work()
        finally:
            os._exit(status)
    end = time.monotonic() + patience
    wait = 0.002
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            _end_group(child)
            return os.waitstatus_to_exitcode(status)
        time.sleep(wait)
        wait = min(wait * 1.5, 0.05)
    _end_group(child)
    os.waitpid(child, 0)
    return -signal.SIGKILL


def _end_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
