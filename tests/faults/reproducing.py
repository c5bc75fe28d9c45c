"""Trainings that are run once, and repeated with something wrong: what `reproduce` and `diff` say of it."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterable
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.conftest import Project

__all__ = ["Bench", "Edit", "Verdict", "images"]

HERE = Path(__file__).parent / "trainings"
Verdict = dict[str, Any]
Edit = tuple[str, str, str]  # file, what stands in it once, what shall stand there

_COMMON = {"environment": "current", "checkpoints": {}, "outputs": ["metrics.json"]}
_DATA = {
    "images": {"package": "t/images", "path": "data/images"},
    "labels": {"package": "t/labels", "path": "data/labels"},
}
RECIPES: dict[str, dict[str, Any]] = {
    "torch": {
        "code": {"entrypoint": "torch_images.py"},
        "data": _DATA,
        "params": {
            "epochs": 3, "rate": 0.01, "batch": 24, "hidden": 16, "dropout": 0.2, "decay": 0.01, "eps": 1e-8,
            "optimizer": "AdamW", "reduction": "mean", "dtype": "float32", "augment": ["flip"],
        },
    },
    "keras": {
        "code": {"entrypoint": "keras_images.py"},
        "data": _DATA,
        "params": {
            "epochs": 3, "rate": 0.05, "batch": 16, "hidden": 16, "dropout": 0.2, "momentum": 0.9, "activation": "relu",
            "shuffle": True, "loss_reduction": "sum_over_batch_size",
        },
    },
    "sklearn": {
        "code": {"entrypoint": "sklearn_digits.py"},
        "params": {"epochs": 3, "rate": 0.01, "hidden": 16, "alpha": 1e-4, "solver": "adam", "random_state": 1},
    },
}  # fmt: skip
NEEDS = {"torch": ("torch",), "keras": ("keras", "tensorflow"), "sklearn": ("skops",)}  # and all, those of the images


def images(folder: Path, number: int = 48) -> None:
    """Write photographs or handwritten digits as PNG of 32 × 32 pixels, and their labels beside.

    REPROKIT_TEST_IMAGES names an archive of JPEGs, `train/<class>/<name>.jpg`; without it, scikit-learn's digits.
    """
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    archive = os.environ.get("REPROKIT_TEST_IMAGES")
    labels = []
    for place, (image, label) in enumerate(_photographs(Path(archive), number) if archive else _digits(number)):
        image.convert("RGB").resize((32, 32), Image.Resampling.NEAREST).save(folder / "images" / f"{place:03}.png")
        labels.append(label)
    (folder / "labels" / "labels.txt").write_text("".join(f"{label}\n" for label in labels))


def _digits(number: int) -> Iterable[tuple[Image.Image, int]]:
    bunch = importlib.import_module("sklearn.datasets").load_digits()
    for pixels, label in zip(bunch.images[:number], bunch.target, strict=False):
        yield Image.fromarray((pixels * 15).astype(np.uint8)), int(label)


def _photographs(archive: Path, number: int) -> Iterable[tuple[Image.Image, int]]:
    found = 0
    with tarfile.open(archive) as files:
        for member in files:
            if member.isfile() and member.name.endswith(".jpg"):
                stream = files.extractfile(member)
                assert stream is not None
                yield Image.open(BytesIO(stream.read())), found % 10
                found += 1
                if found == number:
                    return


class Bench:
    """A repository with the trainings, two environments that differ in one package, and the runs made so far."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.project = Project(base)
        for file in HERE.glob("*.py"):
            shutil.copy(file, self.project.root)
        self.project.write("notes.md", "Nothing that a script reads.\n")
        for name in RECIPES:
            self.project.write(f"{name}.yaml", json.dumps(self.recipe(name, {})))
        self.project.commit()
        images(base / "inputs-made")
        self.python = {version: _environment(base / version, version) for version in ("1.0.0", "1.0.1")}
        self.project.python = self.python["1.0.0"]
        for name in ("images", "labels"):
            self.build(base / "inputs-made" / name, f"t/{name}")
        self._numbers = count()
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._made: dict[str, Any] = {}

    @staticmethod
    def recipe(training: str, changes: dict[str, Any]) -> dict[str, Any]:
        """Return a training's recipe; `changes` are merged into its sections."""
        whole = {"name": training, **_COMMON, **RECIPES[training], "execution": {"seed": 5, "threads": 1}}
        return whole | {
            key: {**whole.get(key, {}), **value} if isinstance(value, dict) else value for key, value in changes.items()
        }

    def build(self, folder: Path, name: str) -> str:
        """Build a package from a folder; return the reference of the version."""
        made: dict[str, Any] = self.project.json("package", "build", str(folder), name)
        return f"{name}@{made['top_hash']}"

    def folder(self) -> Path:
        with self._lock:
            return self.base / f"made-{next(self._numbers)}"

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """Return what `make` returns, called once for a key also where several threads ask at a time."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._made:
                self._made[key] = make()
            return self._made[key]

    def original(self, training: str, edits: tuple[Edit, ...] = (), changes: dict[str, Any] | None = None) -> str:
        """Return the ID of a training's run, made when it is first asked for."""

        def run() -> str:
            root = self.edited(edits)
            if changes:
                (root / f"{training}.yaml").write_text(json.dumps(self.recipe(training, changes)))
            record = self.project.json("run", f"{training}.yaml", "--allow-dirty", cwd=root)
            return str(record["run_id"])

        return str(self.once(json.dumps([training, edits, changes]), run))

    def repetition(self, training: str) -> Verdict:
        """Return the verdict on a repetition in which nothing is wrong."""
        return dict(self.once(f"repetition {training}", lambda: self.reproduce(self.original(training))))

    def reproduce(self, run: str, *options: str, version: str = "1.0.0") -> Verdict:
        """Return the verdict on a repetition.

        Args:
            options: Of `--with`.
            version: Of the package `smoothing-demo` in the environment that reprokit runs in.
        """
        arguments = [part for option in options for part in ("--with", option)]
        return self.said("reproduce", run, *arguments, version=version)

    def diff(self, left: str, right: str, registry: Path | None = None) -> Verdict:
        return self.said("diff", left, right, "--tensors", *(["--registry", str(registry)] if registry else []))

    def said(self, *arguments: str, version: str = "1.0.0", home: str = "home") -> Verdict:
        """Return the verdict that a command gives; `by` is the command, `exit` its exit code."""
        done = subprocess.run(
            [self.python[version], "-m", "reprokit", *arguments, "--json"],
            cwd=self.project.root,
            env=self.project.environment(home),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode in (0, 7, 8), f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        verdict: Verdict = json.loads(done.stdout)
        return {**verdict, "exit": done.returncode, "by": arguments[0]}

    def edited(self, edits: tuple[Edit, ...]) -> Path:
        """Return a copy of the repository in which some places of its files read otherwise."""
        root = self.folder()
        shutil.copytree(self.project.root, root)
        for name, old, new in edits:
            text = (root / name).read_text()
            assert text.count(old) == 1, f"{name} has {old!r} {text.count(old)} times"
            (root / name).write_text(text.replace(old, new))
        return root

    def changed(self, name: str, change: Callable[[Path], None]) -> str:
        """Return the option of `--with` that gives the repetition another version of its data."""
        folder = self.folder()
        shutil.copytree(self.base / "inputs-made" / name, folder)
        change(folder)
        return f"data.{name}={self.build(folder, f't/{name}')}"


def _environment(folder: Path, version: str) -> str:
    """Make an environment that sees this one's packages, and has one of its own; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "outer.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    info = site / f"smoothing_demo-{version}.dist-info"
    info.mkdir()
    (site / "smoothing_demo.py").write_text(f"SMOOTHING = {0.1 if version == '1.0.0' else 0.1000001}\n")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: smoothing-demo\nVersion: {version}\n")
    (info / "RECORD").write_text(f"smoothing_demo.py,sha256=x{version},1\n{info.name}/METADATA,,\n")
    (info / "INSTALLER").write_text("pip\n")
    return str(folder / "bin" / "python")
