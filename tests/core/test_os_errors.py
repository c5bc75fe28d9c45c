"""What a user is told of an error of the operating system, and what to do."""

from __future__ import annotations

import errno
import os

import pytest

from reprokit.core.atomic_files import explain_os_error, os_errors
from reprokit.core.safe_json import load_json
from reprokit.errors import DataMismatchError, RegistryError


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "The disk is full: free some space"),
        (errno.EDQUOT, "Your disk quota is used up"),
        (errno.EROFS, "The file system is read-only: choose another registry"),
        (errno.EIO, "The device reports an input/output error: check the disk"),
    ],
)
def test_what_can_be_done_about_an_error_is_said(number: int, hint: str) -> None:
    found = explain_os_error(OSError(number, os.strerror(number), "/r/x"), "Writing to /r")
    assert found.message == f"Writing to /r failed: {os.strerror(number)} (/r/x)."
    assert found.hint is not None and found.hint.startswith(hint)


def test_whom_to_ask_for_a_permission_is_said_whichever_is_lacking() -> None:
    hints = {explain_os_error(OSError(number, "x"), "It").hint for number in (errno.EACCES, errno.EPERM)}
    (hint,) = hints
    assert hint is not None


def test_an_error_that_nobody_knows_is_told_as_it_is() -> None:
    assert explain_os_error(OSError("odd"), "Reading").message == "Reading failed: odd."
    assert explain_os_error(OSError("odd"), "Reading").hint is None
    assert explain_os_error(OSError(errno.EXDEV, "Invalid cross-device link"), "It").hint is None
    with pytest.raises(RegistryError, match="Listing failed: ") as caught, os_errors("Listing"):
        os.listdir("/nowhere/at/all")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize(
    ("data", "halves", "fine"),
    [
        (b'["\\ud800"]', False, False),
        (b'["\\ud800"]', True, True),
        (b'["\\uDFFF x"]', False, False),
        (b'{"\\ud83d": 1}', False, False),
        (b'["\\ud83d\\ude00"]', False, True),
        (b'["\\\\ud800"]', False, True),  # a backslash, and letters
        ('["\U0001f600"]'.encode(), False, True),
    ],
)
def test_half_of_a_character_is_refused_unless_it_is_asked_for(data: bytes, halves: bool, fine: bool) -> None:
    if fine:
        assert load_json(data, what="it", halves=halves)
        return
    with pytest.raises(DataMismatchError, match="it holds half of a surrogate pair, which is no character"):
        load_json(data, what="it", halves=halves)
