"""Published numbers beside the measured ones, and what may be said of them.

A cell stands beside a published experiment of the same dataset, images per class, method, loss and
optimizer. A verdict is due only where nothing else differs either: set, networks, protocol. Sets
that are made here stand beside RDED's, whose idea they take, and never have one. What the paper
does not determine counts as different, since no one can say that it is the same. Of the teachers
the network alone can be compared, not the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from gift_fast.data.classes import ALL
from gift_fast.data.datasets.heldout import split_heldout
from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.evaluation.protocols import load_preset
from gift_fast.files import spec
from gift_fast.report.cells import NUM_CLASSES, Cell, Setting, signed
from gift_fast.report.panels import Panel
from gift_fast.studies.published import (
    FORMATS,
    STUDENTS,
    Published,
    Reading,
    read_published,
)
from gift_fast.studies.sets import LEARNED_LABELS, SELECTED
from gift_fast.studies.statistics import sample_of
from gift_fast.studies.verdicts import NumberVerdict, SignVerdict, judge_number, judge_sign
from gift_fast.training.objectives import OBJECTIVES

METHODS = {**{ours: theirs for theirs, ours in FORMATS.items()}, SELECTED: "RDED"}
"""The paper's name of a method; sets that are made here stand beside RDED's."""

PROTOCOL = (
    *("optimizer", "learning_rate", "weight_decay", "epochs", "batch_size", "schedule"),
    *("augmentation", "mixing", "mixed_precision", "forward_twice"),
)
"""Fields of a configuration in which the protocol must agree."""


@dataclass(frozen=True)
class PublishedComparison:
    """A cell and the published experiment that it stands beside.

    Attributes:
        cell: what was measured.
        published: the experiment of the paper.
        differences: in what the configurations differ, in words; empty where they are identical.
        verdicts: on every reading of another mean, the first reading's first; empty where the
            configurations differ, or there is one replicate, which has no interval.
    """

    cell: Cell
    published: Published
    differences: tuple[str, ...]
    verdicts: tuple[tuple[Reading, NumberVerdict], ...]

    @property
    def identical(self) -> bool:
        """Whether a verdict is due."""
        return not self.differences

    @property
    def difference(self) -> float:
        """Measured minus published, points."""
        return whole(self.cell).top1.mean - self.published.mean

    @property
    def in_words(self) -> str:
        """The verdict, or why there is none."""
        if self.differences:
            return "another configuration: " + "; ".join(self.differences)
        if not self.verdicts:
            return "inconclusive: one run has no interval"
        (_, first), *others = self.verdicts
        text: str = first.verdict
        if first.narrow is not None:
            text += (
                f" ({signed(first.narrow.difference)}, 90 % interval {signed(first.narrow.low)} to "
                f"{signed(first.narrow.high)})"
            )
        for reading, verdict in others:
            text += f"; table {reading.table} says {reading.mean:g}: {verdict.verdict}"
        return text


def whole(cell: Cell) -> Cell:
    """The same scored on all test images, as published numbers are."""
    return replace(cell, halved=False)


def beside(cell: Cell) -> PublishedComparison | None:
    """The published experiment that a cell stands beside, or None where there is none."""
    published = published_experiment_of(cell)
    if published is None:
        return None
    differences = differences_of(cell, published)
    values = whole(cell).replicates
    verdicts: list[tuple[Reading, NumberVerdict]] = []
    if not differences and len(values) > 1:
        sample = sample_of(values)
        for reading in (published.first, *published.contradictions):
            verdicts.append((reading, judge_number(sample, reading)))
    return PublishedComparison(cell, published, differences, tuple(verdicts))


def published_experiment_of(cell: Cell) -> Published | None:
    """The experiment of the same dataset, ipc, method, loss and optimizer, the likest networks."""
    source, config = cell.condition.source, cell.config
    if config.classes != ALL or cell.setting.purpose != "protocol":
        return None
    dataset, _ = spec.split_spec(source.dataset)
    loss, _ = spec.split_spec(cell.loss)
    optimizer, _ = spec.split_spec(config.optimizer)
    wanted = (dataset, source.ipc, METHODS.get(source.method), loss, optimizer)
    found = [each for each in by_question().get(wanted, ()) if is_loss(cell.loss, each.our_loss)]
    return max(found, key=lambda published: likeness(cell, published), default=None)


def is_loss(loss: str, published: str | None) -> bool:
    """Whether a loss may be the published one, of which None is known by its name alone."""
    if published is None:
        return True
    ours, theirs = (spec.canonical("loss", each, OBJECTIVES) for each in (loss, published))
    return ours == theirs


@cache
def by_question() -> dict[tuple[object, ...], tuple[Published, ...]]:
    """The published experiments by dataset, ipc, method, loss and optimizer."""
    groups: dict[tuple[object, ...], list[Published]] = {}
    for each in read_published():
        key = (each.dataset, each.ipc, each.method, each.loss, each.optimizer)
        groups.setdefault(key, []).append(each)
    return {key: tuple(group) for key, group in groups.items()}


def likeness(cell: Cell, published: Published) -> tuple[bool, bool]:
    """Whether student and network of the set agree; the greater, the more alike."""
    student = published.our_student == cell.config.student
    return student, our_network(published) == cell.condition.source.network


def our_network(published: Published) -> str | None:
    """The network that the published set was distilled on, in this package's names."""
    network = STUDENTS[published.dataset, published.distilled_on]
    norm = published.method == "DATM" and published.distilled_on == "convnet"
    return f"{network}:norm=instance" if norm else network


