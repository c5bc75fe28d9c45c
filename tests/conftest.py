"""A real git repository, an own home and cache, and the command line as a process."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from reprokit.registry.context import Context
from reprokit.registry.local import LocalRegistry
from reprokit.schema.facts import meta_of
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.record import OutputFacts, Record
from tests.environment.making import copied, needed_by_reprokit
from tests.object_stores import AzureServer, CloudServer, Server, azurite, google_cloud, moto, seaweed

# TensorFlow and Triton each bring an LLVM, and a process that imports one after the other crashes. The tests' own
# processes may import both frameworks, so PyTorch finds no Triton there; the scripts under test do.
sys.modules.setdefault("triton", None)  # type: ignore[arg-type]

# A busy machine is slow at drawing inputs too, and no fault of what is tested; with CI set, Hypothesis knows it itself.
if "CI" not in os.environ:
    settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("here")

# How numbers are computed is for each test to say, not for the shell that the tests are started from.
for _name in [name for name in os.environ if name.startswith(("OPENBLAS_", "MKL_", "OMP_"))]:
    del os.environ[_name]

ROOT = Path(__file__).resolve().parents[1]
SCALE = float(os.environ.get("REPROKIT_TEST_SCALE", "1"))
LONG = pytest.mark.skipif(SCALE <= 1, reason="takes long; REPROKIT_TEST_SCALE=2")

_OPTIONAL = ("matplotlib", "pandas", "scipy", "sklearn")

SCRIPT = """\
import json, os, pathlib, sys, time
import numpy as np
import reprokit

params = reprokit.params(epochs=3, rate=0.1)
data = np.array([float(p.read_text()) for p in sorted(pathlib.Path("data/in").iterdir())])
rng = np.random.default_rng(int(os.environ["PYTHONHASHSEED"]))
weights = rng.normal(size=(4, 3))
for epoch in range(params["epochs"]):
    weights = weights - params["rate"] * (weights - data.mean() + rng.normal(size=weights.shape))
    reprokit.save_checkpoint({"layer.weight": weights, "layer.steps": np.array(epoch)}, epoch=epoch,
                             loss=float(np.square(weights).mean()))
    print("epoch", epoch)
    HOOK
