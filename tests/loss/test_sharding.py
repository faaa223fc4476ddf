"""Tensors that are spread over processes: DTensor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from expected import needs_cpu_kernel
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, distribute_tensor

from gift_fast import gift_loss


def test_the_loss_of_sharded_tensors_is_that_of_whole_ones(tmp_path: Path) -> None:
    script = Path(__file__).with_name("sharded_loss.py")
    run = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "store")],
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert run.returncode == 0, run.stderr


@needs_cpu_kernel
def test_a_named_kernel_cannot_run_on_a_sharded_tensor(tmp_path: Path) -> None:
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", rank=0, world_size=1, store=store)
    try:
        mesh = init_device_mesh("cpu", (1,))
        z = distribute_tensor(torch.randn(2, 3), mesh, [Replicate()])
        y = distribute_tensor(torch.tensor([0, 1]), mesh, [Replicate()])
        with pytest.raises(ValueError, match="backend='cpu' cannot run on a DTensor; 'reference'"):
            gift_loss(z, z, y, backend="cpu")
    finally:
        dist.destroy_process_group()
