"""Whose the modules are that a script imported."""

from __future__ import annotations

from pathlib import Path

from reprokit.environment.imported_packages import packages_behind
from tests.environment.making import venv, wheel


def test_modules_are_traced_to_packages_of_whatever_name(tmp_path: Path) -> None:
    wheels = [
        wheel(tmp_path, "demo", "1.0", {"demo.py": ""}),
        wheel(tmp_path, "scikit_like", "1.0", {"sklike/__init__.py": "", "_sklike.py": ""}),
        wheel(tmp_path, "told", "1.0", {"other.py": "", "told-1.0.dist-info/top_level.txt": "other\n"}),
        wheel(tmp_path, "idle", "1.0", {"idle.py": ""}),
    ]
    python = venv(tmp_path / "venv", wheels)
    assert packages_behind({"demo", "sklike", "other", "train", ""}, python) == ["demo", "scikit-like", "told"]
    assert packages_behind({"_sklike"}, python) == ["scikit-like"]
    assert packages_behind(set(), tmp_path / "gone") == []
    assert packages_behind({"demo"}, tmp_path / "gone") == []
