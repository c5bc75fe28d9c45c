"""However a script takes its batches, a resumed run ends with the same bits, or is refused by name."""

from __future__ import annotations

import pytest

from reprokit.client.restored import Restored
from tests.callbacks.pytorch.conftest import Rehearse

_SCRIPT = """
net = nn.Sequential(nn.Linear(4, 1), nn.BatchNorm1d(1), nn.Dropout(0.2))
optimizer = torch.optim.SGD(net.parameters(), 1e-2)
loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
other = DataLoader(x / 2, batch_size=8, shuffle=True)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, loader=[loader, other])

def step(a, b):
    optimizer.zero_grad(); mse(net(a), b).backward(); optimizer.step()

def through(batches):
    for batch in batches:
        yield batch

def train():
    for epoch in ckpt.epochs(3):
        BODY

train()
"""

_RIGHT = {
    "enumerate": "for i, (a, b) in enumerate(ckpt.batches(loader)):\n die(); step(a * (1 + i % 3), b)",
    "enumerate from 1": "for i, (a, b) in enumerate(ckpt.batches(loader), 1):\n die(); step(a * (1 + i % 3), b)",
    "through a generator": (
        "for i, (a, b) in through(enumerate(ckpt.batches(loader))):\n die(); step(a * (1 + i % 3), b)"
    ),
    "zip": "for (a, b), c in zip(ckpt.batches(loader), ckpt.batches(other)):\n die(); step(a, b); net(c)",
    "enumerate and zip": (
        "for i, ((a, b), c) in enumerate(zip(ckpt.batches(loader), ckpt.batches(other, endless=True))):\n"
        " die(); step(a * (1 + i % 3), b); net(c)"
    ),
    "endless by hand": (
        "more = ckpt.batches(other, endless=True)\n"
        "for a, b in ckpt.batches(loader):\n die(); step(a, b); net(next(more)); net(next(more))"
    ),
    "endless": (
        "for i, (a, b) in enumerate(ckpt.batches(loader, endless=True)):\n"
        " die(); step(a, b)\n if i == 6: break"
    ),
    "one after the other": (
        "for a, b in ckpt.batches(loader):\n die(); step(a, b)\n"
        "net.eval()\n"
        "for c in ckpt.batches(other):\n die(); net(c)\n"
        "net.train()\n"
        "for a, b in ckpt.batches(loader):\n die(); step(a, b)"
    ),
    "broken off": "for a, b in ckpt.batches(loader):\n die(); step(a, b)\n if ckpt.batch == 3: break",
    "saved within": "for a, b in ckpt.batches(loader):\n die(); step(a, b)\n if ckpt.batch == 2: ckpt.save()",
    "set up anew": (
        "ckpt.state['sum'] = 0.0\nfor a, b in ckpt.batches(loader):\n die(); step(a, b); ckpt.state['sum'] += 1.5"
    ),
}  # fmt: skip


def _script(body: str) -> str:
    lines = [*body.splitlines(), "ckpt.save()"]
    return _SCRIPT.replace("BODY", "\n        ".join(line.replace("\n ", "\n    ") for line in lines))


@pytest.mark.parametrize("name", _RIGHT)
def test_a_loop_is_entered_again_where_it_stood(name: str, rehearse: Rehearse) -> None:
    assert rehearse(_script(_RIGHT[name]), 3).differences([9, 12]) == []


def test_batches_taken_by_hand_are_right_at_the_ends_of_epochs(rehearse: Rehearse) -> None:
    rehearsal = rehearse(_script("it = ckpt.batches(loader)\nfor _ in range(3):\n a, b = next(it); die(); step(a, b)"))
    assert rehearsal.differences([5, 9]) == []


