"""Many writers, readers and a gc at once: every version is in the log, nothing is lost, nobody reads anything torn."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from reprokit.packages.build import build
from reprokit.packages.package import Package, verify_registry
from reprokit.registry.gc import collect_garbage
from reprokit.registry.local import LocalRegistry
from tests.conftest import ROOT
from tests.faults.audit import SCALE, garbage, history, living

BUILDERS, BUILDS, READS = (8, 50, 10_000) if SCALE >= 10 else (3, 8, 500)
READERS = 2

# What a version holds follows from its message, so that any reader can tell whether it is whole.
COMMON = """
import os, random, sys, time
from pathlib import Path
from reprokit.packages.build import build
from reprokit.registry.local import LocalRegistry
from reprokit.registry.gc import collect_garbage
from reprokit.packages.package import Package

def files(message):
    draw = random.Random(message)
    own = {f"own/{n}": f"{message} {n}".encode() for n in range(4)}
    shared = {f"shared/{n}": b"%d" % draw.randrange(50) for n in range(70)}
    return own | shared | ({"large": b"%d" % draw.randrange(3) * (1 << 20)} if draw.random() < 0.2 else {})

root, who, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
cache = root.parent / "cache"
"""

BUILD = """
folder = root.parent / f"data-{who}"
for number in range(count):
    message = f"{who} {number}"
    if number % 2:
        print(build(files(message), "a/b", registry=LocalRegistry(root, cache=cache), message=message).top_hash)
        continue
    for key, data in files(message).items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    if "large" not in files(message):
        (folder / "large").unlink(missing_ok=True)
    print(build(folder, "a/b", registry=LocalRegistry(root, cache=cache), message=message).top_hash)
"""

READ = """
lasting = LocalRegistry(root, cache=cache)
draw = random.Random(who)
seen = 0
done = 0
while done < count:
    registry = lasting if draw.random() < 0.5 else LocalRegistry(root, cache=cache if draw.random() < 0.5 else None)
    package = Package.open("a/b", registry=registry)
    done += 2
    seq = registry.head("a/b").seq
    assert seq >= seen, (seq, seen)
    seen = seq
    expected = files(package.manifest.message)
    assert sorted(package) == sorted(expected)
    for key in draw.sample(sorted(expected), 8):
        one_way, other = package.entry(key).read, lambda: registry.read_object(package.manifest[key], what=key)
        assert draw.choice([one_way, other])() == expected[key], key
        done += 1
    if draw.random() < 0.1:
        package = Package(package.name, registry.read_manifest(draw.choice(registry.top_hashes("a/b"))), registry)
        expected = files(package.manifest.message)
        assert {key: package.entry(key).read() for key in package} == expected
        done += len(expected) + 2
print(done)
"""

SWEEP = """
registry = LocalRegistry(root, cache=cache)
sweeps = rewritten = 0
stop = False
while not stop:  # once at least, however late this process starts
    stop = (root.parent / "stop").exists()
    with registry.staging() as sink:  # garbage, which builders may come to use
        sink.put_all([b"%d" % (sweeps % 60), b"nobody needs %d" % sweeps])
    swept = collect_garbage(registry if sweeps % 2 else LocalRegistry(root), grace=2, thorough=sweeps % 3 == 0)
    assert swept.notes == [], swept.notes
    sweeps += 1
    rewritten += swept.rewritten
    time.sleep(0.02)
print(sweeps, rewritten)
"""


def start(code: str, root: Path, who: str, count: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    command = [sys.executable, "-c", COMMON + code, str(root), who, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_writers_readers_and_gc_at_once_lose_and_tear_nothing(room):
    root = room / "registry"
    build({"own/0": b"first 0"}, "t/first", registry=LocalRegistry(root))
    builders = [start(BUILD, root, f"builder-{number}", BUILDS) for number in range(BUILDERS)]
    while LocalRegistry(root).head("a/b") is None:
        assert all(builder.poll() in (None, 0) for builder in builders)
        time.sleep(0.01)
    readers = [start(READ, root, f"reader-{number}", READS) for number in range(READERS)]
    sweeper = start(SWEEP, root, "gc", 0)
    built = [builder.communicate(timeout=600)[0].split() for builder in builders]
    read = [int(reader.communicate(timeout=600)[0] or 0) for reader in readers]
    (room / "stop").touch()
    sweeps, rewritten = map(int, (sweeper.communicate(timeout=60)[0] or "-1 -1").split())
    assert [done.returncode for done in (*builders, *readers, sweeper)] == [0] * (BUILDERS + READERS + 1)
    assert sum(read) >= READERS * READS
    assert sweeps
    log = history(root)["a/b"]
    assert len(log) == BUILDERS * BUILDS
    assert sorted(entry["top_hash"] for entry in log) == sorted(hash_ for hashes in built for hash_ in hashes)
    assert len(living(root)) == BUILDERS * BUILDS + 1
    registry = LocalRegistry(root)
    assert verify_registry(registry) == (BUILDERS * BUILDS + 1, [])
    collect_garbage(registry, grace=0)
    assert garbage(root) == []
    assert Package.open("a/b", registry=registry).verify() == []
    print(f"{len(log)} versions, {sum(read)} reads, {sweeps} sweeps, {rewritten} packs written anew")
