"""Random histories of packages against a model of plain dictionaries."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reprokit.core.refs import PackageRef
from reprokit.errors import NotFoundError, RefusedError
from reprokit.packages.build import build
from reprokit.packages.package import Package, verify_registry
from reprokit.registry.gc import collect_garbage
from reprokit.registry.local import LocalRegistry

SCALE = int(os.environ.get("REPROKIT_TEST_SCALE", "1"))
KEYS = st.sampled_from(["a", "b.txt", "d/a", "d/e/b", "d-e", "é/猫", "big"])
BYTES = st.binary(max_size=30) | st.sampled_from([b"", b"x" * (1 << 20), b"y" * ((1 << 20) - 1), os.urandom(1 << 20)])


class Packages(RuleBasedStateMachine):
    """The folder, the versions in their order and the tags are what the model says, whatever was done."""

    @initialize()
    def start(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="reprokit-model-"))
        self.folder = self.base / "data"
        self.folder.mkdir()
        self.files: dict[str, bytes] = {}
        self.versions: dict[str, dict[str, bytes]] = {}
        self.tags: dict[str, str] = {}
        self.permanent: set[str] = set()

    def teardown(self) -> None:
        if hasattr(self, "base"):
            shutil.rmtree(self.base)

    @property
    def registry(self) -> LocalRegistry:
        """A new one each time, as each command has."""
        return LocalRegistry(self.base / "registry", cache=self.base / "cache")

    @rule(key=KEYS, data=BYTES)
    def write(self, key: str, data: bytes) -> None:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.files[key] = data

    @rule(key=KEYS)
    def remove(self, key: str) -> None:
        if self.files.pop(key, None) is not None:
            (self.folder / key).unlink()

    @rule(message=st.none() | st.sampled_from(["", "é"]))
    def build(self, message: str | None) -> None:
        self._made(build(self.folder, "a/b", registry=self.registry, message=message).top_hash, dict(self.files))

    @rule(values=st.dictionaries(KEYS, st.binary(max_size=5), max_size=3))
    def build_from_memory(self, values: dict[str, bytes]) -> None:
        self._made(build(values, "a/b", registry=self.registry).top_hash, values)

    @precondition(lambda self: self.versions)
    @rule(data=st.data(), values=st.dictionaries(KEYS, st.binary(max_size=5), max_size=2))
    def edit(self, data: st.DataObject, values: dict[str, bytes]) -> None:
        top_hash = data.draw(st.sampled_from(sorted(self.versions)))
        base = Package.open(PackageRef("a/b", hash=top_hash), registry=self.registry)
        gone = data.draw(st.lists(st.sampled_from(sorted(base)), max_size=2, unique=True)) if len(base) else []
        made = build(values, "a/b", registry=self.registry, base=base, remove=gone)
        kept = {key: content for key, content in self.versions[top_hash].items() if key not in gone}
        self._made(made.top_hash, {**kept, **values})

    def _made(self, top_hash: str, files: dict[str, bytes]) -> None:
        self.versions.setdefault(top_hash, files)
        self.tags["latest"] = top_hash

    @precondition(lambda self: self.versions)
    @rule(data=st.data())
    def rollback(self, data: st.DataObject) -> None:
        top_hash = data.draw(st.sampled_from(sorted(self.versions)))
        self.registry.rollback("a/b", top_hash)
        self.tags["latest"] = top_hash

    @precondition(lambda self: self.versions)
    @rule(data=st.data(), tag=st.sampled_from(["x", "y"]), permanent=st.booleans())
    def tag(self, data: st.DataObject, tag: str, permanent: bool) -> None:
        top_hash = data.draw(st.sampled_from(sorted(self.versions)))
        if tag in self.permanent and self.tags[tag] != top_hash:
            with pytest.raises(RefusedError):
                self.registry.tag("a/b", top_hash, (tag,), permanent=permanent)
            return
        self.registry.tag("a/b", top_hash, (tag,), permanent=permanent)
        self.tags[tag] = top_hash
        if permanent:
            self.permanent.add(tag)

    @precondition(lambda self: self.versions)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        top_hash = data.draw(st.sampled_from(sorted(self.versions)))
        if any(self.tags[tag] == top_hash for tag in self.permanent):
            with pytest.raises(RefusedError):
                self.registry.delete("a/b", top_hash)
            return
        left = [hash_ for hash_ in self.registry.top_hashes("a/b") if hash_ != top_hash]
        self.registry.delete("a/b", top_hash)
        del self.versions[top_hash]
        self.tags = {tag: hash_ for tag, hash_ in self.tags.items() if hash_ != top_hash}
        if left:
            self.tags.setdefault("latest", left[-1])

    @rule(thorough=st.booleans())
    def gc(self, thorough: bool) -> None:
        foreseen = collect_garbage(self.registry, grace=0, thorough=thorough, dry_run=True)
        swept = collect_garbage(self.registry, grace=0, thorough=thorough)
        assert (swept.versions, swept.objects, swept.packs) == (foreseen.versions, foreseen.objects, foreseen.packs)
        again = collect_garbage(self.registry, grace=0, thorough=thorough, dry_run=True)
        assert (again.versions, again.objects, again.packs, again.rewritten, again.temporary) == (0, 0, 0, 0, 0)

    @rule()
    def lose_the_cache(self) -> None:
        shutil.rmtree(self.base / "cache", ignore_errors=True)

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        if not hasattr(self, "base"):
            return
        registry = self.registry
        assert set(registry.top_hashes("a/b")) == set(self.versions)
        head = registry.head("a/b")
        assert (dict(head.tags) if head else {}) == self.tags
        for top_hash, files in self.versions.items():
            package = Package.open(PackageRef("a/b", hash=top_hash), registry=registry)
            assert {key: package.entry(key).read() for key in package} == files
        assert verify_registry(registry) == (len(self.versions), [])
        with pytest.raises(NotFoundError):
            registry.resolve(PackageRef("a/b", hash="0" * 16))
        if len(self.versions) > 1:
            first, second = list(self.versions)[:2]
            old, new = self.versions[first], self.versions[second]
            diff = registry.read_manifest(first).diff(registry.read_manifest(second))
            assert set(diff.added) == new.keys() - old.keys()
            assert set(diff.removed) == old.keys() - new.keys()
            assert set(diff.changed) == {key for key in old.keys() & new.keys() if old[key] != new[key]}


Packages.TestCase.settings = settings(
    max_examples=12 * SCALE,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
TestPackages = Packages.TestCase
