"""A Hugging Face training in which every part of the state matters: its dataset and its collator draw unkeyed random
numbers, as masking does; its net has dropout; with `extras` its learning rate and its end hang on metrics.
"""

import random

import numpy as np
import torch
from killing import maybe_die
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import reprokit
from reprokit.callbacks.transformers import PackageCheckpoint

p = reprokit.params(epochs=3, workers=0, marker="", accumulate=1, extras=False)


class Data(Dataset):
    def __len__(self):
        return 36

    def __getitem__(self, i):
        ids = (torch.arange(8) * (i + 1) + int(torch.randint(3, ())) + int(np.random.randint(3))) % 40
        return {"input_ids": ids, "labels": i % 2}


def collate(items):
    ids = torch.stack([item["input_ids"] for item in items])
    ids[torch.rand(ids.shape) < 0.1] = random.randrange(40)
    return {"input_ids": ids, "labels": torch.tensor([item["labels"] for item in items])}


class Killed(TrainerCallback):
    def on_substep_end(self, args, state, control, **_):  # noqa: ARG002
        maybe_die(p["marker"])

    on_step_end = on_substep_end


size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
model = BertForSequenceClassification(BertConfig(vocab_size=40, max_position_embeddings=8, **size))
extras = {}
callbacks = [Killed(), PackageCheckpoint()]
if p["extras"]:
    callbacks.insert(0, EarlyStoppingCallback(early_stopping_patience=3))
    extras = {"eval_strategy": "steps", "eval_steps": 3, "metric_for_best_model": "loss", "greater_is_better": False}
    extras |= {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_on_start": True}
args = TrainingArguments(
    output_dir="out",
    num_train_epochs=p["epochs"],
    per_device_train_batch_size=4,
    gradient_accumulation_steps=p["accumulate"],
    learning_rate=1e-2,
    logging_steps=4,
    save_strategy="no",
    report_to=[],
    use_cpu=True,
    disable_tqdm=True,
    dataloader_num_workers=p["workers"],
    dataloader_persistent_workers=p["workers"] > 0,
    **extras,
)
trainer = Trainer(
    model=model, args=args, data_collator=collate, train_dataset=Data(), eval_dataset=Data(), callbacks=callbacks
)
trainer.train()
