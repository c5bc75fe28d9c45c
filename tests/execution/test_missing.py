"""Whoever forgot to declare a file, or to install a package, is told so, and how; nobody else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from reprokit.core.own_extras import pip_words
from reprokit.execution.missing import missing_inputs, missing_package
from reprokit.schema.recipe import Environment
from tests.conftest import Project


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "data" / "deep").mkdir(parents=True)
    for name in ("data/x.csv", "data/deep/y é.h5", "top.txt"):
        (root / name).write_text("1")
    (tmp_path / "outside.txt").write_text("1")
    return root


SAID = {
    "open": "FileNotFoundError: [Errno 2] No such file or directory: 'data/x.csv'",
    "open of bytes": "FileNotFoundError: [Errno 2] No such file or directory: b'data/x.csv'",
    "numpy": "FileNotFoundError: data/x.csv not found.",
    "a library": "ValueError: The file 'data/x.csv' does not exist",
    "h5py": "OSError: Unable to open file (unable to open file: name = 'data/x.csv', errno = 2, error message = 'No')",
    "by its whole path": "FileNotFoundError: [Errno 2] No such file or directory: '/runs/1/workspace/data/x.csv'",
    "by a way round": "FileNotFoundError: [Errno 2] No such file or directory: './data/../data/x.csv'",
}


@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
def test_a_file_of_the_working_tree_is_named_however_it_was_missed(tree: Path, said: str) -> None:
    (told,) = missing_inputs(f"Traceback\n  {said}", root=tree, workspace=Path("/runs/1/workspace"), workdir=".")
    assert told.startswith("data/x.csv lies in the working tree, and a run gets only what is committed or declared.")
    assert "`reprokit package build data NAMESPACE/data`" in told
    assert "`data: {data: {package: NAMESPACE/data, path: data}}`" in told


def test_folders_files_at_the_top_and_other_working_folders(tree: Path) -> None:
    def told(path: str, workdir: str = ".") -> list[str]:
        said = f"No such file or directory: '{path}'"
        return missing_inputs(said, root=tree, workspace=Path("/runs/1/workspace"), workdir=workdir)

    assert "Commit it; or put it into a folder" in told("top.txt")[0]
    assert "path: data/deep}}" in told("data/deep")[0]
    assert "package build data/deep NAMESPACE/deep" in told("y é.h5", "data/deep")[0]
    assert told("../top.txt", "data")[0].startswith("top.txt lies")


@pytest.mark.parametrize(
    "path", ["nothing.csv", "../outside.txt", "/etc/passwd", ".", "data/x.csv\0", "x" * 5000, "a/" * 150]
)
def test_what_the_working_tree_does_not_have_is_not_spoken_of(tree: Path, path: str) -> None:
    said = f"No such file or directory: '{path}'\n'{path}' does not exist"
    assert missing_inputs(said, root=tree, workspace=Path("/runs/1/workspace"), workdir=".") == []


def test_a_run_that_fails_so_says_what_to_do(project: Project) -> None:
    project.write("train.py", "open('notes/rates.csv').read()\n")
    project.write(".gitignore", "notes/\n")
    project.commit()
    (project.root / "notes").mkdir()
    project.write("notes/rates.csv", "0.1\n")
    record = project.json("run", "recipe.yaml", expect=6)
    (told,) = [warning for warning in record["warnings"] if "lies in the working tree" in warning]
    assert told.startswith("notes/rates.csv lies in the working tree")
    assert "reprokit package build notes NAMESPACE/notes" in project.reprokit("show", "latest").stdout
    again = project.json("reproduce", record["run_id"], "-y", expect=8)
    assert "lies in the working tree" not in str(project.json("show", again["run_id"])["warnings"])


LACKS = "Traceback\nModuleNotFoundError: No module named '{}'"


@pytest.mark.parametrize(
    ("module", "wanted"),
    [("keras.layers", pip_words("keras")), ("skops", pip_words("sklearn")), ("PIL", "pillow"),
     ("einops", "einops"), ("yaml", "PyYAML")],
)  # fmt: skip
def test_a_package_that_is_not_installed_is_a_sentence_with_the_command(tree: Path, module: str, wanted: str) -> None:
    for environment in ("current", Environment(vault="all")):
        told = missing_package(LACKS.format(module), root=tree, environment=environment, python="/e/bin/python")
        name = module.partition(".")[0]
        assert told == (
            f"The script imports {name}, which this environment lacks: `/e/bin/python -m pip install {wanted}`."
        )


def test_of_a_declared_environment_the_file_is_named(tree: Path) -> None:
    def told(environment: Environment) -> str | None:
        return missing_package(LACKS.format("sklearn"), root=tree, environment=environment, python="/e/bin/python")

    said = "The script imports sklearn, which its environment lacks: add scikit-learn to {}, and `reprokit lock` again."
    assert told(Environment(pip="env/requirements.txt")) == said.format("env/requirements.txt")
    assert told(Environment(conda="environment.yml")) == said.format("environment.yml")
    assert told(Environment(container="docker.io/library/python@sha256:" + "0" * 64)) == (
        "The script imports sklearn, which its container lacks: make an image that has it."
    )


@pytest.mark.parametrize(("file", "path"), [("own.py", "."), ("own/__init__.py", "."), ("src/own/__init__.py", "src")])
def test_a_module_of_the_working_tree_is_to_be_committed_and_put_on_the_path(tree: Path, file: str, path: str) -> None:
    (tree / file).parent.mkdir(parents=True, exist_ok=True)
    (tree / file).touch()
    told = missing_package(LACKS.format("own.part"), root=tree, environment="current", python="python")
    assert told is not None and told.startswith("own lies in the working tree") and f"PYTHONPATH={path}`" in told


@pytest.mark.parametrize("said", ["", "No module named pip", "ImportError: cannot import name 'x' from 'keras'"])
def test_where_no_module_was_missed_nothing_is_said(tree: Path, said: str) -> None:
    assert missing_package(said, root=tree, environment="current", python="python") is None


def test_the_last_one_counts(tree: Path) -> None:
    said = LACKS.format("rich") + "\nDuring handling of it\n" + LACKS.format("tqdm")
    told = missing_package(said, root=tree, environment="current", python="python")
    assert told == "The script imports tqdm, which this environment lacks: `python -m pip install tqdm`."


def test_a_run_that_lacks_a_package_says_so_once(project: Project) -> None:
    project.write("train.py", "import no_such_module.inner\n")
    project.commit()
    project.build()
    done = project.reprokit("run", "recipe.yaml", expect=6)
    reason = "The script ended with exit code 1: ModuleNotFoundError: No module named 'no_such_module'"
    assert f"  failure      {reason}\n" in done.stdout and "Traceback" not in done.stdout
    assert f"failed. {reason}\n" in done.stderr and done.stderr.count("Traceback") == 1
    told = f"The script imports no_such_module, which this environment lacks: `{project.python} -m pip install "
    assert told in done.stdout.replace("\n               ", " ")
    assert "Traceback" in project.reprokit("show", "latest").stdout


def test_an_output_lacks_its_folder_and_is_no_input(tree: Path) -> None:
    said = "FileNotFoundError: [Errno 2] No such file or directory: 'out/model.pt'"
    for there in (False, True):  # as it is where the script was run by hand before
        if there:
            (tree / "out").mkdir()
            (tree / "out" / "model.pt").write_text("1")
        (told,) = missing_inputs(said, root=tree, workspace=Path("/w"), workdir=".", outputs=["out/model.pt"])
        assert told == (
            "out/model.pt is an output, and its folder is not there when a run begins: git has none that is empty. "
            "Have the script make it, `os.makedirs('out', exist_ok=True)`, or commit a file in it."
        )
    workspace = tree.parent / "workspace"
    (workspace / "out").mkdir(parents=True)  # the script looks for what it has not written yet
    found = missing_inputs(said, root=tree, workspace=workspace, workdir=".", outputs=["out/model.pt"])
    assert found[0].startswith("out/model.pt lies in the working tree")
    torch = "RuntimeError: Parent directory out does not exist."
    assert missing_inputs(torch, root=tree, workspace=Path("/w"), workdir=".", outputs=["out/model.pt"]) == [told]
    assert missing_inputs(said, root=tree, workspace=Path("/w"), workdir=".", outputs=["model.pt"])[0].startswith(
        "out/model.pt lies in the working tree"
    )
