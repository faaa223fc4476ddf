"""Determines from labels and predictions whether two sources have the same class order.

A teacher, a test set and a distilled set from different sources may have different class orders:
sorted folders, the lines of a list, or the order of first appearance. Nothing fails, but accuracy
is at chance. The symptom is a confusion matrix that is good after its columns are rearranged.

Three other cases look similar and are distinguished here:

- A network that was trained on other images. The best of all C! rearrangements fits any matrix to
  some degree: with one image per class, random predictions fit by 1 - 1/e = 63 %. Therefore, a
  rearrangement found on one half of the images is tested on the other half. With one image per
  class, the test is how rarely random predictions would all differ.
- A weak network with the right order. It predicts "dog" for many cats, but most images predicted as
  dogs are dogs: a network predicts the most probable class, and training makes that correct on
  average. Therefore, a class counts as moved only if both directions agree: m is the most frequent
  prediction for its images, and its label is the most frequent among images predicted as m.
- An untrained network. It distinguishes some classes and assigns outputs to them at random, so a
  few of ten classes may even swap places. Therefore, more classes must have a mutual partner than
  with random outputs.
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
"""Findings with a larger p-value are not reported."""

SURE = 1e-6
"""Findings with a smaller p-value are reported as certain."""

TRAINED = 75.0
"""Accuracy in percent that no untrained network with more than a few classes reaches with any
rearrangement of its outputs. Almost disjoint clusters of points gave up to 65 with 10 classes and
79 with 5 (200 networks per setting), scikit-learn's digits up to 21 (120 ConvNet-3)."""

FOLD_SEED = 0


@dataclass(frozen=True)
class ClassOrder:
    """The relation between the classes of labels and those of predictions.

    Attributes:
        images: number of images compared.
        agreement: percent of predictions that equal the label.
        chance: the same percentage if the predictions were shuffled.
        same: whether the agreement is significantly above chance.
        class_map: entry i is the prediction that corresponds to label i; (0, 1, ...) unless labels
            are permuted.
        moved: the labels whose prediction in ``class_map`` is another class.
        guessed: those of them whose prediction was determined by elimination, with too few images
            to confirm it.
        at_home: number of classes for which label and prediction are each other's most frequent
            partner.
        classes: number of classes with images.
        mapped: percent of predictions that equal ``class_map`` of the label.
        rearranged: cross-validated accuracy in percent of the best rearrangement of the classes;
            None with one image per class.
        probability: p-value of the permutation; 1 if no label is moved.
        images_per_class: median over the classes with images.
        strays: (label, prediction) of every label for which more than half of the images, and at
            least two, are predicted as one other class, whether or not the label is moved.
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
        """Whether any label is moved."""
        return bool(self.moved)

    @property
    def strong(self) -> bool:
        """Whether most classes are predicted correctly more often than as any other class."""
        return 2 * self.at_home > self.classes

    @property
    def certain(self) -> bool:
        """Whether the p-value of the permutation is below ``SURE``."""
        return self.probability < SURE


def compare_classes(labels: Tensor, predictions: Tensor, num_classes: int) -> ClassOrder:
    """Compare the class order of labels and predictions, and find the permutation between them.

    Args:
        labels: (N) int64 in [0, num_classes), of images.
        predictions: (N) int64 in [0, num_classes), of the same images: the largest logits.
        num_classes: C.

    Returns:
        The comparison. If the predictions are unrelated to the labels in any order, no label is
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
    """The same as :func:`compare_classes`, without checks, for NumPy arrays."""
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
    """The labels of which more than half of the images, at least two, get one other prediction."""
    import numpy as np

    cells, counts = np.unique(labels * num_classes + predictions, return_counts=True)
    row, column = np.divmod(cells, num_classes)
    most = 2 * counts > np.bincount(labels, minlength=num_classes)[row]
    found = most & (counts > 1) & (row != column)
    return tuple(zip(row[found].tolist(), column[found].tolist(), strict=True))


