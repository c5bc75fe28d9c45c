"""Runs in a store of MLflow's, as MLflow's own client finds them there; sent again, nothing is there twice."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from reprokit.errors import RefusedError
from reprokit.export.mlflow import SentRuns, export_to_mlflow
from reprokit.recording.foreign.mlflow_store import import_mlflow
from reprokit.recording.tracking import client, send
from reprokit.recording.tracking.send import send_verdicts
from reprokit.registry.local import LocalRegistry
from reprokit.runs.verdict_store import VerdictStore
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.metric_log import METRICS_KEY, metric_lines
from tests.conftest import context_of, put_run
from tests.recording.tracking.test_tags import AGAIN, RUN, given_verdict

mlflow = pytest.importorskip("mlflow", reason="the mlflow extra is not installed")


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return tmp_path / "mlruns"


LOG = [
    (0, {"loss": 1.0, "odd@name": math.nan}), (1, {"loss": 0.5}), (1, {"loss": 0.25}), (None, {"once": math.inf}),
]  # fmt: skip


def stored(registry: LocalRegistry, run_id: str = RUN, **facts: Any) -> None:
    """Publish a run with an output, an artifact and a log."""
    put_run(registry, run_id, outputs={"metrics.json": b"{}"}, **facts)
    name = f"runs/{run_id}"
    manifest = registry.read_manifest(registry.top_hashes(name)[-1])
    lines = b"".join(
        line for at, (step, values) in enumerate(LOG) for line in metric_lines(step, values, time=at + 0.5)
    )
    with registry.staging() as sink:
        entries = [*manifest.entries]
        for key, data in ((METRICS_KEY, lines), ("artifacts/deep/a.txt", b"a"), ("artifacts/big.bin", b"x" * 2000)):
            digest, size = sink.put_bytes(data)
            entries.append(Entry(key, size, digest))
    registry.publish(name, Manifest.make(entries, message="m", user_meta=manifest.user_meta))


def sent(registry: LocalRegistry, store: Path, *refs: str, **how: Any) -> SentRuns:
    return export_to_mlflow(refs or [RUN], str(store), context=context_of(registry.root.parent, registry), **how)


def there(store: Path) -> Any:
    return mlflow.MlflowClient(tracking_uri=store.as_uri())


def histories(store: Path, their: str) -> dict[str, list[tuple[int, int, str]]]:
    names = there(store).get_run(their).data.metrics
    found = {name: there(store).get_metric_history(their, name) for name in names}
    return {name: [(one.step, one.timestamp, str(one.value)) for one in points] for name, points in found.items()}


WHOLE = {
    "loss": [(0, 500, "1.0"), (1, 1500, "0.5"), (1, 2500, "0.25")],
    "odd_name": [(0, 500, "nan")],
    "once": [(0, 3500, "inf")],
}


def test_what_the_record_says_is_what_mlflow_finds(
    registry: LocalRegistry, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send, "_LARGE", 1000)
    stored(registry, params={"rate": 0.1, "model": "rf"}, status="failed", by="anna@host", ended="2026-11-23T10:16:00Z")
    made = sent(registry, store)
    their = made.runs[RUN]
    run = there(store).get_run(their)
    assert run.data.params == {"rate": "0.1", "model": "rf"}
    assert (run.info.status, run.info.run_name, run.info.user_id) == ("FAILED", RUN, "anna@host")
    assert run.info.end_time == 1795428960000
    assert there(store).get_experiment(run.info.experiment_id).name == "made"
    assert run.data.tags["reprokit.run"] == RUN and "reprokit.verdict" not in run.data.tags
    assert histories(store, their) == WHOLE
    folder = Path(there(store).download_artifacts(their, "", str(tmp_path)))
    files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert {key: data for key, data in files.items() if key.startswith(("outputs", "artifacts"))} == {
        "outputs/metrics.json": b"{}", "artifacts/deep/a.txt": b"a",
    }  # fmt: skip
    assert made.notes == [
        f"{RUN}: 'odd@name' is 'odd_name' there",
        f"{RUN}: artifacts/big.bin has 2,000 bytes, and stays in the registry",
    ]


def test_sent_again_it_is_there_once_and_has_the_new_verdict(
    registry: LocalRegistry, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(registry)
    stored(registry, AGAIN, reproduces=RUN)
    first = sent(registry, store, RUN, AGAIN)
    before = histories(store, first.runs[RUN])
    VerdictStore(registry).add(given_verdict("BITWISE", AGAIN))
    kept: list[str] = []
    monkeypatch.setattr(client.Tracking, "keep", lambda *given: kept.append(given[-1]))
    again = sent(registry, store, AGAIN)  # the repetition is sent, and its original's verdict with it
    assert again.runs[AGAIN] == first.runs[AGAIN] and kept == []
    tags = there(store).get_run(first.runs[RUN]).data.tags
    assert (tags["reprokit.verdict"], tags["reprokit.verdict.run"]) == ("BITWISE", AGAIN)
    assert there(store).get_run(first.runs[AGAIN]).data.tags["reprokit.reproduces"] == RUN
    assert sent(registry, store).runs == {RUN: first.runs[RUN]}
    assert histories(store, first.runs[RUN]) == before == WHOLE
    assert sum(1 for _ in store.glob("*/*/meta.yaml")) == 2


def test_what_a_sending_that_broke_off_left_out_is_sent(registry: LocalRegistry, store: Path) -> None:
    stored(registry)
    tracking = client.Tracking(str(store))
    run = send.RunStore(registry).load(RUN)
    tracked = tracking.begin(run.record, None)
    tracking.log(tracked, [{"time": 0.5, "step": 0, "values": {"loss": 1.0, "odd@name": math.nan}}])
    their = sent(registry, store).runs[RUN]
    assert their == tracked.id and histories(store, their) == WHOLE


def test_its_experiment_is_the_one_that_is_named_and_stays(
    registry: LocalRegistry, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_MOST", 2)  # values in a request
    stored(registry)
    their = sent(registry, store, experiment="my own").runs[RUN]
    run = there(store).get_run(their)
    assert there(store).get_experiment(run.info.experiment_id).name == "my own"
    assert histories(store, their) == WHOLE
    assert sent(registry, store, experiment="other").runs[RUN] == their


def test_there_and_back_no_run_comes_twice(registry: LocalRegistry, store: Path) -> None:
    stored(registry)
    their = sent(registry, store).runs[RUN]
    there(store).create_run(there(store).create_experiment("theirs"))
    made = import_mlflow(store, context=context_of(registry.root.parent, registry))
    assert made.runs[their] == RUN and made.known == [their] and len(made.runs) == 2
    (own,) = [run for run in made.runs.values() if run != RUN]
    with pytest.raises(RefusedError, match=f"Run {own} was imported from MLflow, and would be there twice"):
        sent(registry, store, own)
    elsewhere = LocalRegistry(registry.root.parent / "elsewhere")
    taken = import_mlflow(store, context=context_of(registry.root.parent, elsewhere))
    assert not taken.known and taken.runs[their] != RUN


def test_a_verdict_on_a_run_that_is_not_there_makes_none(registry: LocalRegistry, store: Path) -> None:
    stored(registry)
    VerdictStore(registry).add(given_verdict("BITWISE", AGAIN))
    send_verdicts(RUN, client.Tracking(str(store)), registry=registry)
    assert list(store.glob("*/*/meta.yaml")) == []
    assert json.loads(json.dumps(sent(registry, store).plain()))["store"] == store.as_uri()
