"""One word for a place in a run, whoever says it."""

from __future__ import annotations

import pytest

from reprokit.schema.place import INITIAL, Place, Spot


@pytest.mark.parametrize(
    ("place", "words", "exact", "tick", "selector"),
    [
        (INITIAL, "initial state", "initial state", "start", "initial"),
        (Place(kind="initial", step=0), "initial state", "initial state", "start", "initial"),
        (Place(epoch=0), "epoch 0", "epoch 0", "0", "epoch=0"),
        (Place(epoch=3, step=1200), "epoch 3", "epoch 3, step 1200", "3", "epoch=3"),
        (
            Place(epoch=3, batch=20, step=1200),
            "epoch 3, batch 20",
            "epoch 3, batch 20, step 1200",
            "3, batch 20",
            "epoch=3",
        ),
        (Place(step=500), "step 500", "step 500", "step 500", "step=500"),
        (Place(epoch=1, save=2), "epoch 1, save 2", "epoch 1", "1, save 2", "epoch=1"),
        (Place(), "checkpoint 1", "checkpoint 1", "checkpoint 1", None),
        (Place(save=3), "checkpoint 3", "checkpoint 3", "checkpoint 3", None),
    ],
)
def test_its_words(place: Place, words: str, exact: str, tick: str, selector: str | None) -> None:
    assert (str(place), place.exact, place.tick, place.selector) == (words, exact, tick, selector)


def test_what_is_compared_of_it() -> None:
    assert Place(epoch=3, step=9).comparable == Place(epoch=3, step=8).comparable == Place(epoch=3)
    assert Place(epoch=3, batch=1).comparable != Place(epoch=3).comparable
    assert Place(step=9).comparable == Place(step=9)
    assert Place(kind="initial", step=0).comparable == INITIAL
    assert Place(kind="signal", epoch=1).is_by_chance
    assert not Place(epoch=1).is_by_chance


def test_a_spot_says_what_and_where() -> None:
    assert str(Spot(place=Place(epoch=2))) == "epoch 2"
    assert str(Spot(output="metrics.json")) == "output metrics.json"
    assert str(Spot(metric="loss")) == "metric loss"
    assert str(Spot(metric="loss", place=Place(step=5))) == "metric loss of step 5"
