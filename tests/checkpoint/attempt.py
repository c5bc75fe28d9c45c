"""Read every file of a folder in a process with little memory, and say of each what became of it.

`python -m tests.checkpoint.attempt KIND FOLDER MEGABYTES`: a line of JSON for each file; the caller sees by the missing
ones, and by the exit status, that one ended the process.
"""

from __future__ import annotations

import contextlib
import copyreg
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reprokit.checkpoint.reader import Checkpoint
from reprokit.client.plain import strict_json
from reprokit.client.restored import Restored
from reprokit.client.tensors import MalformedError, as_array, parse
from reprokit.errors import Error
from reprokit.packages.package import Package
from reprokit.registry.local import LocalRegistry
from tests.checkpoint.making import Files, make, store

_NAMED = ["sklearn.linear_model._logistic.LogisticRegression", "collections.Counter"]


def _load_safetensors(path: Path) -> None:
    for stored in parse(memoryview(path.read_bytes())).values():
        as_array(stored)


def _load_folder(path: Path) -> None:
    """Read everything that a callback may ask for."""
    restored = Restored(path)
    _ = restored.epoch, restored.step, restored.batch
    for name in restored.raw_state:
        restored.state(name)
    for section in ("model", "optimizer", "state"):
        for stored in restored.section(section).values():
            as_array(stored)


def _load_state(path: Path) -> None:
    folder = path.with_name(f"{path.name}-folder")
    folder.mkdir()
    path.rename(folder / "state.json")
    _load_folder(folder)


def _load_pickle(path: Path) -> None:
    load = importlib.import_module("reprokit.checkpoint.safe_pickle.load").load_pickled
    refused = 0
    for types in ([], _NAMED):
        try:
            load(path, types=types)
        except Error:
            refused += 1
    if refused == 2:
        load(path)


def _load_skops(path: Path) -> None:
    importlib.import_module("reprokit.checkpoint.codecs.sklearn").load_skops(path.read_bytes())


def _load_resumed(path: Path) -> None:
    """Load a skops file as the callback of a resumed run does, spelled as it expects where that can be done."""
    model, data = importlib.import_module("sklearn.linear_model").LogisticRegression(), path.read_bytes()
    module = importlib.import_module("reprokit.callbacks.sklearn.skops_file")
    with contextlib.suppress(Exception):
        module.audit(data)
        data = module._canonical(data).data
    try:
        module.load(data, like=model)
    except RuntimeError as error:
        if str(error).startswith("reprokit: "):
            raise MalformedError(str(error)) from None
        raise


class _WithConfig(Checkpoint):
    """A checkpoint of one small model, with another architecture."""

    def __init__(self, path: Path) -> None:
        registry = LocalRegistry(path.parent / "registry", cache=path.parent / "cache")
        if registry.head("t/model") is None:
            numpy = importlib.import_module("numpy")
            shapes = (("kernel", (8, 4)), ("bias", (4,)))
            make(registry, {f"sequential/dense/{name}": numpy.ones(shape, "f4") for name, shape in shapes})
        super().__init__(Package.open("t/model", registry=registry))
        self._config = strict_json(path.read_bytes())

    @property
    def config(self) -> Any:
        return self._config


def _load_keras(path: Path) -> None:
    importlib.import_module("reprokit.checkpoint.codecs.keras").load_model(_WithConfig(path))


def _load_checkpoint(path: Path) -> None:
    """Read a checkpoint from a registry whose files are as the case says: {key: [hex, meta]}."""
    files: Files = {key: (bytes.fromhex(data), meta) for key, (data, meta) in json.loads(path.read_bytes()).items()}
    registry = LocalRegistry(path.parent / "registry", cache=path.parent / "cache")
    found = store(registry, files)
    _ = found.state, found.config
    for section in ("model", "optimizer", "state"):
        found.tensors(section)


_LOADERS: dict[str, Callable[[Path], None]] = {
    "safetensors": _load_safetensors,
    "folder": _load_folder,
    "state": _load_state,
    "pickle": _load_pickle,
    "pt": _load_pickle,
    "skops": _load_skops,
    "resumed": _load_resumed,
    "keras": _load_keras,
    "checkpoint": _load_checkpoint,
}


def main(kind: str, folder: Path, megabytes: int) -> None:
    load = _LOADERS[kind]
    if kind in ("pt", "keras"):
        importlib.import_module("torch" if kind == "pt" else "reprokit.checkpoint.codecs.keras")
    copyreg.add_extension("os", "system", 1)
    if kind == "pickle":
        copyreg._extension_cache[1] = os.system  # type: ignore[attr-defined]  # as if it had been used before
    resource.setrlimit(resource.RLIMIT_AS, (megabytes * 1024 * 1024,) * 2)
    os.chdir(folder)
    for path in sorted(folder.iterdir()):
        if path.name in ("registry", "cache"):
            continue
        began = time.perf_counter()
        print(json.dumps({"name": path.name, "begins": True}), flush=True)
        outcome, said = "loaded", ""
        try:
            load(path)
        except (Error, MalformedError) as error:
            outcome, said = type(error).__name__, str(error)
        except ValueError as error:  # `from_json`'s
            outcome, said = ("ValueError" if "state.json" in str(error) else "crashed"), repr(error)
        except BaseException as error:  # noqa: BLE001 - the question is what comes out
            outcome, said = "crashed", repr(error)[:500]
        seconds = time.perf_counter() - began
        print(json.dumps({"name": path.name, "outcome": outcome, "said": said[:2000], "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).absolute(), int(sys.argv[3]))
