"""A mounted version reads like the folder it was built from, by any program, and never differently."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reprokit.core.own_extras import pip_words
from reprokit.errors import Error, RefusedError, RegistryError, UsageError
from reprokit.mount.fuse import check_fuse, mount, unmount
from reprokit.mount.table import mounts
from reprokit.packages.build import build
from reprokit.packages.package import Package
from reprokit.registry import open_registry
from tests.conftest import LONG, Project
from tests.mount.test_filesystem import spoil


def reason_against():
    """Say why nothing can be mounted here; empty if it can."""
    try:
        check_fuse()
    except Error as error:
        return str(error)
    capabilities = Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0]
    if os.geteuid() == 0 and not int(capabilities, 16) >> 21 & 1:
        return "CAP_SYS_ADMIN is not granted"
    return ""


WHY_NOT = reason_against()
needs_fuse = pytest.mark.skipif(bool(WHY_NOT), reason=f"nothing can be mounted here: {WHY_NOT}")

FILES = {
    "a.txt": b"hello\n",
    "empty": b"",
    "é/猫.bin": bytes(range(256)),
    "deep/er/x": b"1",
    "deep/er/.hidden": b"2",
    "large": random.Random(0).randbytes(20_000_000),
    **{f"many/{number:04d}": str(number).encode() for number in range(3000)},
}


def lay_out(root, files=FILES):
    for key, data in files.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(data)
    return root


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def until(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Mounting:
    """The command line as a process, and whatever it left mounted taken away at the end."""

    def __init__(self, base):
        self.base = base
        self.project = Project(base)
        self.registry = base / "registry"

    def build(self, files, name="t/data"):
        build(lay_out(self.base / name.partition("/")[2], files), name, registry=open_registry(str(self.registry)))

    def mount(self, ref="t/data", folder="at", *options):
        made = self.project.json("mount", ref, str(self.base / folder), *options, cwd=self.base)
        return Path(made["folder"]), made

    def unmount(self, folder, *options, expect=0):
        return self.project.reprokit("unmount", str(folder), *options, cwd=self.base, expect=expect)

    def end(self):
        for folder in mounts():
            if Path(folder).is_relative_to(self.base):
                unmount(Path(folder), lazy=True)


@pytest.fixture
def mounting(tmp_path):
    made = Mounting(tmp_path)
    yield made
    made.end()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One mount of FILES for the tests that only read."""
    made = Mounting(tmp_path_factory.mktemp("mount"))
    made.build(FILES)
    yield made.base / "data", made.mount()[0]
    made.end()


# Reading


@needs_fuse
def test_a_mount_lists_and_reads_as_the_folder(shared):
    source, at = shared
    names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*"))
    assert sorted(path.relative_to(at).as_posix() for path in at.rglob("*")) == names
    assert contents(at) == FILES
    assert {path.stat().st_size for path in at.rglob("*") if path.is_file()} == {len(data) for data in FILES.values()}


@needs_fuse
def test_cp_copies_out_what_was_put_in(shared, tmp_path):
    source, at = shared
    subprocess.run(["cp", "-r", str(at), str(tmp_path / "out")], check=True)
    subprocess.run(["diff", "-r", str(source), str(tmp_path / "out")], check=True)


@needs_fuse
def test_stat_says_read_only_constant_and_numbered(shared):
    _, at = shared
    for path, mode in ((at / "deep", 0o40555), (at / "a.txt", 0o100444)):
        assert path.stat().st_mode == mode
    published = at.stat().st_mtime_ns
    assert abs(published / 1e9 - time.time()) < 600
    assert {path.stat().st_mtime_ns for path in at.rglob("*")} == {published}
    numbers = [path.stat().st_ino for path in at.rglob("*")]
    assert len(set(numbers)) == len(numbers)
    listed = {entry.name: entry.inode() for entry in os.scandir(at)}
    assert listed == {name: (at / name).stat().st_ino for name in listed}
    assert os.statvfs(at).f_files == len(FILES)


