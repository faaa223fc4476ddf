"""A student with its loss, exported and compiled ahead of time by AOTInductor."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import tiny
import torch
from torch import Tensor, nn

from gift_fast import gift_loss


class StudentLoss(nn.Module):
    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Tensor, soft_labels: Tensor, labels: Tensor) -> Tensor:
        return gift_loss(self.student(images), soft_labels, labels)


def export(student: nn.Module, images: Tensor, soft_labels: Tensor, labels: Tensor, path: Path):
    """Writes the package; any batch size can be run with it."""
    size = torch.export.Dim("batch", min=2)
    example = (images, soft_labels, labels)
    with torch.no_grad():
        program = torch.export.export(
            StudentLoss(student), example, dynamic_shapes=({0: size}, {0: size}, {0: size})
        )
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))


def load(path: Path) -> Callable[..., Tensor]:
    """The loss as a function of images, soft labels and labels.

    In a program of its own, write ``import gift_fast.loss`` first: it registers the operator.
    """
    return torch._inductor.aoti_load_package(str(path))


if __name__ == "__main__":
    student, teacher = tiny.networks()
    images, labels = tiny.batch()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "loss.pt2"
        export(student, images, teacher(images), labels, path)
        print(load(path)(images, teacher(images), labels))
