"""What a folder holds, and what of it is known by stat alone."""

import os
import time

import pytest

from reprokit.errors import RefusedError, RegistryError
from reprokit.packages.scan import Known, look_through


def nothing(_amount=1, /):
    pass


@pytest.fixture
def folder(tmp_path):
    for key in ("a-b", "a/b", "a.b", "keep/x.log", "drop/x.log", "drop/deep/y"):
        (tmp_path / "data" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / key).write_text(key)
    return tmp_path / "data"


def known(files, *, now=None):
    values = [f"{number:043d}=" for number in range(len(files.keys))]
    return Known.of(files, values, [f"packs/{key}" for key in files.keys], now=now or time.time_ns() + 10**10)


def test_keys_are_sorted_as_a_manifest_sorts_them(folder):
    assert look_through(folder, nothing).keys == ["a/b", "a-b", "a.b", "drop/deep/y", "drop/x.log", "keep/x.log"]


def test_the_ignore_file_speaks_gitignore(folder):
    (folder / ".reprokitignore").write_text("*.log\n!keep/*.log\n/drop/\n# a comment\n.reprokitignore\n")
    assert look_through(folder, nothing).keys == ["a/b", "a-b", "a.b", "keep/x.log"]


def test_an_ignored_folder_is_not_entered(folder):
    os.mkfifo(folder / "drop" / "pipe")
    with pytest.raises(RefusedError):
        look_through(folder, nothing)
    (folder / ".reprokitignore").write_text("drop\n")
    assert "drop/x.log" not in look_through(folder, nothing).keys


def test_an_ignore_file_that_is_none_is_refused(folder):
    (folder / ".reprokitignore").write_bytes(b"\xff\xfe")
    with pytest.raises(RefusedError, match=r"\.reprokitignore cannot be read"):
        look_through(folder, nothing)


def test_a_folder_that_cannot_be_read_is_named(folder, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(RegistryError) as caught:
        look_through(folder, nothing)
    assert caught.value.message.startswith(f"Reading the folder {folder}/drop/deep failed: Permission denied")


def test_what_is_known_round_trips(folder):
    files = look_through(folder, nothing)
    kept = known(files)
    assert Known.decode(kept.encode()) == kept
    assert kept.unchanged(files) is None
    empty = Known.of(look_through(folder / "a", nothing), ["0" * 44], [""], now=0)
    assert Known.decode(empty.encode()) == empty
    assert Known.decode(kept.encode()[:-1]) is None


@pytest.mark.parametrize("change", ["content", "mtime put back", "replaced", "added", "removed", "grown"])
def test_any_change_shows(folder, change):
    kept = known(look_through(folder, nothing))
    time.sleep(0.02)
    path = folder / "a-b"
    seen = path.stat()
    if change == "content":
        path.write_text("b-a")
    elif change == "mtime put back":
        path.write_text("b-a")
        os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    elif change == "replaced":
        (folder.parent / "new").write_text("b-a")
        os.utime(folder.parent / "new", ns=(seen.st_atime_ns, seen.st_mtime_ns))
        (folder.parent / "new").replace(path)
    elif change == "added":
        (folder / "a0").write_text("new")
    elif change == "removed":
        path.unlink()
    else:
        path.write_text("longer")
    files = look_through(folder, nothing)
    positions = kept.unchanged(files)
    assert positions is not None
    changed = [key for key, at in zip(files.keys, positions, strict=True) if at < 0]
    assert changed == {"added": ["a0"], "removed": []}.get(change, ["a-b"])
    for key, at in zip(files.keys, positions, strict=True):
        assert at < 0 or kept.keys[at] == key


def test_a_file_changed_within_the_clocks_granularity_is_read_again(folder):
    files = look_through(folder, nothing)
    latest = max(max(stat[1], stat[2]) for stat in files.stats)
    assert known(files, now=latest + 200_000_000).unchanged(files) is None
    fresh = known(files, now=latest + 1_000_000).unchanged(files)
    assert fresh is not None
    assert -1 in fresh
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))  # whole seconds, as coarse file systems keep them: not trusted for two
    coarse = look_through(folder, nothing)
    coarse.stats[:] = [(size, 5 * 10**9, 5 * 10**9, inode) for size, _, _, inode in coarse.stats]
    assert known(coarse, now=6 * 10**9).unchanged(coarse) == [-1] * 6
    assert known(coarse, now=8 * 10**9).unchanged(coarse) is None
