"""Trains in every process that it is launched in; test_distributed.py compares them with one.

Run as ``python two_processes.py OUT MODEL [CHECKPOINT [STEP]]`` or under ``torchrun``; the main
process writes what came out. The test split has 7 images, so that processes test parts of different
sizes. With a step, the last process receives SIGTERM after it, and no other does.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.nn import functional as F

from gift_fast.data.datasets import ImageDataset, TensorSplit
from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.process.signals import Interrupted, handling_signals
from gift_fast.training import checkpoint as resume
from gift_fast.training.batches import Batch, RandomBatches
from gift_fast.training.checkpoint import CheckpointConfig
from gift_fast.training.models import build_model
from gift_fast.training.observer import Observer
from gift_fast.training.predict import measure_accuracy, test_on_all
from gift_fast.training.processes import processes_of
from gift_fast.training.train import fit

resume.AGREEMENT = 0.0  # an agreement after every step
sys.path.append("")  # for networks of the tests, as the command does


class Stopper(Observer):
    """Sends a signal to its process after a step of the second epoch."""

    def __init__(self, last: int) -> None:
        self.last = last

    def step(
        self, epoch: int, step: int, steps: int, images: int, loss: Callable[[], float]
    ) -> None:
        if (epoch, step) == (2, self.last):
            os.kill(os.getpid(), signal.SIGTERM)


def main(out: str, model_spec: str, checkpoint: str = "", stop: str = "0") -> None:
    config = EvaluationConfig(
        dataset="digits",
        optimizer="sgd",
        learning_rate=0.1,
        epochs=2,
        batch_size=7,  # 3 and 4 images in two processes, and one in the last batch
        augmentation="dsa",
        mixing="mixup",
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(15, 3, 8, 8, generator=generator)
    split = TensorSplit(images, torch.arange(15) % 10)
    test = TensorSplit(images[:7] + 1, torch.arange(7))
    dataset = ImageDataset("images", None, test, (0.5,) * 3, (0.5,) * 3, tuple("abcdefghij"))
    model = build_model(model_spec, channels=3, side=8, num_classes=10, seed=0).double()
    accelerator = Accelerator(cpu=True, step_scheduler_with_optimizer=False)

    def batch_loss(model: torch.nn.Module, batch: Batch, epoch: int) -> torch.Tensor:
        logits = model(batch.images)
        own, other = (F.cross_entropy(logits, y) for y in (batch.target, batch.mixed_target))
        return batch.weight * own + (1 - batch.weight) * other

    batches = RandomBatches(split, lambda x: x.double(), config, processes_of(accelerator))
    last = accelerator.process_index == accelerator.num_processes - 1
    with handling_signals() as interruption:
        try:
            model, trained = fit(
                model,
                batches,
                config,
                batch_loss,
                accelerator,
                run_test=lambda model: test_on_all(model, dataset, None, accelerator),
                is_test_epoch=lambda epoch: True,
                identity={},
                checkpoint=CheckpointConfig(Path(checkpoint)) if checkpoint else None,
                interruption=interruption,
                observer=Stopper(int(stop)) if last else None,
            )
        except Interrupted as stopped:
            print(f"process {accelerator.process_index}: {stopped}", flush=True)
            return
    if accelerator.is_main_process:
        alone = measure_accuracy(model, dataset)
        state = {
            "weights": model.state_dict(),
            "loss": trained.checks[-1].loss,
            "test_loss": trained.checks[-1].test_loss,
            "test_loss of the saved network": alone.loss,
        }
        torch.save(state, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
