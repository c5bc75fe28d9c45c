"""Every kind of tensor is stored as it is or refused by name, and comes back bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reprokit.checkpoint.format import SnapshotMessage, encode
from reprokit.client.plain import to_json
from reprokit.client.restored import Restored
from reprokit.client.snapshot import Snapshot
from tests.conftest import Project

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

_SCRIPT = """\
import json, warnings
import torch, reprokit
from reprokit.callbacks.pytorch import PackageCheckpoint
warnings.simplefilter("ignore")

def model(**tensors):
    net = torch.nn.Module()
    net.weight = torch.nn.Parameter(torch.ones(2))
    for name, tensor in tensors.items():
        net.register_buffer(name, tensor, persistent=len(name) % 2 == 0)
    return net

g = torch.Generator().manual_seed(1)
draw = lambda *shape: torch.randn(*shape, generator=g)
kinds = {
    "bf16": draw(5, 3).bfloat16(), "fp16": draw(7).half(), "fp64": draw(3).double(),
    "fp8": draw(9).to(torch.float8_e4m3fn), "fp8b": draw(9).to(torch.float8_e5m2),
    "int8": torch.arange(-5, 5, dtype=torch.int8), "uint16": torch.arange(6).to(torch.uint16),
    "uint64": torch.arange(6).to(torch.uint64), "flags": draw(6) > 0,
    "complex": torch.complex(draw(4), draw(4)), "conjugate": torch.complex(draw(4), draw(4)).conj(),
    "negative": torch.complex(draw(4), draw(4)).conj().imag, "scalar": draw(1)[0], "empty": torch.zeros(0, 3),
    "columns": draw(4, 6).t(), "strided": draw(10)[::3], "expanded": draw(1, 3).expand(4, 3),
    "channels": draw(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "nan": torch.tensor([float("nan"), -0.0, 1e-45]),
    "large": draw(600, 600),
}
net = model(**kinds)
ckpt = PackageCheckpoint(model=net, initial=False)
ckpt.save()
ckpt.close()
said = {}
refused = {
    "wide": torch.zeros(2, dtype=torch.complex128), "sparse": torch.eye(3).to_sparse(),
    "meta": torch.zeros(2, device="meta"), "quantised": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
}
for name, tensor in refused.items():
    try:
        PackageCheckpoint(model=model(**{name: tensor}), initial=False).save()
    except TypeError as error:
        said[name] = str(error)
stray = torch.nn.Parameter(torch.ones(3))
try:
    PackageCheckpoint(model=net, optimizer=torch.optim.SGD([net.weight, stray], lr=1.0), initial=False).save()
except TypeError as error:
    said["stray"] = str(error)
bits = {name: t.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).tolist() if t.numel() else []
        for name, t in {**kinds, "scalar": kinds["scalar"].reshape(1)}.items()}
json.dump({"said": said, "bits": bits}, open("said.json", "w"))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project(tmp_path_factory.mktemp("kinds"))
    made.write("train.py", _SCRIPT)
    made.write(
        "recipe.yaml",
        "name: t\ncode: {entrypoint: train.py}\noutputs: [said.json]\ncheckpoints: {package: t/m}\n",
    )
    made.commit()
    made.reprokit("run", "recipe.yaml", "-q")
    made.reprokit("checkpoint", "get", "latest@last", str(made.base / "got"))
    made.reprokit("install", "runs/" + made.json("show", "latest")["run_id"], str(made.base / "record"))
    return made


def _said(project: Project) -> dict[str, dict[str, str]]:
    said: dict[str, dict[str, str]] = json.loads((project.base / "record" / "outputs" / "said.json").read_text())
    return said


def test_every_dtype_and_layout_is_stored_bit_for_bit(project: Project) -> None:
    stored = Restored(project.base / "got").section("model")
    bits = _said(project)["bits"]
    assert stored.keys() == {*bits, "weight"}
    for name, expected in bits.items():
        assert list(stored[name].data) == expected, name


