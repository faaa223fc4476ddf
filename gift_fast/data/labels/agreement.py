"""The agreement of stored labels with the classes of their images."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gift_fast.data.labels.batch import FkdBatch

SIGNIFICANCE = 0.01
"""Significance level of an agreement better than chance."""


@dataclass(frozen=True)
class Agreement:
    """How often stored labels predict the classes of their images.

    Attributes:
        rows: number of labels compared.
        hits: labels whose largest logit is the class of the image, or of the image mixed in.
        chance: expected fraction of hits if the labels were shuffled.
        pairs: number of pairs of images of the same class.
        pair_hits: pairs whose labels predict the same class, right or wrong.
        pair_chance: fraction of all pairs of labels that predict the same class.
    """

    rows: int
    hits: int
    chance: float
    pairs: int
    pair_hits: int
    pair_chance: float

    @property
    def share(self) -> float:
        """The fraction of labels that are hits."""
        return self.hits / self.rows

    @property
    def near_chance(self) -> bool:
        """Whether shuffled labels would agree as well with a probability above ``SIGNIFICANCE``.

        False if so few labels were compared that even full agreement would not be significant.
        """
        if self.chance**self.rows > SIGNIFICANCE:
            return False
        return binomial_tail(self.rows, self.hits, self.chance) > SIGNIFICANCE

    @property
    def classes_are_permuted(self) -> bool:
        """Whether images of the same class have labels of the same class, but of a wrong one."""
        # Pairs of many images of few classes are dependent, so the binomial test is not sufficient.
        return (
            self.near_chance
            and self.pair_hits > 1.25 * self.pair_chance * self.pairs
            and binomial_tail(self.pairs, self.pair_hits, self.pair_chance) < SIGNIFICANCE
        )


def binomial_tail(trials: int, successes: int, chance: float) -> float:
    """Probability of at least ``successes`` successes."""
    if successes <= 0 or chance >= 1.0:
        return 1.0
    if chance <= 0.0:
        return 0.0

    def log_of_ways(k: int) -> float:
        return math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)

    return math.fsum(
        math.exp(log_of_ways(k) + k * math.log(chance) + (trials - k) * math.log1p(-chance))
        for k in range(successes, trials + 1)
    )


def agreement(batches: Iterable[FkdBatch], labels: Tensor) -> Agreement:
    """Compare stored labels with the classes of their images.

    Args:
        batches: at least one.
        labels: (N) int64, the class of every image of the distilled set.

    Example:
        >>> batch = FkdBatch(
        ...     index=torch.tensor([2, 0]),
        ...     coords=torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(2, 1),
        ...     flip=torch.tensor([False, False]),
        ...     logits=torch.tensor([[0.0, 3.0], [0.0, 3.0]]),
        ... )
        >>> agreement([batch], labels=torch.tensor([0, 1, 1])).share
        0.5
    """
    named, own, mixed_in = [], [], []
    for batch in batches:
        target = labels[batch.index]
        named.append(batch.named())
        own.append(target)
        mixed_in.append(target if batch.mix_index is None else target[batch.mix_index])
    says, first, second = torch.cat(named), torch.cat(own), torch.cat(mixed_in)
    classes = 1 + int(torch.cat([says, first, second]).max())
    # For each class, the number of rows in which a label that predicts it would be a hit.
    targets = first.bincount(minlength=classes)
    targets = targets + second[second != first].bincount(minlength=classes)

    def pairs(groups: Tensor) -> int:
        sizes = groups.unique(return_counts=True)[1]
        return int((sizes * (sizes - 1) // 2).sum())

    rows = len(says)
    return Agreement(
        rows=rows,
        hits=int(((says == first) | (says == second)).sum()),
        chance=float(targets[says].double().mean()) / rows,
        pairs=pairs(first),
        pair_hits=pairs(first * classes + says),
        pair_chance=pairs(says) / max(math.comb(rows, 2), 1),
    )
