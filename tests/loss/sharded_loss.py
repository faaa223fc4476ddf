"""The loss of sharded tensors against that of whole ones, on two processes; a script.

    python tests/sharded_loss.py STORE

Exits with 0 where loss and gradients agree for every placement.
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from gift_fast import gift_loss

PROCESSES = 2


def run(rank: int, store: str) -> None:
    """What one process does."""
    dist.init_process_group(
        "gloo", rank=rank, world_size=PROCESSES, store=dist.FileStore(store, PROCESSES)
    )
    mesh = init_device_mesh("cpu", (PROCESSES,))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    soft_labels = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    target = torch.randint(4, (6,), generator=generator)
    loss = gift_loss(logits, soft_labels, target)
    loss.backward()
    for placement in (Shard(0), Shard(1), Replicate()):
        of_rows = [placement] if placement == Shard(0) else [Replicate()]
        z = distribute_tensor(logits.detach(), mesh, [placement]).requires_grad_()
        s = distribute_tensor(soft_labels, mesh, [placement])
        y = distribute_tensor(target, mesh, of_rows)
        sharded = gift_loss(z, s, y)
        assert isinstance(sharded, DTensor)
        sharded.backward()
        torch.testing.assert_close(sharded.full_tensor(), loss.detach())
        assert z.grad is not None
        assert z.grad.placements == (placement,)
        torch.testing.assert_close(z.grad.full_tensor(), logits.grad)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(run, (sys.argv[1],), nprocs=PROCESSES)
