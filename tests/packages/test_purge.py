"""What is purged is gone from the registry and from this machine, however it came to lie there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reprokit.core.digest import PLAIN, Digest, hash_bytes
from reprokit.core.scratch import scratch
from reprokit.errors import DataMismatchError, PurgedError, RefusedError, RegistryError
from reprokit.packages.build import build
from reprokit.packages.package import Package
from reprokit.packages.purge import purge
from reprokit.packages.tree_cache import erase, forget, lay_out
from reprokit.registry.local import LocalRegistry
from reprokit.registry.package_log import writer
from reprokit.registry.repair import DAMAGED
from reprokit.registry.uses import Use
from reprokit.schema.manifest import Manifest
from tests.conftest import RECIPE, Project, overwrite

ERASED = b"31415926535897932384626.43383279\n"
_KEEPS = (
    "import os, shutil; os.makedirs('features', exist_ok=True); open('features/more', 'w').close(); "
    "[shutil.copyfile('data/in/2.txt', name) for name in ('features/2.txt', 'undeclared.txt')]"
)
_USER = """\
name: user
code: {entrypoint: user.py}
data: {features: {run: latest, output: features, path: in}, one: {run: latest, output: features/2.txt, path: one.txt}}
execution: {layout: symlink}
"""
_OTHERWISE = """\
import sys
import reprokit
from reprokit.packages.package import Package
reprokit.vfs.setup("t/in", {sys.argv[1]: ""}, mode="tree")
print(Package.open("t/in")["2.txt"].path())
"""


def holding(data: bytes, *places: Path) -> list[Path]:
    found = [path for place in places for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
    return sorted(path for path in found if data in path.read_bytes())


@pytest.fixture
def laid_out(project: Project) -> Iterator[Project]:
    """A project whose package was given to runs, to a run as another one's output, to the vfs and by path."""
    (project.base / "inputs" / "2.txt").write_bytes(ERASED)
    project.build()
    project.write("recipe.yaml", RECIPE.replace("[metrics.json]", "[metrics.json, features/]"))
    project.hook(_KEEPS)
    project.reprokit("run", "recipe.yaml")
    project.write(
        "user.py", "import pathlib; pathlib.Path('in/2.txt').read_text(); pathlib.Path('one.txt').read_text()"
    )
    project.write("user.yaml", _USER)
    project.commit()
    project.reprokit("run", "user.yaml")
    subprocess.run(
        [sys.executable, "-c", _OTHERWISE, project.base / "there"], env=project.environment(), check=True, timeout=60
    )
    yield project


def test_every_copy_on_this_machine_is_gone(laid_out: Project) -> None:
    project, cache = laid_out, laid_out.base / "home-cache"
    unfinished = cache / "trees" / "tmp-killed"
    unfinished.mkdir()
    (unfinished / "2.txt").write_bytes(ERASED)
    archives = cache / "wheels" / "0"
    archives.mkdir(parents=True)
    (archives / "a.whl").write_bytes(ERASED)
    places = (project.registry, cache, project.base / "home")
    before = [str(path.relative_to(project.base)) for path in holding(ERASED, *places)]
    trees = [path for path in before if path.startswith("home-cache/trees/") and "tmp-" not in path]
    assert len(trees) == 3, "the input's, and two of another run's output"
    assert len([path for path in before if path.startswith("home/runs/")]) == 2, "what the script left behind"
    for start in ("registry/packs/", "home-cache/files/", "home-cache/trees/tmp-killed/", "home-cache/wheels/"):
        assert any(path.startswith(start) for path in before), start
    done = project.json("purge", "--entry", "t/in:2.txt", "--reason", "asked to", "-y")
    assert holding(ERASED, *places) == []
    assert (done["left"], done["running"]) == ([], [])
    assert done["copies"]
    digest = hash_bytes(ERASED).hex
    left = [path for path in cache.rglob("*") if path.is_file() and digest in path.read_bytes().decode("latin-1")]
    assert left == [], "nor does a list tell what lay there"
    assert not any("2.txt" in path.read_text("latin-1") for path in (cache / "trees").glob("*.json"))
    failed = project.reprokit("run", "recipe.yaml", expect=10).stderr
    assert "It was purged on" in failed
    assert project.json("purge", "--entry", "t/in:2.txt", "--reason", "asked again", "-y")["copies"] == []


