"""Who takes part in benchmarks/checkpoints.py, and how one training of each is run and clocked."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import harness
import memory
from harness import Absent, Failed, Work

__all__ = [
    "LIMITS",
    "OWN",
    "PEERS",
    "RUNNERS",
    "Runner",
    "Training",
    "Trial",
    "environment",
    "reprokit_repository",
    "train",
]

PEERS = Path(__file__).resolve().parent / "peers"
PACKAGE = "benchmark/training"


@dataclass(frozen=True, kw_only=True)
class Runner:
    """One way to save checkpoints.

    Attributes:
        find: Returns the Python that runs it, installing what it needs if need be, or raises Absent.
        writer: For reprokit: the recipe's `checkpoints.writer`; None leaves it to reprokit.
        hashes, syncs: Does a save hash the bytes and wait for the disk, at once or in the background?
        stores: Is it a checkpoint at all?
    """

    shown: str
    find: Callable[[Work], str]
    writer: str | None = None
    hashes: bool = False
    syncs: bool = False
    stores: bool = True
    note: str = ""


def _with(*modules: str) -> Callable[[Work], str]:
    """This Python, if it has the modules."""

    def find(_: Work) -> str:
        for module in modules:
            if importlib.util.find_spec(module) is None:
                raise Absent(f"absent: `pip install {module}` into the environment of the benchmark")
        return sys.executable

    return find


def _own(name: str, requirement: str) -> Callable[[Work], str]:
    """A Python of the peer's own; torch comes from this one."""

    def find(work: Work) -> str:
        _with("torch")(work)
        return harness.venv_tool(work, name, requirement, "python")

    return find


