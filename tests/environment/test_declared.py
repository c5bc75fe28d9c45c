"""What a recipe names of its environment: files that a requirements file includes, and projects of the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from reprokit.environment.declared import declared_files, own_projects
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


@pytest.mark.parametrize(
    ("line", "folder"),
    [("-e .", "."), ("--editable=.", "."), ("--editable ./lib[extra]", "lib/src"), (".", "."),
     ("./flat  # ours", "flat"), ("-e file:./flat", "flat"), ("flat", None), ("-e ..", None), ("./flat/x.whl", None),
     ("# -e .", None), ("-e ./no", None)],
)  # fmt: skip
def test_a_project_of_the_repository_is_code_that_is_imported_from_there(
    root: Path, line: str, folder: str | None
) -> None:
    for made in ("lib/src", "flat"):
        (root / made).mkdir(parents=True)
    (root / "flat" / "x.whl").touch()
    (root / "envs" / "own.txt").write_text(f"numpy\n{line}\n{line}\n")
    (root / "all.txt").write_text("-r envs/own.txt\n")
    expected = [] if folder is None else [folder]
    assert own_projects(Environment(pip="all.txt"), root) == expected
    (root / "own.txt").write_text(f"-e {root / 'flat'}\n-e file://{root}/lib\n")
    assert own_projects(Environment(pip="own.txt"), root) == ["flat", "lib/src"]
    assert own_projects(Environment(vault="all"), root) == []


@pytest.mark.parametrize(
    "line", ["git+https://host/a/b@v1#egg=b", "-e git+ssh://git@host/a.git", "b @ hg+http://host/b"]
)
def test_a_commit_of_another_repository_is_refused_and_a_wheel_advised(root: Path, line: str) -> None:
    (root / "envs" / "own.txt").write_text(f"numpy\n# git+https://host/x\n{line}\n")
    address = next(word for word in line.split() if "+" in word)
    with pytest.raises(RecipeError, match=r"^envs/own\.txt, line 3: ") as caught:
        own_projects(Environment(pip="envs/own.txt"), root)
    assert caught.value.message.endswith(f"{address} is a commit, and no wheel that a hash pins.")
    assert f"`pip wheel --no-deps '{address}' -w wheels`" in str(caught.value.hint)
