"""A version laid over local paths, outside a run and inside one."""

import bz2
import errno
import glob
import gzip
import io
import mmap
import os
import pathlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import reprokit
from reprokit import vfs
from reprokit.errors import NotFoundError
from reprokit.packages.build import build
from reprokit.registry.local import LocalRegistry
from tests.conftest import ROOT, Project, lies_at, overwrite

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def png(color):
    file = io.BytesIO()
    Image.new("RGB", (4, 3), color).save(file, "PNG")
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


VALUES = {
    "train/cat/1.png": png("red"),
    "train/dog/2.png": png("blue"),
    "train/x.npy": npy(np.arange(12).reshape(3, 4)),
    "train/big.npy": npy(np.arange(300_000)),
    "table.csv": "a,b\n1,2\n3,4\n",
    "text.gz": gzip.compress(b"zipped"),
    "text.bz2": bz2.compress(b"bzipped"),
}


@pytest.fixture
def registry(tmp_path, monkeypatch):
    monkeypatch.setenv("REPROKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REPROKIT_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.chdir(tmp_path)
    made = LocalRegistry(tmp_path / "registry", cache=tmp_path / "cache")
    build(VALUES, "t/data", registry=made)
    yield made
    vfs.teardown()


def test_libraries_read_a_version_as_files(registry, tmp_path):
    with reprokit.vfs.setup("t/data", {"in/data": "", "only": "train"}):
        assert np.array_equal(np.load("in/data/train/x.npy"), np.arange(12).reshape(3, 4))
        assert np.load("only/big.npy", mmap_mode="r")[299_999] == 299_999
        assert pd.read_csv("in/data/table.csv")["b"].sum() == 6
        assert Image.open("only/cat/1.png").getpixel((0, 0)) == (255, 0, 0)
        assert gzip.open("in/data/text.gz").read() == b"zipped"
        assert bz2.open(tmp_path / "in" / "data" / "text.bz2").read() == b"bzipped"
        assert sorted(path.name for path in pathlib.Path("only").rglob("*.png")) == ["1.png", "2.png"]
        assert sorted(glob.glob("in/**/*.npy", recursive=True)) == ["in/data/train/big.npy", "in/data/train/x.npy"]
        assert next((folder, sorted(files)) for folder, _, files in os.walk("only")) == ("only", ["big.npy", "x.npy"])
        assert os.stat("in/data/table.csv").st_size == len(VALUES["table.csv"])
        assert "only" in os.listdir(".")
        with pytest.raises(OSError) as caught:
            open("only/new", "w")
        assert caught.value.errno == errno.EROFS
    assert not os.path.exists("only")
    assert os.listdir(tmp_path / "registry") and sorted(os.listdir(tmp_path)) == ["cache", "registry"]


def test_one_entry_and_the_default_place(registry):
    with vfs.setup("t/data", {"my.csv": "table.csv"}):
        assert open("my.csv").read() == VALUES["table.csv"]
    mapped = vfs.setup("t/data:latest")
    assert sorted(os.listdir(mapped)) == ["table.csv", "text.bz2", "text.gz", "train"]
    assert os.fspath(mapped) == os.path.abspath("data")
    mapped.teardown()
    mapped.teardown()
    assert not os.path.exists("data")


def test_what_is_not_there_is_named_and_nothing_is_laid(registry):
    with pytest.raises(FileNotFoundError, match="has no entry or folder of that name: 'tra'"):
        vfs.setup("t/data", {"x": "tra"})
    with pytest.raises(NotFoundError):
        vfs.setup("t/date")
    assert not os.path.exists("x")


@pytest.mark.parametrize("key", ["table.csv", "train/big.npy"])
def test_corruption_is_an_input_output_error_and_never_data(registry, key):
    manifest = registry.read_manifest(registry.head("t/data").top_hash)
    path, offset = lies_at(registry, manifest[key])
    overwrite(path, offset, b"X")
    with vfs.setup("t/data"), pytest.raises(OSError, match=f"{key} of t/data@.* is corrupt") as caught:
        open(f"data/{key}", "rb").read()
    assert caught.value.errno == errno.EIO


def test_what_changes_on_disk_while_a_file_is_open_is_never_data(registry):
    manifest = registry.read_manifest(registry.head("t/data").top_hash)
    path, offset = lies_at(registry, manifest["train/big.npy"])
    data = VALUES["train/big.npy"]
    with vfs.setup("t/data"), open("data/train/big.npy", "rb") as file, open("data/train/big.npy", "rb") as mapped:
        assert file.read(10) == data[:10]
        with mmap.mmap(mapped.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            overwrite(path, offset + 2_000_000, b"X")
            assert memory[:] == data  # a copy, as every descriptor is of
        file.seek(2_000_000)
        for read in (lambda: file.read(10), file.readall if hasattr(file, "readall") else file.read, file.fileno):
            with pytest.raises(OSError, match="the object changed on disk after it was verified") as caught:
                read()
            assert caught.value.errno == errno.EIO
        with pytest.raises(OSError, match=r"train/big\.npy of t/data@.* is corrupt"):
            open("data/train/big.npy", "rb")


def test_a_tree_is_seen_by_other_programs_too(registry):
    with vfs.setup("t/data", {"in/train": "train"}, mode="tree"):
        assert subprocess.run(["ls", "in/train/"], capture_output=True, text=True, check=True).stdout.split() == [
            "big.npy", "cat", "dog", "x.npy",
        ]  # fmt: skip
    assert not os.path.lexists("in/train")
    os.mkdir("there")
    with pytest.raises(FileExistsError):
        vfs.setup("t/data", {"there": "train"}, mode="tree")


def test_workers_of_a_data_loader_read_through_it(registry):
    code = """
import sys, torch
from PIL import Image
from reprokit import vfs
class Images(torch.utils.data.Dataset):
    names = ["data/train/cat/1.png", "data/train/dog/2.png"] * 8
    def __len__(self): return len(self.names)
    def __getitem__(self, n): return torch.tensor(Image.open(self.names[n]).getpixel((0, 0)))
with vfs.setup("t/data"):
    loader = torch.utils.data.DataLoader(Images(), num_workers=2, batch_size=4, multiprocessing_context="fork")
    print(torch.cat(list(loader)).sum().item())
"""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == f"{16 * 255}\n"


RUN_SCRIPT = """\
import json, os, subprocess, sys
import reprokit
from reprokit.sources import open_source

with reprokit.vfs.setup("t/in", {"elsewhere": "", "data/in": ""}):
    total = sum(float(open(f"elsewhere/{name}").read()) for name in sorted(os.listdir("elsewhere")))
    assert open("data/in/1.txt").read() == "1\\n"
    code = "print(open('elsewhere/2.txt').read(), end='')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "2\\n"
source = open_source("t/in")
assert [source.read(number) for number in range(len(source.keys))] == [b"0\\n", b"1\\n", b"2\\n"]
try:
    reprokit.vfs.setup("t/other")
except LookupError as error:
    print(error)
assert "reprokit.packages.package" not in sys.modules and "msgspec" not in sys.modules
json.dump({"total": total}, open("metrics.json", "w"))
"""


def test_inside_a_run_declared_inputs_are_mapped_with_the_standard_library_alone(project: Project) -> None:
    project.write("train.py", RUN_SCRIPT)
    project.commit()
    record = project.json("run", "recipe.yaml")
    assert record["status"] == "finished", project.reprokit("logs", "latest").stdout
    said = project.reprokit("logs", "latest").stdout
    assert "reprokit: t/other is not a declared input of this run; declared: t/in. Declare it under `data:`" in said
    told = [text for text in record["warnings"] if "since it was installed" not in text]  # of packages here
    assert [text.partition(":")[0] for text in told] == [
        "The script went on without what it was refused, not being declared", "Parameters never reached the script",
        "No checkpoint was saved",
    ]  # fmt: skip
