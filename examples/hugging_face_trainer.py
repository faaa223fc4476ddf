"""GIFT in Hugging Face's Trainer, with a ViT from transformers."""

import tempfile

import tiny
import torch
from torch import nn
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from gift_fast import gift_loss


class DistillationTrainer(Trainer):
    def __init__(self, *args, teacher: nn.Module, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = teacher.to(self.args.device).eval()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        with torch.no_grad():
            soft_labels = self.teacher(**inputs).logits
        outputs = model(**inputs)
        # As in Trainer itself: over several accumulated batches, the sum divided by all items.
        reduction = "mean" if num_items_in_batch is None else "sum"
        loss = gift_loss(outputs.logits, soft_labels, labels, reduction=reduction)
        if num_items_in_batch is not None:
            loss = loss / num_items_in_batch
        return (loss, outputs) if return_outputs else loss


def vit() -> ViTForImageClassification:
    return ViTForImageClassification(
        ViTConfig(
            image_size=tiny.SIDE,
            patch_size=4,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_labels=tiny.CLASSES,
        )
    )


def train(student: nn.Module, teacher: nn.Module, dataset: list[dict], epochs: int = 3) -> None:
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            learning_rate=0.1,
            lr_scheduler_type="constant",
            optim="sgd",
            max_grad_norm=0.0,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        DistillationTrainer(student, arguments, train_dataset=dataset, teacher=teacher).train()


def examples() -> list[dict]:
    return [{"pixel_values": x, "labels": int(y)} for x, y in zip(*tiny.batch(), strict=True)]


if __name__ == "__main__":
    train(vit(), vit(), examples())
