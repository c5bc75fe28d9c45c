"""Whatever a stranger wrote, a reader gives a value or our error: never a traceback, a hang, or the whole memory."""

from __future__ import annotations

import os

from tests.conftest import SCALE
from tests.faults.fuzzing import Tally, draw, opened

SEED = int(os.environ.get("REPROKIT_TEST_SEED", "1"))
SECONDS = 10 if SCALE < 10 else 1200  # a million inputs took 930 s on two busy cores


def test_mutated_inputs_give_values_or_our_errors() -> None:
    tally = Tally()
    with opened() as doors:
        draw(doors, seed=SEED, seconds=SECONDS, tally=tally)
        assert set(tally.taken) == {door.name for door in doors}
        for door in doors:
            assert tally.refused.get(door.name, 0) > 0 or door.name.startswith("socket"), f"{door.name} takes anything"


def test_each_door_takes_its_own_seeds() -> None:
    with opened() as doors:
        for door in doors:
            if door.name not in ("manifest", "manifest file"):  # whose hash is asked for as another
                for seed in door.seeds:
                    door.enter(seed)
