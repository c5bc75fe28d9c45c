"""A run becomes a build context, whole or not at all, and an image built from it reproduces the run."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from reprokit.errors import DataMismatchError, EnvironmentMismatchError, PurgedError, RefusedError, UsageError
from reprokit.export.image.context import ImageContext, write_image_context
from reprokit.registry.local import LocalRegistry
from tests.conftest import ROOT, Project, context_of, put_run
from tests.environment.making import install, needed_by_reprokit, only, repacked, venv, wheel
from tests.export.building import Buildah, base_root

SCALE = float(os.environ.get("REPROKIT_TEST_SCALE", "1"))
LARGE = pytest.mark.skipif(SCALE < 2, reason="builds a large image, for minutes; REPROKIT_TEST_SCALE=2")
BUILDAH = pytest.mark.skipif(shutil.which("buildah") is None, reason="needs buildah: `apt-get install buildah`")


@dataclass(frozen=True)
class Made:
    """A project with three runs in an environment that has a package which no index serves.

    Attributes:
        bare: A run of which nothing was put into a vault.
        other: One that no image of another may hold.
    """

    project: Project
    run: str
    bare: str
    other: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    project = Project(folder)
    wheels = repacked(folder / "wheels", needed_by_reprokit())
    demo = wheel(folder, "demo", "1.0", {"demo.py": "rate = 0.1\n"})
    project.python = str(venv(folder / "venv", [*wheels, demo]))
    project.build()
    script = (project.root / "train.py").read_text()
    project.write("train.py", script.replace("import reprokit\n", "import reprokit, demo\n"))
    project.commit()
    run = project.json("run", "recipe.yaml")["run_id"]
    other = project.json("run", "recipe.yaml", "-p", "rate=0.2")["run_id"]
    recipe = (project.root / "recipe.yaml").read_text()
    project.write("recipe.yaml", f"{recipe}environment: {{vault: none}}\n")
    project.commit()
    return Made(project, run, project.json("run", "recipe.yaml")["run_id"], other)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, NO_INDEX="1")


def export(made: Made, folder: Path, *, run: str | None = None, base: str | None = None) -> ImageContext:
    """Write a context here, in the tests' own environment, with a cache that holds nothing."""
    registry = LocalRegistry(made.project.registry)
    context = context_of(folder.parent / f"{folder.name}-own", registry)
    return write_image_context(run or made.run, folder, context=context, base=base)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def reproduced(context: Path, run: str, folder: Path) -> str:
    """Build an image on one made of this Python, without a network, and return what its command writes."""
    base_root(folder / "base" / "root")
    (folder / "base" / "Containerfile").write_text("FROM scratch\nCOPY root /\nENV PATH=/usr/local/bin:/bin\n")
    command = ["/reprokit/tool/bin/reprokit", "reproduce", "-y", run]  # as its CMD and README do
    buildah = Buildah(folder)
    try:
        buildah.build(folder / "base", "localhost/base")
        buildah.build(context, "localhost/run", "--build-arg", "BASE=localhost/base")
        assert buildah.command_of("localhost/run") == command
        return buildah.run("localhost/run", *command).stdout
    finally:
        buildah.remove()


@BUILDAH
def test_an_image_built_from_a_run_reproduces_it_in_every_bit(made: Made, tmp_path: Path) -> None:
    context = tmp_path / "context"
    told = made.project.reprokit("export", made.run, "--as", "image", "-o", str(context)).stdout
    assert f"podman build --network none -t reprokit-{made.run} {context}\n" in told
    said = reproduced(context, made.run, tmp_path)
    assert "verdict       BITWISE: every state digest and declared output is equal in every bit" in said
    assert "checkpoints   match     3 of 3 equal in every bit" in said


