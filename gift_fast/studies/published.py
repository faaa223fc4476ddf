"""Published accuracies, and the papers' names in this package's terms.

The GIFT paper: Xinyi Shang, Peng Sun and Tao Lin, "GIFT: Unlocking Full Potential of Labels in
Distilled Dataset at Near-zero Cost", ICLR 2025, tables 1 to 7, 12 and 13. ``published.csv`` has
their 485 cells, one per row: top-1 accuracy in percent, mean and standard deviation. The paper does
not state the number of runs; its code makes three and takes the population's deviation (ddof 0).

The cells are 360 experiments: tables repeat each other, and where they do an experiment here has
several readings. Ten experiments have readings of different means:

- table 5 swaps SRe2L's AdamW cells between CIFAR-100 and Tiny-ImageNet (two);
- table 4 has CIFAR-100's numbers for DATM on ConvNet (two), and another one for DATM's native loss
  on ResNet-18;
- five GIFT cells of table 6 are those of the cosine without refinement, tables 7 and 13.

In four more the mean is repeated with another deviation. The first reading is the experiment's
value. Where readings contradict each other another table agrees with it, except for DATM on
ResNet-18, which tables 1 and 4 alone hold. The check marks of table 7 are lost in the paper's text:
which of its rows is which loss is inferred from their order.

The RDED paper: Peng Sun, Bei Shi, Daiwei Yu and Tao Lin, "On the Diversity and Realism of Distilled
Dataset: An Efficient Dataset Distillation Paradigm", CVPR 2024, table 2. ``published_rded.csv``
holds its accuracies of ConvNet-3 on CIFAR-10, which the GIFT paper does not have.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

from gift_fast.evaluation.rules import paper_dataset


@dataclass(frozen=True)
class Source:
    """A paper with published accuracies.

    Attributes:
        name: in reports.
        file: of its accuracies, in this folder.
        preset: its protocol.
        dataset_options: of the dataset under this protocol.
        scoring: what its code reports of a run's tests.
    """

    name: str
    file: str
    preset: str
    dataset_options: str = ""
    scoring: str = "the best test of every run"


GIFT_PAPER = Source("the GIFT paper", "published.csv", "paper")

RDED_PAPER = Source("the RDED paper", "published_rded.csv", "rded", ":normalization=imagenet")

TEACHERS = {
    ("cifar10", "convnet3"): 82.24,
    ("cifar10", "resnet18_modified"): 93.86,
    ("cifar100", "convnet3"): 61.27,
    ("cifar100", "resnet18_modified"): 72.27,
    ("tinyimagenet", "convnet4"): 49.73,
    ("tinyimagenet", "resnet18_modified"): 61.98,
    ("imagenet-1k", "convnet4"): 43.6,
    ("imagenet-1k", "resnet18"): 69.31,
}
"""Top-1 of the teachers that RDED's authors publish and the GIFT paper uses, percent."""

COPIES = {"cifar10-jpeg": "cifar10"}
"""Datasets that are lossy copies of another, whose published accuracies they are compared with."""

STUDENTS: dict[tuple[str, str], str | None] = {
    ("cifar10", "convnet"): "convnet3",
    ("cifar100", "convnet"): "convnet3",
    ("cifar100", "resnet18"): "resnet18_modified",
    ("tinyimagenet", "convnet"): "convnet4",
    ("tinyimagenet", "efficientnet_b0"): "efficientnet_b0",
    ("tinyimagenet", "mobilenet_v2"): "mobilenet_v2",
    ("tinyimagenet", "resnet18"): "resnet18_modified",
    # The paper tells of a modified stem for ResNet-18; its code can build either ResNet-101.
    ("tinyimagenet", "resnet101"): None,
    ("tinyimagenet", "swin_v2_t"): "swin_v2_t",
    ("imagenet-1k", "convnet"): "convnet4",
    ("imagenet-1k", "resnet18"): "resnet18",
}
"""The paper's network on a dataset, in the names of :mod:`gift_fast.training.models`.

None where the paper does not determine it. Students of DATM's sets have instance norm in the
authors' code, which :attr:`Published.our_student` adds.
"""

LOSSES: dict[str, str | None] = {
    "ce": "ce",
    "cosine": "cosine",
    "gift": "gift",  # its defaults are section 5.1's; see below
    "kl": "kl:temperature=20",  # the code's; the paper states no temperature
    "mse": "mse",
    "mse+ce": "mse+ce:weight=0.1",  # the code's, on every dataset
    "softce": "softce",
    "softce+ce": "softce+ce:weight=0.1",  # the code's
    # Reported without their temperatures and weights, and not in the code:
    "dkd": None,
    "kd": None,
    "kl+ce": None,
    "nkd": None,
    "wsld": None,
    # Reported without the scale of the refined label, which KL depends on; not in the code:
    "refine+kl": None,
}
"""The paper's losses in the names and options of :mod:`gift_fast.training.objectives`.

None where neither the paper nor its code determines the options. GIFT is the paper's, as in the
preset ``paper``; the code blends and smooths differently, as in the preset ``official``, and the
paper does not say which of the two its numbers are from.
"""

NATIVE_LOSSES = {"DATM": "softce", "G-VBSM": "mse+ce", "RDED": "kl", "SRe2L": "kl"}
"""The loss, in the paper's name, that the authors of each method train with.

The paper compares GIFT with it under GIFT's own protocol, not under the method's.
"""

FORMATS = {"DATM": "datm", "G-VBSM": "gvbsm", "RDED": "rded", "SRe2L": "sre2l"}
"""The paper's methods in the names of :mod:`gift_fast.data.distilled.formats`."""

