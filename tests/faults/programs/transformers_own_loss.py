"""A trainer with a loss of its own that draws, grouped by length, measured after each epoch, stopped early.

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


from transformers import BertForSequenceClassification, EarlyStoppingCallback


class Own(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **_):
        labels = inputs.pop("labels")
        found = model(**inputs)
        loss = torch.nn.functional.cross_entropy(found.logits + 0.1 * torch.randn_like(found.logits), labels)
        return (loss, found) if return_outputs else loss


more = {"eval_strategy": "epoch", "metric_for_best_model": "loss", "greater_is_better": False, "optim": "adafactor"}
trainer = Own(
    model=BertForSequenceClassification(SIZE), args=TrainingArguments(**USUAL, **more, num_train_epochs=4),
    train_dataset=Texts(), eval_dataset=Texts(),
    callbacks=[Ticks(), EarlyStoppingCallback(2), PackageCheckpoint()],
)  # fmt: skip
trainer.train()
