"""Checkpoints as the frameworks' own files and objects, in the real frameworks."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reprokit.checkpoint.codecs.convert import convert
from reprokit.checkpoint.load import LoadedCheckpoint, load_checkpoint
from reprokit.client.tensors import parse
from reprokit.errors import DataMismatchError, NotFoundError, RefusedError, UsageError
from reprokit.registry.local import LocalRegistry
from tests.checkpoint.making import make
from tests.conftest import LONG, ROOT

MIB = 1024 * 1024


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry", cache=tmp_path / "cache")


def _saved(tmp_path: Path, script: str, **environment: str) -> LoadedCheckpoint:
    """Run a script that saves to t/model outside a run, and open what it saved."""
    places = {f"REPROKIT_{name.upper()}": str(tmp_path / name) for name in ("home", "cache", "registry")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, **places, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return load_checkpoint("t/model", registry=LocalRegistry(tmp_path / "registry", cache=tmp_path / "cache"))


# safetensors


def test_merged_files_hold_the_same_tensors_and_name_tied_ones(registry: LocalRegistry, tmp_path: Path) -> None:
    tensors = {
        "b.w": np.arange(6, dtype="f4").reshape(2, 3),
        "a.w": np.ones(3, "i8"),
        "big": np.ones(MIB, "f4"),
        "optimizer:m": np.ones(2, "f8"),
        "half": ("BF16", (1,), b"\x80\x3f"),
    }
    found = make(registry, tensors, aliases={"tied": "b.w"}, framework="pytorch", config={"a": 1})
    files = convert(found, "safetensors", tmp_path / "out")
    names = ["config.json", "model.safetensors", "optimizer.safetensors", "state.json"]
    assert [path.name for path in files] == names
    ours = found.arrays()
    merged = parse(memoryview((tmp_path / "out/model.safetensors").read_bytes()))
    assert merged.keys() == ours.keys() - {"tied"}
    assert all(merged[name] == ours[name] for name in merged)
    safetensors = pytest.importorskip("safetensors", reason="safetensors is not installed")
    with safetensors.safe_open(tmp_path / "out/model.safetensors", "np") as opened:
        assert opened.metadata() == {"format": "pt", "tied": "b.w"}
        assert opened.get_tensor("b.w").tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_folder_that_is_not_empty_is_left_alone(registry: LocalRegistry, tmp_path: Path) -> None:
    found = make(registry, {"w": np.ones(2)})
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    with pytest.raises(RefusedError, match="exists and is not empty; nothing was written"):
        convert(found, "safetensors", tmp_path / "out")
    with pytest.raises(UsageError, match="Types are named for joblib files only"):
        convert(found, "safetensors", tmp_path / "new", types=["a.B"])
    with pytest.raises((NotFoundError, UsageError)):
        convert(found, "joblib", tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out", "registry"]


# PyTorch

_TORCH = """
import torch
from reprokit.callbacks.pytorch import PackageCheckpoint

torch.manual_seed(0)
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(600, 600)
        self.head = torch.nn.Linear(600, 600, bias=False)
        self.head.weight = self.embed.weight
        self.norm = torch.nn.BatchNorm1d(600)
        self.brain = torch.nn.Parameter(torch.randn(3, dtype=torch.bfloat16))
        self.register_buffer("eight", torch.randn(4).to(torch.float8_e4m3fn))
        self.register_buffer("passing", torch.arange(3), persistent=False)
        self.register_buffer("imaginary", torch.randn(2, dtype=torch.complex64))
    def forward(self, x):
        return self.head(self.norm(self.embed(x))) + self.brain.float().sum()
net = Net()
"""
_TRAIN = """
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=9)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, scheduler=scheduler, package="t/model", initial=False)
for epoch in ckpt.epochs(2):
    net(torch.tensor([1, 2, 3])).sum().backward(); optimizer.step(); scheduler.step()
    ckpt.state["kept"] = (torch.arange(3, dtype=torch.bfloat16), b"raw", float("inf"), {1: None})
    ckpt.save(loss=0.0)
torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict()}, "expected.pt")
"""


def _net(script: str = _TORCH) -> Any:
    scope: dict[str, Any] = {}
    exec(script, scope)  # noqa: S102 - the class of the script above
    return scope["net"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedCheckpoint, Path]:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    folder = tmp_path_factory.mktemp("torch")
    return _saved(folder, _TORCH + _TRAIN), folder


def _equal(one: Any, other: Any) -> bool:
    torch: Any = sys.modules["torch"]
    if isinstance(one, torch.Tensor):
        bits = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (one, other)]
        return bool(one.dtype == other.dtype and one.shape == other.shape and torch.equal(*bits))
    if isinstance(one, dict):
        return bool(one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def test_a_state_dict_has_real_dtypes_and_ties(trained: tuple[LoadedCheckpoint, Path]) -> None:
    checkpoint, folder = trained
    torch: Any = sys.modules["torch"]
    expected = torch.load(folder / "expected.pt", weights_only=True)["model"]
    found = checkpoint.state_dict()
    assert {name: found[name].dtype for name in ("brain", "eight", "imaginary")} == {
        "brain": torch.bfloat16,
        "eight": torch.float8_e4m3fn,
        "imaginary": torch.complex64,
    }
    assert found.keys() - expected.keys() == {"passing"}
    assert _equal({name: found[name] for name in expected}, dict(expected))
    assert found["head.weight"] is found["embed.weight"]
    assert list(checkpoint.state_dict(names=["brain"])) == ["brain"]


def test_changing_a_state_dict_changes_nothing_else(trained: tuple[LoadedCheckpoint, Path]) -> None:
    checkpoint, _ = trained
    first, second = checkpoint.state_dict(), checkpoint.state_dict()
    for tensor in first.values():
        tensor.zero_()
    assert not _equal(first, second)
    assert _equal(second, checkpoint.state_dict())
    assert checkpoint.package.verify() == []


def test_a_model_is_put_to_what_was_saved_buffers_and_modes_too(trained: tuple[LoadedCheckpoint, Path]) -> None:
    checkpoint, _ = trained
    net = _net(_TORCH.replace("manual_seed(0)", "manual_seed(1)"))
    net.eval().requires_grad_(False)
    checkpoint.load_into(net)
    assert _equal({**net.state_dict(), "passing": net.passing}, checkpoint.state_dict())
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert net.head.weight is net.embed.weight
    with pytest.raises(DataMismatchError, match=r"does not fit: the model has other tensors than the checkpoint"):
        checkpoint.load_into(sys.modules["torch"].nn.Linear(2, 2))


def test_a_pt_file_loads_with_weights_only_and_resumes_the_optimiser(
    trained: tuple[LoadedCheckpoint, Path], tmp_path: Path
) -> None:
    checkpoint, folder = trained
    torch: Any = sys.modules["torch"]
    (path,) = convert(checkpoint, "pt", tmp_path / "out")
    found = torch.load(path, weights_only=True)
    expected = torch.load(folder / "expected.pt", weights_only=True)
    assert found.keys() == {"model", "optimizer", "gradients", "state"}  # which nobody clears there
    assert _equal(found["optimizer"], expected["optimizer"])
    net = _net()
    net.load_state_dict({name: found["model"][name] for name in net.state_dict()})
    optimizer = torch.optim.AdamW(net.parameters())
    optimizer.load_state_dict(found["optimizer"])
    assert _equal(optimizer.state_dict(), expected["optimizer"])
    kept = found["state"]["user"]["kept"]
    assert kept[0].dtype == torch.bfloat16
    assert kept[1:] == (b"raw", float("inf"), {1: None})
    assert found["state"]["rng"]["torch"].dtype == torch.uint8
    assert (found["state"]["epoch"], found["state"]["step"]) == (1, 2)


def test_every_kind_of_state_is_loadable_with_weights_only(registry: LocalRegistry, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    values = [
        np.float32(1.5),
        np.arange(3, dtype=">i4"),
        np.array(["a"]),
        np.array([b"a"]),
        np.str_("x"),
        (1, b"x", None),
        np.array(["2020-01-01"], "M8[D]"),
        np.zeros((0, 2)),
        {1: 2, (1, "a"): [True]},
        np.uint64(2**63),
        10**30,
    ]
    from reprokit.client.plain import to_json

    found = make(registry, {"w": np.ones(2)}, state={"user": to_json(values, "user")})
    (path,) = convert(found, "pt", tmp_path / "out")
    loaded = torch.load(path, weights_only=True)["state"]["user"]
    assert loaded[0] == 1.5
    assert (loaded[1].dtype, loaded[1].tolist()) == (torch.int32, [0, 1, 2])
    assert loaded[2:7] == [["a"], [b"a"], "x", (1, b"x", None), ["2020-01-01"]]
    assert loaded[7].shape == (0, 2)
    assert loaded[8:] == [{1: 2, (1, "a"): [True]}, 2**63, 10**30]


# Keras

_KERAS = """
import os, numpy as np, keras
from reprokit.callbacks.keras import PackageCheckpoint
from reprokit.client.writer import writer
L = keras.layers
keras.utils.set_random_seed(3)
i = keras.Input((8, 8, 3))
x = L.Conv2D(4, 3, activation="relu", kernel_regularizer=keras.regularizers.L2(1e-3))(i)
x = L.BatchNormalization()(x)
x = x + keras.ops.relu(x)
x = L.TimeDistributed(L.Dense(2))(x)
x = keras.Sequential([L.Flatten(), L.Dense(5), L.Dropout(0.1)])(x)
m = keras.Model(i, L.Dense(3, dtype="bfloat16")(x))
x = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("f4")
def loss(a, b): return keras.ops.mean(keras.ops.square(keras.ops.cast(b, "float32")))
m.compile(optimizer="adam", loss=loss)
m.fit(x, np.zeros(8), verbose=0, callbacks=[PackageCheckpoint(package="t/model", initial=False)])
writer().drain()
np.save("x.npy", x)
np.save("expected.npy", np.asarray(keras.ops.convert_to_numpy(m(x)), "f4"))
"""
_CHECK = """
import sys, numpy as np, keras
m = keras.saving.load_model(sys.argv[1])
found = np.asarray(keras.ops.convert_to_numpy(m(np.load("x.npy"))), "f4")
expected = np.load("expected.npy")
print("BITWISE" if found.tobytes() == expected.tobytes() else np.abs(found - expected).max())
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("torch", marks=LONG)])
def test_a_keras_file_is_the_model_on_the_same_backend(tmp_path: Path, backend: str) -> None:
    pytest.importorskip("keras", reason="the keras extra is not installed")
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    checkpoint = _saved(tmp_path, _KERAS, KERAS_BACKEND=backend)
    assert checkpoint.config["class_name"] == "Functional"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    options = ["--registry", str(tmp_path / "registry"), "--format", "keras", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "reprokit", "checkpoint", "get", "t/model", "out", *options],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["files"] == ["model.keras"]
    check = subprocess.run(
        [sys.executable, "-c", _CHECK, "out/model.keras"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.stdout.splitlines()[-1:] == ["BITWISE"], check.stdout + check.stderr[-3000:]


# scikit-learn


@pytest.fixture
def forest(tmp_path: Path) -> Any:
    pytest.importorskip("sklearn", reason="the sklearn extra is not installed")
    pytest.importorskip("skops", reason="skops is not installed")
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(0)
    return RandomForestClassifier(5, random_state=0).fit(rng.normal(size=(50, 4)), np.arange(50) % 2)


def _skops(registry: LocalRegistry, model: Any) -> LoadedCheckpoint:
    from reprokit.callbacks.sklearn.skops_file import dump

    return make(registry, {}, files={"model.skops": dump(model).data}, framework="sklearn")


def test_an_estimator_loads_with_named_types_and_becomes_a_joblib_file(
    registry: LocalRegistry, forest: Any, tmp_path: Path
) -> None:
    import joblib

    from reprokit.checkpoint.codecs.sklearn import estimator_of, load_estimator

    found = _skops(registry, forest)
    with pytest.raises(RefusedError) as caught:
        load_estimator("t/model", registry=registry)
    assert caught.value.message == f"model.skops of {found.package} holds what was not named: sklearn.tree._tree.Tree."
    tree = ["sklearn.tree._tree.Tree"]
    x = np.random.default_rng(1).normal(size=(20, 4))
    assert (estimator_of(found, types=tree).predict_proba(x) == forest.predict_proba(x)).all()
    with pytest.raises(RefusedError):
        convert(found, "joblib", tmp_path / "out")
    (path,) = convert(found, "joblib", tmp_path / "out", types=tree)
    assert (joblib.load(path).predict_proba(x) == forest.predict_proba(x)).all()


def test_a_joblib_file_loads_with_named_types(forest: Any, tmp_path: Path) -> None:
    import joblib

    from reprokit.checkpoint.safe_pickle.load import load_pickled

    joblib.dump({"model": forest, "x": np.arange(3)}, tmp_path / "m.joblib", compress=3)
    with pytest.raises(RefusedError) as caught:
        load_pickled(tmp_path / "m.joblib")
    names = caught.value.message.partition("not named: ")[2].rstrip(".").split(", ")
    assert names == [
        "sklearn.ensemble._forest.RandomForestClassifier",
        "sklearn.tree._classes.DecisionTreeClassifier",
        "sklearn.tree._tree.Tree",
    ]
    found = load_pickled(tmp_path / "m.joblib", types=names)
    x = np.random.default_rng(1).normal(size=(20, 4))
    assert (found["model"].predict_proba(x) == forest.predict_proba(x)).all()
    with pytest.raises(UsageError, match="`types` is a list of full names"):
        load_pickled(tmp_path / "m.joblib", types="all")
    with pytest.raises(NotFoundError, match="cannot be read: No such file or directory"):
        load_pickled(tmp_path / "none.joblib")


_VALUES: dict[str, Any] = {
    "c": np.arange(6.0).reshape(2, 3),
    "f": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "empty": np.zeros((0, 3)),
    "scalar": np.array(3.0),
    "text": np.array(["x", "yy"]),
    "bytes": np.array([b"ab"]),
    "bool": np.array([True, False]),
    "objects": np.array(["a", None, (1, 2)], dtype=object),
    "times": np.array(["2020-01-01"], "M8[D]"),
    "records": np.ones(3, dtype=[("a", "<i4"), ("b", ">f8", (2,))]),
    "generic": np.float32(2.5),
    "dtype": np.dtype(">f4"),
    "type": np.float64,
    "plain": [1, 10**30, 1j, None, b"x\xff", {1, 2}, frozenset([("a", 1)]), slice(1, 2), "é"],
}


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_containers_need_no_name(tmp_path: Path, protocol: int) -> None:
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")
    from reprokit.checkpoint.safe_pickle.load import load_pickled

    joblib.dump(_VALUES, tmp_path / "v.joblib", protocol=protocol)
    joblib.dump([_VALUES, _VALUES["c"]], tmp_path / "z.joblib", protocol=protocol, compress=("xz", 1))
    for found in (
        load_pickled(pickle.dumps(_VALUES, protocol)),
        load_pickled(tmp_path / "v.joblib"),
        load_pickled(tmp_path / "z.joblib")[0],
    ):
        assert list(found) == list(_VALUES)
        for name, value in _VALUES.items():
            if isinstance(value, np.ndarray):
                assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
                assert found[name].flags.f_contiguous == value.flags.f_contiguous
                assert (found[name] == value).all()
            else:
                assert found[name] == value
                assert type(found[name]) is type(value)


def test_a_pt_file_needs_names_for_more_than_tensors(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    from reprokit.checkpoint.safe_pickle.load import load_pickled

    net = torch.nn.Linear(2, 2)
    torch.save({"w": torch.arange(3), "net": net}, tmp_path / "net.pt")
    with pytest.raises(RefusedError) as caught:
        load_pickled(tmp_path / "net.pt")
    names = caught.value.message.partition("not named: ")[2].rstrip(".").split(", ")
    assert names == ["torch.nn.modules.linear.Linear"]
    linear = load_pickled(tmp_path / "net.pt", types=names)["net"]
    assert torch.equal(linear.weight, net.weight)
    torch.save({"w": torch.arange(3), "n": [1, "x", b"y", {2}]}, tmp_path / "w.pt")
    assert load_pickled(tmp_path / "w.pt")["w"].tolist() == [0, 1, 2]
    assert load_pickled((tmp_path / "w.pt").read_bytes())["n"] == [1, "x", b"y", {2}]
    with pytest.raises(UsageError, match=r"`types` names 'no\.such', which cannot be found here"):
        load_pickled(tmp_path / "w.pt", types=["no.such"])
