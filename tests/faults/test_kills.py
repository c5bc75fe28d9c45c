"""SIGKILL at every point between two system calls, and at random instants: a version is there whole, or not at all."""

from __future__ import annotations

import gc
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from reprokit.core.refs import PackageRef
from reprokit.errors import PurgedError
from reprokit.packages.build import build
from reprokit.packages.package import Package, verify_registry
from reprokit.packages.purge import purge
from reprokit.registry.gc import collect_garbage
from reprokit.registry.local import LocalRegistry
from reprokit.store.packs import SMALL
from tests.faults.audit import SCALE, Content, garbage, history

LARGE, OTHER = bytes(range(256)) * (SMALL // 256), b"other" * (SMALL // 4)
ERASED = b"4000-1234-5678-9010"

# Functions after which the file system, or what another process may do, is not what it was.
_EFFECTS = {
    "open",
    "write",
    "flush",
    "fsync",
    "close",
    "__exit__",
    "replace",
    "rename",
    "link",
    "unlink",
    "mkdir",
    "rmdir",
}
_EFFECTS |= {"fchmod", "chmod", "utime", "flock", "connect", "execute", "executemany", "executescript", "commit"}


class World:
    """A folder with data, a registry and a cache; a copy of one is another."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.data = base / "data"

    @property
    def registry(self) -> LocalRegistry:
        return LocalRegistry(self.base / "registry", cache=self.base / "cache")

    def write(self, files: Content) -> None:
        shutil.rmtree(self.data, ignore_errors=True)
        for key, content in files.items():
            path = self.data / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            os.utime(path, (1, 1))

    def build(self, name: str = "a/b") -> str:
        return build(self.data, name, registry=self.registry).top_hash

    def copy(self, base: Path) -> World:
        shutil.copytree(self.base, base, symlinks=True)
        return World(base)


FIRST: Content = {"a": b"one", "big": LARGE, "d/b": b"two", "empty": b"", "s": b"same"}
SECOND: Content = {"a": b"ONE", "big": LARGE, "big2": OTHER, "d/c": b"three", "empty": b"", "s": b"same"}
MANY: Content = {f"{number:03d}": b"%d" % number for number in range(80)}


def nothing(world: World) -> None:
    world.write(FIRST)


def one_version(world: World) -> None:
    world.write(FIRST)
    world.build()
    world.write(SECOND)


def without_index(world: World) -> None:
    one_version(world)
    shutil.rmtree(world.base / "cache")


def alike(world: World) -> None:
    world.write(MANY)
    world.build()
    world.write({**MANY, "007": b"new"})


def two_versions(world: World) -> None:
    one_version(world)
    world.build()


def sweepings(world: World) -> None:
    """Garbage of every kind: a version deleted, a pack to write anew, objects of nobody, leftovers of the dead."""
    two_versions(world)
    registry = world.registry
    first, _ = registry.top_hashes("a/b")
    build({"a": b"ONE", "x": OTHER + b"."}, "c/d", registry=registry)
    registry.delete("a/b", first)
    with registry.staging() as sink:
        sink.put_all([b"nobody", b"uses", b"these", LARGE + b"."])
    left = registry.root / "tmp" / "dead"
    left.mkdir()
    (left / "owner").touch()
    (left / "half").write_bytes(b"x" * 100)


def small_packs(world: World) -> None:
    for number in range(33):
        build({"x": b"%d" % number, "s": b"same"}, "a/b", registry=world.registry)


def with_secret(world: World) -> None:
    world.write({**FIRST, "secret": ERASED})
    world.build()
    world.write({**SECOND, "also": ERASED})
    world.build()


def latest(world: World) -> str:
    return world.registry.resolve(PackageRef("a/b"))


def do_build(world: World) -> None:
    world.build()


def do_tag(world: World) -> None:
    world.registry.tag("a/b", latest(world), ("x", "y"), permanent=True)


def do_rollback(world: World) -> None:
    world.registry.rollback("a/b", world.registry.top_hashes("a/b")[0])


def do_delete(world: World) -> None:
    versions = world.registry.top_hashes("a/b")
    if len(versions) == 2:  # else a killed one has done it
        world.registry.delete("a/b", versions[1])


def do_gc(world: World) -> None:
    collect_garbage(world.registry, grace=0)


def do_purge(world: World) -> None:
    entries = world.registry.read_manifest(latest(world)).entries
    digest = next(entry.digest for entry in entries if entry.logical_key == "also")
    purge(world.registry, {digest}, cache=world.base / "cache", reason="asked to")


def do_run(world: World) -> None:
    """What a run does to its registry: a sign of life, a record at the start, a checkpoint, a record at the end."""
    registry, run = world.registry, "20261123-101500-7c1e9f"
    with registry.claim(run):
        for status in ("running", "finished"):
            with registry.staging() as sink:
                digests = sink.put_all([status.encode(), b"log"])
            build({"w": b"weights"}, "t/model", registry=registry)
            manifest = registry.read_manifest(registry.resolve(PackageRef("t/model")))
            entries = [manifest.entries[0]._replace(digest=digest, size=len(status)) for digest in digests[:1]]
            registry.publish(f"runs/{run}", type(manifest).make(entries))


SCENES: dict[str, tuple[Callable[[World], None], Callable[[World], None]]] = {
    "first build": (nothing, do_build),
    "second build": (one_version, do_build),
    "second build without index": (without_index, do_build),
    "build of a difference": (alike, do_build),
    "tag": (two_versions, do_tag),
    "rollback": (two_versions, do_rollback),
    "delete": (two_versions, do_delete),
    "gc": (sweepings, do_gc),
    "gc of many small packs": (small_packs, do_gc),
    "purge": (with_secret, do_purge),
    "run": (one_version, do_run),
}


def content(registry: LocalRegistry, top_hash: str, name: str) -> Content | None:
    """Return a version's files, each verified; None for the bytes of one that was purged."""
    package = Package(name, registry.read_manifest(top_hash), registry)
    found: Content = {}
    for key in package:
        try:
            found[key] = package.entry(key).read()
        except PurgedError:
            found[key] = b"purged"
    return found


State = dict[str, tuple[dict[str, str], dict[str, Content]]]


def state(world: World) -> State:
    """Return the tags of each package, and the content of each of its versions, as a new process reads them."""
    registry = world.registry
    found: State = {}
    for name in registry.packages():
        head = registry.head(name)
        if head is not None:  # else its folder was made, and no more
            versions = {top_hash: content(registry, top_hash, name) for top_hash in registry.top_hashes(name)}
            found[name] = (dict(head.tags), versions)
    return found


def child(world: World, act: Callable[[World], None], die_at: int | None) -> int:
    """Run an action in a process of its own that is killed before its effect of this number; return its number."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            said = pipe.read()
        _, status = os.waitpid(pid, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert killed or (status == 0 and said), f"the action failed without a kill: {said.decode()}"
        return int(said or b"-1")
    try:
        count = 0
        lock = threading.Lock()
        own = os.getpid()

        def watch(_frame: FrameType, event: str, called: object) -> None:
            nonlocal count
            if event == "c_call" and getattr(called, "__name__", "") in _EFFECTS:
                with lock:
                    if count == die_at:
                        os.kill(own, signal.SIGKILL)
                    count += 1

        threading.setprofile(watch)
        sys.setprofile(watch)
        act(world)
        sys.setprofile(None)
        os.write(writer, b"%d" % count)
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 - the parent says it
        os.write(writer, repr(error).encode())
        os._exit(1)


@pytest.mark.parametrize("scene", ["first build", "second build", "build of a difference", "run"])
def test_a_name_is_durable_before_the_log_entry_that_leads_to_it(room, monkeypatch, scene):
    """What a power cut would leave is not known to us; but each new name's folder is synced before what needs it."""
    prepare, act = SCENES[scene]
    world = World(room / "world")
    world.base.mkdir()
    prepare(world)
    unsynced: set[str] = set()
    entries: list[str] = []

    def note(name: str, target: int) -> None:
        real = getattr(os, name)

        def noting(*args, **kwargs):
            path = os.fspath(args[target])
            if "/log/" in path and name == "link":
                folder = os.path.dirname(path)
                late = {other for other in unsynced if not folder.startswith(other)}
                assert not late, f"{path} is named before these are durable: {late}"
                entries.append(path)
            real(*args, **kwargs)
            if path.startswith(f"{world.base}/registry/") and not re.search(r"/(tmp|running)(/|$)|/\.tmp-", path):
                unsynced.add(path)

        monkeypatch.setattr(os, name, noting)

    for name, target in (("mkdir", 0), ("replace", 1), ("rename", 1), ("link", 1)):
        note(name, target)
    fsync = os.fsync

    def noting_fsync(descriptor):
        fsync(descriptor)
        folder = os.readlink(f"/proc/self/fd/{descriptor}")
        unsynced.difference_update({path for path in unsynced if os.path.dirname(path) == folder})

    monkeypatch.setattr(os, "fsync", noting_fsync)
    act(world)
    assert entries
    assert unsynced == set()


def killed_after(world: World, act: Callable[[World], None], seconds: float) -> None:
    """Run an action in a process of its own, and kill that from here."""
    pid = os.fork()
    if not pid:
        try:
            act(world)
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def check(world: World, before: State, after: State) -> State:
    """Assert that a registry is as one of its allowed states, whole and verified; return which."""
    registry = world.registry
    if (registry.root / "log").exists():
        history(registry.root)
    found = state(world)
    for name in before.keys() | after.keys() | found.keys():
        now, allowed = found.get(name), (before.get(name), after.get(name))
        if name.startswith(("runs/", "t/")):  # several commits: each of their heads is one of the final versions
            assert now is None or now[1].items() <= after[name][1].items()
            continue
        if now is not None and any(b"purged" in files.values() for files in now[1].values()):
            assert now == after[name]
        assert now in allowed
    seen, problems = verify_registry(registry)
    assert [problem for problem in problems if not problem.purged] == []
    assert seen == sum(len(versions) for _, versions in found.values())
    return found


def aftermath(world: World, act: Callable[[World], None], before: State, after: State, *, sweep_first: bool) -> None:
    """Assert that after a kill nothing is lost, the action can be repeated, and gc leaves no garbage."""
    found = check(world, before, after)
    if sweep_first:
        collect_garbage(world.registry, grace=0)
        assert check(world, before, after) == found
    act(world)
    assert check(world, after, after) == after
    collect_garbage(world.registry, grace=0)
    assert check(world, after, after) == after
    assert garbage(world.registry.root) == []


@pytest.mark.parametrize("scene", SCENES)
def test_a_kill_leaves_what_was_there_and_nothing_half(room, scene):
    prepare, act = SCENES[scene]
    start = World(room / "start")
    start.base.mkdir()
    prepare(start)
    before = state(start)
    whole = start.copy(room / "whole")
    began = time.perf_counter()
    points = child(whole, act, None)
    lasts = time.perf_counter() - began
    after = state(whole)
    assert points > 10
    gc.collect()

    seed = f"kills {scene}"
    draw = random.Random(seed)
    chosen = sorted(draw.sample(range(points), min(points, 4 if SCALE < 10 else 30 * SCALE)))
    for number, point in enumerate(chosen):
        world = start.copy(room / "trial")
        try:
            child(world, act, point)
            aftermath(world, act, before, after, sweep_first=bool(number % 2))
        except BaseException as error:
            error.add_note(f"seed {seed!r}, killed before effect {point} of {points}")
            raise
        shutil.rmtree(world.base)
    for number in range(1 if SCALE < 10 else 3 * SCALE):
        world = start.copy(room / "trial")
        instant = draw.random() * lasts
        try:
            killed_after(world, act, instant)
            aftermath(world, act, before, after, sweep_first=bool(number % 2))
        except BaseException as error:
            error.add_note(f"seed {seed!r}, random kill {number} after {instant:.6f} s of {lasts:.6f} s")
            raise
        shutil.rmtree(world.base)
