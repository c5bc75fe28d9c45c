"""An environment is rebuilt from its lock, exactly, or the very package that stands in the way is named."""

from __future__ import annotations

import http.server
import marshal
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from reprokit.core.progress import SILENT, Advance
from reprokit.environment import vault
from reprokit.environment.capture import capture_environment
from reprokit.environment.local.interpreter import Interpreter, find_interpreter
from reprokit.environment.pip.wheelhouse import Vault
from reprokit.environment.pip.wheels import repack
from reprokit.environment.realise import realise
from reprokit.environment.vault import Packing, VaultOrder
from reprokit.errors import EnvironmentMismatchError, RefusedError
from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import RunStore
from reprokit.schema.lock import EnvironmentLock
from tests.conftest import ROOT, Project
from tests.environment.making import needed_by_reprokit, only, repacked, venv, wheel

SCALE = float(os.environ.get("REPROKIT_TEST_SCALE", "1"))
DEMO = {"demo.py": "rate = 0.1\n", "demo-1.0.dist-info/entry_points.txt": "[console_scripts]\ndemo = demo:main\n"}


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A folder of wheels, which pip is told to look into."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel(folder, "demo", "1.0", DEMO)
    wheel(folder, "other", "2.0", {"other.py": "x = 1\n"})
    return folder


@pytest.fixture
def interpreter(tmp_path: Path, index: Path) -> Interpreter:
    return Interpreter.at(venv(tmp_path / "original", list(index.iterdir())))


@pytest.fixture
def served(index: Path) -> Iterator[str]:
    """The folder as an index over HTTP."""
    for file in list(index.iterdir()):
        page = index / "simple" / file.name.split("-")[0]
        page.mkdir(parents=True)
        (page / "index.html").write_text(f'<a href="/{file.name}">{file.name}</a>')

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(index))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/simple/"
        server.shutdown()


class Told:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def task(self, title: str, total: int | None, *, unit: str = "") -> AbstractContextManager[Advance]:
        return SILENT.task(title, total, unit=unit)


def test_what_goes_into_the_vault_is_announced_with_its_size_and_why_once(
    interpreter: Interpreter, tmp_path: Path
) -> None:
    lock = capture_environment(interpreter=interpreter)
    registry = LocalRegistry(tmp_path / "registry")
    (found,) = distributions(name="demo", path=[str(interpreter.places[0])])
    size = sum(file.size or 0 for file in found.files or [])

    def stored(which: Literal["unserved", "all"], changed: dict[str, list[str]]) -> list[str]:
        told = Told()
        with Packing(_order(lock, interpreter, tmp_path, which, changed), registry, progress=told) as packing:
            entries, warnings = packing.finish()
        assert (len(entries), warnings) == (len(packing.names), [])
        return told.notes

    why = "for the vault, once on this machine"
    first, second = sorted(stored("unserved", {"demo": ["demo.py", "x.py"]}))
    assert first == f"Packing demo 1.0 ({size / 1e6:,.1f} MB) {why}: changed since it was installed, demo.py."
    assert re.fullmatch(rf"Packing other 2\.0 \(0\.0 MB\) {why}: it did not come from an index\.", second)
    assert stored("unserved", {"demo": ["demo.py"]}) == stored("all", {}) == []


def _order(
    lock: EnvironmentLock, interpreter: Interpreter, tmp_path: Path, which: Literal["unserved", "all"], changed: Any
) -> VaultOrder:
    return VaultOrder(lock=lock, which=which, changed=changed, python=interpreter.python, cache=tmp_path / "cache")


