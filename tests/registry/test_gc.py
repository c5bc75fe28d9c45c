"""gc removes what nothing uses and nothing else; what is purged is gone and says why."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

from reprokit.core.digest import PLAIN, hash_bytes
from reprokit.core.progress import SILENT
from reprokit.errors import DataMismatchError, NotFoundError, PurgedError, RefusedError
from reprokit.packages.build import build
from reprokit.packages.package import Package, verify_registry
from reprokit.packages.purge import purge
from reprokit.packages.tree_cache import lay_out
from reprokit.registry.gc import collect_garbage, rewrite_packs
from reprokit.registry.local import LocalRegistry
from reprokit.registry.marks import Marks
from reprokit.registry.uses import find_object, uses
from reprokit.schema.manifest import Entry, Manifest
from reprokit.store.packs import SMALL
from reprokit.store.staging import stage
from tests.conftest import ROOT, overwrite

LARGE = b"l" * SMALL


@pytest.fixture
def registry(tmp_path):
    return LocalRegistry(tmp_path / "registry", cache=tmp_path / "cache")


def files(registry):
    return sorted(str(path.relative_to(registry.root)) for path in registry.root.rglob("*") if path.is_file())


def holding(data, *places):
    """Return the files that hold these bytes anywhere."""
    found = [path for place in places for path in place.rglob("*") if path.is_file()]
    return [path for path in found if data in path.read_bytes()]


def make(registry, values, name="a/b"):
    build(values, name, registry=registry)
    return Package.open(name, registry=registry)


def test_gc_of_nothing_is_nothing(registry):
    assert collect_garbage(registry, grace=0).bytes == 0
    assert not registry.root.exists()


def test_gc_frees_a_deleted_version_and_keeps_what_others_share(registry):
    one = make(registry, {"a": b"only here" * 500, "b": b"shared", "c": LARGE})
    two = make(registry, {"b": b"shared", "d": b"d" * 5000})
    registry.delete("a/b", one.top_hash)
    before = files(registry)
    foreseen = collect_garbage(registry, grace=0, dry_run=True)
    assert (foreseen.versions, foreseen.objects, foreseen.dry_run) == (1, 2, True)
    assert files(registry) == before
    swept = collect_garbage(registry, grace=0)
    assert (swept.versions, swept.objects) == (1, 2)
    assert swept.bytes > SMALL
    assert verify_registry(registry) == (1, [])
    assert two.entry("b").read() == b"shared"
    with pytest.raises(NotFoundError):
        registry.read_manifest(one.top_hash)


def test_gc_removes_nothing_that_is_young_or_used(registry):
    make(registry, {"a": b"1"})
    old = make(registry, {"a": b"2"})
    registry.delete("a/b", old.top_hash)
    before = files(registry)
    swept = collect_garbage(registry)
    assert (swept.versions, swept.objects, swept.bytes) == (0, 0, 0)
    assert swept.kept == 2  # the manifest and the pack
    assert files(registry) == before


def test_gc_keeps_what_a_living_run_stored(registry):
    with registry.claim("20261123-101500-7c1e9f"):
        time.sleep(0.05)
        with registry.staging() as sink:
            digest, size = sink.put_bytes(b"an artifact that no version names yet")
        collect_garbage(registry, grace=0)
        assert registry.has_object(digest, size)
    collect_garbage(registry, grace=0)
    assert not LocalRegistry(registry.root).has_object(digest, size)


def test_a_pack_with_much_unused_is_written_anew_and_readers_find_what_moved(registry):
    values = {str(number): os.urandom(1000) for number in range(100)}
    one = make(registry, values)
    kept = make(registry, {"7": values["7"]})
    registry.delete("a/b", one.top_hash)
    before = registry.objects.pack_names()
    swept = collect_garbage(registry, grace=0)
    assert (swept.objects, swept.rewritten) == (99, 1)
    assert registry.objects.pack_names().isdisjoint(before)
    assert kept.entry("7").read() == values["7"]  # opened before: its key is out of date
    assert LocalRegistry(registry.root).objects.read(kept.manifest["7"], what="x") == values["7"]
    assert build(values, "a/b", registry=registry).new_bytes == 99 * 1000


def test_a_pack_with_little_unused_stays_unless_asked(registry):
    one = make(registry, {str(number): os.urandom(1000) for number in range(100)})
    build({}, "a/b", registry=registry, base=one, remove=["7"])
    registry.delete("a/b", one.top_hash)
    assert collect_garbage(registry, grace=0).objects == 0
    swept = collect_garbage(registry, grace=0, thorough=True)
    assert (swept.objects, swept.rewritten) == (1, 1)
    assert verify_registry(registry) == (1, [])


def test_many_small_packs_are_joined(registry):
    for number in range(40):
        make(registry, {"x": f"{number}"})
    assert len(registry.objects.pack_names()) == 40
    assert collect_garbage(registry, grace=0).rewritten == 40
    assert len(registry.objects.pack_names()) == 1
    assert verify_registry(registry) == (40, [])


def test_an_object_that_gc_moves_between_finding_and_reading_is_read(registry, tmp_path, monkeypatch):
    values = {str(number): os.urandom(1000) for number in range(10)}
    one = make(registry, values)
    make(registry, {"7": values["7"]})
    registry.delete("a/b", one.top_hash)
    fresh = LocalRegistry(registry.root, cache=tmp_path / "cache")  # its index knows the pack, which is not open
    find, swept = fresh.objects.find, []

    def find_then_sweep(digests):
        found = find(digests)
        swept.append(collect_garbage(LocalRegistry(registry.root), grace=0).rewritten)
        return found

    monkeypatch.setattr(fresh.objects, "find", find_then_sweep)
    entry = one.manifest["7"]._replace(physical_keys=())
    assert fresh.read_object(entry, what="7") == values["7"]
    assert swept[0] == 1


@pytest.mark.parametrize("loss", ["by one who saw fewer packs", "as a file"])
def test_an_index_that_loses_a_pack_between_two_questions_is_asked_again(registry, monkeypatch, loss):
    package = make(registry, {"a": b"1"})
    index = registry.objects.index
    places, asked = index.places, []

    def lose_then_tell(digests, packs):
        if not asked:
            if loss == "as a file":
                index._give_up()
            else:
                index.drop_packs(registry.objects.pack_names())
        asked.append(1)
        return places(digests, packs)

    monkeypatch.setattr(index, "places", lose_then_tell)
    assert registry.read_object(package.manifest["a"]._replace(physical_keys=()), what="a") == b"1"


def test_the_index_knows_an_object_in_two_packs_when_one_of_them_goes(registry):
    package = make(registry, {"a": b"1", "b": b"2"})
    with stage(registry.objects) as staging:
        staging.put_again(package.manifest["a"].digest.raw, b"1")
    entry = package.manifest["a"]._replace(physical_keys=())
    assert registry.read_object(entry, what="a") == b"1"
    (copy,) = staging.written
    registry.objects.pack_path(copy).unlink()
    assert registry.read_object(entry, what="a") == b"1"


def test_an_object_that_gc_takes_between_storing_and_publishing_is_stored_again(registry, monkeypatch):
    head, swept = LocalRegistry.head, []

    def sweep_then_tell(self, name):
        if not swept:
            swept.append(collect_garbage(LocalRegistry(registry.root), grace=0).packs)
        return head(self, name)

    monkeypatch.setattr(LocalRegistry, "head", sweep_then_tell)
    package = make(registry, {"a": b"1"})
    assert swept == [1]
    assert package.entry("a").read() == b"1"


def test_what_is_published_between_the_two_markings_is_kept(registry, monkeypatch):
    """Age does not spare it: the second marking must have found it."""
    make(registry, {"x": b"x"})
    with registry.staging() as sink:  # nothing uses them yet
        entries = [Entry(key, len(data), sink.put_bytes(data)[0]) for key, data in (("small", b"1"), ("large", LARGE))]
    manifest = Manifest.make(entries)
    alone = registry.objects.alone

    @contextlib.contextmanager
    def publish_then_alone():
        LocalRegistry(registry.root).publish("a/late", manifest)
        for path in registry.root.rglob("*"):
            if path.is_file():
                os.utime(path, (1, 1))
        with alone():
            yield

    monkeypatch.setattr(registry.objects, "alone", publish_then_alone)
    swept = collect_garbage(registry, grace=0, thorough=True)
    assert (swept.versions, swept.objects) == (0, 0)
    late = Package.open("a/late", registry=LocalRegistry(registry.root))
    assert (late.entry("small").read(), late.entry("large").read()) == (b"1", LARGE)


def test_objects_that_were_imported_under_another_kind_of_digest_are_used_too(registry):
    data = {"used": b"from quilt3", "unused": b"of a version that is gone"}
    with registry.staging() as sink:
        for content in data.values():
            sink.put_known(io.BytesIO(content), hash_bytes(content, PLAIN), len(content), what="x")
    kept = Entry("used", len(data["used"]), hash_bytes(data["used"], PLAIN))
    registry.publish("a/b", Manifest.make([kept]))
    assert collect_garbage(registry, grace=0).objects == 1
    fresh = LocalRegistry(registry.root)
    assert Package.open("a/b", registry=fresh).entry("used").read() == data["used"]
    assert not fresh.has_object(hash_bytes(data["unused"], PLAIN), len(data["unused"]))


def test_packs_that_were_joined_by_a_gc_that_was_killed_go(registry, tmp_path):
    for number in range(33):
        make(registry, {"x": f"{number}", "same": "same"})
    shutil.copytree(registry.root / "packs", tmp_path / "before")
    collect_garbage(registry, grace=0)
    for path in sorted((tmp_path / "before").iterdir())[:20]:  # some were gone already
        shutil.copy(path, registry.root / "packs")
    fresh = LocalRegistry(registry.root)
    assert collect_garbage(fresh, grace=0).packs == 20
    assert len(fresh.objects.pack_names()) == 1
    assert verify_registry(fresh) == (33, [])


def test_an_object_is_dropped_only_for_a_sound_one_elsewhere(registry):
    values = {str(number): os.urandom(100) for number in range(5)}
    package = make(registry, values)
    with stage(registry.objects) as staging:  # a smaller pack with the same objects, as two builders at once make
        for key in list(values)[:2]:
            staging.put_again(package.manifest[key].digest.raw, values[key])
    (large,) = registry.objects.pack_names() - set(staging.written)
    member = registry.objects.pack(large).members[package.manifest["0"].digest.raw]
    overwrite(registry.objects.pack_path(large), member.offset, b"?")
    fresh = LocalRegistry(registry.root)
    collect_garbage(fresh, grace=0, thorough=True)
    assert fresh.objects.pack_names() > {large}
    assert {key: Package.open("a/b", registry=fresh).entry(key).read() for key in values} == values


def test_gc_keeps_a_pack_whose_directory_lies(registry):
    package = make(registry, {"x": b"used"})
    (name,) = registry.objects.pack_names()
    path = registry.objects.pack_path(name)
    other = hash_bytes(b"never stored").hex.encode()
    overwrite(path, path.read_bytes().rindex(package.manifest["x"].digest.hex.encode()), other)
    fresh = LocalRegistry(registry.root)
    swept = collect_garbage(fresh, grace=0)
    assert swept.notes == [f"Pack {name[:12]} was left alone: its bytes are not those that it is named by."]
    assert Package.open("a/b", registry=fresh).entry("x").read() == b"used"


def test_a_base_that_other_versions_differ_from_is_kept(registry):
    values = {f"{number:03d}": b"%d" % number for number in range(200)}
    one = make(registry, values)
    two = make(registry, {**values, "007": b"new"})
    assert registry.manifests.base_of(two.top_hash) == one.top_hash
    registry.delete("a/b", one.top_hash)
    collect_garbage(registry, grace=0)
    assert Package.open("a/b", registry=registry).verify() == []
    registry.delete("a/b", two.top_hash)
    collect_garbage(registry, grace=0)
    assert registry.manifests.names() == set()


def test_gc_does_nothing_if_it_cannot_know_what_is_used(registry):
    one = make(registry, {"a": b"1"})
    two = make(registry, {"a": b"2"})
    registry.delete("a/b", one.top_hash)
    registry.manifest_path(two.top_hash).write_bytes(b"damaged")
    before = files(registry)
    with pytest.raises(DataMismatchError) as caught:
        collect_garbage(registry, grace=0)
    assert caught.value.message.startswith(
        f"What a/b@{two.top_hash[:12]} uses is not known, so nothing was removed. Manifest {two.top_hash[:12]} of "
    )
    assert files(registry) == before


def test_gc_leaves_a_damaged_pack_alone(registry):
    values = {str(number): os.urandom(1000) for number in range(10)}
    one = make(registry, values)
    make(registry, {"7": values["7"]})
    registry.delete("a/b", one.top_hash)
    (name,) = registry.objects.pack_names()
    path = registry.objects.pack_path(name)
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data.replace(values["7"], bytes(1000)))
    fresh = LocalRegistry(registry.root)
    swept = collect_garbage(fresh, grace=0)
    assert swept.notes == [
        f"Pack {name[:12]} was left alone: its object {one.manifest['7'].digest.hex[:12]} is corrupt."
    ]
    assert fresh.objects.pack_names() == {name}


@pytest.mark.parametrize("where", ["in what nothing uses", "in the zip around it"])
def test_a_pack_that_is_damaged_outside_what_is_used_is_not_written_anew(registry, where):
    """Its directory may be what is damaged, and then name less than it holds."""
    values = {str(number): os.urandom(1000) for number in range(10)}
    one = make(registry, values)
    make(registry, {"7": values["7"]})
    registry.delete("a/b", one.top_hash)
    (name,) = registry.objects.pack_names()
    path = registry.objects.pack_path(name)
    offset = registry.objects.pack(name).members[one.manifest["3"].digest.raw].offset
    overwrite(path, offset if where == "in what nothing uses" else offset - 80, b"?")  # 80 before: of its local header
    before = path.read_bytes()
    fresh = LocalRegistry(registry.root)
    swept = collect_garbage(fresh, grace=0, thorough=True)
    assert swept.notes == [f"Pack {name[:12]} was left alone: its bytes are not those that it is named by."]
    assert (fresh.objects.pack_names(), path.read_bytes()) == ({name}, before)


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(registry):
    make(registry, {"a": b"1"})
    dead = registry.root / "tmp" / "dead"
    dead.mkdir()
    (dead / "owner").touch()
    (dead / "half").write_bytes(b"x" * 100)
    (registry.root / "log" / "a" / "b" / ".tmp-x").touch()
    (registry.root / "manifests" / ".tmp-y").touch()
    with registry.staging():
        swept = collect_garbage(registry, grace=0)
        assert swept.temporary == 3
        assert len(os.listdir(registry.root / "tmp")) == 1


def test_a_file_that_never_got_its_name_goes_when_it_has_had_the_time(registry):
    make(registry, {"a": b"1"})
    old, young = registry.root / "manifests" / ".tmp-old", registry.root / "manifests" / ".tmp-young"
    for path, age in ((old, 120), (young, 0)):
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    assert collect_garbage(registry).temporary == 1
    assert (old.exists(), young.exists()) == (False, True)


def test_gc_of_a_registry_that_was_never_finished_leaves_it_usable(registry):
    registry.root.mkdir()
    (registry.root / ".tmp-x").touch()  # killed before the marker had its name
    collect_garbage(registry, grace=0)
    registry = LocalRegistry(registry.root)
    make(registry, {"a": b"1"})
    collect_garbage(registry, grace=0)
    assert not (registry.root / ".tmp-x").exists()


def test_gc_removes_the_signs_of_life_of_dead_runs_only(registry):
    make(registry, {"a": b"1"})
    with registry.claim("20261123-101500-7c1e9f"):
        (registry.root / "running" / "20261123-101500-000000").touch()
        assert collect_garbage(registry, grace=0).temporary == 1
        assert os.listdir(registry.root / "running") == ["20261123-101500-7c1e9f"]
        assert registry.is_claimed("20261123-101500-7c1e9f")


def test_a_builder_and_a_run_that_gc_takes_for_dead_begin_anew(registry):
    make(registry, {"a": b"1"})
    stop = threading.Event()

    def sweep():
        while not stop.is_set():
            for path in registry.objects.abandoned():
                shutil.rmtree(path, ignore_errors=True)
            for path in registry.signs.dead_runs():
                path.unlink(missing_ok=True)

    stored = []
    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        for number in range(200):
            with registry.claim(f"20261123-101500-{number:06d}"):
                assert registry.is_claimed(f"20261123-101500-{number:06d}")
                with registry.staging() as sink:
                    stored.append((b"%d" % number, *sink.put_bytes(b"%d" % number)))
    finally:
        stop.set()
        sweeper.join()
    for data, digest, size in stored:
        assert registry.read_object(Entry("x", size, digest), what="x") == data
    assert not any(registry.is_claimed(f"20261123-101500-{number:06d}") for number in range(200))


def test_uses_and_digests_are_found_by_their_start(registry):
    one = make(registry, {"a": b"1", "b": b"2"})
    two = make(registry, {"c": b"1"}, "c/d")
    digest = one.manifest["a"].digest
    found = [(use.package, use.top_hash, use.logical_key) for use in uses(registry, digest.hex[:8])]
    assert found == [("a/b", one.top_hash, "a"), ("c/d", two.top_hash, "c")]
    assert find_object(registry, digest.hex[:8].upper()) == digest
    with pytest.raises(NotFoundError):
        find_object(registry, "0" * 12)
    with pytest.raises(RefusedError):
        find_object(registry, "")


@pytest.mark.parametrize("secret", [b"4000-1234-5678-9010", b"s" * SMALL])
def test_purged_bytes_are_gone_and_say_why(registry, tmp_path, secret):
    package = make(registry, {"keep": b"kept", "secret": secret, "more": b"more"})
    digest = package.manifest["secret"].digest
    cache = tmp_path / "cache"
    lay_out(package.manifest, registry=registry, cache=cache, what="a/b")
    places = {path.is_relative_to(cache): path for path in holding(secret, registry.root, cache)}
    assert len(places) == 2, "it lies in the registry, and in the cache"
    done = purge(registry, {digest}, cache=cache, reason="GDPR request 17")
    assert [(use.package, use.logical_key) for use in done.affected] == [("a/b", "secret")]
    assert done.left == []
    assert holding(secret, registry.root, cache) == []
    fresh = Package.open("a/b", registry=LocalRegistry(registry.root))
    assert (fresh.entry("keep").read(), fresh.entry("more").read()) == (b"kept", b"more")
    for opened in (package, fresh):
        with pytest.raises(PurgedError) as caught:
            opened.registry.read_object(opened.manifest["secret"], what="secret")
        assert "is gone. It was purged on " in caught.value.message
        assert caught.value.message.endswith(": GDPR request 17.")
    problems = verify_registry(registry)[1]
    assert [(problem.logical_key, problem.purged) for problem in problems] == [("secret", True)]
    with pytest.raises(RefusedError) as refused:
        make(registry, {"again": secret})
    assert refused.value.message.startswith(f"Object {digest.hex[:12]}… is not stored again. It was purged on ")
    make(registry, {"other": b"other"})
    collect_garbage(registry, grace=0, thorough=True)
    assert fresh.entry("keep").read() == b"kept"


def test_nothing_is_purged_while_a_pack_may_hold_it_unseen(registry, tmp_path):
    package = make(registry, {"erased": b"4000-1234-5678-9010"})
    make(registry, {"other": b"other"}, "c/d")
    digest = package.manifest["erased"].digest
    path = registry.objects.pack_path(registry.objects.find([digest])[digest][0])
    whole = path.read_bytes()
    overwrite(path, len(whole) - 22, b"no zip")
    with pytest.raises(DataMismatchError) as caught:
        purge(LocalRegistry(registry.root), {digest}, cache=tmp_path / "cache", reason="asked to")
    assert caught.value.message == (
        "It is not known what all packs hold, so nothing was purged. "
        f"Pack {path.stem[:12]}… is damaged: it is truncated, or not a pack ({path})."
    )
    assert not (registry.root / "tombstones").exists()
    path.write_bytes(whole)
    purge(LocalRegistry(registry.root), {digest}, cache=tmp_path / "cache", reason="asked to")
    assert not path.exists()


def test_gc_and_many_builders_at_once_lose_nothing(registry, tmp_path):
    code = """
