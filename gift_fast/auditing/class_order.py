"""Tells from labels and predictions whether two sources number their classes alike.

A teacher, a test set and a distilled set that come from three places may have three class orders:
sorted folders, the lines of a list, the order in which somebody saw the classes first. Nothing
fails then; the accuracy is that of chance. What gives it away is a confusion matrix that is good
once its columns are rearranged.

Three other things look alike at first sight and are kept apart here:

- A network that knows nothing of the images. The best of all C! rearrangements fits any matrix to
  some degree: with one image a class, predictions at random fit by 1 - 1/e = 63 %. So a
  rearrangement found on one half of the images is judged on the other; with one image a class it
  is judged by how rarely random predictions would all differ.
- A weak network in the right order. It calls many cats dogs. But those which it calls dogs are dogs
  more often than they are cats: a network predicts what it deems most probable, and training keeps
  that right on average. So a class counts as moved only where both directions say so: its images
  are called m most often, and what is called m has its label most often.
- An untrained network. It tells some classes apart and gives each an output at random, so that a
  few of ten may even swap places. So more classes must have a partner of their own, in their place
  or another one, than outputs dealt out at random would give them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

LIKELY = 1e-3
"""A finding that chance alone gives more often than this is not reported."""

SURE = 1e-6
"""A finding that chance alone gives less often than this is called certain."""

TRAINED = 75.0
"""Percent that no untrained network with more than a few classes is right on, however its outputs
are rearranged. Clusters of points that are almost disjoint gave up to 65 with 10 classes and 79
with 5 (200 networks each), scikit-learn's digits up to 21 (120 ConvNet-3)."""

FOLD_SEED = 0


@dataclass(frozen=True)
class ClassOrder:
    """How the classes of labels relate to those of predictions.

    Attributes:
        images: that were compared.
        agreement: percent of the predictions that are the label.
        chance: percent that would be if the same predictions were dealt out at random.
        same: the agreement is above chance beyond doubt. False leaves open why it is not.
        class_map: at place i, the prediction that label i goes with; (0, 1, ...) unless labels are
            moved.
        moved: the labels that go with another prediction than themselves.
        guessed: those of them that are placed by elimination or thin evidence: too few images were
            predicted as ``class_map`` says.
        at_home: classes whose images are called by their label more often than anything else, and
            which other images are called less often.
        classes: that have images.
        mapped: percent of the predictions that ``class_map`` takes the label to.
        rearranged: percent that the best rearrangement explains of images it was not found on, for
            whatever reason; None with one image a class.
        probability: that chance alone shows as much as was moved; 1 where no label is.
        images_per_class: median over the classes that have any.
        strays: (label, prediction) of every label of whose images more than half, two at least,
            are called one other class, whether that moves it or not.
    """

    images: int
    agreement: float
    chance: float
    same: bool
    class_map: tuple[int, ...]
    moved: tuple[int, ...]
    guessed: tuple[int, ...]
    at_home: int
    classes: int
    mapped: float
    rearranged: float | None
    probability: float
    images_per_class: int
    strays: tuple[tuple[int, int], ...] = ()

    @property
    def permuted(self) -> bool:
        """Labels are moved."""
        return bool(self.moved)

    @property
    def strong(self) -> bool:
        """More than half of the classes are at home."""
        return 2 * self.at_home > self.classes

    @property
    def certain(self) -> bool:
        """It is next to impossible that chance moved them."""
        return self.probability < SURE


def compare_classes(labels: Tensor, predictions: Tensor, num_classes: int) -> ClassOrder:
    """Finds out whether labels and predictions have the same class order, and else which.

    Args:
        labels: (N) int64 in [0, num_classes), of images.
        predictions: (N) int64 in [0, num_classes), of the same images: the largest logits.
        num_classes: C.

    Returns:
        What was found. Where predictions have little to do with labels in any order, no label is
        moved and ``same`` is False.

    Raises:
        ValueError: the shapes disagree, there are no images, or a class is out of range.

    Example:
        >>> labels = torch.arange(4).repeat(10)
        >>> order = compare_classes(labels, torch.tensor([0, 2, 3, 1])[labels], 4)
        >>> order.class_map, order.moved, order.agreement, order.mapped
        ((0, 2, 3, 1), (1, 2, 3), 25.0, 100.0)
    """
    if labels.dim() != 1 or labels.shape != predictions.shape or len(labels) == 0:
        raise ValueError(
            "labels and predictions must be (N), N >= 1, "
            f"got {tuple(labels.shape)} and {tuple(predictions.shape)}"
        )
    for name, values in (("labels", labels), ("predictions", predictions)):
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= num_classes:
            raise ValueError(f"{name} must be from 0 to {num_classes - 1}, got {low} to {high}")
    return compare(labels.cpu().numpy(), predictions.cpu().numpy(), num_classes)


