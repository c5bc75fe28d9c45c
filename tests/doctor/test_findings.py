"""What two looks into processes tell, told from handmade looks; test_doctor.py has those of real processes."""

from __future__ import annotations

from typing import Any

from reprokit.doctor.findings import Diagnosis, Looks, Omission, find_lost
from reprokit.doctor.variables import moved_variables


def _look(*sources: dict[str, Any], **variables: Any) -> dict[str, Any]:
    seen = {name: {"digest": str(value), "shown": str(value)} for name, value in variables.items()}
    return {"by_hand": True, "sources": list(sources), "variables": seen}


def _source(
    kind: str, value: object, *, type: str = "X", name: str | None = "t.py `x`", held: bool | None = None
) -> Any:
    part = {"RNG": type, "generator": "own generator"}.get(kind, kind)
    return {"kind": kind, "type": type, "name": name, "held": held, "parts": {part: {"state": f"#{value}"}}}


def _lost(*looks: dict[str, Any] | None, equal: bool) -> list[str]:
    initial, first, second, start, restored, after = looks
    assert first is not None and second is not None and after is not None
    seen = Looks(initial=initial, first=first, second=second, start=start, restored=restored, next=after, equal=equal)
    found = find_lost(seen, moved_variables(seen))
    return [("lost: " if finding.certain else "note: ") + str(finding) for finding in found]


def _states(kind: str, *values: object, **options: Any) -> list[dict[str, Any] | None]:
    return [None if value is None else _look(_source(kind, value, **options)) for value in values]


def test_what_came_back_is_not_mentioned() -> None:
    assert _lost(*_states("generator", 0, 1, 2, 0, 1, 2, held=True), equal=True) == []


def test_a_global_generator_that_differs_is_lost_even_if_it_is_the_same_later() -> None:
    looks = _states("RNG", 0, 1, 2, 0, 9, 2, type="torch RNG", name=None)
    assert _lost(*looks, equal=True) == ["lost: torch RNG: differs after restore"]


def test_a_generator_that_is_the_same_again_later_is_a_note() -> None:
    (line,) = _lost(*_states("generator", 0, 1, 2, 0, 9, 2, held=False), equal=True)
    assert line.startswith("note: own generator (t.py `x`): differs after restore, and is the same again later: ")
    assert line.endswith("; pass it: generators={'x': x}")


def test_a_scheduler_that_nobody_gave_is_lost_though_it_did_not_move() -> None:
    looks = _states("scheduler", 0, 0, 0, 0, 0, 0, type="StepLR", held=False)
    assert _lost(*looks, equal=True) == [
        "lost: scheduler StepLR (t.py `x`): not in the checkpoint; pass it: scheduler=x"
    ]


def test_a_model_that_nobody_gave_is_lost_only_if_it_learns() -> None:
    assert _lost(*_states("model", 0, 0, 0, 0, 0, 0, held=False), equal=True) == []
    assert len(_lost(*_states("model", 0, 0, 1, 0, 0, 1, held=False), equal=True)) == 1


def test_two_starts_that_differ_are_said_to() -> None:
    looks = _states("generator", 0, 1, 2, 7, 1, 2, held=True)
    assert _lost(*looks, equal=True) == [
        "note: own generator (t.py `x`): differs between two starts of the script; seed it"
    ]


def test_without_a_look_after_the_restore_the_next_checkpoints_are_compared() -> None:
    looks = _states("RNG", 0, 1, 2, 0, None, 3, type="torch RNG", name=None)
    assert _lost(*looks, equal=False) == ["lost: torch RNG: differs after restore"]


def test_what_differs_later_is_told_where_nothing_else_explains_it() -> None:
    looks = _states("optimiser", 0, 1, 2, 0, 1, 3)
    unknown, later = _lost(*looks, equal=False)
    assert unknown.startswith("note: cause: not known: all state that was looked at came back as it was")
    assert later == "note: optimiser of X (t.py `x`): differs at the next checkpoint"


def test_the_exit_code_says_whether_anything_is_lost_or_could_not_be_seen() -> None:
    assert [Diagnosis(result=result).exit_code for result in ("BITWISE", "INCOMPLETE", "DIVERGED", "INCONCLUSIVE")] == [
        0, 7, 7, 8,
    ]  # fmt: skip
    unseen = Omission(part="EMA", caught=False, diverged=True)
    assert Diagnosis(result="BITWISE", omitted=[unseen]).exit_code == 8


def test_gradients_left_over_are_suspect_only_where_nothing_else_explains_a_divergence() -> None:
    def look(*gradients: int) -> dict[str, Any]:
        source = _source("model", 0, type="Net", held=True)
        source["parts"]["gradients"] = {f"weight.{place}": f"#{value}" for place, value in enumerate(gradients)}
        return _look(source)

    looks = [look(), look(1), look(2), look(), look(), look(3)]
    assert _lost(*looks, equal=True) == []
    unknown, line = _lost(*looks, equal=False)
    assert unknown == "note: cause: not known for certain; what is noted below may be behind it"
    assert line.startswith(
        "note: gradients of Net (t.py `x`): left over from the step before, and not in the checkpoint"
    )