@needs_fuse
def test_a_large_file_reads_right_at_any_offset(shared):
    data = FILES["large"]
    dice = random.Random(1)
    with open(shared[1] / "large", "rb", buffering=0) as handle:
        for _ in range(300):
            offset, size = dice.randrange(len(data) + 10), dice.choice([1, 100, 4097, 200_000])
            handle.seek(offset)
            assert handle.read(size) == data[offset : offset + size]


@needs_fuse
def test_two_processes_read_at_once(shared):
    at = shared[1]
    sums = [subprocess.Popen(["sh", "-c", f"cat '{at}'/*/* '{at}'/large | sha256sum"], stdout=subprocess.PIPE)
            for _ in range(2)]  # fmt: skip
    said = {process.communicate(timeout=60)[0] for process in sums}
    assert len(said) == 1
    assert {process.returncode for process in sums} == {0}


@needs_fuse
@pytest.mark.parametrize("name", ["nope", "a.txt/x", "deep/er/x/y", "e\u0301", os.fsdecode(b"\xff")])
def test_what_is_not_in_the_version_is_not_there(shared, name):
    with pytest.raises((FileNotFoundError, NotADirectoryError)):
        os.stat(shared[1] / name)


@needs_fuse
def test_every_write_is_refused_as_on_a_read_only_disk(shared):
    at = shared[1]
    attempts = [
        lambda: (at / "new").touch(),
        lambda: (at / "a.txt").write_bytes(b""),
        lambda: os.open(at / "a.txt", os.O_WRONLY | os.O_APPEND),
        lambda: os.open(at / "a.txt", os.O_RDWR),
        lambda: (at / "a.txt").unlink(),
        lambda: (at / "a.txt").rename(at / "b.txt"),
        lambda: (at / "a.txt").chmod(0o644),
        lambda: os.chown(at / "a.txt", os.getuid(), os.getgid()),
        lambda: os.utime(at / "a.txt"),
        lambda: os.truncate(at / "a.txt", 0),
        lambda: os.setxattr(at / "a.txt", "user.x", b"1"),
        lambda: os.link(at / "a.txt", at / "b.txt"),
        lambda: (at / "b.txt").symlink_to("a.txt"),
        lambda: (at / "folder").mkdir(),
        lambda: (at / "deep").rmdir(),
        lambda: os.mkfifo(at / "pipe"),
    ]
    for attempt in attempts:
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.EROFS
    assert (at / "a.txt").read_bytes() == b"hello\n"


# Native readers


TENSORFLOW = """
import sys
import tensorflow as tf
at = sys.argv[1]
assert tf.io.read_file(at + "/text").numpy() == b"hello"
assert sorted(tf.io.gfile.listdir(at)) == ["records", "text"]
assert tf.io.gfile.stat(at + "/text").length == 5
assert [bytes(record.numpy()) for record in tf.data.TFRecordDataset(at + "/records")] == [
    b"%d" % number * 1000 for number in range(500)]
print("all read")
"""

HDF5 = """
import sys
import h5py
import numpy as np
with h5py.File(sys.argv[1] + "/x.h5", "r") as file:
    data = file["x"]
    assert data.shape == (1000, 300)
    assert np.array_equal(data[::7, 5], np.arange(300_000).reshape(1000, 300)[::7, 5])
    assert np.array_equal(data[()], np.arange(300_000).reshape(1000, 300))
print("all read")
"""


def read_by(script, at):
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, "-c", script, str(at)], env=environment, capture_output=True, text=True,
                          timeout=120, check=False)  # fmt: skip
    assert done.stdout == "all read\n", done.stderr


@needs_fuse
@pytest.mark.slow
@LONG
def test_tensorflow_reads_files_and_records(mounting):
    pytest.importorskip("tensorflow", reason="the tensorflow extra is not installed")
    write = """
import sys
import tensorflow as tf
with tf.io.TFRecordWriter(sys.argv[1]) as writer:
    for number in range(500):
        writer.write(b"%d" % number * 1000)
"""
    folder = lay_out(mounting.base / "data", {"text": b"hello"})
    subprocess.run([sys.executable, "-c", write, str(folder / "records")], check=True, capture_output=True, timeout=120)
    mounting.build({})
    read_by(TENSORFLOW, mounting.mount()[0])


