"""A record that was published as finished stays so, wherever the runner was killed after that."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import msgspec
import pytest

from reprokit.core.digest import Digest
from reprokit.errors import RegistryError
from reprokit.recording import recorder
from reprokit.recording.checkpoint_saver import Collected
from reprokit.recording.journal import Ended, Journal
from reprokit.recording.recorder import Recording, new_run_id, recover
from reprokit.registry.live import Now
from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import RunStore
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.record import Attempt, CheckpointEntry, OutputFacts, Place, Record
from tests.comparison.making import locked

RUN = "20260102-030405-abcdef"


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry")


def started(home: Path, registry: LocalRegistry, *, ends: bool) -> None:
    """Leave a run as a runner does that is killed: before its end is published, or just after."""
    record = Record(
        run_id=RUN,
        name="made",
        status="running",
        started="2026-01-02T03:04:05.000Z",
        lock_hash=None,
        code=None,
        environment=None,
    )
    journal = Journal.create(home, RUN)
    with Recording.start(record, [], lock=None, registry=registry, journal=journal) as recording:
        journal.log("stdout", b"epoch 0")
        journal.metrics(1, {"loss": 0.5})
        if ends:
            ended = msgspec.structs.replace(record, status="finished", ended="2026-01-02T03:05:00.000Z")
            recording.end(ended, collected=Collected(), outputs={})
    journal.leave()  # the journal is still there: its end never came


def test_a_run_that_was_killed_is_completed_from_its_journal(tmp_path: Path, registry: LocalRegistry) -> None:
    started(tmp_path / "home", registry, ends=False)
    assert recover(tmp_path / "home") == [RUN]
    record = RunStore(registry).load(RUN).record
    assert (record.status, record.metrics) == ("interrupted", {"loss": 0.5})
    assert recover(tmp_path / "home") == []


def test_what_a_run_told_while_it_went_on_is_taken_back_when_it_is_completed(
    tmp_path: Path, registry: LocalRegistry
) -> None:
    started(tmp_path / "home", registry, ends=False)
    live = registry.live(RUN)
    live.tell(Now(by="me@here, process 1", at="now"))
    live.add_log(0, b"epoch 0\n")
    assert recover(tmp_path / "home") == [RUN]
    assert (live.now(), live.log()) == (None, b"")


def test_a_run_ends_though_somebody_removed_its_log_of_metrics(tmp_path: Path, registry: LocalRegistry) -> None:
    journal = Journal.create(tmp_path / "home", RUN)
    with Recording.start(BEGUN, [], lock=None, registry=registry, journal=journal) as recording:
        journal.metrics(1, {"loss": 0.5})
        journal.file("metrics.jsonl").unlink()
        recording.end(msgspec.structs.replace(BEGUN, status="finished"), collected=Collected(), outputs={})
    record = RunStore(registry).load(RUN).record
    assert (record.status, record.logged) == ("finished", {})


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_log_of_metrics_that_is_too_long_to_compare_is_left_out_by_its_digest(
    tmp_path: Path, registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch, beyond: int
) -> None:
    journal = Journal.create(tmp_path / "home", RUN)
    with Recording.start(BEGUN, [], lock=None, registry=registry, journal=journal) as recording:
        journal.metrics(1, {"loss": 0.5})
        size = journal.file("metrics.jsonl").stat().st_size
        monkeypatch.setattr(recorder, "MAX_SERIES", size - beyond)
        recording.end(msgspec.structs.replace(BEGUN, status="finished"), collected=Collected(), outputs={})
    found = RunStore(registry).load(RUN)
    if beyond:
        digest = found.manifest["metrics.jsonl"].digest.hex
        assert found.record.logged is None
        assert [(one.count, one.digest) for one in found.record.left_out] == [(size, digest)]
    else:
        assert (list(found.record.logged or ()), found.record.left_out) == (["loss"], [])


def test_a_kill_between_the_last_publish_and_the_journals_end_leaves_the_record_finished(
    tmp_path: Path, registry: LocalRegistry
) -> None:
    started(tmp_path / "home", registry, ends=True)
    before = registry.log(f"runs/{RUN}")
    assert RunStore(registry).load(RUN).record.status == "finished"
    assert recover(tmp_path / "home") == [RUN]
    assert registry.log(f"runs/{RUN}") == before
    assert RunStore(registry).load(RUN).record.status == "finished"
    assert not any("journal.jsonl" in names for _, _, names in os.walk(tmp_path / "home"))  # and it is done with


def test_what_was_saved_before_the_kill_is_in_the_record(tmp_path: Path, registry: LocalRegistry) -> None:
    home = tmp_path / "home"
    record = Record(
        run_id=RUN,
        name="made",
        status="running",
        started="2026-01-02T03:04:05.000Z",
        lock_hash=None,
        code=None,
        environment=None,
        checkpoint_package="t/model",
    )
    journal = Journal.create(home, RUN)
    entries = [
        CheckpointEntry(
            package="t/model",
            top_hash=str(n) * 64,
            state_digest=f"d{n}",
            epoch=n or None,
            metrics={"loss": 0.5},
            kind="checkpoint" if n else "initial",
        )
        for n in range(4)
    ]
    with Recording.start(record, [], lock=None, registry=registry, journal=journal):
        for entry in entries:
            journal.event("checkpoint", entry=msgspec.to_builtins(entry))
        journal.event("dropped", top_hash=entries[2].top_hash)
        journal.event("error", text="The disk is full.")
        with registry.staging() as sink:
            digest, size = sink.put_bytes(b"plot")
        journal.event("artifact", key="artifacts/plot.png", type=digest.type, value=digest.value, size=size)
        journal.metrics(1, {"loss": float("inf"), "other": 1.0})
        journal.metrics(2, {"loss": 0.25})
    journal.leave()
    assert recover(home) == [RUN]
    run = RunStore(registry).load(RUN)
    assert run.record.status == "interrupted"
    assert "Not stored: The disk is full." in run.record.warnings
    assert run.record.initial == entries[0]
    assert run.record.checkpoints == [entries[1], msgspec.structs.replace(entries[2], dropped=True), entries[3]]
    assert run.record.metrics == {"loss": 0.25, "other": 1.0}
    assert run.record.artifacts == ["artifacts/plot.png"]
    assert registry.read_object(run.manifest["artifacts/plot.png"], what="it") == b"plot"


GIVEN = Place(kind="checkpoint", epoch=0)


@pytest.mark.parametrize(
    ("given", "events", "began_anew"),
    [
        (GIVEN, ["saved"], True),
        (GIVEN, ["resumed", "saved"], False),
        (GIVEN, ["resumed"], False),
        (GIVEN, [], False),  # killed before it could have restored anything
        (GIVEN, ["again"], False),  # what it was given, not one of its own
        (None, ["saved"], False),
    ],
)
def test_a_killed_run_began_anew_if_it_saved_without_restoring_what_it_was_given(
    tmp_path: Path, registry: LocalRegistry, given: Place | None, events: list[str], began_anew: bool
) -> None:
    journal = Journal.create(tmp_path / "home", RUN)
    attempt = Attempt(
        started="2026-01-02T03:04:05.000Z", ended=None, status="interrupted", resumed="2026-01-02T04:04:05.000Z",
        resumed_from="epoch 0" if given else "the beginning", resumed_at=given,
    )  # fmt: skip
    begun = msgspec.structs.replace(BEGUN, outputs=[], attempts=[attempt])
    entry = CheckpointEntry(package="t/model", top_hash="1" * 64, state_digest="d", epoch=0)
    with Recording.start(begun, [], lock=None, registry=registry, journal=journal):
        for event in events:
            if event == "resumed":
                journal.event("resumed")
            else:
                again = {"again": True} if event == "again" else {}
                journal.event("checkpoint", entry=msgspec.to_builtins(entry), **again)
    journal.leave()
    assert recover(tmp_path / "home") == [RUN]
    record = RunStore(registry).load(RUN).record
    assert [one.restored for one in record.attempts] == [not began_anew]
    said = [text for text in record.warnings if "did not restore the checkpoint that it was given" in text]
    assert len(said) == began_anew


def test_a_run_that_ended_while_its_registry_was_away_is_completed_as_what_it_was(
    tmp_path: Path, registry: LocalRegistry
) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    output = home / "runs" / RUN / "workspace" / "m.json"
    record = Record(
        run_id=RUN, name="made", status="running", started="2026-01-02T03:04:05.000Z", lock_hash=None, code=None,
        environment=None, outputs=[OutputFacts(path="m.json"), OutputFacts(path="bad", unkept="it is a pipe")],
    )  # fmt: skip
    journal = Journal.create(home, RUN)
    output.parent.mkdir()
    output.write_text("7")
    ended = msgspec.structs.replace(record, status="finished", ended="2026-01-02T03:05:00.000Z")
    with (
        pytest.raises(RegistryError) as said,
        Recording.start(record, [], lock=None, registry=registry, journal=journal) as recording,
    ):
        journal.log("stdout", b"epoch 0")
        registry.root.rename(away)
        registry.root.write_text("in its place")
        recording.end(ended, collected=Collected(), outputs={"m.json": output}, workspace=output.parent)
    journal.leave()
    assert str(said.value).startswith(f"Run {RUN} ended (finished), and its record could not be written. ")
    assert f"log, metrics and what else is not in the registry are in {home / 'runs' / RUN}" in str(said.value)
    assert f"the outputs in {output.parent}" in str(said.value)
    assert recover(home) == []  # not yet
    registry.root.unlink()
    away.rename(registry.root)
    assert recover(home) == [RUN]
    stored = RunStore(registry).load(RUN)
    assert (stored.record.status, stored.record.ended) == ("finished", "2026-01-02T03:05:00.000Z")
    assert registry.read_object(stored.manifest["outputs/m.json"], what="it") == b"7"
    assert [text for text in stored.record.warnings if "'bad'" in text]
    assert output.exists()  # beside what could not be kept
    assert recover(home) == []


def test_the_end_of_a_run_is_noted_where_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.create(tmp_path, RUN)
    reserve = journal.file("reserve")
    assert reserve.stat().st_size == 256 * 1024

    def full(path: Path, data: bytes, **_: object) -> None:
        if reserve.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        path.write_bytes(data)

    monkeypatch.setattr("reprokit.recording.journal.durable_write", full)
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    journal.ending(Ended(b"{}", {"a": odd}, None, left=True))
    assert not reserve.exists()
    assert journal.ended() == Ended(b"{}", {"a": odd}, None, left=True)


def test_a_clock_that_was_set_back_changes_no_order(registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = []
    for clock in (1_800_000_000, 1_800_000_060, 1_700_000_000, 1_700_000_000, 1_800_000_055, 1_800_000_099):
        monkeypatch.setattr(time, "time", lambda clock=clock: float(clock))
        monkeypatch.setattr(time, "time_ns", lambda clock=clock: clock * 10**9)
        ids.append(new_run_id(registry))
        registry.publish(f"runs/{ids[-1]}", Manifest.make([], message="begun"))
        registry.publish(f"runs/{ids[-1]}", Manifest.make([], message="ended"))
    assert RunStore(registry).ids() == ids == sorted(ids)
    assert RunStore(registry).find("latest") == ids[-1]
    seconds = [run_id[9:15] for run_id in ids]
    assert seconds == ["080000", "080100", "080101", "080102", "080103", "080139"]
    (begun, ended) = registry.log(f"runs/{ids[2]}")
    assert begun.time < ended.time


def test_a_name_that_is_no_date_is_no_clock(registry: LocalRegistry) -> None:
    registry.publish("runs/99999999-999999-ffffff", Manifest.make([], message="forged"))
    assert new_run_id(registry).startswith(time.strftime("%Y"))


def test_a_malformed_line_of_a_journal_costs_no_other_and_no_later_command(
    tmp_path: Path, registry: LocalRegistry
) -> None:
    home = tmp_path / "home"
    started(home, registry, ends=False)
    folder = home / "runs" / RUN
    artifact = {"event": "artifact", "key": "artifacts/a", "size": 1, "type": "sha2-256-chunked", "value": "?"}
    wrong: list[object] = [
        {"event": "checkpoint"}, {"event": "checkpoint", "entry": {"metrics": 3}}, {"event": "checkpoint", "entry": 1},
        artifact, {**artifact, "key": "../x"}, {"event": "dropped"},
    ]  # fmt: skip
    nowhere = {**artifact, "value": Digest.chunked(bytes(32)).value}
    odd = [7, *wrong, {"event": ["x"]}, nowhere]
    with (folder / "journal.jsonl").open("a") as journal:
        journal.write("".join(f"{json.dumps(line)}\n" for line in odd) + '{"torn')
    with (folder / "metrics.jsonl").open("a") as journal:
        journal.write('{"values": 7}\n{"values": {"odd": [1], "fine": 2}}\n[]\n')
    assert recover(home) == [RUN]
    record = RunStore(registry).load(RUN).record
    assert record.metrics == {"loss": 0.5, "fine": 2}
    assert record.artifacts == []
    assert "What the journal calls artifacts/a is not in the registry." in record.warnings
    assert "6 line(s) of the run's journal are malformed: what they said is missing." in record.warnings


# What is published when: at the start, at the end, and afterwards


BEGUN = Record(
    run_id=RUN,
    name="made",
    status="running",
    started="2026-01-02T03:04:05.000Z",
    lock_hash=None,
    code=None,
    environment=None,
    outputs=[OutputFacts(path="a"), OutputFacts(path="never", missing=True)],
)


def stored(registry: LocalRegistry, key: str) -> bytes:
    return registry.read_object(RunStore(registry).load(RUN).manifest[key], what=key)


def test_code_and_lock_are_kept_from_the_start_and_what_was_written_from_the_end(
    tmp_path: Path, registry: LocalRegistry
) -> None:
    lock = locked()
    with registry.staging() as sink:
        digest, size = sink.put_bytes(b"x = 1")
        entry = Entry("code/a.py", size, digest)
        plot = Entry("artifacts/plot.png", *reversed(sink.put_bytes(b"plot")))
    journal = Journal.create(tmp_path / "home", RUN)
    (tmp_path / "a").write_bytes(b"an output")
    folder = journal.file("notebook")
    folder.mkdir()
    (folder / "n.ipynb").write_bytes(b"{}")
    (folder / ".hidden").write_bytes(b"")
    with Recording.start(BEGUN, [entry], lock=lock, registry=registry, journal=journal) as recording:
        begun = RunStore(registry).load(RUN)
        assert begun.manifest.keys == ["code/a.py", "lock.json", "record.json"]
        assert (begun.record, stored(registry, "lock.json")) == (BEGUN, lock.encode())
        assert registry.is_claimed(RUN)
        journal.log("stdout", b"epoch 0")
        journal.metrics(1, {"loss": 0.5})
        collected = Collected(artifacts={plot.logical_key: plot})
        ended = msgspec.structs.replace(BEGUN, status="finished", ended="2026-01-02T03:05:00.000Z")
        told = recording.end(ended, collected=collected, outputs={"a": tmp_path / "a"})
        assert told == recording.record
        found = RunStore(registry).load(RUN)
        assert sorted(found.manifest.keys) == [
            "artifacts/plot.png", "code/a.py", "lock.json", "log.txt", "metrics.jsonl", "notebook/n.ipynb", "outputs/a",
            "record.json",
        ]  # fmt: skip
        assert (found.record, found.record.notebook) == (told, "notebook/n.ipynb")
        assert found.record.outputs == [
            OutputFacts(path="a", size=9, digest=found.manifest["outputs/a"].digest.hex),
            OutputFacts(path="never", missing=True),
        ]
        assert stored(registry, "outputs/a") == b"an output" and b"epoch 0" in stored(registry, "log.txt")
        amended = recording.amend(msgspec.structs.replace(told, warnings=["late"]))
        assert (RunStore(registry).load(RUN).record, recording.record) == (amended, amended)
        assert RunStore(registry).load(RUN).manifest.keys == found.manifest.keys == recording.manifest.keys
    assert not registry.is_claimed(RUN)
    assert len(registry.log(f"runs/{RUN}")) == 3


def test_a_run_without_a_lock_keeps_none(tmp_path: Path, registry: LocalRegistry) -> None:
    journal = Journal.create(tmp_path / "home", RUN)
    with Recording.start(BEGUN, [], lock=None, registry=registry, journal=journal) as recording:
        assert RunStore(registry).load(RUN).manifest.keys == ["record.json"]
        recording.end(msgspec.structs.replace(BEGUN, status="failed"), collected=Collected(), outputs={})
    found = RunStore(registry).load(RUN)
    assert (found.record.status, found.record.notebook) == ("failed", None)
    assert "lock.json" not in found.manifest


def test_what_is_completed_afterwards_says_so_and_lists_its_artifacts_in_order(
    tmp_path: Path, registry: LocalRegistry
) -> None:
    home = tmp_path / "home"
    journal = Journal.create(home, RUN)
    begun = msgspec.structs.replace(BEGUN, outputs=[], warnings=["early"])
    with Recording.start(begun, [], lock=locked(), registry=registry, journal=journal):
        with registry.staging() as sink:
            for key in ("artifacts/b", "artifacts/a"):
                digest, size = sink.put_bytes(key.encode())
                journal.event("artifact", key=key, type=digest.type, value=digest.value, size=size)
        journal.event("stranger", process=7)
        journal.event("stranger", process=None)
    journal.leave()
    assert recover(home) == [RUN]
    found = RunStore(registry).load(RUN)
    assert found.record.artifacts == ["artifacts/a", "artifacts/b"]
    assert found.record.warnings[0] == "early" and "(process 7)" in found.record.warnings[1]
    assert found.record.failure is not None and "completed afterwards from its journal" in found.record.failure
    assert found.record.ended is not None and "lock.json" in found.manifest


def test_a_journal_whose_registry_cannot_be_reached_waits(tmp_path: Path, registry: LocalRegistry) -> None:
    home = tmp_path / "home"
    started(home, registry, ends=False)
    away = registry.root.with_name("away")
    registry.root.rename(away)
    said: list[str] = []
    assert recover(home, note=said.append) == []
    (told,) = said
    assert told.startswith(f"The record of run {RUN} is still to be completed from {home / 'runs' / RUN}: ")
    assert "\n" not in told, "what to do about it is for who asks"
    away.rename(registry.root)
    assert recover(home) == [RUN]


def test_a_run_that_was_killed_before_anything_was_published_leaves_nothing(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "home", RUN)
    journal.event("other")
    journal.leave()
    assert recover(tmp_path / "home") == [RUN]
    assert recover(tmp_path / "home") == []
