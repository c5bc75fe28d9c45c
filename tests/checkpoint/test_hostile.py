"""Nothing in a checkpoint is unpickled or run: files written to harm are refused by name, in bounded memory.

The files are those of `corpus`, and of the lists here. `REPROKIT_TEST_SCALE=n` draws n times as many by chance.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reprokit.client.restored import Restored
from reprokit.registry.local import LocalRegistry
from tests.checkpoint.corpus.keras import keras_configs
from tests.checkpoint.corpus.pickles import pickles, pt_files
from tests.checkpoint.corpus.plain import safetensors_files, states
from tests.checkpoint.corpus.skops import skops_files
from tests.checkpoint.making import Files, change_meta, files_of, store
from tests.conftest import ROOT

SCALE = int(os.environ.get("REPROKIT_TEST_SCALE", "1"))
MIB = 1024 * 1024


def _needs(*modules: str) -> pytest.MarkDecorator:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{missing} is not installed")


class Attempts:
    """What became of the files of a folder, each read in a process of its own kind and little memory."""

    def __init__(self, base: Path) -> None:
        self.folder = base / "files"
        self.folder.mkdir()
        self.canary = base / "CANARY"
        self.count = 0

    def write(self, files: Iterable[tuple[str, bytes]]) -> None:
        for name, data in files:
            marker = "may-" if name.startswith("may-") else ""
            safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in name.removeprefix("may-"))[:80]
            (self.folder / f"{marker}{self.count:04d}-{safe}").write_bytes(data)
            self.count += 1

    def read(self, kind: str, megabytes: int, *, seconds: float = 20, **environment: str) -> dict[str, dict[str, Any]]:
        """Return by file what was said of it, having asserted that each was refused and nothing ran."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.checkpoint.attempt", kind, str(self.folder), str(megabytes)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
            capture_output=True,
            text=True,
            timeout=600 * SCALE,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"name"')]
        begun = [row["name"] for row in rows if "begins" in row]
        ended = {row["name"]: row for row in rows if "outcome" in row}
        died = [name for name in begun if name not in ended]
        how = signal.Signals(-done.returncode).name if done.returncode < 0 else done.returncode
        assert (died, done.returncode) == ([], 0), f"{died} ended the process: {how}\n{done.stderr[-3000:]}"
        crashed = {name: row["said"] for name, row in ended.items() if row["outcome"] == "crashed"}
        assert crashed == {}
        loaded = [name for name, row in ended.items() if row["outcome"] == "loaded" and not name.startswith("may-")]
        assert loaded == []
        slow = {name: row["seconds"] for name, row in ended.items() if row["seconds"] > seconds}
        assert slow == {}
        assert len(ended) == self.count
        assert not self.canary.exists()
        return ended


@pytest.fixture
def attempts(tmp_path: Path) -> Attempts:
    return Attempts(tmp_path)


def test_pickles_and_joblib_files_run_nothing(attempts: Attempts) -> None:
    pytest.importorskip("joblib", reason="joblib is not installed")
    attempts.write(pickles(str(attempts.canary), SCALE))
    ended = attempts.read("pickle", 3000)
    assert attempts.count > 300
    said = {name[5:]: row["said"] for name, row in ended.items()}
    assert "holds what was not named: posix.system." in said["os-system-4"]
    assert "holds what was not named: posix.system." in said["objects-2"]
    assert "holds what was not named: builtins.exec, posix.system" not in said["in-list-0"]
    assert "it uses the extension registry" in said["ext1-call"]


@_needs("torch")
def test_pt_files_run_nothing(attempts: Attempts) -> None:
    attempts.write(pt_files(str(attempts.canary), SCALE))
    ended = attempts.read("pt", 12_000)
    assert attempts.count > 200
    said = {name[5:]: row["said"] for name, row in ended.items()}
    assert "holds what was not named: posix.system." in said["os-system-2"]
    assert "it makes bytearray of a number" in said["bytearray"]


@_needs("skops", "sklearn")
def test_skops_files_run_nothing(attempts: Attempts) -> None:
    attempts.write(skops_files(str(attempts.canary), SCALE))
    ended = attempts.read("skops", 4000)
    assert attempts.count > 200
    said = {name[5:]: row["said"] for name, row in ended.items()}
    assert "holds what was not named: os.system." in said["function-os_system"]
    assert "its members are not stored as such" in said["bomb"]
    assert "would unpack to out of proportion" in said["npz-bomb"]


