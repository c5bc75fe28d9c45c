"""A lock comes from a registry: its words end up in commands, paths and files of other tools."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from reprokit.core.canonical_json import canonical
from reprokit.environment.capture import capture_environment
from reprokit.errors import DataMismatchError
from reprokit.schema.lock import Archive, CondaPackage, EnvironmentLock, PipPackage, RecipeLock

GOOD = EnvironmentLock(
    python="3.11.7",
    implementation="CPython",
    platform="linux-x86_64",
    conda=[CondaPackage(name="_libgcc_mutex", version="0.1", build="conda_forge", subdir="linux-64", sha256="a" * 64)],
    pip=[PipPackage(name="torch", version="2.13.0+cpu", tags=["cp311-cp311-linux_x86_64"], record="0" * 64)],
)


def decoded(environment: Any) -> EnvironmentLock:
    lock = {"format": 1, "declares": {"environment": None, "data": "0" * 64}, "environment": environment, "data": []}
    return RecipeLock.decode(canonical(lock), what="the lock").environment


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("url", "ftp://example.org/a.conda"),
        ("url", "https://example.org/a b.conda"),
        ("url", "https://example.org/a.conda\nhttps://192.0.2.1/b.conda"),
        ("file", "../a.conda"),
        ("file", "-r"),
        ("sha256", "A" * 64),
        ("name", "--index-url"),
    ],
)
def test_an_address_that_could_become_something_else_is_refused(key: str, value: str) -> None:
    archive = Archive(
        kind="conda", name="a", version="1", file="a.conda", url="https://example.org/a.conda", sha256="0" * 64
    )
    good = {"format": 1, "declares": {"environment": None, "data": "0" * 64}, "data": []}
    good |= {"environment": msgspec.to_builtins(GOOD), "archives": [msgspec.to_builtins(archive)]}
    assert RecipeLock.decode(canonical(good), what="the lock").archives == [archive]
    good["archives"][0][key] = value
    with pytest.raises(DataMismatchError, match=rf"archives\[0\]\.{key}|archives\[\.\.\.\]\.{key}"):
        RecipeLock.decode(canonical(good), what="the lock")


def test_what_is_captured_is_read_back() -> None:
    for environment in (GOOD, capture_environment()):
        assert decoded(msgspec.to_builtins(environment)) == environment


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ("pip", "name", "torch\n--index-url=http://192.0.2.1"),
        ("pip", "name", "--extra-index-url"),
        ("pip", "name", "../torch"),
        ("pip", "version", "1.0\n-r /etc/passwd"),
        ("pip", "version", "--help"),
        ("pip", "record", "../../../tmp"),
        ("pip", "record", "0" * 64 + "\n"),
        ("pip", "tags", ["py3-none-any/../x"]),
        ("conda", "name", "a b"),
        ("conda", "version", "1;2"),
        ("conda", "build", "../x"),
        ("conda", "sha256", "0"),
        (None, "python", "3.11/../../x"),
        (None, "python", "--offline"),
        (None, "implementation", "CPython\n--index-url=http://192.0.2.1"),
        (None, "platform", "linux'\n"),
    ],
)
def test_words_that_would_mean_something_else_are_refused(where: str | None, key: str, value: Any) -> None:
    environment = msgspec.to_builtins(GOOD)
    (environment if where is None else environment[where][0])[key] = value
    with pytest.raises(DataMismatchError, match="the lock is malformed"):
        decoded(environment)
