"""What the Hugging Face callback stores, refuses and brings back, in the Trainer itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reprokit.checkpoint.load import load_checkpoint
from reprokit.checkpoint.reader import Checkpoint
from tests.conftest import Project
from tests.resume.trials import Case, Trial

pytest.importorskip("transformers", reason="the transformers extra is not installed")
pytest.importorskip("accelerate", reason="the transformers extra is not installed")

_TINY = """\
import warnings
import torch
from transformers import (
    BertConfig, BertForSequenceClassification, EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments,
)
from reprokit.callbacks.transformers import PackageCheckpoint

size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
rows = [{"input_ids": [i, i + 1], "labels": i % 2} for i in range(6)]

def trainer(callbacks=None, **options):
    model = BertForSequenceClassification(BertConfig(vocab_size=8, max_position_embeddings=4, **size))
    quiet = {"output_dir": "out", "report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    args = TrainingArguments(
        **{**quiet, "num_train_epochs": 2, "per_device_train_batch_size": 2, "logging_steps": 1, **options}
    )
    callbacks = [PackageCheckpoint()] if callbacks is None else callbacks
    return Trainer(model=model, args=args, train_dataset=rows, eval_dataset=rows, callbacks=callbacks)
"""

_REFUSALS = """
def refusal(late=False, **options):
    made = trainer(callbacks=[] if late else None, **options)
    if late:
        made.add_callback(PackageCheckpoint())
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made.train()
        print("WARNED", *(str(one.message) for one in caught if "reprokit" in str(one.message)))
    except RuntimeError as error:
        print("REFUSED", error)

refusal(late=True)
refusal(auto_find_batch_size=True)
refusal(ignore_data_skip=True)
refusal(load_best_model_at_end=True, eval_strategy="epoch", save_strategy="epoch")
"""


def _run(base: Path, script: str, *, every: str = "1 epoch") -> Project:
    project = Project(base)
    project.write("train.py", _TINY + script)
    project.write(
        "recipe.yaml",
        f"name: t\ncode: {{entrypoint: train.py}}\ncheckpoints: {{package: t/model, every: {every}}}\n"
        "execution: {seed: 1, threads: 1, inputs: 'off'}\n",
    )
    project.commit()
    project.reprokit("run", "recipe.yaml", "-q")
    return project


@pytest.mark.slow
def test_killed_within_an_epoch_and_resumed_every_checkpoint_has_the_bits_of_a_run_left_alone(tmp_path: Path) -> None:
    params = {"epochs": 2, "extras": True, "accumulate": 2}
    trial = Trial(Case("transformers", "transformers_steps.py", 18, "2 steps", params), tmp_path)
    assert {batch for _, _, batch in trial.whole} == {2, 4, 6, 8, None}
    trial.marker.write_text("17")
    assert trial.start().process.wait(300) != 0
    assert not trial.marker.exists()
    assert trial.record()["checkpoints"][-1]["batch"] == 6
    assert trial.digests(trial.start("resume", "latest").wait_for(0)) == trial.whole


def test_what_cannot_be_resumed_bit_for_bit_is_refused_by_name(tmp_path: Path) -> None:
    project = _run(tmp_path, _REFUSALS, every="2 steps")
    lines = [line.split(" ", 2)[-1] for line in project.reprokit("logs", "latest").stdout.splitlines()]
    assert [line for line in lines if line.startswith(("REFUSED", "WARNED"))] == [
        "REFUSED reprokit: give PackageCheckpoint to the trainer when it is made: Trainer(…, callbacks=[…])",
        "REFUSED reprokit: auto_find_batch_size=True lets free memory decide the batch size, which no other run could "
        "repeat; give per_device_train_batch_size",
        "REFUSED reprokit: the recipe asks for checkpoints inside epochs, but ignore_data_skip=True has it begin with "
        "other batches: this training can be resumed bit for bit at the ends of epochs alone. Give `every: 1 epoch`",
        "WARNED",
    ]
    why = "load_best_model_at_end=True needs checkpoint folders of the trainer's own, which a resumed run begins "
    assert {entry["unresumable"][0] for entry in project.json("show", "latest")["checkpoints"]} == {
        f"{why}without; take RUN@best instead"
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    script = """
made = trainer(
    callbacks=[EarlyStoppingCallback(early_stopping_patience=3), PackageCheckpoint()],
    eval_strategy="epoch", metric_for_best_model="loss", greater_is_better=False,
)
made.train()
"""
    project = _run(tmp_path_factory.mktemp("transformers"), script)
    return load_checkpoint("latest@last", registry=str(project.registry))


def test_model_optimiser_scheduler_callbacks_and_random_state_are_there(saved: Checkpoint) -> None:
    assert saved.tensor("bert.embeddings.word_embeddings.weight").shape == (8, 8)
    assert "classifier.weight.exp_avg" in saved.names("optimizer")
    state: dict[str, Any] = saved.state
    assert (state["epoch"], state["step"], state["position"]) == (1, 6, None)
    assert state["parts"]["scheduler.0"]["last_epoch"] == 6
    assert {"python", "numpy", "torch"} <= state["rng"].keys()
    assert state["transformers"]["state"]["global_step"] == 6
    assert state["transformers"]["callbacks"]["EarlyStoppingCallback.0"]["early_stopping_patience_counter"] in (0, 1, 2)


def test_no_clock_is_part_of_the_state(saved: Checkpoint) -> None:
    logged = {name for entry in saved.state["transformers"]["state"]["log_history"] for name in entry}
    assert {"loss", "eval_loss"} <= logged
    assert not {name for name in logged if name.endswith(("_runtime", "_per_second"))}


def test_the_models_configuration_is_told(saved: Checkpoint) -> None:
    assert saved.config["model_type"] == "bert"
    assert saved.config["hidden_size"] == 8