def test_trees_and_files_without_the_bytes_stay(tmp_path: Path) -> None:
    registry, cache = LocalRegistry(tmp_path / "registry"), tmp_path / "cache"
    build({"a": b"secret", "b": b"kept"}, "t/one", registry=registry)
    build({"b": b"kept"}, "t/two", registry=registry)
    one, two = (Package.open(f"t/{name}", registry=registry) for name in ("one", "two"))
    trees = [lay_out(p.manifest, registry=registry, cache=cache, what=str(p)) for p in (one, two)]
    done = purge(registry, {one.manifest["a"].digest}, cache=cache, reason="asked to")
    assert [tree.exists() for tree in trees] == [False, True]
    assert {path.name.partition(".")[0] for path in (cache / "trees").iterdir()} == {two.top_hash}
    assert done.copies == [trees[0]]
    assert (trees[1] / "b").read_bytes() == b"kept"


@pytest.mark.parametrize("then", ["appended", "forgotten", "unknown"])
def test_a_tree_that_was_changed_since_is_erased_too(tmp_path: Path, then: str) -> None:
    registry, cache = LocalRegistry(tmp_path / "registry"), tmp_path / "cache"
    build({"a": ERASED, "b": b"kept"}, "t/x", registry=registry)
    whole = Package.open("t/x", registry=registry).manifest
    part = Manifest.make([whole["a"]._replace(logical_key="other/name")])  # in no registry
    tree = lay_out(part, registry=registry, cache=cache, what="a part")
    (tree / "other" / "name").chmod(0o644)
    (tree / "other" / "name").write_bytes(b"before " + ERASED)
    if then != "appended":
        forget(tree)
    if then == "unknown":
        tree.with_name(f"{tree.name}.objects").unlink()
    assert len(holding(ERASED, cache)) == 1
    purge(registry, {whole["a"].digest}, cache=cache, reason="asked to")
    assert os.listdir(cache / "trees") == []


