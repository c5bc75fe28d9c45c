"""What networks and stores do to a registry in an object store: nothing is lost, nothing is corrupt, all is named.

A proxy stands before SeaweedFS and breaks a share of the requests, drawn by a seed. REPROKIT_TEST_SCALE=10 draws some
thousand faults. And a process is killed before each request that it makes, on a storage that outlives it.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from reprokit.errors import Error, NotFoundError
from reprokit.packages.build import build
from reprokit.packages.package import verify_registry
from reprokit.registry import Registry, open_registry
from reprokit.registry.local import LocalRegistry
from reprokit.registry.remote import gc, signs
from reprokit.registry.remote.gc import collect_remote_garbage
from reprokit.registry.remote.registry import RemoteRegistry
from reprokit.runs.store import RunStore
from reprokit.runs.transfer import copy, pull, push
from reprokit.store.storage import FolderStorage, Readable, Stored
from tests.conftest import ROOT, SCALE, put_run
from tests.fault_proxy import KINDS, fault_proxy
from tests.object_stores import Server
from tests.registry.contract import store

DRAWS = max(1, round(SCALE))
ROUNDS = 8


@pytest.mark.parametrize("seed", range(DRAWS))
def test_a_network_that_breaks_loses_nothing(
    weed: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    drawn = random.Random(seed)
    url = f"s3://bucket/{uuid.uuid4()}"
    said: list[str] = []
    published: list[str] = []
    with fault_proxy(weed.port, share=0.3, seed=seed) as proxy:
        weed.used_by(monkeypatch)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        for number in range(ROUNDS):
            files = {f"{n}": drawn.randbytes(500) for n in range(5)} | {"large": drawn.randbytes(1_200_000)}
            try:
                registry = open_registry(url, cache=tmp_path / f"cache{number}")
                manifest = store(registry, files, str(number))
                published.append(registry.publish("a/b", manifest).top_hash)
                found = registry.read_manifest(manifest.top_hash)
                reading = open_registry(url, cache=tmp_path / f"reader{number}")
                assert {one.logical_key: reading.read_object(one, what="x") for one in found.entries} == files
            except Error as error:
                said.append(error.message)
    weed.used_by(monkeypatch)
    registry = open_registry(url, cache=tmp_path / "cache")
    there = registry.top_hashes("a/b")
    assert set(published) <= set(there)
    assert [entry.seq for entry in registry.log("a/b")] == list(range(1, len(registry.log("a/b")) + 1))
    assert verify_registry(registry) == (len(there), [])
    assert all(url in message for message in said), "an error names what was asked for"
    assert sum(proxy.faults.values()) > 20
    assert set(proxy.faults) <= set(KINDS)
    print(f"{sum(proxy.faults.values())} faults, {len(said)} named, 0 lost")


class Dying(FolderStorage):
    """A storage whose process is killed before the request of a number."""

    def __init__(self, root: Path, left: int) -> None:
        super().__init__(root)
        self.left = left

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            os._exit(9)

    def read(self, key: str, *, max_bytes: int) -> bytes:
        self._count()
        return super().read(key, max_bytes=max_bytes)

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        self._count()
        return super().read_range(key, offset, length)

    def open(self, key: str) -> Readable:  # type: ignore[override]
        self._count()
        return super().open(key)  # type: ignore[return-value]

    def stat(self, key: str) -> Stored | None:
        self._count()
        return super().stat(key)

    def names(self, folder: str, *, after: str = "") -> list[str]:
        self._count()
        return super().names(folder, after=after)

    def walk(self, folder: str, *, after: str = "") -> Iterator[Stored]:
        self._count()
        return FolderStorage(self.root).walk(folder, after=after)  # one request, however it is made of

    def create(self, key: str, data: bytes) -> None:
        self._count()
        super().create(key, data)

    def put(self, key: str, data: bytes | memoryview) -> None:
        self._count()
        super().put(key, data)

    def delete(self, key: str) -> None:
        self._count()
        super().delete(key)


def in_child(action: Callable[[], None]) -> int:
    """Do something in a process of its own; return its exit status: 0, or 9 if it was killed."""
    child = os.fork()
    if not child:
        try:
            action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _tag(registry: RemoteRegistry, _data: Path) -> None:
    registry.tag("a/b", registry.top_hashes("a/b")[0], ("named",))


def _rollback(registry: RemoteRegistry, _data: Path) -> None:
    registry.rollback("a/b", registry.top_hashes("a/b")[0])


def _claim(registry: RemoteRegistry, _data: Path) -> None:
    with registry.claim("20261123-101500-7c1e9f"):
        pass


def _build(registry: RemoteRegistry, data: Path) -> None:
    build(data, "a/b", registry=registry)


def _push(registry: RemoteRegistry, data: Path) -> None:
    source = LocalRegistry(data.parent / "source")
    build(data, "a/b", registry=source)
    push("a/b", source=source, target=registry)


@pytest.mark.parametrize("seed", range(max(1, round(SCALE))))
@pytest.mark.parametrize("action", [_build, _push, _tag, _rollback, _claim])
def test_killed_before_any_request_the_versions_before_stand_and_the_next_command_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: Callable[[RemoteRegistry, Path], None], seed: int
) -> None:
    monkeypatch.setattr(signs, "STALE", -1.0)  # nobody waits here until a killed one reads as dead
    drawn = random.Random(seed)
    place, data, cache = tmp_path / "store", tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    for number in range(3):
        (data / f"{number}").write_bytes(drawn.randbytes(500))
    (data / "large").write_bytes(drawn.randbytes(1_100_000))
    before = build(data, "a/b", registry=RemoteRegistry(FolderStorage(place), cache=cache)).top_hash
    kills = 0
    for number in range(60):
        (data / "new").write_bytes(drawn.randbytes(700))

        def killed(number: int = number) -> None:
            action(RemoteRegistry(Dying(place, number), cache=cache), data)

        status = in_child(killed)
        registry = RemoteRegistry(FolderStorage(place), cache=tmp_path / "reader")
        assert before in registry.top_hashes("a/b")
        assert verify_registry(registry)[1] == []
        action(RemoteRegistry(FolderStorage(place), cache=cache), data)
        if status == 0:
            break
        kills += 1
    else:
        pytest.fail("it never came to its end")
    assert kills > 2
    assert verify_registry(RemoteRegistry(FolderStorage(place), cache=tmp_path / "last"))[1] == []
    print(f"{kills} kills")


@pytest.mark.parametrize("seed", range(DRAWS))
def test_copies_runs_and_gc_through_a_network_that_breaks(
    weed: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """What is said to be done is done, what is not is named, and what was there before is there still."""
    drawn = random.Random(seed)
    url = f"s3://bucket/{uuid.uuid4()}"
    said: list[str] = []
    done: Counter[str] = Counter()
    pushed: dict[str, str] = {}
    near = LocalRegistry(tmp_path / "near", cache=tmp_path / "near-cache")
    with fault_proxy(weed.port, share=0.2, seed=seed) as proxy:
        weed.used_by(monkeypatch)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        for number in range(ROUNDS // 2):
            name = f"a/{drawn.randrange(3)}"
            files = {f"{n}": drawn.randbytes(400) for n in range(4)} | {"large": drawn.randbytes(1_100_000)}
            near.publish(name, store(near, files, str(number)))
            run = f"20260101-0000{number:02d}-aaaaa{number % 10}"
            put_run(near, run, outputs={"o": b"%d" % number})
            other = LocalRegistry(tmp_path / f"other{number}", cache=tmp_path / f"other-cache{number}")

            def opened(number: int = number) -> Registry:
                return open_registry(url, cache=tmp_path / f"cache{number}")

            def pushing(name: str = name, opened: Callable[[], Registry] = opened) -> None:
                pushed.update({one.name: one.top_hash for one in push(name, source=near, target=opened())})

            actions: dict[str, Callable[[], object]] = {
                "push": pushing,
                "push a run": lambda run=run: push(run, source=near, target=opened()),
                "copy": lambda: copy(source=near, target=opened()),
                "pull": lambda name=name, other=other: pull(name, source=opened(), target=other),
                "ls": lambda: list(RunStore(opened()).summaries()),
                "gc": lambda: collect_remote_garbage(cast(RemoteRegistry, opened()), grace=3600),
            }  # fmt: skip
            for what, action in actions.items():
                try:
                    action()
                    done[what] += 1
                except NotFoundError as error:  # of what was not pushed
                    assert what == "pull", error.message
                except Error as error:
                    said.append(error.message)
            assert verify_registry(other)[1] == []
    weed.used_by(monkeypatch)
    registry = open_registry(url, cache=tmp_path / "cache")
    copy(source=near, target=registry)
    for name, top_hash in pushed.items():
        assert top_hash in registry.top_hashes(name)
    assert [head.name for head in registry.heads("runs")] == [head.name for head in near.heads("runs")]
    assert verify_registry(registry)[1] == []
    assert all(url in message for message in said), said
    assert min(done.values()) > 1
    assert sum(proxy.faults.values()) > 20
    print(f"{sum(proxy.faults.values())} faults, {len(said)} named, 0 lost")


WRITER = """
import random, sys
from pathlib import Path
from reprokit.registry import open_registry
from reprokit.registry.remote import gc, registry
from tests.registry.contract import store

