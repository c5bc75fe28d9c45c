"""A conda environment is captured without conda, and made again from its lock, file by file."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from reprokit.environment.capture import Captured, capture, capture_environment
from reprokit.environment.conda.rattler import install_conda
from reprokit.environment.local.interpreter import Interpreter
from reprokit.environment.pip.wheelhouse import Vault
from reprokit.environment.realise import realise
from reprokit.errors import EnvironmentMismatchError
from reprokit.schema.lock import Archive, CondaPackage
from tests.conftest import Project
from tests.environment import channels
from tests.environment.making import install, needed_by_reprokit, only, repacked, wheel


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder with a short name: installers write `/usr/bin/env python` into scripts whose own is too long."""
    with tempfile.TemporaryDirectory(prefix="rk-") as name:
        yield Path(name)


@pytest.fixture
def channel(tmp_path: Path) -> Path:
    folder = tmp_path / "channel"
    channels.stub_python(folder)
    channels.script_package(folder, "tool", "1.0")
    channels.python_package(folder, "demo", "1.0", "rate = 0.1\n")
    channels.index(folder)
    return folder


@pytest.fixture
def prefix(tmp_path: Path, channel: Path) -> Path:
    channels.install(tmp_path / "original", channel.as_uri(), "tool", "demo")
    return tmp_path / "original"


def captured(prefix: Path) -> Captured:
    return capture(interpreter=Interpreter.at(prefix / "bin" / "python"))


@pytest.fixture
def served(channel: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(channel))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_its_packages_are_those_of_conda_meta_and_each_has_its_address(prefix: Path, channel: Path) -> None:
    found = captured(prefix)
    assert [(one.name, one.subdir) for one in found.lock.conda] == [
        ("demo", "noarch"), ("python", "linux-64"), ("tool", "linux-64"),
    ]  # fmt: skip
    assert (found.lock.pip, found.changed) == ([], {})  # demo is conda's, and not told twice
    assert {one.url for one in found.archives} == {one.as_uri() for one in channel.rglob("*.tar.bz2")}


def test_it_is_made_again_with_every_file_and_then_found_again(prefix: Path, tmp_path: Path) -> None:
    before, was = captured(prefix), channels.contents(prefix)
    shutil.rmtree(prefix)
    cache = tmp_path / "cache"
    python = realise(before.lock, cache=cache, vault=Vault(archives=before.archives))
    assert channels.contents(python.parents[1]) == was
    assert subprocess.check_output([python.parent / "tool"], text=True) == "tool 1.0\n"
    again = capture(interpreter=Interpreter.at(python))
    assert (again.lock, again.archives) == (before.lock, before.archives)
    start = time.monotonic()
    assert realise(before.lock, cache=cache, offline=True) == python
    assert time.monotonic() - start < 5