@_needs("skops", "sklearn")
def test_skops_files_run_nothing_where_a_run_is_resumed(attempts: Attempts) -> None:
    attempts.write(skops_files(str(attempts.canary), SCALE))
    ended = attempts.read("resumed", 4000)
    said = {name[5:]: row["said"] for name, row in ended.items()}
    assert "types that are not trusted: os.system. Nothing was loaded." in said["function-os_system"]
    assert "its members are not stored as such" in said["bomb"]


@_needs("keras", "torch")
def test_keras_configs_run_nothing(attempts: Attempts) -> None:
    config = json.loads(
        subprocess.run(
            [sys.executable, "-c", _MODEL],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "KERAS_BACKEND": "torch"},
        ).stdout.splitlines()[-1]
    )
    cases = keras_configs(config, str(attempts.canary))
    attempts.write((name, json.dumps(value).encode()) for name, value in cases)
    ended = attempts.read("keras", 12_000, KERAS_BACKEND="torch")
    assert attempts.count > 150
    said = {name[5:]: row["said"] for name, row in ended.items()}
    assert "names 'keras.layers.Lambda': refused." in said["lambda-no-code"]
    assert "names 'os.system': refused." in said["activation-os_system"]
    assert "registered as 'builtins>eval': refused." in said["registered"]
    assert "and stored as F32 [8, 4]" in said["units-huge"]


_MODEL = """
import keras
print(keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(4)], name="sequential").to_json())
"""


def test_safetensors_files_take_no_memory_out_of_proportion(attempts: Attempts) -> None:
    attempts.write(safetensors_files(SCALE))
    attempts.read("safetensors", 3000)


def test_states_take_no_memory_or_time_out_of_proportion(attempts: Attempts) -> None:
    attempts.write(states(SCALE))
    attempts.read("state", 3000)


