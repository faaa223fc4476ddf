"""Losses of compressed soft labels against the same losses of the dense labels, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from gift_fast import TopKLabels
from gift_fast.training.objectives import OBJECTIVES, READABLE, Objective, build_objective

N, C, K = 12, 9, 3
GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


LOGITS = 2.0 * normal(N, C)
INDICES = torch.stack([torch.randperm(C, generator=GENERATOR)[:K] for _ in range(N)])
TARGET = torch.cat([INDICES[:6, 1], (INDICES[6:, 0] + 1) % C])  # kept, and often not
MIXED_TARGET = torch.arange(N) % C
EPOCH = 5
PROBABILITIES = normal(N, K + 1).softmax(1)[:, :K]

LABELS = {
    "a number elsewhere": TopKLabels(3.0 * normal(N, K), INDICES, normal(N) - 1.0),
    "int16": TopKLabels(3.0 * normal(N, K), INDICES.short(), normal(N) - 1.0),
    "the remaining mass": TopKLabels(PROBABILITIES, INDICES, None),
    "all classes": TopKLabels(3.0 * normal(N, C), torch.arange(C).expand(N, C), normal(N)),
    "all but one": TopKLabels(3.0 * normal(N, C - 1), torch.arange(C - 1).expand(N, -1), normal(N)),
    "no mass elsewhere": TopKLabels(3.0 * normal(N, K), INDICES, torch.full((N,), -torch.inf)),
}
SOFT_LOSSES = [loss for loss in OBJECTIVES if loss != "ce"]
LOSSES = [*SOFT_LOSSES, "gift:soft_label_temperature=2", "kl+ce:temperature=3,scale_t2=true"]


def reads_softmax(loss):
    return build_objective(loss).reads == "softmax"


def fits(loss, kind):
    """Whether a loss is defined for labels of a kind."""
    if kind == "no mass elsewhere":
        return reads_softmax(loss)
    # gift_loss takes a temperature with a given rest only.
    return kind != "the remaining mass" or not loss.startswith("gift:soft")


@pytest.mark.parametrize(("loss", "kind"), [(x, y) for x in LOSSES for y in LABELS if fits(x, y)])
def test_a_loss_is_that_of_the_dense_labels(loss, kind):
    labels, objective = LABELS[kind], build_objective(loss)
    results = []
    for soft in (labels, labels.dense(C)):
        logits = LOGITS.clone().requires_grad_()
        mixed = objective(logits, soft, TARGET, EPOCH, mixed_target=MIXED_TARGET, weight=0.3)
        (mixed + objective(logits, soft, TARGET, EPOCH)).backward()
        results.append((mixed.detach(), logits.grad))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", SOFT_LOSSES)
def test_half_precision_is_computed_in_single(loss, dtype):
    values, indices, rest = LABELS["a number elsewhere"]
    labels = TopKLabels(values.to(dtype), indices, rest.to(dtype))
    logits = LOGITS.to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
        result = build_objective(loss)(logits, labels, TARGET, EPOCH)
    dense = labels.dense(C).double()
    expected = build_objective(loss)(logits.double(), dense, TARGET, EPOCH)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if not loss.startswith("refine")])
def test_no_dense_label_is_built(loss, monkeypatch):
    def dense(self, num_classes):
        raise AssertionError("a dense label was built")

    monkeypatch.setattr(TopKLabels, "dense", dense)
    build_objective(loss)(LOGITS, LABELS["a number elsewhere"], TARGET, EPOCH)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
@pytest.mark.parametrize("loss", [loss for loss in LOSSES if reads_softmax(loss)])
def test_probabilities_give_the_loss_of_the_logits_that_they_were_made_of(loss, temperature):
    teacher = 3.0 * normal(N, C)
    objective = build_objective(loss)
    probabilities = (teacher / temperature).softmax(1)
    expected = objective(LOGITS, teacher, TARGET, EPOCH)
    result = objective(LOGITS, probabilities, TARGET, EPOCH, temperature=temperature)
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if reads_softmax(loss)])
@pytest.mark.parametrize("kind", ["the remaining mass", "zero"])
def test_compressed_probabilities_give_the_loss_of_the_dense_ones(loss, kind):
    labels = TopKLabels(PROBABILITIES, INDICES, None)
    if kind == "zero":
        kept = PROBABILITIES / PROBABILITIES.sum(1, keepdim=True)
        labels = TopKLabels(kept, INDICES, torch.zeros(N))
    objective = build_objective(loss)
    result = objective(LOGITS, labels, TARGET, EPOCH, temperature=1.0)
    expected = objective(LOGITS, labels.dense(C), TARGET, EPOCH, temperature=1.0)
    torch.testing.assert_close(result, expected)


def test_softce_of_probabilities_is_their_cross_entropy():
    labels = TopKLabels(PROBABILITIES, INDICES, None)
    rest = (1 - PROBABILITIES.sum(1)) / (C - K)
    expected = 0.0
    for row in range(N):
        log_q = LOGITS[row].log_softmax(0).tolist()
        p = {int(c): float(v) for c, v in zip(INDICES[row], PROBABILITIES[row], strict=True)}
        expected -= sum(p.get(c, float(rest[row])) * log_q[c] for c in range(C)) / N
    result = build_objective("softce")(LOGITS, labels, TARGET, EPOCH, temperature=1.0)
    assert result.item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", ["mse", "mse+ce", "refine+kl", "refine+cosine"])
def test_a_loss_of_logits_refuses_probabilities(loss):
    labels = PROBABILITIES if loss == "mse" else TopKLabels(PROBABILITIES, INDICES, None)
    if loss == "mse":
        labels = normal(N, C).softmax(1)
    with pytest.raises(ValueError, match="soft_labels must be logits for this loss, got probabil"):
        build_objective(loss)(LOGITS, labels, TARGET, EPOCH, temperature=20.0)


def test_gift_and_cosine_take_probabilities_as_they_are():
    p = normal(N, C).softmax(1)
    for loss in ("gift", "cosine"):
        objective = build_objective(loss)
        torch.testing.assert_close(
            objective(LOGITS, p, TARGET, EPOCH, temperature=20.0),
            objective(LOGITS, p, TARGET, EPOCH),
        )


def test_a_loss_of_the_users_own_gets_dense_labels():
    own = Objective(lambda z, t, y, epoch: (z - t).abs().mean(), reads_target=False)
    labels = LABELS["a number elsewhere"]
    expected = (LOGITS - labels.dense(C)).abs().mean()
    torch.testing.assert_close(own(LOGITS, labels, TARGET, EPOCH), expected)


def test_every_loss_says_what_it_reads():
    assert {build_objective(loss).reads for loss in OBJECTIVES} == set(READABLE)


@pytest.mark.parametrize(
    "labels",
    [
        TopKLabels(normal(N, K), INDICES[:, :2], normal(N)),
        TopKLabels(normal(5, K), INDICES[:5], normal(5)),
        TopKLabels(normal(N, K), INDICES, normal(5)),
        TopKLabels(normal(N, C + 1), torch.arange(C + 1).expand(N, -1), None),
        TopKLabels(normal(N), torch.arange(N), None),
    ],
)
def test_labels_of_other_shapes_are_refused(labels):
    message = r"soft_labels must have values and indices \(12, 'k'\), at most k = 9, and rest \(12"
    with pytest.raises(ValueError, match=message):
        build_objective("kl")(LOGITS, labels, TARGET, EPOCH)


def cross_entropies(temperature):
    """-log softmax(LOGITS / T) of every class, in plain arithmetic."""
    rows = (LOGITS / temperature).tolist()
    return [[math.log(sum(map(math.exp, row))) - z for z in row] for row in rows]


HARD = {
    # With all mass on y, nothing is left to say about the other classes.
    "dkd:temperature=2,alpha=1.5,beta=8,warmup=10": lambda row: (
        cross_entropies(1)[row][TARGET[row]] + 0.5 * 4 * 1.5 * cross_entropies(2)[row][TARGET[row]]
    ),
    "nkd:temperature=3,gamma=2": lambda row: 2 * cross_entropies(1)[row][TARGET[row]],
}


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("loss", HARD)
def test_a_label_with_all_mass_on_the_target_adds_nothing_about_the_other_classes(loss, dense):
    labels = TopKLabels(torch.ones(N, 1), TARGET.unsqueeze(1), torch.zeros(N))
    logits = LOGITS.clone().requires_grad_()
    soft = labels.dense(C) if dense else labels
    result = build_objective(loss)(logits, soft, TARGET, EPOCH, temperature=1.0)
    result.backward()
    assert result.item() == pytest.approx(sum(map(HARD[loss], range(N))) / N)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if reads_softmax(loss)])
@pytest.mark.parametrize("rest", [0.0, None])
@pytest.mark.parametrize("on_target", [True, False])
def test_hard_labels_are_the_limit_of_labels_with_little_mass_elsewhere(loss, rest, on_target):
    classes = TARGET if on_target else (TARGET + 1) % C
    objective, gradients, values = build_objective(loss), [], []
    for p in (1.0, 1.0 - 1e-9):
        logits = LOGITS.clone().requires_grad_()
        labels = TopKLabels(torch.full((N, 1), p).double(), classes.unsqueeze(1), None)
        if p == 1.0 and rest is not None:
            labels = labels._replace(rest=torch.full((N,), rest))
        value = objective(logits, labels, TARGET, EPOCH, temperature=1.0)
        value.backward()
        values.append(value.detach())
        gradients.append(logits.grad)
    assert gradients[0].isfinite().all()
    if loss in ("dkd", "nkd") and on_target:
        return  # what is said of the other classes has no limit; see the test above
    torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-5)