def test_what_pip_installed_into_it_is_made_again_too(
    prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "index"
    index.mkdir()
    install(prefix / "bin" / "python", wheel(index, "extra", "2.0", {"extra.py": "x = 1\n"}))
    only(monkeypatch, NO_INDEX="1", FIND_LINKS=str(index))
    before, was = captured(prefix), channels.contents(prefix)
    assert [one.name for one in before.lock.pip] == ["extra"]
    python = realise(before.lock, cache=tmp_path / "cache", vault=Vault(archives=before.archives))
    notes = {name for name in was if name.endswith(("/INSTALLER", "/REQUESTED", "/RECORD", "/direct_url.json"))}
    made = channels.contents(python.parents[1])
    assert {name: digest for name, digest in made.items() if name not in notes} == {
        name: digest for name, digest in was.items() if name not in notes
    }
    assert capture_environment(interpreter=Interpreter.at(python)) == before.lock


def test_an_edited_file_is_named_and_its_environment_is_another_one(prefix: Path, tmp_path: Path) -> None:
    before = captured(prefix)
    (module,) = prefix.rglob("demo.py")
    module.write_text("rate = 0.2\n")
    after = captured(prefix)
    assert after.changed == {"demo": [module.relative_to(prefix).as_posix()]}
    assert [str(change) for change in before.lock.changes_to(after.lock)] == ["demo 1.0=0: same version, other files"]
    with pytest.raises(EnvironmentMismatchError, match=r"Files of demo 1\.0 0 were edited"):
        realise(after.lock, cache=tmp_path / "cache", vault=Vault(archives=after.archives))


@pytest.mark.parametrize("scheme", ["file", "http"])
@pytest.mark.parametrize("harm", ["flipped", "cut", "another version", "no package", "gone"])
def test_an_archive_that_is_not_the_locked_one_is_refused_by_name(
    prefix: Path, channel: Path, served: str, tmp_path: Path, scheme: str, harm: str
) -> None:
    found = captured(prefix)
    archives = found.archives
    if scheme == "http":
        archives = [msgspec.structs.replace(one, url=one.url.replace(channel.as_uri(), served)) for one in archives]
    (file,) = channel.rglob("demo-*.tar.bz2")
    data = file.read_bytes()
    file.unlink()
    if harm == "flipped":
        file.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    elif harm == "cut":
        file.write_bytes(data[:-10])
    elif harm == "another version":
        shutil.copy(channels.python_package(tmp_path / "b", "demo", "1.0", "rate = 0.2\n"), file)
    elif harm == "no package":
        file.write_bytes(b"<html>404</html>")
    with pytest.raises(EnvironmentMismatchError, match="demo") as refused:
        realise(found.lock, cache=tmp_path / "cache", vault=Vault(archives=archives))
    assert file.name in refused.value.message or "demo 1.0" in refused.value.message
    assert not list((tmp_path / "cache" / "environments").glob("[0-9a-f]*/bin"))


def test_an_archive_that_lies_about_its_package_is_refused(prefix: Path, channel: Path, tmp_path: Path) -> None:
    found = captured(prefix)
    other = channels.python_package(channel, "evil", "9", "x = 1\n")
    digest = hashlib.sha256(other.read_bytes()).hexdigest()
    lock = msgspec.structs.replace(
        found.lock, conda=[msgspec.structs.replace(found.lock.conda[0], sha256=digest), *found.lock.conda[1:]]
    )
    lying = Archive(kind="conda", name="demo", version="1.0", file=other.name, url=other.as_uri(), sha256=digest)
    with pytest.raises(EnvironmentMismatchError, match=r"noarch/demo-1\.0-0: its archive says that it is noarch/evil"):
        realise(lock, cache=tmp_path / "cache", vault=Vault(archives=[lying, *found.archives[1:]]))


EVIL = b"evil\n"
OUTSIDE: dict[str, tuple[dict[str, bytes], list[dict[str, str]], dict[str, str]]] = {
    "above": ({"x": EVIL}, [{"_path": "../../escaped", "path_type": "hardlink"}], {}),
    "above, as it is in the archive": (
        {"../../escaped": EVIL}, [{"_path": "../../escaped", "path_type": "hardlink"}], {},
    ),
    "absolute": ({"x": EVIL}, [{"_path": "/tmp/escaped", "path_type": "hardlink"}], {}),  # noqa: S108
    "through a link": (
        {"d/escaped": EVIL},
        [{"_path": "d", "path_type": "softlink"}, {"_path": "d/escaped", "path_type": "hardlink"}],
        {"d": "/tmp"},  # noqa: S108
    ),
    "the record of another": ({"conda-meta/x.json": EVIL}, [{"_path": "conda-meta/x.json"}], {}),
    "a program": ({"info/link.json": b'{"noarch": {"entry_points": ["../../escaped = a:b"]}}'}, [], {}),
    "no list": ({"info/link.json": b"["}, [], {}),
}  # fmt: skip


@pytest.mark.parametrize("how", OUTSIDE)
def test_an_archive_that_would_write_outside_of_its_environment_is_refused(tmp_path: Path, how: str) -> None:
    members, paths, links = OUTSIDE[how]
    file = tmp_path / "evil-1.0-0.tar.bz2"
    info = {"name": "evil", "version": "1.0", "build": "0", "build_number": 0, "depends": [], "subdir": "noarch"}
    members = {
        "info/index.json": json.dumps(info).encode(),
        "info/paths.json": json.dumps({"paths": paths, "paths_version": 1}).encode(),
        **members,
    }
    with tarfile.open(file, "w:bz2") as archive:
        for path, goal in links.items():
            member = tarfile.TarInfo(path)
            member.type, member.linkname = tarfile.SYMTYPE, goal
            archive.addfile(member)
        for path, body in members.items():
            member = tarfile.TarInfo(path)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    package = CondaPackage(name="evil", version="1.0", build="0", subdir="noarch", sha256=digest)
    prefix = tmp_path / "a" / "b" / "prefix"
    prefix.mkdir(parents=True)
    with pytest.raises(EnvironmentMismatchError, match=r"noarch/evil-1\.0-0: its archive (would|does not list)"):
        install_conda([package], {"evil": file}, archives=[], prefix=prefix, final=prefix)
    assert [path for path in tmp_path.rglob("*") if path.name == "escaped"] == []
    assert list(prefix.iterdir()) == []


def test_a_package_without_a_hash_is_not_guessed(prefix: Path, tmp_path: Path) -> None:
    (file,) = (prefix / "conda-meta").glob("tool-*.json")
    record = json.loads(file.read_bytes())
    del record["sha256"]
    file.write_text(json.dumps(record))
    found = captured(prefix)
    with pytest.raises(EnvironmentMismatchError, match=r"tool 1\.0 0: its channel gave no SHA-256"):
        realise(found.lock, cache=tmp_path / "cache", vault=Vault(archives=found.archives))


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"name": "x"}', '{"name": "../x", "version": "1", "build": "0", "subdir": "s"}']
)
def test_a_record_that_conda_would_not_write_is_named(prefix: Path, text: str) -> None:
    (prefix / "conda-meta" / "broken.json").write_text(text)
    with pytest.raises(EnvironmentMismatchError, match=r"broken\.json cannot be read as a conda record"):
        captured(prefix)


