"""Hermetic execution, by the real bubblewrap: what a script tries to get at is not there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from reprokit.errors import EnvironmentMismatchError, Error, RefusedError
from reprokit.execution.hermetic import inherited_variables, open_sandbox
from reprokit.locking.prepared import Prepared
from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import RunStore
from reprokit.schema.lock import CodeIdentity, EnvironmentLock, RunLock
from reprokit.schema.recipe import from_plain
from reprokit.schema.record import CodeFacts
from tests.client.boot.test_reprokit_watch import Ground
from tests.conftest import Project


def _prepared(**more: Any) -> Prepared:
    notebook = more.pop("notebook", None)
    recipe = from_plain({"name": "t", "code": {"notebook": notebook} if notebook else {"entrypoint": "t.py"}})
    lock = RunLock(
        recipe=recipe,
        code=CodeIdentity(tree="0" * 40),
        environment=EnvironmentLock(python="3.11", implementation="CPython", platform="linux-x86_64"),
        data=[],
        params={},
        execution=recipe.execution,
    )
    return Prepared(lock=lock, entries=[], code=CodeFacts(tree="0" * 40), name="t", **more)


def _refused() -> str | None:
    """Return why this machine executes nothing hermetically, asked of bubblewrap itself."""
    try:
        open_sandbox(_prepared())
    except Error as error:
        return error.message
    return None


WHY_NOT = _refused()
sandboxed = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

_THIEF = """\
import json, os, pathlib, socket, subprocess, sys
import numpy as np
import reprokit

params = reprokit.params(listener=0, targets=[], victim=0)
got = {}

def attempt(name, theft):
    try:
        got[name] = repr(theft())
    except BaseException as error:
        got[name] = f"refused {type(error).__name__}"

attempt("network", lambda: socket.create_connection(("127.0.0.1", params["listener"]), 2).recv(9))
attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect("\\0reprokit-victim"))
for target in params["targets"]:
    attempt(target, lambda: pathlib.Path(target).read_bytes()[:9])
    attempt(f"cat {target}", lambda: subprocess.run(["cat", target], capture_output=True, check=True))