def differences_of(cell: Cell, published: Published) -> tuple[str, ...]:
    """In what a cell's configuration is not the published one, in words."""
    source, config = cell.condition.source, cell.config
    found = []
    if source.generated:
        found.append(f"a set made here, not {published.method}'s")
    dataset, heldout = split_heldout(config.dataset)
    if heldout:
        found.append(f"{heldout} training images held out")
    elif dataset != published.our_dataset:
        found.append(f"dataset {dataset}, not {published.our_dataset}")
    for what, ours, theirs in (
        ("student", config.student, published.our_student),
        ("set distilled on", source.network, our_network(published)),
    ):
        if theirs is None:
            found.append(f"the paper does not determine its {what.split()[0]}")
        elif ours != theirs:
            found.append(f"{what} {ours}, not {theirs}")
    if published.our_loss is None:
        found.append("the paper does not give the options of its loss")
    # The paper's code labels with the student's network, whichever the set was distilled on.
    teachers = () if source.method in LEARNED_LABELS else (config.student,)
    if config.teachers != teachers:
        ours, theirs = (", ".join(names) or "none" for names in (config.teachers, teachers))
        found.append(f"teacher {ours}, not {theirs}")
    if config.optimizer != "adamw":
        found.append(f"the paper gives no learning rate for {config.optimizer}")
    expected = protocol_of(cell, published)
    for name in PROTOCOL:
        ours, theirs = getattr(config, name), getattr(expected, name)
        if ours != theirs and not (name == "learning_rate" and config.optimizer != "adamw"):
            found.append(f"{name.replace('_', ' ')} {ours}, not {theirs}")
    return tuple(found)


def protocol_of(cell: Cell, published: Published) -> EvaluationConfig:
    """The paper's configuration on a published experiment's set and the cell's networks."""
    config, method = cell.config, FORMATS[published.method]
    settings = load_preset("paper").settings_for(
        dataset=config.dataset, student=config.student, format=method
    )
    values = {
        **settings,
        "dataset": config.dataset,
        "ipc": published.ipc,
        "student": config.student,
        "optimizer": config.optimizer,
    }
    images = published.ipc * NUM_CLASSES[published.dataset]
    return EvaluationConfig.from_dict(values).resolved(images)


@dataclass(frozen=True)
class SignComparison:
    """Whether GIFT or the method's native loss is ahead, published and measured.

    Attributes:
        native: the cell of the native loss.
        published: GIFT's published mean minus the native loss's, points.
        measured: the same of the cells, points.
        verdict: see :func:`gift_fast.studies.verdicts.judge_sign`.
        reason: why it is undecided where one set alone was run; else empty.
    """

    native: Cell
    published: float
    measured: float
    verdict: SignVerdict
    reason: str = ""


def sign_of(
    panel: Panel, setting: Setting, found: Sequence[PublishedComparison]
) -> SignComparison | None:
    """The verdict on GIFT minus native, or None where a configuration of the two differs.

    Args:
        panel: that the cells are of.
        setting: at which they were run.
        found: the cells that stand beside published numbers.
    """
    identical = {each.published: each for each in found if each.identical}
    for published, gift in identical.items():
        native = identical.get(published.native) if published.native is not None else None
        if published.loss != "gift" or native is None or native.cell.setting != setting:
            continue
        difference = published.mean - published.native.mean if published.native else 0.0
        measured = whole(gift.cell).top1.mean - whole(native.cell).top1.mean
        comparison = panel.comparisons.get((setting, native.cell.loss))
        if comparison is None:
            reason = "one distilled set does not tell"
            return SignComparison(native.cell, difference, measured, "undecided", reason)
        verdict = judge_sign(comparison, difference)
        return SignComparison(native.cell, difference, measured, verdict)
    return None
