"""The registry in an object store: the contract, on servers that other people wrote, and what only a network does."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from reprokit.registry import Registry, open_registry
from tests.object_stores import Server, moto, seaweed

from .contract import RegistryContract


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with seaweed(tmp_path_factory.mktemp("seaweed")) as server:
        server.make_bucket("bucket")
        yield server


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with moto(tmp_path_factory.mktemp("moto")) as server:
        server.make_bucket("bucket")
        yield server


def opened(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    return open_registry(f"s3://bucket/{uuid.uuid4()}", cache=tmp_path / "cache")


class TestInMemory(RegistryContract):
    @pytest.fixture
    def registry(self, tmp_path: Path) -> Registry:
        return open_registry(f"memory://{uuid.uuid4()}", cache=tmp_path / "cache")


class TestOnSeaweedFS(RegistryContract):
    @pytest.fixture
    def registry(self, weed: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
        return opened(weed, tmp_path, monkeypatch)


class TestOnMoto(RegistryContract):
    @pytest.fixture
    def registry(self, moto_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
        return opened(moto_server, tmp_path, monkeypatch)
