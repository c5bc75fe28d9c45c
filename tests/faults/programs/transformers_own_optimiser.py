"""An optimiser and a schedule that the script makes itself, two groups of decay, rates by restarts.

every: 3 steps
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


from transformers import BertForSequenceClassification, get_cosine_with_hard_restarts_schedule_with_warmup

model = BertForSequenceClassification(SIZE)
flat = [weight for name, weight in model.named_parameters() if name.endswith("bias")]
rest = [weight for name, weight in model.named_parameters() if not name.endswith("bias")]
optimizer = torch.optim.AdamW([{"params": rest, "weight_decay": 0.1}, {"params": flat, "weight_decay": 0.0}], 1e-2)
rate = get_cosine_with_hard_restarts_schedule_with_warmup(optimizer, 2, 24, num_cycles=3)
Trainer(
    model=model, args=TrainingArguments(**USUAL, num_train_epochs=3), train_dataset=Texts(),
    optimizers=(optimizer, rate), callbacks=[Ticks(), PackageCheckpoint()],
).train()  # fmt: skip