def test_packages_are_packed_while_something_else_goes_on_and_waited_for_at_its_end(
    interpreter: Interpreter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, begun, go_on = LocalRegistry(tmp_path / "registry"), threading.Event(), threading.Event()

    def held_up(*arguments: Any, **more: Any) -> Path:
        begun.set()
        assert go_on.wait(60)
        return repack(*arguments, **more)

    monkeypatch.setattr(vault, "repack", held_up)
    lock, seen = capture_environment(interpreter=interpreter), []
    order = _order(lock, interpreter, tmp_path, "unserved", {"demo": ["demo.py"]})
    with Packing(order, registry, packed=lambda name, entry: seen.append((name, entry))) as packing:
        assert begun.wait(60)
        assert packing.names == ["demo 1.0", "other 2.0"]
        assert seen == []  # nothing is ready, and what is in the context is executed
        go_on.set()
        entries, warnings = packing.finish()
    assert (warnings, seen) == ([], list(zip(packing.names, entries, strict=True)))
    assert registry.lacking(entries) == []


def test_a_package_that_is_edited_before_it_is_packed_is_a_warning_and_costs_no_other(
    interpreter: Interpreter, tmp_path: Path
) -> None:
    lock = capture_environment(interpreter=interpreter)
    order = _order(lock, interpreter, tmp_path, "unserved", {"demo": ["demo.py"]})
    Path(interpreter.places[0], "demo.py").write_text("EDITED = True\n")
    with Packing(order, LocalRegistry(tmp_path / "registry")) as packing:
        entries, (warning,) = packing.finish()
    assert [entry.logical_key.rpartition("/")[2][:5] for entry in entries] == ["other"]
    assert warning.startswith("The run will not be rebuilt elsewhere: demo 1.0: ")
    assert "has other files than the locked one" in warning


def test_it_is_made_from_an_index_once_and_found_again(
    interpreter: Interpreter, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, NO_INDEX="1", FIND_LINKS=str(index))
    lock = capture_environment(interpreter=interpreter)
    shutil.rmtree(interpreter.prefix)
    cache = tmp_path / "cache"
    told = Told()
    python = realise(lock, cache=cache, progress=told)
    kept = cache / "wheels"
    assert told.notes == [f"Fetching what this machine has no copy of, to keep it in {kept}: demo 1.0, other 2.0."]
    assert capture_environment(interpreter=Interpreter.at(python)) == lock
    assert (python.parent / "demo").read_text().startswith(f"#!{python}\n")
    before = (python.parent.parent / "pyvenv.cfg").stat().st_mtime_ns
    shutil.rmtree(index)
    assert realise(lock, cache=cache, offline=True) == python
    assert (python.parent.parent / "pyvenv.cfg").stat().st_mtime_ns == before


def test_one_that_somebody_changed_is_made_again(
    interpreter: Interpreter, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, NO_INDEX="1", FIND_LINKS=str(index))
    lock = capture_environment(interpreter=interpreter)
    python = realise(lock, cache=tmp_path / "cache")
    shutil.rmtree(Path(Interpreter.at(python).places[0]) / "other-2.0.dist-info")
    assert capture_environment(interpreter=Interpreter.at(realise(lock, cache=tmp_path / "cache"))) == lock


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    base = tmp_path_factory.mktemp("made")
    (base / "index").mkdir()
    wheel(base / "index", "demo", "1.0", DEMO)
    original = venv(base / "original", [base / "index" / "demo-1.0-py3-none-any.whl"])
    with pytest.MonkeyPatch.context() as patch:
        only(patch, NO_INDEX="1", FIND_LINKS=str(base / "index"))
        yield Made(capture_environment(interpreter=Interpreter.at(original)), base / "cache")


class Made:
    """An environment in a cache, and what was said when it was asked for."""

    def __init__(self, lock: EnvironmentLock, cache: Path) -> None:
        self.lock, self.cache = lock, cache
        self.said: list[str] = []
        self.python = realise(lock, cache=cache)
        self.folder = self.python.parent.parent
        self.site = Path(Interpreter.at(self.python).places[0])
        self.marker = cache.parent / "executed"
        self.harm = f"open({str(self.marker)!r}, 'w')\n"

    def again(self) -> Path:
        self.said.clear()
        return realise(self.lock, cache=self.cache, progress=_Notes(self.said))

    def run(self) -> str:
        done = subprocess.run([self.python, "-c", "import demo; print(demo.rate)"], capture_output=True, text=True)
        return done.stdout.strip() or done.stderr


class _Notes(type(SILENT)):  # type: ignore[misc]
    def __init__(self, said: list[str]) -> None:
        self._said = said

    def note(self, text: str) -> None:
        self._said.append(text)


def _replace_interpreter(made: Made) -> None:
    real = made.python.resolve()
    made.python.unlink()
    made.python.write_text(f'#!/bin/sh\ntouch {made.marker}\nexec {real} "$@"\n')
    made.python.chmod(0o755)


def test_an_interpreter_that_was_replaced_is_never_executed(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    _replace_interpreter(made)
    assert made.again() == made.python
    assert made.said == [f"{made.folder} is made again: bin/python was changed."]
    assert made.run() == "0.1"
    _replace_interpreter(made)
    monkeypatch.setenv("PIP_FIND_LINKS", str(made.cache / "nothing"))
    kept = made.cache / "wheels"
    kept.rename(made.cache / "away")
    with pytest.raises(EnvironmentMismatchError) as caught:
        made.again()
    assert caught.value.message.startswith(
        f"{made.folder} was not what was made there any more (bin/python was changed) and was removed. It cannot be "
        "made again: "
    )
    assert not made.marker.exists() and not made.python.exists()
    shutil.rmtree(kept, ignore_errors=True)
    (made.cache / "away").rename(kept)
    made.again()


@pytest.mark.parametrize("name", ["evil.pth", "sitecustomize.py", "usercustomize.py", "json.py", "demo/__init__.py"])
def test_what_was_put_beside_an_environment_is_removed_and_not_executed(made: Made, name: str) -> None:
    before = (made.folder / "pyvenv.cfg").stat()
    place = made.site / name
    place.parent.mkdir(exist_ok=True)
    place.write_text(f"import os; {made.harm}" if name.endswith(".pth") else made.harm)
    assert made.again() == made.python
    removed = [str(one.relative_to(made.folder)) for one in (place.parent, place) if one != made.site]
    assert made.said == [f"{one} was removed from {made.folder}: it was not made with it." for one in removed]
    assert made.run() == "0.1"
    assert not made.marker.exists() and not place.exists()
    assert (made.folder / "pyvenv.cfg").stat() == before  # it was not made again


@pytest.mark.parametrize("known", [False, True])
def test_bytecode_that_was_not_compiled_here_is_not_executed(made: Made, known: bool) -> None:
    shutil.rmtree(made.site / "__pycache__", ignore_errors=True)
    made.again()
    assert made.run() == "0.1"
    if known:
        made.again()
    (bytecode,) = (made.site / "__pycache__").glob("demo.*.pyc")
    honest = bytecode.read_bytes()
    bytecode.write_bytes(honest[:16] + marshal.dumps(compile(f"{made.harm}\nrate = 0.9", "demo.py", "exec")))
    made.again()
    assert made.run() == "0.1"
    assert not made.marker.exists() and made.said == []
    seen = bytecode.stat()
    made.again()
    assert bytecode.stat().st_ino == seen.st_ino and made.said == []  # compiled once


@pytest.mark.parametrize("where", [".", "environments"])
def test_a_cache_that_others_may_write_is_refused_before_anything_in_it_is_executed(made: Made, where: str) -> None:
    folder = made.cache / where
    before = folder.stat().st_mode
    folder.chmod(0o777)
    with pytest.raises(RefusedError) as caught:
        made.again()
    assert str(caught.value.message) == (
        f"{folder} may be written by others (drwxrwxrwx): what lies in it is not executed."
    )
    assert caught.value.hint == (
        f"`chmod go-w {folder}`; if you do not know who wrote there, `rm -r {folder}`: it is made again."
    )
    folder.chmod(before)
    made.again()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
@pytest.mark.parametrize("where", [".", "environments"])
def test_a_cache_of_another_user_is_refused_before_anything_in_it_is_executed(made: Made, where: str) -> None:
    folder = made.cache / where
    os.chown(folder, 65534, 65534)
    with pytest.raises(RefusedError, match=rf"^{folder} belongs to nobody, not to root: what lies in it is not "):
        made.again()
    os.chown(folder, 0, 0)
    made.again()


@pytest.mark.parametrize("scheme", ["file", "http"])
def test_an_archive_that_is_not_the_locked_one_is_refused_by_name(
    scheme: str, interpreter: Interpreter, index: Path, served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if scheme == "file":
        only(monkeypatch, NO_INDEX="1", FIND_LINKS=str(index))
    else:
        only(monkeypatch, INDEX_URL=served)
    lock = capture_environment(interpreter=interpreter)
    realise(lock, cache=tmp_path / "good")
    wheel(index, "demo", "1.0", {**DEMO, "demo.py": "rate = 0.2\n"})  # whole, and another
    with pytest.raises(EnvironmentMismatchError, match=r"demo 1\.0: .* has other files than the locked one"):
        realise(lock, cache=tmp_path / "other")
    file = index / "demo-1.0-py3-none-any.whl"
    file.write_bytes(file.read_bytes().replace(b"rate = 0.2", b"rate = 0.3"))
    with pytest.raises(EnvironmentMismatchError, match=r"demo 1\.0: The wheel demo"):
        realise(lock, cache=tmp_path / "damaged")
    file.unlink()
    with pytest.raises(EnvironmentMismatchError, match=r"no index serves a wheel of demo 1\.0|Could not install"):
        realise(lock, cache=tmp_path / "gone")
    assert not [path for path in (tmp_path / "gone" / "environments").iterdir() if path.is_dir()]


def test_no_other_version_of_python_stands_in_for_the_locked_one() -> None:
    here = Interpreter.here()
    found = find_interpreter(version=here.version, implementation=here.implementation, system=here.platform)
    assert found.version == here.version
    with pytest.raises(EnvironmentMismatchError, match=r"CPython 3\.99\.0 for linux-x86_64 is not on this machine"):
        find_interpreter(version="3.99.0", implementation="CPython", system="linux-x86_64")


def test_a_vault_that_lies_about_names_gives_the_locked_package_or_none(
    interpreter: Interpreter, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, NO_INDEX="1")
    lock = capture_environment(interpreter=interpreter)
    files = {"demo": index / "demo-1.0-py3-none-any.whl", "other": index / "other-2.0-py3-none-any.whl"}

    def named(file: Path, name: str) -> Callable[[Path], Path]:
        return lambda folder: Path(shutil.copy(file, folder / name))

    swapped = {"demo": named(files["other"], "demo-1.0-py3-none-any.whl"), "other": named(files["demo"], "o.whl")}
    with pytest.raises(EnvironmentMismatchError, match=r"demo 1\.0: demo-1.* is other 2\.0"):
        realise(lock, cache=tmp_path / "cache", vault=Vault(swapped), offline=True)
    misnamed = {"demo": named(files["demo"], "x.txt"), "other": named(files["other"], "other-9-cp27-none-any.whl")}
    python = realise(lock, cache=tmp_path / "cache", vault=Vault(misnamed), offline=True)
    assert capture_environment(interpreter=Interpreter.at(python)) == lock
    (demo, other) = lock.pip
    borrowed = msgspec.structs.replace(lock, pip=[msgspec.structs.replace(demo, record=other.record), other])
    with pytest.raises(EnvironmentMismatchError, match=r"No copy here of demo 1\.0"):
        realise(borrowed, cache=tmp_path / "cache", offline=True)


@pytest.mark.slow
@pytest.mark.skipif(SCALE < 2, reason="installs PyTorch twice, for minutes; REPROKIT_TEST_SCALE=2")
def test_digits_reproduce_in_an_environment_that_an_index_serves_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = repacked(tmp_path / "index", needed_by_reprokit("pandas", "scikit-learn", "torch"))
    only(monkeypatch, NO_INDEX="1", FIND_LINKS=str(tmp_path / "index"))
    project = Project(tmp_path)
    recipe = (ROOT / "recipes" / "digits-torch.yaml").read_text()
    project.write("recipe.yaml", recipe.replace("recipes/digits_", "digits_"))
    project.write("digits_torch.py", (ROOT / "recipes" / "digits_torch.py").read_text())
    project.commit()
    project.python = str(venv(tmp_path / "venv", wheels))
    first = project.json("run", "recipe.yaml", "-q", patience=600)
    lock = capture_environment(interpreter=Interpreter.at(Path(project.python)))
    shutil.rmtree(tmp_path / "venv")

    project.python = sys.executable
    done = project.reprokit("reproduce", first["run_id"], home="elsewhere", patience=600)
    assert "BITWISE: every state digest" in done.stdout
    (made,) = (tmp_path / "elsewhere-cache" / "environments").glob("*/bin/python")
    assert capture_environment(interpreter=Interpreter.at(made)) == lock
    assert lock.hash == first["environment"]["hash"]


def _kill_once_packed(project: Project, packages: int) -> None:
    """Start a run, and kill it while its script goes on and so many packages are packed."""
    with subprocess.Popen(project.command("run", "recipe.yaml"), cwd=project.root, env=project.environment()) as runner:
        try:
            for _ in range(1200):
                journals = [*(project.base / "home" / "runs").glob("*/journal.jsonl")]
                if journals and journals[0].read_text().count('"packed"') == packages:
                    return
                assert runner.poll() is None
                time.sleep(0.1)
        finally:
            runner.kill()
    raise AssertionError("not packed within two minutes")


@pytest.mark.slow
def test_a_run_reproduces_after_its_environment_and_every_index_are_gone(tmp_path: Path) -> None:
    wheels = repacked(tmp_path / "wheels", needed_by_reprokit())
    project = Project(tmp_path)
    original = venv(tmp_path / "venv", [*wheels, wheel(tmp_path, "demo", "1.0", DEMO)])
    script = (project.root / "train.py").read_text()
    hold = f"import os.path, time\nwhile os.path.exists({str(tmp_path / 'hold')!r}): time.sleep(0.1)\n"
    imports = f"import reprokit, demo, sys; print(sys.prefix)\n{hold}"
    project.write("train.py", script.replace("import reprokit\n", imports))
    recipe = (project.root / "recipe.yaml").read_text()
    project.write("recipe.yaml", f"{recipe}environment: {{vault: all}}\n")
    project.commit()
    project.build()
    project.python = str(original)
    (tmp_path / "hold").touch()
    _kill_once_packed(project, len(wheels) + 1)
    (tmp_path / "hold").unlink()
    (left,) = project.json("ls")["runs"]
    store = RunStore(LocalRegistry(project.registry))
    assert len(store.load(left["run_id"]).manifest.below("vault")) == len(wheels) + 1
    first = project.json("run", "recipe.yaml")
    shutil.rmtree(tmp_path / "venv")

    project.python = sys.executable
    environment = project.environment("elsewhere") | {"REPROKIT_OFFLINE": "1"}
    took = []
    for _ in range(2):
        start = time.monotonic()
        done = subprocess.run(
            project.command("reproduce", first["run_id"]),
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        took.append(time.monotonic() - start)
        assert done.returncode == 0, done.stderr
        assert "BITWISE: every state digest" in done.stdout
        assert str(tmp_path / "elsewhere-cache" / "environments") in done.stdout + done.stderr
    assert took[1] < took[0]  # it was made once
