"""How well each kind of cause would explain what was seen first: by where that is, and how large."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from reprokit.comparison.causes import Evidence, Where, weigh
from reprokit.schema.place import Place
from reprokit.schema.verdict import Cause, Divergence

HERE = Divergence.at(Place(epoch=3, step=9))
FAR = msgspec.structs.replace(HERE, relative=1e-5, ulp=17)
CLOSE = msgspec.structs.replace(HERE, relative=9e-6, ulp=17)
LACKING = Divergence.at(Place(epoch=3), missing="repetition")
EQUAL = "every checkpoint is equal in every bit"
BEFORE = "everything before epoch 3 is equal in every bit"
INITIAL = "the initial state differs"
WHAT = {
    "machine": ["machine.cpu"],
    "environment": ["environment.numpy"],
    "inputs": ["inputs./f"],
    "execution": ["execution.threads", "execution.variables.X", "execution.seed", "execution.determinism", "recipe.x"],
    "params": ["params.rate"],
    "data": ["data.in"],
    "code": ["code.files", "code"],
    "record": ["record.epoch 1"],
}
IN_ORDER = [
    "record.epoch 1", "code", "data.in", "params.rate", "execution.threads", "execution.variables.X", "execution.seed",
    "execution.determinism", "recipe.x", "inputs./f", "environment.numpy", "machine.cpu", "code.files",
]  # fmt: skip


def cause(what: str, **facts: Any) -> Cause:
    kind = next(kind for kind, some in WHAT.items() if what in some)
    return Cause(kind=kind, what=what, text=f"{what} differs", **facts)  # type: ignore[arg-type]


def evidence(where: Where, first: Divergence | None = FAR, *, checkpoints: bool = True) -> Evidence:
    return Evidence(where=where, first=first, checkpoints=checkpoints)


@pytest.mark.parametrize(
    ("seen", "likely", "unlikely", "why"),
    [
        (evidence("outputs", checkpoints=False), "", "", {}),
        (evidence("metrics", checkpoints=False), "", "", {}),
        (
            evidence("initial"),
            "code params.rate execution.seed execution.determinism",
            "execution.threads execution.variables.X machine.cpu",
            {
                **dict.fromkeys(IN_ORDER, INITIAL),
                **dict.fromkeys(
                    ("execution.threads", "execution.variables.X", "machine.cpu"),
                    f"{INITIAL}, which is drawn and hardly computed",
                ),
            },
        ),
        (
            evidence("initial", CLOSE),
            "code params.rate execution.seed execution.determinism",
            "",
            dict.fromkeys(IN_ORDER, INITIAL),
        ),
        (
            evidence("missing", LACKING),
            "code params.rate",
            "",
            dict.fromkeys(("code", "params.rate"), "epoch 3 is missing from the repetition"),
        ),
        (
            evidence("outputs"),
            "code inputs./f environment.numpy",
            "execution.seed execution.determinism",
            dict.fromkeys(IN_ORDER, EQUAL),
        ),
        (evidence("metrics"), "code inputs./f", "", dict.fromkeys(IN_ORDER, EQUAL)),
        (
            evidence("later"),
            "code",
            "data.in execution.seed execution.determinism",
            {**dict.fromkeys(IN_ORDER, BEFORE), "code": f"{BEFORE}: code can act late"},
        ),
        (
            evidence("first"),
            "code data.in params.rate execution.seed execution.determinism inputs./f",
            "",
            dict.fromkeys(
                ("code", "data.in", "params.rate", "execution.seed", "execution.determinism", "inputs./f"),
                "epoch 3 differs by more than rounding",
            ),
        ),
        (
            evidence("first", CLOSE),
            "params.rate execution.threads execution.variables.X environment.numpy machine.cpu",
            "",
            dict.fromkeys(IN_ORDER, "epoch 3 differs as by rounding"),
        ),
    ],
    ids=str,
)
def test_where_the_first_difference_is_says_which_causes_are_likely(
    seen: Evidence, likely: str, unlikely: str, why: dict[str, str]
) -> None:
    found = weigh([cause(what) for some in WHAT.values() for what in some], seen)
    weights = {
        one: [what for what in IN_ORDER if what in (names or rest)]
        for one, names, rest in (
            ("likely", ["record.epoch 1", *likely.split()], []),
            ("possible", [], set(IN_ORDER) - {"record.epoch 1", *likely.split(), *unlikely.split()}),
            ("unlikely", unlikely.split(), []),
        )
    }
    assert {one: [c.what for c in found if c.weight == one] for one in weights} == weights
    assert [c.what for c in found] == [what for some in weights.values() for what in some]
    unsaid = {"record.epoch 1", "code.files"}  # a record that contradicts itself needs no more; of the files none knows
    assert {c.what: c.why for c in found} == {what: "" if what in unsaid else why.get(what, "") for what in IN_ORDER}


@pytest.mark.parametrize(
    ("first", "rounding"),
    [
        ({"relative": 1e-5}, False),
        ({"relative": 9.9e-6}, True),
        ({"relative": 0.0}, True),
        ({"ulp": 16}, True),
        ({"ulp": 17}, False),
        ({"ulp": 17, "relative": 1e-6}, True),
        ({"ulp": 1, "relative": 1.0}, True),  # of elements near zero
        ({}, False),
        (None, False),
    ],
)
def test_what_is_rounding(first: dict[str, Any] | None, rounding: bool) -> None:
    told = None if first is None else msgspec.structs.replace(HERE, **first)
    assert evidence("first", told).is_rounding is rounding
    assert (evidence("first", told).name == "epoch 3") is (first is not None)
    weight = weigh([cause("machine.cpu"), cause("params.rate"), cause("data.in")], evidence("first", told))
    assert {c.what: c.weight for c in weight}["machine.cpu"] == ("likely" if rounding else "possible")


def test_the_only_cause_that_is_left_is_likely_and_what_was_unlikely_before_stays_so() -> None:
    idle = cause("environment.numpy", weight="unlikely", why="not imported by either run")
    found = weigh([idle, cause("machine.cpu", why="seen")], evidence("first"))
    assert [(c.what, c.weight, c.why) for c in found] == [
        ("machine.cpu", "likely", "seen; nothing else that differs would explain it"),
        ("environment.numpy", "unlikely", "not imported by either run"),
    ]
    assert weigh([], evidence("first"))[0].kind == "unexplained"
    both = weigh([cause("machine.cpu"), cause("environment.numpy")], evidence("first"))
    assert [c.weight for c in both] == ["possible", "possible"]
    already = weigh([cause("code")], evidence("first"))
    assert [(c.weight, c.why) for c in already] == [("likely", "epoch 3 differs by more than rounding")]


def test_what_was_known_of_a_cause_before_is_said_with_what_was_seen() -> None:
    known = [cause("inputs./f", why="it was read"), cause("environment.numpy", why="imported")]
    found = weigh(known, evidence("first"))
    assert [(c.what, c.why) for c in found] == [
        ("inputs./f", "it was read; epoch 3 differs by more than rounding"),
        ("environment.numpy", "imported"),
    ]


NOT_SEEDED = "execution.determinism is off: nothing seeds the script's generators"
ALREADY = "the initial state differs already: a generator that nothing seeds, or a file that was not seen"
THE_TIME = "the training's bits are equal: what differs depends on something that is no part of it, such as the time"
SMALL = "it is as small as rounding: an operation without a fixed order, or a race between threads"
DRAWN = "the random generators stand elsewhere: something drew more often, or less, than before"
OTHER = "a generator that nothing seeds, the order of a set or of files in a folder, the time"
GENERATORS = msgspec.structs.replace(CLOSE, state=["epoch", "rng.numpy"])


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (evidence("initial"), ALREADY),
        (evidence("initial", GENERATORS), ALREADY),
        (evidence("outputs"), THE_TIME),
        (evidence("metrics", GENERATORS), THE_TIME),
        (evidence("outputs", checkpoints=False), OTHER),
        (evidence("metrics", None, checkpoints=False), OTHER),
        (evidence("first", GENERATORS), DRAWN),
        (evidence("later", CLOSE), SMALL),
        (evidence("first", msgspec.structs.replace(HERE, state=["epoch", "random.rng"])), OTHER),
        (evidence("later"), OTHER),
        (evidence("missing", LACKING), OTHER),
    ],
)
def test_what_nothing_explains_is_said_with_what_is_worth_a_look(seen: Evidence, why: str) -> None:
    same = "unexplained: code, environment, data, params, execution and numeric class are the same"
    (found,) = weigh([], seen)
    assert (found.kind, found.what, found.text, found.why) == ("unexplained", "unexplained", same, why)
    (found,) = weigh([], seen, unseeded=True)
    assert found.why == f"{NOT_SEEDED}; {why}"
    idle = cause("environment.numpy", weight="unlikely", why="not imported by either run")
    first, last = weigh([idle], seen)
    assert (first, last.kind, last.weight) == (idle, "unexplained", "possible") or (
        (last, first.kind, first.weight) == (idle, "unexplained", "possible")
    )
    told = first if first.kind == "unexplained" else last
    assert (told.text, told.why) == ("unexplained: nothing that differs would explain it", why)