@functools.cache
def _recipe_keys() -> str:
    """Return the JSON Schema of recipes, as text."""
    return subprocess.run(
        [sys.executable, "-m", "reprokit", "schema"],
        env=os.environ | {"PYTHONPATH": str(harness.REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def _reprokit(*, chosen: bool) -> Callable[[Work], str]:
    def find(work: Work) -> str:
        if chosen and '"writer"' not in _recipe_keys():
            raise Absent("absent: the recipes of this reprokit have no `checkpoints.writer`")
        return _with("torch")(work)

    return find


RUNNERS: dict[str, Runner] = {
    "none": Runner(shown="limit: no saves", find=_with("torch"), stores=False, note="the training alone"),
    "memcpy": Runner(
        shown="limit: memcpy",
        find=_with("torch"),
        stores=False,
        note="copies every tensor into a buffer made before; stores nothing",
    ),
    "reprokit": Runner(
        shown="reprokit",
        find=_reprokit(chosen=False),
        hashes=True,
        syncs=True,
        note="`reprokit run`, PackageCheckpoint; the recipe says nothing of a writer",
    ),
    "reprokit-process": Runner(
        shown="reprokit process",
        find=_reprokit(chosen=True),
        writer="process",
        hashes=True,
        syncs=True,
        note="checkpoints: {writer: process}",
    ),
    "reprokit-sync": Runner(
        shown="reprokit sync",
        find=_reprokit(chosen=True),
        writer="sync",
        hashes=True,
        syncs=True,
        note="checkpoints: {writer: sync}",
    ),
    "torch": Runner(shown="torch.save", find=_with("torch")),
    "torch-fsync": Runner(shown="torch.save + fsync", find=_with("torch"), syncs=True),
    "safetensors": Runner(shown="safetensors", find=_with("torch", "safetensors"), note="save_file"),
    "dcp": Runner(
        shown="torch DCP async",
        find=_with("torch"),
        syncs=True,
        note="distributed.checkpoint.async_save: copies, then writes in a thread; each save waits for the one before",
    ),
    "joblib": Runner(shown="joblib", find=_with("torch", "joblib"), note="dump"),
    "lightning": Runner(shown="lightning", find=_with("torch", "lightning"), note="TorchCheckpointIO"),
    "mlflow": Runner(
        shown="mlflow",
        find=_own("mlflow", "mlflow==3.17.2"),
        note="torch.save, log_artifact to a folder; tracking in SQLite",
    ),
    "wandb": Runner(
        shown="wandb offline",
        find=_own("wandb", "wandb==0.31.0"),
        hashes=True,
        note="torch.save, Artifact.add_file, log_artifact: staged on this machine, sent nowhere",
    ),
    "dvc": Runner(
        shown="dvc add",
        find=_own("dvc", "dvc==3.67.1"),
        hashes=True,
        note="torch.save, Repo.add in the same process; MD5",
    ),
    "quilt3": Runner(
        shown="quilt3",
        find=_own("quilt3", "quilt3==8.0.0"),
        hashes=True,
        note="torch.save, Package.build: hashes and writes a manifest that points at the file of torch.save",
    ),
}  # fmt: skip
OWN = [name for name in RUNNERS if name.startswith("reprokit")]
LIMITS = [name for name, runner in RUNNERS.items() if not runner.stores]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What is trained, and on how many threads; see peers/training.py for `kind`."""

    kind: str
    dim: int
    epochs: int
    steps: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One training that has ended.

    Attributes:
        clocks: As peers/training.py returns them, with the sizes of the state.
        wall: Seconds from before the first epoch until the process had ended and all was stored.
        drain: The part of it after the last epoch.
        cpu_seconds: Of all its processes, their start included.
        others: Cores that anyone else kept busy meanwhile, on average; the kernel's writing back is among them.
        store: What it stored.
        peak_mib: Of the tree of processes; 0 when memory was not watched.
        run: Of reprokit, the run's ID.
    """

    root: Path
    clocks: dict[str, Any]
    wall: float
    drain: float
    cpu_seconds: float
    others: float
    store: Path
    peak_mib: float
    run: str | None = None

    def allocated(self) -> int:
        """Return the bytes on the disk of what it stored."""
        os.sync()  # blocks are allocated when they are written
        return datasets.allocated([self.store])


def environment(work: Work, root: Path) -> dict[str, str]:
    """Return the environment of any process of a trial."""
    own = {"REPROKIT_HOME": "home", "REPROKIT_CACHE": "cache", "REPROKIT_REGISTRY": "store"}
    return harness.clean_environment(work.home) | {key: str(root / name) for key, name in own.items()}


def train(work: Work, name: str, python: str, training: Training, *, watch: bool = False) -> Trial:
    """Train with one runner in processes of its own and return the clocks; the caller deletes `root`.

    Args:
        watch: Measure memory, which makes the clocks worthless.
    Raises:
        Failed: It ended with an error, or did not keep what it was given.
    """
    root = work.trial(name)
    log, run = root / "log", None
    variables = environment(work, root)
    if name in OWN:
        folder = reprokit_repository(root, variables, training, writer=RUNNERS[name].writer)
        argv: list[str | Path] = [python, "-m", "reprokit", "run", "recipe.yaml", "-q"]
    else:
        folder = root
        job = root / "job.json"
        shared = {"runner": name, "folder": str(root), "packages": sysconfig.get_path("purelib")}
        job.write_text(json.dumps(asdict(training) | shared))
        argv = [python, PEERS / "saving.py", job]
        variables |= {"OMP_NUM_THREADS": str(training.threads)}
    busy = harness.busy_seconds()
    with memory.TreeMemory() as watched:
        sample = harness.measure(
            argv, cwd=folder, environment=variables, log=log, started=watched.follow if watch else None
        )
        ended = time.monotonic()
        busy = harness.busy_seconds() - busy
    if name in OWN:
        run, clocks = _recorded(root, variables, training)
    else:
        clocks = json.loads((root / "clocks.json").read_text())
    return Trial(
        root=root,
        clocks=clocks,
        wall=ended - clocks["began"],
        drain=ended - clocks["ended"],
        cpu_seconds=sample.cpu_seconds,
        others=max(busy - sample.cpu_seconds, 0) / sample.seconds,
        store=root / "store",
        peak_mib=watched.peak_mib,
        run=run,
    )


def reprokit_repository(
    root: Path, variables: Mapping[str, str], training: Training, *, writer: str | None, reference: Path | None = None
) -> Path:
    """Make a git repository as a user of reprokit has one, and return it."""
    folder = root / "repository"
    folder.mkdir()
    for name in ("training.py", "with_reprokit.py"):
        (folder / name).write_bytes((PEERS / name).read_bytes())
    params = asdict(training)
    threads = params.pop("threads")
    recipe = {
        "name": "training",
        "code": {"entrypoint": "with_reprokit.py"},
        "environment": "current",
        "params": params | ({"reference": str(reference)} if reference else {}),
        # not `strict`: torch would fill fresh memory, and this training would do more than that of the others
        "execution": {"seed": 0, "threads": threads, "determinism": "seeded"},
        "checkpoints": {"package": PACKAGE} | ({"writer": writer} if writer else {}),
        "outputs": [{"path": "clocks.json", "compare": "ignore"}],
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe, indent=1) + "\n")  # JSON is YAML
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "training"]):
        subprocess.run(["git", *arguments], cwd=folder, env=dict(variables), check=True)
    return folder


_RECORD = """
import json, sys
from reprokit import Package
package = Package.open(f"runs/{sys.argv[1]}")
print(json.dumps({name: json.loads(package[key].read()) for name, key in
                  (("record", "record.json"), ("clocks", "outputs/clocks.json"))}))
"""


def _recorded(root: Path, variables: Mapping[str, str], training: Training) -> tuple[str, dict[str, Any]]:
    """Return ID and clocks of the only run in the trial's registry.

    Raises:
        Failed: Another number of checkpoints than were saved.
    """

    def output(*argv: str) -> Any:
        done = subprocess.run(
            [sys.executable, *argv], cwd=root, env=dict(variables), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Failed((done.stderr.strip().splitlines() or ["no output"])[-1][:200])
        return json.loads(done.stdout)

    run = output("-m", "reprokit", "show", "latest", "--json")["run_id"]
    kept = output("-c", _RECORD, run)
    if len(kept["record"]["checkpoints"]) != training.epochs:
        raise Failed(f"{len(kept['record']['checkpoints'])} checkpoints were kept of {training.epochs} saved")
    return run, kept["clocks"]
