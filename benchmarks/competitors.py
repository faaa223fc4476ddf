"""What the benchmarks time: the same training step under each of several losses, on one batch.

:mod:`benchmarks.loss_cpu`, :mod:`benchmarks.loss_gpu` and the pytest-benchmark suite take their
steps from here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch._inductor.config
import torch.nn.functional as F
from torch import Tensor

from gift_fast import gift_loss
from gift_fast.loss.reference import reference_loss

# Inductor otherwise keeps a pool of compiler processes beside the measurement.
torch._inductor.config.compile_threads = 1

# (N, C): ten classes; CIFAR-100, Tiny-ImageNet and ImageNet-1k at a batch of 100, as on distilled
# data, and ImageNet-1k at a large one; ImageNet-21k; the vocabulary of a language model.
SHAPES = [
    (10, 10),
    (100, 10),
    (100, 100),
    (100, 200),
    (100, 1000),
    (1024, 1000),
    (256, 21841),
    (64, 128256),
]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
THREADS = [1, 2]


def make_batch(
    num_rows: int, num_classes: int, dtype: torch.dtype, device: str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, C) that require grad, soft labels (N, C) that are probabilities, targets (N,).

    Probabilities, since soft-label cross-entropy and KL need them; to GIFT any vector will do.
    """
    generator = torch.Generator().manual_seed(0)
    logits, teacher = (torch.randn(num_rows, num_classes, generator=generator) for _ in range(2))
    target = torch.randint(num_classes, (num_rows,), generator=generator)
    logits = logits.to(device, dtype).requires_grad_()
    return logits, teacher.to(device).softmax(1).to(dtype), target.to(device)


def eager_loss(
    logits: Tensor,
    soft_labels: Tensor,
    target: Tensor,
    gamma: float = 0.1,
    label_smoothing: float = 0.1,
) -> Tensor:
    """GIFT as research code writes it: torch's own functions one after the other, in one dtype."""
    elsewhere = label_smoothing / soft_labels.shape[1]
    on_target = 1.0 - label_smoothing + elsewhere
    hard = torch.full_like(soft_labels, elsewhere).scatter_(1, target[:, None], on_target)
    refined = gamma * F.normalize(hard, dim=1) + (1.0 - gamma) * F.normalize(soft_labels, dim=1)
    return (1.0 - F.cosine_similarity(logits, refined, dim=1)).mean()


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

OURS = "gift_fast"
FLOOR = "floor"
LOSSES: dict[str, Loss] = {
    OURS: gift_loss,
    "eager": eager_loss,
    "reference": reference_loss,
    "compiled": eager_loss,  # through torch.compile
    "cross-entropy": lambda z, s, y: F.cross_entropy(z, y),
    "soft cross-entropy": lambda z, s, y: F.cross_entropy(z, s),
    "KL": lambda z, s, y: F.kl_div(F.log_softmax(z, 1), s, reduction="batchmean"),
    "MSE": lambda z, s, y: F.mse_loss(z, s),
}
COMPETITORS = [*LOSSES, FLOOR]


def compiled(loss: Loss) -> Loss:
    """The loss through torch.compile, for one shape, dtype and thread count."""
    # Without the reset dynamo would give up at the ninth shape; fullgraph makes it an error to run
    # anything but compiled code.
    torch.compiler.reset()
    return torch.compile(loss, fullgraph=True, dynamic=False)


def training_step(
    loss: Loss, logits: Tensor, soft_labels: Tensor, target: Tensor
) -> Callable[[], None]:
    """The loss, its gradient, and the gradient dropped again."""

    def step() -> None:
        loss(logits, soft_labels, target).backward()
        logits.grad = None

    return step


def floor_step(logits: Tensor, soft_labels: Tensor) -> Callable[[], None]:
    """No loss: reads two such matrices and writes a fresh one, as fast as torch can."""
    detached = logits.detach()

    def step() -> None:
        torch.add(detached, soft_labels)

    return step


def make_step(name: str, logits: Tensor, soft_labels: Tensor, target: Tensor) -> Callable[[], None]:
    """One step of the competitor of this name, on the CPU."""
    if name == FLOOR:
        return floor_step(logits, soft_labels)
    loss = compiled(LOSSES[name]) if name == "compiled" else LOSSES[name]
    return training_step(loss, logits, soft_labels, target)
