"""Tensors that are spread over processes: DTensor."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from expected import needs_cpu_kernel
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
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


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    """A mesh of one process."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", rank=0, world_size=1, store=store)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@needs_cpu_kernel
def test_a_named_kernel_cannot_run_on_a_sharded_tensor(mesh: DeviceMesh) -> None:
    z = distribute_tensor(torch.randn(2, 3), mesh, [Replicate()])
    y = distribute_tensor(torch.tensor([0, 1]), mesh, [Replicate()])
    with pytest.raises(
        ValueError, match="backend='cpu' does not support DTensor; use backend='reference'"
    ):
        gift_loss(z, z, y, backend="cpu")


@pytest.mark.parametrize(
    "plain", ["logits", "soft_labels", "target", "other_target", "target_weight"]
)
def test_a_plain_tensor_among_sharded_ones_is_named(mesh: DeviceMesh, plain: str) -> None:
    tensors = {
        "logits": torch.randn(2, 3),
        "soft_labels": torch.randn(2, 3),
        "target": torch.tensor([0, 1]),
        "other_target": torch.tensor([2, 2]),
        "target_weight": torch.tensor([0.5, 0.9]),
    }
    sharded = {
        name: x if name == plain else distribute_tensor(x, mesh, [Replicate()])
        for name, x in tensors.items()
    }
    other = "soft_labels" if plain == "logits" else "logits"
    match = rf"^{plain} must be a DTensor like {other}, got a plain tensor.*distribute_tensor"
    with pytest.raises(TypeError, match=match):
        gift_loss(**sharded)
    # What the message says to do is enough.
    sharded[plain] = distribute_tensor(tensors[plain], mesh, [Replicate()])
    torch.testing.assert_close(gift_loss(**sharded).full_tensor(), gift_loss(**tensors))
