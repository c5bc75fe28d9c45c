"""What a doctor's looks into two processes tell: which state did not come back after a restore. Reads no files.

A *look* is what `reprokit.client.probe` wrote down at one moment: sources of state with their parts, plain variables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

__all__ = ["Diagnosis", "Finding", "Look", "Looks", "Omission", "Result", "find_lost"]

Result = Literal["BITWISE", "INCOMPLETE", "DIVERGED", "INCONCLUSIVE"]
Look = Mapping[str, Any]
_Key = tuple[str, str]

_ALWAYS_STATE = ("optimiser", "scheduler", "GradScaler", "EMA")
_HINTS = {
    "model": "pass it: model={{…, {short!r}: {name}}}",
    "optimiser": "pass it: optimizer={name}",
    "scheduler": "pass it: scheduler={name}",
    "GradScaler": "pass it: scaler={name}",
    "EMA": "pass it: ema={name}",
    "loader generator": "pass its loader: loader={loader}",
    "own generator": "pass it: generators={{{short!r}: {name}}}",
    "variable": "pass it, or keep it in ckpt.state",
}


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it was.

    Attributes:
        part: What kind of state: `torch RNG`, `optimiser moments`, `scheduler`, …
        where: Class and place in the script, as ``StepLR (train.py `sched`)``.
        problem: What was seen.
        hint: What to do about it.
        certain: False for what may well be as the script means it.
    """

    part: str
    where: str
    problem: str
    hint: str | None = None
    certain: bool = True

    def __str__(self) -> str:
        where = f" {self.where}" if self.where else ""
        return f"{self.part}{where}: {self.problem}" + (f"; {self.hint}" if self.hint else "")


