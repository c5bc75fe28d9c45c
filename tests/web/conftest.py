"""A registry with something of everything, looked at by the page: real runs, a repetition, packages, a hostile run."""

from __future__ import annotations

import base64
import json
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the page needs the extra ui")

from starlette.testclient import TestClient

import reprokit
from reprokit.registry.context import Context
from reprokit.registry.local import LocalRegistry
from reprokit.web.app import application
from reprokit.web.serve import serve
from tests.conftest import Project

HOST = "127.0.0.1:8265"
EVIL = "<script>window.hit=1</script><img src=x onerror=window.hit=1>\"'&{{7*7}}‮"
EVIL_BYTES = EVIL.encode()
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFElEQVR4nGP8z8Dwn4GBgYGJAQoAHxcCAk+Uzr4AAAAASUVORK5CYII="
)


class Lab:
    """A project with its runs, and where the page looks.

    Attributes:
        original, other, repeated: Runs: of a recipe, of one with another rate, of the first again.
        hostile: One whose names, values and output are a stranger's.
    """

    def __init__(self, base: Path) -> None:
        self.project = Project(base)
        self.project.build()
        self._packages(base / "files")
        recipe = (self.project.root / "recipe.yaml").read_text()
        self.project.write("recipe.yaml", recipe.replace("outputs: [metrics.json]", "outputs: [metrics.json, p.png]"))
        self.project.hook(f"open('p.png', 'wb').write({PNG!r} + bytes([epoch]))")
        self.original = self.project.json("run", "recipe.yaml")["run_id"]
        self.other = self.project.json("run", "recipe.yaml", "-p", "rate=0.2", "--name", "faster")["run_id"]
        self.repeated = self.project.json("reproduce", self.original, "-y")["run_id"]
        self.registry = LocalRegistry(self.project.registry)
        self.hostile = self._stranger()

    @property
    def context(self) -> Context:
        return Context(home=self.project.base / "home", cache=self.project.base / "home-cache", registry=self.registry)

    def _packages(self, files: Path) -> None:
        (files / "deep" / "er").mkdir(parents=True)
        head = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
        size = struct.pack("<Q", len(head))
        notebook = {
            "nbformat": 4, "nbformat_minor": 5,
            "metadata": {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python"}},
            "cells": [{"cell_type": "code", "source": "1 + 1", "metadata": {}, "execution_count": 1, "id": "a",
                       "outputs": [{"output_type": "stream", "name": "stdout", "text": EVIL}]}],
        }  # fmt: skip
        for name, data in {
            "a.png": PNG, "fake.png": b"<html>" + EVIL_BYTES, "table.csv": b"x,y\n1,2\n" + EVIL_BYTES + b",4\n",
            "rows.jsonl": b'{"a": 1}\n{"a": 2, "b": "c"}\n', "page.html": EVIL_BYTES, "draw.svg": EVIL_BYTES,
            "note.ipynb": json.dumps(notebook).encode(), "net.safetensors": size + head + bytes(8),
            "bad.safetensors": bytes([255] * 9), "bytes.bin": bytes(range(256)), "deep/er/one.txt": b"one\n",
            "deep/two.json": b'{"b": [1, 2]}', "empty": b"",
        }.items():  # fmt: skip
            (files / name).write_bytes(data)
        build = ("package", "build", str(files), "demo/files")
        self.project.reprokit(*build, "-m", f"first {EVIL}")
        (files / "table.csv").write_text("x,y\n1,3\n")
        (files / "added.txt").write_text("new\n")
        self.project.reprokit(*build)

    def _stranger(self) -> str:
        environment = self.project.environment()
        with pytest.MonkeyPatch.context() as patch:
            for name in ("REPROKIT_HOME", "REPROKIT_CACHE", "REPROKIT_REGISTRY"):
                patch.setenv(name, environment[name])
            patch.chdir(self.project.root)
            with reprokit.start_run(name=EVIL, params={EVIL: EVIL, "n": 1}) as run:
                for step in range(3):
                    reprokit.log(step=step, **{EVIL: step / 2, "nothing": float("nan")})
                print(f"\x1b[31m{EVIL}\x1b]0;title\x07")
            return str(run.run_id)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("web"))


@pytest.fixture(scope="session")
def client(lab: Lab) -> Iterator[TestClient]:
    with TestClient(application(lab.context, [HOST]), base_url=f"http://{HOST}", follow_redirects=False) as client:
        yield client


@pytest.fixture(scope="session")
def address(lab: Lab) -> str:
    """Where the page is served, as `reprokit ui` does it."""
    return served(lab.context)


def served(context: Context) -> str:
    """Serve a registry until the tests end; return the address, without the last slash."""
    told: list[str] = []
    ready = threading.Event()

    def heard(url: str) -> None:
        told.append(url)
        ready.set()

    threading.Thread(target=lambda: serve(context, port=0, ready=heard), daemon=True).start()
    assert ready.wait(60)
    return told[0].rstrip("/")
