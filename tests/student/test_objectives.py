from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from gift_fast.reference import reference_loss
from gift_fast.student.objectives import OBJECTIVES, build_objective

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(6, 5, generator=GENERATOR)
SOFT = 3.0 * torch.randn(6, 5, generator=GENERATOR)
TARGET = torch.tensor([0, 1, 2, 3, 4, 0])


def value(loss: str) -> torch.Tensor:
    return build_objective(loss)(LOGITS, SOFT, TARGET, 1)


def kl_by_definition(temperature: float) -> torch.Tensor:
    p, q = (SOFT / temperature).softmax(1), (LOGITS / temperature).softmax(1)
    return (p * (p / q).log()).sum(1).mean()


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("ce", -LOGITS.softmax(1)[range(6), TARGET].log().mean()),
        ("softce", -(SOFT.softmax(1) * LOGITS.softmax(1).log()).sum(1).mean()),
        ("mse", ((LOGITS - SOFT) ** 2).sum() / 30),
        ("cosine", 1 - ((LOGITS * SOFT).sum(1) / (LOGITS.norm(dim=1) * SOFT.norm(dim=1))).mean()),
        ("kl", kl_by_definition(20.0)),
        ("kl:temperature=4", kl_by_definition(4.0)),
        ("kl:scale_t2=true", 400 * kl_by_definition(20.0)),
        ("gift", reference_loss(LOGITS, SOFT, TARGET)),
        (
            "gift:gamma=0.3,label_smoothing=0",
            reference_loss(LOGITS, SOFT, TARGET, gamma=0.3, label_smoothing=0.0),
        ),
    ],
)
def test_a_loss_is_its_definition(loss, expected):
    torch.testing.assert_close(value(loss), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_every_loss_gives_a_scalar_with_a_gradient_for_the_student(loss):
    logits = LOGITS.clone().requires_grad_()
    result = build_objective(loss)(logits, SOFT, TARGET, 1)
    result.backward()
    assert result.shape == ()
    assert logits.grad.abs().sum() > 0


def test_cross_entropy_does_not_read_the_soft_label():
    nonsense = torch.full_like(SOFT, torch.nan)
    expected = F.cross_entropy(LOGITS, TARGET)
    assert torch.equal(build_objective("ce")(LOGITS, nonsense, TARGET, 1), expected)
