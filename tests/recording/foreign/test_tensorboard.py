"""Folders of event files become runs: the scalars and parameters that TensorBoard shows, and nothing else."""

from __future__ import annotations

import json
import math
import shutil
import struct
import tracemalloc
from pathlib import Path

import pytest

from reprokit.comparison.record_check import contradictions
from reprokit.errors import NotFoundError
from reprokit.recording.foreign import runs
from reprokit.recording.foreign.runs import ImportedRuns
from reprokit.recording.foreign.tensorboard import import_tensorboard
from reprokit.registry.local import LocalRegistry
from reprokit.runs import logged
from reprokit.runs.logged import read_logged
from reprokit.runs.store import RunStore, StoredRun
from tests.conftest import context_of
from tests.recording.foreign.writing import START, events, message, scalar, tf_frame

WRITTEN = Path(__file__).parent / "written" / "tensorboard"
GIVEN = "ghp_" + "0123456789abcdefghij" * 2


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry")


def taken(logdir: Path, registry: LocalRegistry) -> ImportedRuns:
    return import_tensorboard(logdir, context=context_of(registry.root.parent, registry))


def run_of(made: ImportedRuns, name: str, registry: LocalRegistry) -> StoredRun:
    return RunStore(registry).load(made.runs[name])


def test_what_its_writers_wrote_is_what_the_records_say(registry: LocalRegistry) -> None:
    made = taken(WRITTEN, registry)
    assert list(made.runs) == ["tf", "two", "x/train", "x/train/hp"]
    train, two, parameters, every = (run_of(made, name, registry) for name in ("x/train", "two", "x/train/hp", "tf"))
    assert (train.record.name, train.record.status, train.record.lock_hash) == ("x-train", "finished", None)
    assert (train.record.started, train.record.ended) == ("2026-11-30T23:31:35.961Z", "2026-11-30T23:31:35.966Z")
    third = struct.unpack("<f", struct.pack("<f", 1 / 3))[0]
    assert read_logged(train, registry)["loss"] == {0: [1.0], 1: [0.5], 2: [third]}
    assert math.isnan(train.record.metrics["bad"])
    assert read_logged(two, registry) == {"epoch_loss": {0: [1.0], 1: [0.5], 2: [third]}}
    assert parameters.record.params == {"lr": 0.1, "depth": 3, "model": "rf", "big": True}
    assert type(parameters.record.params["depth"]) is int and parameters.record.metrics == {"final": 0.25}
    assert every.record.metrics == {
        "b": 1.0, "bf": 2.5, "f64": 0.1, "half": 1.5, "i64": -7.0, "old": 0.25, "u8": 9.0, "zero": 0.0,
    }  # fmt: skip
    assert sorted(note.partition(": ")[2] for note in made.notes) == [
        "left out 1 histograms", "left out 1 text", "left out 2 tensors",
    ]  # fmt: skip
    told = json.loads(registry.read_object(two.manifest["artifacts/tensorboard.json"], what="it"))
    assert told == {"run": "two", "files": [{"name": "events.out.tfevents.1796081496.host.14546.0", "size": 296}]}
    assert all(contradictions(run_of(made, name, registry), None, registry) == [] for name in made.runs)


def test_importing_again_or_from_elsewhere_takes_what_is_new(registry: LocalRegistry, tmp_path: Path) -> None:
    shutil.copytree(WRITTEN / "x", tmp_path / "elsewhere")
    first = taken(WRITTEN, registry)
    again = taken(tmp_path / "elsewhere", registry)
    assert again.runs["train"] == first.runs["x/train"] and again.known == ["train", "train/hp"]
    events(tmp_path / "elsewhere" / "new" / "events.out.tfevents.2", [scalar("loss", 1.0, 0)])
    assert taken(tmp_path / "elsewhere", registry).known == ["train", "train/hp"]
    assert len([*RunStore(registry).ids()]) == 5


