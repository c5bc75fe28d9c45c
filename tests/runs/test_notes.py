"""Notes on runs: in the log, signed and in order; the record stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from reprokit.errors import NotFoundError, RefusedError, UsageError
from reprokit.registry.local import LocalRegistry
from reprokit.runs.history import amendments, note, notes
from reprokit.runs.store import RunStore
from tests.conftest import put_run

RUN = "20260101-000000-aaaaa1"


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    made = LocalRegistry(tmp_path / "registry")
    put_run(made, RUN)
    return made


def test_notes_are_kept_in_order_and_the_run_stays_as_it_is(registry: LocalRegistry) -> None:
    before = RunStore(registry).load(RUN)
    first = note("latest", "  the data was wrong\nsee ticket 7 ", registry=registry)
    second = note(RUN[-6:], "😀", registry=registry)
    assert [first.text, second.text] == ["the data was wrong\nsee ticket 7", "😀"]
    assert notes(RUN, registry=registry) == [first, second]
    assert "@" in first.by
    assert first.at < second.at
    assert RunStore(registry).load(RUN) == before
    assert amendments(RUN, registry) == []
    assert [one.run for one in RunStore(registry).summaries()] == [RUN]


@pytest.mark.parametrize("text", ["", " \n", "x" * 65_537])
def test_a_note_says_something(registry: LocalRegistry, text: str) -> None:
    with pytest.raises(UsageError):
        note(RUN, text, registry=registry)


def test_a_secret_is_no_note(registry: LocalRegistry) -> None:
    secret = "".join(("ghp_", "a1B2c3D4e5" * 4))[:40]
    with pytest.raises(RefusedError):
        note(RUN, f"the token is {secret}", registry=registry)
    assert notes(RUN, registry=registry) == []


def test_there_is_no_note_on_a_run_that_is_not_there(registry: LocalRegistry) -> None:
    with pytest.raises(NotFoundError):
        note("20260101-000000-bbbbb1", "text", registry=registry)
    with pytest.raises(NotFoundError):
        registry.note("runs/20260101-000000-bbbbb1", "text")
