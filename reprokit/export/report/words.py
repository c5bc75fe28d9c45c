"""What a verdict says, in words for somebody who did not train the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reprokit.core.terminal_text import printable
from reprokit.export.report.data import Grid
from reprokit.runs.pairs import Pair
from reprokit.schema.record import Record
from reprokit.schema.verdict import Divergence, Rung, Verdict, rung_of

__all__ = [
    "GLOSSARY",
    "Headline",
    "headline",
    "how_far",
    "how_it_grows",
    "how_large",
    "tolerance_text",
    "tone_of",
    "where_first",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The verdict in large: `tone` is a colour's name, `mark` a sign that does not need the colour."""

    rung: str
    title: str
    sentence: str
    tone: str
    mark: str


_TONES: dict[Rung, tuple[str, str]] = {
    "BITWISE": ("good", "✓"),
    "EQUAL-RELAXED": ("near", "="),
    "TENSOR-TOLERANCE": ("near", "≈"),
    "METRIC-TOLERANCE": ("fair", "≈"),
    "DIVERGED": ("bad", "≠"),
    "INCONCLUSIVE": ("open", "?"),
}


def tone_of(word: str) -> str:
    """Return the name of the colour of a verdict's word, as a listing has it; `open` of what is no verdict."""
    rung = rung_of(word)
    if word == "UNSUPPORTED":
        return "bad"
    tone = next((tone for known, (tone, _) in _TONES.items() if known == rung), "open")
    return "near" if word != rung and tone == "good" else tone


def headline(verdict: Verdict | None, right: Record, found: Sequence[Pair], *, repeats: bool) -> Headline:
    """Return what a verdict on the run `right` means, in a sentence; `repeats` if it was made to repeat the other."""
    if verdict is None:
        return Headline(
            rung="NO VERDICT",
            title="Not reproduced yet",
            sentence="This run is recorded, but no repetition of it is. Nothing here was checked against a second one.",
            tone="open",
            mark="–",
        )
    title, sentence = _meaning(verdict, right, found, "repetition" if repeats else "other run")
    if not repeats:
        title = _OF_TWO[verdict.verdict]
    tone, mark = _TONES[verdict.verdict]
    if verdict.word != verdict.verdict:
        tone, mark, title = "fair" if tone == "fair" else "near", f"{mark}*", f"{title}, with provisos"
        sentence += " What is listed here as a proviso was no part of the comparison."
    return Headline(rung=verdict.word, title=title, sentence=sentence, tone=tone, mark=mark)


_OF_TWO: dict[Rung, str] = {
    "BITWISE": "The two runs are identical",
    "EQUAL-RELAXED": "The two runs give the same result, under other conditions",
    "TENSOR-TOLERANCE": "The two runs agree within tolerance",
    "METRIC-TOLERANCE": "The two runs give the same metrics, with other weights",
    "DIVERGED": "The two runs differ",
    "INCONCLUSIVE": "The two runs cannot be compared",
}


def _meaning(verdict: Verdict, right: Record, found: Sequence[Pair], again: str) -> tuple[str, str]:
    same = bool(found) and all(pair.state == "equal" for pair in found)
    wrong = list(dict.fromkeys(c.what for c in verdict.comparisons if c.result in ("differs", "missing")))
    if verdict.verdict == "BITWISE":
        sentence = "Everything that was compared came out identical, down to the last bit."
        if again == "repetition":
            sentence = "The run was executed again from its recorded code, environment and data. " + sentence
        return "Reproduced exactly", sentence
    if verdict.verdict == "EQUAL-RELAXED":
        return (
            "Same result, under changed conditions",
            "Everything that was compared came out identical, down to the last bit; but what is listed here was "
            f"changed for the {again}, so it is not called an exact reproduction.",
        )
    if verdict.verdict == "TENSOR-TOLERANCE":
        if same:
            return (
                "Reproduced within tolerance: the model is identical, something else is not",
                "Every checkpoint is equal in every bit. What differs otherwise is within what was declared.",
            )
        return (
            "Reproduced within tolerance",
            f"The {again} is not identical, but every number of the model is within the tolerance that was declared.",
        )
    if verdict.verdict == "METRIC-TOLERANCE":
        return (
            "Same results, with other weights",
            f"The model of the {again} has other numbers than the original, but the metrics that the recipe names are "
            "within their declared tolerance.",
        )
    if verdict.verdict == "DIVERGED":
        if same:
            return (
                "Not reproduced: the model is identical, something else is not",
                f"Every checkpoint is equal in every bit. What differs is {_listed(wrong) or 'not a checkpoint'}.",
            )
        sentence = f"The {again} differs from the original beyond what the recipe allows."
        if verdict.relaxed and again == "repetition":
            sentence += " Its conditions were changed on purpose, so this does not speak against the original."
        return "Not reproduced", sentence
    if right.status != "finished":
        ended = {"failed": "failed", "interrupted": "was interrupted"}.get(right.status, "has not ended")
        said = f" It said: {printable(' '.join(right.failure.split()), 300)}" if right.failure else ""
        return "No conclusion", f"The {again} {ended}.{said}"
    return "No conclusion", "There was nothing that could be compared: neither checkpoints nor outputs."


