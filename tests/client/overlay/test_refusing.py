"""What is refused, each with its whole message."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reprokit.client.overlay.install import Overlay
from tests.client.conftest import FILES

_READ_ONLY = "belongs to a package version laid over by reprokit.vfs and is read-only; copy it elsewhere first"
_NATIVE = "is laid over by reprokit.vfs; native code and processes cannot see it: use reprokit mount or install"


_WRITES: dict[str, Callable[[], Any]] = {
    "open w": lambda: open("data/set/meta.json", "w"),
    "open a": lambda: open("data/set/meta.json", "ab"),
    "open x": lambda: open("data/set/meta.json", "x"),
    "open r+": lambda: open("data/set/meta.json", "r+b"),
    "os.open": lambda: os.open("data/set/meta.json", os.O_WRONLY),
    "os.open creating": lambda: os.open("data/set/meta.json", os.O_RDONLY | os.O_CREAT),
    "remove": lambda: os.remove("data/set/meta.json"),
    "unlink": lambda: os.unlink("data/set/meta.json"),
    "mkdir": lambda: os.mkdir("data/set/meta.json"),
    "rmdir": lambda: os.rmdir("data/set/meta.json"),
    "chmod": lambda: os.chmod("data/set/meta.json", 0o644),
    "chown": lambda: os.chown("data/set/meta.json", 0, 0),
    "utime": lambda: os.utime("data/set/meta.json"),
    "truncate": lambda: os.truncate("data/set/meta.json", 0),
    "setxattr": lambda: os.setxattr("data/set/meta.json", "user.a", b"1"),
    "touch": lambda: Path("data/set/meta.json").touch(),
    "Path.unlink": lambda: Path("data/set/meta.json").unlink(),
    "write_text": lambda: Path("data/set/meta.json").write_text("x"),
    "makedirs": lambda: os.makedirs("data/set/meta.json"),
}


@pytest.mark.parametrize("name", list(_WRITES))
def test_writing_is_refused(overlay: Overlay, name: str) -> None:
    with pytest.raises(OSError) as caught:
        _WRITES[name]()
    assert str(caught.value) == f"[Errno 30] this path {_READ_ONLY}: {caught.value.filename!r}"
    assert (caught.value.errno, os.fspath(caught.value.filename)) == (errno.EROFS, "data/set/meta.json")
    assert open("data/set/meta.json", "rb").read() == FILES["meta.json"]


@pytest.mark.parametrize("name", ["rename", "replace", "link"])
@pytest.mark.parametrize("ends", [("data/set/meta.json", "data/y"), ("data/real.txt", "data/set/new")])
def test_moving_is_refused_at_either_end(overlay: Overlay, name: str, ends: tuple[str, str]) -> None:
    with pytest.raises(OSError) as caught:
        getattr(os, name)(*ends)
    assert str(caught.value) == f"[Errno 30] this path {_READ_ONLY}: {ends[0]!r} -> {ends[1]!r}"


def test_linking_into_a_place_is_refused_and_pointing_to_one_is_not(overlay: Overlay) -> None:
    with pytest.raises(OSError) as caught:
        os.symlink("data/real.txt", "data/set/new")
    assert str(caught.value) == f"[Errno 30] this path {_READ_ONLY}: 'data/real.txt' -> 'data/set/new'"
    os.symlink("set/meta.json", "data/pointer")
    assert os.readlink("data/pointer") == "set/meta.json"


_PROCESSES: dict[str, Callable[[], Any]] = {
    "chdir": lambda: os.chdir("data/set"),
    "os.open of a folder": lambda: os.open("data/set", os.O_RDONLY),
    "execv": lambda: os.execv("data/set", ["x"]),  # noqa: S606
    "execve": lambda: os.execve("data/set", ["x"], {}),  # noqa: S606
    "posix_spawn": lambda: os.posix_spawn("data/set", ["x"], {}),
    "statvfs": lambda: os.statvfs("data/set"),
    "fwalk": lambda: list(os.fwalk("data/set")),
}


@pytest.mark.parametrize("name", list(_PROCESSES))
def test_what_hooks_cannot_serve_says_so(overlay: Overlay, name: str) -> None:
    with pytest.raises(OSError) as caught:
        _PROCESSES[name]()
    assert str(caught.value) == f"[Errno 95] this path {_NATIVE}: 'data/set'"


def test_a_process_cannot_start_in_a_place_or_from_one(overlay: Overlay, here: Path) -> None:
    with pytest.raises(OSError, match=re.escape(f"[Errno 95] this path {_NATIVE}: 'data/set'")):
        subprocess.run(["true"], cwd="data/set", check=True)
    with pytest.raises(OSError, match=re.escape(f"[Errno 95] this path {_NATIVE}: 'data/set/train/dog/1.bin'")):
        subprocess.run(["data/set/train/dog/1.bin"], check=True)
    done = subprocess.run(["pwd"], cwd="data", check=True, capture_output=True, text=True)
    assert done.stdout == f"{here}/data\n"
