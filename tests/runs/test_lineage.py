"""Lineage is whole, looks at each run once, and says what is not there; end_to_end/test_chain.py has real runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from reprokit.errors import NotFoundError
from reprokit.packages.build import build
from reprokit.registry.local import LocalRegistry
from reprokit.runs.lineage import lineage
from reprokit.schema.facts import CheckpointFacts, meta_of
from reprokit.schema.manifest import Manifest
from reprokit.schema.record import CheckpointEntry, DataFacts
from tests.conftest import Project, put_run

A, B, C = "20260102-030405-0000aa", "20260102-030406-0000bb", "20260102-030407-0000cc"


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry")


def checkpoint(registry: LocalRegistry, run: str) -> CheckpointEntry:
    made = build(
        {"m": run},
        "t/model",
        registry=registry,
        meta=meta_of(CheckpointFacts(kind="checkpoint", run=run, state_digest="d")),
    )
    return CheckpointEntry(package="t/model", top_hash=made.top_hash, state_digest="d", epoch=0)


def used(entry: CheckpointEntry, run: str | None = None, name: str = "base") -> DataFacts:
    return DataFacts(name=name, package=entry.package, top_hash=entry.top_hash, path=name, run=run)


def uses(registry: LocalRegistry, ref: str, forward: bool = False) -> list[tuple[str, str, str | None]]:
    return [(use.user, use.name, use.maker) for use in lineage(ref, registry=registry, forward=forward).uses]


def test_a_checkpoint_that_was_pinned_as_a_package_still_leads_to_its_run(registry: LocalRegistry) -> None:
    entry = checkpoint(registry, A)
    put_run(registry, A, checkpoints=[entry])
    put_run(registry, B, data=[used(entry)])
    put_run(registry, C, data=[used(entry, "latest@best")])  # what earlier releases kept: the words of the recipe
    assert uses(registry, B) == [(B, "base", A)]
    assert uses(registry, C) == [(C, "base", A)]
    assert uses(registry, A, forward=True) == uses(registry, "t/model", forward=True)
    assert uses(registry, A, forward=True) == [(B, "base", A), (C, "base", A)]
    assert lineage("t/model", registry=registry).run_id == A


def test_records_that_go_round_in_a_circle_end(registry: LocalRegistry, project: Project) -> None:
    a, b = checkpoint(registry, A), checkpoint(registry, B)
    put_run(registry, A, checkpoints=[a], data=[used(b, f"{B}@epoch=0")])
    put_run(registry, B, checkpoints=[b], data=[used(a, f"{A}@epoch=0")])
    for forward in (False, True):
        found = lineage(A, registry=registry, forward=forward)
        assert [node.run_id for node in found.runs] == [A, B]
        assert len(found.uses) == 2
    said = project.reprokit("lineage", A, "--registry", str(registry.root)).stdout
    assert said == (
        f"{A}  made  finished\n"
        f"└─ base: t/model@{b.top_hash[:8]} ← {B}@epoch=0  made  finished\n"
        f"   └─ base: t/model@{a.top_hash[:8]} ← {A}@epoch=0  made  finished, as above\n"
    )
    assert "as above" in project.reprokit("lineage", A, "--forward", "--registry", str(registry.root)).stdout


def test_what_is_not_there_any_more_is_said(registry: LocalRegistry, project: Project) -> None:
    entry = checkpoint(registry, A)
    put_run(registry, A, checkpoints=[entry])
    put_run(registry, B, data=[used(entry, f"{A}@epoch=0")], reproduces=C)
    registry.delete(f"runs/{A}", registry.top_hashes(f"runs/{A}")[0])
    found = lineage(B, registry=registry)
    assert [(node.run_id, node.status) for node in found.runs] == [(B, "finished"), (A, "absent")]
    said = project.reprokit("lineage", B, "--registry", str(registry.root)).stdout
    assert said == (
        f"{B}  made  finished  reproduces {C}\n"
        f"└─ base: t/model@{entry.top_hash[:8]} ← {A}@epoch=0  not in this registry\n"
    )
    with pytest.raises(NotFoundError):
        lineage(A, registry=registry)


def test_a_package_that_no_run_made_is_the_beginning(registry: LocalRegistry, project: Project) -> None:
    top_hash = build({"x": "1"}, "t/raw", registry=registry).top_hash
    found = lineage("t/raw", registry=registry)
    assert (found.run_id, found.top_hash, found.runs, found.uses) == (None, top_hash, (), ())
    for forward in ([], ["--forward"]):
        said = project.reprokit("lineage", "t/raw", *forward, "--registry", str(registry.root)).stdout
        assert said == f"t/raw@{top_hash[:16]}\n"


@pytest.mark.parametrize(
    "summary",
    [{"inputs": 7}, {"inputs": [7, ["t/model"], [1, 2], ["t/model", "x", "y"]]}, {"inputs": None}, {"run": ["x"]}],
)
def test_a_header_of_another_form_does_no_harm(registry: LocalRegistry, summary: dict[str, object]) -> None:
    entry = checkpoint(registry, A)
    put_run(registry, A, checkpoints=[entry])
    odd = Manifest.make(
        [],
        user_meta={"reprokit": {"kind": "run", "name": "x", "started": "", "run": B, "status": "finished", **summary}},
    )
    registry.publish(f"runs/{B}", odd)
    for made_by in (7, "../../x", {"a": 1}):
        build(
            {"m": b""},
            "t/odd",
            registry=registry,
            meta={"reprokit": {"kind": "checkpoint", "state_digest": "d", "run": made_by}},
        )
        assert lineage("t/odd", registry=registry).run_id is None
    assert uses(registry, A, forward=True) == []