import sys
from pathlib import Path
from reprokit.packages.build import build
from reprokit.registry.local import LocalRegistry
from reprokit.registry.marks import Marks
registry = LocalRegistry(Path(sys.argv[1]))
for number in range(12):
    build({"own": f"{sys.argv[2]}-{number}", "shared": "same", "n": str(number % 3)}, "a/b", registry=registry)
"""
    make(registry, {"x": b"x"})
    with registry.staging() as sink:  # garbage, and old; the builders come to use a part of it
        sink.put_bytes(b"same")
    for number in range(3):
        with registry.staging() as sink:
            sink.put_all([b"%d" % number, b"never used %d" % number])
    for path in (registry.root / "packs").iterdir():
        os.utime(path, (1, 1))
    command = [sys.executable, "-c", code, str(registry.root)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    workers = [subprocess.Popen([*command, str(n)], env=environment) for n in range(3)]
    sweeps = 0
    while any(worker.poll() is None for worker in workers):
        collect_garbage(registry, grace=60)
        sweeps += 1
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert sweeps > 3
    versions, problems = verify_registry(registry)
    assert (versions, problems) == (37, [])


def test_a_pack_that_comes_out_the_same_stays(registry):
    package = make(registry, {"a": b"1", "b": b"2"})
    (name,) = registry.objects.pack_names()
    members = set(registry.objects.pack(name).members)
    assert rewrite_packs(registry, {name: members}) == (registry.objects.pack_path(name).stat().st_size, [])
    assert registry.objects.pack_names() == {name}
    assert Package.open("a/b", registry=LocalRegistry(registry.root)).verify() == []
    assert package.entry("a").read() == b"1"


def test_what_a_dead_writer_left_is_counted_by_its_files(registry):
    make(registry, {"a": b"1"})
    dead = registry.root / "tmp" / "dead"
    (dead / "inner").mkdir(parents=True)
    (dead / "owner").touch()
    (dead / "one").write_bytes(b"1" * 100)
    (dead / "inner" / "two").write_bytes(b"2" * 23)
    dry = collect_garbage(registry, grace=0, dry_run=True)
    assert (dry.temporary, dry.bytes, dead.exists()) == (1, 123, True)
    swept = collect_garbage(registry, grace=0)
    assert (swept.temporary, swept.bytes, dead.exists()) == (1, 123, False)


@pytest.mark.parametrize("action", ["publish", "tag", "untag", "rollback", "delete"])
def test_whoever_writes_to_a_log_holds_off_who_takes_away(registry, monkeypatch, action):
    one, two = (make(registry, {"a": data}).manifest for data in (b"1", b"2"))
    registry.tag("a/b", one.top_hash, ("v1",))
    held, seen = [], []
    shared, append = registry.objects.shared, registry.history.append

    @contextlib.contextmanager
    def holding_off():
        with shared():
            held.append(True)
            yield
            held.pop()

    monkeypatch.setattr(registry.objects, "shared", holding_off)

    def appended(*some, **more):
        seen.append(bool(held))
        return append(*some, **more)

    monkeypatch.setattr(registry.history, "append", appended)
    act = {
        "publish": lambda: registry.publish("a/b", one),
        "tag": lambda: registry.tag("a/b", one.top_hash, ("v2",)),
        "untag": lambda: registry.untag("a/b", "v1"),
        "rollback": lambda: registry.rollback("a/b", one.top_hash),
        "delete": lambda: registry.delete("a/b", two.top_hash),
    }[action]
    act()
    assert seen == [True]


def test_a_second_look_reads_no_version_again_and_says_the_same(registry, monkeypatch):
    old = time.time() - 60
    one = make(registry, {"a": b"a" * 5000})
    make(registry, {"b": b"b" * 5000}, "c/d")
    with registry.staging() as sink:
        sink.put_known(io.BytesIO(b"quilt3"), hash_bytes(b"quilt3", PLAIN), 6, what="x")
    registry.publish("e/f", Manifest.make([Entry("used", 6, hash_bytes(b"quilt3", PLAIN))]))
    registry.delete("a/b", one.top_hash)
    for path in registry.root.rglob("*"):
        os.utime(path, (old, old))  # logs that grew a moment ago are looked at again
    first = collect_garbage(registry, grace=0, dry_run=True)
    assert (first.versions, first.objects) == (1, 1)
    read: list[str] = []
    reading = registry.read_manifest
    monkeypatch.setattr(registry, "read_manifest", lambda top: (read.append(top), reading(top))[1])
    assert collect_garbage(registry, grace=0, dry_run=True) == first
    assert read == []
    recalled, whole = Marks(registry), Marks(registry)
    recalled.recall(SILENT)
    whole.update(SILENT)
    assert recalled.uses(hash_bytes(b"quilt3", PLAIN))
    for name in ("versions", "bases", "chunked", "others"):
        assert getattr(recalled, name) == getattr(whole, name)
    read.clear()
    two = make(registry, {"b": b"b" * 5000, "c": b"c"}, "c/d")
    assert collect_garbage(registry, grace=0, dry_run=True).objects == 1
    assert two.top_hash in read
    registry.remember("what versions use", b"anything")
    assert collect_garbage(registry, grace=0, dry_run=True).objects == 1


def test_what_removes_reads_every_version_whatever_was_seen_before(registry):
    one = make(registry, {"a": b"a" * 5000})
    collect_garbage(registry, grace=0, dry_run=True)
    registry.manifest_path(one.top_hash).write_bytes(b"damaged")
    with pytest.raises(DataMismatchError, match="not known, so nothing was removed"):
        collect_garbage(registry, grace=0)


def test_a_dry_run_tells_what_writing_a_pack_anew_would_free(registry):
    one = make(registry, {"a": os.urandom(5000), "b": b"kept" * 100})
    make(registry, {"b": b"kept" * 100})
    registry.delete("a/b", one.top_hash)
    before = files(registry)
    dry = collect_garbage(registry, grace=0, dry_run=True)
    assert files(registry) == before
    swept = collect_garbage(registry, grace=0)
    assert dry.rewritten == swept.rewritten == 1
    assert dry.bytes >= 5000 and abs(dry.bytes - swept.bytes) < 1000
