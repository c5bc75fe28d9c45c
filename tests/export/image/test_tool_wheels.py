"""reprokit goes into an image as the files that run, with what it needs."""

from __future__ import annotations

import tomllib
import zipfile
from pathlib import Path

import msgspec

from reprokit._version import __version__
from reprokit.environment.capture import capture
from reprokit.environment.pip.wheels import read_wheel
from reprokit.export.image.tool_wheels import NEEDS, installed_wheels, write_own_wheel
from tests.conftest import ROOT


def test_what_it_needs_is_what_its_project_declares() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert list(NEEDS) == declared


def test_its_own_wheel_is_whole_and_equal_each_time(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = write_own_wheel(tmp_path / "a"), write_own_wheel(tmp_path / "b")
    assert one.read_bytes() == other.read_bytes()
    assert (read_wheel(one).name, read_wheel(one).version) == ("reprokit-runs", __version__)
    with zipfile.ZipFile(one) as archive:
        assert archive.read("reprokit/client/boot/sitecustomize.py")
        assert not [name for name in archive.namelist() if "__pycache__" in name]


def test_only_what_is_installed_as_it_was_locked_is_packed(tmp_path: Path) -> None:
    packages = {package.name: package for package in capture(tmp_path).lock.pip}
    same = packages["click"]
    other = msgspec.structs.replace(packages["pathspec"], version="0.0.1")
    edited = msgspec.structs.replace(packages["packaging"], record="0" * 64)
    found = installed_wheels([same, other, edited], cache=tmp_path)
    assert list(found) == ["click"]
    assert read_wheel(found["click"](tmp_path)) == same
