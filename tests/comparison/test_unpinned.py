"""Of what no lock pins, what changed between two runs, or may have, is a cause."""

from __future__ import annotations

from typing import Any

import pytest

from reprokit.comparison.unpinned import unpinned_causes
from reprokit.schema.record import CodeFacts, ExecutionFacts, Record, StrayFile, VariableRead

Facts = dict[str, Any]


def record(*read: Facts, key: str = "one") -> Record:
    return Record(
        run_id="r", name="r", status="finished", started="", lock_hash=None, code=None, environment=None,
        variables=[VariableRead(**{"name": "LR", "digest": "1", **facts}) for facts in read], variables_key=key,
    )  # fmt: skip


UNKNOWN = (
    "environment variable LR is not declared, and the runs were recorded with two keys: whether it has another value "
    "is not known"
)
UNSET: Facts = {"digest": None, "unset": True}


@pytest.mark.parametrize(
    ("one", "other", "key", "text"),
    [
        ({}, {}, "one", None),
        ({}, {"digest": "2"}, "one", "environment variable LR has another value, and is not declared"),
        (UNSET, {}, "two", "environment variable LR was set for the second run alone, and is not declared"),
        ({}, UNSET, "one", "environment variable LR was set for the first run alone, and is not declared"),
        (UNSET, UNSET, "one", None),
        ({}, {"name": "OTHER"}, "one", None),
        ({"digest": None}, {}, "one", None),
        ({}, {"digest": "2"}, "two", UNKNOWN),
        ({"platform": True}, {"platform": True, "digest": "2"}, "two", None),
        ({"taken": True}, {"taken": True, "digest": "2"}, "one",
         "environment variables changed between the runs, and are not declared: LR"),
        ({"taken": True}, {"taken": True, "digest": "2"}, "two", None),
        ({"taken": True}, {"digest": "2"}, "one", "environment variable LR has another value, and is not declared"),
    ],
)  # fmt: skip
def test_a_variable_is_a_cause_where_it_is_known_to_have_changed_or_may_have(
    one: Facts, other: Facts, key: str, text: str | None
) -> None:
    found = [cause.text for cause in unpinned_causes(record(one), record(other, key=key))]
    assert found == ([] if text is None else [text])


def in_place(*strays: tuple[str, str], yes: bool = True) -> Record:
    files = [StrayFile(path=path, how="changed", digest=digest) for path, digest in strays]
    return Record(
        run_id="r", name="r", status="finished", started="", lock_hash=None, environment=None,
        code=CodeFacts(tree="c" * 40, strays=files), execution=ExecutionFacts(in_place=yes),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other", "what", "said"),
    [
        (in_place(yes=False), in_place(yes=False), None, ""),
        (in_place(("a.py", "1")), in_place(yes=False), "inputs.working_tree", "the first run was"),
        (in_place(yes=False), in_place(), "inputs.in_place", "the second run was"),
        (in_place(("a.py", "1")), in_place(("a.py", "1")), "inputs.in_place", "both runs were"),
        (in_place(("a.py", "1")), in_place(("a.py", "2")), "inputs.working_tree", "both runs were"),
    ],
)  # fmt: skip
def test_the_working_tree_is_a_cause_by_what_was_used_there(
    one: Record, other: Record, what: str | None, said: str
) -> None:
    found = [*unpinned_causes(one, other)]
    assert [cause.what for cause in found] == ([] if what is None else [what])
    strays = ", and used what is not the recorded code: a.py (changed)" if what == "inputs.working_tree" else ""
    assert all(cause.text == f"code: {said} executed in the working tree (--in-place){strays}" for cause in found)
