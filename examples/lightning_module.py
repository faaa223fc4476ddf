"""GIFT in a LightningModule."""

import tiny
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gift_fast import GIFTLoss


class Distillation(LightningModule):
    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher.requires_grad_(False)
        self.criterion = GIFTLoss()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        with torch.no_grad():
            soft_labels = self.teacher(images)
        return self.criterion(self.student(images), soft_labels, labels)

    def on_train_start(self) -> None:
        self.teacher.eval()  # Lightning has put every submodule into train mode

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.student.parameters(), lr=0.1)


def train(student: nn.Module, teacher: nn.Module, loader: DataLoader, epochs: int = 3) -> None:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False, **quiet)
    trainer.fit(Distillation(student, teacher), loader)


if __name__ == "__main__":
    train(*tiny.networks(), tiny.loader())