def test_a_tombstone_says_what_it_was_where_it_was_and_who_erased_it_when_and_why(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    one = build({"a": ERASED, "d/b": ERASED, "c": b"kept"}, "t/one", registry=registry).top_hash
    two = build({"a": b"also erased", "b": ERASED}, "t/two", registry=registry).top_hash
    digests = [hash_bytes(data) for data in (ERASED, b"also erased")]
    before = datetime.now(UTC).replace(microsecond=0)
    purge(registry, set(digests), cache=tmp_path / "cache", reason="asked to ✓")
    folder = registry.root / "tombstones"
    assert sorted(os.listdir(folder)) == sorted(f"sha2-256-chunked-{digest.hex}.json" for digest in digests)
    for digest, entries in zip(
        digests, ([f"t/one@{one} a", f"t/one@{one} d/b", f"t/two@{two} b"], [f"t/two@{two} a"]), strict=True
    ):
        stone = json.loads((folder / f"sha2-256-chunked-{digest.hex}.json").read_bytes())
        when = stone.pop("time")
        assert when.endswith("Z") and before <= datetime.fromisoformat(when) <= datetime.now(UTC)
        assert stone.pop("writer") == writer()
        assert stone == {
            "type": "sha2-256-chunked", "digest": digest.hex, "reason": "asked to ✓", "entries": entries,
        }  # fmt: skip


def test_the_entries_that_held_it_are_told_and_no_others(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    one = build({"a": ERASED, "c": b"kept"}, "t/one", registry=registry).top_hash
    build({"c": b"kept"}, "t/two", registry=registry)
    done = purge(registry, {hash_bytes(ERASED)}, cache=tmp_path / "cache", reason="asked to")
    assert done.affected == [Use(package="t/one", top_hash=one, logical_key="a")]
    assert Package.open("t/one", registry=registry)["c"].read() == b"kept"


def test_what_is_large_was_set_aside_or_lies_in_a_damaged_pack_is_erased_too(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    large, small = ERASED * 32_000, b"damaged soon"
    build({"a": ERASED, "large": large, "s": small, "c": b"kept"}, "t/x", registry=registry)
    aside = registry.root / DAMAGED
    aside.mkdir()
    (aside / "pack").write_bytes(ERASED)
    (name,) = registry.objects.pack_names()
    path = registry.objects.pack_path(name)
    overwrite(path, path.read_bytes().index(small), b"D")
    other = LocalRegistry(registry.root)
    purge(other, {hash_bytes(ERASED), hash_bytes(large)}, cache=tmp_path / "cache", reason="asked to")
    assert holding(ERASED, registry.root) == []
    assert Package.open("t/x", registry=LocalRegistry(registry.root))["c"].read() == b"kept"


def test_while_it_is_not_known_what_a_pack_holds_nothing_is_purged(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    build({"a": ERASED}, "t/x", registry=registry)
    registry.objects.pack_path("0" * 64).write_bytes(b"PK" * 50)
    with pytest.raises(DataMismatchError, match=r"^It is not known what all packs hold, so nothing was purged\. "):
        purge(registry, {hash_bytes(ERASED)}, cache=tmp_path / "cache", reason="asked to")
    assert not (registry.root / "tombstones").exists()
    assert Package.open("t/x", registry=registry)["a"].read() == ERASED


def test_an_imported_digest_erases_nothing_of_a_pack(tmp_path: Path) -> None:
    """SHA-256 of the content, and of its chunks' hashes: one hex number may stand for either."""
    registry = LocalRegistry(tmp_path / "registry")
    build({"a": b"kept"}, "t/x", registry=registry)
    alias = Digest(PLAIN, hash_bytes(b"kept").hex)
    assert purge(registry, {alias}, cache=tmp_path / "cache", reason="asked to").affected == []
    assert Package.open("t/x", registry=LocalRegistry(registry.root))["a"].read() == b"kept"


def test_what_a_writer_on_another_machine_left_is_erased_however_lately(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    build({"a": ERASED}, "t/x", registry=registry)
    left = registry.root / "tmp" / "left"
    left.mkdir()
    (left / "owner").write_text(json.dumps({"host": "elsewhere", "machine": "other", "boot": "another"}))
    (left / "half").write_bytes(ERASED)
    purge(registry, {hash_bytes(ERASED)}, cache=tmp_path / "cache", reason="asked to")
    assert holding(ERASED, registry.root) == []


def test_what_a_killed_writer_left_in_the_registry_is_erased(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    build({"a": ERASED}, "t/x", registry=registry)
    dead = registry.root / "tmp" / "dead"
    dead.mkdir()
    (dead / "half").write_bytes(ERASED)
    digest = Package.open("t/x", registry=registry).manifest["a"].digest
    purge(registry, {digest}, cache=tmp_path / "cache", reason="asked to")
    assert holding(ERASED, registry.root) == []


@pytest.mark.parametrize("data", [ERASED, ERASED * 32_000], ids=["small", "large"])
def test_a_writer_that_staged_before_a_purge_does_not_store_it_again(tmp_path: Path, data: bytes) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    build({"a": data}, "t/x", registry=registry)
    digest = Package.open("t/x", registry=registry).manifest["a"].digest
    other = LocalRegistry(registry.root)
    staging = other.staging()
    with pytest.raises(RefusedError, match=r"is not stored again\. It was purged on .*: asked to\."), staging as sink:
        registry.objects.loose_path(digest).unlink(missing_ok=True)
        for name in registry.objects.pack_names():
            registry.objects.pack_path(name).unlink()
        sink.put_bytes(data)
        sink.put_bytes(b"beside it")
        purge(registry, {digest}, cache=tmp_path / "cache", reason="asked to")
    assert holding(data, registry.root) == []
    with other.staging() as sink:
        sink.put_bytes(b"another")


def test_what_a_killed_doctor_left_is_erased_and_a_living_one_is_named(tmp_path: Path) -> None:
    registry, cache = LocalRegistry(tmp_path / "registry"), tmp_path / "cache"
    build({"a": ERASED}, "t/x", registry=registry)
    build({"b": ERASED}, "t/x", registry=LocalRegistry(cache / "doctor-dead" / "registry"))  # in a pack
    digest = Package.open("t/x", registry=registry).manifest["a"].digest
    with scratch(cache, prefix="doctor-") as living:
        purged = purge(registry, {digest}, cache=cache, reason="asked to")
        assert purged.copies == [cache / "doctor-dead"] and purged.left == [(living, "a doctor is at work there")]
    assert holding(ERASED, cache) == [] and not living.exists()


def test_nothing_is_purged_while_somebody_publishes(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    build({"a": ERASED}, "t/x", registry=registry)
    digest = Package.open("t/x", registry=registry).manifest["a"].digest
    own = LocalRegistry(registry.root)
    purging = threading.Thread(target=lambda: purge(own, {digest}, cache=tmp_path / "cache", reason="asked to"))
    with registry.objects.shared():
        purging.start()
        purging.join(0.5)
        assert purging.is_alive()
        assert holding(ERASED, registry.root)
        assert not (registry.root / "tombstones").exists()
    purging.join(30)
    assert not purging.is_alive()
    assert holding(ERASED, registry.root) == []


def test_a_tree_that_is_being_laid_out_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry, cache = LocalRegistry(tmp_path / "registry"), tmp_path / "cache"
    build({"a": ERASED}, "t/x", registry=registry)
    package = Package.open("t/x", registry=registry)
    digest = package.manifest["a"].digest
    own, reader, purging = LocalRegistry(registry.root), registry.reader, []

    def read_then_purge(*arguments, **options):  # type: ignore[no-untyped-def]
        made = reader(*arguments, **options)
        made.read(0)  # what was read before it was purged is written after
        purging.append(threading.Thread(target=lambda: purge(own, {digest}, cache=cache, reason="asked to")))
        purging[0].start()
        while not (registry.root / "tombstones").exists():
            time.sleep(0.01)
        time.sleep(0.3)
        return made

    monkeypatch.setattr(registry, "reader", read_then_purge)
    try:
        lay_out(package.manifest, registry=registry, cache=cache, what="x")
    except PurgedError:
        pass
    purging[0].join(30)
    assert not purging[0].is_alive()
    assert holding(ERASED, cache) == []


def test_what_cannot_be_erased_is_said_and_the_rest_is_erased() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's folders are closed to others
        base = Path(name)
        base.chmod(0o755)
        registry, cache = LocalRegistry(base / "registry"), base / "cache"
        build({"a": b"one", "d/b": ERASED}, "t/x", registry=registry)
        entries = Package.open("t/x", registry=registry).manifest.entries
        whole, part = Manifest.make(entries), Manifest.make(entries[1:])
        trees = [lay_out(manifest, registry=registry, cache=cache, what="x") for manifest in (whole, part)]
        for path in (cache, *cache.rglob("*")):
            if os.geteuid() == 0:
                os.chown(path, 65534, 65534)
        closed = trees[0] / "d"
        if os.geteuid() == 0:
            os.chown(closed, 0, 0)
        closed.chmod(0o555)
        said, saying = os.pipe()
        child = os.fork()
        if not child:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            done = erase({entries[1].digest}, cache=cache, sizes=[len(ERASED)])
            os.write(saying, repr([sorted(map(str, done.gone)), [str(path) for path, _ in done.left]]).encode())
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        gone, left = eval(os.read(said, 65536))  # noqa: S307 - what was written above
        closed.chmod(0o755)
        assert gone == [str(trees[1])]
        assert str(closed / "b") in left
        assert holding(ERASED, cache) == [closed / "b"]
        again = erase({entries[1].digest}, cache=cache, sizes=[len(ERASED)])  # it stays known what is left
        assert (again.left, holding(ERASED, cache)) == ([], [])


def test_a_run_that_goes_on_with_it_is_named_and_marked(project: Project) -> None:
    (project.base / "inputs" / "2.txt").write_bytes(ERASED)
    project.build()
    go = project.base / "go"
    project.hook(f"while not os.path.exists({str(go)!r}): time.sleep(0.05)")
    running = subprocess.Popen(
        project.command("run", "recipe.yaml"),
        cwd=project.root, env=project.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        for _ in range(1200):
            if running.poll() is not None or list((project.base / "home" / "runs").glob("*/workspace/data/in")):
                break
            time.sleep(0.05)
        time.sleep(0.5)
        run = project.json("show", "latest")["run_id"]
        said = project.reprokit("purge", "--entry", "t/in:2.txt", "--reason", "asked to", "-y").stdout
        assert f"Run {run} goes on, and an input of it held what was erased: it is likely to fail." in said
        assert holding(ERASED, project.base / "home-cache", project.registry) == []
    finally:
        go.touch()
        running.communicate(timeout=120)
    assert running.returncode == 0  # it had read what it needed
    assert list(project.json("show", run)["changed_inputs"]) == ["in"]


def test_what_cannot_be_erased_is_an_error_and_not_called_purged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    build({"a": b"secret" * 100}, "a/b", registry=registry)
    aside = registry.root / DAMAGED
    aside.mkdir()
    (aside / "held").write_bytes(b"secret" * 100)
    removing = shutil.rmtree

    def stubborn(folder: Path, **how: object) -> None:
        if folder == aside:
            raise PermissionError(13, "not yours", str(folder))
        removing(folder, **how)

    monkeypatch.setattr(shutil, "rmtree", stubborn)
    digest = hash_bytes(b"secret" * 100)
    with pytest.raises(RegistryError, match="not yours"):
        purge(registry, {digest}, cache=tmp_path / "cache", reason="asked for")
    monkeypatch.undo()
    purge(registry, {digest}, cache=tmp_path / "cache", reason="asked for")
    assert not aside.exists()
