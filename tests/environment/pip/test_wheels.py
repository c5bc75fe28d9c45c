"""A wheel is looked through before anything of it is installed; an installed package packs into the same one again."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path

import pytest

from reprokit.environment.capture import capture, capture_environment
from reprokit.environment.local.interpreter import Interpreter
from reprokit.environment.pip import wheels
from reprokit.environment.pip.wheels import read_wheel, repack
from reprokit.errors import DataMismatchError, EnvironmentMismatchError
from reprokit.schema.lock import PipPackage
from tests.environment.making import digest, install, needed_by_reprokit, repacked, venv, wheel

FILES = {
    "demo.py": "def main(): print('demo')\n",
    "demo-1.0.data/scripts/demo-tool": "#!python\nprint('tool')\n",
    "demo-1.0.data/data/share/demo/notes.txt": "notes\n",
    "demo-1.0.data/purelib/demo_more.py": "x = 1\n",
    "demo-1.0.dist-info/entry_points.txt": "[console_scripts]\nDemo-Run = demo:main\n",
}


def test_installed_packages_pack_into_wheels_of_the_same_identity(tmp_path: Path) -> None:
    here = {package.name: package for package in capture_environment().pip}
    for file in repacked(tmp_path, needed_by_reprokit()):
        identity = read_wheel(file)
        assert identity == here[identity.name]


def test_scripts_and_data_survive_a_round_of_installing_and_packing(tmp_path: Path) -> None:
    first = wheel(tmp_path, "demo", "1.0", FILES)
    python = venv(tmp_path / "one", [first])
    interpreter = Interpreter.at(python)
    (installed,) = capture_environment(interpreter=interpreter).pip
    assert installed == read_wheel(first)
    info = Path(interpreter.places[0]) / "demo-1.0.dist-info"
    (tmp_path / "again").mkdir()
    second = repack(info, prefix=interpreter.prefix, into=tmp_path / "again")
    assert (second.name, read_wheel(second)) == (first.name, installed)
    other = venv(tmp_path / "two", [second]).parent
    assert sorted(file.name for file in other.iterdir() if "emo" in file.name) == ["Demo-Run", "demo-tool"]
    assert (other / "demo-tool").read_text() == f"#!{other / 'python'}\nprint('tool')\n"
    assert (other.parent / "share" / "demo" / "notes.txt").read_text() == "notes\n"


def test_a_package_that_was_edited_is_another_one_and_packs_as_it_is_now(tmp_path: Path) -> None:
    interpreter = Interpreter.at(venv(tmp_path / "one", [wheel(tmp_path, "demo", "1.0", FILES)]))
    cache = tmp_path / "cache"
    before = capture(cache, interpreter=interpreter)
    site = Path(interpreter.places[0])
    (site / "demo.py").write_text("def main(): print('ours')\n")
    (site / "demo_more.py").unlink()
    after = capture(cache, interpreter=interpreter)
    assert (before.changed, after.changed) == ({}, {"demo": ["demo.py", "demo_more.py"]})
    (change,) = before.lock.changes_to(after.lock)
    assert str(change) == "demo 1.0: same version, other files"
    packed = repack(site / "demo-1.0.dist-info", prefix=interpreter.prefix, into=cache)
    assert [read_wheel(packed)] == after.lock.pip
    (site / "demo.py").write_text(FILES["demo.py"])
    (site / "demo_more.py").write_text("x = 1\n")
    assert capture(cache, interpreter=interpreter) == before


def test_a_package_without_its_metadata_cannot_be_packed_and_is_named(tmp_path: Path) -> None:
    interpreter = Interpreter.at(venv(tmp_path / "one", [wheel(tmp_path, "demo", "1.0", FILES)]))
    info = Path(interpreter.places[0]) / "demo-1.0.dist-info"
    (info / "WHEEL").unlink()
    with pytest.raises(EnvironmentMismatchError, match=r"demo-1\.0 cannot be packed: .*WHEEL is missing"):
        repack(info, prefix=interpreter.prefix, into=tmp_path)


def test_a_file_that_was_edited_in_place_with_its_old_size_and_time_is_seen(tmp_path: Path) -> None:
    interpreter = Interpreter.at(venv(tmp_path / "one", [wheel(tmp_path, "demo", "1.0", FILES)]))
    file = Path(interpreter.places[0]) / "demo.py"
    seen = file.stat()
    file.write_text(FILES["demo.py"].replace("demo", "omed"))
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert capture(tmp_path / "cache", interpreter=interpreter).changed == {"demo": ["demo.py"]}


@pytest.mark.parametrize(
    ("member", "words"),
    [
        ("../outside.py", "no file inside its root"),
        ("/etc/passwd", "no file inside its root"),
        ("a\\..\\..\\b.py", "no file inside its root"),
        ("C:/b.py", "no file inside its root"),
        ("more.py", "different files: more.py"),
        ("evil-2.0.dist-info/RECORD", "2 RECORD files"),
    ],
)
def test_a_wheel_with_what_its_record_does_not_name_is_refused(tmp_path: Path, member: str, words: str) -> None:
    with pytest.raises(DataMismatchError, match=words):
        read_wheel(wheel(tmp_path, "demo", "1.0", FILES, **{member: b"x"}))


def test_a_wheel_whose_bytes_are_not_those_of_its_record_is_refused(tmp_path: Path) -> None:
    good = wheel(tmp_path, "demo", "1.0", FILES)
    with zipfile.ZipFile(good) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    record = "demo-1.0.dist-info/RECORD"

    def spoilt(changes: dict[str, bytes]) -> Path:
        target = tmp_path / "spoilt" / good.name
        target.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(target, "w") as archive:
            for name, body in {**members, **changes}.items():
                archive.writestr(name, body)
        return target

    with pytest.raises(DataMismatchError, match=r"demo\.py is not what its RECORD says"):
        read_wheel(spoilt({"demo.py": members["demo.py"].replace(b"demo", b"evil")}))
    weak = members[record].replace(digest(members["demo.py"]).encode(), b"md5=aaaa")
    with pytest.raises(DataMismatchError, match=r"demo\.py is not what its RECORD says"):
        read_wheel(spoilt({record: weak}))
    assert read_wheel(spoilt({})) == read_wheel(good)


def test_a_file_of_a_wheel_has_the_size_that_its_record_says(tmp_path: Path) -> None:
    good = wheel(tmp_path, "demo", "1.0", FILES)
    with zipfile.ZipFile(good) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    record = "demo-1.0.dist-info/RECORD"
    size = str(len(members["demo.py"])).encode()
    row = next(row for row in members[record].splitlines() if row.startswith(b"demo.py,"))
    assert row.endswith(b"," + size)

    def with_size(told: bytes) -> Path:
        with zipfile.ZipFile(good, "w") as archive:
            for name, body in members.items():
                archive.writestr(name, body.replace(row, row.removesuffix(size) + told) if name == record else body)
        return good

    read_wheel(with_size(size))
    read_wheel(with_size(b""))  # RECORD may leave it out
    with pytest.raises(DataMismatchError) as caught:
        read_wheel(with_size(size + b"0"))
    assert caught.value.message == f"The wheel {good.name}: demo.py is not what its RECORD says."


@pytest.mark.parametrize("again", ["demo.py", "demo-1.0.dist-info/RECORD"])
def test_a_wheel_that_holds_a_file_twice_is_refused(tmp_path: Path, again: str) -> None:
    """Which of the two is installed, each reader decides for itself."""
    good = wheel(tmp_path, "demo", "1.0", FILES)
    with zipfile.ZipFile(good) as archive:
        body = archive.read(again)
    with zipfile.ZipFile(good, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(again, body)
    with pytest.raises(DataMismatchError) as caught:
        read_wheel(good)
    assert caught.value.message == f"The wheel {good.name} holds too many files, or one twice."


def test_a_wheel_has_at_most_so_many_files_and_a_record_of_at_most_so_many_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = wheel(tmp_path, "demo", "1.0", FILES)
    with zipfile.ZipFile(good) as archive:
        count = len(archive.namelist())
        size = max(info.file_size for info in archive.infolist() if info.filename.endswith("/RECORD"))
    monkeypatch.setattr(wheels, "_MAX_MEMBERS", count)
    monkeypatch.setattr(wheels, "_MAX_RECORD", size)
    read_wheel(good)
    monkeypatch.setattr(wheels, "_MAX_RECORD", size - 1)
    with pytest.raises(DataMismatchError, match=f" has a RECORD of more than {size - 1} bytes"):
        read_wheel(good)
    monkeypatch.setattr(wheels, "_MAX_MEMBERS", count - 1)
    with pytest.raises(DataMismatchError, match="holds too many files"):
        read_wheel(good)


@pytest.mark.parametrize("cut", [0, 10, 200, -30])
def test_a_wheel_that_was_cut_is_refused(tmp_path: Path, cut: int) -> None:
    good = wheel(tmp_path, "demo", "1.0", FILES)
    good.write_bytes(good.read_bytes()[:cut])
    with pytest.raises(DataMismatchError, match="cannot be read"):
        read_wheel(good)


def test_a_link_in_a_wheel_is_refused(tmp_path: Path) -> None:
    good = wheel(tmp_path, "demo", "1.0", FILES)
    row = zipfile.ZipInfo("link")
    row.external_attr = 0o120777 << 16
    with zipfile.ZipFile(good, "a") as archive:
        archive.writestr(row, "/etc/passwd")
    with pytest.raises(DataMismatchError, match="no file inside its root"):
        read_wheel(good)


def test_pip_and_other_installers_leave_the_same_identity(tmp_path: Path) -> None:
    file = wheel(tmp_path, "demo", "1.0", FILES)
    python = venv(tmp_path / "one", [])
    install(python, file)
    first = capture_environment(interpreter=Interpreter.at(python))
    info = Path(Interpreter.at(python).places[0]) / "demo-1.0.dist-info"
    (info / "uv_cache.json").write_text("{}")
    (info / "RECORD").write_text((info / "RECORD").read_text() + "demo-1.0.dist-info/uv_cache.json,sha256=x,2\n")
    assert capture_environment(interpreter=Interpreter.at(python)) == first
    assert sys.prefix not in str(first)


@pytest.mark.parametrize(
    ("noted", "told"),
    [
        (
            {"url": "https://u:secret@git.example.org/x.git", "vcs_info": {"vcs": "git", "commit_id": "a1" * 20}},
            {"url": "git+https://git.example.org/x.git", "revision": "a1" * 20, "file": None, "sha256": None},
        ),
        (
            {
                "url": "https://example.org/demo-1.0-py3-none-any.whl?sig=s",
                "archive_info": {"hashes": {"sha256": "0" * 64}},
            },
            {"url": "https://example.org/demo-1.0-py3-none-any.whl", "sha256": "0" * 64, "revision": None},
        ),
        ({"url": "file:///srv/demo", "dir_info": {}}, None),
        ({"url": "file:///srv/demo-1.0-py3-none-any.whl", "archive_info": {"hashes": {"sha256": "0" * 64}}}, None),
        ({"url": "https://example.org/x.git", "vcs_info": {"vcs": "git", "commit_id": "--upload-pack=x y"}}, None),
        ({"url": "javascript:x", "archive_info": {}}, None),
        ({"url": 3, "vcs_info": []}, None),
    ],
)
def test_where_a_package_came_from_is_told_without_secrets_or_not_at_all(
    tmp_path: Path, noted: dict[str, object], told: dict[str, object] | None
) -> None:
    python = venv(tmp_path / "venv", [wheel(tmp_path, "demo", "1.0", {"demo.py": "x = 1\n"})])
    (info,) = (tmp_path / "venv").rglob("demo-1.0.dist-info")
    (info / "direct_url.json").write_text(json.dumps(noted))
    found = capture(interpreter=Interpreter.at(python)).archives
    assert len(found) == (told is not None)
    assert all(getattr(found[0], key) == value for key, value in (told or {}).items())


def test_the_name_of_a_wheel_joins_its_tags() -> None:
    def named(*tags: str) -> str:
        return wheels.wheel_name(PipPackage(name="a-b", version="1.0-1", tags=[*tags]))

    assert named("py3-none-any") == "a_b-1.0_1-py3-none-any.whl"
    assert named("py2-none-any", "py3-none-any") == "a_b-1.0_1-py2.py3-none-any.whl"
    assert named("cp311-cp311-x_1", "cp311-cp311-x_2") == "a_b-1.0_1-cp311-cp311-x_1.x_2.whl"


def test_what_an_installer_makes_itself_is_not_packed(tmp_path: Path) -> None:
    """Compiled files, what RECORD does not hash, scripts of entry points, and what lies outside of the environment."""
    site = tmp_path / "env" / "lib" / "site-packages"
    info = site / "demo-1.0.dist-info"
    info.mkdir(parents=True)
    files = {
        "lib/site-packages/demo.py": "x = 1\n",
        "lib/site-packages/demo.pyc": "c",
        "lib/site-packages/free.py": "f",
        "lib/site-packages/demo-1.0.dist-info/METADATA": "Name: demo\nVersion: 1.0\n\nName: body\n",
        "lib/site-packages/demo-1.0.dist-info/WHEEL": "Tag: py3-none-any\n",
        "lib/site-packages/demo-1.0.dist-info/entry_points.txt": "[console_scripts]\nrun=d:x\n[gui_scripts]\npip=d:y\n",
        "bin/run": "made",
        "bin/pip3": "made",
        "bin/pip3.11": "made",
        "bin/pip": "made",
        "bin/own": "#!/usr/bin/python3\nown\n",
        "share/notes.txt": "notes\n",
        "../outside.txt": "no\n",
    }
    rows = []
    for name, text in files.items():
        path = tmp_path / "env" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        row = os.path.relpath(path, site)
        rows.append(f"{row},{'' if name.endswith('free.py') else digest(text.encode())},{len(text)}")
    rows += ["../../share/gone.txt,sha256=x,1", "gone.py,sha256=x,1", "demo-1.0.dist-info/RECORD,,"]
    (info / "RECORD").write_text("\n".join(rows) + "\n")
    packed = repack(info, prefix=tmp_path / "env", into=tmp_path)
    assert packed.name == "demo-1.0-py3-none-any.whl"
    with zipfile.ZipFile(packed) as archive:
        held = {name: archive.read(name).decode() for name in archive.namelist()}
        modes = {row.filename: row.external_attr >> 16 for row in archive.infolist()}
        assert {row.date_time for row in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}  # the same bytes at any time
    record = held.pop("demo-1.0.dist-info/RECORD")
    assert held == {
        "demo.py": "x = 1\n",
        "demo-1.0.data/scripts/own": "#!python\nown\n",
        "demo-1.0.data/data/share/notes.txt": "notes\n",
        **{
            f"demo-1.0.dist-info/{name}": files[f"lib/site-packages/demo-1.0.dist-info/{name}"]
            for name in ("METADATA", "WHEEL", "entry_points.txt")
        },
    }
    assert modes.pop("demo-1.0.data/scripts/own") == 0o100755 and set(modes.values()) == {0o100644}
    told = {row.split(",")[0]: row.split(",")[1:] for row in record.splitlines()}
    assert told["demo.py"] == [digest(b"x = 1\n"), "6"]
    assert told["demo-1.0.data/scripts/own"] == [digest(b"#!python\nown\n"), "13"]
    assert told["demo-1.0.dist-info/RECORD"] == ["", ""]
    assert read_wheel(packed).version == "1.0"


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("a/b.py", True),
        ("a", True),
        ("", False),
        ("a//b", False),
        ("./a", False),
        ("a/../b", False),
        ("/a", False),
        ("a/", False),
        ("a\\b", False),
        ("a\0b", False),
        ("C:/a", False),
        ("a/b:c", True),
    ],
)
def test_a_member_lies_inside(name: str, inside: bool) -> None:
    assert wheels._is_inside(name) is inside


def test_fields_of_a_header_are_lines_with_a_colon_up_to_the_first_that_is_empty() -> None:
    text = "Name: demo\r\nodd line\n continued: x\n\ttoo: y\nTag:a:b \n\nName: body\n"
    assert wheels._headers(text) == [("name", "demo"), ("tag", "a:b")]
