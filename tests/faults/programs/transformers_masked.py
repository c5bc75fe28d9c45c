"""Masked words, drawn by the collator; a cosine with a warm-up; label smoothing and accumulation.

every: 2 steps
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


from transformers import BertForMaskedLM


def masked(items):
    ids = torch.stack([item["input_ids"] for item in items])
    labels, chosen = ids.clone(), torch.rand(ids.shape) < 0.3
    labels[~chosen], ids[chosen] = -100, 3
    return {"input_ids": ids, "labels": labels}


more = {"warmup_steps": 3, "lr_scheduler_type": "cosine", "gradient_accumulation_steps": 2, "max_grad_norm": 0.5}
arguments = TrainingArguments(**USUAL, **more, num_train_epochs=3, label_smoothing_factor=0.1)
Trainer(
    model=BertForMaskedLM(SIZE), args=arguments, data_collator=masked, train_dataset=Texts(),
    callbacks=[Ticks(), PackageCheckpoint()],
).train()  # fmt: skip
