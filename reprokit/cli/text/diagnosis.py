"""What `doctor` saw, as people read it."""

from __future__ import annotations

from reprokit.cli.text.table import table
from reprokit.doctor.findings import Diagnosis, Omission

__all__ = ["diagnosis_text"]

_RESULTS = {
    "BITWISE": "BITWISE: a fresh process went on to the very same bits, and everything found came back",
    "INCOMPLETE": "INCOMPLETE: equal bits so far, but something that training moves is not in the checkpoint",
    "DIVERGED": "DIVERGED: a resumed run does not go on as this one would have",
    "INCONCLUSIVE": "INCONCLUSIVE: it could not be seen whether a run of this script resumes",
}


def diagnosis_text(diagnosis: Diagnosis) -> str:
    """Return what `doctor` prints; the last line is the result."""
    rows: list[tuple[str, str]] = []
    if diagnosis.restored is not None:
        rows.append(("restored", f"{diagnosis.restored}, in a fresh process"))
    if diagnosis.compared is not None and diagnosis.reason is None:
        how = f"first difference {diagnosis.first_difference}" if diagnosis.first_difference else "equal in every bit"
        rows.append(("compared", f"{diagnosis.compared}: {diagnosis.tensors} tensors and state.json, {how}"))
        rows.append(("looked at", f"{diagnosis.sources} sources of state in the process"))
    rows += [("lost" if one.certain else "note", str(one)) for one in diagnosis.findings]
    rows += [("left out", _omission(one)) for one in diagnosis.omitted]
    rows += [("numeric", text) for text in diagnosis.numeric]
    rows += [("not checked", text) for text in diagnosis.unchecked]
    rows.append(
        ("result", f"{diagnosis.result}: {diagnosis.reason}" if diagnosis.reason else _RESULTS[diagnosis.result])
    )
    return table(rows)


def _omission(omission: Omission) -> str:
    if omission.unchanged:
        return f"{omission.part:<22} not tried: it is still as it was before training"
    if omission.caught:
        named = next(str(one) for one in omission.findings if one.part == omission.part)
        return f"{omission.part:<22} noticed: {named}" + ("" if omission.diverged else " (it changed no bits so far)")
    after = "differs" if omission.diverged else "is equal"
    more = f": {omission.first_difference}" if omission.first_difference else ""
    return f"{omission.part:<22} NOT NOTICED, and the next checkpoint {after}{more}"