_BY_HAND = "it = ckpt.batches(loader)\nfor _ in range(4):\n a, b = next(it); step(a, b)"
_REFUSED = {
    _BY_HAND: "inside an epoch, batches are taken by next(…), and nobody but the script knows how many more it would",
    "for (a, b), i in zip(ckpt.batches(loader), range(9)):\n step(a, b)": (
        "inside an epoch, zip(…) has a range_iterator beside ckpt.batches(…), which would begin anew"
    ),
    "for a, b in itertools.islice(ckpt.batches(loader), 4):\n step(a, b)": (
        "inside an epoch, itertools.islice stands around ckpt.batches(…) and would begin anew"
    ),
    "for i, (a, b) in enumerate(through(ckpt.batches(loader))):\n step(a, b)": (
        "inside an epoch, enumerate(…) is not right around ckpt.batches(…) and would count from its start again"
    ),
    "for c in ckpt.batches(other):\n for a, b in ckpt.batches(loader):\n  step(a, b)\n  ckpt.save()": (
        "inside an epoch, the checkpoint is saved in a loop over ckpt.batches(…) inside another"
    ),
}


@pytest.mark.parametrize("body", _REFUSED)
def test_a_loop_that_cannot_be_entered_again_says_so_at_its_first_save_inside(body: str, rehearse: Rehearse) -> None:
    rehearsal = rehearse(_script(body), 2)
    saved = rehearsal.run()
    inside = next(folder for (_, _, batch), (_, folder) in saved.items() if batch is not None)
    assert any(one.startswith(_REFUSED[body]) for one in Restored(inside).state("refused"))
    with pytest.raises(RuntimeError, match="no run can be resumed from this checkpoint bit for bit: inside an epoch, "):
        rehearsal.run(resume=inside)
    ends = [folder for (_, _, batch), (_, folder) in saved.items() if batch is None]
    assert Restored(ends[1]).state("refused") is None


_HELD = "an iterator over a DataLoader goes on from one epoch to the next, and its place is in no checkpoint"
_BEFORE = {
    "it = iter(loader)": (
        "for _ in range(3):\n"
        " try: pair = next(it)\n except StopIteration: it = iter(loader); pair = next(it)\n"
        " step(*pair)"
    ),
    "it = itertools.cycle(loader)": "for _ in range(6): step(*next(it))",
    "it = through(itertools.chain.from_iterable(itertools.repeat(loader)))": "for _ in range(3): step(*next(it))",
    "it = None": "if it is None: it = iter(loader)\nstep(*next(it))",
    "late = torch.optim.Adam(net.parameters())": "for a, b in ckpt.batches(loader): step(a, b); late.step()",
}


@pytest.mark.parametrize("before", _BEFORE)
def test_what_no_checkpoint_has_is_named_at_the_first_save(before: str, rehearse: Rehearse) -> None:
    script = _script(_BEFORE[before]).replace("    for epoch in", f"    {before}\n    for epoch in")
    rehearsal = rehearse(script)
    saved = rehearsal.run()
    why = "Adam steps on '0.weight', has a state of its own, and is in no checkpoint" if "late" in before else _HELD
    first = [folder for (epoch, *_), (_, folder) in saved.items() if epoch == 0]
    assert all(why in str(Restored(folder).state("refused")) for folder in first)


@pytest.mark.parametrize("after", ["torch.rand(1)", "step(x, y)", "for c in other: net(c)"])
def test_what_follows_upon_the_save_of_an_epoch_is_named(after: str, rehearse: Rehearse) -> None:
    script = _script("for a, b in ckpt.batches(loader): step(a, b)")
    rehearsal = rehearse(script.replace("        ckpt.save()", f"        ckpt.save()\n        {after}"))
    rehearsal.run()
    assert any("after ckpt.save the epoch's body steps or draws random numbers" in one for one in rehearsal.said)


def test_a_fixed_batch_that_was_taken_before_and_a_validation_are_no_obstacle(rehearse: Rehearse) -> None:
    body = "for a, b in ckpt.batches(loader): die(); step(a, b)\nfew = iter(DataLoader(x))\nnext(few)"
    script = _script(body).replace(
        "    for epoch in", "    early = iter(loader); fixed = next(early)\n    for epoch in"
    )
    rehearsal = rehearse(script)
    assert rehearsal.differences([8]) == []
    assert rehearsal.said == []


