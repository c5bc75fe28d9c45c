"""A workspace is a jail for what reprokit itself does by a lock's paths, and each output in it is found by itself."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reprokit.core.logical_keys import check_logical_keys
from reprokit.errors import DataMismatchError, RefusedError
from reprokit.execution.workspace import find_outputs, lay_code, lay_outputs
from reprokit.registry.local import LocalRegistry
from reprokit.reproduction.overrides import Overrides
from reprokit.reproduction.reproduce import reproduce
from reprokit.runs.store import RunStore
from reprokit.schema.lock import CodeIdentity, RunLock
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.recipe import Output
from tests.conftest import Project
from tests.faults.forging import Forger

_CODE = """\
import pathlib
pathlib.Path("out.txt").write_text("x")
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, small: Path) -> tuple[Project, str]:
    """A run whose code has links to a folder outside, by the name `lib`, and to a file there, `start.py`."""
    project = Project(tmp_path_factory.mktemp("ran"), small)
    project.build()
    outside = project.base / "outside"
    outside.mkdir()
    (outside / "sitecustomize.py").write_text(f"open({str(project.base / 'executed')!r}, 'w')")
    (project.root / "lib").symlink_to(outside)
    (project.root / "start.py").symlink_to(outside / "sitecustomize.py")
    project.write("train.py", _CODE)
    recipe = "name: t\ncode: {entrypoint: train.py}\ndata: {in: {package: t/in, path: in}}\noutputs: [out.txt]\n"
    project.write("recipe.yaml", recipe)
    project.commit()
    return project, project.json("run", "recipe.yaml")["run_id"]


def _recipe(lock: RunLock, **changes: Any) -> RunLock:
    return msgspec.structs.replace(lock, recipe=msgspec.structs.replace(lock.recipe, **changes))