def compare(labels: Ints, predictions: Ints, num_classes: int) -> ClassOrder:
    """The same as :func:`compare_classes` for arrays that are known to be right."""
    import numpy as np
    from scipy.stats import binom

    images = len(labels)
    holders = np.bincount(labels, minlength=num_classes)
    agree = int((labels == predictions).sum())
    dealt = holders @ np.bincount(predictions, minlength=num_classes) / images**2
    present = holders > 0
    per_class = int(np.median(holders[present]))

    partner, mutual = best_partners(labels, predictions, num_classes)
    rearranged = None
    if per_class > 1:
        expected = cross_fitted(labels, predictions, num_classes)
        rearranged = 100.0 * float((predictions == expected).mean())
        cycles = credible_cycles(labels, predictions, partner, mutual, expected)
    else:
        cycles = credible_cycles_of_single_images(labels, predictions, partner, mutual)
    class_map = np.arange(num_classes)
    for cycle, _ in cycles:
        class_map[cycle] = partner[cycle]
    settled = int((mutual & (partner == class_map))[present].sum())
    explained = rearranged if rearranged is not None else 100.0 * settled / present.sum()
    if not is_knowledge(settled, int(present.sum()), num_classes, explained):
        cycles, class_map = [], np.arange(num_classes)
    moved = np.flatnonzero(class_map != np.arange(num_classes))
    return ClassOrder(
        images=images,
        agreement=100.0 * agree / images,
        chance=100.0 * float(dealt),
        same=bool(binom.sf(agree - 1, images, dealt) < LIKELY),
        class_map=tuple(class_map.tolist()),
        moved=tuple(moved.tolist()),
        guessed=tuple(moved[~mutual[moved]].tolist()),
        at_home=int((mutual & (partner == np.arange(num_classes)))[present].sum()),
        classes=int(present.sum()),
        mapped=100.0 * float((class_map[labels] == predictions).mean()),
        rearranged=rearranged,
        probability=max((probability for _, probability in cycles), default=1.0),
        images_per_class=per_class,
        strays=strays_of(labels, predictions, num_classes),
    )


def strays_of(labels: Ints, predictions: Ints, num_classes: int) -> tuple[tuple[int, int], ...]:
    """The labels of whose images more than half, two at least, are called one other class."""
    import numpy as np

    cells, counts = np.unique(labels * num_classes + predictions, return_counts=True)
    row, column = np.divmod(cells, num_classes)
    most = 2 * counts > np.bincount(labels, minlength=num_classes)[row]
    found = most & (counts > 1) & (row != column)
    return tuple(zip(row[found].tolist(), column[found].tolist(), strict=True))


def is_knowledge(settled: int, present: int, num_classes: int, explained: float) -> bool:
    """Whether a network that was never trained would not do as well.

    Args:
        settled: classes that are each other's most frequent partner with a prediction.
        present: classes that have images.
        num_classes: C.
        explained: percent of images that the best rearrangement is right on.
    """
    if 2 * settled <= present:
        return False
    luck = distinct_tail(present, num_classes, num_classes, settled)
    return luck < LIKELY or explained >= TRAINED


def best_partners(
    labels: Ints, predictions: Ints, num_classes: int
) -> tuple[Ints, NDArray[np.bool_]]:
    """The bijection from labels to predictions that explains most, and where it is beyond doubt.

    Returns:
        The prediction of every label, (C), each once; and for every label, (C) bool, whether the
        two are each other's most frequent partner.
    """
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    # The cells of the confusion matrix that hold anything, and its diagonal: 21,841 classes would
    # take 4 GB whole.
    diagonal = np.arange(num_classes) * (num_classes + 1)
    cells, counts = np.unique(
        np.concatenate([labels * num_classes + predictions, diagonal]), return_counts=True
    )
    row, column = np.divmod(cells, num_classes)
    # Half a count on the diagonal lets the order stay as it is where nothing speaks against it.
    weight = counts - 0.5 * (row == column)
    # Shares, so that labels with many images do not outweigh the others; one more image in the
    # denominator, so that a single image counts half of what many do.
    weight = weight / (np.bincount(labels, minlength=num_classes) + 1)[row]

    best = is_strict_maximum(row, weight) & is_strict_maximum(column, weight)
    partner = np.full(num_classes, -1)
    partner[row[best]] = column[best]
    mutual = partner >= 0

    rest = np.flatnonzero(~mutual)
    if len(rest) > 0:
        free = np.setdiff1d(np.arange(num_classes), partner[mutual])
        table = np.zeros((len(rest), len(free)))
        inside = ~mutual[row] & np.isin(column, free)
        table[np.searchsorted(rest, row[inside]), np.searchsorted(free, column[inside])] = weight[
            inside
        ]
        chosen = linear_sum_assignment(table, maximize=True)[1]
        partner[rest] = free[chosen]
    return partner, mutual


