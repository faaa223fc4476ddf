"""Comparison of measured accuracies with published ones: the verdict, and the configurations.

A cell is compared with a published experiment of the same dataset, images per class, method, loss
and optimizer. The verdict compares the two numbers, see :mod:`gift_fast.studies.verdicts`. A second
field states whether the configurations are the same, or lists the differences: distilled set,
dataset, networks, accuracy of the teacher, protocol, number of students, and which test of a run is
reported. Only a number that is reproduced with the same configuration is a reproduction. Settings
that a paper does not specify count as different. Generated sets are compared with RDED's.
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
"""The names of methods in the papers; generated sets are compared with RDED's."""

SAME_TEACHER = 1.0
"""Percentage points within which two teachers count as equally accurate."""

ROUNDING = 0.05
"""Maximum rounding error of a published number, in percentage points."""

PROTOCOL = (
    *("optimizer", "learning_rate", "weight_decay", "epochs", "batch_size", "schedule"),
    *("augmentation", "mixing", "mixed_precision", "forward_twice"),
)
"""Fields of a configuration that are compared with the protocol."""


@dataclass(frozen=True)
class PublishedComparison:
    """A comparison of a cell with a published experiment.

    Attributes:
        cell: the measured cell.
        published: the experiment of the paper.
        differences: descriptions of the differences between the configurations; empty if they are
            the same.
        verdicts: the verdicts on the first reading and on those with a different mean; empty for a
            single replicate, which has no interval.
    """

    cell: Cell
    published: Published
    differences: tuple[str, ...]
    verdicts: tuple[tuple[Reading, NumberVerdict], ...]

    @property
    def same_configuration(self) -> bool:
        """Whether the configurations are the same, except for random numbers."""
        return not self.differences

    @property
    def is_reproduction(self) -> bool:
        """Whether the number is reproduced with the same configuration."""
        return self.same_configuration and self.verdict == "reproduced"

    @property
    def difference(self) -> float:
        """Measured minus published, in percentage points."""
        return on_all_images(self.cell).top1.mean - self.published.mean

    @property
    def verdict(self) -> Verdict:
        """The verdict on the first reading."""
        return self.verdicts[0][1].verdict if self.verdicts else "inconclusive"

    @property
    def verdict_text(self) -> str:
        """The verdict with its interval, and the verdicts on contradicting readings."""
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
            text += f"; table {reading.table} has {reading.mean:g}: {verdict.verdict}"
        return text

    @property
    def configuration_text(self) -> str:
        """``yes``, or ``no`` with the differences."""
        return "yes" if self.same_configuration else "no: " + "; ".join(self.differences)


def on_all_images(cell: Cell) -> Cell:
    """The cell with its scores on all test images, like published numbers."""
    return replace(cell, halved=False)


def compare_with_published(cell: Cell, study: StudyRecord) -> PublishedComparison | None:
    """Compare a cell with the most similar published experiment; None if there is none.

    Under RDED's own protocol, accuracies of the RDED paper take precedence over those of the GIFT
    paper.
    """
    sources = (RDED_PAPER, GIFT_PAPER) if study.preset == RDED_PAPER.preset else (GIFT_PAPER,)
    candidates = (published_experiment_of(cell, source) for source in sources)
    published = next(filter(None, candidates), None)
    if published is None:
        return None
    values = on_all_images(cell).replicates
    verdicts: list[tuple[Reading, NumberVerdict]] = []
    if len(values) > 1:
        sample = sample_of(values)
        for reading in (published.first, *published.contradictions):
            verdicts.append((reading, judge_number(sample, reading)))
    differences = differences_of(cell, published, study.teachers)
    return PublishedComparison(cell, published, differences, tuple(verdicts))


def published_experiment_of(cell: Cell, source: Source) -> Published | None:
    """The experiment with the same dataset, IPC, method, loss and optimizer, or None.

    If there are several, the one with the most similar networks is chosen.
    """
    distilled, config = cell.condition.source, cell.config
    if config.classes != ALL or cell.setting.purpose != "protocol":
        return None
    dataset, _ = spec.split_spec(distilled.dataset)
    method, _ = spec.split_spec(distilled.method)
    loss, _ = spec.split_spec(cell.loss)
    optimizer, _ = spec.split_spec(config.optimizer)
    dataset = COPIES.get(dataset, dataset)
    wanted = (dataset, distilled.ipc, METHODS.get(method), loss, optimizer)
    found = experiments_by_settings(source).get(wanted, ())
    found = tuple(each for each in found if is_same_loss(cell.loss, each.our_loss))
    return max(found, key=lambda published: similarity(cell, published), default=None)


