"""What a recipe declares is solved once, pinned, and run in; what cannot be solved says why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reprokit.environment.local.interpreter import Interpreter
from reprokit.environment.lock_formats import as_pylock
from reprokit.environment.pip.wheelhouse import Vault
from reprokit.environment.realise import realise
from reprokit.environment.solve import Solved, solve
from reprokit.errors import EnvironmentMismatchError, NotFoundError, RecipeError
from reprokit.schema.recipe import ENVIRONMENT_FILES, Environment
from tests.conftest import Project
from tests.environment import channels
from tests.environment.making import only, wheel

CONDA = """\
name: demo
channels: [{channel}]
dependencies:
  - python
  - demo >=1
"""


@pytest.fixture
def channel(tmp_path: Path) -> str:
    folder = tmp_path / "channel"
    channels.stub_python(folder)
    for version in ("1.0", "1.1"):
        channels.python_package(folder, "demo", version, f"rate = {version}\n")
    return channels.index(folder)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    for version in ("1.0", "1.1"):
        wheel(folder, "demo", version, {"demo.py": f"rate = {version}\n"})
    wheel(folder, "needs_demo", "1.0", {"needs_demo.py": ""}, requires=["demo<1.1"])
    only(monkeypatch, NO_INDEX="1", FIND_LINKS=str(folder))
    return folder


def solved(root: Path, **section: object) -> Solved:
    return solve(Environment(**section), root=root, cache=root / "cache")  # type: ignore[arg-type]


def runs(found: Solved, root: Path, program: str) -> str:
    python = realise(found.environment, cache=root / "cache", vault=Vault(archives=found.archives))
    return subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_an_environment_yml_becomes_its_newest_packages_and_those_of_pip(
    channel: str, index: Path, tmp_path: Path
) -> None:
    (tmp_path / "environment.yml").write_text(CONDA.format(channel=channel) + "  - pip:\n      - needs_demo\n")
    wheel(index, "needs_demo", "1.0", {"needs_demo.py": "x = 3\n"}, requires=["demo"])
    found = solved(tmp_path, conda="environment.yml")
    assert [f"{one.name} {one.version}" for one in found.environment.conda] == [
        "demo 1.1",
        f"python {sys.version.split()[0]}",
    ]
    assert [one.name for one in found.environment.pip] == ["needs-demo"]  # demo is there already, by conda
    assert {one.kind for one in found.archives} == {"conda", "pip"}
    assert runs(found, tmp_path, "import demo, needs_demo; print(demo.rate, needs_demo.x)") == "1.1 3"


def test_a_requirements_file_is_read_by_pip_with_what_it_includes(index: Path, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("needs_demo\n-c limits/constraints.txt\n")
    (tmp_path / "limits").mkdir()
    (tmp_path / "limits" / "constraints.txt").write_text("demo<1.1\n")
    found = solved(tmp_path, pip="requirements.txt")
    assert [f"{one.name} {one.version}" for one in found.environment.pip] == ["demo 1.0", "needs-demo 1.0"]
    assert runs(found, tmp_path, "import demo; print(demo.rate)") == "1.0"


BACKEND = """
from pathlib import Path

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    made = Path(folder, "mine-1.dist-info")
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\\nName: mine\\nVersion: 1\\nRequires-Dist: demo==1.0\\n")
    return made.name

prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel

def build_wheel(folder, config_settings=None, metadata_directory=None):
    raise SystemExit("nothing is built")

