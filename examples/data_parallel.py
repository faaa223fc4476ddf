"""GIFT with DistributedDataParallel.

torchrun --nproc-per-node 2 examples/data_parallel.py
"""

import sys

import tiny
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from gift_fast import gift_loss


def train(student: nn.Module, teacher: nn.Module, loader: DataLoader, epochs: int = 3) -> None:
    # Gradients are averaged over processes: the mean loss of equal batches is that of all images.
    model = DistributedDataParallel(student)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(epochs):
        for images, labels in loader:
            with torch.no_grad():
                soft_labels = teacher(images)
            loss = gift_loss(model(images), soft_labels, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    student, teacher = tiny.networks()
    dataset = tiny.loader().dataset
    train(student, teacher, DataLoader(dataset, 8, sampler=DistributedSampler(dataset)))
    if distributed.get_rank() == 0 and len(sys.argv) > 1:
        torch.save(student.state_dict(), sys.argv[1])
    distributed.destroy_process_group()