def test_what_cannot_be_stored_is_refused_by_name(project: Project) -> None:
    said = _said(project)["said"]
    assert said["wide"] == "reprokit: model tensor 'wide' has the dtype complex128, which is not stored"
    assert said["sparse"] == "reprokit: model tensor 'sparse' is torch.sparse_coo, which is not stored"
    assert said["meta"] == "reprokit: model tensor 'meta' is on the meta device and has no values"
    assert said["quantised"] == "reprokit: model tensor 'quantised' is quantised, which is not stored"
    assert said["stray"].startswith(
        "reprokit: the optimiser's parameter 1, of shape [3], belongs to no model that is saved"
    )


def test_tensors_come_back_in_their_dtype(project: Project, tmp_path: Path) -> None:
    from reprokit.callbacks.pytorch.state import as_tensor

    stored = Restored(project.base / "got").section("model")
    assert as_tensor(stored["bf16"]).dtype == torch.bfloat16
    assert as_tensor(stored["fp8"]).dtype == torch.float8_e4m3fn
    assert as_tensor(stored["complex"]).dtype == torch.complex64
    assert as_tensor(stored["scalar"]).shape == ()
    assert as_tensor(stored["empty"]).shape == (0, 3)
    assert as_tensor(stored["channels"]).shape == (2, 3, 4, 5)


def _through_a_folder(capture: Callable[[Snapshot], None], folder: Path) -> Restored:
    """Do what callback, runner and resumed run do with a snapshot, in one process."""
    from reprokit.callbacks.pytorch.state import add_state_tensor, as_tensor

    snapshot = Snapshot(framework="torch", tensor=add_state_tensor)
    capture(snapshot)
    state = to_json(snapshot.state, "state", tensor=snapshot._keep_aside)
    memory = bytearray(snapshot._size)
    for offset, nbytes, copy in snapshot._copies:
        copy(memoryview(memory)[offset : offset + nbytes])
    plain = {"kind": "checkpoint", "framework": "torch", "tensors": snapshot._tensors, "files": [], "state": state}
    pieces, _ = encode(msgspec.convert(json.loads(json.dumps(plain)), SnapshotMessage), memoryview(memory))
    for piece in pieces:
        (folder / piece.key).parent.mkdir(parents=True, exist_ok=True)
        (folder / piece.key).write_bytes(b"".join(piece.parts))
    restored = Restored(folder)
    restored.converters["torch"] = as_tensor
    return restored


_OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    "Adam": {"lr": 0.01, "amsgrad": True},
    "AdamW": {"lr": torch.tensor(0.01), "capturable": False, "foreach": False},
    "NAdam": {"lr": 0.01},
    "RAdam": {"lr": 0.01},
    "Adamax": {"lr": 0.01},
    "Adagrad": {"lr": 0.01},
    "Adadelta": {"lr": 0.1},
    "RMSprop": {"lr": 0.01, "momentum": 0.5, "centered": True},
    "Rprop": {"lr": 0.01},
    "ASGD": {"lr": 0.01},
    "LBFGS": {"lr": 0.1, "history_size": 3},
    "Adafactor": {"lr": 0.01},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", _OPTIMIZERS)
def test_every_optimiser_goes_on_with_the_same_bits(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    from reprokit.callbacks.pytorch import state as torch_state
    from reprokit.callbacks.pytorch.optimizers import add_optimizer, restore_optimizer

    def make() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        # LBFGS itself refuses gradients that are not contiguous
        layout = torch.contiguous_format if name == "LBFGS" else torch.channels_last
        net = torch.nn.Conv2d(3, 4, 3, dtype=dtype).to(memory_format=layout)
        return net, getattr(torch.optim, name)(net.parameters(), **_OPTIMIZERS[name])

    def train(net: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            x = torch.arange(2 * 3 * 5 * 5).reshape(2, 3, 5, 5).remainder(7 + step).to(dtype)

            def closure(x: torch.Tensor = x) -> torch.Tensor:
                optimizer.zero_grad()
                loss: torch.Tensor = (net(x) ** 2).float().mean()
                loss.backward()
                return loss

            optimizer.step(closure)

    def bits(net: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
        tensors = [*net.parameters()]
        for parameter in net.parameters():
            for _, value in sorted(optimizer.state[parameter].items()):
                tensors += [value] if isinstance(value, torch.Tensor) else []
        return [(t.dtype, t.stride(), t.detach().contiguous().reshape(-1).view(torch.uint8).tolist()) for t in tensors]

    net, optimizer = make()
    train(net, optimizer, range(3))

    def capture(snapshot: Snapshot) -> None:
        names = torch_state.add_model(snapshot, "model", {"0": net})
        add_optimizer(snapshot, {"0": optimizer}, names)

    restored = _through_a_folder(capture, tmp_path)
    other, again = make()
    torch_state.restore_model(restored, "model", {"0": other})
    restore_optimizer(restored, {"0": again}, torch_state.parameters_by_name({"0": other}))
    assert bits(other, again) == bits(net, optimizer)
    train(net, optimizer, range(3, 6))
    train(other, again, range(3, 6))
    assert bits(other, again) == bits(net, optimizer)


_SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "multistep": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 4, 4]),
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "onecycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
    "restarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "sequence": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o, [torch.optim.lr_scheduler.ConstantLR(o), torch.optim.lr_scheduler.ExponentialLR(o, 0.5)], [2]
    ),
    "chained": lambda o: torch.optim.lr_scheduler.ChainedScheduler(
        [torch.optim.lr_scheduler.ConstantLR(o), torch.optim.lr_scheduler.StepLR(o, 2)]
    ),
    "cyclic": lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=2, cycle_momentum=False),
    "plateau": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "swa": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=0.05),
}


