"""What a repetition is given is data; its option of `--with` reads back as the same data."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprokit.errors import UsageError
from reprokit.reproduction.overrides import parse_factor
from reprokit.schema.factor import SETTINGS, Factor

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(_JSON)
def test_every_value_of_a_parameter_survives_its_option(value: Any) -> None:
    factor = Factor(kind="param", name="x", value=value)
    again = parse_factor(factor.option)
    assert again == factor and type(again.value) is type(value)


@pytest.mark.parametrize(
    "value", ["😀", "\U000e0001", "a\x85b", "\u2028", "true", "1e-3", "1:30", "# no", " x ", "", "\0"]
)
def test_texts_that_yaml_or_json_would_read_otherwise(value: str) -> None:
    assert parse_factor(Factor(kind="param", name="x", value=value).option).value == value


def test_the_other_kinds() -> None:
    for option, factor in {
        "code=.": Factor(kind="code", value="."),
        "env=current": Factor(kind="environment", value="current"),
        "data.images=v/c:prod": Factor(kind="data", name="images", value="v/c:prod"),
        "variable.MKL_CBWR=AVX2": Factor(kind="variable", name="MKL_CBWR", value="AVX2"),
        "variable.MKL_CBWR=": Factor(kind="variable", name="MKL_CBWR", value=None),
        "threads=4": Factor(kind="execution", name="threads", value=4),
    }.items():
        assert (parse_factor(option), factor.option) == (factor, option)
    assert [parse_factor(f"{name}=1").name for name in SETTINGS] == list(SETTINGS)


@pytest.mark.parametrize("option", ["threads", "threads=", "param.=3", "=3", "colour=red", "data=x"])
def test_what_cannot_be_given_is_refused(option: str) -> None:
    with pytest.raises(UsageError, match=r"^--with "):
        parse_factor(option)
