"""Load one checkpoint in a process of its own, once and again: `loading.py JOB.json`; prints one line of JSON.

Times end when all is in memory, and for loads after the first also when all of it was read once.
The job names the files; `prepare` makes those of a peer from the reference that torch wrote.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

Load = Callable[[], list[Any]]
"""Returns all tensors, of torch or NumPy, in any order."""

_CHUNK = 8 << 20
_PAGE = 4096


def hashing(job: dict[str, Any]) -> Load:
    """The limit of verifying: every byte read and hashed once, in chunks on two threads; nothing is loaded."""
    path = job["safetensors"]
    size = os.stat(path).st_size
    buffers = [memoryview(bytearray(_CHUNK)) for _ in range(2)]
    pool = ThreadPoolExecutor(2)

    def share(which: int) -> list[bytes]:
        with open(path, "rb", buffering=0) as handle:
            found = []
            for offset in range(which * _CHUNK, size, 2 * _CHUNK):
                handle.seek(offset)
                found.append(hashlib.sha256(buffers[which][: handle.readinto(buffers[which])]).digest())
            return found

    def load() -> list[Any]:
        list(pool.map(share, range(2)))
        return []

    return load


def safetensors(job: dict[str, Any]) -> Load:
    from safetensors.torch import load_file

    return lambda: list(load_file(job["safetensors"]).values())


def torch_load(job: dict[str, Any]) -> Load:
    import torch
    from training import flat

    return lambda: list(flat(torch.load(job["torch"])).values())


def torch_sha256(job: dict[str, Any]) -> Load:
    load = torch_load(job)

    def verified() -> list[Any]:
        with open(job["torch"], "rb") as handle:
            hashlib.file_digest(handle, "sha256")
        return load()

    return verified


def mlflow(job: dict[str, Any]) -> Load:
    import mlflow
    import torch
    from training import flat

    mlflow.set_tracking_uri(job["mlflow"]["tracking"])

    def load() -> list[Any]:
        path = mlflow.artifacts.download_artifacts(job["mlflow"]["artifact"])
        return list(flat(torch.load(path)).values())

    return load


def reprokit(job: dict[str, Any]) -> Load:
    import reprokit

    def load() -> list[Any]:
        checkpoint = reprokit.load_checkpoint(job["reprokit"])
        return [value for section in ("model", "optimizer") for value in checkpoint.tensors(section).values()]

    return load


LOADERS: dict[str, Callable[[dict[str, Any]], Load]] = {
    "hash": hashing, "safetensors": safetensors, "torch": torch_load, "torch-sha256": torch_sha256,
    "mlflow": mlflow, "reprokit": reprokit,
}  # fmt: skip


def touch(tensors: list[Any]) -> None:
    """Read a byte of every page, so that what was mapped and not read is in memory now."""
    for tensor in tensors:
        _bytes(tensor)[::_PAGE].sum()


def read(tensors: list[Any]) -> None:
    """Read every byte, on all threads of torch."""
    import torch

    for tensor in tensors:
        torch.as_tensor(tensor).sum()


def _bytes(tensor: Any) -> Any:
    """Return the bytes of a contiguous tensor, shared with it, as NumPy's."""
    array = tensor.numpy() if hasattr(tensor, "numpy") else tensor
    return array.reshape(-1).view("uint8")


def contents(tensors: list[Any]) -> list[int]:
    """Return the CRC of every tensor's bytes, sorted: peers name tensors differently."""
    return sorted(zlib.crc32(_bytes(tensor)) for tensor in tensors)


def prepare(job: dict[str, Any]) -> dict[str, Any]:
    """Make the peer's own file of the reference, and return what its job must know of it."""
    import torch
    from training import flat

    if job["runner"] == "safetensors":
        from safetensors.torch import save_file

        tensors = flat(torch.load(job["torch"]))
        save_file(tensors, job["safetensors"])
        return {"contents": contents(list(tensors.values()))}
    if job["runner"] == "mlflow":
        import mlflow

        folder = Path(job["folder"])
        tracking = f"sqlite:///{folder}/mlflow.db"
        mlflow.set_tracking_uri(tracking)
        with mlflow.start_run(experiment_id=mlflow.create_experiment("benchmark", (folder / "artifacts").as_uri())):
            mlflow.log_artifact(job["torch"])
            artifact = mlflow.get_artifact_uri(Path(job["torch"]).name)
        return {"mlflow": {"tracking": tracking, "artifact": artifact}}
    return {}


def main(job: dict[str, Any]) -> dict[str, Any]:
    sys.path.append(job["packages"])  # torch; what the peer brings itself comes first
    warnings.simplefilter("ignore")  # mlflow's and alembic's, on the way
    if job["prepare"]:
        return prepare(job)
    import torch

    torch.set_num_threads(job["threads"])
    load = LOADERS[job["runner"]](job)
    loaded, whole = [], []
    for _ in range(1 + job["again"]):
        gc.collect()
        start = time.perf_counter()
        tensors = load()
        touch(tensors)
        loaded.append(time.perf_counter() - start)
        read(tensors)
        whole.append(time.perf_counter() - start)
        del tensors
    tensors = load()
    return {
        "first": loaded[0],
        "again": loaded[1:],
        "again_and_read": whole[1:],
        "contents": contents(tensors) if tensors else None,
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
