"""Preprocess, train, fine-tune, evaluate: each step's input is what another run made, and each can be repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Project

pytestmark = pytest.mark.slow

PREPROCESS = """\
import json
from pathlib import Path
import numpy as np

rows = np.loadtxt("raw/rows.csv", delimiter=",")
x, y = rows[:, :-1], rows[:, -1:]
out = Path("features")
out.mkdir()
np.save(out / "x.npy", ((x - x.mean(0)) / x.std(0)).astype("float32"))
np.save(out / "y.npy", y.astype("float32"))
Path("stats.json").write_text(json.dumps({"rows": len(rows), "mean": x.mean(0).tolist()}))
"""

COMMON = """\
import json
from pathlib import Path
import numpy as np
import torch
import reprokit
from reprokit.callbacks.pytorch import PackageCheckpoint

x, y = (torch.from_numpy(np.load(f"in/features/{name}.npy")) for name in "xy")
model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))

def restore(folder):
    from safetensors.torch import load_file
    weights = {}
    for shard in Path(folder, "model").glob("*.safetensors"):
        weights |= load_file(shard)
    model.load_state_dict(weights)

def fit(parameters):
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=16, shuffle=True)
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    ckpt = PackageCheckpoint(model=model, optimizer=optimizer, loader=loader)
    for epoch in ckpt.epochs(3):
        for some, target in loader:
            loss = torch.nn.functional.mse_loss(model(some), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ckpt.save(loss=torch.nn.functional.mse_loss(model(x), y).item())
"""

TRAIN = COMMON + "fit(model.parameters())\n"
FINETUNE = COMMON + 'restore("base")\nmodel[0].requires_grad_(False)\nfit(model[2].parameters())\n'
EVALUATE = COMMON + (
    'restore("in/model")\nloss = torch.nn.functional.mse_loss(model(x), y).item()\n'
    'stats = json.loads(Path("in/stats.json").read_text())\n'
    'Path("metrics.json").write_text(json.dumps({"loss": loss, "rows": stats["rows"]}))\n'
)

RECIPE = """\
name: {name}
code: {{entrypoint: {name}.py}}
data: {data}
execution: {{seed: 3, threads: 1, inputs: deny}}
checkpoints: {{package: chain/{name}, best: {{loss: min}}}}
outputs: {outputs}
"""


class Chain:
    """Four runs, each declared with what the ones before it are called."""

    def __init__(self, project: Project) -> None:
        self.project = project
        raw = project.base / "raw"
        raw.mkdir()
        rows = [f"{i % 7},{(i * i) % 11},{i / 60},{(i % 7) * 0.5 - i / 60}" for i in range(60)]
        (raw / "rows.csv").write_text("\n".join(rows))
        project.reprokit("package", "build", str(raw), "chain/raw")
        self.preprocess = self.run("preprocess", PREPROCESS, "{raw: {package: chain/raw, path: raw}}",
                                   "[features/, stats.json]")  # fmt: skip
        features = f"features: {{run: {self.preprocess['run_id']}, output: features/, path: in/features}}"
        self.train = self.run("train", TRAIN, f"{{{features}}}")
        base = f'base: {{run: "{self.train["run_id"]}@best", path: base}}'
        self.finetune = self.run("finetune", FINETUNE, f"{{{base}, {features}}}")
        model = f'model: {{run: "{self.finetune["run_id"][-6:]}@last", path: in/model}}'
        stats = f"stats: {{run: {self.preprocess['run_id']}, output: stats.json, path: in/stats.json}}"
        self.evaluate = self.run("evaluate", EVALUATE, f"{{{model}, {features}, {stats}}}", "[metrics.json]")

    def run(self, name: str, script: str, data: str, outputs: str = "[]") -> dict[str, Any]:
        self.project.write(f"{name}.py", script)
        self.project.write(f"{name}.yaml", RECIPE.format(name=name, data=data, outputs=outputs))
        self.project.commit()
        record: dict[str, Any] = self.project.json("run", f"{name}.yaml")
        return record

    @property
    def steps(self) -> list[dict[str, Any]]:
        return [self.preprocess, self.train, self.finetune, self.evaluate]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    return Chain(Project(tmp_path_factory.mktemp("chain")))


def test_every_step_is_bitwise_the_same_from_another_home(chain: Chain) -> None:
    for step in chain.steps:
        verdict = chain.project.json("reproduce", step["run_id"], home="colleague", cwd=chain.project.base)
        assert verdict["verdict"] == "BITWISE", (step["name"], verdict)
        repeated = chain.project.json("show", verdict["run_id"])
        assert repeated["lock_hash"] == step["lock_hash"]
        assert repeated["data"] == step["data"]


def test_the_steps_got_what_the_others_made(chain: Chain) -> None:
    metrics = json.loads(_output(chain, chain.evaluate, "metrics.json"))
    assert metrics == {"loss": chain.finetune["checkpoints"][-1]["metrics"]["loss"], "rows": 60}
    first, last = (chain.train["checkpoints"][at]["metrics"]["loss"] for at in (0, -1))
    assert chain.finetune["initial"]["state_digest"] != chain.train["initial"]["state_digest"]
    assert chain.finetune["checkpoints"][-1]["metrics"]["loss"] < last < first


def test_the_record_names_what_was_pinned_and_not_what_was_typed(chain: Chain) -> None:
    made, best = chain.preprocess["run_id"], _best(chain.train)
    base, features = chain.finetune["data"]
    assert (base["package"], base["top_hash"]) == (best["package"], best["top_hash"])
    assert base["run"] == f"{chain.train['run_id']}@epoch={best['epoch']}"
    assert (features["package"], features["run"], features["within"]) == (f"runs/{made}", made, "outputs/features")
    assert (features["entries"], features["path"]) == (2, "in/features")
    model, _, stats = chain.evaluate["data"]
    assert model["run"] == f"{chain.finetune['run_id']}@epoch=2"
    assert (stats["within"], stats["entries"]) == ("outputs/stats.json", 1)
    for checkpoint in chain.finetune["checkpoints"]:
        meta = chain.project.json("show", f"chain/finetune@{checkpoint['top_hash']}")["meta"]["reprokit"]
        assert meta["inputs"] == [
            {"name": "base", "package": "chain/train", "top_hash": best["top_hash"]},
            {"name": "features", "package": f"runs/{made}", "top_hash": features["top_hash"],
             "within": "outputs/features"},
        ]  # fmt: skip


def test_lineage_tells_the_whole_chain(chain: Chain) -> None:
    preprocess, train, finetune, evaluate = (step["run_id"] for step in chain.steps)
    raw, base = chain.preprocess["data"][0]["top_hash"][:8], _best(chain.train)
    last = chain.finetune["checkpoints"][-1]["top_hash"][:8]
    assert chain.project.reprokit("lineage", evaluate).stdout == (
        f"{evaluate}  evaluate  finished\n"
        f"├─ model: chain/finetune@{last} ← {finetune}@epoch=2  finetune  finished\n"
        f"│  ├─ base: chain/train@{base['top_hash'][:8]} ← {train}@epoch={base['epoch']}  train  finished\n"
        f"│  │  └─ features: outputs/features ← {preprocess}  preprocess  finished\n"
        f"│  │     └─ raw: chain/raw@{raw}\n"
        f"│  └─ features: outputs/features ← {preprocess}  preprocess  finished, as above\n"
        f"├─ features: outputs/features ← {preprocess}  preprocess  finished, as above\n"
        f"└─ stats: outputs/stats.json ← {preprocess}  preprocess  finished, as above\n"
    )
    plain = chain.project.json("lineage", f"{finetune}@last")
    assert (plain["package"], plain["run_id"], plain["forward"]) == ("chain/finetune", finetune, False)
    assert [node["run_id"] for node in plain["runs"]] == [finetune, train, preprocess]
    assert [(use["user"], use["name"], use["maker"]) for use in plain["uses"]] == [
        (finetune, "base", train), (finetune, "features", preprocess), (train, "features", preprocess),
        (preprocess, "raw", None),
    ]  # fmt: skip


@pytest.mark.parametrize("start", ["run", "package"])
def test_lineage_forward_tells_what_was_made_from_it(chain: Chain, start: str) -> None:
    preprocess, train, finetune, evaluate = (step["run_id"] for step in chain.steps)
    plain = chain.project.json("lineage", {"run": preprocess, "package": "chain/raw"}[start], "--forward")
    repeats = {node["run_id"] for node in plain["runs"] if node["reproduces"]}
    assert {node["run_id"] for node in plain["runs"]} - repeats == {preprocess, train, finetune, evaluate}
    assert {(use["user"], use["name"], use["maker"]) for use in plain["uses"] if use["user"] not in repeats} == {
        (train, "features", preprocess), (finetune, "features", preprocess), (finetune, "base", train),
        (evaluate, "model", finetune), (evaluate, "features", preprocess), (evaluate, "stats", preprocess),
        *([(preprocess, "raw", None)] if start == "package" else []),
    }  # fmt: skip
    said = chain.project.reprokit("lineage", f"{train}@best", "--forward").stdout
    assert f"─ {finetune}  finetune  finished  (base: chain/train@{_best(chain.train)['top_hash'][:8]})" in said
    assert f"─ {evaluate}  evaluate  finished  (model: chain/finetune@" in said


def test_what_a_later_step_needs_is_not_deleted_by_mistake(chain: Chain) -> None:
    refused = chain.project.reprokit("rm", chain.preprocess["run_id"], expect=3).stderr
    assert f"{chain.preprocess['run_id']} is used by " in refused
    assert chain.train["run_id"] in refused
    best = _best(chain.train)
    refused = chain.project.reprokit("rm", f"chain/train@{best['top_hash']}", expect=3).stderr
    assert chain.finetune["run_id"] in refused
    output = chain.finetune["data"][1]
    refused = chain.project.reprokit("rm", f"{output['package']}@{output['top_hash']}", expect=3).stderr
    assert chain.finetune["run_id"] in refused
    chain.project.reprokit("gc", "--grace", "0", "--thorough")
    chain.project.reprokit("verify", "--all")


def test_a_step_that_was_pulled_with_its_inputs_is_repeated_there(chain: Chain, tmp_path: Path) -> None:
    run = chain.finetune["run_id"]
    there = str(tmp_path / "there")
    pulled = chain.project.json("pull", run, "--all", "--from", str(chain.project.registry), "--registry", there)
    names = [one["name"] for one in pulled]
    assert names[:2] == ["chain/train", f"runs/{chain.preprocess['run_id']}"]
    assert names[-1] == f"runs/{run}"
    assert chain.project.json("reproduce", run, "--registry", there, home="pulled")["verdict"] == "BITWISE"
    chain.project.reprokit("verify", "--all", "--registry", there)
    said = chain.project.reprokit("lineage", run, "--registry", there).stdout
    assert f"← {chain.train['run_id']}@epoch={_best(chain.train)['epoch']}  not in this registry\n" in said
    assert "└─ features: outputs/features ← " in said
    assert "└─ raw: chain/raw@" in said


def _best(record: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = min(record["checkpoints"], key=lambda entry: entry["metrics"]["loss"])
    return found


def _output(chain: Chain, record: dict[str, Any], name: str) -> str:
    chain.project.reprokit("install", f"runs/{record['run_id']}", str(chain.project.base / name / "record"))
    return (chain.project.base / name / "record" / "outputs" / name).read_text()
