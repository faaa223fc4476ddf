"""gift_fast.loss.reference against formulas written a second time, and against worked numbers."""

import math

import pytest
import torch
import torch.nn.functional as F

from gift_fast.loss.reference import reference_loss, refine, smoothed_label_values


def paper_loss(z, s, y, gamma, alpha, smoothing):
    """GIFT in the functions its authors use, with none of the reference's own."""
    classes = z.shape[-1]
    hard = F.one_hot(y, classes).to(z.dtype)
    if smoothing == "uniform":
        hard = hard * (1 - alpha) + alpha / classes
    else:
        hard = hard * (1 - alpha) + (1 - hard) * alpha / (classes - 1)
    refined = gamma * F.normalize(hard, dim=-1) + (1 - gamma) * F.normalize(s, dim=-1)
    return 1 - F.cosine_similarity(z, refined, dim=-1)


@pytest.mark.parametrize("smoothing", ["uniform", "others"])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0])
def test_is_the_formula_of_the_paper(gamma, alpha, smoothing):
    z, s = torch.randn(2, 6, 5, dtype=torch.float64)
    y = torch.randint(5, (6,))
    loss = reference_loss(
        z, s, y, gamma=gamma, label_smoothing=alpha, smoothing=smoothing, reduction="none"
    )
    torch.testing.assert_close(loss, paper_loss(z, s, y, gamma, alpha, smoothing))


def test_gives_the_numbers_worked_out_by_hand():
    # t = (1, 1)/2 and z = (3, 4): cos = 7 / (5 sqrt 2). The second row points the other way.
    z = torch.tensor([[3.0, 4.0], [-3.0, -4.0]], dtype=torch.float64, requires_grad=True)
    s = torch.tensor([[2.0, 0.0], [0.5, 0.0]], dtype=torch.float64)
    y = torch.tensor([1, 1])
    rows = reference_loss(z, s, y, gamma=0.5, label_smoothing=0.0, reduction="none")
    cosine = 7 / (5 * math.sqrt(2))
    torch.testing.assert_close(rows, torch.tensor([1 - cosine, 1 + cosine], dtype=torch.float64))
    rows[0].backward()
    # -(t/|t| - cos z/|z|)/|z| = -((1, 1)/sqrt 2 - 7 (3, 4) / (25 sqrt 2)) / 5
    step = math.sqrt(0.5) / 5
    expected = torch.tensor([[-step * 4 / 25, step * 3 / 25], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(z.grad, expected)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.7, 1.0])
def test_uniform_smoothing_is_that_of_cross_entropy(alpha):
    # Through the definition of cross entropy, linear in the label: the label is read off.
    on_target, elsewhere = smoothed_label_values(4, alpha, "uniform")
    label = torch.full((4,), elsewhere, dtype=torch.float64)
    label[2] = on_target
    label /= label.sum()
    scores = torch.randn(4, dtype=torch.float64)
    expected = F.cross_entropy(scores, torch.tensor(2), label_smoothing=alpha)
    torch.testing.assert_close(-(label * F.log_softmax(scores, -1)).sum(), expected)


def test_smoothing_over_the_others_leaves_the_target_one_minus_alpha():
    on_target, elsewhere = smoothed_label_values(5, 0.2, "others")
    assert elsewhere / on_target == pytest.approx(0.05 / 0.8)
    assert on_target**2 + 4 * elsewhere**2 == pytest.approx(1)


def test_a_temperature_puts_probabilities_in_place_of_the_scores():
    z, s = torch.randn(2, 6, 5, dtype=torch.float64)
    y = torch.randint(5, (6,))
    torch.testing.assert_close(
        reference_loss(z, s, y, soft_label_temperature=3.0),
        reference_loss(z, torch.softmax(s / 3, -1), y),
    )


def test_a_zero_row_of_logits_has_the_gradient_of_the_bounded_norm():
    z = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    s, y = torch.randn(1, 3, dtype=torch.float64), torch.tensor([1])
    loss = reference_loss(z, s, y)
    loss.backward()
    t = refine(s, y, 0.1, 0.1, "uniform", None)
    assert loss.item() == 1.0
    torch.testing.assert_close(z.grad, -F.normalize(t, dim=-1) / 1e-8)


def test_a_row_below_the_bound_is_divided_by_the_bound():
    z = torch.tensor([[6e-9, 0.0]], dtype=torch.float64, requires_grad=True)
    s, y = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([0])
    loss = reference_loss(z, s, y, label_smoothing=0.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.4)
    torch.testing.assert_close(z.grad, torch.tensor([[-1e8, 0.0]], dtype=torch.float64))


def test_zero_soft_labels_leave_the_hard_label():
    z, y = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(
        reference_loss(z, torch.zeros_like(z), y),
        reference_loss(z, torch.randn(4, 3), y, gamma=1.0),
    )


def test_the_mean_counts_the_valid_rows_alone():
    z, s = torch.randn(2, 4, 3)
    y = torch.tensor([0, -100, 2, -100])
    rows = reference_loss(z, s, y, reduction="none")
    assert rows[1] == rows[3] == 0
    torch.testing.assert_close(reference_loss(z, s, y), (rows[0] + rows[2]) / 2)
    torch.testing.assert_close(reference_loss(z, s, y, reduction="sum"), rows[0] + rows[2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_summed_in_float32(dtype):
    z, s = torch.randn(2, 4, 100, dtype=dtype)
    y = torch.randint(100, (4,))
    loss = reference_loss(z, s, y)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, reference_loss(z.float(), s.float(), y), rtol=0, atol=0)


def test_runs_with_autocast_off():
    z, s = torch.randn(2, 4, 100)
    y = torch.randint(100, (4,))
    with torch.autocast("cpu", torch.bfloat16):
        inside = reference_loss(z, s, y)
    torch.testing.assert_close(inside, reference_loss(z, s, y), rtol=0, atol=0)


def test_runs_on_the_meta_device():
    z, y = torch.empty(4, 3, device="meta"), torch.empty(4, dtype=torch.int64, device="meta")
    assert reference_loss(z, z, y).device.type == "meta"


def test_derivatives_of_both_orders_and_modes_are_those_of_finite_differences():
    z, s = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    y = torch.tensor([1, 0, 3])
    assert torch.autograd.gradcheck(
        lambda z, s: reference_loss(z, s, y), (z, s), check_forward_ad=True
    )
    assert torch.autograd.gradgradcheck(lambda z, s: reference_loss(z, s, y), (z, s))
