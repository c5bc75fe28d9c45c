"""A file that cannot be kept says why; it is the only one."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reprokit.core.digest import hash_bytes
from reprokit.recording import kept_files
from reprokit.recording.kept_files import UnkeptError, keep_file
from reprokit.registry.local import LocalRegistry


def _socket(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(os.path.relpath(place))


_ODD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "it is not there": (lambda _: None, "it vanished before it could be stored"),
    "a pipe": (lambda place: os.mkfifo(place), "it is no regular file any more"),
    "a socket": (_socket, "it is no regular file any more"),
    "a folder": (lambda place: place.mkdir(), "it is no regular file any more"),
    "a device": (lambda place: place.symlink_to("/dev/null"), "it is no regular file any more"),
    "a circle": (lambda place: place.symlink_to(place), "it cannot be read: Too many levels of symbolic links"),
    "memory that is nobody's": (
        lambda place: place.symlink_to("/proc/self/mem"),
        "it cannot be read: Input/output error",
    ),
}


@pytest.mark.parametrize("what", _ODD)
def test_what_cannot_be_read_is_told_with_its_reason(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, why = _ODD[what]
    make(tmp_path / "odd")
    (tmp_path / "fine").write_bytes(b"fine")
    registry = LocalRegistry(tmp_path / "registry")
    with registry.staging() as sink:
        with pytest.raises(UnkeptError, match=why):
            keep_file("outputs/odd", tmp_path / "odd", sink)
        entry = keep_file("outputs/fine", tmp_path / "fine", sink)
    assert registry.read_object(entry, what="it") == b"fine"


@pytest.mark.parametrize("size", [10, 3_000_000])
@pytest.mark.parametrize("times", [1, 99])
def test_a_file_that_grows_is_stored_whole_when_it_has_come_to_rest(
    tmp_path: Path, size: int, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "log"
    file.write_bytes(bytes(size))
    left = [times]
    seen = kept_files._seen

    def growing(handle: Any) -> tuple[int, int]:
        if left[0]:
            left[0] -= 1
            with file.open("ab") as more:
                more.write(b"x")
        return seen(handle)

    monkeypatch.setattr(kept_files, "_seen", growing)
    registry = LocalRegistry(tmp_path / "registry")
    with registry.staging() as sink:
        if times > 2:
            with pytest.raises(UnkeptError, match="something was still writing to it"):
                keep_file("outputs/log", file, sink)
            return
        entry = keep_file("outputs/log", file, sink)
    assert (entry.digest, entry.size) == (hash_bytes(file.read_bytes()), size + 1)
