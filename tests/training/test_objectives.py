"""Losses against their papers' formulas, written out row by row in Python's own numbers."""

from __future__ import annotations

import inspect
import math
import sys
import types

import pytest
import torch
from torch.nn import functional as F

from gift_fast.training.objectives import (
    DISPLAY_NAMES,
    OBJECTIVES,
    Objective,
    build_objective,
    display_name,
    dkd,
    nkd,
    wsld,
)

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 2.0 * torch.randn(6, 5, generator=GENERATOR, dtype=torch.float64)
SOFT = 3.0 * torch.randn(6, 5, generator=GENERATOR, dtype=torch.float64)
TARGET = torch.tensor([0, 1, 2, 3, 4, 0])
MIXED_TARGET = torch.tensor([3, 1, 0, 2, 2, 4])
EPOCH = 5


# ---- the formulas, for one row -------------------------------------------------------------------


def softmax(row, temperature=1.0):
    powers = [math.exp((x - max(row)) / temperature) for x in row]
    return [power / sum(powers) for power in powers]


def cross_entropy(p, q):
    return -sum(a * math.log(b) for a, b in zip(p, q, strict=True) if a > 0)


def kl_divergence(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def without(row, y):
    return row[:y] + row[y + 1 :]


def hard_ce(z, y):
    return -math.log(softmax(z)[y])


def smoothed_ce(z, y, alpha):
    label = [alpha / len(z) + (1 - alpha) * (k == y) for k in range(len(z))]
    return cross_entropy(label, softmax(z))


def norm(row):
    return math.sqrt(sum(x * x for x in row))


def cosine_loss(z, t):
    return 1 - sum(a * b for a, b in zip(z, t, strict=True)) / (norm(z) * norm(t))


def refined(t, y, gamma=0.1, alpha=0.1, others=False, soft_weight=None):
    classes = len(t)
    if others:
        h = [1 - alpha if k == y else alpha / (classes - 1) for k in range(classes)]
    else:
        h = [alpha / classes + (1 - alpha) * (k == y) for k in range(classes)]
    soft_weight = 1 - gamma if soft_weight is None else soft_weight
    return [gamma * a / norm(h) + soft_weight * b / norm(t) for a, b in zip(h, t, strict=True)]


def scaled(t, y):
    return [norm(t) * x for x in refined(t, y)]


def mse(z, t):
    return sum((a - b) ** 2 for a, b in zip(z, t, strict=True)) / len(z)


def kl(z, t, temperature):
    return kl_divergence(softmax(t, temperature), softmax(z, temperature))


def softce(z, t, temperature=1.0):
    return cross_entropy(softmax(t, temperature), softmax(z, temperature))


def decoupled(z, t, y, temperature, alpha, beta, epoch, warmup):
    p, q = softmax(t, temperature), softmax(z, temperature)
    target = kl_divergence([p[y], 1 - p[y]], [q[y], 1 - q[y]])
    rest = kl(without(z, y), without(t, y), temperature)
    share = min(epoch / warmup, 1) if warmup else 1
    return hard_ce(z, y) + share * temperature**2 * (alpha * target + beta * rest)


def normalized(z, t, y, temperature, gamma):
    target = -softmax(t)[y] * math.log(softmax(z)[y])
    rest = softce(without(z, y), without(t, y), temperature)
    return hard_ce(z, y) + target + gamma * temperature**2 * rest


def weighted(z, t, y, temperature, alpha):
    weight = 1 - math.exp(-hard_ce(z, y) / (hard_ce(t, y) + 1e-7))
    return hard_ce(z, y) + alpha * temperature**2 * weight * softce(z, t, temperature)


FORMULAS = {
    "ce": lambda z, t, y, e: hard_ce(z, y),
    "ce:label_smoothing=0.1": lambda z, t, y, e: smoothed_ce(z, y, 0.1),
    "annealed-kl": lambda z, t, y, e: kl_divergence(softmax(t, 20), softmax(z)),
    "annealed-kl:every=2,factor=0.5,student_temperature=0.3": (
        lambda z, t, y, e: kl_divergence(softmax(t, 20 * 0.5 ** (e // 2)), softmax(z, 0.3))
    ),
    "cosine": lambda z, t, y, e: cosine_loss(z, t),
    "kl": lambda z, t, y, e: kl(z, t, 20),
    "kl:temperature=4": lambda z, t, y, e: kl(z, t, 4),
    "kl:scale_t2=true": lambda z, t, y, e: 400 * kl(z, t, 20),
    "mse": lambda z, t, y, e: mse(z, t),
    "softce": lambda z, t, y, e: softce(z, t),
    "kl+ce": lambda z, t, y, e: kl(z, t, 20) + 0.1 * hard_ce(z, y),
    "kl+ce:temperature=3,scale_t2=true,weight=0.5": (
        lambda z, t, y, e: 9 * kl(z, t, 3) + 0.5 * hard_ce(z, y)
    ),
    "mse+ce": lambda z, t, y, e: mse(z, t) + 0.1 * hard_ce(z, y),
    "mse+ce:weight=0.15": lambda z, t, y, e: mse(z, t) + 0.15 * hard_ce(z, y),
    "softce+ce": lambda z, t, y, e: softce(z, t) + 0.1 * hard_ce(z, y),
    "gift": lambda z, t, y, e: cosine_loss(z, refined(t, y)),
    "gift:gamma=0.3,label_smoothing=0": (
        lambda z, t, y, e: cosine_loss(z, refined(t, y, gamma=0.3, alpha=0.0))
    ),
    "gift:soft_label_temperature=2": (lambda z, t, y, e: cosine_loss(z, refined(softmax(t, 2), y))),
    # The authors' code: the normalized soft label plus 0.1 times the normalized hard label.
    "gift:smoothing=others,blend=added": (
        lambda z, t, y, e: cosine_loss(z, refined(t, y, gamma=0.1, others=True, soft_weight=1.0))
    ),
    "kd": lambda z, t, y, e: 0.1 * hard_ce(z, y) + 0.9 * 16 * kl(z, t, 4),
    "kd:temperature=2,weight=0.5": lambda z, t, y, e: 0.5 * hard_ce(z, y) + 2 * kl(z, t, 2),
    "dkd": lambda z, t, y, e: decoupled(z, t, y, 4, 1, 8, e, 20),
    "dkd:temperature=1,beta=0.5,warmup=1": lambda z, t, y, e: decoupled(z, t, y, 1, 1, 0.5, e, 1),
    "dkd:alpha=2,warmup=0": lambda z, t, y, e: decoupled(z, t, y, 4, 2, 8, e, 0),
    "nkd": lambda z, t, y, e: normalized(z, t, y, 1, 1.5),
    "nkd:temperature=3,gamma=3.5": lambda z, t, y, e: normalized(z, t, y, 3, 3.5),
    "wsld": lambda z, t, y, e: weighted(z, t, y, 2, 2.5),
    "wsld:temperature=4,alpha=2.25": lambda z, t, y, e: weighted(z, t, y, 4, 2.25),
    "refine+cosine": lambda z, t, y, e: cosine_loss(z, refined(t, y)),
    "refine+kl": lambda z, t, y, e: kl(z, scaled(t, y), 20),
    "refine+kl:temperature=4,unit=true,gamma=0.3,smoothing=others": (
        lambda z, t, y, e: kl(z, refined(t, y, gamma=0.3, others=True), 4)
    ),
    "refine+mse": lambda z, t, y, e: mse(z, scaled(t, y)),
    "refine+softce": lambda z, t, y, e: softce(z, scaled(t, y)),
    "refine+kl+ce": lambda z, t, y, e: kl(z, scaled(t, y), 20) + 0.1 * hard_ce(z, y),
    "refine+mse+ce": lambda z, t, y, e: mse(z, scaled(t, y)) + 0.1 * hard_ce(z, y),
    "refine+softce+ce": lambda z, t, y, e: softce(z, scaled(t, y)) + 0.1 * hard_ce(z, y),
    "refine+softce+ce:weight=0.2,label_smoothing=0.3": (
        lambda z, t, y, e: (
            softce(z, [norm(t) * x for x in refined(t, y, alpha=0.3)]) + 0.2 * hard_ce(z, y)
        )
    ),
}


def by_formula(loss, logits=LOGITS, soft=SOFT, target=TARGET, epoch=EPOCH):
    rows = zip(logits.tolist(), soft.tolist(), target.tolist(), strict=True)
    return sum(FORMULAS[loss](z, t, y, epoch) for z, t, y in rows) / len(logits)


@pytest.mark.parametrize("loss", FORMULAS)
def test_a_loss_is_its_formula(loss):
    objective = build_objective(loss)
    result = objective(LOGITS, SOFT, TARGET, EPOCH)
    assert result.shape == ()
    assert result.item() == pytest.approx(by_formula(loss), rel=1e-9)

    single = objective(LOGITS.float(), SOFT.float(), TARGET, EPOCH)
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(by_formula(loss), rel=1e-4)


def test_every_loss_has_a_formula_here():
    assert set(OBJECTIVES) == {loss.partition(":")[0] for loss in FORMULAS}


@pytest.mark.parametrize("loss", [loss for loss in OBJECTIVES if loss != "wsld"])
def test_the_gradient_is_that_of_finite_differences(loss):
    objective = build_objective(loss)
    logits = LOGITS[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: objective(z, SOFT[:2], TARGET[:2], EPOCH), (logits,))


def test_the_weight_of_wsld_is_not_differentiated():
    logits = LOGITS.clone().requires_grad_()
    wsld(temperature=2.0, alpha=2.5)(logits, SOFT, TARGET, EPOCH).backward()
    for row, (z, t, y) in enumerate(
        zip(LOGITS.tolist(), SOFT.tolist(), TARGET.tolist(), strict=True)
    ):
        weight = 1 - math.exp(-hard_ce(z, y) / (hard_ce(t, y) + 1e-7))
        soft = zip(softmax(z, 2), softmax(t, 2), strict=True)
        # d/dz of CE is softmax(z) - onehot(y); of T^2 times the soft one it is T (q - p).
        expected = [
            p - (k == y) + 2.5 * 2 * weight * (a - b)
            for k, (p, (a, b)) in enumerate(zip(softmax(z), soft, strict=True))
        ]
        assert logits.grad[row].tolist() == pytest.approx([x / 6 for x in expected])


# ---- what the papers say of special cases --------------------------------------------------------


def one_row(loss, row, **kwargs):
    objective = build_objective(loss) if isinstance(loss, str) else loss
    return objective(LOGITS[row : row + 1], SOFT[row : row + 1], TARGET[row : row + 1], EPOCH)


@pytest.mark.parametrize("row", range(6))
def test_dkd_decomposes_kds_kl(row):
    # Zhao et al., equation 7: KD = TCKD + (1 - p_t(y)) NCKD.
    p = softmax(SOFT[row].tolist(), 4)[TARGET[row]]
    decoupled = one_row(dkd(temperature=4.0, alpha=1.0, beta=1 - p, warmup=0), row)
    whole = one_row("ce", row) + one_row("kl:temperature=4,scale_t2=true", row)
    torch.testing.assert_close(decoupled, whole)


@pytest.mark.parametrize("row", range(6))
def test_nkd_is_soft_cross_entropy_with_the_rest_normalized(row):
    # Yang et al., equation 5: without the normalization, log(1 - p_z(y)) sets the two apart.
    p, q = (softmax(x[row].tolist())[TARGET[row]] for x in (SOFT, LOGITS))
    normalized = one_row(nkd(gamma=1 - p), row) - one_row("ce", row)
    whole = one_row("softce", row) + (1 - p) * math.log(1 - q)
    torch.testing.assert_close(normalized, whole)


def test_kd_without_its_soft_label_is_cross_entropy_and_without_its_hard_one_scaled_kl():
    batch = (LOGITS, SOFT, TARGET, EPOCH)
    ce = F.cross_entropy(LOGITS, TARGET)
    torch.testing.assert_close(build_objective("kd:weight=0")(*batch), ce)
    torch.testing.assert_close(
        build_objective("kd:weight=1")(*batch),
        build_objective("kl:temperature=4,scale_t2=true")(*batch),
    )


def test_wsld_trusts_a_teacher_that_is_always_right_and_ignores_one_that_is_always_wrong():
    one_hot = F.one_hot(TARGET, 5).double()
    ce = F.cross_entropy(LOGITS, TARGET)
    right, wrong = 100.0 * one_hot, -1e9 * one_hot
    soft = F.cross_entropy(LOGITS / 2, F.softmax(right / 2, dim=1))
    torch.testing.assert_close(wsld()(LOGITS, right, TARGET, EPOCH), ce + 2.5 * 4 * soft)
    torch.testing.assert_close(wsld()(LOGITS, wrong, TARGET, EPOCH), ce)


def test_dkd_warms_up_over_its_epochs():
    def soft_part(epoch):
        return (dkd()(LOGITS, SOFT, TARGET, epoch) - F.cross_entropy(LOGITS, TARGET)).item()

    parts = [soft_part(epoch) / soft_part(20) for epoch in (1, 10, 20, 300)]
    assert parts == pytest.approx([0.05, 0.5, 1.0, 1.0])


def test_scaled_kl_tends_to_half_the_squared_difference_of_centred_logits():
    # Hinton et al., equation 4, for a large temperature.
    centered = [x - x.mean(1, keepdim=True) for x in (LOGITS, SOFT)]
    expected = 0.5 * (centered[0] - centered[1]).square().mean()
    result = build_objective("kl:temperature=100000,scale_t2=true")(LOGITS, SOFT, TARGET, EPOCH)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=0.0)


def test_kl_at_a_low_temperature_knows_the_teachers_first_choice_alone():
    temperature = 0.001
    result = build_objective(f"kl:temperature={temperature}")(LOGITS, SOFT, TARGET, EPOCH)
    torch.testing.assert_close(result, F.cross_entropy(LOGITS / temperature, SOFT.argmax(1)))


@pytest.mark.parametrize("loss", [name for name in OBJECTIVES if name.startswith("refine+")])
def test_refining_with_no_hard_label_changes_nothing(loss):
    plain = build_objective(loss.removeprefix("refine+"))
    result = build_objective(f"{loss}:gamma=0")(LOGITS, SOFT, TARGET, EPOCH)
    torch.testing.assert_close(result, plain(LOGITS, SOFT, TARGET, EPOCH))


# ---- precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", OBJECTIVES)
def test_half_precision_under_autocast_is_the_loss_of_the_same_numbers_in_single(loss, dtype):
    objective = build_objective(loss)
    # Large enough for exp, squares and sums to overflow in float16.
    logits, soft = ((100.0 * x).to(dtype) for x in (LOGITS, SOFT))
    logits.requires_grad_()
    exact = logits.detach().double().requires_grad_()
    objective(exact, soft.double(), TARGET, EPOCH).backward()
    with torch.autocast("cpu", dtype):
        result = objective(logits, soft, TARGET, EPOCH)
    result.backward()
    assert result.dtype == torch.float32
    assert logits.grad.dtype == dtype
    expected = objective(logits.double(), soft.double(), TARGET, EPOCH)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=2e-2, atol=1e-4)


@pytest.mark.parametrize("loss", ["kl", "softce", "kd", "dkd", "nkd", "wsld"])
def test_a_class_that_the_teacher_rules_out_counts_for_nothing(loss):
    ruled_out = SOFT.clone()
    ruled_out[range(6), (TARGET + 1) % 5] = -torch.inf
    logits = LOGITS.clone().requires_grad_()
    result = build_objective(loss)(logits, ruled_out, TARGET, EPOCH)
    result.backward()
    assert result.item() == pytest.approx(by_formula(loss, soft=ruled_out))
    assert logits.grad.isfinite().all()


# ---- what a loss reads ---------------------------------------------------------------------------


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_a_loss_reads_what_it_says_it_reads(loss):
    objective = build_objective(loss)
    value = objective(LOGITS, SOFT, TARGET, EPOCH)
    other_target = objective(LOGITS, SOFT, MIXED_TARGET, EPOCH)
    other_soft = objective(LOGITS, SOFT.flip(0), TARGET, EPOCH)
    assert objective.reads_target == (value.item() != other_target.item())
    assert objective.reads_soft_labels == (value.item() != other_soft.item())


@pytest.mark.parametrize("weight", [0.3, torch.tensor(0.3, dtype=torch.float64)])
@pytest.mark.parametrize("loss", OBJECTIVES)
def test_the_hard_labels_of_a_mixed_batch_are_weighted(loss, weight):
    objective = build_objective(loss)
    mixed = objective(LOGITS, SOFT, TARGET, EPOCH, mixed_target=MIXED_TARGET, weight=weight)
    own, other = (objective(LOGITS, SOFT, y, EPOCH) for y in (TARGET, MIXED_TARGET))
    torch.testing.assert_close(mixed, 0.3 * own + 0.7 * other)


@pytest.mark.parametrize(("reads_target", "calls"), [(True, 2), (False, 1)])
def test_a_mixed_batch_costs_a_second_pass_only_where_hard_labels_are_read(reads_target, calls):
    seen = []

    def formula(logits, soft_labels, target, epoch):
        seen.append(target)
        return logits.sum()

    objective = Objective(formula, reads_target=reads_target)
    objective(LOGITS, SOFT, TARGET, EPOCH, mixed_target=MIXED_TARGET, weight=0.5)
    assert len(seen) == calls


def test_cross_entropy_needs_no_soft_labels():
    loss = build_objective("ce")(LOGITS, None, TARGET, EPOCH)
    assert loss.item() == F.cross_entropy(LOGITS, TARGET).item()


def test_missing_soft_labels_are_an_error():
    with pytest.raises(ValueError, match=r"soft_labels must be .*, got None"):
        build_objective("kl")(LOGITS, None, TARGET, EPOCH)


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_soft_labels_of_other_classes_are_an_error(loss):
    objective = build_objective(loss)
    if objective.reads_soft_labels:
        with pytest.raises(ValueError, match=r"shape of logits \(6, 5\), got \(6, 1\)"):
            objective(LOGITS, SOFT[:, :1], TARGET, EPOCH)


# ---- names and options ---------------------------------------------------------------------------


def huber(*, delta: float = 1.0):
    def loss(logits, soft_labels, target, epoch):
        assert logits.dtype == torch.float32
        assert not torch.is_autocast_enabled("cpu")
        return F.huber_loss(logits, soft_labels, delta=delta)

    return loss


def test_a_loss_of_ones_own_is_a_plain_function_in_single_precision(monkeypatch):
    module = types.ModuleType("losses_of_my_own")
    module.huber = huber
    monkeypatch.setitem(sys.modules, module.__name__, module)
    objective = build_objective("losses_of_my_own.huber:delta=0.5")
    with torch.autocast("cpu", torch.float16):
        result = objective(LOGITS.half(), SOFT.half(), TARGET, EPOCH)
    expected = F.huber_loss(LOGITS.half().float(), SOFT.half().float(), delta=0.5)
    torch.testing.assert_close(result, expected)


def test_a_composition_has_the_options_of_its_parts():
    options = inspect.signature(OBJECTIVES["refine+kl+ce"]).parameters
    parts = ["temperature", "scale_t2", "weight"]
    assert list(options) == [*parts, "gamma", "label_smoothing", "smoothing", "unit"]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("kl:temperature=0", "loss 'kl': temperature must be positive and finite, got 0.0"),
        ("kd:temperature=inf", "loss 'kd': temperature must be positive and finite, got inf"),
        ("dkd:temperature=nan", "loss 'dkd': temperature must be positive and finite, got nan"),
        ("nkd:temperature=-1", "loss 'nkd': temperature must be positive and finite, got -1.0"),
        ("wsld:temperature=-1", "loss 'wsld': temperature must be positive and finite, got -1.0"),
        ("refine+kl:temperature=-1", "temperature must be positive and finite, got -1.0"),
        ("kd:weight=1.5", r"loss 'kd': weight must be in \[0, 1\], got 1.5"),
        ("mse+ce:weight=-1", "weight must be 0 or more and finite, got -1.0"),
        ("dkd:beta=-1", "loss 'dkd': beta must be 0 or more and finite, got -1.0"),
        ("dkd:warmup=-1", "loss 'dkd': warmup must be 0 or more, got -1"),
        ("nkd:gamma=-1", "loss 'nkd': gamma must be 0 or more and finite, got -1.0"),
        ("wsld:alpha=-1", "loss 'wsld': alpha must be 0 or more and finite, got -1.0"),
        ("ce:label_smoothing=2", r"label_smoothing must be in \[0, 1\], got 2.0"),
        ("gift:gamma=2", r"gamma must be in \[0, 1\], got 2.0"),
        ("gift:blend=mixed", "loss 'gift': blend must be one of convex, added, got 'mixed'"),
        ("gift:soft_label_temperature=-1", "soft_label_temperature must be positive"),
        ("refine+mse:smoothing=some", "smoothing must be one of 'uniform', 'others', got 'some'"),
        ("refine+ce", "loss must be one of annealed-kl, ce, cosine, .*; got 'refine\\+ce'"),
    ],
)
def test_an_option_out_of_its_range_is_refused_before_any_batch(loss, message):
    with pytest.raises(ValueError, match=message):
        build_objective(loss)


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_every_loss_has_a_display_name(loss):
    assert all(part in DISPLAY_NAMES for part in loss.split("+"))


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        ("gift", "GIFT"),
        ("kl+ce", "KL + CE"),
        ("refine+kl:temperature=4,unit=true", "refined KL (temperature=4, unit=true)"),
        ("my.own.loss", "my.own.loss"),
    ],
)
def test_a_report_shows_the_fields_names(loss, name):
    assert display_name(loss) == name


@pytest.mark.parametrize("loss", ["gift", "dkd", "refine+kl+ce"])
def test_a_loss_is_traced_into_one_graph(loss):
    objective = build_objective(loss)
    traced = torch.compile(
        lambda z, t, y: objective(z, t, y, EPOCH, mixed_target=y, weight=0.5),
        backend="eager",
        fullgraph=True,
    )
    expected = objective(LOGITS, SOFT, TARGET, EPOCH)
    torch.testing.assert_close(traced(LOGITS, SOFT, TARGET), expected)
