"""What stands beside a verdict and forbids its bare word."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from reprokit.cli.text.record import verdict_text
from reprokit.errors import RecipeError
from reprokit.runs.provisos import provisos, resumptions
from reprokit.runs.support import contradicted
from reprokit.schema.bounds import LeftOut
from reprokit.schema.place import Place
from reprokit.schema.recipe import from_plain
from reprokit.schema.record import Attempt, CheckpointEntry, ExecutionFacts, OutputFacts, Record, UndeclaredFile
from reprokit.schema.verdict import Rung, Verdict

RUN, OTHER = "20260102-030405-aaaaaa", "20260102-030406-bbbbbb"


def record(*read: str, benign: tuple[str, ...] = (), **facts: Any) -> Record:
    told = {"run_id": RUN, "name": "r", "status": "finished", "started": "", "lock_hash": "1", **facts}
    files = [UndeclaredFile(path=path, size=1, digest="0" * 64) for path in read]
    execution = ExecutionFacts(benign=list(benign))
    return Record(**told, code=None, environment=None, execution=execution, undeclared=files)


@pytest.mark.parametrize(
    ("left", "right", "said"),
    [
        (record(), record(), []),
        (record("/a"), record("/a"), ["/a."]),
        (record("/a"), record(), ["/a (by the first run alone)."]),
        (record(), record("/a", "/b"), ["/a (by the second run alone), /b (by the second run alone)."]),
        (
            record(*(f"/{n}" for n in range(9))),
            record(*(f"/{n}" for n in range(9))),
            ["/0, /1, /2, /3, /4 and 4 more."],
        ),
        (record("/o/f/x", benign=("/o/*",)), record("/o/f/x", benign=("/o/*",)), []),
        (record("/h/.cache/a.lock", "/h/b", benign=("*/.cache/*",)), record(), ["/h/b (by the first run alone)."]),
    ],
)
def test_what_either_run_read_undeclared_is_named_unless_it_is_benign(
    left: Record, right: Record, said: list[str]
) -> None:
    assert provisos(left, right) == [f"Read without being declared as an input: {names}" for names in said]


def test_what_is_not_kept_or_not_listed_was_not_compared() -> None:
    outputs = [OutputFacts(path="out/x", unkept="it is a pipe"), OutputFacts(path="i", unkept="u", compare="ignore")]
    left = record(outputs=outputs, left_out=[LeftOut(what="checkpoints", count=1200, digest="0" * 64)])
    right = record(left_out=[LeftOut(what="warnings", count=1, digest="0" * 64)])
    assert provisos(left, right) == [
        "Written as an output, not kept and so not compared: out/x (by the first run alone).",
        "Too many for a record, and not compared: 1,200 checkpoints of the first run.",
    ]


def test_a_verdict_that_leaves_out_a_proviso_or_adds_one_is_not_borne_out() -> None:
    left, right = record("/a"), record(run_id=OTHER, reproduces=RUN)
    verdict = Verdict(run_id=OTHER, reproduces=RUN, verdict="TENSOR-TOLERANCE")
    assert "and it names no proviso" in str(contradicted(verdict, left, right, frozenset()))
    told = msgspec.structs.replace(verdict, provisos=provisos(left, right))
    assert contradicted(told, left, right, frozenset()) is None
    assert contradicted(told, record(), right, frozenset()) is not None


@pytest.mark.parametrize(
    ("status", "kept", "again", "said"),
    [
        (
            "interrupted",
            "abc",
            "abcd",
            "was interrupted: 3 of 3 checkpoints until the interruption are equal in every bit",
        ),
        ("failed", "abc", "xbc", "failed: 2 of 3 checkpoints until the failure are equal in every bit"),
        ("failed", "", "a", "failed: it saved none"),
        ("finished", "abc", "abc", None),
    ],
)
def test_an_original_that_did_not_come_to_its_end_is_said_to_be_compared_until_then(
    status: str, kept: str, again: str, said: str | None
) -> None:
    def saved(digests: str) -> list[CheckpointEntry]:
        return [
            CheckpointEntry(package="t/m", top_hash=one, state_digest=one, epoch=epoch)
            for epoch, one in enumerate(digests)
        ]

    left = record(status=status, checkpoints=saved(kept), initial=saved("i")[0])
    right = record(run_id=OTHER, checkpoints=saved(again), initial=saved("i")[0])
    expected = [] if said is None else [f"The original {said}; what it would have ended with is not known."]
    assert provisos(left, right) == expected


def test_a_verdict_says_how_either_run_was_resumed_and_one_that_does_not_is_not_borne_out() -> None:
    attempt = Attempt(
        started="a", ended=None, status="failed", resumed="b", resumed_from="epoch 1", resumed_at=Place(epoch=2)
    )
    left, right = record(attempts=[attempt]), record(run_id=OTHER, reproduces=RUN, attempts=[attempt, attempt])
    said = "resumed at epoch 2, from epoch 1, on b."
    told = resumptions(left, right)
    assert told == [f"The original was {said}", *[f"The repetition was {said}"] * 2]
    verdict = Verdict(run_id=OTHER, reproduces=RUN, verdict="TENSOR-TOLERANCE", resumed=told)
    assert contradicted(verdict, left, right, frozenset()) is None and verdict.word == verdict.verdict
    assert f"resumed    The original was {said}" in verdict_text(verdict, title="reproduce")
    silent = msgspec.structs.replace(verdict, resumed=[])
    assert "stopped and resumed" in str(contradicted(silent, left, right, frozenset()))


@pytest.mark.parametrize(
    ("rung", "word"),
    [("BITWISE", "BITWISE, with provisos"), ("DIVERGED", "DIVERGED"), ("INCONCLUSIVE", "INCONCLUSIVE")],
)
def test_a_word_that_affirms_is_not_bare_beside_a_proviso(rung: Rung, word: str) -> None:
    verdict = Verdict(run_id=OTHER, reproduces=RUN, verdict=rung, provisos=["Something."])
    assert verdict.word == verdict.plain()["verdict"] == word
    assert verdict.plain()["rung"] == msgspec.structs.replace(verdict, provisos=[]).word == rung


@pytest.mark.parametrize("pattern", ["*", "/", "/*", "x/*", "~/x", "/a/../b", "C:/x", ""])
def test_a_pattern_that_says_no_files_is_refused(pattern: str) -> None:
    recipe = {"name": "r", "code": {"entrypoint": "t.py"}, "execution": {"benign": [pattern]}}
    with pytest.raises(RecipeError, match=r"execution\.benign: .* names no files by their whole path"):
        from_plain(recipe)


@pytest.mark.parametrize(("one", "other", "said"), [(1, 1, False), (1, 2, True)])
def test_a_parameter_that_differs_and_reached_neither_script_is_named(one: int, other: int, said: bool) -> None:
    left, right = (record(params={"lr": value, "n": 1}, unused=["lr", "n"]) for value in (one, other))
    assert provisos(left, right) == ["Parameters differ that never reached the script: lr."] * said
