"""What an overlay shows, where, and until when."""

from __future__ import annotations

import errno
import io
import mmap
import os
import pickle
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest

from reprokit.client.overlay.install import Overlay, install, remove
from tests.client.conftest import FILES, Memory

_NATIVE = "is laid over by reprokit.vfs; native code and processes cannot see it: use reprokit mount or install"


def test_open_reads_binary_and_text(overlay: Overlay) -> None:
    with open("data/set/train/cat/1.bin", "rb") as file:
        assert (file.name, file.mode, file.closed) == ("data/set/train/cat/1.bin", "rb", False)
        assert (file.readable(), file.writable(), file.seekable(), file.isatty()) == (True, False, True, False)
        assert file.peek(1)[:4] == b"\0\1\2\3"  # type: ignore[attr-defined]
        assert file.read(4) == b"\0\1\2\3"
        buffer = bytearray(3)
        assert (file.readinto(buffer), bytes(buffer), file.tell()) == (3, b"\4\5\6", 7)  # type: ignore[attr-defined]
        assert file.seek(-1, os.SEEK_END) == 3071
        assert file.read() == b"\xff"
        with pytest.raises(io.UnsupportedOperation, match=r"^write$"):
            file.write(b"x")
    assert file.closed
    with pytest.raises(ValueError):
        file.read()
    with open("data/set/meta.json", encoding="utf-8") as text:
        assert (text.name, text.mode, text.encoding) == ("data/set/meta.json", "r", "utf-8")
        assert text.read() == '{"a": "é"}'
    with open("data/set/meta.json", encoding="ascii", errors="replace") as text:
        assert text.read() == '{"a": "��"}'
    assert list(open("data/set/labels.csv", newline="")) == ["name,label\n", "cat.jpg,0\r\n", "dog.jpg,1\n"]
    assert list(open("data/set/labels.csv")) == ["name,label\n", "cat.jpg,0\n", "dog.jpg,1\n"]
    assert open("data/set/train/dog/1.bin", "br", buffering=0).read() == b"dog"
    assert io.open("data/set/train/dog/1.bin").read() == "dog"  # noqa: UP020


def test_open_refuses_modes_as_python_does(overlay: Overlay, here: Path) -> None:
    (here / "plain").write_bytes(b"")
    odd: list[dict[str, Any]] = [
        {"mode": "rbt"}, {"mode": "q"}, {"mode": ""}, {"mode": "r", "buffering": 0}, {"closefd": False},
        {"mode": "rb", "closefd": False}, {"mode": "rb", "encoding": "utf-8"}, {"mode": "rb", "newline": ""},
    ]  # fmt: skip
    for arguments in odd:
        with pytest.raises(ValueError) as plain:
            open("plain", **arguments)
        with pytest.raises(ValueError) as virtual:
            open("data/set/meta.json", **arguments)
        assert str(virtual.value) == str(plain.value)


@pytest.mark.parametrize("data", [b"0123456789" * 200_000, memoryview(b"0123456789" * 200_000), memoryview(b"01234")])
def test_a_memoryview_reads_as_bytes_do(overlay: Overlay, data: Any) -> None:
    overlay.mount("big", Memory({"x": data}))
    with open("big/x", "rb") as file:
        assert file.read(3) == b"012"
        assert file.seek(0, os.SEEK_END) == len(data) == os.path.getsize("big/x")
        assert (file.read(), file.seek(2)) == (b"", 2)
        assert file.read() == bytes(data)[2:]
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert mapped[:] == bytes(data)
    with pytest.raises(ValueError):
        file.seek(0)


