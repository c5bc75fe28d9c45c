"""Equal values give equal bytes; what has no JSON is refused."""

import hashlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprokit.core.canonical_json import canonical, metric_values, ordered, sha256_of, spelled

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_round_trip_keeps_the_value(value):
    assert json.loads(canonical(value)) == value


@given(st.dictionaries(st.text(), JSON))
def test_the_order_of_keys_does_not_matter(value):
    assert canonical(dict(reversed(list(value.items())))) == canonical(value)


def test_form_is_sorted_compact_and_ascii():
    assert canonical({"b": [1, 1.0, None], "a": "é"}) == b'{"a":"\\u00e9","b":[1,1.0,null]}'


def test_one_and_one_point_zero_differ():
    assert sha256_of(1) != sha256_of(1.0)


def test_sha256_of_is_the_hash_of_the_canonical_bytes():
    assert sha256_of({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_are_refused(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"x": [value]})


def test_numbers_that_json_lacks_are_spelled_and_read_back():
    values = {"a": math.inf, "b": -math.inf, "c": math.nan, "d": 0.5, "e": 0.0, "f": True, "g": 3}
    told = spelled(values)
    assert told == {"a": "inf", "b": "-inf", "c": "nan", "d": 0.5, "e": 0.0, "f": True, "g": 3}
    back = metric_values(json.loads(canonical(told)))
    assert repr(back) == repr(values)
    assert spelled([(math.inf, [1.0]), {"x": [-math.inf]}, "text", None]) == [
        ["inf", [1.0]], {"x": ["-inf"]}, "text", None,
    ]  # fmt: skip


def test_what_is_no_metric_stays_as_it_is():
    assert metric_values({"a": "infinite", "b": None, "c": [1]}) == {"a": "infinite", "b": None, "c": [1]}
    for value in ([], "inf", None, 3):
        assert metric_values(value) is value


def test_the_hash_of_a_value_is_that_of_its_canonical_json():
    assert sha256_of({"b": 1, "a": "é"}) == hashlib.sha256(b'{"a":"\\u00e9","b":1}').hexdigest()


def test_in_order_it_is_spelled_alike_but_for_the_order_of_keys() -> None:
    assert (
        ordered({"b": 1, "a": {"d": [1.5, None, "é"], "c": True}}) == b'{"b":1,"a":{"d":[1.5,null,"\\u00e9"],"c":true}}'
    )
    assert ordered({"a": 1, "b": 2}) == canonical({"b": 2, "a": 1}) != ordered({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        ordered({"a": float("nan")})
