"""The script's own variables in two processes: which of them training moves, and a restore does not bring back.

Reads no files. A variable that has a value before the loop and another one at the checkpoint carries something from
step to step; one that is first set inside the loop is computed anew, and shows by what a resumed process ends with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from reprokit.doctor.findings import Finding, Look, Looks

__all__ = ["moved_variables", "without_clocks"]

_MOST = 20
_KEEP = "keep it in ckpt.state, and take it from there in the loop"
_COUNT = "count with ckpt.batch, which goes on where it stood"


@dataclass(frozen=True)
class _Variable:
    """One variable at each moment; None where it did not exist, or was not looked at."""

    name: str
    initial: Mapping[str, Any] | None
    first: Mapping[str, Any] | None
    restored: Mapping[str, Any] | None
    second: Mapping[str, Any] | None
    last: Mapping[str, Any] | None
    looked: bool  # before the training

    @property
    def moves(self) -> bool:
        """True if training changes it, or makes it."""
        values = [one for one in (self.initial, self.first, self.second) if one is not None]
        made = self.initial is None and (self.looked or self.first is None)
        return made or any(not _same(one, values[0]) for one in values)

    @property
    def carries(self) -> bool:
        """True if it has a value before the loop, and a restore left it with another than the checkpoint's."""
        return self.first is not None and self.restored is not None and not _same(self.first, self.restored)

    @property
    def differs(self) -> bool:
        return not _same(self.second, self.last)

    def counts_anew(self, done: int) -> bool:
        """True if it lags by the batches that were done of the epoch before the restore."""
        values = [_whole(one) for one in (self.second, self.last)]
        return bool(done) and None not in values and values[0] - values[1] == done  # type: ignore[operator]


def moved_variables(looks: Looks) -> list[Finding]:
    """Return the variables that training moves and a restore does not bring back; where bits differ, those that may be
    the reason.
    """
    names = dict.fromkeys([*looks.second["variables"], *looks.next["variables"], *looks.first["variables"]])
    found = [finding for name in names if (finding := _judged(_at(looks, name), looks)) is not None]
    found.sort(key=lambda finding: not finding.certain)
    return found[:_MOST]


def without_clocks(findings: list[Finding], one: Look | None, again: Look | None) -> list[Finding]:
    """Return findings of which those are notes whose variables differ between two trainings from the beginning too."""
    if one is None or again is None:
        return findings

    def judged(finding: Finding) -> Finding:
        values = [side["variables"].get(finding.where) for side in (one, again)]
        if finding.part != "own variable" or _same(*values):
            return finding
        problem = "differs between two trainings from the beginning too: a clock, or drawn from what nothing seeds"
        return msgspec.structs.replace(finding, problem=problem, hint=None, certain=False)

    return [judged(finding) for finding in findings]


def _at(looks: Looks, name: str) -> _Variable:
    sides = (looks.initial, looks.first, looks.restored, looks.second, looks.next)
    initial, first, restored, second, last = (None if one is None else one["variables"].get(name) for one in sides)
    return _Variable(name, initial, first, restored, second, last, looked=looks.initial is not None)


def _judged(one: _Variable, looks: Looks) -> Finding | None:
    if not one.moves:
        return None
    anew = one.name in looks.second.get("anew", ())  # each turn sets it, as from ckpt.state, before it uses it
    if one.counts_anew(looks.done) and not one.carries:
        problem = f"counts anew in the resumed epoch: {_change(one.second, one.last)}"
        return _finding("loop variable", one, problem, hint=_COUNT, certain=not looks.equal)
    if looks.equal:
        if one.differs and one.second is not None and not (anew and one.last is None):
            return _finding("own variable", one, f"differs at the next checkpoint{_shown(one.second, one.last)}")
        passed = (tuple(side["variables"].get(one.name) for side in pair) for pair in looks.passing)
        if one.carries and any(not _same(*pair) for pair in passed):
            problem = "differs until the epoch's end, and is the same again later"
            return _finding("own variable", one, problem, certain=False)
        return None
    if one.carries and not anew:
        problem = f"training moves it, and it did not come back{_shown(one.first, one.restored)}"
        return _finding("own variable", one, problem)
    return None


def _finding(part: str, one: _Variable, problem: str, *, hint: str = _KEEP, certain: bool = True) -> Finding:
    return Finding(part=part, where=one.name, problem=problem, hint=hint, certain=certain)


def _same(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    return (one is None) is (other is None) and (one is None or other is None or one["digest"] == other["digest"])


def _whole(value: Mapping[str, Any] | None) -> int | None:
    try:
        return None if value is None else int(value["shown"])
    except (TypeError, ValueError):
        return None


def _change(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> str:
    shown = ["(absent)" if side is None else str(side["shown"]) for side in (one, other)]
    return " → ".join(shown)


def _shown(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> str:
    told = [None if side is None else side["shown"] for side in (one, other)]
    if told[0] == told[1] or (one is not None and told[0] is None):
        return ""
    return f": {_change(one, other)}"
