"""A package that is imported from a working tree counts by what can be imported there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reprokit.environment.capture import capture
from tests.environment.local.test_loose import Here


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    made = tmp_path / "work" / "lib" / "src"
    (made / "lib").mkdir(parents=True)
    (made / "lib" / "__init__.py").write_text("rate = 0.1\n")
    (made / "notes.txt").write_text("notes")
    return made


def _editable(here: Here, library: Path, how: str) -> None:
    """Install it as the tools do: hatchling and setuptools with `src`, setuptools without, `setup.py develop`."""
    direct = ("direct_url.json", json.dumps({"url": library.parent.as_uri(), "dir_info": {"editable": True}}))
    if how == "folder":
        here.install("lib", {"_editable_impl_lib.pth": str(library)}, direct)
    elif how == "finder":
        finder = f"MAPPING: dict[str, str] = {{'lib': {str(library / 'lib')!r}}}\n"
        hook = "import __editable___lib_finder; __editable___lib_finder.install()"
        here.install("lib", {"__editable___lib_finder.py": finder, "__editable__.lib.pth": hook}, direct)
    elif how == "unknown":
        here.install("lib", {"lib_loader.py": ""}, direct)
    else:
        here.write("lib.pth", f"{library}\n")


HOWS = ["folder", "finder", "unknown", "develop"]


@pytest.mark.parametrize("how", HOWS)
def test_its_tree_counts(here: Here, library: Path, how: str) -> None:
    plain = here.look().lock
    _editable(here, library, how)
    before = here.look()
    assert before.lock.loose == []
    assert [str(item) for item in plain.changes_to(before.lock)] == ["lib (editable) is new"]
    (remark,) = before.remarks()
    assert remark.startswith(f"lib is imported from {library}")
    assert remark.endswith("install it without -e, or make it a submodule.")
    (library / "lib" / "__pycache__").mkdir()
    (library / "lib" / "__pycache__" / "x.pyc").write_text("")
    (library / "notes.txt").write_text("other")
    assert here.look().lock == before.lock
    (library / "lib" / "__init__.py").write_text("rate = 0.9\n")
    after = here.look()
    assert [str(item) for item in before.lock.changes_to(after.lock)] == ["lib (editable) has other content"]
    assert before.lock.hash != after.lock.hash
    assert after.files({"lib"})[0].startswith(f"lib is imported from {library}")


@pytest.mark.parametrize("how", HOWS)
def test_of_the_runs_own_repository_it_is_code(here: Here, library: Path, how: str) -> None:
    """The commit names it: a reproduction, which does not know where it lay, finds no difference."""
    plain = here.look().lock
    _editable(here, library, how)
    run = capture(interpreter=here.interpreter, code=library.parents[1])
    assert run.remarks() == [] and [one.sha256 for one in run.lock.editable] == [None]
    assert run.lock.hash == plain.hash
    (library / "lib" / "__init__.py").write_text("rate = 0.9\n")
    for found in (here.look().lock, plain):
        assert run.lock.changes_to(found) == [] and found.changes_to(run.lock) == []