@pytest.mark.parametrize("field", ["code.python_path", "code.workdir", "code.entrypoint", "data.in.path", "outputs"])
def test_a_link_in_a_stranger_s_code_leads_reprokit_nowhere(
    ran: tuple[Project, str], field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, run_id = ran
    forger = Forger(project.registry, tmp_path / "copy", run_id)
    lock = RunStore(forger.registry).lock(forger.run)
    path = {"code.entrypoint": "start.py", "data.in.path": "lib/in", "outputs": "lib/out.txt"}.get(field, "lib")
    if field == "code.python_path":
        lock = msgspec.structs.replace(lock, code=msgspec.structs.replace(lock.code, python_path=[path]))
    elif field == "data.in.path":
        lock = msgspec.structs.replace(lock, data=[msgspec.structs.replace(lock.data[0], path=path)])
    elif field == "outputs":
        lock = _recipe(lock, outputs=[path])
    else:
        code = msgspec.structs.replace(lock.recipe.code, **{field.partition(".")[2]: path})
        lock = _recipe(lock, code=code)
    shutil.rmtree(forger.place / "log" / "runs")  # as if it had been so from the beginning
    told = [msgspec.structs.replace(one, path=path) for one in forger.run.record.data]
    data = told if field == "data.in.path" else forger.run.record.data
    outputs = [] if field == "outputs" else forger.run.record.outputs
    gone = ("outputs/out.txt",) if field == "outputs" else ()
    forger.record({"lock_hash": lock.hash, "data": data, "outputs": outputs}, {"lock.json": lock.encode()}, gone=gone)
    monkeypatch.setenv("REPROKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("REPROKIT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(RefusedError) as caught:
        reproduce(run_id, registry=str(forger.place), overrides=Overrides.parse(("env=current",)))
    led = str(Path(path).parent) if field == "data.in.path" else path
    assert caught.value.message.startswith(f"{field}: {led!r} leads out of the workspace ")
    assert not (project.base / "executed").exists()
    assert sorted(file.name for file in (project.base / "outside").iterdir()) == ["sitecustomize.py"]


def test_what_an_earlier_attempt_wrote_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "out.txt").symlink_to(tmp_path / "outside.txt")
    with pytest.raises(RefusedError, match="leads out of the workspace"):
        lay_outputs({"out.txt": b"x"}, tmp_path / "work")
    assert not (tmp_path / "outside.txt").exists()


def test_code_that_has_a_repository_inside_is_no_code(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry", cache=tmp_path / "cache")
    with registry.staging() as sink:
        digest, size = sink.put_bytes(b"[core]\nfsmonitor = /tmp/x\n")
    manifest = Manifest.make([Entry("code/.git/config", size, digest, {"reprokit": {"mode": "100644"}})])
    with pytest.raises(DataMismatchError, match=r"'code/\.git/config', which no git tree has"):
        lay_code(manifest, CodeIdentity(tree="0" * 40), tmp_path / "work", registry=registry)
    assert not (tmp_path / "work").exists()


def _odd_outputs(out: Path) -> dict[str, str]:
    """Fill a folder with files that can be kept and things that cannot; return why not, by name."""
    out.mkdir()
    for name in ("fine.txt", "line\nfeed", "\x1b[31m.txt", "ü.txt", "Twin", "twin", "a\\b", "e\u0301"):
        (out / name).write_text(name)
    (out / os.fsdecode(b"caf\xe9")).write_text("latin")
    (out / "deep").mkdir()
    (out / "deep" / "er.txt").write_text("x")
    (out / "to-file").symlink_to("fine.txt")
    (out / "to-folder").symlink_to("deep")
    (out / "leads-out").symlink_to("/etc/hostname")
    (out / "folder-out").symlink_to("/etc")
    (out / "dead").symlink_to("nowhere")
    (out / "self").symlink_to("self")
    os.mkfifo(out / "pipe")
    leads_out, no_file = "it is a symbolic link that leads out of the workspace", "it is a pipe, a socket or a device"
    return {
        "twin": "beside 'out/Twin', its name differs in case alone",
        "a\\b": "it holds a backslash",
        "e\u0301": "it is not in Unicode NFC",
        "caf\\xe9": "its name is not UTF-8",
        "leads-out": leads_out,
        "folder-out": leads_out,
        "dead": "it is a symbolic link to nothing",
        "self": "it cannot be read: ",
        "pipe": f"{no_file}, and no file",
    }


def test_a_name_that_cannot_be_kept_costs_no_other(tmp_path: Path) -> None:
    why = _odd_outputs(tmp_path / "out")
    found = {one.path.removeprefix("out/"): one for one in find_outputs([Output(path="out")], tmp_path)}
    unkept = {name: one.unkept for name, one in found.items() if one.file is None}
    assert unkept.keys() == why.keys()
    assert all(str(unkept[name]).startswith(reason) for name, reason in why.items())
    kept = {"fine.txt", "line\nfeed", "\x1b[31m.txt", "ü.txt", "Twin", "deep/er.txt", "to-file"}
    assert {name for name, one in found.items() if one.file is not None} == kept
    check_logical_keys(f"outputs/{one.path}" for one in found.values() if one.file is not None)


def test_a_path_longer_than_a_key_and_a_folder_deeper_than_any_path_are_named(tmp_path: Path) -> None:
    deep = os.open(tmp_path, os.O_RDONLY)
    try:
        for name in ["out", *["d" * 250] * 17]:  # more than PATH_MAX, reached as a script reaches it
            os.mkdir(name, dir_fd=deep)
            below = os.open(name, os.O_RDONLY, dir_fd=deep)
            os.close(deep)
            deep = below
    finally:
        os.close(deep)
    (tmp_path / "out" / "fine").write_text("x")
    found = find_outputs([Output(path="out")], tmp_path)
    assert [one.path for one in found if one.file is not None] == ["out/fine"]
    assert [one.unkept for one in found if one.file is None] == ["it cannot be read: File name too long"]


def test_a_folder_that_is_a_link_out_of_the_workspace_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a").write_text("x")
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "out").symlink_to(tmp_path / "elsewhere")
    found = find_outputs([Output(path="out"), Output(path="none")], tmp_path / "w")
    leads_out = "it is a symbolic link that leads out of the workspace"
    assert [(one.path, one.file, one.unkept) for one in found] == [("out", None, leads_out), ("none", None, None)]
