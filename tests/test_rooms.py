"""The floor plan holds, and who breaks it is told which rooms are meant."""

from __future__ import annotations

import graphlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

from tests.conftest import ROOT

HOUSE = ROOT / "reprokit"
MOST_NAMES = 28  # what one look at `ls reprokit/` takes in
MOST_MODULES = 16  # beside each other in one folder


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=folder, env={"PYTHONPATH": str(folder), "COLUMNS": "120"}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(HOUSE, tmp_path / "reprokit", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def names() -> list[str]:
    return sorted(path.name for path in HOUSE.iterdir() if path.name != "__pycache__")


@pytest.mark.parametrize(
    ("module", "line", "told"),
    [
        (
            "core/digest.py",
            "from reprokit.cli.main import cli",
            r"reprokit\.core is not allowed to import reprokit\.cli:\s+"
            r"- reprokit\.core\.digest -> reprokit\.cli\.main \(l\.\d+\)",
        ),
        (
            "numerics/lint.py",
            "import reprokit.mount.table",
            r"reprokit\.numerics is not allowed to import reprokit\.mount:\s+"
            r"- reprokit\.numerics\.lint -> reprokit\.mount\.table \(l\.\d+\)",
        ),
        (
            "client/loop.py",
            "def late():\n    from reprokit.errors import Error",
            r"reprokit\.client is not allowed to import reprokit\.errors:\s+"
            r"- reprokit\.client\.loop -> reprokit\.errors \(l\.\d+\)",
        ),
    ],
    ids=["from a floor above", "from beside", "inside a function"],
)
def test_a_wrong_import_fails_with_the_names_of_both_rooms(copy, module, line, told):
    with (copy / "reprokit" / module).open("a") as file:
        file.write(f"\n{line}\n")
    done = lint(copy)
    assert done.returncode == 1
    assert re.search(told, done.stdout), done.stdout
    assert "1 kept, 0 broken" not in done.stdout


def test_a_room_on_no_floor_fails_by_its_name(copy):
    (copy / "reprokit" / "attic").mkdir()
    (copy / "reprokit" / "attic" / "__init__.py").touch()
    done = lint(copy)
    assert done.returncode == 1
    assert "attic" in done.stdout + done.stderr


def test_the_house_as_it_stands_passes():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout
    assert "Contracts: 1 kept, 0 broken." in done.stdout


def test_the_first_look_shows_few_names_and_the_architecture_explains_each():
    explained = set(re.findall(r"`([\w.]+)`", (ROOT / "docs" / "architecture.md").read_text()))
    assert len(names()) <= MOST_NAMES, names()
    assert [name for name in names() if not {name, name.removesuffix(".py")} & explained] == []


def test_no_folder_holds_more_modules_than_one_look_takes_in():
    crowded = {}
    for folder in [HOUSE, *(path for path in HOUSE.rglob("*") if path.is_dir())]:
        modules = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        if len(modules) > MOST_MODULES:
            crowded[str(folder.relative_to(ROOT))] = len(modules)
    assert crowded == {}


def test_the_files_that_contributing_says_to_touch_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    files = re.findall(r"^(reprokit/[\w/<>.]+\.py) ", text, re.MULTILINE)
    assert len(files) >= 12
    assert [file for file in files if "<" not in file and not (ROOT / file).is_file()] == []
    assert [file for file in files if not (ROOT / file).parent.is_dir() and "<" not in file.rpartition("/")[0]] == []
    for link in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (ROOT / link).exists(), link


def test_no_two_modules_import_each_other_not_even_for_their_types():
    graph = grimp.build_graph("reprokit", cache_dir=None)
    arrows = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    graphlib.TopologicalSorter(arrows).prepare()  # raises CycleError, which names them
