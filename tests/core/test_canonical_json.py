"""Equal values give equal bytes; what has no JSON is refused."""

import hashlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprokit.core.canonical_json import canonical, sha256_of

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
