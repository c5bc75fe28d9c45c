"""Checkpoints of a run whose registry is far: the training waits for none, and none is lost or sent twice."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reprokit.checkpoint.format import SnapshotMessage
from reprokit.errors import DataMismatchError, RegistryError
from reprokit.packages.package import verify_registry
from reprokit.recording import spool
from reprokit.recording.checkpoint_saver import Saver, SavingPolicy
from reprokit.recording.journal import Journal, read_lines
from reprokit.recording.spool import Spool
from reprokit.registry import Registry, open_registry
from reprokit.registry.local import LocalRegistry
from reprokit.runs.transfer import push

RUN = "20261123-101500-7c1e9f"
LOSSES = (0.5, 0.7, 0.25, 0.3, 0.2, 0.9)


def policy(**given: Any) -> SavingPolicy:
    facts = {"run_id": RUN, "name": "t", "package": "t/m", "best": {"loss": "min"}, "inputs": [], "lock_hash": None}
    return SavingPolicy(**{**facts, **given})


def save(saver: Saver, epoch: int, loss: float = 0.5) -> str:
    snapshot = SnapshotMessage(
        kind="checkpoint", framework="plain", tensors=[], files=[], state={"at": epoch}, epoch=epoch,
        metrics={"loss": loss},
    )  # fmt: skip
    return saver.save(snapshot, memoryview(b"")).top_hash


class Net:
    """The network of one registry: it can be taken away, and its answers lost."""

    def __init__(self, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        self.away = threading.Event()
        self.held = threading.Event()
        self.lose_answer = False
        self.published: list[str] = []
        publish = registry.publish

        def through(name: str, manifest: Any, **options: Any) -> Any:
            while self.held.is_set():
                time.sleep(0.005)
            if self.away.is_set():
                raise RegistryError("The network is away.")
            entry = publish(name, manifest, **options)
            self.published.append(manifest.top_hash)
            if self.lose_answer:
                self.lose_answer = False
                raise RegistryError("No answer came.")
            return entry

        monkeypatch.setattr(registry, "publish", through)


@pytest.fixture
def far(tmp_path: Path) -> Registry:
    return open_registry(f"memory://{uuid.uuid4()}", cache=tmp_path / "cache")


@pytest.fixture
def net(far: Registry, monkeypatch: pytest.MonkeyPatch) -> Net:
    monkeypatch.setattr(spool, "_FIRST", 0.01)
    return Net(far, monkeypatch)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal.create(tmp_path / "home", RUN)


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def again(journal: Journal, registry: Registry) -> Spool:
    """Return what the next command finds when the runner was killed."""
    return Spool.left(registry, journal, list(read_lines(journal.file("journal.jsonl"))))


def test_a_save_does_not_wait_for_the_network(far: Registry, net: Net, journal: Journal) -> None:
    net.held.set()
    saver = Saver(registry=far, journal=journal, policy=policy())
    saved = [save(saver, epoch) for epoch in range(4)]
    assert [entry.top_hash for entry in saver.collected.checkpoints] == saved
    assert net.published == []
    net.held.clear()
    saver.settle()
    assert far.top_hashes("t/m") == saved
    assert verify_registry(far)[1] == []
    assert not journal.file("unsaved").exists()
    assert again(journal, far).pending == 0


def test_what_the_network_did_not_take_is_sent_when_it_is_back(far: Registry, net: Net, journal: Journal) -> None:
    saver = Saver(registry=far, journal=journal, policy=policy())
    net.away.set()
    saved = [save(saver, epoch) for epoch in range(3)]
    time.sleep(0.1)
    net.away.clear()
    wait_for(lambda: len(net.published) == 3)
    assert far.top_hashes("t/m") == saved
    saver.settle()


@pytest.mark.parametrize("keep", [None, 1, 2])
def test_tags_and_what_is_kept_are_as_in_a_folder(
    far: Registry, net: Net, journal: Journal, tmp_path: Path, keep: int | None
) -> None:
    folder = LocalRegistry(tmp_path / "folder")
    there = Saver(registry=folder, journal=Journal.create(tmp_path / "other", RUN), policy=policy(keep=keep))
    here = Saver(registry=far, journal=journal, policy=policy(keep=keep))
    net.held.set()
    for epoch, loss in enumerate(LOSSES):
        assert save(here, epoch, loss) == save(there, epoch, loss)
    net.held.clear()
    here.settle()
    one, two = far.head("t/m"), folder.head("t/m")
    assert one is not None
    assert two is not None
    assert one.tags["latest"] == two.tags["latest"]
    assert one.tags["best"] == two.tags["best"]
    kept = set(far.top_hashes("t/m"))
    assert kept.issuperset(folder.top_hashes("t/m"))
    for entry in here.collected.checkpoints:
        assert entry.dropped == (entry.top_hash not in kept)
    if keep is None:
        assert len(kept) == len(LOSSES)


@pytest.mark.parametrize("lost", [False, True])
def test_what_a_killed_runner_had_not_sent_is_sent_once(far: Registry, net: Net, journal: Journal, lost: bool) -> None:
    """Also where the last answer was lost, or the runner died before it could note it."""
    saver = Saver(registry=far, journal=journal, policy=policy())
    first = save(saver, 0)
    wait_for(lambda: len(net.published) == 1)
    net.lose_answer = lost
    net.held.set()
    others = [save(saver, epoch) for epoch in (1, 2)]
    net.away.set()
    if lost:
        net.away.clear()
        net.held.clear()
        wait_for(lambda: len(net.published) >= 2)
        net.away.set()
    net.held.clear()
    with pytest.raises(RegistryError):
        saver.settle()
    assert again(journal, far).pending >= 1
    net.away.clear()
    left = again(journal, far)
    left.settle()
    assert far.top_hashes("t/m") == [first, *others]
    published = [entry.top_hash for entry in far.log("t/m") if entry.action == "publish"]
    assert published == [first, *others]
    assert again(journal, far).pending == 0
    assert not journal.file("unsaved").exists()


def test_what_the_registry_refuses_is_said_and_kept(
    far: Registry, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = far.publish
    refused: list[str] = []

    def refusing(name: str, manifest: Any, **options: Any) -> Any:
        if not refused:
            refused.append(manifest.top_hash)
            raise DataMismatchError("It is not well.")
        return publish(name, manifest, **options)

    monkeypatch.setattr(far, "publish", refusing)
    saver = Saver(registry=far, journal=journal, policy=policy())
    one, two = save(saver, 0), save(saver, 1)
    saver.settle()
    assert refused == [one]
    assert far.top_hashes("t/m") == [two]
    (said,) = [text for text in saver.collected.warnings if "not well" in text]
    command = said.split("`")[1].split(" ")
    assert command[:3] == ["reprokit", "push", f"t/m@{one[:12]}"]
    push(command[2], source=LocalRegistry(Path(command[-1])), target=far)
    assert set(far.top_hashes("t/m")) == {one, two}


def test_folders_go_when_they_are_full_and_sent(
    far: Registry, net: Net, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "_FULL", 0)
    saver = Saver(registry=far, journal=journal, policy=policy())
    net.held.set()
    saved = [save(saver, epoch) for epoch in range(5)]
    place = journal.file("unsaved")
    assert len(list(place.iterdir())) == 5
    net.held.clear()
    wait_for(lambda: len(net.published) == 5)
    wait_for(lambda: len(list(place.iterdir())) == 1)
    saver.settle()
    assert far.top_hashes("t/m") == saved
    assert not place.exists()


def test_a_registry_in_a_folder_needs_none_of_it(tmp_path: Path, journal: Journal) -> None:
    saver = Saver(registry=LocalRegistry(tmp_path / "registry"), journal=journal, policy=policy())
    save(saver, 0)
    saver.settle()
    assert not any(event["event"] == "spooled" for event in read_lines(journal.file("journal.jsonl")))


def test_malformed_lines_of_a_journal_cost_nothing_else(far: Registry, net: Net, journal: Journal) -> None:
    saver = Saver(registry=far, journal=journal, policy=policy())
    net.away.set()
    saved = save(saver, 0)
    for wrong in ({}, {"name": 1}, None, {"name": "t/m", "top_hash": "x", "place": "0", "more": 1}):
        journal.event("spooled", delivery=wrong)
        journal.event("sent", delivery=wrong)
    with pytest.raises(RegistryError):
        saver.settle()
    net.away.clear()
    again(journal, far).settle()
    assert far.top_hashes("t/m") == [saved]
