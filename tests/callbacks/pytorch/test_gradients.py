"""Gradients that live across a save are part of the state; those that a training clears first cost nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reprokit.client.restored import Restored
from tests.callbacks.pytorch.conftest import Rehearse

_GAN = """
g, d = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
og, od = torch.optim.Adam(g.parameters(), 1e-2), torch.optim.Adam(d.parameters(), 1e-2)
loader = DataLoader(x, batch_size=5, shuffle=True)
ckpt = PackageCheckpoint(model={"g": g, "d": d}, optimizer={"g": og, "d": od}, loader=loader)
for _ in ckpt.epochs(3):
    for real in ckpt.batches(loader):
        die()
        (d(g(real).detach()).mean() - d(real).mean()).backward(); od.step(); od.zero_grad()
        (-d(g(torch.randn(5, 4))).mean()).backward(); og.step(); og.zero_grad()  # d's gradients of this one live on
    ckpt.save()
"""

_TWO_SPEEDS = """
body, head = nn.Linear(4, 4), nn.Linear(4, 1)
fast, slow = torch.optim.Adam(head.parameters(), 1e-2), torch.optim.SGD(body.parameters(), 1e-2)
loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
ckpt = PackageCheckpoint(model=[body, head], optimizer=[fast, slow], loader=loader)
for _ in ckpt.epochs(3):
    for a, b in ckpt.batches(loader):
        die()
        fast.zero_grad(); mse(head(body(a).tanh()), b).backward(); fast.step()
        if ckpt.step % 3 == 0:
            slow.step(); slow.zero_grad()
    ckpt.save()
"""

_ACCUMULATED = """
net = nn.ModuleDict({"unused": nn.Linear(3, 3), "a": nn.Linear(4, 4), "b": nn.Linear(4, 1), "last": nn.Linear(2, 2)})
optimizer = torch.optim.SGD(net.parameters(), 1e-2)
loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, loader=loader)
for _ in ckpt.epochs(3):
    for a, b in ckpt.batches(loader):
        die()
        (mse(net["b"](net["a"](a).tanh()), b) / 3).backward()
        k = ckpt.state["k"] = ckpt.state.get("k", 0) + 1
        if k % 3 == 0:
            optimizer.step(); optimizer.zero_grad(SET_TO_NONE)
    ckpt.save()
"""

_NEVER_ZEROED = """
net = nn.Linear(4, 1)
optimizer = torch.optim.SGD(net.parameters(), 1e-4)
loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, loader=loader)
for _ in ckpt.epochs(3):
    for a, b in ckpt.batches(loader):
        die()
        mse(net(a), b).backward(); optimizer.step()
    ckpt.save()
"""

_CLIPPED = """
body, head = nn.Linear(4, 4), nn.Linear(4, 1)
optimizer = torch.optim.SGD(head.parameters(), 1e-2)
loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
ckpt = PackageCheckpoint(model=nn.ModuleList([body, head]), optimizer=optimizer, loader=loader)
for _ in ckpt.epochs(3):
    for a, b in ckpt.batches(loader):
        die()
        optimizer.zero_grad()
        mse(head(body(a)), b).backward()
        nn.utils.clip_grad_norm_([*body.parameters(), *head.parameters()], 0.1)  # body's are never cleared
        optimizer.step()
    ckpt.save()
"""

_SPARSE = """
net = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Linear(4, 1))
optimizer = torch.optim.SGD(net.parameters(), 1e-2)
loader = DataLoader(torch.arange(20) % 9, batch_size=4, shuffle=True)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, loader=loader)
for _ in ckpt.epochs(3):
    for a in ckpt.batches(loader):
        die()
        net(a).square().mean().backward(); optimizer.step()
    ckpt.save()
"""

_SCRIPTS = {
    "GAN": _GAN,
    "two speeds": _TWO_SPEEDS,
    "accumulated": _ACCUMULATED.replace("SET_TO_NONE", "True"),
    "accumulated on zeros": _ACCUMULATED.replace("SET_TO_NONE", "False"),
    "never zeroed": _NEVER_ZEROED,
    "clipped": _CLIPPED,
    "sparse": _SPARSE,
}


@pytest.mark.parametrize("steps", [None, 2])
@pytest.mark.parametrize("name", _SCRIPTS)
def test_gradients_that_live_on_come_back(name: str, steps: int | None, rehearse: Rehearse) -> None:
    assert rehearse(_SCRIPTS[name], steps).differences([8, 11]) == []


_USUAL = """
net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
optimizer = torch.optim.SGD(net.parameters(), 1e-2)
loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, loader=loader)
for epoch in ckpt.epochs(4):
    for a, b in ckpt.batches(loader):
        die()
        CLEARED
        mse(net(a), b).backward()
        optimizer.step()
    ckpt.save()
"""


@pytest.mark.parametrize(
    "cleared", ["optimizer.zero_grad()", "net.zero_grad(set_to_none=False)", "for p in net.parameters(): p.grad = None"]
)
def test_gradients_that_are_cleared_first_are_in_the_first_checkpoint_alone(cleared: str, rehearse: Rehearse) -> None:
    rehearsal = rehearse(_USUAL.replace("CLEARED", cleared))
    saved = rehearsal.run()
    counted = [len(Restored(folder).section("gradients")) for _, folder in saved.values()]
    assert counted == [0, 4, 0, 0, 0]
    assert rehearsal.differences([7, 13, 18]) == []


def test_a_run_that_goes_on_with_gradients_that_were_left_out_is_stopped_by_name(rehearse: Rehearse) -> None:
    rehearsal = rehearse(_USUAL.replace("CLEARED", "if epoch < 3: optimizer.zero_grad()"))
    saved = rehearsal.run()
    folders: dict[int, Path] = {place[0]: folder for place, (_, folder) in saved.items()}
    goes_on = "goes on with the gradients of 0.bias, 0.weight, 1.bias, 1.weight, which it had cleared before"
    assert [goes_on in one for one in rehearsal.said] == [True]
    with pytest.raises(RuntimeError, match=re.escape(goes_on)):
        rehearsal.run(resume=folders[2])
    assert rehearsal.run(resume=folders[1])[3, 20, None][0] == saved[3, 20, None][0]
