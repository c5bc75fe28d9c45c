"""A run in a container: what an engine is told, and what is refused.

No engine can run here. `podman` is a stand-in that executes the command in place, or by buildah in a real root; it
takes nothing of this process's variables but what it is told to pass on.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import pytest

from reprokit.environment.container import Container, open_container
from reprokit.errors import EnvironmentMismatchError, RecipeError, RefusedError
from reprokit.schema.lock import EnvironmentLock
from reprokit.schema.recipe import from_plain
from tests.conftest import Project
from tests.environment.making import repacked
from tests.export.building import Buildah, base_root

IMAGE = f"localhost/base@sha256:{'5' * 64}"
STAND_IN = """\
#!{python} -I
import json, os, sys
log, kind, words = {log!r}, sys.argv[1], sys.argv[2:]
with open(log, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if kind != "run":
    sys.exit(0)
flags = {{"--rm", "--init"}}
options = []
while words[0].startswith("-"):
    name = words.pop(0)
    options.append((name, None if name in flags else words.pop(0)))
image, *arguments = words
told = dict(options)
given = [value.partition("=") for name, value in options if name == "--env"]
variables = {{name: value if sign else os.environ[name] for name, sign, value in given}}  # as the engines do
folder = told.get("--workdir", "/")
{act}
"""
IN_PLACE = """\
os.chdir(folder)
program = sys.executable if told["--entrypoint"] == "python" else told["--entrypoint"]
os.execve(program, [program, *arguments], {"PATH": "/usr/bin:/bin", **variables})
"""
BY_BUILDAH = """\
command = [*BUILDAH, "run", "--isolation", "chroot", "--workingdir", folder]
for name, value in options:
    if name == "--mount":
        place = dict(part.partition("=")[::2] for part in value.split(","))
        command += ["--volume", place["source"] + ":" + place["target"] + (":ro" if "readonly" in place else "")]
    elif name == "--env":
        name = value.partition("=")[0]
        command += ["--env", name + "=" + variables[name]]
command += [CONTAINER, "--", {"python": "/usr/local/bin/python3"}[told["--entrypoint"]], *arguments]
os.execvp(command[0], command)
"""


def stand_in(folder: Path, act: str) -> Path:
    """Write the stand-in, and return the file in which it notes what it was told."""
    folder.mkdir()
    log = folder / "told.jsonl"
    (folder / "podman").write_text(STAND_IN.format(python=sys.executable, log=str(log), act=act))
    (folder / "podman").chmod(0o755)
    return log


@pytest.fixture
def contained(project: Project) -> Project:
    """A project whose recipe names an image."""
    recipe = (project.root / "recipe.yaml").read_text()
    project.write("recipe.yaml", f"{recipe}environment: {{container: '{IMAGE}'}}\n")
    project.commit()
    return project


def told(log: Path) -> list[list[str]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_a_run_in_a_container_is_recorded_by_the_image_s_digest_and_reproduces(
    contained: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = stand_in(tmp_path / "bin", IN_PLACE)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SECRET", "hidden")
    record = contained.json("run", "recipe.yaml")
    assert (record["status"], len(record["checkpoints"]), record["warnings"]) == ("finished", 3, [])
    *_, started, removed = told(log)
    name = started[started.index("--name") + 1]
    assert name.startswith(f"reprokit-{record['run_id']}-")
    assert removed == ["rm", "--force", name]
    assert started[-2:] == [IMAGE, "train.py"]
    assert not any("SECRET" in word or ("PATH=" in word and not word.startswith("PYTHONPATH=")) for word in started)
    verdict = contained.json("reproduce", record["run_id"])
    assert verdict["verdict"] == "BITWISE"
    here = contained.json("reproduce", record["run_id"], "--with", "env=current")
    assert here["relaxed"] == ["env=current"] and here["verdict"] != "BITWISE"
    contained.reprokit("lock", "recipe.yaml")
    locked = json.loads((contained.root / "recipe.lock.json").read_text())["environment"]
    assert (locked["container"], locked["pip"]) == (f"sha256:{'5' * 64}", [])
    contained.reprokit("export", record["run_id"], "--as", "image", "-o", str(tmp_path / "x"), expect=5)
    contained.reprokit("env", "build", record["run_id"], expect=5)
    contained.reprokit("export", record["run_id"], "--as", "requirements", expect=5)


def test_a_container_that_is_told_to_stop_saves_and_is_removed(
    contained: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = stand_in(tmp_path / "bin", IN_PLACE)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    contained.hook("open('started', 'w'); time.sleep(60 if epoch else 0)")
    process = subprocess.Popen(
        contained.command("run", "recipe.yaml"), cwd=contained.root, env=contained.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list((contained.base / "home").glob("runs/*/workspace/started")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert told(log)[-1][:2] == ["rm", "--force"]
    assert contained.json("show", "latest")["status"] == "interrupted"


@pytest.mark.skipif(shutil.which("buildah") is None, reason="needs buildah: `apt-get install buildah`")
@pytest.mark.skipif(os.getuid() != 0, reason="needs the rights to mount")
def test_a_script_needs_nothing_of_this_machine_but_what_the_engine_is_told_to_show(
    contained: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "base" / "root"
    base_root(root)
    standard = Path(sysconfig.get_path("stdlib", vars={"base": sys.base_prefix, "installed_base": sys.base_prefix}))
    (numpy,) = repacked(tmp_path / "wheels", ["numpy"])
    shutil.unpack_archive(numpy, root / standard.relative_to("/") / "site-packages", "zip")
    (tmp_path / "base" / "Containerfile").write_text("FROM scratch\nCOPY root /\nENV PATH=/usr/local/bin:/bin\n")
    buildah = Buildah(tmp_path)
    try:
        buildah.build(tmp_path / "base", "localhost/base")
        container = buildah("from", "--pull-never", "localhost/base").stdout.strip()
        act = BY_BUILDAH.replace("BUILDAH", repr(buildah.command)).replace("CONTAINER", repr(container))
        stand_in(tmp_path / "bin", act)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
        hook = "print('alone', not os.path.exists('/usr/bin/git'), os.listdir('/usr/local'))"
        contained.hook(hook)
        done = contained.reprokit("run", "recipe.yaml")
        assert "alone True ['bin']" in done.stdout
        assert contained.json("reproduce", "latest")["verdict"] == "BITWISE"
    finally:
        buildah.remove()


@pytest.mark.parametrize(
    "image", ["python:3.11", "python", f"python@sha256:{'5' * 63}", f"-x@sha256:{'5' * 64}", f"a b@sha256:{'5' * 64}",
              f"a@sha256:{'5' * 64}\n", f"A@md5:{'5' * 64}", ""]
)  # fmt: skip
def test_an_image_that_no_digest_names_is_refused(image: str) -> None:
    plain: dict[str, Any] = {"name": "x", "code": {"entrypoint": "t.py"}, "environment": {"container": image}}
    with pytest.raises(RecipeError, match="names no image by its digest; a tag may move"):
        from_plain(plain)


def test_without_an_engine_it_says_what_to_install(
    contained: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").symlink_to(str(shutil.which("git")))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    said = contained.reprokit("run", "recipe.yaml", expect=5).stderr
    assert "nothing here runs one: neither podman nor docker is on PATH." in said
    assert "Install podman" in said
    (tmp_path / "bin" / "docker").write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon.' >&2\nexit 1\n")
    (tmp_path / "bin" / "docker").chmod(0o755)
    with pytest.raises(
        EnvironmentMismatchError, match=r"docker does not answer: Cannot connect to the Docker daemon\."
    ):
        open_container(IMAGE)


def test_a_secret_is_passed_to_an_engine_by_its_name_alone(tmp_path: Path) -> None:
    told = Container(Path("/usr/bin/podman"), IMAGE).command(
        ["python"], name="x", folder=tmp_path, writable=[], readable=[], variables={"A": "1"}, passed=["HF_TOKEN"]
    )
    assert [told[at + 1] for at, word in enumerate(told) if word == "--env"] == ["A=1", "HF_TOKEN"]


def test_a_path_that_would_mean_more_than_one_thing_to_an_engine_is_refused(tmp_path: Path) -> None:
    container = Container(Path("/usr/bin/podman"), IMAGE)
    with pytest.raises(RefusedError, match="has a comma or a quote"):
        container.command(
            ["python"], name="x", folder=tmp_path, writable=[tmp_path / "a,readonly"], readable=[], variables={}
        )


def test_the_hash_of_an_environment_that_is_no_container_is_what_it_was() -> None:
    plain = EnvironmentLock(python="3.11.7", implementation="CPython", platform="linux-x86_64")
    assert plain.hash == "584b116fb18eadfd3bf802b2a7c77f8487c9488c74c3fdc6a0a7689a727f9bb0"
