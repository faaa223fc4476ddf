"""Sentences on a comparison of losses on one distilled set."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from gift_fast.evaluation.summary import LossSummary
from gift_fast.files import spec
from gift_fast.training.objectives import OBJECTIVES, display_name
from gift_fast.training.optimizers import optimizer_name

COLLAPSED = 2.0
"""A loss has collapsed if its accuracy is at most this many times chance."""

FAR_BEHIND = 5.0
"""Percentage points behind the best loss at which KL under SGD is explained."""

SLOW_KL = (
    "KL with temperature T is computed without the factor T^2, as in published code, so its "
    "gradient is T^2 times smaller than with the factor. The step of SGD is proportional to the "
    "gradient (that of AdamW is not), so a low accuracy of KL under SGD can be due to the learning "
    "rate and not to the loss. To compare: gift-fast demo --losses kl kl:scale_t2=true"
)


def ranking_sentences(cells: Sequence[LossSummary], num_classes: int) -> list[str]:
    """Describe the results in sentences, with the same rules for all losses."""
    chance = 100.0 / num_classes
    optimizers = list(dict.fromkeys(cell.optimizer for cell in cells))
    columns = [[cell for cell in cells if cell.optimizer == name] for name in optimizers]
    sentences = [ranking(column) for column in columns]
    collapsed = [cell for cell in cells if is_near_chance(cell.last.mean, chance)]
    if collapsed and len(collapsed) == len(cells):
        best = max(cell.last.mean for cell in cells)
        return [
            *sentences,
            f"All losses are close to chance (best {best:.1f}, chance {chance:.1f}): the students "
            "are not trained enough to compare losses.",
        ]
    sentences += [collapse(cell, chance) for cell in collapsed]
    sentences += [change(a, b) for a, b in pairwise(columns)]
    if any(is_slow_kl(cell, column) for column in columns for cell in column):
        sentences.append(SLOW_KL)
    return sentences


def ranking(column: Sequence[LossSummary]) -> str:
    """Rank the losses under one optimizer, and state whether the first two are close."""
    ranked = sorted(column, key=lambda cell: cell.last.mean, reverse=True)
    scores = [f"{display_name(cell.loss)} {cell.last.mean:.1f}" for cell in ranked]
    text = f"Under {optimizer_name(ranked[0].optimizer)}: {', '.join(scores)}."
    if len(ranked) == 1:
        return text
    first, second = ranked[:2]
    gap = first.last.mean - second.last.mean
    noise = max(first.last.population_std, second.last.population_std)
    n = min(first.last.n, second.last.n)
    if n == 1:
        return f"{text} With a single seed, the order is unreliable."
    if gap <= noise:
        return (
            f"{text} The first two differ by {gap:.1f}, less than one std ({noise:.1f}): "
            f"{n} seeds are not enough to distinguish them."
        )
    return (
        f"{text} {display_name(first.loss)} is better by {gap:.1f} points, more than the larger "
        f"std of the two ({noise:.1f})."
    )


def is_near_chance(top1: float, chance: float) -> bool:
    """Whether a mean accuracy is near chance; both are in percent.

    The limit is twice chance, but at most halfway between chance and 100 %: with two classes,
    twice chance is 100 %.
    """
    return top1 <= min(COLLAPSED * chance, (chance + 100.0) / 2)


def collapse(cell: LossSummary, chance: float) -> str:
    """State that a loss collapsed."""
    return (
        f"{display_name(cell.loss)} collapsed under {optimizer_name(cell.optimizer)}: "
        f"{cell.last.mean:.1f}, where chance is {chance:.1f}."
    )


def change(before: Sequence[LossSummary], after: Sequence[LossSummary]) -> str:
    """State how the accuracy of every loss changes from one optimizer to another."""
    old = {cell.loss: cell.last.mean for cell in before}
    moves = [
        f"{display_name(cell.loss)} {cell.last.mean - old[cell.loss]:+.1f}"
        for cell in after
        if cell.loss in old
    ]
    names = optimizer_name(before[0].optimizer), optimizer_name(after[0].optimizer)
    return f"From {names[0]} to {names[1]}, in points: {', '.join(moves)}."


def is_slow_kl(cell: LossSummary, column: Sequence[LossSummary]) -> bool:
    """Whether KL without T^2 is far behind the best loss under SGD."""
    if cell.optimizer != "sgd" or spec.split_spec(cell.loss)[0] != "kl":
        return False
    _, options = spec.resolve("loss", cell.loss, OBJECTIVES)
    best = max(other.last.mean for other in column)
    return not options["scale_t2"] and best - cell.last.mean >= FAR_BEHIND