def test_the_files_of_a_folder_are_one_run_and_a_step_may_come_twice(registry: LocalRegistry, tmp_path: Path) -> None:
    events(tmp_path / "logs" / "events.out.tfevents.1", [scalar("loss", 4.0, 0), scalar("loss", 2.0, 1, START + 1)])
    events(tmp_path / "logs" / "events.out.tfevents.2", [scalar("loss", 3.0, 1, START + 2)])
    made = taken(tmp_path / "logs", registry)
    run = run_of(made, "logs", registry)
    assert read_logged(run, registry) == {"loss": {0: [4.0], 1: [2.0, 3.0]}}
    assert run.record.metrics == {"loss": 3.0} and run.record.name == "logs"
    assert contradictions(run, None, registry) == []


def hparams(*pairs: tuple[str, bytes]) -> bytes:
    start = message(*((1, message((1, name), (2, value))) for name, value in pairs))
    return plugin("hparams", message((3, start)))


def plugin(name: str, content: bytes) -> bytes:
    metadata = message((1, message((1, name), (2, content))))
    return message((1, START), (5, message((1, message((1, "_hparams_/session"), (9, metadata))))))


def test_a_secret_stays_where_it_is_and_a_failure_is_said(registry: LocalRegistry, tmp_path: Path) -> None:
    found = [
        hparams(("api_token", message((3, GIVEN))), ("lr", message((2, 0.5))), ("sizes", message((6, b"")))),
        plugin("hparams", message((4, message((1, 2))))),
    ]
    events(tmp_path / "logs" / "events.out.tfevents.1", found)
    made = taken(tmp_path / "logs", registry)
    record = run_of(made, "logs", registry).record
    assert (record.params, record.status) == ({"lr": 0.5}, "failed")
    assert [note.partition(": ")[2] for note in made.notes] == [
        "left out api_token, which looks like a secret", "left out 1 lists of parameters",
    ]  # fmt: skip
    assert not any(GIVEN.encode() in file.read_bytes() for file in registry.root.rglob("*") if file.is_file())


def test_a_file_whose_writer_was_killed_gives_what_was_whole(registry: LocalRegistry, tmp_path: Path) -> None:
    file = events(tmp_path / "logs" / "events.out.tfevents.1", [scalar("loss", 1.0, 0), scalar("loss", 2.0, 1)])
    file.write_bytes(file.read_bytes()[:-5])
    made = taken(tmp_path / "logs", registry)
    assert read_logged(run_of(made, "logs", registry), registry) == {"loss": {0: [1.0]}}
    (note,) = made.notes
    assert note.endswith("events.out.tfevents.1: it ends at byte 119, within a record; what comes before was read")


def damaged(file: Path, how: str) -> None:
    data = bytearray(file.read_bytes())
    if how == "flipped":
        data[-6] ^= 1
    elif how == "length":
        data += struct.pack("<QI", 2**63, 0)
    elif how == "no event":
        data += tf_frame(b"\x0a\xff")
    elif how == "number":
        data += tf_frame(message((1, b"12345678"), (5, message((1, message((1, 5)))))))
    elif how == "groups":
        data += tf_frame(b"\x2b" * 10_000)
    file.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("how", "told", "kept"),
    [
        ("flipped", "is not what was written; what comes before was read", 1),
        ("length", "has a length that is not what was written; what comes before was read", 2),
        ("no event", "holds what is no event, and was not read on: an integer is cut off at byte 1", 2),
        ("number", "holds what is no event, and was not read on: an integer stands where a text is expected", 2),
        ("groups", "holds what is no event, and was not read on: a field of the wire type 3 ends at byte 1", 2),
    ],
)
def test_a_damaged_file_is_said_and_costs_no_other(
    registry: LocalRegistry, tmp_path: Path, how: str, told: str, kept: int
) -> None:
    bad = events(tmp_path / "logs" / "bad" / "events.out.tfevents.1", [scalar("a", 1.0, 0), scalar("a", 1.0, 1)])
    events(tmp_path / "logs" / "good" / "events.out.tfevents.2", [scalar("a", 1.0, 0)])
    damaged(bad, how)
    made = taken(tmp_path / "logs", registry)
    assert list(made.runs) == ["bad", "good"]
    assert len(read_logged(run_of(made, "bad", registry), registry)["a"]) == kept
    assert [note.endswith(told) for note in made.notes] == [True], made.notes


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (scalar("a", 1.0, 0, math.nan), "nan is no time in seconds since 1970"),
        (scalar("a", 1.0, 0, -1.0), "-1.0 is no time in seconds since 1970"),
        (scalar("a", 1.0, 0, math.inf), "inf is no time in seconds since 1970"),
        (scalar("a" * 1001, 1.0, 0), "a metric's name has 1,001 characters"),
        (message((1, START), (7, b"")), "it has neither scalars nor parameters"),
    ],
)
def test_a_run_that_says_what_cannot_be_is_left_out_alone(
    registry: LocalRegistry, tmp_path: Path, event: bytes, told: str
) -> None:
    events(tmp_path / "logs" / "bad" / "events.out.tfevents.1", [event])
    events(tmp_path / "logs" / "good" / "events.out.tfevents.2", [scalar("a", 1.0, 0)])
    made = taken(tmp_path / "logs", registry)
    assert list(made.runs) == ["good"]
    assert made.notes == [f"bad was left out, for it is malformed: {told}"]


