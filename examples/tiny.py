"""Networks and images that stand in for yours, small enough for a test."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

IMAGES, CLASSES, SIDE = 16, 10, 8


def networks() -> tuple[nn.Module, nn.Module]:
    """A student, and a teacher that is in eval mode and needs no gradient."""
    torch.manual_seed(0)
    student, teacher = (
        nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 32), nn.Tanh(), nn.Linear(32, CLASSES))
        for _ in range(2)
    )
    return student, teacher.eval().requires_grad_(False)


def batch(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (16, 3, 8, 8) and labels (16), the same in every call."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(IMAGES, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    return images.to(dtype), torch.randint(CLASSES, (IMAGES,), generator=generator)


def loader(batch_size: int = IMAGES) -> DataLoader:
    """The same images as batches."""
    return DataLoader(TensorDataset(*batch()), batch_size=batch_size)