def _sound() -> Files:
    tensors = {
        "big": np.arange(MIB // 4, dtype="f4"),
        "a.w": np.ones(3, "f4"),
        "a.b": np.zeros((2, 2), "f4"),
        "optimizer:a.w.m": np.ones(3, "f4"),
        "state:rng": np.arange(5, dtype="u1"),
    }
    state = {"epoch": 1, "step": 2, "position": {"batch": 3}, "rng": {"$tensor": {"name": "rng", "kind": "numpy"}}}
    return files_of(tensors, aliases={"tied": "a.w"}, state=state, config={"a": 1})


_INDEX = "model.safetensors.index.json"
_SHARD = "model/a.trainable.safetensors"


def _contradictions() -> Iterator[tuple[str, Files]]:
    """Yield checkpoints whose metadata, index and files say different things."""
    sound = _sound()

    def rows(name: str, change: Callable[[list[dict[str, Any]]], None], key: str = _SHARD) -> tuple[str, Files]:
        return name, change_meta(sound, key, change)

    def index(change: Callable[[dict[str, Any]], Any]) -> Files:
        value = json.loads(sound[_INDEX][0])
        found = change(value)
        return {**sound, _INDEX: (json.dumps(value if found is None else found).encode(), {})}

    for field, values in {
        "offset": (-1, 2**62, 0, 1, True, 1.0, "8", None),
        "nbytes": (-12, 2**62, 11, 13, True, "12", None),
        "dtype": ("F64", "I32", "f32", "O", None, 4, ["F32"]),
        "digest": ("", "x" * 64, "A" * 64, None, 5),
        "shape": ([3.0], [True, 3], ["3"], [-3], [-1, -3], [1, 3], 3, None, [1] * 40, [2**64], [3, 10**400], [[3]]),
        "name": ("other", "a.b", "", "__metadata__", None, 5, ["a.w"]),
    }.items():
        for value in values:
            yield rows(f"row-{field}-{str(value)[:20]}", lambda found, f=field, v=value: found[-1].update({f: v}))
        yield rows(f"row-no-{field}", lambda found, f=field: found[-1].pop(f))
    yield rows(
        "rows-swapped", lambda found: [row.update(name=other) for row, other in zip(found, ("a.w", "a.b"), strict=True)]
    )
    yield rows("rows-one-less", lambda found: found.pop())
    yield rows("rows-twice", lambda found: found.append(dict(found[0])))
    yield rows("rows-more", lambda found: found.append({**found[0], "name": "ghost"}))
    yield rows("big-digest", lambda found: found[0].update(digest="0" * 64), "model/big.safetensors")
    yield rows("big-shape", lambda found: found[0].update(shape=[1, MIB // 4]), "model/big.safetensors")
    for value in (None, 5, "rows", {"a": 1}, [None], [[]], ["x"], [5]):
        meta = {"reprokit": {"tensors": value}}
        yield f"rows-{str(value)[:10]}", {**sound, _SHARD: (sound[_SHARD][0], meta)}
    for key, value in (("as-list", []), ("as-text", "x"), ("as-none", None)):
        yield f"index-{key}", index(lambda _, v=value: v if v is not None else 0)
    yield "index-no-map", index(lambda found: found.pop("weight_map") and None)
    yield "index-no-metadata", index(lambda found: found.pop("metadata") and None)
    yield "index-metadata-list", index(lambda found: found.update(metadata=[]))
    yield "index-aliases-list", index(lambda found: found["metadata"].update(aliases=[["tied", "a.w"]]))
    yield "index-alias-list", index(lambda found: found["metadata"].update(aliases={"tied": ["a.w"]}))
    yield "index-alias-missing", index(lambda found: found["metadata"].update(aliases={"tied": "nothing"}))
    yield "index-alias-itself", index(lambda found: found["metadata"].update(aliases={"tied": "tied"}))
    yield "index-alias-chain", index(lambda found: found["metadata"].update(aliases={"x": "y", "y": "a.w"}))
    yield "index-alias-stored", index(lambda found: found["metadata"].update(aliases={"a.b": "a.w"}))
    yield "index-more", index(lambda found: found["weight_map"].update(ghost=_SHARD))
    yield "index-less", index(lambda found: found["weight_map"].pop("a.w") and None)
    yield "index-swapped", index(lambda found: found["weight_map"].update({"a.w": "model/big.safetensors"}))
    for place in _PLACES:
        yield f"index-{place!r}"[:40], index(lambda found, p=place: found["weight_map"].update({"a.w": p}))
    yield "index-no-json", {**sound, _INDEX: (b"{", {})}
    yield "index-nan", {**sound, _INDEX: (b'{"a": NaN}', {})}
    yield "index-deep", {**sound, _INDEX: (b"[" * 100_000, {})}
    header = sound[_SHARD][0]
    for name, data in (
        ("cut", header[:-1]),
        ("longer", header + b"x"),
        ("other-name", header.replace(b'"a.w"', b'"a.v"')),
        ("swapped", header.replace(b"a.w", b"a.?").replace(b"a.b", b"a.w").replace(b"a.?", b"a.b")),
        ("dtype", header.replace(b'"F32"', b'"I32"')),
        ("shape", header.replace(b"[2,2]", b"[4,1]")),
        ("empty", b""),
        ("text", b"hello"),
        ("pickle", b"\x80\x04cos\nsystem\n."),
        ("metadata", header.replace(b'{"a.', b'{"__metadata__":{"a":1},"a.', 1)),
    ):
        yield f"shard-{name}", {**sound, _SHARD: (data, sound[_SHARD][1])}
    yield "no-shard", {key: value for key, value in sound.items() if key != _SHARD}
    yield "no-state", {key: value for key, value in sound.items() if key != "state.json"}
    for name, data in (
        ("list", b"[]"),
        ("nan", b'{"a": NaN}'),
        ("tensor", b'{"a": {"$tensor": {"name": "x", "kind": "k"}}}'),
        ("objects", b'{"a": {"$array": {"dtype": "|O8", "shape": [1], "data": "AAAAAAAAAAA="}}}'),
    ):
        yield f"state-{name}", {**sound, "state.json": (data, {})}
    yield "config-no-json", {**sound, "config.json": (b"{'a': 1}", {})}


_PLACES: list[Any] = [
    "../x.safetensors",
    "model/../../x.safetensors",
    "/etc/passwd",
    "/model/x.safetensors",
    "model/",
    "model/x",
    "model",
    "model//x.safetensors",
    "./model/x.safetensors",
    "model/./x.safetensors",
    "model\\x.safetensors",
    "C:/x.safetensors",
    "model/a/b.safetensors",
    "optimizer/a.trainable.safetensors",
    "model/\0.safetensors",
    "",
    None,
    5,
    ["model/x"],
    {"a": 1},
    True,
]


def test_metadata_that_contradicts_its_files_is_refused(attempts: Attempts) -> None:
    cases = [
        (name, json.dumps({k: [d.hex(), m] for k, (d, m) in files.items()}).encode())
        for name, files in _contradictions()
    ]
    attempts.write(cases)
    ended = attempts.read("checkpoint", 3000)
    assert attempts.count > 90
    assert {row["outcome"] for row in ended.values()} <= {"DataMismatchError", "NotFoundError"}


def _lay(folder: Path, files: Files) -> None:
    for key, (data, _) in files.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)


def _spoilt_folders(base: Path, secret: Path) -> Iterator[str]:
    """Make laid-out checkpoints that are not what a runner lays out, and yield their names."""
    sound = _sound()

    def fresh(name: str, files: Files = sound) -> Path:
        _lay(base / name, files)
        return base / name

    for key in (_SHARD, _INDEX, "state.json"):
        name = f"link-{key.replace('/', '_')}"
        path = fresh(name) / key
        path.rename(secret.parent / name)
        path.symlink_to(secret.parent / name)
        yield name
        pipe = fresh(f"pipe-{key.replace('/', '_')}") / key
        pipe.unlink()
        os.mkfifo(pipe)
        yield pipe.relative_to(base).parts[0]
        folder = fresh(f"folder-{key.replace('/', '_')}") / key
        folder.unlink()
        folder.mkdir()
        yield folder.relative_to(base).parts[0]
        dangling = fresh(f"dangling-{key.replace('/', '_')}") / key
        dangling.unlink()
        dangling.symlink_to(base / "nowhere")
        yield dangling.relative_to(base).parts[0]
        empty = fresh(f"empty-{key.replace('/', '_')}") / key
        empty.write_bytes(b"")
        yield empty.relative_to(base).parts[0]
    moved = fresh("linked-section") / "model"
    moved.rename(secret.parent / "moved")
    moved.symlink_to(secret.parent / "moved")
    yield "linked-section"
    (fresh("device") / "state.json").unlink()
    (base / "device/state.json").symlink_to("/dev/zero")
    yield "device"
    with (fresh("oversized-state") / "state.json").open("ab") as handle:
        handle.truncate(300 * MIB)
    yield "oversized-state"
    with (fresh("oversized-index") / _INDEX).open("ab") as handle:
        handle.truncate(300 * MIB)
    yield "oversized-index"
    with (fresh("oversized-shard") / _SHARD).open("ab") as handle:
        handle.truncate(300 * MIB)
    yield "oversized-shard"
    for number, (name, files) in enumerate(_contradictions()):
        if name.startswith(("index-", "shard-", "state-", "no-")):
            alone = name in ("shard-swapped", "shard-dtype", "shard-shape")  # of one mind with themselves
            safe = "".join(c if c.isalnum() else "_" for c in name)
            yield fresh(f"{'may-' * alone}{number}-{safe}", files).name


def test_a_laid_out_folder_is_read_without_leaving_it(attempts: Attempts, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    attempts.count = len(list(_spoilt_folders(attempts.folder, outside / "secret")))
    ended = attempts.read("folder", 3000)
    assert attempts.count > 50
    assert "cannot be read as a file" in ended["linked-section"]["said"]
    assert "is not a regular file" in ended["pipe-state.json"]["said"]
    assert "is larger than 268,435,456 bytes" in ended["oversized-state"]["said"]


def test_what_the_cases_are_made_of_loads(tmp_path: Path) -> None:
    found = store(LocalRegistry(tmp_path / "registry"), _sound())
    assert [found.tensors(section).keys() for section in found.sections] == [
        {"big", "a.w", "a.b", "tied"}, {"a.w.m"}, {"rng"},
    ]  # fmt: skip
    assert found.state["rng"].tolist() == [0, 1, 2, 3, 4]
    _lay(tmp_path / "folder", _sound())
    restored = Restored(tmp_path / "folder")
    assert restored.section("model").keys() == {"big", "a.w", "a.b", "tied"}
    assert restored.state("rng").tolist() == [0, 1, 2, 3, 4]
