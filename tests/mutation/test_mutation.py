"""The mutation run makes the slips that it says, and tells tests that notice from tests that do not."""

from __future__ import annotations

import ast

from tests.mutation.__main__ import known_survivors, main
from tests.mutation.changes import apply, changes
from tests.mutation.modules import GROUPS, Group
from tests.mutation.trial import HOUSE, ROOT, trial_apart

SOURCE = '''\
"""Words."""

LIMIT = 3


def within(a: int, b: int | None = None) -> bool:
    """Words."""
    if b is None:
        raise ValueError("words")
    return a <= b and sorted([a, b]) == [a, b]
'''


def test_each_slip_is_one_change_and_words_and_types_are_left_alone() -> None:
    assert [(one.within, one.text, one.nth) for one in changes(SOURCE)] == [
        ("", "3 -> 4", 0),
        ("within", "if b is None: … -> pass", 0),
        ("within", "b is None -> b is not None", 0),
        ("within", "raise ValueError('words') -> pass", 0),
        ("within", "return a <= b and sorted([a, b]) == [a, b] -> return True", 0),
        ("within", "return a <= b and sorted([a, b]) == [a, b] -> return False", 0),
        ("within", "a <= b and sorted([a, b]) == [a, b] -> a <= b or sorted([a, b]) == [a, b]", 0),
        ("within", "a <= b -> (left out)", 0),
        ("within", "sorted([a, b]) == [a, b] -> (left out)", 0),
        ("within", "a <= b -> a < b", 0),
        ("within", "a <= b -> a > b", 0),
        ("within", "sorted([a, b]) == [a, b] -> sorted([a, b]) != [a, b]", 0),
        ("within", "sorted([a, b]) -> list([a, b])", 0),
        ("within", "a -> (left out)", 0),
        ("within", "b -> (left out)", 0),
        ("within", "a -> (left out)", 1),
        ("within", "b -> (left out)", 1),
    ]
    assert "return a < b and" in ast.unparse(apply(SOURCE, 9))


def test_tests_that_look_notice_and_tests_that_do_not_let_pass() -> None:
    file = "core/canonical_json.py"
    wanted = {file: [one for one in changes((HOUSE / file).read_text()) if one.text.startswith("return ")]}
    assert len(wanted[file]) >= 3
    looking = trial_apart(["core/test_canonical_json.py"], wanted)
    assert [one.by for one in looking if one.by is None or not one.by.startswith("tests/core/")] == []
    elsewhere = trial_apart(["core/test_refs.py"], wanted)
    assert [(one.by, one.asked) for one in elsewhere] == [(None, 0)] * len(wanted[file])


def test_what_is_tried_is_there_and_each_known_survivor_has_a_reason() -> None:
    for group in GROUPS.values():
        assert [file for file in group.modules if not (HOUSE / file).is_file()] == []
        assert [test for test in group.tests if not (ROOT / "tests" / test).exists()] == []
    tried = {file for group in GROUPS.values() for file in group.modules}
    known = known_survivors()
    assert [(key, why) for key, why in known.items() if key[0] not in tried or len(why) < 20] == []
    there = {(file, *one.key) for file in {key[0] for key in known} for one in changes((HOUSE / file).read_text())}
    assert sorted(known.keys() - there) == [], "code that changed has no such survivors any more"


def test_a_draw_ends_in_a_table(capsys, monkeypatch) -> None:
    monkeypatch.setitem(GROUPS, "core", Group(("core/canonical_json.py",), ("core/test_canonical_json.py",)))
    assert main(["--draw", "3", "--group", "core", "--jobs", "1"]) in (0, 1)
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "module                  changes  noticed     %  explained"
    assert told[1].startswith("core/canonical_json.py        3        ")