def is_same_loss(loss: str, published: str | None) -> bool:
    """Whether a loss may be the published one; None means that only the name is published."""
    if published is None:
        return True
    ours, theirs = (spec.canonical("loss", each, OBJECTIVES) for each in (loss, published))
    return ours == theirs


@cache
def experiments_by_settings(source: Source) -> dict[tuple[object, ...], tuple[Published, ...]]:
    """The experiments of a paper by dataset, IPC, method, loss and optimizer."""
    groups: dict[tuple[object, ...], list[Published]] = {}
    for each in read_published(source):
        key = (each.dataset, each.ipc, each.method, each.loss, each.optimizer)
        groups.setdefault(key, []).append(each)
    return {key: tuple(group) for key, group in groups.items()}


def similarity(cell: Cell, published: Published) -> tuple[bool, bool]:
    """A sort key: whether the students are the same, then the networks of the sets."""
    student = published.our_student == cell.config.student
    return student, our_network(published) == cell.condition.source.network


def our_network(published: Published) -> str | None:
    """The network that a published set was distilled on, by its name in gift-fast."""
    network = STUDENTS[published.dataset, published.distilled_on]
    norm = published.method == "DATM" and published.distilled_on == "convnet"
    return f"{network}:norm=instance" if norm else network


def differences_of(
    cell: Cell, published: Published, teachers: Mapping[str, float]
) -> tuple[str, ...]:
    """Describe the differences between the configuration of a cell and the published one.

    Args:
        cell: the measured cell.
        published: the published experiment.
        teachers: top-1 of the study's teachers in percent, by file name.
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
    # In the paper's code, the teacher always has the student's network.
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
    """Differences in the dataset: validation split, lossy copies and options."""
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
    """Differences in the accuracy of the teacher, if that of the published one is known."""
    found = []
    for network in config.teachers:
        theirs = TEACHERS.get((published.dataset, network))
        if theirs is None:
            continue
        ours = teachers.get(checkpoint_name(config.dataset, network))
        if ours is None:
            found.append(f"accuracy of the teacher not recorded, published: {theirs:g} %")
        elif abs(ours - theirs) > SAME_TEACHER:
            found.append(f"teacher of {ours:.1f} %, not {theirs:g} %")
    return found


def scoring_differences(cell: Cell, published: Published) -> list[str]:
    """Differences in scoring: the number of students, and the reported test if it matters."""
    found = []
    if len(cell.runs) != PUBLISHED_RUNS:
        found.append(f"{len(cell.runs)} students, not {PUBLISHED_RUNS}")
    last = spread([run.result.last.top1 for run in cell.runs]).mean
    if cell.best_mean - last > ROUNDING:
        found.append(
            f"score after the last epoch, not {published.source.scoring} ({cell.best_mean:.1f} %)"
        )
    return found


def protocol_of(cell: Cell, published: Published) -> EvaluationConfig:
    """The configuration of the paper for a published experiment, with the networks of the cell."""
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
    if published.source == GIFT_PAPER:  # tables 5 and 12 compare optimizers
        values["optimizer"] = config.optimizer
    images = published.ipc * NUM_CLASSES[published.dataset]
    return EvaluationConfig.from_dict(values).resolved(images)


@dataclass(frozen=True)
class SignComparison:
    """The published and measured differences between GIFT and the native loss.

    Attributes:
        native: the cell of the native loss.
        published: published mean of GIFT minus that of the native loss, in percentage points.
        measured: the measured difference, in percentage points.
        verdict: see :func:`gift_fast.studies.verdicts.judge_sign`.
        same_configuration: whether both cells have the published configuration.
        reason: the reason if the verdict is undecided because of a single set; otherwise empty.
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
    """Compare the signs of GIFT minus native; None if one of them is not published or was not run.

    Args:
        panel: the panel of the cells.
        setting: the setting of the cells.
        found: the comparisons of the panel with published numbers.
    """
    comparisons = {each.published: each for each in found if each.cell.setting == setting}
    for published, gift in comparisons.items():
        native = comparisons.get(published.native) if published.native is not None else None
        if published.loss != "gift" or native is None:
            continue
        same = gift.same_configuration and native.same_configuration
        difference = published.mean - native.published.mean
        measured = on_all_images(gift.cell).top1.mean - on_all_images(native.cell).top1.mean
        comparison = panel.comparisons.get((setting, native.cell.loss))
        if comparison is None:
            reason = "one distilled set is too few"
            return SignComparison(native.cell, difference, measured, "undecided", same, reason)
        verdict = judge_sign(comparison, difference)
        return SignComparison(native.cell, difference, measured, verdict, same)
    return None