class Omission(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the state that was left out on purpose, and what came of it.

    Attributes:
        caught: A finding names this part.
        diverged: The next checkpoint differed.
        unchanged: It was not tried: the training so far has not touched this part.
    """

    part: str
    caught: bool = False
    diverged: bool = False
    unchanged: bool = False
    first_difference: str | None = None
    findings: list[Finding] = []


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What a doctor found.

    Attributes:
        result: BITWISE: the resumed process went on to the very same bits, and nothing that training depends on is
            missing from the checkpoint. INCOMPLETE: the same bits so far, but something is missing. DIVERGED: other
            bits. INCONCLUSIVE: it could not be seen; `reason` says why.
        restored: The checkpoint that a fresh process went on from.
        compared: The one that both processes saved next.
        tensors: How many tensors were compared.
        first_difference: The first tensor that differs, or the first path of state.json.
        sources: How many sources of state were found in the process.
        numeric: What would give other bits elsewhere, or later.
        unchecked: What could not be looked at.
    """

    result: Result
    reason: str | None = None
    restored: str | None = None
    compared: str | None = None
    tensors: int = 0
    first_difference: str | None = None
    sources: int = 0
    findings: list[Finding] = []
    numeric: list[str] = []
    unchecked: list[str] = []
    omitted: list[Omission] = []

    def plain(self) -> dict[str, Any]:
        value: dict[str, Any] = msgspec.to_builtins(self)
        return value

    @property
    def exit_code(self) -> int:
        """0 healthy, 7 if something is lost, 8 if it could not be seen, or a part left out was not noticed."""
        if self.result in ("DIVERGED", "INCOMPLETE"):
            return 7
        return 8 if self.result == "INCONCLUSIVE" or not all(one.caught or one.unchanged for one in self.omitted) else 0


@dataclass(frozen=True, kw_only=True)
class Looks:
    """What was seen of the process that went on, and of the fresh one that was restored from its first checkpoint.

    Attributes:
        initial, first, second: Of the one that went on: before training, at its first checkpoint, at its second.
        start, restored, next: Of the fresh one: before its restore, after it, at its first checkpoint.
        equal: The state digests of `second` and `next` are.
        accumulates: The first checkpoint has gradients, so that they are part of the state.
        done: Batches that were done of the epoch at the first checkpoint; 0 at its end.
        passing: Of checkpoints between the first and those that are compared: what was seen in both processes.
    """

    initial: Look | None
    first: Look
    second: Look
    start: Look | None
    restored: Look | None
    next: Look
    equal: bool
    accumulates: bool = False
    done: int = 0
    passing: list[tuple[Look, Look]] = field(default_factory=list)


@dataclass
class _Side:
    """The sources of one look, by kind and place."""

    sources: dict[_Key, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, look: Look | None) -> _Side:
        side = cls()
        for source in look["sources"] if look else ():
            side.sources.setdefault((str(source["kind"]), str(source["name"] or source["type"])), source)
        return side

    def part(self, key: _Key, part: str) -> dict[str, str] | None:
        source = self.sources.get(key)
        return None if source is None else dict(source["parts"].get(part, {}))


def find_lost(looks: Looks, variables: list[Finding]) -> list[Finding]:
    """Return what did not come back, or will not: the certain first.

    Args:
        variables: What was found of the script's own variables; after a divergence that something else explains, they
            are not told: all of them are suspect.
    """
    initial, first, second = _Side.of(looks.initial), _Side.of(looks.first), _Side.of(looks.second)
    after = _Side.of(looks.restored if looks.restored is not None else looks.next)
    before = first if looks.restored is not None else second
    last = _Side.of(looks.next)
    found: list[Finding] = []
    for key, source in before.sources.items():
        lost = []
        for part in source["parts"]:
            if part == "gradients" and not looks.accumulates:
                continue
            here, there = before.part(key, part) or {}, after.part(key, part)
            if here != there:
                again = looks.equal and there is not None and second.part(key, part) == last.part(key, part)
                lost.append(_lost(source, part, here, there, again=again))
        if not any(finding.certain for finding in lost) and source["held"] is False:
            moves = any(side.sources.get(key, source)["parts"] != source["parts"] for side in (initial, first, second))
            if source["kind"] in _ALWAYS_STATE or (moves and (not lost or "loader generator" in source["parts"])):
                lost = [_finding(source, next(iter(source["parts"])), "not in the checkpoint")]
        found += lost
    if looks.initial is not None and looks.initial["by_hand"]:  # frameworks restore before they would save it
        found += _unseeded(initial, _Side.of(looks.start))
    if looks.equal or not any(finding.certain for finding in found):
        found += variables
    if not looks.equal and not any(finding.certain for finding in found):
        found += _gradients(before, after)
        suspects = [*found]
        found = [_unknown(suspects), *found, *([] if suspects else _later(second, last))]
    return sorted(found, key=lambda finding: not finding.certain)


def _lost(
    source: Mapping[str, Any], part: str, here: dict[str, str], there: dict[str, str] | None, *, again: bool
) -> Finding:
    """Return the finding about a part that is not after the restore what it was.

    Args:
        again: At the next checkpoint it was the same again, as what a script sets anew at each epoch is.
    """
    if there is None:
        return _finding(source, part, "is there at the checkpoint, and not after the restore", certain=False)
    detail = _detail(here, there)
    if again and source["kind"] == "generator":
        problem = (
            "differs after restore, and is the same again later: it is seeded anew, or drew again what this epoch had "
            "drawn before, which --steps beyond an epoch's end tells apart"
        )
        return _finding(source, part, problem, certain=False)
    if again and source["kind"] != "RNG":
        return _finding(source, part, f"differs after restore{detail}, and is the same again later", certain=False)
    if source["held"] is False:
        return _finding(source, part, f"not in the checkpoint{detail}")
    return _finding(source, part, f"differs after restore{detail}")


def _unseeded(initial: _Side, start: _Side) -> list[Finding]:
    """Return what two starts of the script have otherwise, before anything was trained or restored."""
    return [
        _finding(source, part, "differs between two starts of the script", certain=False, hint="seed it")
        for key, source in initial.sources.items()
        for part in source["parts"]
        if key in start.sources and (initial.part(key, part) or {}) != (start.part(key, part) or {})
    ]


def _gradients(before: _Side, after: _Side) -> list[Finding]:
    """Return the gradients that are left over from the last step, and gone after the restore.

    Most loops zero them before they are used again. Only where nothing else explains a divergence are they suspect.
    """
    return [
        _finding(
            source,
            "gradients",
            "left over from the step before, and not in the checkpoint",
            certain=False,
            hint="call zero_grad() before each backward, or right after each step",
        )
        for key, source in before.sources.items()
        if before.part(key, "gradients") and not after.part(key, "gradients")
    ]


def _unknown(suspects: list[Finding]) -> Finding:
    """Return that nothing was seen which explains the divergence for certain."""
    problem = (
        "not known: all state that was looked at came back as it was at the checkpoint. What was lost lies elsewhere: "
        "in other processes, native code or files, in iterators, or in what the script does at its start"
    )
    if suspects:
        problem = "not known for certain; what is noted below may be behind it"
    return Finding(part="cause", where="", problem=problem, certain=False)


def _later(second: _Side, last: _Side) -> list[Finding]:
    """Return what differs at the next checkpoint, where everything seen was as it was after the restore."""
    return [
        _finding(source, part, f"differs at the next checkpoint{_detail(here, there)}", certain=False)
        for key, source in second.sources.items()
        for part in source["parts"]
        if part != "gradients"
        and (here := second.part(key, part) or {}) != (there := last.part(key, part) or {})
        and source["held"] is not True
    ]


def _finding(
    source: Mapping[str, Any], part: str, problem: str, *, certain: bool = True, hint: str | None = None
) -> Finding:
    kind, type_, name = str(source["kind"]), str(source["type"]), source["name"]
    place = f" ({name})" if name else ""
    if kind == "RNG":
        where = ""
    elif kind in ("model", "optimiser", "EMA"):
        where = f"of {type_}{place}"
    else:
        where = place.strip() if kind == type_ or kind == "generator" else f"{type_}{place}"
    if hint is None and source["held"] is False:
        hint = _hint(kind if kind != "generator" else part, name)
    return Finding(part=part, where=where, problem=problem, hint=hint, certain=certain)


def _hint(kind: str, name: str | None) -> str | None:
    quoted = re.search(r"`(.+)`", name or "")
    if kind not in _HINTS:
        return None
    if quoted is None:
        return _HINTS[kind].partition("=")[0] + "=…"
    path = quoted[1]
    loader = re.sub(r"(\.batch_sampler)?(\.sampler)?\.generator$", "", path)
    return _HINTS[kind].format(name=path, short=path.rpartition(".")[2], loader=loader)


def _detail(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """Return which items of a part differ: the first by name, with its values where they are numbers."""
    differing = [item for item in [*here, *(i for i in there if i not in here)] if here.get(item) != there.get(item)]
    if not differing or differing == ["state"]:
        return ""
    one, other = here.get(differing[0], "(none)"), there.get(differing[0], "(none)")
    values = f" {one} → {other}" if "#" not in (one[0], other[0]) else ""
    more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
    return f" ({differing[0]}{values}{more})"
