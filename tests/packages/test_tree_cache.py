"""A tree of the cache is what was verified, or it is not used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reprokit.errors import RegistryError
from reprokit.packages.build import build
from reprokit.packages.tree_cache import discard, forget, is_protected, lay_out, moment, spoilt, was_spoilt_before
from reprokit.registry.local import LocalRegistry
from tests.conftest import RECIPE, ROOT, Project


@pytest.fixture
def tree(tmp_path):
    registry = LocalRegistry(tmp_path / "registry")
    build({"a": b"one", "d/b": b"two"}, "t/data", registry=registry)
    manifest = registry.read_manifest(registry.head("t/data").top_hash)

    def lay(**options):
        return lay_out(manifest, registry=registry, cache=tmp_path / "cache", what="t/data", **options)

    return lay


def test_a_tree_is_laid_out_once_and_read_only(tree):
    made = tree()
    assert (made / "d" / "b").read_bytes() == b"two"
    assert (made / "a").stat().st_mode & 0o777 == 0o444
    inode = (made / "a").stat().st_ino
    assert tree() == tree(look=False) == made
    assert (made / "a").stat().st_ino == inode
    assert spoilt(made) is None


@pytest.mark.parametrize("change", ["edited", "edited and put back", "added", "removed", "all gone"])
def test_any_change_shows_and_is_mended(tree, change):
    made = tree()
    path = made / "d" / "b"
    before = path.stat()
    if change.startswith("edited"):
        path.chmod(0o644)
        path.write_bytes(b"TWO")
        if change.endswith("back"):
            path.write_bytes(b"two")
            path.chmod(0o444)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "added":
        (made / "d" / "c").touch()
    elif change == "removed":
        path.unlink()
    else:
        path.unlink()
        (made / "d").rmdir()
        (made / "a").unlink()
        made.rmdir()
    assert spoilt(made) == {"added": "d/c", "all gone": made.name}.get(change, "d/b")
    tree()
    assert spoilt(made) is None
    assert sorted(path.name for path in made.rglob("*") if path.is_file()) == ["a", "b"]
    assert path.read_bytes() == b"two"


def test_a_forgotten_tree_is_laid_out_anew(tree):
    made = tree()
    inode = (made / "a").stat().st_ino
    forget(made)
    assert spoilt(made) == made.name
    assert (tree(look=False) / "a").stat().st_ino != inode


def test_another_workspace_on_the_same_version_costs_nothing_per_file(tree, monkeypatch):
    made = tree()
    calls = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: calls.append(path) or real(path))
    assert tree(look=False) == made
    assert calls == []


def test_many_that_want_one_tree_at_once_all_get_it(tmp_path):
    registry = LocalRegistry(tmp_path / "registry")
    build({f"{number:03d}": b"%d" % number for number in range(300)}, "t/data", registry=registry)
    code = """
import sys
from pathlib import Path
from reprokit.registry.local import LocalRegistry
from reprokit.packages.tree_cache import lay_out, spoilt
base = Path(sys.argv[1])
registry = LocalRegistry(base / "registry")
manifest = registry.read_manifest(registry.head("t/data").top_hash)
for number in range(4):
    tree = lay_out(manifest, registry=registry, cache=base / f"cache{number}", what="t/data", look=bool(number % 2))
    inode = tree.stat().st_ino
    assert spoilt(tree) is None, spoilt(tree)
    assert tree.stat().st_ino == inode
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    several = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment) for _ in range(5)]
    assert [one.wait(60) for one in several] == [0] * 5


@pytest.mark.parametrize("raised", [FileNotFoundError, PermissionError])
def test_an_error_while_laying_out_is_told_as_it_is_and_leaves_nothing(tree, monkeypatch, raised):
    def fail(*_, **__):
        raise raised(2, "gone", "x")

    monkeypatch.setattr("reprokit.packages.tree_cache.write_entries", fail)
    with pytest.raises(RegistryError, match=r"Laying out t/data in .* failed: gone"):
        tree()
    monkeypatch.undo()
    made = tree()
    assert {path.name.partition(".")[2] for path in made.parent.iterdir()} == {"", "json", "lock", "objects"}


def test_a_tree_that_is_discarded_leaves_nothing_and_can_be_laid_out_again(tree):
    made = tree()
    discard(made.parent.parent, made.name)
    assert list(made.parent.iterdir()) == []
    assert (tree() / "a").read_bytes() == b"one"


def test_a_run_whose_input_was_changed_on_disk_before_it_fails_and_the_next_one_is_sound(project: Project) -> None:
    project.write("recipe.yaml", RECIPE.replace("threads: 1", "threads: 1, layout: symlink"))
    project.commit()
    first = project.json("run", "recipe.yaml")
    (tree,) = (path for path in (project.base / "home-cache" / "trees").iterdir() if path.is_dir())
    (tree / "1.txt").chmod(0o644)
    (tree / "1.txt").write_text("7\n")
    failed = project.reprokit("run", "recipe.yaml", expect=4).stderr
    assert f"Input 'in' was changed on disk before the run ended: 1.txt in {tree} is not what was verified." in failed
    assert "The cache's copy was discarded: run again." in failed
    assert project.json("show", "latest")["status"] == "failed"
    assert project.json("run", "recipe.yaml")["metrics"] == first["metrics"]


@pytest.mark.parametrize("layout", ["bind", "symlink"])
def test_a_script_that_writes_into_its_input_costs_neither_the_run_nor_the_cache(project: Project, layout: str) -> None:
    """Where modes do not bind who runs it, as root, the script has a copy of its own; links it gets if it asks for."""
    project.write("recipe.yaml", RECIPE.replace("threads: 1", f"threads: 1, layout: {layout}"))
    project.hook('os.chmod("data/in/2.txt", 0o644); open("data/in/2.txt", "a").write("0")')
    record = project.json("run", "recipe.yaml")
    assert (record["status"], record["changed_inputs"]) == ("finished", {"in": "2.txt"})
    own = layout == "bind" and os.geteuid() == 0
    said = "was changed while the run went on, in the run's own copy: 2.txt." if own else "was changed on disk before"
    assert any(text.startswith(f"Input 'in' {said}") for text in record["warnings"])
    (tree,) = (path for path in (project.base / "home-cache" / "trees").iterdir() if path.is_dir())
    assert (spoilt(tree) is None) == own
    assert len(record["checkpoints"]) == 3
    if layout == "bind":
        verdict = project.json("reproduce", record["run_id"])
        assert verdict["provisos"] == ["Changed on disk while a run went on: input in."]
        assert verdict["verdict"] == "BITWISE, with provisos"


@pytest.mark.skipif(os.geteuid() != 0, reason="the modes of a tree bind everybody else")
def test_modes_do_not_bind_root_and_a_copy_takes_the_place_of_a_link(tmp_path: Path) -> None:
    assert not is_protected(tmp_path)
    assert list((tmp_path / "trees").iterdir()) == []


def test_a_tree_that_was_spoilt_before_is_told_from_one_that_was_spoilt_since(tree) -> None:
    made = tree()
    cache = made.parent.parent
    begun = moment(cache)
    (made / "a").chmod(0o644)
    (made / "a").write_text("x")
    (made / "d" / "b").unlink()
    for name in ("a", "d/b"):
        assert not was_spoilt_before(made, name, begun)
        assert was_spoilt_before(made, name, moment(cache) + 10**9)
    assert not was_spoilt_before(made / "none", "x/y", moment(cache) + 10**9)
