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
from reprokit.environment.pip.wheels import read_wheel, repack
from reprokit.errors import DataMismatchError, EnvironmentMismatchError
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