_WRONG = {
    "if epoch == 0: it = ckpt.batches(loader, endless=True)\nfor _ in range(3): step(*next(it))": (
        "these batches are of an epoch that is over, and a resumed run would not have them"
    ),
    "it = ckpt.batches(loader)\nstep(*next(it))\nckpt.save()\nstep(*next(it))": (
        "ckpt.save stood where this epoch goes on"
    ),
    "ckpt.save()\nfor a, b in ckpt.batches(loader): step(a, b)": "ckpt.save stood where this epoch goes on",
}


@pytest.mark.parametrize("body", _WRONG)
def test_what_a_resumed_run_could_not_repeat_is_an_error(body: str, rehearse: Rehearse) -> None:
    with pytest.raises(RuntimeError, match=_WRONG[body]):
        rehearse(_script(body)).run()


def test_batches_are_counted_from_1_and_count_on(rehearse: Rehearse) -> None:
    rehearsal = rehearse(
        _script("for i, (a, b) in enumerate(ckpt.batches(loader)):\n assert ckpt.batch == i + 1\n step(a, b)"), 2
    )
    saved = rehearsal.run()
    assert [batch for _, _, batch in saved] == [None, 2, 4, None, 1, 3, None, 2, 4, None]
    rehearsal.run(resume=saved[1, 8, 3][1])


def test_readings_have_the_length_of_their_loader(rehearse: Rehearse) -> None:
    rehearse(_script("assert len(ckpt.batches(loader)) == 5\nassert ckpt.batches(loader)")).run()


_USES_LAST = "for a, b in ckpt.batches(loader):\n die(); last = step(a, b)\nassert last is None\ndel last"
_SHORTER = "for a, c in zip(ckpt.batches(loader), ckpt.batches(other)):\n die(); last = step(*a); net(c)\ndel last"


@pytest.mark.parametrize(("body", "batches"), [(_USES_LAST, 5), (_SHORTER, 3)])
def test_no_checkpoint_stands_after_the_last_batch_where_the_body_of_the_loop_would_not_be_entered(
    body: str, batches: int, rehearse: Rehearse
) -> None:
    rehearsal = rehearse(_script(body), batches)
    assert [batch for _, _, batch in rehearsal.run()] == [None, None, None, None]
    assert rehearsal.differences([batches, batches + 1, 2 * batches]) == []


def test_what_was_due_after_the_last_batch_is_saved_at_the_end_of_an_epoch_without_a_save(rehearse: Rehearse) -> None:
    body = "for a, b in ckpt.batches(loader):\n die(); last = step(a, b)\ndel last"
    script = _script(body).replace("ckpt.save()", "")
    rehearsal = rehearse(script, 5)
    assert [*rehearsal.run()] == [(-1, 0, None), (0, 5, None), (1, 10, None), (2, 15, None)]
    assert rehearsal.differences([6, 11]) == []


def test_a_loader_that_cannot_say_how_many_it_has_is_saved_as_it_goes(rehearse: Rehearse) -> None:
    short = (
        "class Unknown(list):\n        def __len__(self): raise NotImplementedError\n"
        "    unknown = Unknown(list(loader))\n    for epoch in"
    )
    script = _script("for a, b in ckpt.batches(unknown):\n die(); step(a, b)").replace("for epoch in", short)
    assert [batch for _, _, batch in rehearse(script, 2).run()][:4] == [None, 2, 4, None]


def test_a_loader_that_says_too_few_is_saved_later(rehearse: Rehearse) -> None:
    short = "class Short(list):\n        def __len__(self): return 2\n    short = Short(list(loader))\n    for epoch in"
    script = _script("for a, b in ckpt.batches(short):\n die(); step(a, b)").replace("for epoch in", short)
    assert [batch for _, _, batch in rehearse(script, 2).run()][:4] == [None, 3, 4, None]
