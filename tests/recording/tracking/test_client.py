"""Where a store is, and what is said where MLflow is not installed, or its store not there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from reprokit.core.own_extras import pip_words
from reprokit.errors import RegistryError, UsageError
from reprokit.recording.tracking.client import Tracking, address_of, shown

WHO = "user:" + "hidden"


def test_a_path_is_a_folder_or_a_file_and_an_address_stays(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"")
    (tmp_path / "odd.db").mkdir()
    assert address_of("mlruns", folder=tmp_path) == f"file://{tmp_path}/mlruns"
    assert address_of("odd.db", folder=tmp_path) == f"file://{tmp_path}/odd.db"
    assert address_of("new.db", folder=tmp_path) == f"sqlite:///{tmp_path}/new.db"
    assert address_of("there", folder=tmp_path) == f"sqlite:///{tmp_path}/there"
    assert address_of("sqlite:///a.db", folder=tmp_path) == f"sqlite:///{tmp_path}/a.db"
    assert address_of(f"sqlite:///{tmp_path}/a.db", folder=Path("/x")) == f"sqlite:///{tmp_path}/a.db"
    for address in (f"https://{WHO}@host/x", "databricks://profile", "file:///x"):
        assert address_of(address) == address
    assert shown(f"https://{WHO}@host/x") == "https://host/x"


def test_without_mlflow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else find(name))
    with pytest.raises(UsageError) as caught:
        Tracking(str(tmp_path))
    assert caught.value.message == "MLflow's client is not installed, by which runs are sent to its stores."
    assert f"-m pip install {pip_words('mlflow')}`" in str(caught.value.hint)


def test_a_store_that_does_not_answer_is_said_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="the mlflow extra is not installed")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError) as caught:
        Tracking(f"http://{WHO}@127.0.0.1:9").find("20261123-101500-7c1e9f")
    assert caught.value.message.startswith("MLflow's store http://127.0.0.1:9 cannot be read or written: ")
    assert WHO not in caught.value.message
