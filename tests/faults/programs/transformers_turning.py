"""A callback that keeps a list by itself and turns the rate by it.

every: 1 epoch
loses: Turning.seen
"""

import torch
from ticking import tick
from torch.utils.data import Dataset
from transformers import BertConfig, Trainer, TrainerCallback, TrainingArguments

from reprokit.callbacks.transformers import PackageCheckpoint

SIZE = BertConfig(
    vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
    max_position_embeddings=8,
)  # fmt: skip
USUAL = {
    "output_dir": "out", "per_device_train_batch_size": 4, "learning_rate": 1e-2, "logging_steps": 3,
    "save_strategy": "no", "report_to": [], "use_cpu": True, "disable_tqdm": True,
}  # fmt: skip


class Texts(Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, i):
        return {"input_ids": (torch.arange(8) * (i + 1)) % 40, "labels": i % 2}


class Ticks(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        tick()


from transformers import BertForSequenceClassification


class Turning(TrainerCallback):
    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, optimizer=None, **_):
        self.seen.append(state.global_step)
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.01 * len(self.seen)


Trainer(
    model=BertForSequenceClassification(SIZE), args=TrainingArguments(**USUAL, num_train_epochs=3),
    train_dataset=Texts(), callbacks=[Turning(), Ticks(), PackageCheckpoint()],
).train()  # fmt: skip
