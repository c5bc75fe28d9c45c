"""What `verify` reads of a version, a run and a whole registry, and what it finds wrong with each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reprokit.comparison.verify import Verification, verify
from reprokit.errors import NotFoundError, UsageError
from reprokit.packages.package import Problem
from reprokit.packages.purge import purge
from reprokit.registry.context import Context
from reprokit.registry.local import LocalRegistry
from reprokit.registry.quilt.registry import QuiltRegistry
from reprokit.registry.repair import SetAside
from reprokit.runs.store import RunStore, StoredRun
from reprokit.runs.verdict_store import VerdictStore
from reprokit.schema.facts import meta_of
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.record import Attempt
from reprokit.schema.verdict import Rung, RunLink, Verdict, VerdictRecord
from tests.comparison.making import Save, made
from tests.conftest import context_of, lies_at, overwrite

LEFT, RIGHT = "20260101-000000-aaaaaa", "20260102-000000-bbbbbb"
SAVES = [Save(place={"kind": "initial", "step": 0}), Save(), Save()]


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry")


@pytest.fixture
def context(tmp_path: Path, registry: LocalRegistry) -> Context:
    return context_of(tmp_path, registry)


def run(registry: LocalRegistry, run_id: str = LEFT, **facts: Any) -> StoredRun:
    return made(registry, run_id, facts.pop("saves", SAVES), outputs={"a": b"an output"}, **facts)


def judged(registry: LocalRegistry, rung: Rung = "BITWISE") -> str:
    links = [RunLink(run_id=run_id, top_hash="0" * 64, lock_hash=None) for run_id in (LEFT, RIGHT)]
    verdict = Verdict(run_id=RIGHT, reproduces=LEFT, verdict=rung)
    told = VerdictRecord(verdict=verdict, original=links[0], reproduction=links[1], by="a@b", at="t")
    return VerdictStore(registry).add(told)


def told(found: Verification) -> list[tuple[str, str | None, str]]:
    return [(one.package, one.logical_key, one.message) for one in found.problems]


def test_what_is_asked_for_is_asked_for_once(context: Context, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Name what to verify, or give --all"):
        verify(context=context)
    with pytest.raises(UsageError, match="Name what to verify, or give --all"):
        verify(["a/b"], context=context, everything=True)
    with pytest.raises(UsageError, match="--repair goes with --all"):
        verify(["a/b"], context=context, repair=True)
    with pytest.raises(NotFoundError):
        verify(["a/b"], context=context)
    with pytest.raises(NotFoundError):
        verify([LEFT], context=context)
    assert verify(context=context, everything=True) == Verification(versions=0, problems=[], set_aside=None)
    assert verify(context=context, everything=True, repair=True).set_aside == []


def test_nothing_of_a_registry_of_quilt_s_is_set_aside(context: Context, tmp_path: Path) -> None:
    quilt = tmp_path / "quilt"
    (quilt / ".quilt/named_packages").mkdir(parents=True)
    other = Context(home=context.home, cache=context.cache, registry=QuiltRegistry(quilt))
    assert verify(context=other, everything=True) == Verification(versions=0)
    with pytest.raises(UsageError, match="--repair goes with --all, and with a registry of reprokit's"):
        verify(context=other, everything=True, repair=True)


def test_of_a_run_its_record_its_checkpoints_and_the_initial_state_are_read(
    registry: LocalRegistry, context: Context
) -> None:
    record = run(registry).record
    assert verify([LEFT], context=context) == Verification(versions=4)
    assert verify([LEFT, LEFT], context=context).versions == 8
    assert verify(context=context, everything=True) == Verification(versions=4)
    assert verify([f"t/model@{record.checkpoints[0].top_hash}"], context=context) == Verification(versions=1)
    assert verify([f"runs/{LEFT}"], context=context) == Verification(versions=1)
    run(registry, RIGHT, reproduces=LEFT)
    judged(registry)
    assert verify([LEFT], context=context) == Verification(versions=4)
    assert verify([f"verdicts/{LEFT}"], context=context) == Verification(versions=1)
    assert verify(context=context, everything=True).problems == []


@pytest.mark.parametrize("which", ["initial", "checkpoint", "record"])
def test_a_byte_that_changed_on_disk_is_named_by_its_file(
    registry: LocalRegistry, context: Context, which: str
) -> None:
    made_ = run(registry)
    assert made_.record.initial is not None
    manifest, key = made_.manifest, "outputs/a"
    if which != "record":
        top_hash = (made_.record.initial if which == "initial" else made_.record.checkpoints[1]).top_hash
        manifest, key = registry.read_manifest(top_hash), "state.json"
    path, offset = lies_at(registry, manifest[key])
    overwrite(path, offset, b"X")
    for refs in ((LEFT,), ()):
        fresh = anew(context)
        found = verify(refs, context=fresh, everything=not refs)
        assert key in {one.logical_key for one in found.problems}
        assert any(one.top_hash == manifest.top_hash for one in found.wrong)


def anew(context: Context) -> Context:
    """Return the same with a registry that has verified nothing yet."""
    registry = context.registry
    assert isinstance(registry, LocalRegistry)
    return Context(home=context.home, cache=context.cache, registry=LocalRegistry(registry.root))


def lying(registry: LocalRegistry, honest: str, key: str, data: bytes) -> str:
    """Publish a checkpoint with another file under the header and the metadata that it had; return its top hash."""
    manifest = registry.read_manifest(honest)
    with registry.staging() as sink:
        digest, size = sink.put_bytes(data)
    entries = [Entry(key, size, digest, e.meta) if e.logical_key == key else e for e in manifest.entries]
    made_ = Manifest.make(entries, message=None, user_meta=manifest.user_meta)
    registry.publish("t/model", made_)
    return made_.top_hash


@pytest.mark.parametrize(("key", "said"), [("model/w.safetensors", "is not what"), ("state.json", "the state digest")])
def test_what_a_version_says_of_its_bytes_is_computed_again(
    registry: LocalRegistry, context: Context, key: str, said: str
) -> None:
    record = run(registry).record
    honest = registry.read_manifest(record.checkpoints[0].top_hash)
    (key,) = (one for one in honest.keys if one == key or (key != "state.json" and one.endswith(".safetensors")))
    data = bytearray(registry.read_object(honest[key], what=key))
    data[-3] ^= 1
    top_hash = lying(registry, honest.top_hash, key, bytes(data))
    for refs in ((f"t/model@{top_hash}",), ()):
        found = [one for one in verify(refs, context=context, everything=not refs).problems if one.logical_key]
        assert [(one.package, one.top_hash, one.logical_key) for one in found] == [("t/model", top_hash, key)]
        assert said in found[0].message


def test_a_record_is_held_against_what_it_names_where_it_is_the_one_in_force(
    registry: LocalRegistry, context: Context
) -> None:
    first = run(registry, metrics={})
    made(registry, LEFT, SAVES, outputs={"a": b"an output"}, fresh=False, metrics={"loss": 1.0}, logged=[{"loss": 0.5}])
    latest = RunStore(registry).load(LEFT)
    said = {"metric loss: the record says 1.0, the run logged 0.5"}
    for refs in ((LEFT,), (f"runs/{LEFT}",), ()):
        found = verify(refs, context=context, everything=not refs)
        mine = [one for one in found.problems if one.message.startswith("record.json: metric")]
        assert {one.message.removeprefix("record.json: ") for one in mine} == said
        (problem,) = mine
        assert (problem.package, problem.top_hash) == (f"runs/{LEFT}", latest.manifest.top_hash)
        assert (problem.logical_key, problem.purged) == ("record.json", False)
    assert verify([f"runs/{LEFT}@{first.manifest.top_hash}"], context=context).problems == []


def test_a_verdict_is_held_against_the_records(registry: LocalRegistry, context: Context) -> None:
    run(registry)
    run(registry, RIGHT, reproduces=LEFT, saves=[*SAVES[:2], Save(shift=1.0)])
    top_hash = judged(registry)
    why = "verdict.json: BITWISE, but the records differ in epoch 2"
    for refs in ((LEFT,), (f"verdicts/{LEFT}",), (f"verdicts/{LEFT}@{top_hash}",), ()):
        found = verify(refs, context=context, everything=not refs)
        assert told(found) == [(f"verdicts/{LEFT}", "verdict.json", why)]
        assert found.problems[0].top_hash == top_hash
    assert verify([RIGHT], context=context).problems == []
    judged(registry, "DIVERGED")
    assert len(verify([LEFT], context=context).problems) == 1


def test_what_a_repetition_says_of_itself_is_held_against_both_records(
    registry: LocalRegistry, context: Context
) -> None:
    said = [Verdict(run_id=RIGHT, reproduces=LEFT, verdict="BITWISE")]
    run(registry, RIGHT, reproduces=LEFT, saves=[*SAVES[:2], Save(shift=1.0)], verdicts=said)
    assert verify([RIGHT], context=context).problems == []  # pulled without its original
    run(registry)
    why = "record.json: verdict: BITWISE, but the records differ in epoch 2"
    for refs in ((RIGHT,), ()):
        assert told(verify(refs, context=context, everything=not refs)) == [(f"runs/{RIGHT}", "record.json", why)]


@pytest.mark.parametrize("deleted", [LEFT, RIGHT])
def test_a_run_that_was_deleted_leaves_verdicts_that_nothing_is_wrong_with(
    registry: LocalRegistry, context: Context, deleted: str
) -> None:
    run(registry)
    run(registry, RIGHT, reproduces=LEFT, saves=[*SAVES[:2], Save(shift=1.0)])
    judged(registry)
    for top_hash in registry.top_hashes(f"runs/{deleted}"):
        registry.delete(f"runs/{deleted}", top_hash)
    assert told(verify([f"verdicts/{LEFT}"], context=context)) == []


def test_a_run_that_never_was_here_is_missed_by_a_verdict(registry: LocalRegistry, context: Context) -> None:
    run(registry)
    judged(registry)
    why = f"verdict.json: run {RIGHT} is not in {registry.url}"
    assert told(verify([LEFT], context=context)) == [(f"verdicts/{LEFT}", "verdict.json", why)]


def test_checkpoints_that_were_deleted_are_not_missed(registry: LocalRegistry, context: Context) -> None:
    record = run(registry).record
    registry.delete("t/model", record.checkpoints[0].top_hash)
    assert verify([LEFT], context=context) == Verification(versions=3)
    assert verify(context=context, everything=True).problems == []
    registry.manifest_path(record.checkpoints[1].top_hash).unlink()  # its log has it still
    found = verify([LEFT], context=anew(context))
    assert [(one.package, one.top_hash, one.logical_key) for one in found.problems if one.package == "t/model"] == [
        ("t/model", record.checkpoints[1].top_hash, None)
    ]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({}, True),
        ({"status": "failed"}, False),  # it may have saved what its record did not live to name
        ({"status": "interrupted"}, False),
        ({"attempts": [Attempt(started="a", ended="b", status="failed", resumed="c", resumed_from="epoch 1")]}, False),
    ],
)
def test_a_checkpoint_that_its_run_does_not_name_is_said_to(
    registry: LocalRegistry, context: Context, facts: dict[str, Any], said: bool
) -> None:
    slipped = run(registry, saves=[*SAVES, Save(shift=3.0)]).record.checkpoints[-1]
    run(registry, **facts)
    why = f"it says that it is of run {LEFT}, whose record does not name it"
    for refs in ((f"t/model@{slipped.top_hash}",), ()):
        found = verify(refs, context=context, everything=not refs)
        assert told(found) == ([("t/model", None, why)] if said else [])
        assert [one.top_hash for one in found.problems] == ([slipped.top_hash] if said else [])


def test_a_checkpoint_of_a_run_that_is_not_here_is_no_stray(registry: LocalRegistry, context: Context) -> None:
    top_hash = run(registry).record.checkpoints[0].top_hash
    for version in registry.top_hashes(f"runs/{LEFT}"):
        registry.delete(f"runs/{LEFT}", version)
    assert verify([f"t/model@{top_hash}"], context=context).problems == []


def test_the_initial_state_is_named_by_the_record_too(registry: LocalRegistry, context: Context) -> None:
    record = run(registry).record
    assert record.initial is not None
    assert verify([f"t/model@{record.initial.top_hash}"], context=context).problems == []


def test_what_was_purged_is_told_and_is_not_wrong(registry: LocalRegistry, context: Context, tmp_path: Path) -> None:
    made_ = run(registry, logged=[{"loss": 1.0}])
    digests = {made_.manifest[key].digest for key in ("outputs/a", "metrics.jsonl")}
    purge(registry, digests, cache=tmp_path / "cache", reason="asked for")
    for refs in ((LEFT,), ()):
        found = verify(refs, context=anew(context), everything=not refs)
        assert {one.logical_key for one in found.problems} == {"outputs/a", "metrics.jsonl", "record.json"}
        assert found.wrong == []


def test_what_was_found_is_told_as_json(tmp_path: Path) -> None:
    problem = Problem(package="a/b", top_hash="0", logical_key=None, message="m", purged=True)
    found = Verification(versions=2, problems=[problem])
    plain = {"package": "a/b", "top_hash": "0", "logical_key": None, "message": "m", "purged": True}
    assert found.plain() == {"versions": 2, "problems": [plain]}
    aside = Verification(versions=0, set_aside=[SetAside(file="x", moved_to="y", kept=1)])
    assert aside.plain() == {
        "versions": 0, "problems": [], "set_aside": [{"file": "x", "moved_to": "y", "kept": 1}]
    }  # fmt: skip
    honest = Problem(package="a/b", top_hash="0", logical_key=None, message="m")
    assert Verification(versions=0, problems=[problem, honest]).wrong == [honest]


# ── what is damaged or strange, and is no reason to stop ──────────────────────────────────────────────────────────────


def test_a_run_that_kept_no_initial_state_is_verified_as_others_are(registry: LocalRegistry, context: Context) -> None:
    run(registry, saves=[Save(), Save()])
    assert verify([LEFT], context=context) == Verification(versions=3)
    assert verify(context=context, everything=True) == Verification(versions=3)


def test_what_is_damaged_is_set_aside_and_told(registry: LocalRegistry, context: Context) -> None:
    path, offset = lies_at(registry, run(registry).manifest["outputs/a"])
    overwrite(path, offset, b"X")
    found = verify(context=anew(context), everything=True, repair=True)
    assert found.set_aside is not None
    assert [one.file for one in found.set_aside] == [str(path.relative_to(registry.root))]
    assert not path.exists()
    assert "outputs/a" in {one.logical_key for one in found.wrong}


def test_a_record_s_version_under_another_name_is_bytes_and_no_record(
    registry: LocalRegistry, context: Context
) -> None:
    made(registry, LEFT, SAVES, metrics={"loss": 1.0}, logged=[{"loss": 0.5}])
    manifest = RunStore(registry).load(LEFT).manifest
    registry.publish(f"t/{LEFT}", manifest)
    registry.publish("runs/none", manifest)
    assert verify([f"runs/{LEFT}"], context=context).problems != []
    assert verify([f"t/{LEFT}", "runs/none"], context=context) == Verification(versions=2)


@pytest.mark.parametrize("first", [True, False])
def test_one_file_of_two_versions_is_held_against_what_each_says_of_it(
    registry: LocalRegistry, context: Context, first: bool
) -> None:
    """Whichever is read first: of the state, which has its digest in the header, and of a file of tensors."""
    honest = registry.read_manifest(run(registry).record.checkpoints[0].top_hash)
    (key,) = (entry.logical_key for entry in honest.entries if entry.logical_key.endswith(".safetensors"))
    (row,) = honest[key].meta["reprokit"]["tensors"]
    meta = {"reprokit": {"tensors": [{**row, "digest": "0" * 64}]}}
    entries = [Entry(*entry[:3], meta) if entry.logical_key == key else entry for entry in honest.entries]
    facts = {**honest.user_meta["reprokit"], "state_digest": "sha256-merkle-v1:" + "0" * 64}
    for name, liar in (
        (key, Manifest.make(entries, message=None, user_meta=honest.user_meta)),
        ("state.json", Manifest.make(list(honest.entries), message=None, user_meta={"reprokit": facts})),
    ):
        registry.publish("t/model", liar)
        refs = [f"t/model@{one.top_hash}" for one in ((liar, honest) if first else (honest, liar))]
        found = [one for one in verify(refs, context=anew(context)).problems if one.logical_key == name]
        assert [one.top_hash for one in found] == [liar.top_hash]


def test_a_log_that_is_damaged_is_told_and_the_rest_is_verified(registry: LocalRegistry, context: Context) -> None:
    run(registry)
    run(registry, RIGHT, metrics={"loss": 1.0}, logged=[{"loss": 0.5}])
    judged(registry)
    other = "record.json: metric loss: the record says 1.0, the run logged 0.5"
    for damaged in (f"runs/{LEFT}", f"verdicts/{LEFT}"):
        for entry in (registry.root / "log" / damaged).iterdir():
            entry.chmod(0o644)
            entry.write_bytes(b"damaged")
        found = told(verify(context=anew(context), everything=True))
        assert [how[:15] for package, _, how in found if package == damaged] == ["Log entry 1 of "]
        assert (f"runs/{RIGHT}", "record.json", other) in found


def test_a_verdict_that_is_lost_is_told_and_the_others_are_verified(registry: LocalRegistry, context: Context) -> None:
    run(registry)
    run(registry, RIGHT, reproduces=LEFT, saves=[*SAVES[:2], Save(shift=1.0)])
    lost = judged(registry, "DIVERGED")
    kept = judged(registry)
    registry.manifest_path(lost).unlink()
    for refs in ((LEFT,), ()):
        found = verify(refs, context=anew(context), everything=not refs)
        assert [one.top_hash for one in found.problems if one.logical_key == "verdict.json"] == [kept]
        assert (lost in {one.top_hash for one in found.problems}) == (not refs)


def test_a_verdict_on_what_is_no_run_is_told(registry: LocalRegistry, context: Context) -> None:
    run(registry)
    for names, said in (
        (("../x", RIGHT), "verdict.json of {} is a verdict on another run, ../x."),
        ((LEFT, "../x"), f"run ../x is not in {registry.url}"),
    ):
        links = [RunLink(run_id=run_id, top_hash="0" * 64, lock_hash=None) for run_id in names]
        verdict = Verdict(run_id=names[1], reproduces=names[0], verdict="BITWISE")
        forged = VerdictRecord(verdict=verdict, original=links[0], reproduction=links[1], by="a@b", at="t")
        with registry.staging() as sink:
            digest, size = sink.put_bytes(forged.encode())
        meta = meta_of(forged.summary())
        manifest = Manifest.make([Entry("verdict.json", size, digest)], message=None, user_meta=meta)
        registry.publish(f"verdicts/{LEFT}", manifest)
        why = said.format(f"verdicts/{LEFT}@{manifest.top_hash[:8]}")
        found = told(verify([f"verdicts/{LEFT}"], context=context))
        assert found == [(f"verdicts/{LEFT}", "verdict.json", f"verdict.json: {why}")]


def test_what_a_run_says_of_itself_is_looked_at_if_all_that_it_repeats_is_here(
    registry: LocalRegistry, context: Context
) -> None:
    run(registry)
    for other in ("20260103-000000-cccccc", "no run"):
        said = [Verdict(run_id=RIGHT, reproduces=one, verdict="BITWISE") for one in (LEFT, other)]
        run(registry, RIGHT, reproduces=LEFT, saves=[*SAVES[:2], Save(shift=1.0)], verdicts=said)
        assert verify([RIGHT], context=context).problems == []
