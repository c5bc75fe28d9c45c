"""No name leaves its root, and a write is whole or absent."""

import contextlib
import errno
import os
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprokit.core import logical_keys
from reprokit.core.atomic_files import durable_write, explain_os_error, os_errors
from reprokit.core.logical_keys import check_logical_key, check_logical_keys, check_relative, inside, safe_join
from reprokit.errors import RefusedError, RegistryError, UsageError


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("", "it is empty"),
        ("a\0b", "it holds a NUL"),
        ("a\\b", "it holds a backslash"),
        ("/etc/passwd", "it is absolute"),
        ("C:/x", "it starts with a drive letter"),
        ("c:x", "it starts with a drive letter"),
        ("..", "it has the part '..'"),
        ("a/../b", "it has the part '..'"),
        (".", "it has the part '.'"),
        ("./a", "it has the part '.'"),
        ("a/.", "it has the part '.'"),
        ("a//b", "it has the part ''"),
        ("a/", "it has the part ''"),
        ("e\u0301", "it is not in Unicode NFC"),
        ("\udcff", "its name is not UTF-8"),
        ("x" * 256, "a part is longer than 255 bytes"),
        ("é" * 128, "a part is longer than 255 bytes"),
        ("🐈" * 64, "a part is longer than 255 bytes"),
        ("a/" * 2048 + "a", "it is longer than 4096 bytes"),
        ("é/" * 1365 + "ab", "it is longer than 4096 bytes"),
    ],
)
def test_illegal_keys_are_refused_with_the_reason(key, reason):
    with pytest.raises(UsageError) as caught:
        check_logical_key(key)
    assert caught.value.message == f"Not a legal logical key: {key[:200]!r} ({reason})."


@pytest.mark.parametrize(
    "key",
    [
        "a",
        "a/b.c",
        ".hidden",
        "...",
        "a b",
        "é/猫.jpg",
        "x" * 255,
        "a:b"[1:],
        "🐈",
        "a/" * 2047 + "ab",
        "é" * 127,
        "🐈" * 63,
    ],
)
def test_legal_keys_come_back(key):
    assert check_logical_key(key) == key


@given(st.text(max_size=20))
def test_a_key_that_passes_stays_inside(key):
    try:
        check_logical_key(key)
    except UsageError:
        return
    assert not os.path.isabs(key)
    assert os.path.normpath(key) == key
    assert not key.startswith("..") or key.split("/")[0] != ".."
    assert unicodedata.normalize("NFC", key) == key


@pytest.mark.parametrize(
    ("keys", "first", "second"),
    [
        (["a", "b", "a"], "a", "a"),
        (["abc", "".join(["a", "bc"])], "abc", "abc"),
        (["Readme", "README"], "Readme", "README"),
        (["a", "a/b"], "a", "a/b"),
        (["a/b/c", "A/B"], "a/b/c", "A/B"),
        (["straße", "STRASSE"], "straße", "STRASSE"),
        (["a/b", "a/c", "é", "a"], "a/b", "a"),
        (["a/b/c", "a/d", "A/B"], "a/b/c", "A/B"),
    ],
)
def test_keys_that_clash_are_both_named(keys, first, second):
    with pytest.raises(UsageError) as caught:
        check_logical_keys(keys)
    assert caught.value.message == f"Two logical keys cannot stand side by side: {first!r} and {second!r}."


def test_keys_side_by_side_pass():
    keys = ["a/b", "a/c", "a.b", "ab", "abc", "b/a/b"]
    for more in ([], ["é"], ["é/é", "é/éé"]):  # with one that is not ASCII, they are looked at key by key
        check_logical_keys([*keys, *more])
        check_logical_keys([*more, *reversed(keys)])


@pytest.mark.parametrize("path", ["", "/x", "../x", "a/../../x", "a\0", "a\\b", "C:x"])
def test_paths_outside_the_repository_are_refused(path):
    with pytest.raises(UsageError) as caught:
        check_relative(path, what="code.entrypoint")
    assert caught.value.message == f"code.entrypoint: {path!r} is not a path inside the repository."


def test_relative_paths_are_cleaned():
    assert [check_relative(path, what="x") for path in ("./a", "a//b/", ".")] == ["a", "a/b", "."]


@given(st.text(alphabet="./ab\\:C~\0é\u0301\ud800", max_size=12))
def test_a_path_that_is_taken_stays_inside(path):
    with contextlib.suppress(UsageError):
        clean = check_relative(path, what="x")
        assert os.path.normpath(f"/root/{clean}") in ("/root", f"/root/{clean}")


