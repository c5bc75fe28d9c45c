"""What optimisers keep beside the moments of parameters, and groups that come during the training, come back."""

from __future__ import annotations

import pytest

from tests.callbacks.pytorch.conftest import Rehearse

_OTHER_STATE = """
class Scaled(torch.optim.SGD):
    def step(self, closure=None):
        own = self.state["global"]
        own["n"] = own.get("n", 0) + 1
        own["norm"] = 0.9 * own.get("norm", torch.ones(1)) + 0.1 * self.param_groups[0]["params"][0].grad.norm()
        self.state["calls"] = [own["n"]]
        for group in self.param_groups:
            group["lr"] = 1e-2 / (1 + float(own["norm"]))
        return super().step(closure)

    def state_dict(self):
        return {**super().state_dict(), "slow": self.state["global"].get("norm", torch.zeros(1)) * 2}

    def load_state_dict(self, state):
        assert float(state.pop("slow")) == 2 * float(state["state"]["global"]["norm"])
        super().load_state_dict(state)

net = nn.Linear(4, 1)
optimizer = Scaled(net.parameters(), lr=1e-2)
loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, loader=loader)
for _ in ckpt.epochs(2):
    for a, b in ckpt.batches(loader):
        die(); optimizer.zero_grad(); mse(net(a), b).backward(); optimizer.step()
    ckpt.save()
"""

_UNFREEZE = """
body, head = nn.Linear(4, 4), nn.Linear(4, 1)
body.requires_grad_(False)
optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
model = nn.Sequential(body, nn.Tanh(), head)
ckpt = PackageCheckpoint(model=model, optimizer=optimizer, loader=loader, scheduler=schedule)
for epoch in ckpt.epochs(3):
    if epoch == 1:
        body.requires_grad_(True)
        optimizer.add_param_group({"params": body.parameters(), "lr": 1e-3})
    schedule.step()
    for a, b in ckpt.batches(loader):
        die(); optimizer.zero_grad(); mse(head(body(a).tanh()), b).backward(); optimizer.step()
    ckpt.save()
"""


_OWN_FILE = """
import hashlib, io
body, head = nn.Linear(4, 4), nn.Linear(4, 1)
optimizer = torch.optim.AdamW([{"params": body.parameters()}, {"params": head.parameters(), "lr": 1e-3}], lr=1e-2)
model = nn.Sequential(body, nn.Tanh(), head)
ckpt = PackageCheckpoint(model=model, optimizer=optimizer)
for epoch in ckpt.epochs(3):
    die(); optimizer.zero_grad(); mse(model(x), y).backward(); optimizer.step()
    torch.save(optimizer.state_dict(), file := io.BytesIO())
    ckpt.save(state={"file": hashlib.sha256(file.getvalue()).hexdigest()})
"""


def test_a_file_that_the_script_makes_of_it_has_the_same_bytes_after_a_resume(rehearse: Rehearse) -> None:
    assert rehearse(_OWN_FILE, None).differences([2, 3]) == []  # groups share values with the defaults, as pickle tells


def test_state_that_belongs_to_no_parameter_comes_back(rehearse: Rehearse) -> None:
    assert rehearse(_OTHER_STATE, 2).differences([5, 9]) == []


@pytest.mark.parametrize("steps", [None, 2])
def test_groups_that_were_added_during_the_training_come_back(steps: int | None, rehearse: Rehearse) -> None:
    assert rehearse(_UNFREEZE, steps).differences([9, 13]) == []


def test_a_group_too_many_is_named(rehearse: Rehearse) -> None:
    rehearsal = rehearse(_UNFREEZE)
    saved = rehearsal.run()
    early = rehearse(
        _UNFREEZE.replace("loader = ", "optimizer.add_param_group({'params': body.parameters()})\nloader = ")
    )
    with pytest.raises(RuntimeError, match="the script has groups that the checkpoint has not; add them in the epoch "):
        early.run(resume=saved[0, 5, None][1])


_PREPARED = """
from accelerate import Accelerator
accelerator = Accelerator(cpu=True)
net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.2), nn.Linear(4, 1))
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
net, optimizer, loader, schedule = accelerator.prepare(net, optimizer, loader, schedule)
ckpt = PackageCheckpoint(model=net, optimizer=optimizer, loader=loader, scheduler=schedule)
for _ in ckpt.epochs(3):
    for a, b in ckpt.batches(loader):
        die(); optimizer.zero_grad(); accelerator.backward(mse(net(a), b)); optimizer.step(); schedule.step()
    ckpt.save()
"""


def test_what_accelerate_has_prepared_comes_back(rehearse: Rehearse) -> None:
    pytest.importorskip("accelerate", reason="the transformers extra is not installed")
    rehearsal = rehearse(_PREPARED, 2)
    assert rehearsal.differences([4, 8]) == []
    assert rehearsal.said == []