@needs_fuse
def test_hdf5_reads_slices(mounting):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    np = pytest.importorskip("numpy")
    folder = lay_out(mounting.base / "data", {"text": b"hello"})
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("x", data=np.arange(300_000).reshape(1000, 300), chunks=(10, 300), compression="gzip")
    mounting.build({})
    read_by(HDF5, mounting.mount()[0])


# Corruption


@needs_fuse
@pytest.mark.parametrize("size", [16, 3_000_000])
def test_a_corrupt_object_is_an_input_output_error_and_a_line_in_the_log(mounting, size):
    data = random.Random(size).randbytes(size)
    mounting.build({"bad": data, "good": b"fine"})
    spoil(mounting.registry, data)
    at, made = mounting.mount()
    for _ in range(2):
        with open(at / "bad", "rb", buffering=0) as handle:
            for offset in (0, size // 2):
                handle.seek(offset)
                with pytest.raises(OSError) as caught:
                    handle.read(10)
                assert caught.value.errno == errno.EIO
    assert (at / "good").read_bytes() == b"fine"
    lines = Path(made["log"]).read_text().splitlines()
    assert len([line for line in lines if "reading bad failed: bad of t/data@" in line and "is corrupt" in line]) == 1
    mounting.unmount(at)
    assert Path(made["log"]).exists()


@needs_fuse
def test_an_object_that_changes_under_a_mount_is_an_input_output_error(mounting):
    """Also for who opens it anew, or has it open or mapped; what the kernel has read is what was verified."""
    data = random.Random(5).randbytes(3_000_000)
    mounting.build({"k": data})
    at, _ = mounting.mount()
    with open(at / "k", "rb", buffering=0) as handle:
        assert handle.read(10) == data[:10]
        spoil(mounting.registry, data)
        handle.seek(2_000_000)
        with pytest.raises(OSError) as caught:
            handle.read(10)
        assert caught.value.errno == errno.EIO
    with open(at / "k", "rb", buffering=0) as anew:
        assert anew.read(10) == data[:10]
        anew.seek(1_000_000)
        with pytest.raises(OSError) as caught:
            anew.read(10)
        assert caught.value.errno == errno.EIO


# Life and death


@needs_fuse
def test_unmount_leaves_nothing(mounting):
    mounting.build({"a": b"1"})
    at, made = mounting.mount()
    assert (at / "a").read_bytes() == b"1"
    done = mounting.unmount(at)
    assert done.stdout == f"t/data@{made['top_hash'][:8]} is no longer at {at}\n"
    assert not at.exists()
    assert str(at) not in mounts()
    until(lambda: not is_running(made["pid"]))
    until(lambda: not Path(made["log"]).exists())


@needs_fuse
def test_a_folder_that_was_there_stays(mounting):
    mounting.build({"a": b"1"})
    (mounting.base / "at").mkdir()
    at, _ = mounting.mount()
    mounting.unmount(at)
    assert list(at.iterdir()) == []


@needs_fuse
def test_the_same_version_mounts_again_with_the_same_numbers(mounting):
    mounting.build({"a": b"1", "b/c": b"2"})
    seen = []
    for folder in ("at", "other"):
        at, _ = mounting.mount("t/data", folder)
        seen.append([(path.relative_to(at), path.stat().st_ino) for path in sorted(at.rglob("*"))])
    assert seen[0] == seen[1]


@needs_fuse
def test_a_mount_in_use_stays_unless_lazy(mounting):
    mounting.build({"a": b"1" * 100})
    at, made = mounting.mount()
    with open(at / "a", "rb", buffering=0) as handle:
        done = mounting.unmount(at, expect=3)
        assert done.stderr.startswith(f"error: {at} is in use by a process; it stays mounted.\n")
        assert handle.read(10) == b"1" * 10
        mounting.unmount(at, "--lazy")
        assert handle.read(10) == b"1" * 10
        assert not at.exists()
    until(lambda: not is_running(made["pid"]))


@needs_fuse
def test_a_killed_mount_is_cleared_by_unmount(mounting):
    mounting.build({"a": b"1"})
    at, made = mounting.mount()
    in_use = os.open(at / "a", os.O_RDONLY)
    os.kill(made["pid"], signal.SIGKILL)
    until(lambda: not is_running(made["pid"]))
    with pytest.raises(OSError) as caught:
        os.listdir(at)
    assert caught.value.errno == errno.ENOTCONN
    again = mounting.project.reprokit("mount", "t/data", str(at), cwd=mounting.base, expect=3)
    assert again.stderr == (f"error: {at} is a mount of a package version already.\n`reprokit unmount {at}` ends it.\n")
    mounting.unmount(at)
    assert not at.exists()
    with pytest.raises(OSError):  # the close of a file whose server is gone
        os.close(in_use)


@needs_fuse
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_mount_in_the_foreground(mounting, end):
    mounting.build({"a": b"1"})
    at = mounting.base / "at"
    process = subprocess.Popen(
        mounting.project.command("mount", "-f", "--json", "t/data", str(at)),
        cwd=mounting.base, env=mounting.project.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        until(lambda: (at / "a").exists())
        process.send_signal(end)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert json.loads(out)["pid"] == process.pid
    assert b"Ctrl-C" in err
    assert not at.exists()
    assert str(at) not in mounts()


@needs_fuse
def test_mounting_over_something_is_refused(tmp_path):
    registry = open_registry(str(tmp_path / "registry"))
    build(lay_out(tmp_path / "data", {"a": b"1"}), "t/data", registry=registry)
    package = Package.open("t/data", registry=registry)
    for place in (tmp_path / "data", tmp_path / "data" / "a"):
        with pytest.raises(RefusedError) as caught:
            mount(package, place)
        assert caught.value.message == f"{place} exists and is not an empty folder; nothing was mounted."
    with pytest.raises(UsageError) as caught:
        mount(package, tmp_path / "no" / "at")
    assert caught.value.message == f"{tmp_path / 'no'} is not a folder."
    assert sorted(os.listdir(tmp_path)) == ["data", "registry"]


def test_unmounting_what_is_not_mounted_is_refused(tmp_path):
    with pytest.raises(UsageError) as caught:
        unmount(tmp_path)
    assert caught.value.message == f"No package version is mounted on {tmp_path}."


# What is missing is named


def refused_with(tmp_path, script):
    """Run `reprokit mount` where the module mfusepy is this script."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "mfusepy.py").write_text(script)
    project = Project(tmp_path)
    environment = project.environment()
    environment["PYTHONPATH"] = f"{hidden}{os.pathsep}{environment['PYTHONPATH']}"
    done = subprocess.run(project.command("mount", "t/data", "at"), cwd=tmp_path, env=environment,
                          capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert not (tmp_path / "at").exists()
    return done.returncode, done.stderr


def test_a_missing_mfusepy_is_named(tmp_path):
    assert refused_with(tmp_path, "raise ModuleNotFoundError('No module named mfusepy')") == (
        2,
        f"error: Mounting needs mfusepy, which is not installed.\nInstall it: `pip install {pip_words('mount')}`.\n",
    )


def test_a_missing_libfuse_is_named(tmp_path):
    assert refused_with(tmp_path, "raise OSError('Unable to find libfuse')") == (
        11,
        "error: Mounting needs libfuse 3, which is not installed.\nInstall it: `apt install fuse3`.\n",
    )


@needs_fuse
def test_a_missing_device_is_named(monkeypatch):
    monkeypatch.setattr("reprokit.mount.fuse._DEVICE", Path("/dev/nothing"))
    with pytest.raises(RegistryError) as caught:
        check_fuse()
    assert caught.value.message == "Mounting needs /dev/nothing, which cannot be opened: No such file or directory."