def tolerance_text(tolerance: Mapping[str, Any]) -> str:
    """Return in words what was allowed, as a verdict's record tells it."""
    allowed = []
    for kind in ("weights", "metrics"):
        found = tolerance.get(kind)
        limits = list(found.items())[:10] if isinstance(found, dict) else []
        allowed += [f"{kind}: {printable(str(name))} {printable(str(limit))}" for name, limit in limits if limit]
    return f"Tolerated: {', '.join(allowed)}." if allowed else "No tolerance was declared: every bit counts."


def _listed(names: Sequence[str]) -> str:
    shown = [printable(name, 80) for name in names[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def where_first(first: Divergence, found: Sequence[Pair], last_epoch: int | None) -> list[str]:
    """Return in sentences where two runs differ first, and by how much."""
    place = printable(first.what, 200)
    before = next((i for i, pair in enumerate(found) if pair.state != "equal"), len(found))
    said = []
    if first.output is not None:
        said.append(f"All {len(found):,} checkpoints are equal." if found and before == len(found) else "")
        said.append(f"The first thing that differs is a file that the script wrote, {printable(first.output, 200)}.")
    elif place:
        if before:
            said.append(f"The first {before:,} of {len(found):,} checkpoints are equal in every bit.")
        said.append(f"The first difference is in the {_checkpoint(place, first, last_epoch)}.")
    if first.tensor is not None:
        said += _tensor(first)
    return [sentence for sentence in said if sentence]


def _checkpoint(place: str, first: Divergence, last_epoch: int | None) -> str:
    if first.saved == "initial" and first.missing is None:
        return f"{place}: before the first step of training"
    if first.epoch is None or first.missing is not None:
        return place
    count = f" of {last_epoch + 1:,}" if last_epoch is not None and last_epoch >= first.epoch else ""
    return f"checkpoint of {place}: after pass {first.epoch + 1:,}{count} over the training data"


def _tensor(first: Divergence) -> list[str]:
    name = printable(first.tensor or "", 160)
    key, _, setting = name.partition(":")
    if setting and key == first.shard:
        return [
            f"What differs there is no weight but the setting {setting} in {key}. It is kept beside the weights; "
            "the model works, or is trained, otherwise with another one."
        ]
    said = f"What differs there first is the tensor {name}"
    if first.differing is not None and first.elements:
        said += f": {first.differing:,} of its {first.elements:,} numbers differ"
    elif first.how:
        said += f": {printable(first.how, 200)}"
    found = [said + "."]
    if first.max_abs is not None:
        at = f", at place {printable(str(first.index[:8]), 60)}" if first.index else ""
        found.append(f"The largest difference is {first.max_abs:.3g}{at}: {how_large(first.relative, first.ulp)}.")
    if first.how and first.differing is not None:
        found.append(f"Among them: {printable(first.how, 200)}.")
    return found


def how_large(relative: float | None, ulp: int | None) -> str:
    """Return the size of a difference in words; `relative` in parts of the number itself."""
    if ulp is not None and 0 < ulp <= 16:
        steps = "the smallest step" if ulp == 1 else f"at most {ulp:,} of the smallest steps"
        return f"{steps} that such numbers can differ by (ulp), the size of a rounding error"
    if relative is None:
        return "against a number that is zero, so that no ratio can be said"
    return f"{_ratio(abs(relative))} the number there, {_judged(abs(relative))}"


def how_far(size: float) -> str:
    """Return a cell's size in words: |Δ| in parts of the largest weight of its tensor."""
    return "NaN or an infinity on one side" if math.isinf(size) else f"{_ratio(size)} the largest weight there"


def _ratio(size: float) -> str:
    """Return the words that stand before what a size is measured by."""
    if size >= 10:
        return f"{min(size, 1e300):,.3g} times"
    if size >= 0.001:
        return f"{100 * size:.3g}\u00a0% of"
    if size > 1e-12:
        return f"one part in {float(f'{1 / size:.2g}'):,.0f} of"
    return f"{size:.1g} of" if size else "nothing of"


def _judged(size: float) -> str:
    for limit, word in ((1e-6, "the size of a rounding error"), (1e-3, "small"), (0.05, "noticeable")):
        if size <= limit:
            return word
    return "large"


def how_it_grows(grid: Grid) -> list[str]:
    """Return in sentences what becomes of a first difference: where it reaches the weights, and how far they get."""
    if not grid.tensors:
        return []
    if grid.first is None:
        return ["No weight of the model differs in the map below."] if not grid.equal else []
    said, rows = [], grid.cells[1:]
    start = [row[grid.first] for row in rows]
    tick = grid.columns[grid.first]
    where = "initial state" if tick == "start" else f"checkpoint of epoch {tick}" if tick.isdigit() else tick
    count = sum(cell.kind not in ("equal", "absent") for cell in start)
    sizes = [cell.size for cell in start if cell.kind == "apart"]
    far = f"; the largest difference is {how_far(max(sizes))}" if sizes else ""
    said.append(f"The weights differ from the {where} on, in {count} of {len(rows)} rows of the map below{far}.")
    last = [row[-1].size for row in rows if row[-1].kind == "apart"]
    if last and sizes and grid.first < len(grid.columns) - 1:
        grown = max(last) > 3 * max(sizes)
        said.append(f"At the last checkpoint it is {how_far(max(last))}{_GROWS if grown else ''}.")
    return said


_GROWS = ": training makes small differences larger"

GLOSSARY: tuple[tuple[str, str], ...] = (
    ("Run", "One execution of a training, with a record of all that went into it and came out of it."),
    (
        "Reproduction",
        "A run that repeats another one from nothing but what was recorded of it: the same code, environment, data, "
        "parameters and seed.",
    ),
    (
        "Checkpoint",
        "The whole state of a training at one moment, saved: the weights, the state of the optimiser, of the random "
        "numbers, of the data's order.",
    ),
    (
        "Tensor",
        "A table of numbers, of any number of dimensions. A model consists of some tens or hundreds: its weights.",
    ),
    ("Epoch", "One pass over the training data. They are counted from 0, as in the code."),
    (
        "Digest",
        "A fingerprint of bytes (SHA-256). Equal digests mean equal bytes; one bit that differs gives another digest.",
    ),
    (
        "|Δ|, relative |Δ|",
        "The difference of two numbers without its sign; and the same in parts of the number that it is compared with.",
    ),
    (
        "ulp",
        "Unit in the last place: the distance from a number to the next one that a computer can store. A difference of "
        "1 ulp is the smallest possible, and typical of an addition that was carried out in another order.",
    ),
    (
        "BITWISE",
        "The strongest verdict: every checkpoint and declared output is equal in every bit, and nothing was relaxed.",
    ),
    ("EQUAL-RELAXED", "The same, but something was changed on purpose for the repetition."),
    (
        "TENSOR-TOLERANCE",
        "Not bitwise, but whatever differs is within a tolerance that was declared for it.",
    ),
    ("METRIC-TOLERANCE", "The weights differ more than that, but the declared metrics are within theirs."),
    ("DIVERGED", "Beyond all of that. INCONCLUSIVE: nothing could be compared, or the repetition failed."),
    (
        "Proviso",
        "What a verdict cannot vouch for although all that was compared came out so: a file that was read and that "
        "nothing pins, for one. A verdict that has any is never printed without a word of it.",
    ),
    ("Relaxed", "What was changed on purpose for a repetition (`--with`). It can forbid BITWISE, and excuses nothing."),
)