# The paper's datasets and optimizers have the same names here. Continual learning with GDumb is in
# none of these tables, and its settings are neither in the paper nor in its code.


@dataclass(frozen=True)
class Reading:
    """One cell of a table.

    Attributes:
        table: its number in the paper.
        mean: top-1, percent, rounded to a tenth; two of the means have two decimals.
        std: the population's (ddof 0), percentage points, rounded to a tenth.
    """

    table: int
    mean: float
    std: float


@dataclass(frozen=True)
class Published:
    """One published experiment, in the paper's names, with every cell that holds it.

    Attributes:
        dataset: ``cifar100``, ``tinyimagenet`` or ``imagenet-1k``.
        ipc: distilled images per class.
        method: that made the distilled set: a name in ``NATIVE_LOSSES``.
        distilled_on: the network that the set was distilled on.
        student: the network that was trained.
        loss: a name in ``LOSSES``.
        optimizer: ``adamw``, ``adam`` or ``sgd``.
        readings: the cells, in the order of the tables; at least one.
        source: the paper.

    Example:
        >>> experiment = find_published(
        ...     dataset="cifar100", ipc=10, method="RDED", distilled_on="convnet",
        ...     student="convnet", loss="gift", optimizer="adamw",
        ... )
        >>> experiment.mean, experiment.std, experiment.tables
        (50.6, 0.3, (1, 3, 5, 6, 7))
        >>> experiment.contradictions
        (Reading(table=6, mean=49.5, std=0.2),)
        >>> experiment.our_student
        'convnet3'
    """

    dataset: str
    ipc: int
    method: str
    distilled_on: str
    student: str
    loss: str
    optimizer: str
    readings: tuple[Reading, ...]
    source: Source = GIFT_PAPER

    @property
    def first(self) -> Reading:
        """The reading of the first table: the experiment's value."""
        return self.readings[0]

    @property
    def mean(self) -> float:
        """Top-1 of the first reading, percent."""
        return self.first.mean

    @property
    def std(self) -> float:
        """The population's standard deviation (ddof 0) of the first reading, percentage points."""
        return self.first.std

    @property
    def tables(self) -> tuple[int, ...]:
        """The tables that hold the experiment."""
        return tuple(reading.table for reading in self.readings)

    @property
    def contradictions(self) -> tuple[Reading, ...]:
        """The readings whose mean is not the first's."""
        return tuple(reading for reading in self.readings if reading.mean != self.mean)

    @property
    def other_deviations(self) -> tuple[Reading, ...]:
        """The readings that repeat the first's mean with another deviation."""
        return tuple(
            reading
            for reading in self.readings
            if reading.mean == self.mean and reading.std != self.std
        )

    @property
    def our_student(self) -> str | None:
        """The student in this package's names, or None where the paper does not determine it."""
        student = STUDENTS[self.dataset, self.student]
        return f"{student}:norm=instance" if self.has_instance_norm else student

    @property
    def has_instance_norm(self) -> bool:
        """Whether the student's norm is by instance: the code's ConvNets on DATM's sets."""
        return self.method == "DATM" and self.student == "convnet"

    @property
    def our_dataset(self) -> str:
        """The dataset in this package's names, at the size that the student takes."""
        dataset = paper_dataset(self.dataset, self.our_student or self.student)
        return dataset + self.source.dataset_options

    @property
    def our_loss(self) -> str | None:
        """The loss in this package's names, or None where the paper does not determine it."""
        return LOSSES[self.loss]

    @property
    def native(self) -> Published | None:
        """The same experiment with the method's native loss, or None where it is not published."""
        if self.source != GIFT_PAPER:
            return None
        return find_published(
            dataset=self.dataset,
            ipc=self.ipc,
            method=self.method,
            distilled_on=self.distilled_on,
            student=self.student,
            loss=NATIVE_LOSSES[self.method],
            optimizer=self.optimizer,
        )


@cache
def read_published(source: Source = GIFT_PAPER) -> tuple[Published, ...]:
    """All published experiments of a paper, in the order in which its tables first hold them.

    Example:
        >>> experiments = read_published()
        >>> len(experiments), sum(len(experiment.readings) for experiment in experiments)
        (360, 485)
    """
    readings: dict[tuple[str, int, str, str, str, str, str], list[Reading]] = {}
    path = resources.files("gift_fast.studies").joinpath(source.file)
    for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
        experiment = (
            row["dataset"],
            int(row["ipc"]),
            row["method"],
            row["distilled_on"],
            row["student"],
            row["loss"],
            row["optimizer"],
        )
        reading = Reading(int(row["table"]), float(row["mean"]), float(row["std"]))
        readings.setdefault(experiment, []).append(reading)
    return tuple(
        Published(*experiment, tuple(cells), source) for experiment, cells in readings.items()
    )


def find_published(
    *,
    dataset: str,
    ipc: int,
    method: str,
    distilled_on: str,
    student: str,
    loss: str,
    optimizer: str,
) -> Published | None:
    """The GIFT paper's experiment with these names, which are its own, or None if there is none.

    Raises:
        ValueError: a value that no experiment has, so that a misspelt name is not taken for an
            experiment that is missing.
    """
    wanted = {
        "dataset": dataset,
        "ipc": ipc,
        "method": method,
        "distilled_on": distilled_on,
        "student": student,
        "loss": loss,
        "optimizer": optimizer,
    }
    found = list(read_published())
    for name, value in wanted.items():
        known = dict.fromkeys(getattr(experiment, name) for experiment in read_published())
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(str, known))}; got {value!r}")
        found = [experiment for experiment in found if getattr(experiment, name) == value]
    return found[0] if found else None
