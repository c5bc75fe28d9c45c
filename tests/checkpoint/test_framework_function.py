"""A framework's own functions, by where they lie."""

from __future__ import annotations

import sys

import pytest

from reprokit.checkpoint.framework_function import framework_function
from reprokit.core.own_extras import pip_words
from reprokit.errors import UsageError


def test_the_function_that_is_named_is_returned() -> None:
    assert framework_function("json:dumps", extra="x", what="It") is sys.modules["json"].dumps


def test_a_library_that_is_not_installed_is_named_with_what_brings_it() -> None:
    with pytest.raises(UsageError) as said:
        framework_function("nothing_of_that_name.inner:make", extra="lightgbm", what="Writing .txt")
    assert said.value.message == "Writing .txt needs a library that is not installed here: nothing_of_that_name."
    assert said.value.hint == f"`pip install {pip_words('lightgbm')}`"
