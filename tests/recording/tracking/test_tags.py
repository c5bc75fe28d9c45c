"""What MLflow is told of a run, and by which names: those that it takes, no two the same."""

from __future__ import annotations

import posixpath
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprokit.recording.tracking.tags import Names, milliseconds, params_of, tags_of, verdict_tags
from reprokit.schema.record import CodeFacts, DataFacts, EnvironmentFacts, Record
from reprokit.schema.verdict import Rung, RunLink, Verdict, VerdictRecord

RUN, AGAIN = "20261123-101500-7c1e9f", "20261123-111500-7c1e9f"


def record(**facts: object) -> Record:
    needed = {
        "run_id": RUN, "name": "made", "status": "finished", "lock_hash": "1" * 64, "code": None, "environment": None,
        "started": "2026-11-23T10:15:00.120Z", "by": "anna@host",
    }  # fmt: skip
    return Record(**{**needed, **facts})  # type: ignore[arg-type]


def test_the_tags_say_what_the_run_was_made_from() -> None:
    code = CodeFacts(tree="t" * 40, commit="c" * 40, dirty=True, remote="https://u:p@example.org/r.git", branch="main")
    data = DataFacts(name="in", package="t/in", top_hash="2" * 64, path="data/in", within="train")
    environment = EnvironmentFacts(hash="3" * 64, packages=7, python="3.11")
    told = tags_of(record(code=code, data=[data], environment=environment, unused=["a", "b"]), None)
    assert told == {
        "reprokit.run": RUN, "reprokit.name": "made", "reprokit.lock": "1" * 64, "reprokit.environment": "3" * 64,
        "reprokit.code": f"{'t' * 40} (uncommitted changes)", "reprokit.data.in": f"t/in@{'2' * 64}:train",
        "reprokit.unused": "a, b", "mlflow.user": "anna@host", "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": "c" * 40, "mlflow.source.git.branch": "main",
        "mlflow.source.git.repoURL": "https://example.org/r.git",
    }  # fmt: skip


def test_parameters_are_text_that_is_read_back_and_long_ones_are_cut() -> None:
    told = params_of(record(params={"rate": 0.1, "on": True, "word": "x", "sizes": [1, 2], "long": "y" * 7000}))
    assert told | {"long": ""} == {"rate": "0.1", "on": "true", "word": "x", "sizes": "[1, 2]", "long": ""}
    assert (len(told["long"]), told["long"][-1]) == (6000, "…")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("val/loss", "val/loss"), ("a b.c-d:e", "a b.c-d:e"), ("é", "é"), ("loss@1", "loss_1"), ("../../x", "__/__/x"),
        ("/abs", "abs"), ("a//b", "a/b"), ("", "_"), (".", "_"), ("x" * 300, "x" * 250), ("\x1b[2J", "__2J"),
        ("/", "_"),
    ],
)  # fmt: skip
def test_a_name_is_one_that_mlflow_takes(name: str, told: str) -> None:
    names = Names()
    assert names(name) == told
    assert names.changed == ({} if name == told else {name: told})


@given(st.lists(st.text("a/.@é\ud800 \n", max_size=12), max_size=12, unique=True))
def test_no_two_names_become_the_same_and_none_leads_out(given_: list[str]) -> None:
    names = Names()
    told = [names(name) for name in given_]
    assert len({*told}) == len(given_)
    assert [names(name) for name in given_] == told
    for name in told:
        assert re.fullmatch(r"[/\w.\- :]+", name) and posixpath.normpath(name) == name
        assert not name.startswith("/") and ".." not in name.split("/")


def given_verdict(rung: Rung, run_id: str, **facts: object) -> VerdictRecord:
    link = RunLink(run_id=RUN, top_hash="1" * 64, lock_hash=None)
    verdict = Verdict(run_id=run_id, reproduces=RUN, verdict=rung, **facts)  # type: ignore[arg-type]
    again = RunLink(run_id=run_id, top_hash="1" * 64, lock_hash=None)
    return VerdictRecord(verdict=verdict, original=link, reproduction=again, by="berta@host", at="2026-11-24T00:00:00Z")


def test_the_verdict_is_that_of_the_newest_whole_repetition() -> None:
    plain = given_verdict("BITWISE", AGAIN, provisos=["x"])
    others = [
        given_verdict("DIVERGED", "20261124-111500-7c1e9f", relaxed=["threads=4"]),
        given_verdict("BITWISE", "20261125-111500-7c1e9f", until=1),
    ]
    assert verdict_tags([given_verdict("DIVERGED", AGAIN), plain, *others]) == {
        "reprokit.verdict": "BITWISE, with provisos", "reprokit.verdict.by": "berta@host",
        "reprokit.verdict.at": "2026-11-24T00:00:00Z", "reprokit.verdict.run": AGAIN, "reprokit.verdicts": "4",
    }  # fmt: skip
    assert verdict_tags(others[:1])["reprokit.verdict.relaxed"] == "threads=4"
    assert verdict_tags([]) == {}


def test_times_are_milliseconds() -> None:
    assert milliseconds("1970-01-01T00:00:01.5Z") == 1500
    assert milliseconds("2026-11-23T10:15:00Z") == 1795428900000
