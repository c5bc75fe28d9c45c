"""Is bytecode what its source compiles to? Asked of the interpreter that would execute it, which does not do so."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from reprokit.environment.local.interpreter import Interpreter
from reprokit.environment.local.stat_cache import Memory, marks

__all__ = ["edited", "source_of"]

_FEW = 200  # files that one process is given: more than its start costs
# What Python itself would not believe (an older source's, another version's) is compiled again by it, and does no harm.
# Code objects are equal where all but the name of their file is.
_ASK = """
import importlib.util, json, marshal, os, sys
def believed(data, source):
    if data[:4] != importlib.util.MAGIC_NUMBER or len(data) < 16:
        return False
    flags = int.from_bytes(data[4:8], "little")
    if flags & 1:
        with open(source, "rb") as handle:
            return not flags & 2 or importlib.util.source_hash(handle.read()) == data[8:16]
    seen = os.stat(source)
    return data[8:16] == b"".join((int(n) & 0xFFFFFFFF).to_bytes(4, "little") for n in (seen.st_mtime, seen.st_size))
def honest(compiled, source, level):
    try:
        with open(compiled, "rb") as handle:
            data = handle.read()
        if not believed(data, source):
            return True
        with open(source, "rb") as handle:
            code = compile(handle.read(), source, "exec", dont_inherit=True, optimize=level)
        return marshal.loads(data[16:]) == code
    except Exception:
        return False
print(json.dumps([honest(*one) for one in json.load(sys.stdin)]))
"""


def source_of(compiled: str, tag: str) -> tuple[str, int] | None:
    """Return the source of a file in `__pycache__`, and the level of optimisation; None if no import looks at it."""
    folder, _, name = compiled.rpartition("/__pycache__/")
    stem, found, rest = name.partition(f".{tag}.")
    if not found or not rest.endswith("pyc"):
        return None
    level = rest.removesuffix("pyc").removesuffix(".").removeprefix("opt-")
    return (f"{folder}/{stem}.py", int(level or 0)) if level in ("", "0", "1", "2") else None


def edited(candidates: Iterable[str], interpreter: Interpreter, memory: Memory) -> Iterator[str]:
    """Yield those files of bytecode that are believed and are not what their source says; each is compared once."""
    asked: list[tuple[str, os.stat_result, list[int], tuple[str, int]]] = []
    for compiled in candidates:
        told = source_of(compiled, interpreter.tag)
        try:
            seen = os.stat(compiled)  # noqa: PTH116 - its path is text already
            source = os.stat(told[0]) if told is not None else None  # noqa: PTH116
        except OSError:
            continue  # without a source nothing imports it
        if told is None or source is None:
            continue
        known = memory.get(f"bytecode:{compiled}", seen)
        if known is not None and known["source"] == marks(source):
            if not known["honest"]:
                yield compiled
        else:
            asked.append((compiled, seen, marks(source), told))
    answers = _ask([(compiled, *told) for compiled, _, _, told in asked], interpreter)
    for (compiled, seen, source_marks, _), honest in zip(asked, answers, strict=True):
        memory.put(f"bytecode:{compiled}", seen, {"source": source_marks, "honest": honest})
        if not honest:
            yield compiled


def _ask(files: Sequence[tuple[str, str, int]], interpreter: Interpreter) -> list[bool]:
    parts = [files[start : start + _FEW] for start in range(0, len(files), _FEW)]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return [answer for part in pool.map(lambda part: _answer(part, interpreter.python), parts) for answer in part]


def _answer(files: Sequence[tuple[str, str, int]], python: Path) -> list[bool]:
    """Return which are honest; one at which the interpreter crashes is not."""
    done = subprocess.run(
        [python, "-I", "-S", "-c", _ASK], input=json.dumps(files), text=True, capture_output=True, check=False
    )
    if done.returncode == 0:
        return [bool(one) for one in json.loads(done.stdout)]
    if len(files) == 1:
        return [False]
    half = len(files) // 2
    return [*_answer(files[:half], python), *_answer(files[half:], python)]