def is_knowledge(settled: int, present: int, num_classes: int, explained: float) -> bool:
    """Whether an untrained network would very rarely reach this result.

    Args:
        settled: number of classes that are each other's most frequent partner with a prediction.
        present: number of classes with images.
        num_classes: C.
        explained: accuracy of the best rearrangement, in percent.
    """
    if 2 * settled <= present:
        return False
    luck = distinct_tail(present, num_classes, num_classes, settled)
    return luck < LIKELY or explained >= TRAINED


def best_partners(
    labels: Ints, predictions: Ints, num_classes: int
) -> tuple[Ints, NDArray[np.bool_]]:
    """The best bijection from labels to predictions, and where it is unambiguous.

    Returns:
        The prediction of every label, (C), a permutation; and for every label, (C) bool, whether
        the two are each other's most frequent partner.
    """
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    # Only the non-zero cells of the confusion matrix and its diagonal; a dense matrix for 21,841
    # classes has 4 GB.
    diagonal = np.arange(num_classes) * (num_classes + 1)
    cells, counts = np.unique(
        np.concatenate([labels * num_classes + predictions, diagonal]), return_counts=True
    )
    row, column = np.divmod(cells, num_classes)
    # Half a count on the diagonal keeps the order if there is no evidence against it.
    weight = counts - 0.5 * (row == column)
    # Fractions, so that labels with many images do not outweigh the others. With one more image in
    # the denominator, a single image has half the weight of many.
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
    """The cycles of a permutation with more than one element."""
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
    """The expected prediction (N) of every image, from the partners found on the other half."""
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
        # If two classes are indistinguishable, both are predicted equally often. Each of the C
        # classes may have such a twin.
        probability = min(1.0, num_classes * float(binom.sf(moved - 1, moved + kept, 0.5)))
        if probability < LIKELY and moved >= 2 * kept:
            cycles.append((cycle, probability))
    return cycles


def alternate(labels: Ints) -> Ints:
    """0 or 1 for every image, which splits the images of each class into two random halves."""
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
    """The cycles of ``partner``, all or none, from the number of different wrong predictions.

    With one image per class, a rearrangement cannot be cross-validated. But random mistakes often
    coincide, so wrong predictions that are nearly all different indicate a permutation.
    """
    import numpy as np

    num_classes = len(partner)
    wrong = labels != predictions
    free = np.setdiff1d(np.arange(num_classes), predictions[~wrong])
    distinct = len(np.intersect1d(predictions[wrong], free))
    probability = distinct_tail(int(wrong.sum()), len(free), num_classes, distinct)
    # Real mistakes are not random: similar classes are confused with each other. This explains the
    # predictions unless hardly any are correct.
    if probability >= LIKELY or distinct < 2 * int((~wrong).sum()):
        return []
    return [(cycle, probability) for cycle in cycles_of(partner) if mutual[cycle].mean() > 0.5]


def distinct_tail(draws: int, free: int, classes: int, distinct: int) -> float:
    """Probability that random predictions hit at least ``distinct`` different classes.

    Args:
        draws: number of mistakes, each of which hits one of the ``classes`` - 1 others; or, if all
            classes are free, number of predictions.
        free: number of classes that no correct prediction has hit, including those of the mistakes.
        classes: C.
        distinct: number of free classes that were hit.

    Example:
        >>> round(distinct_tail(10, 10, 10, 10), 6)  # 10! / 10^10
        0.000363
    """
    import numpy as np

    if draws == 0 or distinct == 0:
        return 1.0
    hit = np.arange(free + 1)
    # A mistake does not hit the correct class, which is one of the free ones.
    new = np.minimum((free - hit) / free * (free - 1) / (classes - 1), 1.0)
    state = np.zeros(free + 1)
    state[0] = 1.0
    for _ in range(draws):
        step = state * new
        state -= step
        state[1:] += step[:-1]
    return float(state[distinct:].sum())