@pytest.mark.parametrize("name", _SCHEDULERS)
def test_every_scheduler_goes_on_with_the_same_rates(name: str, tmp_path: Path) -> None:
    from reprokit.callbacks.pytorch import state as torch_state

    def make() -> tuple[Any, Any]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
        return optimizer, _SCHEDULERS[name](optimizer)

    def rates(optimizer: Any, scheduler: Any, steps: int) -> list[float]:
        found = []
        for step in range(steps):
            optimizer.step()
            scheduler.step(1.0 + step % 2) if name == "plateau" else scheduler.step()
            found.append(float(optimizer.param_groups[0]["lr"]))
        return found

    optimizer, scheduler = make()
    rates(optimizer, scheduler, 3)

    def capture(snapshot: Snapshot) -> None:
        snapshot.state["s"] = torch_state.plain_state(scheduler)
        snapshot.state["groups"] = optimizer.state_dict()["param_groups"]

    restored = _through_a_folder(capture, tmp_path)
    other, again = make()
    other.load_state_dict({"state": {}, "param_groups": restored.state("groups")})
    torch_state.restore_plain(again, restored.state("s"))
    assert rates(other, again, 6) == rates(optimizer, scheduler, 6)


def test_compiled_parts_do_not_change_the_names_of_tensors() -> None:
    from reprokit.callbacks.pytorch import state as torch_state

    class Net(torch.nn.Module):
        def __init__(self, wrap: Callable[[Any], Any]) -> None:
            super().__init__()
            self.body = wrap(torch.nn.Sequential(torch.nn.Linear(2, 2), wrap(torch.nn.BatchNorm1d(2))))
            self.head = torch.nn.Linear(2, 1)

    plain, compiled = Net(lambda part: part), Net(torch.compile)
    assert "body._orig_mod.0.weight" in dict(compiled.named_parameters())
    names = [name for name, _ in torch_state.parameters_in(compiled)]
    assert names == [name for name, _ in plain.named_parameters()]
    taken, other = Snapshot(framework="torch"), Snapshot(framework="torch")
    torch_state.add_model(taken, "model", {"0": compiled.eval()})
    torch_state.add_model(other, "model", {"0": plain.eval()})
    assert {one["name"] for one in taken._tensors} == {one["name"] for one in other._tensors}
    assert set(taken.state["model"]["0"]["evaluating"]) == set(other.state["model"]["0"]["evaluating"])


def test_a_lazy_module_is_named_with_what_to_do() -> None:
    from reprokit.callbacks.pytorch import state as torch_state

    with pytest.raises(TypeError) as told:
        torch_state.add_model(Snapshot(framework="torch"), "model", {"0": torch.nn.LazyLinear(2)})
    assert str(told.value) == (
        "reprokit: model tensor 'weight' belongs to a lazy module and has no shape before the model's first call; call "
        "the model once on a batch's shapes before the checkpoints begin: model(torch.zeros(…))"
    )