json.dump({"loss": float(np.square(weights).mean())}, open("metrics.json", "w"))
"""

RECIPE = """\
name: tiny
code: {entrypoint: train.py}
data: {in: {package: t/in, path: data/in}}
params: {epochs: 3, rate: 0.1}
execution: {seed: 7, threads: 1}
checkpoints: {package: t/model, best: {loss: min}}
outputs: [metrics.json]
"""


def lean(script: str, *also: str) -> str:
    """Return a training script that finds none of what its framework imports only where it is installed.

    A process of Keras or TensorFlow starts in two thirds of the time without. The recipes in `recipes/` are run with
    everything.

    Args:
        also: Packages that it does not find either.
    """
    return f"import sys; sys.modules.update(dict.fromkeys({(*_OPTIONAL, *also)!r}))\n{script}"


class Project:
    """A git repository with a recipe, and reprokit with an own home, cache and registry."""

    def __init__(self, base: Path, python: Path | str = sys.executable) -> None:
        self.base = base
        self.root = base / "repo"
        self.registry = base / "registry"
        self.python = str(python)
        self.root.mkdir(parents=True)
        self.git("init", "-q")
        self.write("train.py", SCRIPT.replace("HOOK", "pass"))
        self.write("recipe.yaml", RECIPE)
        self.commit()
        inputs = base / "inputs"
        inputs.mkdir()
        for number in range(3):
            (inputs / f"{number}.txt").write_text(f"{number}\n")

    def environment(self, home: str = "home") -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("REPROKIT_")}
        return kept | {
            "REPROKIT_HOME": str(self.base / home),
            "REPROKIT_CACHE": str(self.base / f"{home}-cache"),
            "REPROKIT_REGISTRY": str(self.registry),
            "PYTHONPATH": str(ROOT),
        }

    def command(self, *arguments: str) -> list[str]:
        return [self.python, "-m", "reprokit", *arguments]

    def reprokit(
        self, *arguments: str, home: str = "home", cwd: Path | None = None, expect: int | None = 0, patience: int = 120
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments),
            cwd=cwd or (self.root if self.root.exists() else self.base),
            env=self.environment(home),
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )
        assert expect is None or done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(
        self, *arguments: str, home: str = "home", cwd: Path | None = None, expect: int = 0, patience: int = 120
    ) -> Any:
        done = self.reprokit(*arguments, "--json", home=home, cwd=cwd, expect=expect, patience=patience)
        return json.loads(done.stdout)

    def build(self) -> dict[str, Any]:
        made: dict[str, Any] = self.json("package", "build", str(self.base / "inputs"), "t/in")
        return made

    def hook(self, line: str) -> None:
        """Put a line at the end of each epoch of the script, and commit."""
        self.write("train.py", SCRIPT.replace("HOOK", line))
        self.commit()

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "change")

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        done = subprocess.run(["git", *identity, *arguments], cwd=self.root, check=True, capture_output=True, text=True)
        return done.stdout


def lies_at(registry: LocalRegistry, entry: Entry) -> tuple[Path, int]:
    """Return the file that holds an entry's bytes, and where in it they start."""
    found = registry.objects.find([entry.digest]).get(entry.digest)
    if found is None:
        return registry.objects.loose_path(entry.digest), 0
    return registry.objects.pack_path(found[0]), found[1].offset


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Change bytes of a file in place, as a failing disk or a careless hand would."""
    path.chmod(0o644)
    with path.open("r+b") as handle:
        handle.seek(offset)
        handle.write(data)


def context_of(base: Path, registry: LocalRegistry) -> Context:
    """Return what the library works with, in folders below `base`."""
    return Context(home=base / "home", cache=base / "cache", registry=registry)


def put_run(
    registry: LocalRegistry,
    run_id: str,
    *,
    outputs: dict[str, bytes] | None = None,
    missing: tuple[str, ...] = (),
    **facts: Any,
) -> Record:
    """Publish the record of a run that nobody has to wait for.

    Args:
        missing: Outputs that were declared and not written.
        facts: Of the record; a finished run of no input unless told otherwise.
    """
    told = [*(OutputFacts(path=path) for path in outputs or ()), *(OutputFacts(path=p, missing=True) for p in missing)]
    needed = {
        "outputs": told,
        "name": "made",
        "status": "finished",
        "lock_hash": None,
        "code": None,
        "environment": None,
    }
    record = Record(**{"run_id": run_id, "started": "2026-01-02T03:04:05.000Z", **needed, **facts})
    stored = {f"outputs/{name}": content for name, content in (outputs or {}).items()}
    entries = []
    with registry.staging() as sink:
        for key, content in {**stored, "record.json": record.encode()}.items():
            digest, size = sink.put_bytes(content)
            entries.append(Entry(key, size, digest))
    manifest = Manifest.make(entries, message=record.status, user_meta=meta_of(record.summary()))
    registry.publish(f"runs/{run_id}", manifest)
    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """With --durations, say which folders the time went to: set-up, test and tear-down, of all workers together."""
    if config.option.durations is None:
        return
    seconds: Counter[str] = Counter()
    tests: dict[str, set[str]] = {}
    for report in itertools.chain.from_iterable(terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport):
            folder, _, file = report.nodeid.partition("::")[0].removeprefix("tests/").partition("/")
            folder = folder if file else "."
            seconds[folder] += report.duration
            tests.setdefault(folder, set()).add(report.nodeid)
    total, workers = seconds.total(), int(getattr(config.option, "numprocesses", None) or 1)
    terminalreporter.section("time by folder")
    for folder, spent in seconds.most_common():
        share = spent / total if total else 0
        terminalreporter.write_line(f"{spent:8.1f} s  {share:4.0%}  {len(tests[folder]):5} tests  {folder}")
    terminalreporter.write_line(f"{total:8.1f} s in {workers} worker{'s'[: workers != 1]}")


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """SeaweedFS with a bucket called `bucket`, shared by a worker's tests: each takes a folder of its own."""
    with seaweed(tmp_path_factory.mktemp("seaweed")) as server:
        server.make_bucket("bucket")
        yield server


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """moto's server with a bucket called `bucket`."""
    with moto(tmp_path_factory.mktemp("moto")) as server:
        server.make_bucket("bucket")
        yield server


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudServer]:
    """A stand-in for Google Cloud Storage with a bucket called `bucket`."""
    with google_cloud(tmp_path_factory.mktemp("cloud")) as server:
        yield server


@pytest.fixture(scope="session")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    """Azurite with a container called `bucket`."""
    with azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has what reprokit needs and nothing else: half of a small run is looking at what there is."""
    return copied(tmp_path_factory.mktemp("small") / "venv", needed_by_reprokit())


@pytest.fixture
def project(tmp_path: Path, small: Path) -> Project:
    """A repository with a package built, in an environment that has no framework."""
    made = Project(tmp_path, small)
    made.build()
    return made
