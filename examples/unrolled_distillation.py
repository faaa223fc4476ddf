"""Distilling a dataset by differentiating through the student's training (second derivatives).

The student takes a few steps on the distilled images with GIFT. Its loss on real images is then
differentiated with respect to the distilled images and their soft labels.
"""

import tiny
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from gift_fast import gift_loss


def outer_loss(
    student: nn.Module,
    distilled: tuple[Tensor, Tensor, Tensor],
    real: tuple[Tensor, Tensor],
    steps: int = 2,
    learning_rate: float = 1.0,
) -> Tensor:
    """The loss on real images after ``steps`` on the distilled ones, with its graph.

    Args:
        student: the network; it is not changed.
        distilled: images, soft labels and hard labels.
        real: images and hard labels.
        steps: of gradient descent.
        learning_rate: of these steps.
    """
    images, soft_labels, labels = distilled
    weights = dict(student.named_parameters())
    for _ in range(steps):
        loss = gift_loss(functional_call(student, weights, images), soft_labels, labels)
        gradients = torch.autograd.grad(loss, [*weights.values()], create_graph=True)
        weights = {
            name: weight - learning_rate * gradient
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
        }
    return F.cross_entropy(functional_call(student, weights, real[0]), real[1])


if __name__ == "__main__":
    student, teacher = tiny.networks()
    images, labels = tiny.batch()
    distilled = images[:4].clone().requires_grad_(), teacher(images[:4]).requires_grad_()
    optimizer = torch.optim.Adam(distilled, lr=0.01)
    for _ in range(3):
        loss = outer_loss(student, (*distilled, labels[:4]), (images, labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
