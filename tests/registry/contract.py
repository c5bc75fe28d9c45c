"""What every registry promises. A test class inherits this and gives a fixture `registry`."""

import io
import random

import pytest

from reprokit.core.digest import hash_bytes
from reprokit.core.refs import PackageRef
from reprokit.errors import DataMismatchError, NotFoundError, RefusedError, UsageError
from reprokit.registry import Registry
from reprokit.schema.manifest import Entry, Manifest


def store(registry: Registry, files: dict[str, bytes], message: str | None = None) -> Manifest:
    with registry.staging() as sink:
        entries = []
        for key, data in files.items():
            digest, size = sink.put_bytes(data)
            entries.append(Entry(key, size, digest))
    return Manifest.make(entries, message=message)


class RegistryContract:
    def test_an_unknown_registry_reads_as_empty(self, registry):
        assert list(registry.packages()) == []
        assert registry.head("a/b") is None
        assert registry.log("a/b") == []
        assert registry.top_hashes("a/b") == []

    def test_a_published_version_reads_back(self, registry):
        manifest = store(registry, {"x": b"one", "d/y": b""}, "first")
        entry = registry.publish("a/b", manifest, tags=("v1",))
        assert (entry.seq, entry.prev, entry.top_hash) == (1, None, manifest.top_hash)
        assert entry.tags == {"latest": manifest.top_hash, "v1": manifest.top_hash}
        found = registry.read_manifest(manifest.top_hash)
        assert (found.top_hash, found.header) == (manifest.top_hash, manifest.header)
        assert [entry[:4] for entry in found.entries] == [entry[:4] for entry in manifest.entries]
        assert registry.holds(found)
        assert registry.read_header(manifest.top_hash) == manifest.header
        assert registry.head("a/b") == entry
        assert registry.log("a/b") == [entry]
        assert list(registry.packages()) == ["a/b"]

    def test_objects_read_whole_in_part_and_copied(self, registry):
        with registry.staging() as sink:
            digest, size = sink.put_stream(io.BytesIO(b"hello"), 5)
            assert sink.new_bytes == 5
        copy = io.BytesIO()
        entry = Entry("x", size, digest)
        registry.copy_object(entry, copy, what="x")
        assert copy.getvalue() == registry.read_object(entry, what="x") == b"hello"
        assert registry.read_range(entry, 1, 2, what="x") == b"el"
        assert registry.has_object(digest, 5)
        assert not registry.has_object(digest, 6)

    def test_history_grows_and_tags_move(self, registry):
        one, two = (store(registry, {"x": data}) for data in (b"1", b"2"))
        registry.publish("a/b", one, tags=("best",))
        registry.publish("a/b", two)
        registry.tag("a/b", two.top_hash, ("best",))
        log = registry.log("a/b")
        assert [entry.seq for entry in log] == [1, 2, 3]
        assert [entry.tags["best"] for entry in log] == [one.top_hash, one.top_hash, two.top_hash]
        assert registry.top_hashes("a/b") == [one.top_hash, two.top_hash]
        assert registry.resolve(PackageRef("a/b")) == two.top_hash
        assert registry.resolve(PackageRef("a/b", hash=one.top_hash)) == one.top_hash

    def test_a_version_can_be_published_without_becoming_the_latest(self, registry):
        one, two = (store(registry, {"x": data}) for data in (b"1", b"2"))
        registry.publish("a/b", one)
        registry.publish("a/b", two, tags=("side",), latest=False)
        assert registry.resolve(PackageRef("a/b")) == one.top_hash
        assert registry.resolve(PackageRef("a/b", tag="side")) == two.top_hash

    def test_a_version_without_its_objects_is_not_published(self, registry):
        digest = hash_bytes(b"nowhere")
        with pytest.raises(NotFoundError) as caught:
            registry.publish("a/b", Manifest.make([Entry("x", 7, digest, {}, ("file:///x",))]))
        assert caught.value.message == (
            f"a/b cannot be published. The object of 'x' ({digest.hex[:12]}…, 7 bytes) is not in {registry.url}."
        )
        assert registry.head("a/b") is None

    def test_an_illegal_tag_publishes_nothing(self, registry):
        manifest = store(registry, {"x": b"1"})
        with pytest.raises(UsageError):
            registry.publish("a/b", manifest, tags=("no/tag",))
        assert registry.log("a/b") == []

    def test_an_illegal_tag_is_put_on_nothing(self, registry):
        top_hash = registry.publish("a/b", store(registry, {"x": b"1"})).top_hash
        for tags in (("no/tag",), ("fine", "no/tag")):
            with pytest.raises(UsageError):
                registry.tag("a/b", top_hash, tags)
        assert registry.head("a/b").tags == {"latest": top_hash}

    def test_an_ambiguous_prefix_is_refused_and_a_longer_one_resolves(self, registry):
        seen: dict[str, Manifest] = {}
        for number in range(100_000):  # a birthday among 65,536: some 300 are enough
            new = Manifest.make([], message=str(number))
            old = seen.setdefault(new.top_hash[:4], new)
            if old is not new:
                break
        for manifest in (old, new):
            registry.publish("a/b", manifest)
        prefix = new.top_hash[:4]
        first, second = sorted((old.top_hash, new.top_hash))
        with pytest.raises(UsageError) as caught:
            registry.resolve(PackageRef("a/b", hash=prefix))
        assert caught.value.message == (
            f"a/b@{prefix} is ambiguous: 2 versions start with it ({first[:16]}, {second[:16]}…)."
        )
        assert caught.value.hint == "Give more digits of the hash."
        assert registry.resolve(PackageRef("a/b", hash=new.top_hash[:20])) == new.top_hash

    def test_the_same_version_twice_is_not_ambiguous(self, registry):
        manifest = store(registry, {"x": b"1"})
        registry.publish("a/b", manifest)
        registry.publish("a/b", manifest)
        assert registry.resolve(PackageRef("a/b", hash=manifest.top_hash[:4])) == manifest.top_hash

    def test_a_missing_package_is_named_with_what_was_meant(self, registry):
        registry.publish("vision/cifar10", store(registry, {"x": b"1"}))
        with pytest.raises(NotFoundError) as caught:
            registry.resolve(PackageRef("vision/cifar"))
        assert caught.value.message == f"No package vision/cifar in {registry.url}."
        assert caught.value.hint == "Did you mean vision/cifar10? `reprokit ls` lists all."

    def test_missing_tags_and_versions_are_named(self, registry):
        top_hash = registry.publish("a/b", store(registry, {"x": b"1"}), tags=("v1",)).top_hash
        with pytest.raises(NotFoundError) as caught:
            registry.resolve(PackageRef("a/b", tag="v2"))
        assert caught.value.message == f"No tag 'v2' on a/b in {registry.url}."
        assert caught.value.hint == "Its tags are: latest, v1."
        other = "0" * 8 if not top_hash.startswith("0" * 8) else "1" * 8
        with pytest.raises(NotFoundError) as caught:
            registry.resolve(PackageRef("a/b", hash=other))
        assert caught.value.message == f"No version of a/b starts with {other} in {registry.url}."
        with pytest.raises(NotFoundError):
            registry.tag("a/b", "0" * 64, ("v2",))
        with pytest.raises(NotFoundError):
            registry.read_manifest("0" * 64)

    def test_packages_are_listed_sorted_and_by_namespace(self, registry):
        manifest = store(registry, {"x": b"1"})
        for name in ("b/x", "a/z", "a/y"):
            registry.publish(name, manifest)
        assert list(registry.packages()) == ["a/y", "a/z", "b/x"]
        assert list(registry.packages("a")) == ["a/y", "a/z"]

    def test_an_object_from_elsewhere_must_be_what_it_is_called(self, registry):
        with pytest.raises(DataMismatchError), registry.staging() as sink:
            sink.put_known(io.BytesIO(b"false"), hash_bytes(b"true"), 4, what="x")
        assert not registry.has_object(hash_bytes(b"false"), 5)

    @pytest.mark.parametrize("size", [0, 1, 1024 * 1024 - 1, 1024 * 1024, 9 * 1024 * 1024])
    def test_objects_of_every_size_read_back(self, registry, size):
        data = random.Random(size).randbytes(size)
        manifest = store(registry, {"x": data, "other": b"other"})
        registry.publish("a/b", manifest)
        found = registry.read_manifest(manifest.top_hash)
        entry = found["x"]
        assert registry.read_object(entry, what="x") == data
        assert registry.read_range(entry, size // 2, 5, what="x") == data[size // 2 : size // 2 + 5]
        copy = io.BytesIO()
        registry.copy_object(entry, copy, what="x")
        assert copy.getvalue() == data
        reader = registry.reader(found, what="v")
        for _ in range(2):  # the second time from what was verified the first
            assert reader.read(found.position("x")) == data
            assert reader.read(found.position("other")) == b"other"

    def test_many_objects_at_once_and_twice(self, registry):
        pieces = [b"%d" % (number % 7) for number in range(20)]
        with registry.staging() as sink:
            digests = sink.put_all(pieces)
            assert sink.new_bytes == 7
        assert digests == [hash_bytes(piece) for piece in pieces]
        assert all(registry.has_object(digest, 1) for digest in digests)
        with registry.staging() as sink:
            assert sink.put_all(pieces) == digests
            assert sink.new_bytes == 0

    def test_rollback_makes_an_older_version_the_latest_and_forgets_nothing(self, registry):
        one, two = (store(registry, {"x": data}) for data in (b"1", b"2"))
        registry.publish("a/b", one)
        registry.publish("a/b", two)
        entry = registry.rollback("a/b", one.top_hash, note="two is wrong")
        assert (entry.action, entry.tags["latest"], entry.note) == ("rollback", one.top_hash, "two is wrong")
        assert registry.resolve(PackageRef("a/b")) == one.top_hash
        assert registry.top_hashes("a/b") == [one.top_hash, two.top_hash]
        with pytest.raises(NotFoundError):
            registry.rollback("a/b", "0" * 64)

    def test_a_deleted_version_is_gone_and_its_tags_with_it(self, registry):
        one, two = (store(registry, {"x": data}) for data in (b"1", b"2"))
        registry.publish("a/b", one)
        registry.publish("a/b", two, tags=("v2",))
        entry = registry.delete("a/b", two.top_hash, note="licence")
        assert (entry.action, entry.tags, entry.note) == ("delete", {"latest": one.top_hash}, "licence")
        assert registry.top_hashes("a/b") == [one.top_hash]
        for ref in (PackageRef("a/b", hash=two.top_hash), PackageRef("a/b", tag="v2")):
            with pytest.raises(NotFoundError):
                registry.resolve(ref)
        assert [entry.action for entry in registry.log("a/b")] == ["publish", "publish", "delete"]
        registry.delete("a/b", one.top_hash)
        assert registry.top_hashes("a/b") == []
        with pytest.raises(NotFoundError):
            registry.resolve(PackageRef("a/b"))
        registry.publish("a/b", two)  # and comes again if it is published again
        assert registry.top_hashes("a/b") == [two.top_hash]

    def test_a_permanent_tag_stays_and_keeps_its_version(self, registry):
        one, two = (store(registry, {"x": data}) for data in (b"1", b"2"))
        registry.publish("a/b", one)
        registry.tag("a/b", one.top_hash, ("v1",), permanent=True)
        refusal = f"The tag 'v1' of a/b is permanent: it stays at {one.top_hash[:12]}, and that version stays."
        moves = [
            lambda: registry.publish("a/b", two, tags=("v1",)),
            lambda: registry.tag("a/b", two.top_hash, ("v1",)),
            lambda: registry.delete("a/b", one.top_hash),
            lambda: registry.untag("a/b", "v1"),
        ]
        registry.publish("a/b", two)
        for move in moves:
            with pytest.raises(RefusedError) as caught:
                move()
            assert caught.value.message == refusal
        registry.publish("a/b", one, tags=("v1",))  # where it is already
        assert registry.head("a/b").permanent == ("v1",)

    def test_what_a_permanent_tag_refuses_is_not_stored(self, registry):
        one, two = (store(registry, {"x": data}) for data in (b"1", b"2"))
        registry.publish("a/b", one)
        registry.tag("a/b", one.top_hash, ("v1",), permanent=True)
        with pytest.raises(RefusedError):
            registry.publish("a/b", two, tags=("v1",))
        with pytest.raises(NotFoundError):
            registry.read_manifest(two.top_hash)

    def test_latest_can_be_put_on_an_older_version(self, registry):
        one, two = (store(registry, {"x": data}) for data in (b"1", b"2"))
        registry.publish("a/b", one)
        registry.publish("a/b", two)
        entry = registry.tag("a/b", one.top_hash, ("latest", "v1"))
        assert (entry.action, entry.permanent) == ("tag", ())
        assert entry.tags == {"latest": one.top_hash, "v1": one.top_hash}
        assert registry.resolve(PackageRef("a/b")) == one.top_hash

    def test_latest_is_never_permanent(self, registry):
        one, two = (store(registry, {"x": data}) for data in (b"1", b"2"))
        registry.publish("a/b", one)
        with pytest.raises(RefusedError) as caught:
            registry.tag("a/b", one.top_hash, ("v1", "latest"), permanent=True)
        assert (caught.value.message, caught.value.hint) == (
            "'latest' of a/b cannot be permanent: every build and every run into a/b moves it.",
            f"Give the version a name of its own: `reprokit tag a/b@{one.top_hash[:12]} NAME --permanent`.",
        )
        registry.publish("a/b", two)
        assert registry.head("a/b").tags == {"latest": two.top_hash}

    def test_a_tag_is_taken_away_but_not_latest(self, registry):
        one = store(registry, {"x": b"1"})
        registry.publish("a/b", one, tags=("old",))
        assert registry.untag("a/b", "old").tags == {"latest": one.top_hash}
        with pytest.raises(RefusedError) as caught:
            registry.untag("a/b", "latest")
        assert caught.value.message == "'latest' cannot be taken from a/b."
        with pytest.raises(NotFoundError):
            registry.untag("a/b", "old")

    def test_a_version_much_like_another_reads_back(self, registry):
        files = {f"{number:03d}": b"%d" % number for number in range(200)}
        versions = [store(registry, files), store(registry, {**files, "050": b"new", "x/y": b"more"})]
        versions.append(store(registry, {key: data for key, data in files.items() if key != "007"}, "less"))
        for manifest in versions:
            registry.publish("a/b", manifest)
        for manifest in versions:
            found = registry.read_manifest(manifest.top_hash)
            assert [entry[:4] for entry in found.entries] == [entry[:4] for entry in manifest.entries]
            assert found.header == manifest.header == registry.read_header(manifest.top_hash)

    def test_a_claim_lasts_as_long_as_its_context(self, registry):
        assert not registry.is_claimed("20261123-101500-7c1e9f")
        with registry.claim("20261123-101500-7c1e9f"):
            assert registry.is_claimed("20261123-101500-7c1e9f")
        assert not registry.is_claimed("20261123-101500-7c1e9f")
