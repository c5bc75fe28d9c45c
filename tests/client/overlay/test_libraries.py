"""The overlay under the libraries with which training reads data."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reprokit.client.overlay.install import Overlay, install, remove
from tests.client.conftest import Memory

torch = pytest.importorskip("torch")
pd = pytest.importorskip("pandas")
image = pytest.importorskip("PIL.Image")

_ARRAY = np.arange(60_000, dtype=np.float32).reshape(300, 200)


def _bytes(write: Any) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


@pytest.fixture
def overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Overlay]:
    monkeypatch.chdir(tmp_path)
    picture = image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    files = {
        "a.npy": _bytes(lambda f: np.save(f, _ARRAY)),
        "a.npz": _bytes(lambda f: np.savez(f, x=_ARRAY)),
        "a.raw": _ARRAY.tobytes(),
        "a.csv": b"x,y\n1,2\n3,4\n",
        "a.csv.gz": __import__("gzip").compress(b"x,y\n1,2\n3,4\n"),
        "a.png": _bytes(lambda f: picture.save(f, "PNG")),
        "a.pt": _bytes(lambda f: torch.save({"w": torch.arange(5)}, f)),
        **{f"train/{n % 2}/{n:03d}.npy": _bytes(lambda f, n=n: np.save(f, np.full(3, n))) for n in range(40)},
    }
    made = Overlay()
    made.mount("data", Memory(files))
    made.mount("view", Memory({key: memoryview(value) for key, value in files.items()}))
    install(made)
    yield made
    remove(made)


@pytest.mark.parametrize("place", ["data", "view"])
def test_numpy_loads_and_maps(overlay: Overlay, place: str) -> None:
    assert np.array_equal(np.load(f"{place}/a.npy"), _ARRAY)
    for mode in ("r", "c"):
        mapped = np.load(Path(place, "a.npy"), mmap_mode=mode)  # type: ignore[call-overload]
        assert isinstance(mapped, np.memmap) and np.array_equal(mapped, _ARRAY)
    with pytest.raises(OSError, match=re.escape("is read-only; copy it elsewhere first: 'data/a.npy'")):
        np.load("data/a.npy", mmap_mode="r+")
    assert np.array_equal(np.load(f"{place}/a.npz")["x"], _ARRAY)
    assert np.array_equal(np.fromfile(f"{place}/a.raw", np.float32), _ARRAY.ravel())
    with open(f"{place}/a.raw", "rb") as file:
        file.seek(4)
        assert np.fromfile(file, np.float32, 2).tolist() == [1.0, 2.0]
        assert file.tell() == 12
    assert np.memmap(f"{place}/a.raw", np.float32, "r")[7] == 7
    assert np.loadtxt(f"{place}/a.csv", delimiter=",", skiprows=1).tolist() == [[1, 2], [3, 4]]


def test_numpy_keeps_its_own_openers_and_they_are_hooked_and_given_back(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("1 2")
    assert np.loadtxt(tmp_path / "real.txt").tolist() == [1, 2]  # NumPy now holds the original `open`
    overlay = Overlay()
    overlay.mount(str(tmp_path / "laid"), Memory({"x.txt": b"3 4"}))
    install(overlay)
    assert np.loadtxt(tmp_path / "laid/x.txt").tolist() == [3, 4]
    remove(overlay)
    assert np.lib._datasource._file_openers._file_openers[None] is open  # type: ignore[attr-defined]


def test_pandas_and_pillow_read(overlay: Overlay) -> None:
    for path in ("data/a.csv", Path("view/a.csv"), "data/a.csv.gz"):
        assert pd.read_csv(path).to_dict("list") == {"x": [1, 3], "y": [2, 4]}
    assert pd.read_csv("data/a.csv", memory_map=True)["y"].sum() == 6
    assert pd.read_csv("data/a.csv", engine="python")["y"].sum() == 6
    with image.open("data/a.png") as picture:
        assert (picture.size, picture.format) == ((8, 8), "PNG")
        assert np.array_equal(np.asarray(picture), np.arange(192, dtype=np.uint8).reshape(8, 8, 3))


def test_torch_and_h5py_read(overlay: Overlay, tmp_path: Path) -> None:
    for path in ("data/a.pt", "view/a.pt"):
        assert torch.load(path, weights_only=True)["w"].tolist() == [0, 1, 2, 3, 4]
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as written:
        written["a"] = _ARRAY
    overlay.mount("h5", Memory({"x.h5": (tmp_path / "x.h5").read_bytes()}))
    with open("h5/x.h5", "rb") as file, h5py.File(file, "r") as read:
        assert np.array_equal(read["a"], _ARRAY)
    with pytest.raises(FileNotFoundError):
        h5py.File("h5/x.h5", "r")  # native code: it sees no file, and says so


def test_a_copied_tree_is_read_without_the_overlay(overlay: Overlay) -> None:
    shutil.copytree("data", "copy")
    overlay.unmount("data")
    assert len(list(Path("copy/train").rglob("*.npy"))) == 40
    assert np.array_equal(np.load("copy/a.npy"), _ARRAY)


class _Files(torch.utils.data.Dataset):  # type: ignore[misc]
    def __init__(self) -> None:
        self.paths = sorted(str(path) for path in Path("data/train").rglob("*.npy"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        return int(np.load(self.paths[index])[0])


class _Laid(_Files):
    """What a spawned worker needs: the mounts, from which it makes the overlay again."""

    def __init__(self, overlay: Overlay) -> None:
        super().__init__()
        self.mounts = overlay.mounts()[:1]

    def lay(self, _worker: int) -> None:
        overlay = Overlay()
        for place, layer, mtime in self.mounts:
            overlay.mount(place, layer, mtime=mtime)
        install(overlay)


def test_forked_workers_of_a_data_loader_read_through_the_overlay(overlay: Overlay) -> None:
    loader = torch.utils.data.DataLoader(_Files(), batch_size=8, num_workers=2, multiprocessing_context="fork")
    assert sorted(torch.cat(list(loader)).tolist()) == list(range(40))


def test_spawned_workers_lay_the_mounts_again(overlay: Overlay) -> None:
    files = _Laid(overlay)
    loader = torch.utils.data.DataLoader(
        files, batch_size=8, num_workers=2, multiprocessing_context="spawn", worker_init_fn=files.lay
    )
    assert sorted(torch.cat(list(loader)).tolist()) == list(range(40))
    assert os.path.isdir("data")