def test_odd_names_and_numbers_are_kept_and_move_no_cursor(registry: LocalRegistry, tmp_path: Path) -> None:
    odd = "loss\x1b[2J\n\ud800"
    found = [scalar(odd, math.inf, -(2**63)), scalar(odd, -math.inf, 2**63 - 1), scalar("", 1.0, 0)[:-1]]
    events(tmp_path / "logs" / "events.out.tfevents.1", found[:2])
    made = taken(tmp_path / "logs", registry)
    run = run_of(made, "logs", registry)
    (name,) = run.record.metrics
    assert name.startswith("loss\x1b[2J\n") and "\ud800" not in name  # the terminal's door tames the rest
    assert read_logged(run, registry)[name] == {-(2**63): [math.inf], 2**63 - 1: [-math.inf]}
    assert contradictions(run, None, registry) == []


def test_a_tensor_is_a_scalar_only_where_it_is_one(registry: LocalRegistry, tmp_path: Path) -> None:
    def value(tag: str, tensor: bytes, name: str = "scalars") -> bytes:
        metadata = message((1, message((1, name))))
        return message((1, START), (5, message((1, message((1, tag), (8, tensor), (9, metadata))))))

    tensors = {
        "int": message((1, 3), (7, -5)), "packed": message((1, 3), (7, b"\x05")), "u64": message((1, 23), (17, 7)),
        "short": message((1, 2), (4, b"abc")), "text": message((1, 7), (8, b"abc")), "type": message((1, 999)),
        "wide": message((1, 1), (2, message((2, message((1, 2))))), (4, bytes(8))), "long": message((4, bytes(5000))),
    }  # fmt: skip
    found = [value(tag, tensor) for tag, tensor in tensors.items()] + [value("pr", message((1, 1)), "pr_curves")]
    events(tmp_path / "logs" / "events.out.tfevents.1", found)
    made = taken(tmp_path / "logs", registry)
    assert run_of(made, "logs", registry).record.metrics == {"int": -5.0, "packed": 5.0, "u64": 7.0}
    assert [note.partition(": ")[2] for note in made.notes] == ["left out 1 pr_curves", "left out 5 tensors"]


def test_a_value_more_takes_a_few_bytes_more(
    registry: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are: no value is an object for long."""
    monkeypatch.setattr(runs, "_ROWS", 256)
    monkeypatch.setattr(logged, "_AT_ONCE", 256)

    def peak(count: int) -> int:
        found = (scalar("a", 1.0, step, START + step) for step in range(count))
        events(tmp_path / str(count) / "logs" / f"events.out.tfevents.{count}", found)
        tracemalloc.start()
        made = taken(tmp_path / str(count), registry)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert made.notes == []
        return most

    peak(10)
    less, more = peak(500), peak(3500)
    assert (more - less) / 3000 < 130, (less, more)  # its numbers, those beside each other, and sorted: 24 bytes each


def test_where_nothing_is_that_is_said(registry: LocalRegistry, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in ("nothing", "empty"):
        with pytest.raises(NotFoundError, match=r"^No event files at .*/(nothing|empty)\.\n"):
            taken(tmp_path / place, registry)
    (tmp_path / "empty" / "events.out.tfevents.0").touch()
    made = taken(tmp_path / "empty", registry)
    assert (made.runs, made.notes) == ({}, [])