attempt("passwd", lambda: subprocess.run(["cat", "/etc/passwd"], capture_output=True, check=True))
attempt("signal", lambda: os.kill(params["victim"], 0))
attempt("secret", lambda: os.environ["MY_TOKEN"])
attempt("write input", lambda: pathlib.Path("data/in/0.txt").write_text("x"))
attempt("new input", lambda: pathlib.Path("data/in/new").write_text("x"))
attempt("write root", lambda: pathlib.Path("/new").write_text("x"))
got["input"] = pathlib.Path("data/in/2.txt").read_text()
got["localhost"] = socket.gethostbyname("localhost")
got["home"] = os.listdir(os.path.expanduser("~"))
got["processes"] = len([name for name in os.listdir("/proc") if name.isdigit()])
reprokit.save_checkpoint({"w": np.arange(3.0)}, epoch=0)
json.dump(got, open("got.json", "w"))
"""


@pytest.fixture(scope="module")
def thief(tmp_path_factory: pytest.TempPathFactory, small: Path) -> Project:
    made = Project(tmp_path_factory.mktemp("thief"), small)
    made.build()
    made.write("thief.py", _THIEF)
    made.write(
        "thief.yaml",
        "name: thief\ncode: {entrypoint: thief.py}\ndata: {in: {package: t/in, path: data/in}}\n"
        "params: {listener: 0, targets: [], victim: 0}\nexecution: {threads: 1}\n"
        "outputs: [{path: got.json, compare: ignore}]\n",
    )
    made.commit()
    return made


@sandboxed
@pytest.mark.parametrize("layout", ["symlink", "copy"])
def test_a_script_gets_neither_network_nor_home_nor_system_nor_another_run_s_files(
    thief: Project, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = (thief.root / "thief.yaml").read_text()
    if layout == "copy" and "layout" not in recipe:
        thief.write("thief.yaml", recipe.replace("threads: 1", "threads: 1, layout: copy"))
        thief.commit()
    home = thief.base / "person"
    home.mkdir(exist_ok=True)
    (home / ".netrc").write_text("password")
    other = thief.base / "home" / "runs" / "20260101-000000-abcdef"
    other.mkdir(parents=True, exist_ok=True)
    (other / "log.txt").write_text("of another run")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MY_TOKEN", "hunter2")
    targets = [
        home / ".netrc",
        other / "log.txt",
        thief.root / "thief.py",
        thief.registry / "packages",
        "/etc/hostname",
    ]
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0reprokit-victim")
        abstract.listen()
        options = {
            "listener": listener.getsockname()[1], "victim": os.getpid(), "targets": json.dumps([*map(str, targets)])
        }  # fmt: skip
        told = [item for key, value in options.items() for item in ("-p", f"{key}={value}")]
        record = thief.json("run", "thief.yaml", "--hermetic", *told)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert (record["status"], record["execution"]["hermetic"], record["execution"]["inputs"]) == (
        "finished",
        True,
        "deny",
    )
    assert [entry["epoch"] for entry in record["checkpoints"]] == [0]
    got = _got(thief, record["run_id"])
    assert (got.pop("input"), got.pop("home"), got.pop("localhost")) == ("2\n", [], "127.0.0.1")
    assert got.pop("processes") <= 4
    assert {name: said for name, said in got.items() if not said.startswith("refused ")} == {}
    assert len(got) == 8 + 2 * len(targets)


def _got(project: Project, run_id: str) -> dict[str, Any]:
    registry = LocalRegistry(project.registry)
    manifest = RunStore(registry).load(run_id).manifest
    found: dict[str, Any] = json.loads(registry.read_object(manifest["outputs/got.json"], what="the output"))
    return found


@sandboxed
def test_a_hermetic_repetition_of_an_ordinary_run_is_bitwise_and_denies_what_is_undeclared(project: Project) -> None:
    run_id = project.json("run", "recipe.yaml")["run_id"]
    verdict = project.json("reproduce", run_id, "--hermetic", cwd=project.base)
    assert verdict["verdict"] == "BITWISE"
    execution = project.json("show", verdict["run_id"])["execution"]
    assert (execution["hermetic"], execution["inputs"]) == (True, "deny")


@sandboxed
def test_of_what_python_or_native_code_would_read_undeclared_nothing_is_there(tmp_path: Path) -> None:
    ground = Ground(tmp_path)
    scratch, report = tmp_path / "scratch", tmp_path / "report-deny"

    def around(command: list[str]) -> list[str]:
        return open_sandbox(_prepared()).command(
            command, folder=ground.workspace, writable=[ground.workspace, scratch, report],
            readable=[tmp_path / "cache/trees/a"], etc={},
        )  # fmt: skip

    try:
        told, found = ground.run("deny", around)
    finally:
        ground.forget()
    assert len(told) == len(ground.does)
    assert {file: came for file, came in told.items() if came == "read"} == {}
    assert found.undeclared == []


@sandboxed
def test_a_hermetic_run_that_is_told_to_stop_saves_first(project: Project) -> None:
    project.write(
        "train.py",
        "import signal, sys, time\nimport numpy as np\nimport reprokit\n"
        "def stop(*_):\n"
        "    reprokit.save_checkpoint({'w': np.ones(3)}, epoch=1)\n"
        "    sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "reprokit.save_checkpoint({'w': np.zeros(3)}, epoch=0)\n"
        "print('ready', flush=True)\ntime.sleep(60)\n",
    )
    project.commit()
    runner = subprocess.Popen(
        project.command("run", "recipe.yaml", "--hermetic"), cwd=project.root, env=project.environment(),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert runner.stdout is not None
    assert runner.stdout.readline() == "ready\n"
    time.sleep(0.2)
    runner.send_signal(signal.SIGTERM)
    runner.communicate(timeout=60)
    assert runner.returncode == 130
    record = project.json("show", "latest")
    assert record["status"] == "interrupted"
    assert [entry["epoch"] for entry in record["checkpoints"]] == [0, 1]


def test_a_run_that_needs_secrets_gets_none_hermetically(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "not to be told")
    recipe = (project.root / "recipe.yaml").read_text()
    project.write("recipe.yaml", recipe.replace("threads: 1", "threads: 1, secrets: [MY_TOKEN]"))
    project.commit()
    refused = project.reprokit("run", "recipe.yaml", "--hermetic", expect=3).stderr
    assert "A hermetic run gets no secrets, and this one needs MY_TOKEN." in refused
    assert project.json("ls")["runs"] == []


def test_without_bubblewrap_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentMismatchError) as caught:
        open_sandbox(_prepared())
    assert caught.value.message == "Hermetic execution is done by bubblewrap, and there is no `bwrap` on PATH."
    assert caught.value.hint is not None
    assert "apt-get install bubblewrap" in caught.value.hint


def test_where_the_host_forbids_it_it_is_said_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = "bwrap: No permissions to create new namespace, likely because the kernel does not allow it"
    (tmp_path / "bwrap").write_text(f"#!/bin/sh\necho warning >&2\necho '{said}' >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentMismatchError) as caught:
        open_sandbox(_prepared())
    message = f"Hermetic execution is not possible here: {tmp_path}/bwrap does not start {sys.executable}: {said}."
    assert caught.value.message == message
    assert caught.value.hint is not None
    assert "kernel.apparmor_restrict_unprivileged_userns=0" in caught.value.hint


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="there is no bwrap")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare")
def test_a_host_without_namespaces_is_named() -> None:
    """A real refusal of the kernel: in a namespace in which no further one may be made."""
    limit = 'echo 0 > /proc/sys/user/max_mnt_namespaces && exec "$@"'
    inside = ["unshare", "--user", "--map-root-user", "sh", "-c", limit, "sh"]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives no namespace in which the limit could be set")
    asked = "from tests.execution.test_hermetic import _refused\nprint(_refused())"
    done = subprocess.run([*inside, sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Hermetic execution is not possible here: ")


@pytest.mark.parametrize(
    ("more", "how"),
    [({"notebook": "n.ipynb"}, "a notebook"), ({"in_place": Path("/")}, "in the working tree (--in-place)")],
)
def test_what_is_not_executed_hermetically_is_refused(more: dict[str, Any], how: str) -> None:
    with pytest.raises(RefusedError) as caught:
        open_sandbox(_prepared(**more))
    told = f"This run is executed {how}, which is not done hermetically by this release."
    assert caught.value.message == told


def test_of_the_shell_s_variables_only_those_of_numbers_go_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MKL_CBWR", "LD_PRELOAD", "OMP_TOOL_LIBRARIES", "AWS_SECRET_ACCESS_KEY", "HOME", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "x")
    given = inherited_variables()
    assert given["MKL_CBWR"] == "x"
    assert not {"LD_PRELOAD", "OMP_TOOL_LIBRARIES", "AWS_SECRET_ACCESS_KEY", "HOME", "HTTPS_PROXY"} & set(given)
