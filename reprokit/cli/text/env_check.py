"""What `env check` prints."""

from __future__ import annotations

from typing import Any

from reprokit.cli.text.table import table
from reprokit.numerics.check import Check

__all__ = ["check_text"]

_MOST, _FEW, _WIDE = 30, 6, 120
_WORDS = {
    "EQUAL": "EQUAL: nothing that decides bits differs, and every kernel that was tried gave equal bits",
    "MAY-DIFFER": "MAY-DIFFER: something that can decide bits differs; `{settles}` settles it",
    "DIFFERENT": "DIFFERENT: what the run was trained with gives other bits here",
    "UNKNOWN": "UNKNOWN: there is nothing to tell it from",
}


def check_text(check: Check) -> str:
    """Return the comparison in lines; the last one is the prediction."""
    rows: list[tuple[str, str]] = [("run", check.run_id)] if check.run_id else []
    count, prediction = len(check.packages), check.prediction
    equal = f"match    {check.compared} of {check.compared} packages"
    differs = f"DIFFERS  in {count} {'thing' if check.files else 'package'}{'s'[: count != 1]}" if count else equal
    rows.append(("environment", f"{differs}, lock {check.hash[:8]}"))
    if check.failure:
        rows.append(("environment", f"cannot be made here: {check.failure}"))
    rows += [("file", text) for text in check.files[:_MOST]]
    rows += [("", f"and {len(check.files) - _MOST} more")] if len(check.files) > _MOST else []
    rows.append(("python", check.python or "none"))
    if prediction is None or check.failure:  # otherwise each package stands where it counts
        locked_first = sorted(check.packages, key=lambda change: change.locked is None)
        rows += [("package", str(change)) for change in locked_first[:_MOST]]
        rows += [("", f"and {count - _MOST} more")] if count > _MOST else []
    if prediction is None:
        return table(rows)
    rows += [("machine", f"{name} {_plain(there)} → {_plain(here)}") for name, (there, here) in check.machine.items()]
    if prediction.kernels:
        told = (f"{family} {equal} of {tried}" for family, (tried, equal) in prediction.kernels.items())
        rows.append(("kernels", f"equal bits: {', '.join(told)}"))
    for name, texts, most in (("no effect", prediction.notes, _FEW), ("reason", prediction.reasons, _MOST)):
        rows += [(name, text) for text in texts[:most]]
        rows += [("", f"and {len(texts) - most} more")] if len(texts) > most else []
    settles = f"reproduce {check.run_id}{' --with env=current' if count else ''} --until epoch=0"
    rows.append(("prediction", _WORDS[prediction.prediction].format(settles=settles)))
    return table(rows)


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _WIDE else f"{text[: _WIDE - 1]}…"
