"""A run's folder is held by one process, and who comes second is told whose it is."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from reprokit.errors import RefusedError
from reprokit.recording.journal import Journal, abandoned
from reprokit.registry.local import LocalRegistry
from reprokit.registry.package_log import writer

RUN = "20260102-030405-abcdef"
_HINT = f"Wait for its end, which `reprokit show {RUN}` tells, or stop that process and resume the run then."


def _said(error: RefusedError) -> None:
    who = re.escape(f"{writer()}, process {os.getpid()}, since ")
    told = rf"Run {RUN} is executed already by {who}\d{{4}}-\d\d-\d\dT[0-9:]+Z: two cannot go on with one run\."
    assert re.fullmatch(told, error.message), error.message
    assert error.hint == _HINT


def test_of_two_resumes_at_once_the_second_is_told_who_goes_on(tmp_path: Path) -> None:
    first = Journal.create(tmp_path / "home", RUN)
    with pytest.raises(RefusedError) as refused:
        Journal.create(tmp_path / "home", RUN)
    _said(refused.value)
    assert list(abandoned(tmp_path / "home")) == []
    with pytest.raises(RefusedError) as again:  # who looks for journals erases no name
        Journal.create(tmp_path / "home", RUN)
    _said(again.value)
    first.close(keep_workspace=False)
    Journal.create(tmp_path / "home", RUN).close(keep_workspace=False)


def test_the_same_from_another_home(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry", cache=tmp_path / "cache")
    with registry.claim(RUN), pytest.raises(RefusedError) as refused, registry.claim(RUN):
        pass
    _said(refused.value)
    with registry.claim(RUN):
        assert registry.is_claimed(RUN)


def test_a_journal_that_nobody_holds_is_not_called_somebody_s(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "home", RUN)
    journal.event("start", registry=str(tmp_path / "gone"), top_hash="0" * 64)
    journal.leave()
    with pytest.raises(RefusedError, match=r"left in .* could not be published yet\."):
        Journal.create(tmp_path / "home", RUN)
