"""Published accuracies beside the measured ones, with two fields: verdict, and same configuration.

A cell stands beside a published experiment of the same dataset, images per class, method, loss and
optimizer. The verdict compares the two numbers, see :mod:`gift_fast.studies.verdicts`. Beside it
stands whether the configurations are the same, with a list of the differences: distilled set,
dataset, networks, accuracy of the teacher, protocol, number of students, and which test of a run is
reported. Only a number that is reproduced with the same configuration is a reproduction. What a
paper does not specify counts as different. Generated sets stand beside RDED's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from gift_fast.data.classes import ALL
from gift_fast.data.datasets.validation import split_validation
from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.evaluation.protocols import load_preset
from gift_fast.evaluation.summary import spread
from gift_fast.files import spec
from gift_fast.report.cells import NUM_CLASSES, Cell, Setting, signed
from gift_fast.report.panels import Panel
from gift_fast.report.reading import StudyRecord
from gift_fast.studies.published import (
    COPIES,
    FORMATS,
    GIFT_PAPER,
    RDED_PAPER,
    STUDENTS,
    TEACHERS,
    Published,
    Reading,
    Source,
    read_published,
)
from gift_fast.studies.sets import LEARNED_LABELS, SELECTED
from gift_fast.studies.statistics import sample_of
from gift_fast.studies.verdicts import (
    PUBLISHED_RUNS,
    NumberVerdict,
    SignVerdict,
    Verdict,
    judge_number,
    judge_sign,
)
from gift_fast.training.objectives import OBJECTIVES
from gift_fast.training.weights import checkpoint_name

METHODS = {**{ours: theirs for theirs, ours in FORMATS.items()}, SELECTED: "RDED"}
"""The papers' name of a method; generated sets stand beside RDED's."""

SAME_TEACHER = 1.0
"""Points within which two teachers count as equally accurate."""

ROUNDING = 0.05
"""Points that a published number may be off by rounding."""

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
        differences: between the configurations, in words; empty if they are the same.
        verdicts: on every reading of another mean, the first reading's first; empty for a single
            replicate, which has no interval.
    """

    cell: Cell
    published: Published
    differences: tuple[str, ...]
    verdicts: tuple[tuple[Reading, NumberVerdict], ...]

    @property
    def same_configuration(self) -> bool:
        """Whether nothing differs but the random numbers."""
        return not self.differences

    @property
    def is_reproduction(self) -> bool:
        """Whether the number is reproduced with the same configuration."""
        return self.same_configuration and self.verdict == "reproduced"

    @property
    def difference(self) -> float:
        """Measured minus published, points."""
        return whole(self.cell).top1.mean - self.published.mean

    @property
    def verdict(self) -> Verdict:
        """On the first reading."""
        return self.verdicts[0][1].verdict if self.verdicts else "inconclusive"

    @property
    def verdict_in_words(self) -> str:
        """The verdict with its interval, and those on contradicting readings."""
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

    @property
    def configuration_in_words(self) -> str:
        """``yes``, or ``no`` with the differences."""
        return "yes" if self.same_configuration else "no: " + "; ".join(self.differences)


def whole(cell: Cell) -> Cell:
    """The same scored on all test images, as published numbers are."""
    return replace(cell, halved=False)


def compare_with_published(cell: Cell, study: StudyRecord) -> PublishedComparison | None:
    """A cell beside the published experiment that is most like it; None if there is none.

    Under RDED's own protocol, RDED's accuracies come before those of the GIFT paper.
    """
    sources = (RDED_PAPER, GIFT_PAPER) if study.preset == RDED_PAPER.preset else (GIFT_PAPER,)
    candidates = (published_experiment_of(cell, source) for source in sources)
    published = next(filter(None, candidates), None)
    if published is None:
        return None
    values = whole(cell).replicates
    verdicts: list[tuple[Reading, NumberVerdict]] = []
    if len(values) > 1:
        sample = sample_of(values)
        for reading in (published.first, *published.contradictions):
            verdicts.append((reading, judge_number(sample, reading)))
    differences = differences_of(cell, published, study.teachers)
    return PublishedComparison(cell, published, differences, tuple(verdicts))


def published_experiment_of(cell: Cell, source: Source) -> Published | None:
    """The experiment of the same dataset, ipc, method, loss and optimizer, the likest networks."""
    distilled, config = cell.condition.source, cell.config
    if config.classes != ALL or cell.setting.purpose != "protocol":
        return None
    dataset, _ = spec.split_spec(distilled.dataset)
    method, _ = spec.split_spec(distilled.method)
    loss, _ = spec.split_spec(cell.loss)
    optimizer, _ = spec.split_spec(config.optimizer)
    dataset = COPIES.get(dataset, dataset)
    wanted = (dataset, distilled.ipc, METHODS.get(method), loss, optimizer)
    found = experiments_by_question(source).get(wanted, ())
    found = tuple(each for each in found if is_loss(cell.loss, each.our_loss))
    return max(found, key=lambda published: likeness(cell, published), default=None)


def is_loss(loss: str, published: str | None) -> bool:
    """Whether a loss may be the published one, of which None is known by its name alone."""
    if published is None:
        return True
    ours, theirs = (spec.canonical("loss", each, OBJECTIVES) for each in (loss, published))
    return ours == theirs


@cache
def experiments_by_question(source: Source) -> dict[tuple[object, ...], tuple[Published, ...]]:
    """A paper's experiments by dataset, ipc, method, loss and optimizer."""
    groups: dict[tuple[object, ...], list[Published]] = {}
    for each in read_published(source):
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


