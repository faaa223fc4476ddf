"""The gradient of every image by torch.func, as for differential privacy or gradient matching."""

import tiny
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gift_fast import gift_loss


def per_sample_gradients(
    student: nn.Module, images: Tensor, soft_labels: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """For each parameter, its gradients (N, ...) of the losses of the N images."""

    def loss_of(
        weights: dict[str, Tensor],
        image: Tensor,
        soft_label: Tensor,
        label: Tensor,
    ) -> Tensor:
        logits = functional_call(student, weights, image.unsqueeze(0)).squeeze(0)
        return gift_loss(logits, soft_label, label)

    weights = {name: weight.detach() for name, weight in student.named_parameters()}
    return vmap(grad(loss_of), (None, 0, 0, 0))(weights, images, soft_labels, labels)


if __name__ == "__main__":
    student, teacher = tiny.networks()
    images, labels = tiny.batch()
    with torch.no_grad():
        soft_labels = teacher(images)
    print(
        {k: x.shape for k, x in per_sample_gradients(student, images, soft_labels, labels).items()}
    )
