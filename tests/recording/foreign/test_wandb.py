"""Folders that W&B writes become runs: configuration, history, summary and files; nobody there is trusted."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import pytest

from reprokit.comparison.record_check import contradictions
from reprokit.errors import NotFoundError
from reprokit.recording.foreign.runs import ImportedRuns
from reprokit.recording.foreign.wandb import import_wandb
from reprokit.registry.local import LocalRegistry
from reprokit.runs.logged import read_logged
from reprokit.runs.store import RunStore, StoredRun
from tests.conftest import context_of
from tests.recording.foreign.writing import (
    START,
    WANDB_EXIT,
    WANDB_HEADER,
    leveldb,
    message,
    wandb_folder,
    wandb_history,
    wandb_run,
)

WRITTEN = Path(__file__).parent / "written" / "wandb"
LOSS = message((2, "loss"), (16, "1"))
GIVEN = "ghp_" + "0123456789abcdefghij" * 2


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry")


def taken(folder: Path, registry: LocalRegistry) -> ImportedRuns:
    return import_wandb(folder, context=context_of(registry.root.parent, registry))


def run_of(made: ImportedRuns, registry: LocalRegistry, run_id: str = "abc") -> StoredRun:
    return RunStore(registry).load(made.runs[run_id])


def said(made: ImportedRuns) -> list[str]:
    return [note.partition(": ")[2] for note in made.notes]


def test_what_wandb_wrote_is_what_the_record_says(registry: LocalRegistry) -> None:
    made = taken(WRITTEN, registry)
    run = run_of(made, registry, "5ow2n764")
    record = run.record
    assert (record.run_id[:15], record.name, record.status) == ("20261130-233133", "hot-one", "finished")
    assert (record.started, record.ended) == ("2026-11-30T23:31:33.574Z", "2026-11-30T23:31:34.494Z")
    assert record.params == {
        "rate": 0.1, "model": "forest", "opt": {"name": "adam", "betas": [0.9, 0.99]}, "off": None, "after": 3,
    }  # fmt: skip
    logged = read_logged(run, registry)
    assert logged["loss"] == {0: [1.0], 1: [0.5], 2: [1 / 3]}
    assert logged["deep.acc"] == {0: [0.0], 1: [0.1], 2: [0.2]} and logged["up"][0] == [math.inf]
    assert math.isnan(logged["bad"][2][0]) and logged["late"] == {10: [0.5]}
    assert sorted(logged) == ["bad", "best", "deep.acc", "late", "loss", "loss.min", "up"]
    assert (record.metrics["best"], record.metrics["loss.min"]) == (0.25, 1 / 3)
    assert record.warnings[0].endswith(" Its commit was 7d025d15d621acb4a073144061f448153be93b23.")
    assert record.artifacts == [
        "artifacts/media/images/im_3_d6325bd24a66141e9be5.png", "artifacts/requirements.txt", "artifacts/wandb.json",
    ]  # fmt: skip
    told = json.loads(registry.read_object(run.manifest["artifacts/wandb.json"], what="it"))
    assert (told["project"], told["notes"], told["tags"]) == ("credit", "a try", ["small"])
    assert (told["arguments"], told["host"], told["remote"]) == (["--rate", "0.1"], "host", "")
    assert said(made) == ["left out 2 images, tables and other values that are no numbers"]
    assert contradictions(run, None, registry) == []
    for place in (WRITTEN, next(WRITTEN.iterdir())):
        assert taken(place, registry).known == ["5ow2n764"]


def test_secrets_stay_where_they_are(registry: LocalRegistry, tmp_path: Path) -> None:
    environment = message((26, message((5, "--token"), (5, GIVEN), (6, "train.py"), (13, "anna"))))
    records = [wandb_run(api_token=GIVEN, opt={"url": f"https://{GIVEN}@x.org"}, rate=1), environment, WANDB_EXIT]
    folder = wandb_folder(tmp_path, records)
    files = next(folder.iterdir()) / "files"
    (files / "config.yaml").write_text(f"api_token: {GIVEN}\n")
    (files / "model.yaml").write_text(f"a: {GIVEN}\n")
    (files / "ok.txt").write_text("ok")
    made = taken(folder, registry)
    record = run_of(made, registry).record
    assert record.params == {"rate": 1}
    assert record.artifacts == ["artifacts/ok.txt", "artifacts/wandb.json"]
    assert record.by == "anna@host"
    assert said(made) == [
        "left out api_token, opt, which looks like a secret",
        "left out the command line, which holds what looks like a token of GitHub",
        "artifacts/model.yaml was left out, for it holds what looks like a secret, a token of GitHub",
    ]
    kept = [file.read_bytes() for file in registry.root.rglob("*") if file.is_file()]
    assert not any(GIVEN.encode() in data or b"a:b@" in data for data in kept)


def test_a_run_that_was_resumed_is_one(registry: LocalRegistry, tmp_path: Path) -> None:
    folder = wandb_folder(tmp_path, [wandb_run(rate=1), wandb_history(0, loss=1.0), wandb_history(1, loss=0.5)])
    again = folder / "offline-run-20260921_151320-abc"
    again.mkdir()
    later = message((17, message((1, "abc"), (8, "base"), (17, message((1, int(START) + 3600))))))
    (again / "run-abc.wandb").write_bytes(leveldb([later, wandb_history(2, loss=0.25), WANDB_EXIT]))
    made = taken(folder, registry)
    run = run_of(made, registry)
    assert read_logged(run, registry) == {"loss": {0: [1.0], 1: [0.5], 2: [0.25]}}
    assert (run.record.status, run.record.params) == ("finished", {"rate": 1})
    assert run.record.ended == "2026-09-21T15:14:20.000Z"  # by what W&B says of how long it took


@pytest.mark.parametrize(
    ("last", "status"),
    [
        ([], "interrupted"),
        ([message((18, message((1, 1))))], "failed"),
        ([message((18, message((1, -1))))], "failed"),
        ([message((18, message((3, 1))))], "interrupted"),
        ([WANDB_EXIT], "finished"),
    ],
)
def test_how_it_ended(registry: LocalRegistry, tmp_path: Path, last: list[bytes], status: str) -> None:
    made = taken(wandb_folder(tmp_path, [wandb_run(), wandb_history(0, loss=1.0), *last]), registry)
    assert run_of(made, registry).record.status == status


def test_a_configuration_is_changed_and_a_metric_taken_back(registry: LocalRegistry, tmp_path: Path) -> None:
    def item(*path: str, value: object = None) -> bytes:
        names = [(1, path[0])] if len(path) == 1 else [(2, part) for part in path]
        return message(*names, (16, json.dumps(value)))

    records = [
        wandb_run(rate=1, opt={"name": "adam"}, gone=2),
        message((5, message((1, item("rate", value=2)), (1, item("opt", "lr", value=0.5)), (2, item("gone"))))),
        message((5, message((1, item("rate", "inner", value=3)), (1, item("_wandb", value={"a": 1}))))),
        message((3, message((1, item("best", value=1)), (1, item("worst", value=9)), (1, item("_step", value=9))))),
        message(
            (3, message((2, item("worst")), (1, item("im", "_type", value="image")), (1, item("im", "w", value=4))))
        ),
        message((3, message((1, item("big", value=10**400)), (1, item("tree", value={"a": {"b": 2}, "c": "x"}))))),
    ]
    made = taken(wandb_folder(tmp_path, records), registry)
    record = run_of(made, registry).record
    assert record.params == {"rate": {"inner": 3}, "opt": {"name": "adam", "lr": 0.5}}
    assert record.metrics == {"best": 1.0, "big": math.inf, "tree.a.b": 2.0}


@pytest.mark.parametrize(
    ("whole", "more", "values"),
    [(0, -7, None), (0, 0, None), (0, 9, None), (1, -1, None), (1, 3, 0), (2, -1, 0), (3, -1, 1)],
)
def test_a_file_that_is_cut_gives_what_was_whole(
    registry: LocalRegistry, tmp_path: Path, whole: int, more: int, values: int | None
) -> None:
    """Args: Cut so many bytes after the end of so many records; values are left of it."""
    records = [wandb_run(), wandb_history(0, loss=1.0), wandb_history(1, loss=0.5)]
    size = len(leveldb(records[:whole])) + more
    folder = wandb_folder(tmp_path, [])
    (next(folder.iterdir()) / "run-abc.wandb").write_bytes(leveldb(records)[:size])
    wandb_folder(tmp_path / "more", [wandb_run("other")], "other")
    shutil.copytree(tmp_path / "more" / "wandb", folder, dirs_exist_ok=True)
    made = taken(folder, registry)
    if values is None:
        assert list(made.runs) == ["other"] and "run-abc.wandb was left out, for it " in made.notes[0]
    else:
        assert said(made) == [f"run-abc.wandb: it ends at byte {size}, within a record; what comes before was read"]
        assert len(read_logged(run_of(made, registry), registry).get("loss", {})) == values


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\x80\x04\x95 a pickle", "it does not begin as files of W&B do"),
        (WANDB_HEADER[:-1] + b"\x01", "it does not begin as files of W&B do"),
        (leveldb([b"\x8a\x01\xff\x7f"]), "a field of 16,383 bytes has 0"),
        (leveldb([message((17, message((1, "abc"), (17, message((1, 2**62))))))]), "is no time in ms since 1970"),
        (leveldb([message((17, message((17, message((1, 5))))))]), "it does not say of which run it is"),
    ],
)
def test_what_is_no_run_is_said_and_costs_no_other(
    registry: LocalRegistry, tmp_path: Path, data: bytes, told: str
) -> None:
    folder = wandb_folder(tmp_path, [wandb_run("other"), WANDB_EXIT], "other")
    (folder / "run-x").mkdir()
    (folder / "run-x" / "run-x.wandb").write_bytes(data)
    made = taken(folder, registry)
    assert list(made.runs) == ["other"]
    assert told in made.notes[0] and len(made.notes) == 1


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (message((2, message((1, message((2, "_step"), (16, "1e30"))), (1, LOSS)))), "is no step that a run can have"),
        (wandb_history(0, **{"a" * 1001: 1.0}), "a metric's name has 1,001 characters"),
        (
            message((2, message((1, message((2, "_timestamp"), (16, "1e999"))), (1, LOSS)))),
            "inf is no time in seconds since 1970",
        ),
    ],
)
def test_a_run_that_says_what_cannot_be_is_left_out(
    registry: LocalRegistry, tmp_path: Path, record: bytes, told: str
) -> None:
    made = taken(wandb_folder(tmp_path, [wandb_run(), record]), registry)
    assert made.runs == {} and told in made.notes[0]


def test_odd_values_are_no_metrics_and_odd_names_are_kept(registry: LocalRegistry, tmp_path: Path) -> None:
    def raw(name: str, value: str) -> tuple[int, bytes]:
        return 1, message((2, name), (16, value))

    deep = "[" * 100_000
    told = [
        raw("deep", '{"a":' + deep), raw("nest", '{"a":' * 80 + "1" + "}" * 80), raw("word", '"x"'), raw("no", "1e"),
        raw("under", "1_0"), raw("true", "true"), raw("inf", "-Infinity"), raw("nan", "NaN"), raw("\x1b[2J", "1"),
        raw("half\ud800", "2"), raw("twice", '{"a": 1, "a": 2}'), raw("long", "9" * 5000),
    ]  # fmt: skip
    config = message((1, message((1, "deep"), (16, deep))), (1, message((1, "half"), (16, '"\\ud800"'))))
    made = taken(wandb_folder(tmp_path, [wandb_run(), message((5, config)), message((2, message(*told)))]), registry)
    run = run_of(made, registry)
    metrics = {name.encode("ascii", "replace").decode(): value for name, value in run.record.metrics.items()}
    assert math.isnan(metrics.pop("nan"))
    assert metrics == {"inf": -math.inf, "\x1b[2J": 1.0, "half???": 2.0, "long": math.inf}
    assert run.record.params == {"half": "\\ud800"}
    assert said(made) == ["left out the parameter 'deep', which is malformed or long"]
    assert contradictions(run, None, registry) == []


def test_a_link_or_a_pipe_among_the_files_is_not_followed(registry: LocalRegistry, tmp_path: Path) -> None:
    folder = wandb_folder(tmp_path, [wandb_run(), WANDB_EXIT])
    files = next(folder.iterdir()) / "files"
    (tmp_path / "mine.txt").write_text("mine")
    (files / "a.txt").symlink_to(tmp_path / "mine.txt")
    os.mkfifo(files / "pipe")
    made = taken(folder, registry)
    assert run_of(made, registry).record.artifacts == ["artifacts/wandb.json"]
    first, second = said(made)
    assert first == "left out 1 links to files elsewhere, as `wandb.save` makes them"
    assert second.startswith("'artifacts/pipe' was left out: ") and "is no regular file" in second


def test_where_nothing_is_that_is_said(registry: LocalRegistry, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"^No runs of W&B at .*/wandb\.\n"):
        taken(tmp_path / "wandb", registry)
