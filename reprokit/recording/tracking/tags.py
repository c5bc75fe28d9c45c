"""What MLflow is told of a run: its parameters, its tags, names that MLflow takes. It sends nothing."""

from __future__ import annotations

import calendar
import hashlib
import posixpath
import re
import shlex
import time

from reprokit.core.terminal_text import tame
from reprokit.environment.local.clean_url import clean_url
from reprokit.schema.flags import as_text
from reprokit.schema.lock import RunLock
from reprokit.schema.recipe import Code
from reprokit.schema.record import Record
from reprokit.schema.verdict import VerdictRecord

__all__ = ["RUN_TAG", "STATUS", "Names", "milliseconds", "params_of", "tags_of", "verdict_tags"]

RUN_TAG = "reprokit.run"
"""The tag that has a run's ID here: by it a run is found again in MLflow, and known when MLflow's runs are imported."""

STATUS = {"running": "RUNNING", "finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
"""What MLflow calls the status of a run."""

_ODD = re.compile(r"[^\w./ :-]")
_MAX_NAME, _MAX_PARAM, _MAX_TAG = 250, 6000, 5000  # characters, as MLflow has them


class Names:
    """Names of metrics and parameters as MLflow takes them: no two become the same.

    Attributes:
        changed: Those that had to be spelled otherwise, and how.
    """

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._taken: set[str] = set()
        self.changed: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        found = self._known.get(name)
        if found is None:
            found = _spelled(name)
            if found in self._taken:
                found = f"{found[: _MAX_NAME - 7]}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:6]}"
            self._known[name] = found
            self._taken.add(found)
            if found != name:
                self.changed[name] = found
        return found


def _spelled(name: str) -> str:
    """Return a name of letters, digits and `_-. :/` that is no other path than it says."""
    spelled = posixpath.normpath(_ODD.sub("_", name)[:_MAX_NAME]).lstrip("/")
    return spelled.replace("..", "__") if spelled not in ("", ".") else "_"


def params_of(record: Record) -> dict[str, str]:
    """Return a run's parameters as text; a long one is cut."""
    return {name: _cut(as_text(value), _MAX_PARAM) for name, value in record.params.items()}


def tags_of(record: Record, lock: RunLock | None) -> dict[str, str]:
    """Return a run's tags but for the verdict on it."""
    code, environment = record.code, record.environment
    tags = {
        RUN_TAG: record.run_id,
        "reprokit.name": record.name,
        "reprokit.release": record.reprokit,
        "reprokit.lock": record.lock_hash,
        "reprokit.environment": None if environment is None else environment.hash,
        "reprokit.checkpoints": f"{len(record.checkpoints)} in {record.checkpoint_package}" if record.last else None,
        "reprokit.unused": ", ".join(record.unused),
        "reprokit.failure": record.failure,
        "reprokit.reproduces": record.reproduces,
        "reprokit.relaxed": ", ".join(record.relaxed),
        "mlflow.user": record.by,
        "mlflow.source.name": None if lock is None else _script(lock.recipe.code),
        "mlflow.source.type": "LOCAL",
    }
    if code is not None:
        tags |= {
            "reprokit.code": code.tree + (" (uncommitted changes)" if code.dirty else ""),
            "mlflow.source.git.commit": code.commit,
            "mlflow.source.git.branch": code.branch,
            "mlflow.source.git.repoURL": None if code.remote is None else clean_url(code.remote),
        }
    for data in record.data:
        within = f":{data.within}" if data.within else ""
        tags[f"reprokit.data.{data.name}"] = f"{data.package}@{data.top_hash}{within}"
    if record.verdicts:
        tags["reprokit.verdict"] = record.verdicts[-1].word
    return {_spelled(name): _cut(value, _MAX_TAG) for name, value in tags.items() if value}


def _script(code: Code) -> str | None:
    return shlex.join(code.command) if code.command is not None else code.entrypoint or code.notebook


def verdict_tags(verdicts: list[VerdictRecord]) -> dict[str, str]:
    """Return what the newest verdict on a run's repetitions says, and how many there are; nothing without one.

    The newest of a whole repetition with nothing relaxed, where there is one.
    """
    if not verdicts:
        return {}
    plain = [one for one in verdicts if not one.verdict.relaxed and one.verdict.until is None]
    newest = (plain or verdicts)[-1]
    tags = {
        "reprokit.verdict": newest.verdict.word,
        "reprokit.verdict.by": newest.by,
        "reprokit.verdict.at": newest.at,
        "reprokit.verdict.run": newest.reproduction.run_id,
        "reprokit.verdict.relaxed": ", ".join(newest.verdict.relaxed),
        "reprokit.verdicts": str(len(verdicts)),
    }
    return {name: _cut(value, _MAX_TAG) for name, value in tags.items() if value}


def milliseconds(moment: str) -> int:
    """Return a record's time in ms since 1970."""
    whole, _, rest = moment.removesuffix("Z").partition(".")
    seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
    return seconds * 1000 + int(f"{rest}000"[:3])


def _cut(value: str, most: int) -> str:
    told = tame(value)
    return told if len(told) <= most else told[: most - 1] + "…"
