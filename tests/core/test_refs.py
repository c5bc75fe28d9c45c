"""What a user types names one thing, or is refused with the form it should have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprokit.core.refs import PackageRef, RunRef, check_package_name, check_tag, is_package_ref, parse_run
from reprokit.errors import UsageError

NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,20}/[A-Za-z0-9_-]{1,20}", fullmatch=True)
TAGS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,30}", fullmatch=True)
HASHES = st.from_regex(r"[0-9a-f]{4,64}", fullmatch=True)


@given(NAMES, TAGS, HASHES)
def test_references_round_trip(name, tag, hash_):
    for ref in (PackageRef(name), PackageRef(name, tag=tag), PackageRef(name, hash=hash_)):
        assert PackageRef.parse(str(ref)) == ref


def test_hashes_may_be_typed_in_capitals():
    assert PackageRef.parse("a/b@ABCD") == PackageRef("a/b", hash="abcd")


@pytest.mark.parametrize("name", ["a", "a/b/c", "/b", "a/", "a/b c", "é/b", "a/b\n", "../b", "a/" + "x" * 200])
def test_names_that_are_not_namespace_and_name_are_refused(name):
    with pytest.raises(UsageError) as caught:
        check_package_name(name)
    assert caught.value.message == f"Not a package name: {name[:200]!r}."


@pytest.mark.parametrize("tag", ["", ".x", "-x", "a/b", "é", "x" * 129, "0" * 64, "a\n"])
def test_tags_that_could_be_paths_or_hashes_are_refused(tag):
    with pytest.raises(UsageError) as caught:
        check_tag(tag)
    assert caught.value.message == f"Not a tag: {tag[:200]!r}."


@pytest.mark.parametrize("prefix", ["", "abc", "xyzt", "0" * 65, "abcd@abcd"])
def test_prefixes_that_are_not_hex_are_refused(prefix):
    with pytest.raises(UsageError) as caught:
        PackageRef.parse(f"a/b@{prefix}")
    assert caught.value.message == f"Not a hash: {prefix!r} in {f'a/b@{prefix}'!r}."


def test_a_tag_behind_an_at_sign_is_told_its_place():
    with pytest.raises(UsageError) as caught:
        PackageRef.parse("vision/net@best")
    assert caught.value.hint.endswith(" A tag stands behind a colon: vision/net:best.")


@pytest.mark.parametrize("text", ["a/b:", "a/b:t@abcd", "a:b", ""])
def test_other_package_references_are_refused(text):
    with pytest.raises(UsageError):
        PackageRef.parse(text)


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("latest", RunRef("latest")),
        ("20261123-101500-7c1e9f", RunRef("20261123-101500-7c1e9f")),
        ("7c1e", RunRef("7c1e")),
        ("7c1e@epoch=7", RunRef("7c1e", "epoch=7")),
        ("base", RunRef("base")),
        ("base_2@best", RunRef("base_2", "best")),
        ("latest@step=1200", RunRef("latest", "step=1200")),
        ("latest@best:val/loss", RunRef("latest", "best:val/loss")),
        ("latest@best", RunRef("latest", "best")),
        ("@{-1}", RunRef("@{-1}")),
        ("@{-12}@last", RunRef("@{-12}", "last")),
    ],
)
def test_runs_are_parsed_and_printed_alike(text, ref):
    assert parse_run(text) == ref
    assert str(ref) == text


@pytest.mark.parametrize("text", ["", "train.py", "@", "@{1}", "../7c1e", "a b", "ä", "a" * 101])
def test_what_is_not_a_run_is_refused(text):
    with pytest.raises(UsageError) as caught:
        parse_run(text)
    assert caught.value.message == f"Not a run: {text!r}."


@pytest.mark.parametrize(
    "selector", ["epoch", "epoch=", "epoch=-1", "step=x", "first", "best:", "last@last", "epoch=٣"]
)
def test_what_is_not_a_checkpoint_is_refused(selector):
    with pytest.raises(UsageError) as caught:
        parse_run(f"latest@{selector}")
    assert caught.value.message == f"Not a checkpoint of a run: '@{selector}' in {f'latest@{selector}'!r}."


@pytest.mark.parametrize("text", ["٢٠٢٦١١٢٣-101500-7c1e9f", "@{-٣}"])
def test_digits_are_ascii_digits(text):
    with pytest.raises(UsageError):
        parse_run(text)


def test_a_slash_before_the_at_makes_a_package():
    assert is_package_ref("a/b@abcd")
    assert is_package_ref("a/b:t")
    assert not is_package_ref("latest@best:val/loss")
