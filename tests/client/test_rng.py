"""Generators go on where they were; a state that would read beyond its numbers is refused."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from reprokit.client.rng import generator_state, rng_state, set_generator_state, set_rng_state


def test_the_global_generators_go_on_where_they_were() -> None:
    state = rng_state()
    first = random.random(), np.random.random()
    set_rng_state(state)
    assert (random.random(), np.random.random()) == first


@pytest.mark.parametrize(
    "make",
    [random.Random, np.random.RandomState, np.random.default_rng, lambda s: np.random.Generator(np.random.MT19937(s))],
)
def test_a_generator_of_the_users_goes_on_where_it_was(make: Any) -> None:
    generator, other = make(1), make(2)
    generator.random()
    set_generator_state(other, generator_state(generator))
    assert other.random() == generator.random()


@pytest.mark.parametrize("position", [-1, 625, 10**9, True, 1.0, "5", None])
def test_a_twister_whose_position_is_outside_it_is_refused(position: Any) -> None:
    """NumPy takes such a state, and ends the process at the next draw."""
    state = rng_state()
    state["numpy"]["state"]["pos"] = position
    with pytest.raises(ValueError, match="the state of a NumPy generator is malformed: its position is"):
        set_rng_state(state)
    twister = np.random.Generator(np.random.MT19937(1))
    told = generator_state(twister)
    told["state"]["pos"] = position
    with pytest.raises(ValueError, match="the state of a NumPy generator is malformed: its position is"):
        set_generator_state(twister, told)


@pytest.mark.parametrize(
    "state", [None, 5, [], {}, {"bit_generator": "MT19937"}, {"bit_generator": "MT19937", "state": []}]
)
def test_what_is_no_state_is_refused(state: Any) -> None:
    with pytest.raises(ValueError, match="the state of a NumPy generator is malformed"):
        set_rng_state({"numpy": state})