@BUILDAH
@LARGE
@pytest.mark.skipif(importlib.util.find_spec("skops") is None, reason="needs reprokit's extra `sklearn`")
def test_an_image_of_a_digits_run_of_scikit_learn_reproduces_it_in_every_bit(tmp_path: Path) -> None:
    wheels = repacked(tmp_path / "wheels", needed_by_reprokit("scikit-learn", "skops", "joblib"))
    project = Project(tmp_path)
    project.python = str(venv(tmp_path / "venv", wheels))
    shutil.copytree(ROOT / "recipes", project.root / "recipes")
    project.commit()
    run = project.json("run", "recipes/digits-sklearn.yaml")["run_id"]
    project.reprokit("export", run, "--as", "image", "-o", str(tmp_path / "context"))
    for used in ("venv", "wheels", "registry", "repo"):
        shutil.rmtree(tmp_path / used)
    said = reproduced(tmp_path / "context", run, tmp_path)
    assert "verdict       BITWISE: every state digest and declared output is equal in every bit" in said
    assert "epoch 2: accuracy 0.8" in said


@BUILDAH
@LARGE
@pytest.mark.skipif(importlib.util.find_spec("rattler") is None, reason="needs reprokit's extra `conda`")
def test_an_image_of_a_conda_environment_reproduces_its_run_in_every_bit(tmp_path: Path) -> None:
    channels = importlib.import_module("tests.environment.channels")
    channels.stub_python(tmp_path / "channel")
    channels.python_package(tmp_path / "channel", "demo", "1.0", "rate = 0.1\n")
    address = channels.index(tmp_path / "channel")
    project = Project(tmp_path)
    project.python = str(channels.install(tmp_path / "prefix", address, "demo"))
    install(Path(project.python), *repacked(tmp_path / "wheels", needed_by_reprokit("py-rattler")))
    script = (project.root / "train.py").read_text()
    project.write("train.py", script.replace("import reprokit\n", "import reprokit, demo, sys; print(sys.prefix)\n"))
    project.commit()
    project.build()
    run = project.json("run", "recipe.yaml")["run_id"]
    project.reprokit("export", run, "--as", "image", "-o", str(tmp_path / "context"))
    for used in ("channel", "prefix", "wheels", "registry", "repo"):
        shutil.rmtree(tmp_path / used)
    said = reproduced(tmp_path / "context", run, tmp_path)
    assert "verdict       BITWISE: every state digest and declared output is equal in every bit" in said
    assert "/reprokit/cache/environments/" in said


def test_a_context_holds_what_the_run_needs_and_nothing_of_this_machine(
    made: Made, tmp_path: Path, offline: None
) -> None:
    context = export(made, tmp_path / "context")
    copy = LocalRegistry(context.folder / "registry")
    assert sorted(copy.packages()) == [f"runs/{made.run}", "t/in", "t/model"]
    assert len(copy.top_hashes("t/model")) == 3  # of six
    files = contents(context.folder)
    assert sum(map(len, files.values())) == context.size
    wheels = [name for name in files if name.startswith("wheels/")]
    assert len(wheels) == context.packages and "wheels/demo-1.0-py3-none-any.whl" in wheels
    for place in (str(tmp_path), str(made.project.base), str(ROOT), sys.prefix):
        assert [name for name, data in files.items() if place.encode() in data] == []
    assert {entry.writer for name in copy.packages() for entry in copy.log(name)} == {"reprokit export"}


def test_equal_runs_give_equal_files(made: Made, tmp_path: Path, offline: None) -> None:
    first, second = export(made, tmp_path / "a"), export(made, tmp_path / "b")
    assert contents(first.folder) == contents(second.folder)
    stats = {path.lstat().st_mtime for path in first.folder.rglob("*")}
    assert len(stats) == 1


def test_runs_in_one_environment_differ_in_the_last_layer_alone(made: Made, tmp_path: Path, offline: None) -> None:
    one, other = (
        contents(export(made, tmp_path / "a").folder),
        contents(export(made, tmp_path / "b", run=made.other).folder),
    )
    mine = ("registry/", "Containerfile", "README.txt")
    assert {k: v for k, v in one.items() if not k.startswith(mine)} == {
        k: v for k, v in other.items() if not k.startswith(mine)
    }
    lines, others = (files["Containerfile"].decode().splitlines() for files in (one, other))
    last = lines.index("COPY --from=build /reprokit/cache/environments /reprokit/cache/environments")
    assert lines[1:last] == others[1:last]  # the first is a comment


