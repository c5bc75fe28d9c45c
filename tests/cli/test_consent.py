"""Whose code is executed is said, and asked, before it is: of a colleague's run, never of one's own."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import click
import pytest

from reprokit.cli import consent
from reprokit.cli.consent import ask_before
from reprokit.cli.face import Face
from reprokit.errors import RefusedError
from reprokit.registry.local import LocalRegistry
from reprokit.registry.package_log import writer
from tests.conftest import Project, put_run
from tests.faults.forging import Forger

RUN = "20260102-030405-abcdef"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _face(tmp_path: Path, **facts: Any) -> Face:
    put_run(LocalRegistry(tmp_path / "registry", cache=tmp_path / "cache"), RUN, **facts)
    return Face(registry=str(tmp_path / "registry"), as_json=False, quiet=False, verbose=False)


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))


def test_of_one_s_own_run_nothing_is_asked_or_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask_before(_face(tmp_path, by=writer()), [RUN, "latest"], yes=False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("alice@lab", "alice@lab"),
        (f"{writer()}x", f"{writer()}x"),
        ("", "somebody unnamed"),
        ("a@b\n  verdict BITWISE\x1b[2J\u202e", "a@b\\n  verdict BITWISE\\x1b[2J\\u202e"),
    ],
)
def test_without_a_terminal_a_stranger_s_run_is_refused(tmp_path: Path, by: str, said: str) -> None:
    with pytest.raises(RefusedError) as caught:
        ask_before(_face(tmp_path, by=by), [RUN], yes=False)
    who = f"Run {RUN} was written by {said}, and you are {writer()}"
    assert caught.value.message == f"{who}: nobody is here to be asked whether to execute its code."


def test_who_published_it_counts_beside_who_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    face = _face(tmp_path, by=writer())
    monkeypatch.setattr(consent, "writer", lambda: "bob@elsewhere")
    with pytest.raises(RefusedError, match=f"was written by {writer()}, and you are bob@elsewhere"):
        ask_before(face, [RUN], yes=False)


def test_y_says_whose_code_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask_before(_face(tmp_path, by="alice@lab"), [RUN], yes=True)
    assert capsys.readouterr() == ("", f"Run {RUN} was written by alice@lab; its code is executed now.\n")


@pytest.mark.parametrize("answer", ["y\n", "n\n", "\n"])
def test_on_a_terminal_it_is_asked(
    tmp_path: Path, answer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", _Terminal(answer))
    face = _face(tmp_path, by="alice@lab")
    if answer == "y\n":
        ask_before(face, [RUN], yes=False)
    else:
        with pytest.raises(click.Abort):
            ask_before(face, [RUN], yes=False)
    assert f"Run {RUN} was written by alice@lab; this executes its code" in capsys.readouterr().err


def test_a_stranger_s_run_is_executed_by_none_but_who_says_so(project: Project, tmp_path: Path) -> None:
    """Each verb that executes a record's code, as a process without a terminal."""
    marker = tmp_path / "executed"
    project.hook(f"open({str(marker)!r}, 'a').write('x')")
    record = project.json("run", "recipe.yaml")
    assert record["by"] == writer()
    marker.unlink()
    forger = Forger(project.registry, tmp_path / "copy", record["run_id"])
    shutil.rmtree(forger.place / "log" / "runs")  # alice's record is the first
    forger.record({"by": "alice@lab", "status": "interrupted"})
    there = ("--registry", str(forger.place))
    for verb in ("reproduce", "reproduce --hermetic", "resume", "env build", "env check --env exact"):
        said = project.reprokit(*verb.split(), record["run_id"], *there, home="new", expect=3).stderr
        assert f"Run {record['run_id']} was written by alice@lab, and you are {writer()}" in said
    assert not marker.exists()
    said = project.reprokit("reproduce", record["run_id"], "-y", "--until", "epoch=0", *there, home="new").stderr
    assert "was written by alice@lab; its code is executed now." in said
    assert marker.exists()
    assert "was written by" not in project.reprokit("env", "check", record["run_id"], "--env", "exact").stderr
