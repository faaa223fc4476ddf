"""What a comparison of losses on one distilled set shows, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from gift_fast.evaluation.summary import LossSummary
from gift_fast.files import spec
from gift_fast.training.objectives import OBJECTIVES, display_name
from gift_fast.training.optimizers import optimizer_name

COLLAPSED = 2.0
"""A loss has collapsed where its students are right at most this many times as often as chance."""

FAR_BEHIND = 5.0
"""Points of top-1 behind the best loss that call for an explanation."""

SLOW_KL = (
    "KL is taken at its temperature T without the factor T^2, as the literature's code does, so "
    "its gradient is T^2 times smaller than with it. SGD's step is proportional to the gradient "
    "(AdamW's is not), so where KL fails under SGD that can be a matter of the learning rate and "
    "not of the loss. To see: gift-fast demo --losses kl kl:scale_t2=true"
)


def ranking_sentences(cells: Sequence[LossSummary], num_classes: int) -> list[str]:
    """What the table shows, in sentences that treat all losses alike."""
    chance = 100.0 / num_classes
    optimizers = list(dict.fromkeys(cell.optimizer for cell in cells))
    columns = [[cell for cell in cells if cell.optimizer == name] for name in optimizers]
    sentences = [ranking(column) for column in columns]
    collapsed = [cell for cell in cells if is_near_chance(cell.last.mean, chance)]
    if collapsed and len(collapsed) == len(cells):
        best = max(cell.last.mean for cell in cells)
        return [
            *sentences,
            f"No loss is far above chance ({best:.1f} at best, chance {chance:.1f}): the students "
            "are not trained enough to compare losses.",
        ]
    sentences += [collapse(cell, chance) for cell in collapsed]
    sentences += [change(a, b) for a, b in pairwise(columns)]
    if any(is_slow_kl(cell, column) for column in columns for cell in column):
        sentences.append(SLOW_KL)
    return sentences


def ranking(column: Sequence[LossSummary]) -> str:
    """The losses under one optimizer from best to worst, and whether the first two are close."""
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
            f"{text} The first two lie {gap:.1f} apart, within one std ({noise:.1f}): "
            f"{n} seeds do not separate them."
        )
    return (
        f"{text} {display_name(first.loss)} leads by {gap:.1f} points, more than the larger std of "
        f"the two ({noise:.1f})."
    )


def is_near_chance(top1: float, chance: float) -> bool:
    """Whether students with this mean, in percent like ``chance``, learned next to nothing.

    Of two classes twice chance is all there is: there it is half of the way to 100.
    """
    return top1 <= min(COLLAPSED * chance, (chance + 100.0) / 2)


def collapse(cell: LossSummary, chance: float) -> str:
    """State that a loss collapsed."""
    return (
        f"{display_name(cell.loss)} collapsed under {optimizer_name(cell.optimizer)}: "
        f"{cell.last.mean:.1f} where chance is {chance:.1f}."
    )


def change(before: Sequence[LossSummary], after: Sequence[LossSummary]) -> str:
    """What another optimizer, with settings of its own, does to every loss."""
    old = {cell.loss: cell.last.mean for cell in before}
    moves = [
        f"{display_name(cell.loss)} {cell.last.mean - old[cell.loss]:+.1f}"
        for cell in after
        if cell.loss in old
    ]
    names = optimizer_name(before[0].optimizer), optimizer_name(after[0].optimizer)
    return f"From {names[0]} to {names[1]}, in points: {', '.join(moves)}."


def is_slow_kl(cell: LossSummary, column: Sequence[LossSummary]) -> bool:
    """Whether KL without T^2 lies far behind the best loss under SGD."""
    if cell.optimizer != "sgd" or spec.split_spec(cell.loss)[0] != "kl":
        return False
    _, options = spec.resolve("loss", cell.loss, OBJECTIVES)
    best = max(other.last.mean for other in column)
    return not options["scale_t2"] and best - cell.last.mean >= FAR_BEHIND
