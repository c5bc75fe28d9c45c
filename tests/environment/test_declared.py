"""What a recipe names of its environment: every file that a requirements file includes, none outside the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from reprokit.environment.declared import declared_files
from reprokit.errors import NotFoundError, RecipeError, UsageError
from reprokit.schema.recipe import Environment

FILES = {
    "requirements.txt": "numpy\n-c constraints.txt\n",
    "constraints.txt": "numpy<3\n",
    "envs/dev.txt": "-r ../requirements.txt\n--requirement=more/extra.txt\npytest\n",
    "envs/more/extra.txt": "--constraint ../../constraints.txt\n-r https://example.org/list.txt\n-r ../dev.txt\n",
    "envs/out.txt": "-r ../../outside.txt\n",
    "envs/absolute.txt": "-r /etc/requirements.txt\n",
    "envs/lost.txt": "-r nothing.txt\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        file = tmp_path / "repo" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "outside.txt").write_text("numpy\n")
    return tmp_path / "repo"


def test_files_that_a_requirements_file_includes_count_wherever_in_the_repository_they_lie(root: Path) -> None:
    found = declared_files(Environment(pip="envs/dev.txt"), root)
    assert list(found) == ["constraints.txt", "envs/dev.txt", "envs/more/extra.txt", "requirements.txt"]
    before = found["constraints.txt"]
    (root / "constraints.txt").write_text("numpy<2\n")
    assert declared_files(Environment(pip="envs/dev.txt"), root)["constraints.txt"] != before


@pytest.mark.parametrize("name", ["envs/out.txt", "envs/absolute.txt"])
def test_what_leads_out_of_the_repository_is_refused(root: Path, name: str) -> None:
    with pytest.raises((RecipeError, UsageError)):
        declared_files(Environment(pip=name), root)


def test_a_file_that_is_missing_is_named(root: Path) -> None:
    with pytest.raises(NotFoundError, match=r"names envs/nothing\.txt"):
        declared_files(Environment(pip="envs/lost.txt"), root)