def differences_of(
    cell: Cell, published: Published, teachers: Mapping[str, float]
) -> tuple[str, ...]:
    """The differences between a cell's configuration and the published one, in words.

    Args:
        cell: what was measured.
        published: the experiment that it stands beside.
        teachers: top-1 of the study's teachers, percent, by the names of their files.
    """
    source, config, paper = cell.condition.source, cell.config, published.source.name
    found = []
    if any(run.experiment.source.generated for run in cell.runs):
        found.append(f"generated set, not {published.method}'s own")
    found += dataset_differences(config.dataset, published)
    for what, ours, theirs in (
        ("student", config.student, published.our_student),
        ("set distilled on", source.network, our_network(published)),
    ):
        if theirs is None:
            found.append(f"{paper} does not specify its {what.split()[0]}")
        elif ours != theirs:
            found.append(f"{what} {ours}, not {theirs}")
    if published.our_loss is None:
        found.append(f"{paper} does not give the options of its loss")
    # Its code labels with the student's network, whichever the set was distilled on.
    networks = () if source.method in LEARNED_LABELS else (config.student,)
    if config.teachers != networks:
        ours, theirs = (", ".join(names) or "none" for names in (config.teachers, networks))
        found.append(f"teacher {ours}, not {theirs}")
    else:
        found += teacher_differences(config, published, teachers)
    unspecified = published.source == GIFT_PAPER and config.optimizer != "adamw"
    if unspecified:
        found.append(f"{paper} gives no learning rate for {config.optimizer}")
    expected = protocol_of(cell, published)
    for name in PROTOCOL:
        ours, theirs = getattr(config, name), getattr(expected, name)
        if ours != theirs and not (name == "learning_rate" and unspecified):
            found.append(f"{name.replace('_', ' ')} {ours}, not {theirs}")
    return (*found, *scoring_differences(cell, published))


def dataset_differences(dataset: str, published: Published) -> list[str]:
    """Validation split, lossy copies and options of the dataset."""
    name, validation = split_validation(dataset)
    found = [f"validation split of {validation} training images"] if validation else []
    base, options = spec.split_spec(name)[0], name.partition(":")[2]
    if base in COPIES:
        found.append(f"JPEG copies of {COPIES[base]}")
    name = COPIES.get(base, base) + (f":{options}" if options else "")
    if name != published.our_dataset:
        found.append(f"dataset {name}, not {published.our_dataset}")
    return found


def teacher_differences(
    config: EvaluationConfig, published: Published, teachers: Mapping[str, float]
) -> list[str]:
    """The accuracy of the teacher, where that of the published one is known."""
    found = []
    for network in config.teachers:
        theirs = TEACHERS.get((published.dataset, network))
        if theirs is None:
            continue
        ours = teachers.get(checkpoint_name(config.dataset, network))
        if ours is None:
            found.append(f"accuracy of the teacher not recorded, published {theirs:g} %")
        elif abs(ours - theirs) > SAME_TEACHER:
            found.append(f"teacher of {ours:.1f} %, not {theirs:g} %")
    return found


def scoring_differences(cell: Cell, published: Published) -> list[str]:
    """The number of students, and which test of a run is reported, where it makes a difference."""
    found = []
    if len(cell.runs) != PUBLISHED_RUNS:
        found.append(f"{len(cell.runs)} students, not {PUBLISHED_RUNS}")
    last = spread([run.result.last.top1 for run in cell.runs]).mean
    if cell.best_mean - last > ROUNDING:
        found.append(
            f"scored after the last epoch, not by {published.source.scoring}, which has "
            f"{cell.best_mean:.1f} %"
        )
    return found


def protocol_of(cell: Cell, published: Published) -> EvaluationConfig:
    """The paper's configuration on a published experiment's set and the cell's networks."""
    config, method = cell.config, FORMATS[published.method]
    settings = load_preset(published.source.preset).settings_for(
        dataset=published.dataset, student=config.student, format=method
    )
    values = {
        **settings,
        "dataset": config.dataset,
        "ipc": published.ipc,
        "student": config.student,
    }
    if published.source == GIFT_PAPER:  # whose tables 5 and 12 compare optimizers
        values["optimizer"] = config.optimizer
    images = published.ipc * NUM_CLASSES[published.dataset]
    return EvaluationConfig.from_dict(values).resolved(images)


@dataclass(frozen=True)
class SignComparison:
    """Whether GIFT or the method's native loss is better, published and measured.

    Attributes:
        native: the cell of the native loss.
        published: GIFT's published mean minus the native loss's, points.
        measured: the same of the cells, points.
        verdict: see :func:`gift_fast.studies.verdicts.judge_sign`.
        same_configuration: whether that of both cells is the published one.
        reason: why it is undecided with a single set; else empty.
    """

    native: Cell
    published: float
    measured: float
    verdict: SignVerdict
    same_configuration: bool
    reason: str = ""


def sign_of(
    panel: Panel, setting: Setting, found: Sequence[PublishedComparison]
) -> SignComparison | None:
    """The verdict on GIFT minus native; None if one of the two is not published or was not run.

    Args:
        panel: that the cells are of.
        setting: at which they were run.
        found: the cells of the panel that stand beside published numbers.
    """
    beside = {each.published: each for each in found if each.cell.setting == setting}
    for published, gift in beside.items():
        native = beside.get(published.native) if published.native is not None else None
        if published.loss != "gift" or native is None:
            continue
        same = gift.same_configuration and native.same_configuration
        difference = published.mean - native.published.mean
        measured = whole(gift.cell).top1.mean - whole(native.cell).top1.mean
        comparison = panel.comparisons.get((setting, native.cell.loss))
        if comparison is None:
            reason = "one distilled set is too few"
            return SignComparison(native.cell, difference, measured, "undecided", same, reason)
        verdict = judge_sign(comparison, difference)
        return SignComparison(native.cell, difference, measured, verdict, same)
    return None