def test_credentials_and_tokens_of_a_channel_never_enter_a_record(prefix: Path) -> None:
    (file,) = (prefix / "conda-meta").glob("tool-*.json")
    record = json.loads(file.read_bytes())
    record["url"] = "https://user:secret@conda.example.org/t/tk-123-abc/private/linux-64/tool-1.0-0.tar.bz2?sig=s#f"
    file.write_text(json.dumps(record))
    urls = [one.url for one in captured(prefix).archives if one.name == "tool"]
    assert urls == ["https://conda.example.org/private/linux-64/tool-1.0-0.tar.bz2"]


@pytest.mark.slow
def test_a_whole_python_is_made_again_with_every_file_of_its_library(tmp_path: Path) -> None:
    folder = tmp_path / "channel"
    channels.whole_python(folder)
    channels.python_package(folder, "demo", "1.0", "rate = 0.1\n")
    prefix = channels.install(tmp_path / "original", channels.index(folder), "python", "demo").parents[1]
    program = "import asyncio, ctypes, demo, sqlite3, sys; print(sys.prefix, asyncio.__file__)"
    assert str(prefix / "lib") in subprocess.check_output([prefix / "bin" / "python", "-c", program], text=True)
    before, was = captured(prefix), channels.contents(prefix)
    assert len(was) > 600
    shutil.rmtree(prefix)
    python = realise(before.lock, cache=tmp_path / "cache", vault=Vault(archives=before.archives))
    assert channels.contents(python.parents[1]) == was
    assert str(python.parents[1] / "lib") in subprocess.check_output([python, "-c", program], text=True)


@pytest.mark.slow
def test_a_run_in_one_reproduces_after_it_its_channel_and_every_index_are_gone(
    prefix: Path, channel: Path, tmp_path: Path
) -> None:
    install(prefix / "bin" / "python", *repacked(tmp_path / "wheels", needed_by_reprokit()))
    project = Project(tmp_path)
    script = (project.root / "train.py").read_text()
    project.write("train.py", script.replace("import reprokit\n", "import reprokit, demo, sys; print(sys.prefix)\n"))
    project.write("recipe.yaml", f"{(project.root / 'recipe.yaml').read_text()}environment: {{vault: all}}\n")
    project.commit()
    project.build()
    project.python = str(prefix / "bin" / "python")
    first = project.json("run", "recipe.yaml")
    was = channels.contents(prefix)
    exported = project.json("export", first["run_id"], "--as", "explicit")
    for folder in (prefix, prefix.with_name("original-pkgs"), channel, tmp_path / "wheels"):
        shutil.rmtree(folder)

    project.python = sys.executable
    environment = project.environment("elsewhere") | {"REPROKIT_OFFLINE": "1"}
    done = subprocess.run(
        project.command("reproduce", first["run_id"]),
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "BITWISE: every state digest" in done.stdout
    (made,) = (tmp_path / "elsewhere-cache" / "environments").glob("*/conda-meta")
    notes = ("/INSTALLER", "/REQUESTED", "/RECORD", "/direct_url.json")
    now = channels.contents(made.parent)
    assert [
        name for name in was.keys() | now.keys() if was.get(name) != now.get(name) and not name.endswith(notes)
    ] == []
    assert channel.as_uri() in exported["text"]
