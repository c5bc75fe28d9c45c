"""What a verdict says in words, as JSON, and as an exit code."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from reprokit.schema.factor import Factor
from reprokit.schema.facts import CheckpointFacts, RunSummary, VerdictSummary, facts_in, meta_of
from reprokit.schema.place import INITIAL, Place
from reprokit.schema.verdict import (
    Cause,
    Comparison,
    Divergence,
    Rung,
    RunLink,
    Verdict,
    VerdictRecord,
    exit_code,
    rung_of,
)

ONE, OTHER = "20260102-030405-aaaaaa", "20260102-030405-bbbbbb"
FULL: dict[str, Any] = {"tensor": "w", "shape": [2, 3], "elements": 6000, "differing": 1000}


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({}, ""),
        ({"how": "the lists differ"}, "the lists differ"),
        ({"tensor": "w"}, "w"),
        ({"tensor": "w", "shape": []}, "w []"),
        ({"tensor": "w", "shape": [2], "how": "F32 → F64"}, "w [2], F32 → F64"),
        (FULL, "w [2, 3], 1,000 of 6,000 elements differ"),
        ({**FULL, "max_abs": 0.00012345, "index": [1, 2]},
         "w [2, 3], 1,000 of 6,000 elements differ, max |Δ| 0.000123 at [1, 2]"),
        ({**FULL, "max_abs": 0.5, "index": []}, "w [2, 3], 1,000 of 6,000 elements differ, max |Δ| 0.5"),
        ({**FULL, "max_abs": 0.0}, "w [2, 3], 1,000 of 6,000 elements differ, max |Δ| 0"),
        ({**FULL, "index": [1, 2]}, "w [2, 3], 1,000 of 6,000 elements differ, infinite |Δ| at [1, 2]"),
        ({**FULL, "index": []}, "w [2, 3], 1,000 of 6,000 elements differ, infinite |Δ|"),
        ({**FULL, "max_abs": 2, "index": [0, 0], "ulp": 4096, "how": "1 × NaN of other bits"},
         "w [2, 3], 1,000 of 6,000 elements differ, max |Δ| 2 at [0, 0], at most 4,096 ulp, 1 × NaN of other bits"),
        ({"tensor": "w", "ulp": 0}, "w, at most 0 ulp"),
    ],
)  # fmt: skip
def test_a_tensor_that_differs_in_words(facts: dict[str, Any], text: str) -> None:
    assert Divergence(**facts).tensor_text() == text


@pytest.mark.parametrize(
    ("divergence", "what"),
    [
        (Divergence.at(Place(epoch=2, step=9)), "epoch 2"),
        (Divergence.at(Place(epoch=2, batch=4, step=9)), "epoch 2, batch 4"),
        (Divergence.at(Place(epoch=2), missing="repetition"), "epoch 2 is missing from the repetition"),
        (Divergence.at(Place(step=9, save=2)), "step 9, save 2"),
        (Divergence.at(Place(save=3)), "checkpoint 3"),
        (Divergence.at(Place(), step=9), "step 9"),
        (Divergence.at(INITIAL, step=0), "initial state"),
        (Divergence(output="a"), "output a"),
        (Divergence(metric="loss"), "metric loss"),
        (Divergence.at(Place(epoch=2), metric="loss"), "metric loss of epoch 2"),
        (Divergence(), ""),
    ],
)
def test_where_runs_differ_in_words(divergence: Divergence, what: str) -> None:
    assert divergence.what == what
    assert divergence.plain()["what"] == what


def test_a_divergence_is_placed_in_a_checkpoint() -> None:
    found = Divergence(tensor="w", how="x").placed(Place(epoch=2, batch=3, save=4), step=9)
    assert (found.tensor, found.how) == ("w", "x")
    assert (found.saved, found.epoch, found.batch, found.save, found.step) == ("checkpoint", 2, 3, 4, 9)
    assert Divergence.at(Place(epoch=2, step=7)).step == 7
    assert Divergence.at(Place(epoch=2, step=7), step=8).step == 8
    assert found.spot.place == Place(epoch=2, batch=3, save=4)
    assert Divergence.at(INITIAL, step=0).spot.place == INITIAL
    assert Divergence(output="a").spot.place is None
    assert found.plain() == {
        **dict.fromkeys(Divergence.__struct_fields__),
        "saved": "checkpoint",
        "epoch": 2,
        "step": 9,
        "batch": 3,
        "save": 4,
        "tensor": "w",
        "how": "x",
        "state": [],
        "what": "epoch 2, batch 3, save 4",
    }


def test_a_verdict_as_json_has_its_causes_in_words_and_what_would_give_them() -> None:
    factor = Factor(kind="param", name="rate", value=0.2)
    given = Cause(kind="params", what="params.rate", text="t", factor=factor)
    causes = [given, Cause(kind="code", what="code", text="c")]
    line = Comparison(what="code", result="match", detail="d")
    found = Verdict(
        run_id=OTHER, reproduces=ONE, verdict="DIVERGED", relaxed=["x"], explanations=causes, comparisons=[line],
        first_divergence=Divergence(output="a"),
    )  # fmt: skip
    plain = found.plain()
    assert (plain["run_id"], plain["reproduces"]) == (OTHER, ONE)
    assert (plain["verdict"], plain["rung"], plain["relaxed"]) == ("DIVERGED", "DIVERGED", ["x"])
    assert plain["causes"] == ["t", "c"]
    assert [(one["kind"], one["what"], one["text"]) for one in plain["explanations"]] == [
        ("params", "params.rate", "t"), ("code", "code", "c"),
    ]  # fmt: skip
    assert plain["explanations"][0]["factor"]["option"] == "param.rate=0.2"
    assert plain["explanations"][1]["factor"] is None
    assert plain["first_divergence"]["what"] == "output a"
    assert plain["comparisons"] == [{"what": "code", "result": "match", "detail": "d"}]
    assert Verdict(run_id=OTHER, reproduces=ONE, verdict="BITWISE").plain()["first_divergence"] is None
    link = RunLink(run_id=ONE, top_hash="0" * 64, lock_hash=None)
    kept = VerdictRecord(verdict=found, original=link, reproduction=link, by="a@b", at="t")
    side = {"run_id": ONE, "top_hash": "0" * 64, "lock_hash": None}
    assert kept.plain() == {
        "format": 1,
        "verdict": plain,
        "original": side,
        "reproduction": side,
        "by": "a@b",
        "at": "t",
        "machine": {},
        "command": [],
        "tolerance": {},
        "compared": {},
        "reprokit": "",
    }
    assert VerdictRecord.decode(kept.encode(), what="it") == kept
    summary = kept.summary()
    assert (summary.verdict, summary.relaxed, summary.by, summary.at) == ("DIVERGED", ["x"], "a@b", "t")


def test_every_rung_has_an_exit_code() -> None:
    codes = {"DIVERGED": 7, "INCONCLUSIVE": 8}
    assert {rung: exit_code(rung) for rung in get_args(Rung)} == {rung: codes.get(rung, 0) for rung in get_args(Rung)}


@pytest.mark.parametrize("rung", get_args(Rung))
@pytest.mark.parametrize("provisos", [[], ["Something was read."]])
def test_a_rung_that_affirms_is_never_a_bare_word_beside_a_proviso(rung: Rung, provisos: list[str]) -> None:
    found = Verdict(run_id=OTHER, reproduces=ONE, verdict=rung, provisos=provisos)
    affirms = rung not in ("DIVERGED", "INCONCLUSIVE")
    word = f"{rung}, with provisos" if provisos and affirms else rung
    assert (found.word, rung_of(found.word)) == (word, rung)
    assert (found.plain()["verdict"], found.plain()["rung"]) == (word, rung)


def test_a_header_is_read_as_what_it_says_that_it_is() -> None:
    run = RunSummary(run=ONE, name="n", status="finished", started="s", metrics={"nan": float("inf")})
    verdict = VerdictSummary(verdict="BITWISE", original=ONE, reproduction=OTHER)
    saved = CheckpointFacts(kind="checkpoint", run=ONE, state_digest="d", epoch=1, step=2, batch=3)
    assert facts_in(meta_of(run), RunSummary) == run and facts_in(meta_of(verdict), VerdictSummary) == verdict
    assert facts_in(meta_of(saved), CheckpointFacts) == saved
    assert saved.place == Place(epoch=1, step=2, batch=3)
    for other, form in ((run, VerdictSummary), (run, CheckpointFacts), (verdict, RunSummary), (saved, RunSummary)):
        assert facts_in(meta_of(other), form, what="it") is None
    for meta in (None, [], {}, {"reprokit": None}, {"reprokit": []}, {"reprokit": {}}, {"reprokit": {"kind": "x"}}):
        assert facts_in(meta, RunSummary, what="it") is None
