"""Data loaders read straight from packs, and nothing that was not verified."""

import pickle

import pytest

from reprokit.errors import DataMismatchError
from reprokit.packages.build import build
from reprokit.packages.package import Package
from reprokit.registry.local import LocalRegistry
from reprokit.sources import open_source
from reprokit.store.packs import SMALL
from tests.conftest import lies_at, overwrite

VALUES = {f"train/{number:04d}": b"%d" % number * 50 for number in range(600)} | {
    "test/big": b"b" * SMALL,
    "test/empty": b"",
}


@pytest.fixture
def registry(tmp_path):
    made = LocalRegistry(tmp_path / "registry", cache=tmp_path / "cache")
    build(VALUES, "t/data", registry=made)
    return made


def test_files_come_in_the_order_of_their_keys(registry):
    source = open_source("t/data", "test", registry=registry)
    assert source.keys == ["big", "empty"]
    assert [source.read(number) for number in (0, 1, 0)] == [VALUES["test/big"], b"", VALUES["test/big"]]
    whole = open_source(Package.open("t/data", registry=registry))
    assert {key: whole.read(number) for number, key in enumerate(whole.keys)} == VALUES
    with pytest.raises(FileNotFoundError):
        open_source("t/data", "nothing", registry=registry)


def test_a_source_is_pickled_with_the_version_it_has(registry):
    source = open_source("t/data", "train", registry=registry)
    build({"train/0000": b"newer"}, "t/data", registry=registry)
    again = pickle.loads(pickle.dumps(source))  # noqa: S301 - our own
    assert again.keys == source.keys
    assert again.read(7) == VALUES["train/0007"]


def test_pytorch_reads_with_workers(registry):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from reprokit.sources.torch import Dataset

    plain = Dataset("t/data", "train", registry=registry)
    assert (len(plain), plain[3], plain.keys[3]) == (600, VALUES["train/0003"], "0003")
    dataset = Dataset("t/data", "train", transform=lambda key, data: (int(key), len(data)), registry=registry)
    loader = torch.utils.data.DataLoader(dataset, batch_size=64, num_workers=2, multiprocessing_context="fork")
    numbers = torch.cat([batch[0] for batch in loader])
    assert numbers.tolist() == list(range(600))
    spawned = torch.utils.data.DataLoader(plain, batch_size=300, num_workers=1, multiprocessing_context="spawn")
    assert [data for batch in spawned for data in batch] == [VALUES[f"train/{n:04d}"] for n in range(600)]


@pytest.mark.slow
def test_tensorflow_reads_in_order(registry):
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    from reprokit.sources.tensorflow import dataset

    expected = [VALUES[f"train/{n:04d}"] for n in range(600)]
    made = dataset("t/data", "train", registry=registry)
    assert int(made.cardinality()) == 600
    assert list(made.as_numpy_iterator()) == expected
    batches = dataset("t/data", "train", with_keys=True, batch_size=250, registry=registry)
    rows = list(batches.as_numpy_iterator())
    assert [len(keys) for keys, _ in rows] == [250, 250, 100]
    assert [data for _, contents in rows for data in contents] == expected


def test_corruption_is_never_data(registry):
    manifest = registry.read_manifest(registry.head("t/data").top_hash)
    source = open_source("t/data", "train", registry=registry)
    assert source.read(8) == VALUES["train/0008"]
    overwrite(*lies_at(registry, manifest["train/0008"]), b"X")
    for opened in (source, open_source("t/data", "train", registry=LocalRegistry(registry.root))):
        with pytest.raises(DataMismatchError, match=r"train/0008 of t/data@.* is corrupt"):
            opened.read(8)
        assert opened.read(9) == VALUES["train/0009"]
