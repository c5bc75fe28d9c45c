"""What is stored is spelled as it always was: a hash that changes here no longer names what lies in a registry."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from reprokit.core.canonical_json import sha256_of
from reprokit.core.digest import CHUNKED, PLAIN, hash_bytes
from reprokit.errors import DataMismatchError
from reprokit.schema.facts import CheckpointFacts, InputLink, VersionLink, facts_in, meta_of
from reprokit.schema.machine import Machine, Numeric
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.recipe import Execution, from_plain, to_plain
from reprokit.schema.record import (
    Attempt,
    CheckpointEntry,
    CodeFacts,
    DataFacts,
    EnvironmentFacts,
    ExecutionFacts,
    OutputFacts,
    Program,
    Record,
    StrayFile,
    UndeclaredFile,
    VariableRead,
)
from reprokit.schema.verdict import Cause, Comparison, Divergence, RunLink, Verdict, VerdictRecord

RUN, OTHER = "20260102-030405-aaaaaa", "20260102-030406-bbbbbb"
DIGEST = f"sha256-merkle-v1:{'4' * 64}"

VERDICT = Verdict(
    run_id=OTHER,
    reproduces=RUN,
    verdict="DIVERGED",
    relaxed=["threads"],
    until=2,
    first_divergence=Divergence(
        saved="checkpoint", epoch=1, step=20, tensor="w", shard="model/w.safetensors", shape=[2, 3], elements=6,
        differing=1, max_abs=0.25, relative=0.5, ulp=3, index=[0, 1], state=["rng"],
    ),
    explanations=[Cause(kind="code", what="code", text="code: train.py", weight="likely", lines=["-a", "+b"])],
    comparisons=[Comparison(what="checkpoints", result="differs", detail="1 of 3 equal in every bit")],
    provisos=["Something was read."],
)  # fmt: skip
KEPT = VerdictRecord(
    verdict=VERDICT,
    original=RunLink(run_id=RUN, top_hash="1" * 64, lock_hash="3" * 64),
    reproduction=RunLink(run_id=OTHER, top_hash="2" * 64, lock_hash=None),
    by="auditor@lab", at="2026-01-02T03:04:05Z", machine={"kernel": "6.1"}, command=["reprokit", "reproduce", RUN],
    tolerance={"weights": {"atol": 0.0}}, compared={"checkpoints": 3}, reprokit="1.0",
)  # fmt: skip
CHECKPOINT = CheckpointFacts(
    kind="checkpoint", framework="torch", run=RUN, epoch=1, step=20, batch=None, state_digest=DIGEST,
    parent=VersionLink(package="t/model", top_hash="5" * 64), lock_hash="3" * 64,
    inputs=[InputLink(name="in", package="t/in", top_hash="6" * 64, within="a/b")],
    metrics={"loss": 0.5, "bad": float("inf")},
)  # fmt: skip
RECORD = Record(
    run_id=RUN, name="digits", status="finished", lock_hash="3" * 64, started="2026-01-02T03:04:05.000Z",
    ended="2026-01-02T03:05:05.000Z", reprokit="1.0", exit_code=0, reproduces=OTHER, relaxed=["threads"],
    code=CodeFacts(tree="c" * 40, commit="d" * 40, remote="https://example.org/r", branch="main", opened=["a.txt"],
                   strays=[StrayFile(path="b", how="changed", size=1, digest="e" * 64)]),
    environment=EnvironmentFacts(hash="7" * 64, packages=3, python="3.11.7"),
    data=[DataFacts(name="in", package="t/in", top_hash="6" * 64, path="data/in", entries=3, size=6)],
    machine=Machine(os="Linux", cores=2, numeric=Numeric(cpu="x", libraries={"torch": {"version": "2"}})),
    params={"rate": 0.1, "é": [1, None]}, metrics={"loss": 0.5, "bad": float("nan")}, unused=["é"],
    variables=[VariableRead(name="LR", digest="c" * 16), VariableRead(name="X", unset=True)], variables_key="d" * 8,
    logged={"loss": "e" * 64},
    execution=ExecutionFacts(**msgspec.structs.asdict(Execution(seed=7, threads=1)), in_place=True),
    attempts=[Attempt(started="a", ended=None, status="interrupted", resumed="b", resumed_from="epoch 0")],
    checkpoint_package="t/model",
    initial=CheckpointEntry(package="t/model", top_hash="8" * 64, state_digest=DIGEST, kind="initial"),
    checkpoints=[CheckpointEntry.of(CHECKPOINT, package="t/model", top_hash="9" * 64)],
    outputs=[OutputFacts(path="m", compare="values", size=3, digest="a" * 64), OutputFacts(path="b", missing=True)],
    undeclared=[UndeclaredFile(path="/etc/x", size=1, digest="b" * 64)],
    programs=[Program(path="/usr/bin/x", size=1, digest="b" * 64)], refused=["t/other"], artifacts=["plot.png"],
    warnings=["beware"], notebook="train.ipynb", verdicts=[VERDICT], failure=None,
)  # fmt: skip
ENTRIES = [
    Entry(
        "b/é", 5, hash_bytes(b"hello"), {"label": "猫", "reprokit": {"tensors": []}}, (f"packs/{'0' * 64}.zip#94,5",)
    ),
    Entry("a", 0, hash_bytes(b""), {}, (f"packs/{'0' * 64}.zip#94,0",)),
    Entry("imported", 5, hash_bytes(b"hello", PLAIN), {}, ("objects/SHA256/2c/f2",)),
    Entry("large", 9 << 20, hash_bytes(bytes(9 << 20)), {}, ("objects/sha2-256-chunked/00/11",)),
]


def of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


TOP_HASHES: dict[str, tuple[Manifest, str]] = {
    "entries": (Manifest.make(ENTRIES), "50668aa2cb946c33e0fb20661cf7ffc1d8a727a077f56a7fd2f4ebe00822d1bb"),
    "in another order": (
        Manifest.make(ENTRIES[::-1]),
        "50668aa2cb946c33e0fb20661cf7ffc1d8a727a077f56a7fd2f4ebe00822d1bb",
    ),
    "a message": (
        Manifest.make(ENTRIES, message="é"),
        "2b4a8753e8371e8f0aa954b7fba2f16a4f45f6ac91f623310e9fc66b93225972",
    ),
    "metadata": (
        Manifest.make(ENTRIES[:1], user_meta={"k": [1, 2.5, None, True, "é"], "a": {}}),
        "96d5e6779601c1cec490a57bd224744de192e3b8676649bd3c7b58b937a7f155",
    ),
    "a checkpoint": (
        Manifest.make(ENTRIES[:1], message=None, user_meta=meta_of(CHECKPOINT)),
        "217792664f24499eeb44f184fe07ad4f5d7d046419ea20c6fb4a622dd7e2d482",
    ),
    "a run": (
        Manifest.make(ENTRIES[:1], message="finished", user_meta=meta_of(RECORD.summary())),
        "f974aea38466e591e1e0ad17a6f67065f489e73f2b47e3876019dc6ff5358c65",
    ),
    "a verdict": (
        Manifest.make(ENTRIES[:1], message="x", user_meta=meta_of(KEPT.summary())),
        "f3acd3e7e611211739c0765c4cfbfe2bfcd4e46c9231f0caec011fefd2e78f56",
    ),
}


@pytest.mark.parametrize("what", TOP_HASHES)
def test_a_version_has_the_top_hash_that_it_always_had(what: str) -> None:
    manifest, expected = TOP_HASHES[what]
    assert manifest.top_hash == expected
    assert manifest.placed([""] * len(manifest.entries)).top_hash == expected, "where bytes lie is no part of it"
    assert Manifest.decode(manifest.encode(), top_hash=expected, what="M") == manifest


def test_a_version_is_kept_as_it_always_was() -> None:
    manifest, _ = TOP_HASHES["a checkpoint"]
    assert of(manifest.encode()) == "3e322f988734bb08decb9abb66ac0f70ab858bae8936f6a258b1e2ae28bafb4f"
    assert manifest.encode().endswith(b"}\n")


def test_a_record_is_kept_as_it_always_was() -> None:
    assert of(RECORD.encode()) == "94f66a138e9925fd7e062689384d8b406c6f5cc91052c71e42f08dd5adf2515c"
    assert Record.decode(RECORD.encode(), what="the record").encode() == RECORD.encode()


def test_a_record_keeps_parameters_and_metrics_in_their_order() -> None:
    told = {"rate": 0.1, "epochs": 3, "batch": 2}
    record = msgspec.structs.replace(RECORD, params=told, metrics={"loss": 0.5, "accuracy": 1.0})
    kept = Record.decode(record.encode(), what="the record")
    assert ([*kept.params], [*kept.metrics]) == ([*told], ["loss", "accuracy"])


def test_a_verdict_is_kept_as_it_always_was() -> None:
    assert of(KEPT.encode()) == "7cf542ea17c71120847ded593e03a4f8422eec1b454f19d10f0ff53d73586402"
    assert VerdictRecord.decode(KEPT.encode(), what="the verdict") == KEPT


@pytest.mark.parametrize("facts", [CHECKPOINT, RECORD.summary(), KEPT.summary()], ids=["checkpoint", "run", "verdict"])
def test_a_header_says_what_was_put_into_it(facts: Any) -> None:
    form = type(facts)
    found = facts_in(meta_of(facts), form, what="it")
    assert msgspec.to_builtins(found).keys() == msgspec.to_builtins(facts).keys()
    assert repr(found) == repr(facts)
    for other in {type(one) for one in (CHECKPOINT, RECORD.summary(), KEPT.summary())} - {form}:
        assert facts_in(meta_of(facts), other, what="it") is None


def test_digests_are_those_of_the_published_definitions() -> None:
    assert hash_bytes(b"hello", PLAIN).hex == of(b"hello")
    assert hash_bytes(b"hello").type == CHUNKED
    assert hash_bytes(b"hello").raw == hashlib.sha256(hashlib.sha256(b"hello").digest()).digest()
    eight = bytes(8 << 20)
    parts = hashlib.sha256(eight).digest() + hashlib.sha256(b"\0").digest()
    assert hash_bytes(eight + b"\0").raw == hashlib.sha256(parts).digest()


MINIMAL = Record(
    run_id=RUN, name="n", status="running", lock_hash=None, code=CodeFacts(tree="c" * 40), environment=None,
    started="2026-01-02T03:04:05.000Z", execution=ExecutionFacts(),
    data=[DataFacts(name="in", package="t/in", top_hash="6" * 64, path="in")], outputs=[OutputFacts(path="a")],
    checkpoints=[CheckpointEntry(package="t/m", top_hash="9" * 64, state_digest=DIGEST)],
    attempts=[Attempt(started="a", ended=None, status="failed", resumed="b", resumed_from="c")],
    verdicts=[Verdict(run_id=OTHER, reproduces=RUN, verdict="BITWISE", first_divergence=Divergence())],
)  # fmt: skip
RECIPE = {
    "name": "n", "code": {"entrypoint": "train.py"}, "data": {"in": {"package": "t/in", "path": "in"}},
    "outputs": ["a.json"], "tolerance": {"weights": {"atol": 0.5}},
}  # fmt: skip


def test_what_is_left_out_means_what_it_always_meant() -> None:
    sparse = VerdictRecord(
        verdict=MINIMAL.verdicts[0], original=KEPT.original, reproduction=KEPT.reproduction, by="a", at="b"
    )
    facts = CheckpointFacts(kind="initial", run=RUN, state_digest=DIGEST)
    assert of(MINIMAL.encode()) == "ffea1c1a88a6c3861581fe3d45dd3a992ee93e07477386134101a6249a4223d7"
    assert of(sparse.encode()) == "eea754af249208433dabdd5682fabdf023ddb7ebf8b883717f3a7ee1e10a3179"
    recipe = sha256_of(to_plain(from_plain(RECIPE)))
    assert recipe == "253a3062edfe68ade6a41425f1db46928ccb399a6cb35888a926446610dbe223"
    headers = sha256_of([meta_of(facts), meta_of(MINIMAL.summary())])
    assert headers == "d74374fbb7aa218729cbc394a2a05dff638e1b6eb3dac9e1dcc6b9d6036a6409"


@pytest.mark.parametrize("where", ["", "parent", "inputs"])
def test_of_a_checkpoint_nothing_unknown_is_taken(where: str) -> None:
    plain = meta_of(CHECKPOINT)
    assert facts_in(plain, CheckpointFacts, what="it") is not None
    target = plain["reprokit"]
    if where:
        target = target[where] if where == "parent" else target[where][0]
    target["extra"] = 1
    with pytest.raises(DataMismatchError, match=r"^What the header of it says of it is malformed: Object "):
        facts_in(plain, CheckpointFacts, what="it")
    assert facts_in(plain, CheckpointFacts) is None
