"""Change the deciding modules a little, wrongly, and see whether the everyday tests notice.

    python -m tests.mutation                        300 changes drawn from all modules
    python -m tests.mutation --draw 50 --seed 7 --module comparison/ladder.py
    python -m tests.mutation --all --group files
    python -m tests.mutation --draw 320 --part 2/4  the second quarter of a draw, for who has minutes and not an hour

Prints a table and whatever nobody noticed. Exits 1 if a change survived for which `survivors.toml` has no reason.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
import tomllib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.mutation.changes import Change, changes
from tests.mutation.modules import GROUPS
from tests.mutation.trial import HOUSE, BrokenBefore, Outcome, trial_apart

__all__ = ["KNOWN", "known_survivors", "main"]

KNOWN = Path(__file__).with_name("survivors.toml")
_TASK = 40  # changes of one task: a group with more of them is shared out


def known_survivors() -> dict[tuple[str, str, str, int], str]:
    """Return the reason for each change that may survive: by module, function, text and occurrence."""
    told = tomllib.loads(KNOWN.read_text())
    return {
        (file, row.get("within", ""), row["change"], row.get("nth", 0)): row["why"]
        for file, rows in told.items()
        for row in rows
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.splitlines()[0])
    parser.add_argument("--draw", type=int, default=300, help="how many changes; 300")
    parser.add_argument("--all", action="store_true", help="every change there is instead")
    parser.add_argument("--seed", type=int, default=1, help="of the draw")
    parser.add_argument("--group", action="append", choices=GROUPS, help="only modules of this group")
    parser.add_argument("--module", action="append", help="only this module, below reprokit/")
    parser.add_argument("--part", type=_part, default=(1, 1), help="which part of the changes, as 2/5; all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--list", action="store_true", help="print each change and what noticed it")
    asked = parser.parse_args(arguments)
    start = time.monotonic()
    known = known_survivors()
    pool = [
        (group, file, change)
        for group in asked.group or GROUPS
        for file in GROUPS[group].modules
        if not asked.module or file in asked.module
        for change in changes((HOUSE / file).read_text())
    ]
    drawn = pool if asked.all else random.Random(asked.seed).sample(pool, min(asked.draw, len(pool)))
    drawn.sort(key=_place)
    part, parts = asked.part
    outcomes = _tried(drawn[(part - 1) * len(drawn) // parts : part * len(drawn) // parts], asked.jobs)
    if asked.list:
        for one in outcomes:
            print(f"{one.by is not None!s:5} {one.seconds:6.2f} s  {_told(one)}  {one.by or f'{one.asked} tests'}")
    unexplained = _table(outcomes, len(pool), known)
    print(f"{time.monotonic() - start:.0f} s")
    return 1 if unexplained else 0


def _part(text: str) -> tuple[int, int]:
    part, parts = map(int, text.split("/"))
    if not 1 <= part <= parts:
        raise ValueError(text)
    return part, parts


def _place(drawn: tuple[str, str, Change]) -> tuple[str, str, int]:
    group, file, change = drawn
    return group, file, change.number


def _tried(drawn: Iterable[tuple[str, str, Change]], jobs: int) -> list[Outcome]:
    by_group: dict[str, list[tuple[str, Change]]] = {}
    for group, file, change in drawn:
        by_group.setdefault(group, []).append((file, change))
    tasks = []
    for group, rows in by_group.items():
        parts = -(-len(rows) // _TASK)
        tasks += [(group, rows[part * len(rows) // parts : (part + 1) * len(rows) // parts]) for part in range(parts)]
    tasks.sort(key=lambda task: -len(task[1]))
    found = []
    with ThreadPoolExecutor(jobs) as pool:
        for number, done in enumerate(as_completed([pool.submit(_task, task) for task in tasks]), 1):
            outcomes = done.result()
            found += outcomes
            survived = [_told(one) for one in outcomes if one.by is None]
            print(f"{number} of {len(tasks)}: {len(found)} changes", *survived, sep="\n  ", file=sys.stderr, flush=True)
    return sorted(found, key=lambda one: (one.file, one.change.number))


def _task(task: tuple[str, Sequence[tuple[str, Change]]]) -> list[Outcome]:
    group, rows = task
    wanted: dict[str, list[Change]] = {}
    for file, change in rows:
        wanted.setdefault(file, []).append(change)
    try:
        return trial_apart(GROUPS[group].tests, wanted)
    except BrokenBefore as error:
        print(f"{len(rows)} changes of {group} were not tried: {error}", file=sys.stderr, flush=True)
        return []


def _table(outcomes: Sequence[Outcome], pool: int, known: dict[tuple[str, str, str, int], str]) -> list[Outcome]:
    survivors = [one for one in outcomes if one.by is None]
    unexplained = [one for one in survivors if (one.file, *one.change.key) not in known]
    width = max(map(len, [one.file for one in outcomes] + ["module"]))
    print(f"{'module':{width}}  changes  noticed     %  explained")
    files = dict.fromkeys(one.file for one in outcomes)
    for file in [*files, None]:
        rows = [one for one in outcomes if file in (None, one.file)]
        noticed = sum(one.by is not None for one in rows)
        reasons = sum((one.file, *one.change.key) in known for one in rows if one.by is None)
        share = 100 * noticed / len(rows)
        print(f"{file or f'of {pool}':{width}}  {len(rows):7}  {noticed:7}  {share:4.0f}  {reasons or '':9}".rstrip())
    for title, some in (("noticed by nothing", unexplained), ("known", [o for o in survivors if o not in unexplained])):
        if some:
            print(f"\n{title}:")
        for one in some:
            reason = known.get((one.file, *one.change.key), "" if one.asked else "no test reaches it")
            print(f"  {_told(one)}" + (f"\n      {reason}" if reason else ""))
    print()
    return unexplained


def _told(one: Outcome) -> str:
    nth = f" ({one.change.nth})" if one.change.nth else ""
    return f"{one.file}:{one.change.first} {one.change.within or '(module)'}: {one.change.text}{nth}"


if __name__ == "__main__":
    sys.exit(main())
