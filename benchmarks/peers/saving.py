"""The training of benchmarks/checkpoints.py with a peer's way to save: `saving.py JOB.json`, in the peer's environment.

Writes `clocks.json` into the job's folder when the loop ends, and then waits for whatever is still being written.
What counts as stored lies in `store/`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

State = Callable[[], dict[str, Any]]
Saver = tuple[Callable[[str], object], Callable[[], object]]
"""Saves under a name that is new each time, and waits for the last save. The working folder is the peer's own."""


def _nothing() -> None:
    pass


def none(_: State, __: Path) -> Saver:
    return lambda _: None, _nothing


def memcpy(state: State, _: Path) -> Saver:
    import torch
    from training import flat

    buffers = {name: torch.zeros_like(tensor) for name, tensor in flat(state()).items()}
    for buffer in buffers.values():
        buffer.fill_(1)  # zeros are one shared page until they are written

    def save(_: str) -> None:
        for name, tensor in flat(state()).items():
            buffers[name].copy_(tensor)

    return save, _nothing


def torch_save(state: State, store: Path) -> Saver:
    import torch

    return lambda name: torch.save(state(), store / f"{name}.pt"), _nothing


def torch_fsync(state: State, store: Path) -> Saver:
    import torch

    def save(name: str) -> None:
        with (store / f"{name}.pt").open("wb") as handle:
            torch.save(state(), handle)
            handle.flush()
            os.fsync(handle.fileno())

    return save, _nothing


def safetensors(state: State, store: Path) -> Saver:
    from safetensors.torch import save_file
    from training import flat

    return lambda name: save_file(flat(state()), store / f"{name}.safetensors"), _nothing


def dcp(state: State, store: Path) -> Saver:
    import torch.distributed as dist
    import torch.distributed.checkpoint as checkpoint

    dist.init_process_group("gloo", init_method=f"file://{store.parent}/rendezvous", rank=0, world_size=1)
    pending: list[Any] = []

    def wait() -> None:
        while pending:
            pending.pop().result()

    def save(name: str) -> None:
        wait()  # it warns that two at once may interfere
        pending.append(checkpoint.async_save(state(), checkpoint_id=str(store / name)))

    def drain() -> None:
        wait()
        dist.destroy_process_group()

    return save, drain


def joblib(state: State, store: Path) -> Saver:
    import joblib

    return lambda name: joblib.dump(state(), store / f"{name}.joblib"), _nothing


def lightning(state: State, store: Path) -> Saver:
    from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

    writer = TorchCheckpointIO()
    return lambda name: writer.save_checkpoint(state(), store / f"{name}.ckpt"), _nothing


def mlflow(state: State, store: Path) -> Saver:
    import logging

    import mlflow
    import torch

    logging.disable(logging.CRITICAL)
    mlflow.set_tracking_uri(f"sqlite:///{store.parent}/mlflow.db")
    mlflow.start_run(experiment_id=mlflow.create_experiment("benchmark", store.as_uri()))

    def save(name: str) -> None:
        torch.save(state(), "checkpoint.pt")
        mlflow.log_artifact("checkpoint.pt", name)

    return save, mlflow.end_run


def wandb(state: State, store: Path) -> Saver:
    import torch
    import wandb

    os.environ |= {"WANDB_DATA_DIR": str(store / "data"), "WANDB_CACHE_DIR": str(store / "cache")}
    run = wandb.init(project="benchmark", dir=store, mode="offline")

    def save(_: str) -> None:
        torch.save(state(), "checkpoint.pt")
        artifact = wandb.Artifact("checkpoint", "model")
        artifact.add_file("checkpoint.pt")
        run.log_artifact(artifact)

    return save, run.finish


def dvc(state: State, store: Path) -> Saver:
    import subprocess

    import torch
    from dvc.repo import Repo

    subprocess.run(["git", "init", "-q", "."], check=True)
    with Repo.init(".").config.edit() as config:
        config["core"] = {"analytics": False, "check_update": False, "site_cache_dir": str(store.parent / "site")}
        config["cache"]["dir"] = str(store)
    repo = Repo(".")

    def save(_: str) -> None:
        torch.save(state(), "checkpoint.pt")
        repo.add(["checkpoint.pt"])

    return save, _nothing


def quilt3(state: State, store: Path) -> Saver:
    import quilt3
    import torch

    def save(name: str) -> None:
        file = store / f"{name}.pt"
        torch.save(state(), file)
        quilt3.Package().set("checkpoint.pt", str(file)).build("benchmark/training", registry=store.as_uri())

    return save, _nothing


SAVERS: dict[str, Callable[[State, Path], Saver]] = {
    "none": none, "memcpy": memcpy, "torch": torch_save, "torch-fsync": torch_fsync, "safetensors": safetensors,
    "dcp": dcp, "joblib": joblib, "lightning": lightning, "mlflow": mlflow, "wandb": wandb, "dvc": dvc,
    "quilt3": quilt3,
}  # fmt: skip


def main(job: dict[str, Any]) -> None:
    sys.path.append(job["packages"])  # torch; what the peer brings itself comes first
    import torch
    import training

    folder = Path(job["folder"])
    store, own = folder / "store", folder / "own"
    store.mkdir()
    own.mkdir()
    os.chdir(own)
    torch.set_num_threads(job["threads"])
    model, optimizer, step = training.make(job["kind"], job["dim"])
    save, drain = SAVERS[job["runner"]](lambda: training.state(model, optimizer), store)
    names = (f"epoch{number}" for number in range(job["epochs"]))
    clocks = training.clocked(range(job["epochs"]), job["steps"], step, lambda _: save(next(names)))
    (folder / "clocks.json").write_text(json.dumps(clocks | training.sizes(model, optimizer)))
    drain()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