@pytest.mark.parametrize("path", [".git", "a/.git/hooks", ".GIT/x", ".reprokit/config.yaml"])
def test_no_path_is_git_s_or_our_own(path):
    with pytest.raises(UsageError, match=r"lies in \.(git|GIT|reprokit), where no run has anything"):
        check_relative(path, what="x")


def test_a_link_may_lead_about_in_a_folder_and_not_out_of_it(tmp_path):
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    for name, target in (("in", "real"), ("out", ".."), ("far", "/"), ("circle", "circle"), ("hop", "out/root/../x")):
        (root / name).symlink_to(target)
    assert inside(root, "in/new/file", what="x") == root / "in/new/file"
    assert inside(root, ".", what="x") == root
    for path in ("out", "out/x", "far/etc/passwd", "circle", "circle/x", "hop"):
        with pytest.raises(RefusedError) as caught:
            inside(root, path, what="x")
        message = f"x: {path!r} leads out of the workspace {root}, by a symbolic link in the code."
        assert caught.value.message == message


def test_safe_join_refuses_to_write_through_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert safe_join(tmp_path, "real/x") == tmp_path / "real" / "x"
    with pytest.raises(UsageError) as caught:
        safe_join(tmp_path, "link/x")
    assert caught.value.message == f"{tmp_path / 'link'} is a symbolic link; 'link/x' would be written through it."
    with pytest.raises(UsageError):
        safe_join(tmp_path, "../x")


def test_a_write_replaces_the_whole_file_and_leaves_no_other(tmp_path):
    file = tmp_path / "new" / "file"
    durable_write(file, b"one")
    durable_write(file, b"two")
    assert file.read_bytes() == b"two"
    assert os.listdir(file.parent) == ["file"]


def test_an_exclusive_write_never_replaces(tmp_path):
    durable_write(tmp_path / "f", b"one", exclusive=True)
    with pytest.raises(FileExistsError):
        durable_write(tmp_path / "f", b"two", exclusive=True)
    assert (tmp_path / "f").read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["f"]


def test_an_os_error_says_what_was_being_done_and_what_to_do():
    with pytest.raises(RegistryError) as caught, os_errors("Writing objects to /r"):
        raise OSError(errno.ENOSPC, "No space left on device", "/r/x")
    assert caught.value.message == "Writing objects to /r failed: No space left on device (/r/x)."
    assert (
        caught.value.hint == "The disk is full: free some space and repeat the command; what was published is intact."
    )
    denied = explain_os_error(PermissionError(errno.EACCES, "Permission denied"), "Reading x")
    assert denied.message == "Reading x failed: Permission denied."
    assert denied.hint is not None
    assert denied.hint.startswith("You lack the permission")


PLAIN = [["a"], ["a", "b"], ["a/b", "a/c", "b/c/d"], ["x" * 255], ["-", "_", "a.b", ".a", "a..b", "..."], ["A", "b"]]
PIECES = st.sampled_from(["a", "A", "b", "/", ".", "..", "\n", ":", "C:", "\\", "\0", "é", "e\u0301", "x" * 200, ""])
KEYS = st.lists(st.lists(PIECES, max_size=4).map("".join), max_size=4)


@pytest.mark.parametrize("keys", PLAIN)
def test_keys_that_are_plainly_fine_are_seen_to_be_all_at_once(keys):
    """60,000 of them in milliseconds."""
    assert logical_keys._plainly_fine(keys)


@settings(max_examples=400, deadline=None)
@given(KEYS)
def test_the_fast_way_says_yes_to_nothing_that_is_looked_at_key_by_key_and_refused(keys):
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(logical_keys, "_plainly_fine", lambda _: False)
            check_logical_keys(keys)
    except UsageError:
        assert not logical_keys._plainly_fine(keys)


@pytest.mark.parametrize(
    "keys",
    [
        ["a", "a"], ["a", "A"], ["a/b", "A/B"], ["a", "a/b"], ["a/b", "a/b/c/d"], ["A/b/c", "a"], ["a\nb"], ["a", "\n"],
        ["a:b"], ["C:/x"], ["b", "./a"], ["a/./b"], ["a/../b"], ["../a"], ["a/.."], ["a/."], ["."], [".."], ["a//b"],
        ["/a"], ["a/"], [""], ["a\0"], ["a\\b"], ["é"], ["x" * 256], ["x" * 256, "a"], [],
    ],
)  # fmt: skip
def test_what_is_not_plainly_fine_is_looked_at_key_by_key(keys):
    assert not logical_keys._plainly_fine(keys)
