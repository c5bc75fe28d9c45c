"""Who takes batches is seen: a loop, through what stands around, or `next`; `enumerate` goes on behind what is done."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from reprokit.client.batches.taken import BY_HAND, OVER, Taken


def _numbers(first: int = 0) -> Generator[int, None, None]:
    yield from range(first, 9)


def _through(batches: Any) -> Iterator[Any]:
    for batch in batches:  # noqa: UP028 - as progress bars do
        yield batch


_WAYS: dict[str, tuple[Callable[[Taken], Any], str | None]] = {
    "alone": (lambda taken: taken, None),
    "enumerate": (enumerate, None),
    "a generator": (_through, None),
    "a generator around enumerate": (lambda taken: _through(enumerate(taken)), None),
    "map": (lambda taken: map(str, taken), None),
    "repeat": (lambda taken: zip(itertools.repeat(1), taken, strict=False), None),
    "enumerate around a generator": (lambda taken: enumerate(_through(taken)), "enumerate(…) is not right around"),
    "range": (lambda taken: zip(range(9), taken, strict=False), "zip(…) has a range_iterator beside"),
    "count": (lambda taken: zip(taken, itertools.count(), strict=False), "zip(…) has a count beside"),
    "islice": (lambda taken: itertools.islice(taken, 4), "itertools.islice stands around"),
    "cycle": (itertools.cycle, "itertools.cycle stands around"),
}


@pytest.mark.parametrize("way", _WAYS)
def test_a_loop_is_known_through_what_stands_around(way: str) -> None:
    wrap, told = _WAYS[way]
    taken = Taken(_numbers())
    for _ in wrap(taken):
        assert taken.is_inside()
        assert (taken.obstacle() or "").startswith(told or "")
        assert (taken.obstacle() is None) == (told is None)
        break
    assert not taken.is_inside()


@pytest.mark.parametrize("start", [0, 1])
def test_enumerate_goes_on_behind_what_is_done(start: int) -> None:
    taken = Taken(_numbers(6))
    taken.skipped = 6
    assert [(i, batch) for i, batch in enumerate(taken, start)] == [(6 + start, 6), (7 + start, 7), (8 + start, 8)]


@pytest.mark.parametrize(
    "take", [next, list, lambda taken: next(_through(taken)), lambda taken: next(enumerate(taken))]
)
def test_what_is_taken_without_a_loop_is_taken_by_hand(take: Callable[[Taken], Any]) -> None:
    taken = Taken(_numbers())
    take(taken)
    assert taken.obstacle() == BY_HAND
    assert not taken.is_inside()


def test_who_saves_in_a_handler_or_a_function_of_the_loop_is_inside() -> None:
    taken, seen = Taken(_numbers()), []

    def save() -> None:
        seen.append(taken.is_inside())

    for _ in taken:
        try:
            with pytest.raises(ValueError, match="no"):
                save()
                raise ValueError("no")
            raise KeyError
        except KeyError:
            save()
        finally:
            save()
    save()
    assert seen == [True] * 27 + [False]


def test_more_after_its_end_is_an_error() -> None:
    taken = Taken(_numbers())
    next(taken)
    taken.close(OVER)
    with pytest.raises(RuntimeError, match=r"ckpt\.save stood where this epoch goes on"):
        next(taken)
