"""What `env check` prints."""

from __future__ import annotations

from typing import Any

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
    rows: list[tuple[str, str]] = [("run", check.run)] if check.run else []
    count, prediction = len(check.packages), check.prediction
    differs = f"DIFFERS  in {count} packages" if count else f"match    {check.compared} of {check.compared} packages"
    rows.append(("environment", f"{differs}, lock {check.hash[:8]}"))
    if check.failure:
        rows.append(("environment", f"cannot be made here: {check.failure}"))
    rows.append(("python", check.python or "none"))
    if prediction is None or check.failure:  # otherwise each package stands where it counts
        locked_first = sorted(check.packages, key=lambda change: change.locked is None)
        rows += [("package", str(change)) for change in locked_first[:_MOST]]
        rows += [("", f"and {count - _MOST} more")] if count > _MOST else []
    if prediction is None:
        return _table(rows)
    rows += [("machine", f"{name} {_plain(there)} → {_plain(here)}") for name, (there, here) in check.machine.items()]
    if prediction.kernels:
        told = (f"{family} {equal} of {tried}" for family, (tried, equal) in prediction.kernels.items())
        rows.append(("kernels", f"equal bits: {', '.join(told)}"))
    for name, texts, most in (("no effect", prediction.notes, _FEW), ("reason", prediction.reasons, _MOST)):
        rows += [(name, text) for text in texts[:most]]
        rows += [("", f"and {len(texts) - most} more")] if len(texts) > most else []
    settles = f"reproduce {check.run}{' --with env=current' if count else ''} --until epoch=0"
    rows.append(("prediction", _WORDS[prediction.prediction].format(settles=settles)))
    return _table(rows)


def _table(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {_printable(value)}" for name, value in rows)


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _WIDE else f"{text[: _WIDE - 1]}…"


def _printable(text: str) -> str:
    """Return a text without control characters: a record is a stranger's."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)