for module in (gc, registry):
    module.COMMIT_WITHIN = {within}
registry._MOMENT = {within} / 4
url, cache, number, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
drawn = random.Random(number)
shared = [b"shared %d" % n * 50 for n in range(10)]
for version in range(count):
    team = open_registry(url, cache=cache)
    files = {{"own": b"%d %d" % (number, version), **{{str(n): shared[n] for n in drawn.sample(range(10), 4)}}}}
    entry = team.publish("a/b", store(team, files))
    side = team.publish(f"b/{{number}}", store(team, {{"rubbish": drawn.randbytes(3000), "0": shared[0]}}))
    team.delete(f"b/{{number}}", side.top_hash)
    print(entry.top_hash, flush=True)
"""


def test_many_writers_beside_a_gc_that_is_short_of_patience(
    weed: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """REPROKIT_TEST_SCALE=5: 8 processes that publish 25 versions each. The grace period is of seconds."""
    writers, versions, within = (8, 25, 4.0) if SCALE >= 5 else (3, 5, 2.0)
    weed.used_by(monkeypatch)
    monkeypatch.setattr(gc, "COMMIT_WITHIN", within)
    url = f"s3://bucket/{uuid.uuid4()}"
    script = tmp_path / "writer.py"
    script.write_text(WRITER.format(within=within))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "REPROKIT_HOME": str(tmp_path / "home")}
    running = [
        subprocess.Popen(
            [sys.executable, script, url, tmp_path / f"cache{number}", str(number), str(versions)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(writers)
    ]  # fmt: skip
    swept = 0
    rounds = 0
    while any(process.poll() is None for process in running) or rounds < 2:
        keeper = open_registry(url, cache=tmp_path / "keeper")
        if isinstance(keeper, RemoteRegistry) and keeper.opened:
            removed = collect_remote_garbage(keeper, grace=2 * within)
            swept += removed.packs + removed.versions + removed.objects
            rounds += any(process.poll() is None for process in running) is False
        time.sleep(1.0)
    published: list[str] = []
    for process in running:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        published += output.split()
    assert len(published) == writers * versions
    for _ in range(2):  # what was condemned last is swept too
        time.sleep(2 * within + 1)
        removed = collect_remote_garbage(
            cast(RemoteRegistry, open_registry(url, cache=tmp_path / "keeper")), grace=2 * within
        )
        swept += removed.packs + removed.versions + removed.objects
    registry = open_registry(url, cache=tmp_path / "cache")
    log = registry.log("a/b")
    assert sorted(entry.top_hash for entry in log) == sorted(published)
    count, problems = verify_registry(registry)
    assert problems == []
    assert count == writers * versions
    assert swept > writers
    print(f"{len(published)} versions, {swept} things swept")