def test_nothing_is_left_of_a_context_that_cannot_be_written(made: Made, tmp_path: Path, offline: None) -> None:
    with pytest.raises(EnvironmentMismatchError, match=r"cannot be rebuilt: no index serves a wheel of demo 1\.0"):
        export(made, tmp_path / "context", run=made.bare)
    copied = shutil.copytree(made.project.registry, tmp_path / "registry")
    erase = ["purge", "--entry", "t/in:0.txt", "--reason", "asked to", "-y", "--registry", str(copied)]
    made.project.reprokit(*erase)
    with pytest.raises(PurgedError, match=r"was purged .*asked to"):
        write_image_context(made.run, tmp_path / "x", context=context_of(tmp_path, LocalRegistry(copied)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "context-own", "registry"]


def test_the_name_of_a_package_that_is_no_run_s_goes_nowhere(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    put_run(registry, "not-a-run")
    with pytest.raises(DataMismatchError, match="runs/not-a-run is not the name of a run"):
        write_image_context("not-a-run", tmp_path / "context", context=context_of(tmp_path, registry))


def test_a_folder_that_holds_something_is_not_touched(made: Made, tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "mine").write_text("x")
    with pytest.raises(RefusedError, match="is there already, and not an empty folder"):
        export(made, tmp_path / "context")
    assert contents(tmp_path / "context") == {"mine": b"x"}


def test_what_a_killed_export_left_is_replaced_and_a_living_one_is_left_alone(
    made: Made, tmp_path: Path, offline: None
) -> None:
    (tmp_path / "context").mkdir()  # an empty one is taken
    left = tmp_path / ".context.reprokit-building"
    (left / "registry").mkdir(parents=True)
    (left / "Containerfile").write_text("FROM half")
    descriptor = os.open(left, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(RefusedError, match="Another export is writing"):
        export(made, tmp_path / "context")
    assert (left / "Containerfile").exists()
    os.close(descriptor)
    export(made, tmp_path / "context")
    assert not left.exists()
    assert "FROM half" not in (tmp_path / "context" / "Containerfile").read_text()


@pytest.mark.parametrize(
    "base", ["a\nRUN rm -rf /", "a b", "", "$(id)", "${HOME}", "a@sha256:12", 'a"', "a#b", "-a", "a\\\nb", "A" * 400]
)  # fmt: skip
def test_a_base_that_is_no_image_s_name_is_refused(base: str, made: Made, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not the name of an image"):
        export(made, tmp_path / "context", base=base)
    assert list(tmp_path.iterdir()) == []


def test_the_base_is_python_of_the_very_version_or_the_one_that_is_named(
    made: Made, tmp_path: Path, offline: None
) -> None:
    usual = export(made, tmp_path / "a").folder / "Containerfile"
    assert f"ARG BASE=docker.io/library/python:{platform.python_version()}-slim-bookworm\n" in usual.read_text()
    named = f"registry.example:5000/team/python@sha256:{'0' * 64}"
    given = export(made, tmp_path / "b", base=named).folder / "Containerfile"
    assert f"ARG BASE={named}\n" in given.read_text()


def test_a_run_without_a_lock_is_refused(made: Made, tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    put_run(registry, "20260102-030405-abcdef")
    with pytest.raises(RefusedError, match="has no lock: it was not started from a recipe"):
        write_image_context("latest", tmp_path / "context", context=context_of(tmp_path, registry))


def test_options_that_do_not_go_together_are_named(made: Made, tmp_path: Path) -> None:
    told = made.project.reprokit("export", made.run, "--as", "image", expect=2).stderr
    assert "--as image writes a folder: name it with -o DIR." in told
    told = made.project.reprokit("export", made.run, "--as", "environment.yml", "--base", "x", expect=2).stderr
    assert "--base is for --as image, not for environment.yml." in told
