"""A run that was stopped and resumed says so wherever it is shown, and is the first cause of what lies outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reprokit.cli.main import cli
from reprokit.comparison.resumed import resumed_cause
from reprokit.export.report.sides import sides
from reprokit.registry.local import LocalRegistry
from reprokit.schema.place import INITIAL, Place
from reprokit.schema.record import Attempt
from reprokit.schema.verdict import Divergence
from tests.comparison.making import Save, compared, made

ONE, OTHER = "20260102-030405-abcdef", "20260102-030406-abcdef"
RESUMED = Attempt(
    started="a", ended=None, status="interrupted", resumed="2026-01-02T04:00:00.000Z",
    resumed_from="epoch 1, step 20", resumed_at=Place(epoch=1, step=20).following,
)  # fmt: skip
SAID = "resumed at epoch 2, from epoch 1, step 20, on 2026-01-02T04:00:00.000Z"


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry", cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("saved", "at"),
    [
        (Place(epoch=1, step=20), "epoch 2"),
        (Place(epoch=1, step=25, batch=5), "epoch 1, batch 5"),
        (Place(step=300), "step 300"),
        (Place(save=3), "checkpoint 3"),
        (INITIAL, None),
    ],
)
def test_where_a_run_goes_on(saved: Place, at: str | None) -> None:
    assert saved.following == (None if at is None else saved.following)
    assert at is None or str(saved.following) == at
    anew = Attempt(started="a", ended=None, status="failed", resumed="b", resumed_from="the beginning")
    assert str(anew) == "resumed at its beginning, on b"


def test_it_is_said_wherever_a_run_is_shown(
    registry: LocalRegistry, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPROKIT_HOME", str(registry.root.parent / "home"))

    def said(*command: str) -> str:
        capsys.readouterr()
        cli.main([*command, "--registry", str(registry.root)], standalone_mode=False)
        return capsys.readouterr().out

    late = Attempt(started="b", ended=None, status="failed", resumed="c", resumed_from="initial state")
    lost = Attempt(
        started="b", ended=None, status="failed", resumed="c", resumed_from="epoch 0, step 10",
        resumed_at=Place(epoch=1), restored=False,
    )  # fmt: skip
    left = made(registry, ONE, [Save(), Save(), Save()], outputs={"a": b"x"}, attempts=[RESUMED])
    right = made(registry, OTHER, [Save(), Save(), Save()], outputs={"a": b"y"}, attempts=[RESUMED, late, lost])
    assert f"  {'resumed':<11}  {SAID.removeprefix('resumed ')}\n" in said("show", ONE)
    shown = said("show", OTHER)
    assert "at its beginning, from initial state, on c\n" in shown
    assert "at its beginning, from epoch 0, step 10, which its script did not restore, on c\n" in shown
    lines = said("ls").splitlines()
    assert "resumed at epoch 2" in lines[1] and "resumed at its beginning, 3 times" in lines[2]
    assert said("ls", ONE).splitlines()[-1] == SAID
    assert json.loads(said("ls", ONE, "--json"))["attempts"][0]["resumed_at"]["epoch"] == 2
    told = said("diff", ONE, OTHER)
    assert f"{SAID.removeprefix('resumed ')}\n" in told
    assert f"likely    resumed: {ONE} was {SAID}; {OTHER} was resumed 3 times, last at its beginning" in told
    rows = {row.name: row for table in sides(left, right, (None, None)) for row in table.rows}
    assert rows["stopped and resumed"].one == SAID and rows["stopped and resumed"].other.count("resumed at") == 3


@pytest.mark.parametrize("which", ["original", "repetition"])
def test_it_is_the_first_cause_of_an_output_or_a_metric_that_differs_while_checkpoints_agree(
    registry: LocalRegistry, which: str
) -> None:
    attempts: list[dict[str, Any]] = [{"attempts": [RESUMED]}, {}]
    one, other = attempts if which == "original" else attempts[::-1]
    saves = [Save(), Save(), Save()]
    for more in ({"outputs": {"a": b"x"}}, {"logged": [{"loss": 1.0}]}):
        changed = {"outputs": {"a": b"y"}} if "outputs" in more else {"logged": [{"loss": 2.0}]}
        left, right = made(registry, ONE, saves, **more, **one), made(registry, OTHER, saves, **changed, **other)
        verdict = compared(left, right, registry)
        first = verdict.explanations[0]
        assert (first.kind, first.weight) == ("resumed", "likely")
        assert first.text == f"resumed: {ONE if which == 'original' else OTHER} was {SAID}"
        assert "begins anew" in first.why and "unexplained" not in {cause.kind for cause in verdict.explanations}
        assert verdict.relaxed == []


def test_what_was_saved_before_is_not_blamed_on_it(registry: LocalRegistry) -> None:
    for shifted, weight in ((1, "unlikely"), (2, "likely")):
        left = made(registry, ONE, [Save(), Save(), Save(), Save()], attempts=[RESUMED])
        saves = [Save(shift=float(number >= shifted)) for number in range(4)]
        verdict = compared(left, made(registry, OTHER, saves), registry)
        found = {cause.kind: cause.weight for cause in verdict.explanations}
        assert found == {"resumed": weight} | ({"unexplained": "possible"} if weight == "unlikely" else {})
    again = left.record
    early = resumed_cause(again, again, "initial", Divergence(saved="initial"))
    assert early is not None and early.weight == "unlikely"
    assert (
        resumed_cause(made(registry, OTHER, saves).record, made(registry, ONE, saves).record, "outputs", None) is None
    )
