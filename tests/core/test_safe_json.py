"""What a stranger wrote is parsed, or refused with a message; never more than that."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprokit.core.safe_json import check_depth, load_json
from reprokit.core.safe_yaml import load_yaml
from reprokit.core.terminal_text import tame
from reprokit.errors import DataMismatchError, RecipeError


def yaml(text: str):
    return load_yaml(text.encode(), what="r.yaml")


def refused_yaml(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        yaml(text)
    return caught.value.message


def refused_json(data: bytes, **caps) -> str:
    with pytest.raises(DataMismatchError) as caught:
        load_json(data, what="x.json", **caps)
    return caught.value.message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1, "a": 2}', "x.json is not JSON that reprokit reads: the key 'a' stands twice in one object."),
        (
            b'[{"b": {"a": 1, "a": 1}}]',
            "x.json is not JSON that reprokit reads: the key 'a' stands twice in one object.",
        ),
        (b'{"a": ["\\ud800"]}', "x.json holds half of a surrogate pair, which is no character."),
        (b'{"\\uDFFF": 1}', "x.json holds half of a surrogate pair, which is no character."),
        (b"[NaN]", "x.json is not JSON that reprokit reads: NaN is not JSON."),
        (b"-Infinity", "x.json is not JSON that reprokit reads: -Infinity is not JSON."),
    ],
)
def test_json_traps_are_refused(data, message):
    assert refused_json(data) == message


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe\xfa", b"[1] 2", b"[" * 200_000, b"9" * 5000, b'"\xed\xa0\x80"', "1".encode("utf-16")]
)
def test_what_is_not_json_is_refused(data):
    assert refused_json(data).startswith("x.json is not JSON that reprokit reads: ")


def test_a_whole_surrogate_pair_is_a_character_and_half_of_one_is_read_where_asked_for():
    assert load_json(b'"\\ud83d\\ude00"', what="x.json") == "\U0001f600"
    assert load_json(b'"\\ud83d"', what="x.json", halves=True) == "\ud83d"


def test_a_number_beyond_floats_is_refused_like_infinity():
    assert refused_json(b'{"lr": 1e999}').startswith("x.json is not JSON that reprokit reads: ")


def test_json_caps_hold():
    assert refused_json(b'"0123456789"', max_bytes=10) == "x.json is 12 bytes long; at most 10 are read."
    assert refused_json(b"[" * 5 + b"]" * 5, max_depth=3) == "x.json nests deeper than 3 levels."
    assert load_json(b"[[[1]]]", what="x.json", max_depth=3) == [[[1]]]


@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_json_values_come_through(value):
    assert load_json(json.dumps(value).encode(), what="x.json") == value


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_our_error(data):
    for load, error in ((load_json, DataMismatchError), (load_yaml, RecipeError)):
        try:
            load(data, what="x")
        except error:
            pass


YAML_SOUP = st.lists(
    st.sampled_from(
        [*"[]{}:,-?&*!|>'\"# \n%@a1~", "<<: ", "!!", "&a ", "*a", "\n  ", ": ", "- ", "? ", "true", "1e-3"]
    ),
    max_size=25,
).map("".join)


@given(YAML_SOUP)
def test_any_yaml_gives_a_value_or_our_error(text):
    try:
        yaml(text)
    except RecipeError:
        pass


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),
        ("on", "on"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("-2.5e+1", -25.0),
        (".5", 0.5),
        ("1:30", "1:30"),
        ("2026-11-23", "2026-11-23"),
        ("010", "010"),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("-3", -3),
        ("~", None),
        ("null", None),
        ("", None),
        ("=", "="),
        ("'1'", "1"),
    ],
)
def test_yaml_scalars_mean_what_they_look_like(text, value):
    found = yaml(f"x: {text}")["x"]
    assert (found, type(found)) == (value, type(value))


def test_a_yaml_key_twice_is_refused_with_its_place():
    expected = "r.yaml is not YAML that reprokit reads: the key 'lr' stands twice (line 4, column 3)."
    assert refused_yaml("name: a\nparams:\n  lr: 1\n  lr: 2\n") == expected


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system [id]", "!!python/name:os.system", "!mine x"])
def test_tags_that_make_objects_are_refused(tag):
    assert "values are plain YAML here" in refused_yaml(f"x: {tag}")


@pytest.mark.parametrize(
    "text", ["!!bool x", "!!int ''", "!!int x", "!!float x", "!!timestamp x", "!!binary é", "!!set 1"]
)
def test_standard_tags_on_what_they_do_not_fit_are_refused(text):
    assert refused_yaml(f"x: {text}").startswith("r.yaml is not YAML that reprokit reads: ")


@pytest.mark.parametrize("text", ["? [a, b]\n: c\n", "? {a: b}\n: c\n", "{[a]: b}"])
def test_keys_that_are_not_scalars_are_refused(text):
    assert refused_yaml(text).startswith("r.yaml is not YAML that reprokit reads: ")


def test_an_alias_bomb_is_refused():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    message = refused_yaml("\n".join(lines))
    assert message == "r.yaml holds too many lists and objects."


def test_more_than_a_hundred_aliases_are_refused():
    assert yaml("a: &a 1\nb: [" + ", ".join(["*a"] * 100) + "]")["b"] == [1] * 100
    message = refused_yaml("a: &a 1\nb: [" + ", ".join(["*a"] * 101) + "]")
    assert message == "r.yaml is not YAML that reprokit reads: more than 100 aliases."


def test_an_alias_to_itself_is_refused():
    assert refused_yaml("a: &a [*a]") == "r.yaml nests deeper than 24 levels."


def test_merge_keys_merge_or_are_refused():
    try:
        value = yaml("base: &b {x: 1}\nc:\n  <<: *b\n  y: 2\n")
    except RecipeError as error:
        assert error.message.startswith("r.yaml is not YAML that reprokit reads: ")
    else:
        assert value["c"] == {"x": 1, "y": 2}


def test_yaml_caps_hold():
    assert refused_yaml("[" * 30 + "]" * 30) == "r.yaml nests deeper than 24 levels."
    assert refused_yaml("[" * 20_000).startswith("r.yaml is not YAML that reprokit reads: ")
    assert refused_yaml("x" * (1024 * 1024 + 1)) == "r.yaml is 1,048,577 bytes long; at most 1,048,576 are read."


def test_yaml_must_be_utf_8():
    with pytest.raises(RecipeError) as caught:
        load_yaml(b"a: \xff", what="r.yaml")
    assert caught.value.message == "r.yaml is not UTF-8: invalid start byte at byte 3."


def test_a_strangers_text_moves_no_cursor() -> None:
    wild = "a\x1b[2Jb\r\x9bc\u202ed\u2066e\x7f"
    assert tame(wild) == r"a\x1b[2Jb\r\x9bc\u202ed\u2066e\x7f"
    kept = "über |Δ| → 1\n\t– 文\n"
    assert tame(kept) == kept


def test_a_document_is_as_long_and_as_deep_as_the_limit_and_no_more():
    assert load_json(b"[1, 2]", what="x", max_bytes=6) == [1, 2]
    with pytest.raises(DataMismatchError) as caught:
        load_json(b"[1, 2]", what="x", max_bytes=5)
    assert caught.value.message == "x is 6 bytes long; at most 5 are read."
    for deep in (b"[[[1]]]", b'{"a": {"b": {}}}', b'[1, {"a": [1]}]'):
        load_json(deep, what="x", max_depth=2)  # counted from 0
        with pytest.raises(DataMismatchError) as caught:
            load_json(deep, what="x", max_depth=1)
        assert caught.value.message == "x nests deeper than 1 levels."
    check_depth([[], {}, []], what="x", max_depth=2, max_nodes=4)
    with pytest.raises(DataMismatchError, match=r"^x holds too many lists and objects\."):
        check_depth([[], {}, []], what="x", max_depth=2, max_nodes=3)


def test_a_key_twice_is_named_wherever_it_stands():
    assert load_json(b'{"a": 1, "b": {"a": 1}}', what="x") == {"a": 1, "b": {"a": 1}}
    for text, key in (
        (b'{"a": 1, "b": 2, "a": 1}', "a"),
        (b'{"a": 1, "b": 2, "b": 1}', "b"),
        (b'[{"b": {"c": 1, "c": 2}}]', "c"),
    ):
        with pytest.raises(DataMismatchError) as caught:
            load_json(text, what="x")
        assert caught.value.message == f"x is not JSON that reprokit reads: the key {key!r} stands twice in one object."


@pytest.mark.parametrize("text", [b"NaN", b"Infinity", b"-Infinity"])
def test_constants_are_read_only_where_they_are_asked_for(text):
    assert isinstance(load_json(text, what="x", constants=True), float)
    with pytest.raises(DataMismatchError, match=f"{text.decode()} is not JSON"):
        load_json(text, what="x")
    with pytest.raises(DataMismatchError, match="1e999 is out of range"):
        load_json(b"1e999", what="x", constants=True)
