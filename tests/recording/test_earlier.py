"""What earlier attempts read counts for the whole run."""

from __future__ import annotations

from typing import Any

import msgspec

from reprokit.recording.earlier import with_earlier
from reprokit.schema.machine import Machine
from reprokit.schema.record import CodeFacts, Program, Record, StrayFile, UndeclaredFile, VariableRead


def _record(**facts: Any) -> Record:
    return Record(
        run_id="20260102-030405-abcdef", name="made", status="finished", started="2026-01-02T03:04:05.000Z",
        lock_hash=None, environment=None, **{"code": None, **facts},
    )  # fmt: skip


def test_files_programs_and_refusals_of_all_attempts_are_listed() -> None:
    earlier = _record(
        undeclared=[UndeclaredFile(path="/a", digest="1"), UndeclaredFile(path="/c", digest="3")],
        programs=[Program(path="/bin/a", digest="1")],
        refused=["/x"],
        machine=Machine(imported=["numpy"]),
    )
    now = _record(
        undeclared=[UndeclaredFile(path="/b", digest="2"), UndeclaredFile(path="/c", digest="3")],
        programs=[Program(path="/bin/b", digest="2")],
        refused=["/w", "/x"],
        machine=Machine(python="3.11", imported=["torch"]),
    )
    found, warnings = with_earlier(now, earlier)
    assert [(one.path, one.digest) for one in found.undeclared] == [("/a", "1"), ("/b", "2"), ("/c", "3")]
    assert [(one.path, one.digest) for one in found.programs] == [("/bin/a", "1"), ("/bin/b", "2")]
    assert found.refused == ["/w", "/x"]
    assert (found.machine.python, found.machine.imported) == ("3.11", ["numpy", "torch"])
    assert warnings == []


def test_what_was_not_the_same_has_no_digest_and_is_named() -> None:
    earlier = _record(
        undeclared=[UndeclaredFile(path="/a", digest="1")],
        programs=[Program(path="/bin/a", digest="1")],
        variables=[VariableRead(name="LR", digest="1"), VariableRead(name="SEED", unset=True)],
        variables_key="k",
    )
    now = _record(
        undeclared=[UndeclaredFile(path="/a", digest="2")],
        programs=[Program(path="/bin/a", digest="2")],
        variables=[VariableRead(name="LR", digest="2"), VariableRead(name="SEED", digest="5")],
        variables_key="k",
    )
    found, warnings = with_earlier(now, earlier)
    assert [one.digest for one in (*found.undeclared, *found.programs, *found.variables)] == [None] * 4
    assert not any(one.unset for one in found.variables)
    assert warnings == ["What was read was not the same in each attempt of this run: LR, SEED, /a, /bin/a."]


def test_of_what_is_not_known_in_one_attempt_nothing_is_said() -> None:
    earlier = _record(undeclared=[UndeclaredFile(path="/a")], variables=[VariableRead(name="LR")])
    now = _record(undeclared=[UndeclaredFile(path="/a", digest="2")], variables=[VariableRead(name="LR", digest="2")])
    found, warnings = with_earlier(now, earlier)
    assert [one.digest for one in (*found.undeclared, *found.variables)] == [None, None]
    assert warnings == []


def test_digests_by_two_keys_are_not_compared() -> None:
    earlier = _record(variables=[VariableRead(name="LR", digest="1")], variables_key="k")
    now = _record(variables=[VariableRead(name="LR", digest="2")], variables_key="other")
    found, warnings = with_earlier(now, earlier)
    assert (found.variables, found.variables_key, warnings) == ([VariableRead(name="LR")], "other", [])


def test_what_was_executed_of_the_code_is_of_all_attempts() -> None:
    earlier = CodeFacts(
        tree="t", imported=["a.py"], opened=["a.txt"], strays=[StrayFile(path="s.py", how="changed")], dirty=True
    )
    now = CodeFacts(tree="t", imported=["b.py"], opened=["b.txt"])
    found, _ = with_earlier(_record(code=now), _record(code=earlier))
    assert found.code == msgspec.structs.replace(earlier, imported=["a.py", "b.py"], opened=["a.txt", "b.txt"])
    unwatched, _ = with_earlier(
        _record(code=msgspec.structs.replace(now, opened=None)),
        _record(code=msgspec.structs.replace(earlier, opened=None)),
    )
    assert unwatched.code is not None and unwatched.code.opened is None
