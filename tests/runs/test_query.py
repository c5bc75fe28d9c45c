"""Expressions that choose runs: what they choose, and that nothing else is ever done with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprokit.errors import UsageError
from reprokit.registry.local import LocalRegistry
from reprokit.runs.query import Where, choose
from reprokit.runs.store import RunStore
from reprokit.runs.verdict_store import VerdictStore
from reprokit.schema.facts import meta_of
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.verdict import Rung, RunLink, Verdict, VerdictRecord
from tests.conftest import Project, put_run

FIRST, SECOND, THIRD, FOURTH, *REPEATED = (f"2026010{day}-000000-aaaaa{day}" for day in range(1, 7))


def add_verdict(registry: LocalRegistry, original: str, reproduction: str, rung: Rung) -> None:
    link = {"top_hash": "0" * 64, "lock_hash": None}
    record = VerdictRecord(
        verdict=Verdict(run_id=reproduction, reproduces=original, verdict=rung),
        original=RunLink(run_id=original, **link),
        reproduction=RunLink(run_id=reproduction, **link),
        by="me@here",
        at="2026-01-09T00:00:00Z",
    )
    VerdictStore(registry).add(record)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> LocalRegistry:
    made = LocalRegistry(tmp_path_factory.mktemp("registry"))
    put_run(made, FIRST, name="cnn", metrics={"loss": 0.5, "val/acc": 0.91}, params={"rate": 0.1, "fast": True},
            started="2026-01-01T00:00:00.000Z")  # fmt: skip
    put_run(made, SECOND, name="cnn", metrics={"loss": 0.0}, params={"rate": "auto", "idle": 5}, unused=["idle"],
            status="failed", started="2026-11-02T00:00:00.000Z")  # fmt: skip
    put_run(made, THIRD, name="mlp", started="2026-11-03T00:00:00.000Z", reproduces=FIRST,
            verdicts=[Verdict(run_id=THIRD, reproduces=FIRST, verdict="TENSOR-TOLERANCE")])  # fmt: skip
    put_run(made, FOURTH, name="mlp", metrics={"loss": 2}, started="2026-11-04T00:00:00.000Z", outputs={"o": b"1"})
    put_run(made, REPEATED[0], name="cnn", started="2026-11-05T00:00:00.000Z", reproduces=SECOND)
    put_run(made, REPEATED[1], name="mlp", metrics={"loss": 2}, started="2026-11-06T00:00:00.000Z", reproduces=FOURTH,
            outputs={"o": b"1"})  # fmt: skip
    add_verdict(made, FIRST, THIRD, "TENSOR-TOLERANCE")
    add_verdict(made, SECOND, REPEATED[0], "DIVERGED")
    add_verdict(made, FOURTH, REPEATED[1], "BITWISE")
    add_verdict(made, FOURTH, REPEATED[1], "DIVERGED")
    return made


def chosen(registry: LocalRegistry, text: str) -> list[str]:
    return [run.run for run in choose(text, RunStore(registry)) if run.run not in REPEATED]


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("metrics.loss > 0.4", [FIRST, FOURTH]),
        ("not metrics.loss > 0.4", [SECOND]),  # THIRD has none: neither
        ("metrics.loss is None", [THIRD]),
        ("metrics.loss is not None", [FIRST, SECOND, FOURTH]),
        ("metrics.loss", [FIRST, FOURTH]),
        ("not metrics.loss", [SECOND, THIRD]),
        ("0.4 < metrics.loss <= 1", [FIRST]),
        ("metrics['val/acc'] >= 0.9", [FIRST]),
        ("metrics.loss == 2.0", [FOURTH]),
        ("metrics.loss > -1", [FIRST, SECOND, FOURTH]),
        ("metrics.loss in (0, -2, 0.5)", [FIRST, SECOND]),
        ("reproduced", [FIRST, FOURTH]),
        ("not reproduced", [SECOND, THIRD]),
        ("reproductions >= 2", [FOURTH]),
        ("reproductions and not reproduced", [SECOND]),
        ("reproduces", [THIRD]),
        ("not reproduces", [FIRST, SECOND, FOURTH]),
        (f"reproduces == '{FIRST}'", [THIRD]),
        ("verdict == 'TENSOR-TOLERANCE'", [THIRD]),
        ("verdict != 'BITWISE'", [THIRD]),
        ("status == 'failed' and name == 'cnn'", [SECOND]),
        ("status == 'failed' or name == 'mlp'", [SECOND, THIRD, FOURTH]),
        ("name not in ['cnn', 'other']", [THIRD, FOURTH]),
        ("started > '2026-11-02T12'", [THIRD, FOURTH]),
        ("params.rate == 0.1", [FIRST]),
        ("params.rate != 0.1", [SECOND]),
        ("params.rate < 1", [FIRST]),  # of a text it is neither
        ("params.fast == True", [FIRST]),
        ("params.fast == 1", []),
        ("params.idle == 5", []),  # it never reached the script
        ("params.idle is None and status == 'failed'", [SECOND]),
        ("params.rate in ('auto', 7)", [SECOND]),
        ("metrics.loss > 1 or params.rate == 0.1", [FIRST, FOURTH]),
        ("  checkpoints == 0 and not (name == 'cnn')\n", [THIRD, FOURTH]),
    ],
)
def test_an_expression_chooses_runs(registry: LocalRegistry, text: str, runs: list[str]) -> None:
    assert chosen(registry, text) == runs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "metrics.los > 1",
            "no run has metrics.los. Did you mean metrics.loss?\nKnown: metrics.loss, metrics.val/acc.",
        ),
        (
            "params.rat == 1",
            "no run has params.rat. Did you mean params.rate?\nKnown: params.fast, params.idle, params.rate.",
        ),
        ("stauts == 'failed'", "no run has stauts. Did you mean status?\nKnown: run, name, status, started, ended,"),
        ("metric.loss > 1", "no run has metric.loss. Did you mean metrics.NAME?"),
        ("started > 2026", "started is a text, and compared with a number."),
        ("metrics.loss > '1'", "metrics.loss is a number, and compared with a text."),
        ("verdict == None", "nothing equals None; write `is None`."),
        ("verdict is 'BITWISE'", "`is` asks for None alone; write ==."),
        ("'a' in name", "after `in` goes a list: ('a', 'b')."),
        ("", "invalid syntax."),
        ("metrics.loss = 1", "invalid syntax"),
        ("1", "Constant is not understood here."),
        ("metrics.loss + 1 > 2", "BinOp is not understood here."),
        ("metrics.loss > 9**9**9**9", "BinOp is not understood here."),
        ("metrics", "no run has metrics. Did you mean metrics.NAME?"),
        ("name.__class__", "no run has name.__class__."),
        ("metrics.__class__ == 1", "no run has metrics.__class__."),
        ("metrics.__class__.__mro__ == 1", "no run has metrics.__class__.__mro__."),
        ("().__class__.__bases__[0].__subclasses__()", "Call is not understood here."),
        ("().__class__", "Attribute is not understood here."),
        ("metrics[0] == 1", "Subscript is not understood here."),
        ("metrics[name] == 1", "Subscript is not understood here."),
        ("__import__('os').system('true')", "Call is not understood here."),
        ("[run for run in metrics]", "ListComp is not understood here."),
        ("(lambda: 1)() == 1", "Call is not understood here."),
        ("f'{name}' == 'a'", "JoinedStr is not understood here."),
        ("name == b'a'", "Constant is not understood here."),
        ("metrics.loss > 1j", "Constant is not understood here."),
        ("name in ('a', status)", "Name is not understood here."),
        ("name in ('a', ('b',))", "Tuple is not understood here."),
        ("(name := 'a') == 'a'", "NamedExpr is not understood here."),
        ("reproduced if name else status", "IfExp is not understood here."),
        ("name == 'a'; status", "invalid syntax."),
        ("name == '\0'", "source code string cannot contain null bytes"),
        ("name == '\udc80'", "it nests too deeply, or has characters of no text."),
        ("metrics.loss > " + "9" * 5000, "--where takes at most 2,000 characters, not 5,015."),
        ("name == '" + "a" * 1_000_000 + "'", "--where takes at most 2,000 characters, not 1,000,010."),
        ("(" * 900 + "name" + ")" * 900, "too many nested parentheses"),
        ("not " * 400 + "reproduced", "--where takes at most 40 levels of nesting."),
        ("metrics.loss > " + "-" * 1900 + "1", ""),
        ("name" + ".a" * 900 + " == 1", ""),
        ("\x1b[31mname == 'a'", "--where \\x1b[31mname == 'a': invalid non-printable character U+001B."),
    ],
)
def test_whatever_else_is_typed_is_a_usage_error_that_says_why(
    registry: LocalRegistry, text: str, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        chosen(registry, text)
    said = str(caught.value)
    assert message.casefold() in said.casefold()
    assert "\x1b" not in said and len(said) < 2000


_WORDS = [
    "metrics", "params", ".loss", "['a']", "name", "reproduced", "not ", " and ", " or ", "==", "<", " in ", " is ",
    "None", "(", ")", "[", "]", ",", "1", "-", "'a'", "True", ":", "lambda ", "**", "__class__", "\n", "#", "\\", "{",
    "}", "@", "é",
]  # fmt: skip


@given(words=st.lists(st.sampled_from(_WORDS), max_size=25))
def test_any_words_give_an_answer_or_a_usage_error(words: list[str]) -> None:
    fields: dict[str, Any] = {"name": "a", "reproduced": True, "metrics": {"loss": 1.0}, "params": {"a": [1]}}
    try:
        found = Where.parse("".join(words)).matches(fields)
    except UsageError:
        return
    assert found in (True, False)


def test_headers_that_lie_match_nothing(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path)
    put_run(registry, FIRST, name="cnn")
    honest = put_run(LocalRegistry(tmp_path / "elsewhere"), SECOND, name="rnn")
    lies = {"name": ["cnn"], "metrics": [1], "verdict": {"a": 1}, "reproduces": 7, "checkpoints": "many"}
    with registry.staging() as sink:
        digest, size = sink.put_bytes(honest.encode())
    meta = {"reprokit": {**meta_of(honest.summary())["reprokit"], **lies}}
    registry.publish(f"runs/{SECOND}", Manifest.make([Entry("record.json", size, digest)], user_meta=meta))
    assert chosen(registry, "name == 'cnn'") == [FIRST]
    assert chosen(registry, "checkpoints >= 0") == [FIRST, SECOND]  # whose record was read
    assert chosen(registry, "verdict or reproduces or reproduced") == []
    project = Project(tmp_path / "project")
    lines = project.reprokit("ls", "--registry", str(tmp_path)).stdout.splitlines()
    assert lines == [
        "RUN                     STATUS    NAME  CKPT",
        f"{FIRST}  finished  cnn      0",
        f"{SECOND}  finished  rnn      0",
    ]


def test_an_empty_registry_has_no_runs_whatever_is_asked(tmp_path: Path) -> None:
    assert chosen(LocalRegistry(tmp_path / "none"), "metrics.any > 1") == []


def test_ls_lists_what_an_expression_chooses(project: Project) -> None:
    first = project.json("run", "recipe.yaml")["run_id"]
    assert "reproduced" not in project.reprokit("ls").stdout.lower()
    verdict = project.json("reproduce", first)
    listed = project.json("ls")
    assert [(run["run_id"], run["reproduced"], run["reproductions"]) for run in listed["runs"]] == [
        (first, True, 1), (verdict["run_id"], False, 0),
    ]  # fmt: skip
    assert listed["packages"] == ["t/in", "t/model"]
    lines = project.reprokit("ls").stdout.splitlines()
    assert ["reproduced" in line for line in lines] == [False, True, False, False, False, False]
    assert lines[3:] == ["PACKAGE", "t/in", "t/model"]
    found = project.json("ls", "--where", "reproduced and metrics.loss > 0 and params.rate == 0.1")
    assert ([run["run_id"] for run in found["runs"]], found["packages"]) == ([first], [])
    again = project.reprokit("ls", "--where", "verdict == 'BITWISE'").stdout
    assert again.splitlines()[1].startswith(verdict["run_id"]) and again.count("\n") == 2
    assert project.reprokit("ls", "--where", "status == 'failed'").stdout == "no such run\n"
    assert "--where chooses among runs" in project.reprokit("ls", "latest", "--where", "reproduced", expect=2).stderr
    project.reprokit("ls", "--where", "__import__('os').mkdir('x')", expect=2)
    assert not (project.root / "x").exists()
