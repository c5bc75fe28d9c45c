"""What to install is said in words that pip takes, whether or not reprokit is on an index."""

from __future__ import annotations

import shlex
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from reprokit.core.own_extras import pip_words


def test_an_extra_is_its_requirements_with_their_ranges() -> None:
    try:
        told = metadata.requires("reprokit-runs") or []
    except metadata.PackageNotFoundError:
        pytest.skip("reprokit runs from its source here, and was not installed")
    (keras,) = shlex.split(pip_words("keras"))
    assert Requirement(keras).name == "keras" and len(Requirement(keras).specifier) == 2
    assert {Requirement(one).name for one in shlex.split(pip_words("sklearn"))} == {"scikit-learn", "skops", "joblib"}
    assert len(told) > 20


def test_without_metadata_or_such_an_extra_it_is_the_extra_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pip_words("no-such") == "'reprokit-runs[no-such]'"

    def nothing(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", nothing)
    assert pip_words("keras") == "'reprokit-runs[keras]'"