def test_fileno_is_a_sealed_descriptor_at_the_position_of_the_file(overlay: Overlay) -> None:
    with open("data/set/train/dog/1.bin", "rb") as file:
        file.read(1)
        descriptor = file.fileno()
        assert (descriptor, os.read(descriptor, 9)) == (file.fileno(), b"og")
        with pytest.raises(OSError):
            os.write(descriptor, b"x")
        with pytest.raises(OSError):
            os.truncate(descriptor, 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    with open("data/set/train/dog/1.bin", "rb") as file:
        assert subprocess.run(["cat"], stdin=file, capture_output=True, check=True).stdout == b"dog"
    with pytest.raises(TypeError, match=r"^cannot pickle an open file$"):
        pickle.dumps(open("data/set/train/dog/1.bin", "rb"))


def test_os_open_gives_a_descriptor(overlay: Overlay) -> None:
    descriptor = os.open("data/set/train/dog/1.bin", os.O_RDONLY)
    assert (os.read(descriptor, 10), os.get_inheritable(descriptor)) == (b"dog", False)
    os.close(descriptor)
    with pytest.raises(NotADirectoryError):
        os.open("data/set/train/dog/1.bin", os.O_RDONLY | os.O_DIRECTORY)
    with open("data/set/train/dog/1.bin", "rb", opener=os.open) as file:
        assert file.read() == b"dog"


def test_stat_tells_files_from_folders(overlay: Overlay) -> None:
    file, folder = os.stat("data/set/train/cat/1.bin"), os.stat("data/set/train")
    assert (file.st_mode, folder.st_mode) == (0o100444, 0o40555)
    assert (file.st_size, file.st_mtime, file.st_mtime_ns) == (3072, 1_700_000_000.25, 1_700_000_000_250_000_000)
    assert (file.st_uid, file.st_gid, file.st_dev) == (os.getuid(), os.getgid(), folder.st_dev)
    assert file.st_ino and file.st_ino != folder.st_ino
    assert os.lstat(os.path.abspath("data/set/train/cat/1.bin")) == file
    assert Path("data/set/train/cat/1.bin").stat() == file
    assert os.path.getmtime("data/set/meta.json") == 1_700_000_000.25
    assert os.path.samefile("data/set/meta.json", "data/../data/set//meta.json")
    assert not os.path.samefile("data/set/meta.json", "data/set/labels.csv")
    assert os.path.realpath("data/set/train") == os.path.abspath("data/set/train")
    assert Path("data/set/train/../meta.json").resolve(strict=True) == Path("data/set/meta.json").absolute()
    with pytest.raises(OSError, match=re.escape("[Errno 22] Invalid argument: 'data/set'")):
        os.readlink("data/set")


def test_access_allows_reading_only(overlay: Overlay) -> None:
    seen = {
        path: [os.access(path, mode) for mode in (os.F_OK, os.R_OK, os.W_OK, os.X_OK)]
        for path in ("data/set/meta.json", "data/set", "data/set/none", "data")
    }
    assert seen == {
        "data/set/meta.json": [True, True, False, False],
        "data/set": [True, True, False, True],
        "data/set/none": [False] * 4,
        "data": [True] * 4,
    }


@pytest.mark.parametrize("name", ["stat", "lstat", "listdir", "scandir", "readlink", "chdir", "listxattr", "open"])
@pytest.mark.parametrize("path", ["data/set/none", b"data/set/train/none", Path("data/set/hidden/x")])
def test_a_missing_key_never_falls_through(here: Path, name: str, path: Any) -> None:
    (here / "data/set/hidden/x").mkdir(parents=True)
    (here / "data/set/none").write_text("real, beneath")
    overlay = Overlay()
    overlay.mount("data/set", Memory(dict(FILES)))
    install(overlay)
    try:
        with pytest.raises(FileNotFoundError) as caught:
            open(path) if name == "open" else getattr(os, name)(path)
        assert (caught.value.errno, os.fspath(caught.value.filename)) == (errno.ENOENT, os.fspath(path))
        assert not os.path.lexists(path)
    finally:
        remove(overlay)
    assert os.path.lexists(path) == (path != b"data/set/train/none")


def test_folders_and_files_are_not_taken_for_each_other(overlay: Overlay) -> None:
    for mode in ("r", "rb"):
        with pytest.raises(IsADirectoryError, match=re.escape("[Errno 21] Is a directory: 'data/set/train'")):
            open("data/set/train", mode)
    for function in (os.listdir, os.scandir):
        with pytest.raises(NotADirectoryError, match=re.escape("[Errno 20] Not a directory: 'data/set/meta.json'")):
            function("data/set/meta.json")


def test_a_folder_of_the_overlay_is_in_the_listing_of_its_real_parent(overlay: Overlay, here: Path) -> None:
    assert sorted(os.listdir("data")) == ["real.txt", "set"]
    assert sorted(os.listdir(b"data")) == [b"real.txt", b"set"]
    with os.scandir("data") as entries:
        assert sorted((e.name, e.path, e.is_dir(), e.is_file()) for e in entries) == [
            ("real.txt", "data/real.txt", False, True),
            ("set", "data/set", True, False),
        ]
    assert os.listdir() == os.listdir(here) == ["data"]
    assert [entry.path for entry in os.scandir()] == ["./data"]
    assert not os.path.exists("data/set.txt") and not os.path.exists("data/se")


def test_a_parent_that_does_not_exist_is_virtual_until_something_is_written_to_it(overlay: Overlay, here: Path) -> None:
    overlay.mount("a/b/c", Memory({"x": b"1"}))
    assert os.path.isdir("a/b") and not os.path.islink("a")
    assert (os.listdir("a"), sorted(os.listdir())) == (["b"], ["a", "data"])
    assert [(d, sorted(f)) for d, _, f in os.walk("a")] == [("a", []), ("a/b", []), ("a/b/c", ["x"])]
    with pytest.raises(IsADirectoryError):
        open("a/b")
    with pytest.raises(FileNotFoundError):
        open("a/b/log.txt")
    with pytest.raises(OSError, match=re.escape(f"[Errno 95] this path {_NATIVE}: 'a/b'")):
        os.chdir("a/b")
    os.makedirs("a/b/out")
    Path("a/log.txt").write_text("log")
    assert sorted(os.listdir("a/b")) == ["c", "out"]
    os.replace("a/log.txt", "a/b/log.txt")
    overlay.unmount("a/b/c")
    assert sorted(os.listdir("a/b")) == ["log.txt", "out"]


def test_one_file_can_be_laid_over_a_path(overlay: Overlay, here: Path) -> None:
    (here / "data/one.txt").write_text("hidden")
    overlay.mount("data/one.txt", Memory({"": b"one"}))
    assert Path("data/one.txt").read_text() == "one"
    assert (os.path.isfile("data/one.txt"), os.path.getsize("data/one.txt")) == (True, 3)
    assert sorted(os.listdir("data")) == ["one.txt", "real.txt", "set"]
    assert sorted(e.name for e in os.scandir("data") if e.is_file()) == ["one.txt", "real.txt"]
    assert [e.stat().st_size for e in os.scandir("data") if e.name == "one.txt"] == [3]


def test_a_place_within_a_place_hides_what_is_there(overlay: Overlay) -> None:
    overlay.mount("data/set/train/dog", Memory({"new": b"new"}))
    overlay.mount("data/set/far/down", Memory({"x": b"x"}))
    assert os.listdir("data/set/train/dog") == ["new"]
    assert os.listdir("data/set/far") == ["down"] and os.path.isdir("data/set/far")
    assert sorted(e.name for e in os.scandir("data/set") if e.is_dir()) == ["far", "train"]
    assert sorted(p.name for p in Path("data/set").rglob("*") if p.is_file()) == sorted(
        ["labels.csv", "meta.json", "1.bin", "2.bin", "new", "train-more.bin", "cat.bin", "x"]
    )
    overlay.unmount("data/set/train/dog")
    assert os.listdir("data/set/train/dog") == ["1.bin"]


def test_many_places(overlay: Overlay) -> None:
    for number in range(40):
        overlay.mount(f"many/{number}", Memory({"x": b"%d" % number}))
    assert [Path(f"many/{number}/x").read_bytes() for number in range(40)] == [b"%d" % number for number in range(40)]
    assert sorted(os.listdir("many")) == sorted(map(str, range(40)))
    assert Path("data/real.txt").read_text() == "real"


def test_paths_are_taken_in_every_spelling(overlay: Overlay, here: Path) -> None:
    wanted = FILES["train/dog/1.bin"]
    for path in (
        "data/set/train/dog/1.bin", "./data/set/train/dog/1.bin", "data//set/./train/dog/1.bin",
        "nowhere/../data/set/train/dog/1.bin", b"data/set/train/dog/1.bin", Path("data/set/train/dog/1.bin"),
        f"{here}/data/set/train/dog/1.bin", f"/{here}/data/set/train/dog/1.bin",
        f"{here}/../work/data/set/train/dog/1.bin",
    ):  # fmt: skip
        assert open(path, "rb").read() == wanted, path
        assert os.stat(path).st_size == 3
    assert [os.path.isdir(path) for path in ("data/set/", "data/set/train//", b"data/set")] == [True] * 3
    assert open(b"data/set/meta.json", "rb").name == b"data/set/meta.json"


def test_relative_paths_follow_the_working_directory(overlay: Overlay, here: Path) -> None:
    os.chdir("data")
    assert open("set/train/dog/1.bin").read() == "dog"
    assert not os.path.exists("data/set")
    assert open("../data/set/train/dog/1.bin").read() == "dog"
    os.chdir("/")
    assert not os.path.exists("set")
    assert open(os.path.join(str(here)[1:], "data/set/train/dog/1.bin")).read() == "dog"


def test_a_working_directory_beneath_a_place(overlay: Overlay, here: Path) -> None:
    (here / "in/side").mkdir(parents=True)
    os.chdir("in/side")
    overlay.mount(str(here / "in"), Memory({"side/x": b"1", "y": b"2"}))
    assert (open("x").read(), open("../y").read(), os.listdir()) == ("1", "2", ["x"])
    os.chdir(here)
    assert not os.path.exists("x")


def test_a_place_is_seen_under_its_real_name_too(overlay: Overlay, here: Path) -> None:
    (here / "link").symlink_to("data")
    overlay.mount("link/more", Memory({"x": b"1"}))
    assert open("link/more/x").read() == open("data/more/x").read() == "1"
    assert os.path.realpath("link/more/x") == f"{here}/data/more/x"
    assert sorted(os.listdir("data")) == ["more", "real.txt", "set"]
    assert sorted(os.listdir("link")) == ["more", "real.txt"]


def test_an_error_of_the_layer_reaches_the_caller_unchanged(overlay: Overlay) -> None:
    class CorruptError(OSError):
        pass

    error = CorruptError("Object 3f9a is corrupt")
    layer = Memory({"x": b"1"})
    overlay.mount("bad", layer)
    layer.files["x"] = error
    for act in (lambda: open("bad/x", "rb"), lambda: open("bad/x"), lambda: os.open("bad/x", os.O_RDONLY)):
        with pytest.raises(CorruptError) as caught:
            act()
        assert caught.value is error


# Mounting and installing


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "nothing to lay over {}: the layer has no files"),
        ({"../x": b""}, "cannot lay over {}: '../x' is not a relative path in normal form"),
        ({"a": b"", "/x": b""}, "cannot lay over {}: '/x' is not a relative path in normal form"),
        ({"a//b": b""}, "cannot lay over {}: 'a//b' is not a relative path in normal form"),
        ({"a/./b": b""}, "cannot lay over {}: 'a/./b' is not a relative path in normal form"),
        ({"a/": b""}, "cannot lay over {}: 'a/' is not a relative path in normal form"),
        ({"a/..": b""}, "cannot lay over {}: 'a/..' is not a relative path in normal form"),
        ({".": b"", "b": b""}, "cannot lay over {}: '.' is not a relative path in normal form"),
        ({"": b"", "b": b""}, "cannot lay over {}: '' is not a relative path in normal form"),
        ({"a\0b": b""}, "cannot lay over {}: 'a\\x00b' is not a relative path in normal form"),
        ({"a": b"", "a/b": b""}, "cannot lay over {}: 'a' is both a file and a folder"),
    ],
)
def test_a_layer_that_is_no_tree_is_refused(here: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Overlay().mount("place", Memory(files))
    assert str(caught.value) == message.format(here / "place")


def test_a_place_must_be_possible(here: Path) -> None:
    overlay = Overlay()
    with pytest.raises(ValueError, match=r"^cannot lay a layer over /$"):
        overlay.mount("/", Memory({"x": b""}))
    with pytest.raises(NotADirectoryError, match=re.escape(f"Not a directory: '{here}/data/real.txt'")):
        overlay.mount("data/real.txt/a/b", Memory({"x": b""}))
    with pytest.raises(KeyError, match=re.escape(f"nothing is mounted at {here}/data")):
        overlay.unmount("data")
    with pytest.raises(ValueError, match=r"^the overlay is not installed$"):
        remove(overlay)


def test_unmount_shows_the_real_files_again(overlay: Overlay, here: Path) -> None:
    overlay.mount("data", Memory({"x": b"1"}))
    assert os.listdir("data") == ["x", "set"]
    overlay.unmount("data")
    overlay.unmount(f"{here}/data/set")
    assert os.listdir("data") == ["real.txt"]
    assert overlay.mounts() == []


def test_a_mount_replaces_an_earlier_one_and_the_later_overlay_hides_the_earlier(overlay: Overlay, here: Path) -> None:
    overlay.mount("data/set", layer := Memory({"x": b"second"}), mtime=5)
    assert overlay.mounts() == [(f"{here}/data/set", layer, 5.0)]
    assert os.listdir("data/set") == ["x"]
    other = Overlay()
    other.mount("data/set", Memory({"x": b"third"}))
    install(other)
    assert open("data/set/x").read() == "third"
    install(overlay)
    assert open("data/set/x").read() == "second"
    remove(overlay)
    assert open("data/set/x").read() == "third"
    remove(other)
    assert open("data/set/x").read() == "second"


def _hooked() -> dict[str, Any]:
    names = ("stat", "listdir", "open", "scandir", "rename", "chdir", "mkdir")
    found = {"open": open, "io.open": io.open, "tarfile": tarfile.bltn_open}  # type: ignore[attr-defined]
    return found | {name: getattr(os, name) for name in names}


def test_nested_installs_are_counted_and_the_last_remove_restores_every_function(here: Path) -> None:
    before, sets = _hooked(), [set(os.supports_dir_fd), set(os.supports_fd), set(os.supports_follow_symlinks)]
    overlay = Overlay()
    overlay.mount("data/set", Memory(dict(FILES)))
    assert not os.path.exists("data/set")
    install(overlay)
    install(overlay)
    assert not [name for name, function in _hooked().items() if function is before[name]]
    assert os.stat in os.supports_follow_symlinks and os.scandir in os.supports_fd and open is io.open
    assert pickle.loads(pickle.dumps(open)) is open and pickle.loads(pickle.dumps(os.stat)) is os.stat  # noqa: S301
    remove(overlay)
    assert os.path.exists("data/set")
    remove(overlay)
    assert not os.path.exists("data/set")
    assert _hooked() == before
    assert sets == [set(os.supports_dir_fd), set(os.supports_fd), set(os.supports_follow_symlinks)]


def test_a_function_that_was_wrapped_since_is_left_and_passes_on(here: Path) -> None:
    overlay, original, calls = Overlay(), os.stat, []
    overlay.mount("data/set", Memory(dict(FILES)))
    install(overlay)
    hook = os.stat

    def wrapper(*args: Any, **options: Any) -> Any:
        calls.append(args)
        return hook(*args, **options)

    os.stat = wrapper  # type: ignore[assignment]
    try:
        remove(overlay)
        assert os.stat is wrapper and not os.path.exists("data/set") and os.path.exists("data")
        install(overlay)
        assert os.stat is wrapper and os.path.exists("data/set") and len(calls) == 3
        os.stat = hook  # unwrapped again
        remove(overlay)
        assert os.stat is original
    finally:
        os.stat = original
    install(overlay)
    assert os.path.exists("data/set")
    remove(overlay)
    assert os.stat is original


def test_functions_that_a_module_took_by_name_are_hooked_too(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "took.py").write_text("from os import listdir\nfrom builtins import open as opens\n")
    monkeypatch.syspath_prepend(here)
    import took  # type: ignore[import-not-found]

    before = took.listdir
    overlay = Overlay()
    overlay.mount("data/set", Memory(dict(FILES)))
    install(overlay)
    assert sorted(took.listdir("data/set/train")) == ["cat", "cat.bin", "dog"]
    assert took.opens("data/set/train/dog/1.bin").read() == "dog"
    remove(overlay)
    assert took.listdir is before
    del sys.modules["took"]


def test_other_paths_are_left_alone(overlay: Overlay, here: Path) -> None:
    descriptor = os.open("data", os.O_RDONLY)
    assert os.listdir(descriptor) == ["real.txt"]
    assert os.stat("real.txt", dir_fd=descriptor).st_size == 4
    os.close(descriptor)
    with open("data/real.txt", "a+") as file:
        assert file.write("!") == 1
        assert os.stat(file.fileno()).st_size in (4, 5)
        with open(file.fileno(), closefd=False) as same:
            assert same.fileno() == file.fileno()
    for wrong in (None, 1.5, "", "a\0b", ["x"]):
        with pytest.raises((TypeError, ValueError, FileNotFoundError)):
            open(wrong)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=re.escape("[Errno 2] No such file or directory: 'data/none/x'")):
        open("data/none/x", "w")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "x").write_text("x")
        os.rename(os.path.join(folder, "x"), os.path.join(folder, "y"))
    assert not os.path.exists(folder)
    missing = subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, text=True, check=True)
    assert missing.stdout == "1\n"