build_editable = build_wheel
"""


@pytest.mark.parametrize("line", ["-e ./own", "./own"])
def test_of_a_project_of_the_repository_the_dependencies_alone_are_solved(
    index: Path, tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "pyproject.toml").write_text(f'{system}[project]\nname = "mine"\nversion = "1"\n')
    (tmp_path / "own" / "backend.py").write_text(BACKEND)
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "all.txt").write_text(f"{line}\n")
    monkeypatch.chdir(tmp_path / "envs")  # paths are the repository's, wherever reprokit is called
    found = solved(tmp_path, pip="envs/all.txt")
    assert [f"{one.name} {one.version}" for one in found.environment.pip] == ["demo 1.0"]


def test_a_run_imports_a_project_that_its_requirements_name_from_its_own_workspace(index: Path, tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    system = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    (project.root / "own" / "src").mkdir(parents=True)
    project.write("own/pyproject.toml", f'{system}[project]\nname = "mine"\nversion = "1"\n')
    project.write("own/backend.py", BACKEND)
    project.write("own/src/mine.py", "rate = 3\n")
    project.write("requirements.txt", "-e ./own\n")
    project.write("train.py", "import demo, mine\nprint('mine', mine.rate, demo.rate, mine.__file__)\n")
    project.write("recipe.yaml", "name: own\ncode: {entrypoint: train.py}\nenvironment: {pip: requirements.txt}\n")
    project.commit()
    done = project.reprokit("run", "recipe.yaml")
    assert "mine 3 1.0 " in done.stdout and "/workspace/own/src/mine.py" in done.stdout


def test_a_pyproject_gives_its_dependencies_and_the_extras_asked_for(index: Path, tmp_path: Path) -> None:
    text = '[project]\nname = "p"\nversion = "1"\ndependencies = ["demo==1.0"]\n'
    (tmp_path / "pyproject.toml").write_text(f'{text}optional-dependencies = {{more = ["needs_demo"]}}\n')
    assert [one.name for one in solved(tmp_path, pip="pyproject.toml").environment.pip] == ["demo"]
    more = solved(tmp_path, pip="pyproject.toml", extras=["more"])
    assert [one.name for one in more.environment.pip] == ["demo", "needs-demo"]
    with pytest.raises(RecipeError, match="no extra 'mroe'"):
        solved(tmp_path, pip="pyproject.toml", extras=["mroe"])


def test_a_pylock_of_another_tool_is_taken_as_it_is(index: Path, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("demo==1.0\n")
    first = solved(tmp_path, pip="requirements.txt")
    (tmp_path / "pylock.toml").write_text(as_pylock(first.environment, first.archives, {}))
    assert solved(tmp_path, lock="pylock.toml") == first
    wheel(index, "demo", "1.0", {"demo.py": "rate = 'tampered'\n"})
    with pytest.raises(EnvironmentMismatchError, match="DO NOT MATCH THE HASHES"):
        solved(tmp_path, lock="pylock.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("channels: [c]\ndependencys: [python]\n", r"unknown key dependencys\."),
        ("channels: [c]\ndependencies: [python]\nvariables: {A: 1}\n", "variables are not taken from here"),
        ("channels: [c]\ndependencies: [numpy]\n", "does not ask for python"),
        ("channels: [defaults]\ndependencies: [python]\n", "'defaults' means something else on every machine"),
        ("dependencies: [python]\n", "names no channels"),
        ("channels: [c]\ndependencies: [python, {pip: ['-r other.txt']}]\n", r"dependencies\[1\]\.pip: '-r other.txt'"),
        ("channels: [c]\ndependencies: [python, {pip: ['--index-url=x']}]\n", "is not a requirement"),
        ("channels: [c]\ndependencies: [python, {nix: [x]}]\n", r"dependencies\[1\]: must be"),
        ("channels: c\ndependencies: [python]\n", "channels: must be a list"),
        ("[]", "must be a mapping"),
        ("channels: &a [*a]\n", "nests deeper"),
    ],
)
def test_an_environment_yml_that_is_not_understood_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "environment.yml").write_text(text)
    with pytest.raises(RecipeError, match=said):
        solved(tmp_path, conda="environment.yml")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("demo >2", r"environment\.yml cannot be solved: No candidates were found for demo >2"),
        ("no-such-package", "no-such-package"),
        ("demo 1.0,1.1,>", r"environment\.yml"),
    ],
)
def test_what_no_channel_has_is_explained_by_the_solver(channel: str, tmp_path: Path, spec: str, said: str) -> None:
    (tmp_path / "environment.yml").write_text(CONDA.format(channel=channel) + f"  - '{spec}'\n")
    with pytest.raises(EnvironmentMismatchError, match=said):
        solved(tmp_path, conda="environment.yml")


def test_a_channel_that_does_not_answer_is_named(tmp_path: Path) -> None:
    (tmp_path / "environment.yml").write_text(CONDA.format(channel="http://127.0.0.1:9/none"))
    with pytest.raises(EnvironmentMismatchError, match=r"a channel does not answer: .*127\.0\.0\.1:9"):
        solved(tmp_path, conda="environment.yml")


def test_requirements_that_contradict_each_other_are_explained(index: Path, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("needs_demo\ndemo==1.1\n")
    with pytest.raises(EnvironmentMismatchError, match=r"(?s)Cannot install.*needs.demo 1\.0 depends on demo<1\.1"):
        solved(tmp_path, pip="requirements.txt")
    (tmp_path / "requirements.txt").write_text("nobody-has-this\n")
    with pytest.raises(EnvironmentMismatchError, match="No matching distribution found for nobody-has-this"):
        solved(tmp_path, pip="requirements.txt")


def test_a_file_that_is_missing_or_outside_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"names requirements\.txt, and there is no such file"):
        Project(tmp_path / "p")
        solved(tmp_path, conda="requirements.txt")


def test_the_interpreter_of_a_requirements_file_is_this_one(index: Path, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("demo\n")
    assert solved(tmp_path, pip="requirements.txt").environment.python == Interpreter.here().version


@pytest.mark.parametrize("kind", ENVIRONMENT_FILES)
def test_every_kind_of_file_that_a_recipe_may_name_has_a_solver(kind, tmp_path):
    with pytest.raises(NotFoundError, match=r"The recipe's environment names a/b\.toml, and there is no such file"):
        solve(Environment(**{kind: "a/b.toml"}), root=tmp_path, cache=tmp_path / "cache")


def test_an_environment_that_names_no_file_is_not_solved(tmp_path):
    with pytest.raises(RecipeError, match=r"^environment: names no file to solve\.$"):
        solve(Environment(vault="all"), root=tmp_path, cache=tmp_path / "cache")
