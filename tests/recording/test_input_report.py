"""What a script's processes noted: read as far as it fits into memory, whoever wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest

from reprokit.recording import input_report
from reprokit.recording.input_report import InputReport, digested


def test_what_was_refused_was_not_read(tmp_path: Path) -> None:
    report = tmp_path / "inputs.txt"
    report.write_bytes(b"/a\n/b\n\1/b\n\0code.py\n\n/caf\xe9\n")
    read = InputReport.read(report)
    assert (read.undeclared, read.refused, read.opened) == (["/a", "/caf\udce9"], ["/b"], {"code.py"})


def test_a_forged_report_fills_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_report, "_MAX_REPORT", 20_000)
    report = tmp_path / "inputs.txt"
    with report.open("wb") as handle:
        handle.write(b"/a\n" + b"x" * 9000 + b"\n")
        handle.truncate(1 << 40)
    read = InputReport.read(report)
    assert sum(map(len, read.undeclared)) <= 20_000
    assert "/a" in read.undeclared
    assert InputReport.read(tmp_path / "none") == InputReport(
        opened=frozenset(), undeclared=[], modules=frozenset(), refused=[], programs=[]
    )


def test_of_very_many_files_the_first_are_digested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_report, "_MAX_DIGESTED", 2)
    names = [str(tmp_path / name) for name in "abc"]
    for name in names:
        Path(name).write_text("x")
    report = tmp_path / "inputs.txt"
    report.write_text("".join(f"{name}\n" for name in names))
    found = digested(InputReport.read(report))
    assert [(one.path, one.size, one.digest is not None) for one in found] == [
        (names[0], 1, True), (names[1], 1, True), (names[2], 1, False)
    ]  # fmt: skip
