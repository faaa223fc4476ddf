"""Sums over the classes of soft labels, for dense and top-k labels.

For :class:`~gift_fast.TopKLabels`, the functions read the k kept classes and add the terms of the
other C - k, which are equal, without creating dense labels (N, C). The result is that of
``labels.dense(C)``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gift_fast.loss import TopKLabels


class TopKSoftmax(NamedTuple):
    """The softmax of top-k labels.

    Attributes:
        kept: (N, k) probabilities of the kept classes.
        log_kept: (N, k) their logarithms.
        rest: (N) probability of each other class.
        log_rest: (N) its logarithm; -inf if there are no other classes.
        others: number of other classes; (N) or a number.
        indices: (N, k) int64, the kept classes.
        log_sum: (N) the logarithm of the softmax's denominator; -inf if no class has any mass,
            where all probabilities are 0.
    """

    kept: Tensor
    log_kept: Tensor
    rest: Tensor
    log_rest: Tensor
    others: Tensor | int
    indices: Tensor
    log_sum: Tensor

    def entropy(self) -> Tensor:
        """(N) - sum of p log p."""
        kept = torch.where(self.kept > 0, self.kept * self.log_kept, 0.0).sum(1)
        rest = torch.where(self.rest > 0, self.rest * self.log_rest, 0.0)
        return -(kept + self.others * rest)


def as_logits(labels: Tensor | TopKLabels, temperature: float) -> Tensor | TopKLabels:
    """Convert probabilities after a softmax at a temperature T to logits T log p.

    They are the logits before the softmax, up to a constant per row; a probability of 0 becomes
    -inf.

    Example:
        >>> logits = torch.tensor([[3.0, 1.0, -4.0]])
        >>> back = as_logits((logits / 20).softmax(1), 20.0)
        >>> torch.allclose(back - back[:, :1], logits - logits[:, :1], atol=1e-4)
        True
    """
    if isinstance(labels, Tensor):
        return temperature * labels.log()
    values, indices, rest = labels
    if rest is None:
        raise ValueError("rest must be given: call with_rest first")
    return TopKLabels(temperature * values.log(), indices, temperature * rest.log())


def with_rest(labels: TopKLabels, num_classes: int) -> TopKLabels:
    """Compute the value of the other classes if ``rest`` is None."""
    values, indices, rest = labels
    if rest is None:
        others = num_classes - values.shape[-1]
        mass = (1.0 - values.sum(-1)).clamp_min(0.0)
        rest = mass / others if others else torch.zeros_like(mass)
    return TopKLabels(values, indices, rest)


def top_k_softmax(
    labels: TopKLabels, num_classes: int, without: Tensor | None = None
) -> TopKSoftmax:
    """The softmax of top-k labels, over all classes or all but one.

    Args:
        labels: values (N, k), indices (N, k), rest (N).
        num_classes: C.
        without: (N) int64, the class that is excluded in each row, whose probability is then 0;
            None for all classes.
    """
    values, indices, rest = labels
    assert rest is not None
    indices = indices.long()
    others: Tensor | int = num_classes - values.shape[-1]
    log_others: Tensor | float = math.log(others) if others else -math.inf
    if without is not None:
        is_out = indices == without.unsqueeze(1)
        values = values.masked_fill(is_out, -math.inf)
        others = others - (~is_out.any(1)).to(values.dtype)
        log_others = others.log()
    # With no other class, or no mass on any, the logarithm of their sum is -inf.
    mass = torch.where(rest > -math.inf, rest + log_others, -math.inf)
    log_sum = torch.cat([values, mass.unsqueeze(1)], 1).logsumexp(1)
    finite_sum = log_sum.masked_fill(log_sum == -math.inf, 0.0)
    log_kept = values - finite_sum.unsqueeze(1)
    log_rest = torch.where(mass > -math.inf, rest - finite_sum, -math.inf)
    return TopKSoftmax(log_kept.exp(), log_kept, log_rest.exp(), log_rest, others, indices, log_sum)


def expected_logit(soft: TopKSoftmax, logits: Tensor, without: Tensor | None = None) -> Tensor:
    """(N) sum of p_j z_j, over all classes or over those that the softmax includes.

    Args:
        soft: the softmax p.
        logits: (N, C), z.
        without: as for :func:`top_k_softmax`.
    """
    at_kept = logits.gather(1, soft.indices)
    total = logits.sum(1) - at_kept.sum(1)
    if without is not None:
        at_class = logits.gather(1, without.unsqueeze(1)).squeeze(1)
        is_kept = (soft.indices == without.unsqueeze(1)).any(1)
        total = total - torch.where(is_kept, 0.0, at_class)
    return (soft.kept * at_kept).sum(1) + soft.rest * total


def value_at(labels: TopKLabels, target: Tensor) -> Tensor:
    """(N) the label's value at one class per row."""
    assert labels.rest is not None
    is_target = labels.indices.long() == target.unsqueeze(1)
    kept = torch.where(is_target, labels.values, 0.0).sum(1)
    return torch.where(is_target.any(1), kept, labels.rest)


def cross_entropy(logits: Tensor, labels: Tensor | TopKLabels) -> Tensor:
    """(N) cross-entropy of softmax(logits) with softmax(labels)."""
    if isinstance(labels, Tensor):
        return F.cross_entropy(logits, F.softmax(labels, dim=-1), reduction="none")
    soft = top_k_softmax(labels, logits.shape[1])
    return logits.logsumexp(1) - expected_logit(soft, logits)


def divergence(logits: Tensor, labels: Tensor | TopKLabels) -> Tensor:
    """KL(softmax(labels) || softmax(logits)), averaged over rows."""
    if isinstance(labels, Tensor):
        # Probabilities, not their logarithms, so that a class with a logit of -inf contributes 0.
        teacher = F.softmax(labels, dim=-1)
        return F.kl_div(F.log_softmax(logits, dim=-1), teacher, reduction="batchmean")
    soft = top_k_softmax(labels, logits.shape[1])
    crossed = logits.logsumexp(1) - expected_logit(soft, logits)
    return (crossed - soft.entropy()).mean()


def squared_error(logits: Tensor, labels: Tensor | TopKLabels) -> Tensor:
    """(z - t)^2, averaged over rows and classes."""
    if isinstance(labels, Tensor):
        return F.mse_loss(logits, labels)
    values, indices, rest = labels
    assert rest is not None
    # The sum of (z - u)^2 over all classes, from mean and variance, to avoid cancellation.
    variance, mean = torch.var_mean(logits, 1, correction=0)
    everywhere = logits.shape[1] * (variance + (mean - rest).square())
    kept = logits.gather(1, indices.long())
    at_kept = (kept - values).square() - (kept - rest.unsqueeze(1)).square()
    return (everywhere + at_kept.sum(1)).mean() / logits.shape[1]


def scaled(labels: Tensor | TopKLabels, temperature: float) -> Tensor | TopKLabels:
    """Divide labels by a temperature."""
    if isinstance(labels, Tensor):
        return labels / temperature
    values, indices, rest = labels
    assert rest is not None
    return TopKLabels(values / temperature, indices, rest / temperature)
