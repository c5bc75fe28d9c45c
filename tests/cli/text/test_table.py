"""What a stranger wrote in a record, a package or a log forges no line of what is printed of it."""

from __future__ import annotations

import contextlib
import json

import pytest

from reprokit.cli.main import _fail, cli
from reprokit.cli.text.table import table
from reprokit.core.terminal_text import tame
from reprokit.packages.build import build
from reprokit.registry.local import LocalRegistry
from reprokit.schema.record import (
    Attempt,
    CheckpointEntry,
    CodeFacts,
    DataFacts,
    EnvironmentFacts,
)
from reprokit.schema.verdict import Cause, Comparison, Verdict
from tests.conftest import put_run

FORGED = "  verdict      BITWISE: every state digest and declared output is equal in every bit"
EVIL = f"x\n{FORGED}\x1b[2J\x1b]0;t\x07\x9b1m\u202e"
RUN, OTHER = "20260102-030405-abcdef", "20260102-030406-abcdef"


def _entry(epoch: int) -> CheckpointEntry:
    return CheckpointEntry(
        package=EVIL, top_hash="a" * 64, state_digest=EVIL, epoch=epoch, metrics={EVIL: float(epoch), "loss": 1.0}
    )


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> LocalRegistry:
    base = tmp_path_factory.mktemp("registry")
    made = LocalRegistry(base / "registry", cache=base / "cache")
    verdict = Verdict(
        verdict="DIVERGED", run_id=OTHER, reproduces=RUN, relaxed=[EVIL],
        comparisons=[Comparison(what=EVIL, result="differs", detail=EVIL)],
        explanations=[Cause(kind="code", what=EVIL, text=EVIL, weight="likely", why=EVIL, lines=[EVIL])],
    )  # fmt: skip
    for number, run_id in enumerate((RUN, OTHER)):
        put_run(
            made, run_id, name=EVIL, by=EVIL, failure=EVIL, warnings=[EVIL], params={EVIL: EVIL},
            metrics={EVIL: 0.5 + number}, artifacts=[EVIL], reproduces=EVIL if number else None, relaxed=[EVIL],
            verdicts=[verdict] if number else [], lock_hash=EVIL, notebook=EVIL,
            code=CodeFacts(tree=EVIL, commit=EVIL), environment=EnvironmentFacts(hash=EVIL, packages=1, python=EVIL),
            data=[DataFacts(name=EVIL, package=EVIL, top_hash=EVIL, path=EVIL, run=EVIL, within=EVIL)],
            checkpoints=[_entry(0), _entry(1)],
            attempts=[Attempt(started=EVIL, ended=EVIL, status="failed", resumed=EVIL, resumed_from=EVIL)],
        )  # fmt: skip
    build({f"files/{EVIL}".replace("[", "("): b"x"}, "t/evil", registry=made, message=EVIL, meta={EVIL: EVIL})
    return made


@pytest.mark.parametrize(
    "command",
    [
        ["show", RUN],
        ["show", OTHER],
        ["ls"],
        ["ls", RUN],
        ["ls", "t/evil"],
        ["show", "t/evil"],
        ["log", "t/evil"],
        ["log", f"runs/{RUN}"],
        ["lineage", RUN],
        ["verify", "t/evil"],
        ["verify", RUN],
        ["diff", RUN, OTHER, "--explain"],
    ],
    ids=" ".join,
)
def test_no_command_prints_a_stranger_s_text_as_it_is(
    registry: LocalRegistry, command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPROKIT_HOME", str(registry.root.parent / "home"))
    told = [*command, "--registry", str(registry.root)]
    for arguments in (told, [*told, "--json"]):
        with contextlib.suppress(SystemExit):
            cli.main(arguments, standalone_mode=False)
        said = capsys.readouterr()
        assert said.out
        for text in said:
            assert tame(text) == text
            assert not [line for line in text.splitlines() if line.startswith(FORGED[:25])]
    json.loads(said.out)


def test_logs_are_tamed_line_by_line(
    registry: LocalRegistry, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = "20260102-030407-abcdef"
    journal = registry.root.parent / "home" / "runs" / run_id
    journal.mkdir(parents=True)
    put_run(registry, run_id)
    (journal / "log.txt").write_bytes(b"T stdout a\tb\x1b]0;t\x07\xe2\x80\xae\xff\rc\nT stdout \xc2\x9b1m\n")
    monkeypatch.setenv("REPROKIT_HOME", str(registry.root.parent / "home"))
    cli.main(["logs", run_id, "--registry", str(registry.root)], standalone_mode=False)
    assert capsys.readouterr().out == "T stdout a\tb\\x1b]0;t\\x07\\u202e\ufffd\\rc\nT stdout \\x9b1m\n"


def test_an_error_forges_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _fail(f"It failed: {EVIL}", f"Try {EVIL}", 4)
    first, second, third, fourth = capsys.readouterr().err.splitlines()
    assert (first, third) == ("error: It failed: x", "Try x")
    assert second == fourth == f"  | {FORGED}\\x1b[2J\\x1b]0;t\\x07\\x9b1m\\u202e"


def test_a_row_is_a_line_whatever_stands_in_it() -> None:
    assert table([("a\nb", "c\td"), ("e", "")]) == "  a\\nb  c\\td\n  e"