def is_strict_maximum(group: Ints, weight: Floats) -> NDArray[np.bool_]:
    """Whether each weight is larger than all others of its group."""
    import numpy as np

    order = np.lexsort((weight, group))
    last = np.append(group[order][1:] != group[order][:-1], True)
    tied = np.append(False, (group[order][1:] == group[order][:-1]) & (np.diff(weight[order]) == 0))
    result = np.zeros(len(group), dtype=bool)
    result[order] = last & ~tied
    return result


def cycles_of(partner: Ints) -> list[Ints]:
    """The cycles of a permutation that move anything."""
    import numpy as np

    seen = partner == np.arange(len(partner))
    cycles = []
    for start in range(len(partner)):
        cycle = []
        label = start
        while not seen[label]:
            seen[label] = True
            cycle.append(label)
            label = int(partner[label])
        if cycle:
            cycles.append(np.array(cycle))
    return cycles


def cross_fitted(labels: Ints, predictions: Ints, num_classes: int) -> Ints:
    """What every image (N) should be called, by the partners that the other half of them shows."""
    import numpy as np

    fold = alternate(labels)
    expected = np.empty_like(predictions)
    for half in (0, 1):
        found, _ = best_partners(labels[fold == half], predictions[fold == half], num_classes)
        expected[fold != half] = found[labels[fold != half]]
    return expected


def credible_cycles(
    labels: Ints, predictions: Ints, partner: Ints, mutual: NDArray[np.bool_], expected: Ints
) -> list[tuple[Ints, float]]:
    """The cycles of ``partner`` that :func:`cross_fitted` confirms, and their p-values."""
    import numpy as np
    from scipy.stats import binom

    num_classes = len(partner)
    as_moved = (predictions == expected) & (expected != labels)
    as_labeled = predictions == labels

    cycles = []
    for cycle in cycles_of(partner):
        if mutual[cycle].mean() <= 0.5:
            continue
        inside = np.isin(labels, cycle)
        moved, kept = int(as_moved[inside].sum()), int(as_labeled[inside].sum())
        # Of two classes that cannot be told apart, either is predicted as often. Each of the C
        # classes may have such a twin.
        probability = min(1.0, num_classes * float(binom.sf(moved - 1, moved + kept, 0.5)))
        if probability < LIKELY and moved >= 2 * kept:
            cycles.append((cycle, probability))
    return cycles


def alternate(labels: Ints) -> Ints:
    """0 or 1 for every image, so that of every class one half has each, in a shuffled order."""
    import numpy as np

    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(FOLD_SEED))
    order = shuffled.numpy()
    order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % 2
    return fold


def credible_cycles_of_single_images(
    labels: Ints, predictions: Ints, partner: Ints, mutual: NDArray[np.bool_]
) -> list[tuple[Ints, float]]:
    """The cycles of ``partner``, all or none: is it a surprise that the predictions differ so?

    With one image a class there is nothing to confirm a rearrangement with. What is left: those
    predictions that are not the label rarely differ from each other if they are mere mistakes.
    """
    import numpy as np

    num_classes = len(partner)
    wrong = labels != predictions
    free = np.setdiff1d(np.arange(num_classes), predictions[~wrong])
    distinct = len(np.intersect1d(predictions[wrong], free))
    probability = distinct_tail(int(wrong.sum()), len(free), num_classes, distinct)
    # Real mistakes are not random: pairs of classes are taken for each other. Only where hardly
    # anything is right is that no explanation.
    if probability >= LIKELY or distinct < 2 * int((~wrong).sum()):
        return []
    return [(cycle, probability) for cycle in cycles_of(partner) if mutual[cycle].mean() > 0.5]


def distinct_tail(draws: int, free: int, classes: int, distinct: int) -> float:
    """Probability that predictions at random hit at least so many different classes.

    Args:
        draws: mistakes, each of which hits one of the ``classes`` - 1 others; or where all classes
            are free, predictions that hit any class.
        free: classes that no right prediction has taken, those of the mistakes among them.
        classes: C.
        distinct: of the free classes that were hit.

    Example:
        >>> round(distinct_tail(10, 10, 10, 10), 6)  # 10! / 10^10
        0.000363
    """
    import numpy as np

    if draws == 0 or distinct == 0:
        return 1.0
    hit = np.arange(free + 1)
    # A mistake does not hit its own class, which is one of the free ones.
    new = np.minimum((free - hit) / free * (free - 1) / (classes - 1), 1.0)
    state = np.zeros(free + 1)
    state[0] = 1.0
    for _ in range(draws):
        step = state * new
        state -= step
        state[1:] += step[:-1]
    return float(state[distinct:].sum())
