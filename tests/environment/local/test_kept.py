"""What was found installed is believed again only while no file that it was found in has changed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reprokit.environment.local import kept
from tests.environment.local.test_loose import CHANGES, Here


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """Its files are of this moment, so that nothing of it would be kept; here they count as old."""
    monkeypatch.setattr(kept, "_TICK", -(10**18))
    return Here(tmp_path)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """One for each time that the files were looked into."""
    found: list[object] = []
    walked = kept._walked
    monkeypatch.setattr(kept, "_walked", lambda *args: (found.append(args), walked(*args))[1])
    return found


def _later() -> None:
    time.sleep(0.02)  # the clock of a file system goes by ticks of some milliseconds


def test_an_environment_that_stayed_as_it_was_is_not_looked_into_again(here: Here, looks: list[object]) -> None:
    first = here.look()
    assert [here.look(), here.look()] == [first, first]
    assert len(looks) == 1
    here.cache = None
    assert here.look() == first
    assert len(looks) == 2


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_is_seen_though_what_was_found_is_kept(here: Here, looks: list[object], change: str) -> None:
    before = here.look()
    assert here.look() == before
    assert len(looks) == 1
    _later()
    act, expected = CHANGES[change]
    act(here)
    assert [one.path for one in here.look().lock.loose] == expected
    assert [one.path for one in here.look().lock.loose] == expected


def _same_size(file: Path) -> None:
    file.write_text(file.read_text().replace("0.1", "0.2"))
    os.utime(file, (1, 1))


def _moved_away(file: Path) -> None:
    file.rename(file.with_name("other.txt"))


def _replaced(file: Path) -> None:
    other = file.with_name("new")
    other.write_text("rate = 0.2\n")
    other.rename(file)


@pytest.mark.parametrize("edit", [_same_size, _moved_away, _replaced, Path.unlink])
def test_an_edited_file_of_a_package_is_seen(here: Here, edit: object) -> None:
    before = here.look()
    _later()
    assert callable(edit)
    edit(here.site / "demo/rate.py")
    after = here.look()
    assert after.changed == {"demo": ["demo/rate.py"]}
    assert after.lock.hash != before.lock.hash
    assert here.look() == after


def test_a_package_that_comes_or_goes_is_seen(here: Here) -> None:
    here.look()
    _later()
    here.install("another", {"another.py": ""})
    assert [package.name for package in here.look().lock.pip] == ["another", "demo"]
    _later()
    (here.site / "another-1.0.dist-info" / "METADATA").write_text("Name: another\nVersion: 2.0\n")
    assert [package.name for package in here.look().lock.pip] == ["another", "demo"]
    assert here.look().changed == {"another": ["another-1.0.dist-info/METADATA"]}


def test_metadata_in_a_folder_that_a_pth_file_adds_is_seen(here: Here) -> None:
    added = here.base / "added"
    (added / "extra.egg-info").mkdir(parents=True)
    info = added / "extra.egg-info" / "PKG-INFO"
    info.write_text("Name: extra\nVersion: 1.0\n")
    here.interpreter = replace(here.interpreter, places=(*here.interpreter.places, str(added)))

    def version() -> list[str]:
        return [package.version for package in here.look().lock.pip if package.name == "extra"]

    assert version() == version() == ["1.0"]
    _later()
    info.write_text("Name: extra\nVersion: 1.1\n")
    assert version() == ["1.1"]
    _later()
    (added / "extra.egg-info").rename(added / "extra.gone")
    assert version() == []


def test_files_of_a_package_that_lie_behind_a_link_are_looked_at(here: Here, looks: list[object]) -> None:
    here.install("other", {"other/odd-data/rates.json": "[0.1]"})
    folder, moved = here.site / "other" / "odd-data", here.base / "moved"
    folder.rename(moved)
    folder.symlink_to(moved)
    before = here.look()
    assert here.look() == before
    assert len(looks) == 1
    _later()
    _same_size(moved / "rates.json")
    assert here.look().changed == {"other": ["other/odd-data/rates.json"]}
    _later()
    (moved / "rates.json").unlink()
    assert here.look().changed == {"other": ["other/odd-data/rates.json"]}
    _later()
    (moved / "rates.json").write_text("[0.1]")
    assert here.look().changed == {}


def test_another_interpreter_is_looked_at_anew(here: Here, looks: list[object]) -> None:
    assert here.look().lock.python == here.interpreter.version
    here.interpreter = replace(here.interpreter, version="3.99.0")
    assert here.look().lock.python == "3.99.0"
    assert len(looks) == 2


def test_what_is_young_is_not_kept(tmp_path: Path, looks: list[object]) -> None:
    """It could be changed again in the same tick of the clock, and nothing would tell."""
    here = Here(tmp_path)
    here.look()
    here.look()
    assert len(looks) == 2


@pytest.mark.parametrize("damage", ["", "truncated", "of another form", "flipped"])
def test_a_damaged_note_is_done_without(here: Here, looks: list[object], damage: str) -> None:
    first = here.look()
    assert here.cache is not None
    (file,) = here.cache.glob("environment-*")
    data = file.read_bytes()
    changed = {
        "": b"",
        "truncated": data[:-1],
        "of another form": b"x" * len(data),
        "flipped": data[:-1] + bytes([data[-1] ^ 1]),
    }
    file.write_bytes(changed[damage])
    assert here.look() == first
    assert len(looks) == 2
    assert here.look() == first
    assert len(looks) == 2


def test_what_lies_behind_a_link_is_looked_at_each_time(here: Here) -> None:
    CHANGES["a linked folder"][0](here)
    before = here.look()
    (one,) = before.lock.loose
    _later()
    (here.base / "elsewhere" / "deep.py").write_text("x = 1\n")
    (other,) = here.look().lock.loose
    assert other.path == one.path
    assert other.sha256 != one.sha256
