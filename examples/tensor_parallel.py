"""GIFT with tensor parallelism.

torchrun --nproc-per-node 2 examples/tensor_parallel.py
"""

import sys

import tiny
import torch
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.utils.data import DataLoader

from gift_fast import gift_loss


def train(student: nn.Module, teacher: nn.Module, loader: DataLoader, epochs: int = 3) -> None:
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    # The last layer returns whole logits, as a plain tensor: nothing else changes. A head that is
    # split by classes does so with ColwiseParallel(output_layouts=Replicate()).
    parallelize_module(student, mesh, {"1": ColwiseParallel(), "3": RowwiseParallel()})
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for _ in range(epochs):
        for images, labels in loader:
            with torch.no_grad():
                soft_labels = teacher(images)
            loss = gift_loss(student(images), soft_labels, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    student, teacher = tiny.networks()
    train(student, teacher, tiny.loader())
    weights = get_model_state_dict(student, options=StateDictOptions(full_state_dict=True))
    if distributed.get_rank() == 0 and len(sys.argv) > 1:
        torch.save(weights, sys.argv[1])
    distributed.destroy_process_group()
