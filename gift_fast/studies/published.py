"""Published accuracies, and the names of the papers in gift-fast's terms.

The GIFT paper: Xinyi Shang, Peng Sun and Tao Lin, "GIFT: Unlocking Full Potential of Labels in
Distilled Dataset at Near-zero Cost", ICLR 2025, tables 1 to 7, 12 and 13. ``published.csv`` has
their 485 cells, one per row: top-1 accuracy in percent, mean and standard deviation. The paper does
not state the number of runs; its code makes three and computes the population's standard deviation
(ddof 0).

The cells cover 360 experiments; an experiment that several tables report has several readings. The
means of the readings differ for ten experiments:

- table 5 swaps SRe2L's AdamW cells between CIFAR-100 and Tiny-ImageNet (two);
- table 4 has CIFAR-100's numbers for DATM on ConvNet (two), and another one for DATM's native loss
  on ResNet-18;
- five GIFT cells of table 6 are those of the cosine without refinement, tables 7 and 13.

For four more experiments, only the standard deviations differ. The value of an experiment is its
first reading. If readings contradict each other, another table agrees with the first one, except
for DATM on ResNet-18, which only tables 1 and 4 report. The check marks of table 7 are missing in
the text of the paper, so its rows are assigned to losses by their order.

The RDED paper: Peng Sun, Bei Shi, Daiwei Yu and Tao Lin, "On the Diversity and Realism of Distilled
Dataset: An Efficient Dataset Distillation Paradigm", CVPR 2024, table 2. ``published_rded.csv``
has its accuracies of ConvNet-3 on CIFAR-10, which the GIFT paper does not report.
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
        name: name of the paper in reports.
        file: the CSV file with its accuracies, in this folder.
        preset: its protocol.
        dataset_options: options of the dataset under this protocol.
        scoring: which test of a run its code reports.
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
"""Datasets that are lossy copies, and the original whose published accuracies apply."""

STUDENTS: dict[tuple[str, str], str | None] = {
    ("cifar10", "convnet"): "convnet3",
    ("cifar100", "convnet"): "convnet3",
    ("cifar100", "resnet18"): "resnet18_modified",
    ("tinyimagenet", "convnet"): "convnet4",
    ("tinyimagenet", "efficientnet_b0"): "efficientnet_b0",
    ("tinyimagenet", "mobilenet_v2"): "mobilenet_v2",
    ("tinyimagenet", "resnet18"): "resnet18_modified",
    # The paper mentions a modified stem only for ResNet-18; its code can build both ResNet-101s.
    ("tinyimagenet", "resnet101"): None,
    ("tinyimagenet", "swin_v2_t"): "swin_v2_t",
    ("imagenet-1k", "convnet"): "convnet4",
    ("imagenet-1k", "resnet18"): "resnet18",
}
"""The paper's network on a dataset, in the names of :mod:`gift_fast.training.models`.

None if the paper does not specify it. Students of DATM's sets have instance norm in the authors'
code, which :attr:`Published.our_student` adds.
"""

LOSSES: dict[str, str | None] = {
    "ce": "ce",
    "cosine": "cosine",
    "gift": "gift",  # the defaults are those of section 5.1; see below
    "kl": "kl:temperature=20",  # from the code; the paper states no temperature
    "mse": "mse",
    "mse+ce": "mse+ce:weight=0.1",  # from the code, on every dataset
    "softce": "softce",
    "softce+ce": "softce+ce:weight=0.1",  # from the code
    # Reported without temperatures and weights, and not in the code:
    "dkd": None,
    "kd": None,
    "kl+ce": None,
    "nkd": None,
    "wsld": None,
    # Reported without the scale of the refined label, on which KL depends, and not in the code:
    "refine+kl": None,
}
"""The paper's losses in the names and options of :mod:`gift_fast.training.objectives`.

None if neither the paper nor its code specifies the options. GIFT is that of the paper, as in the
preset ``paper``. The code weights and smooths differently, as in the preset ``official``; the paper
does not state which of the two its numbers come from.
"""

NATIVE_LOSSES = {"DATM": "softce", "G-VBSM": "mse+ce", "RDED": "kl", "SRe2L": "kl"}
"""The native loss of each method, by the name in the paper.

The paper compares GIFT with it under GIFT's protocol, not under that of the method.
"""

FORMATS = {"DATM": "datm", "G-VBSM": "gvbsm", "RDED": "rded", "SRe2L": "sre2l"}
"""The paper's methods in the names of :mod:`gift_fast.data.distilled.formats`."""

# Datasets and optimizers have the same names in the paper. Continual learning with GDumb is not in
# these tables, and neither the paper nor its code has its settings.


@dataclass(frozen=True)
class Reading:
    """One cell of a published table.

    Attributes:
        table: number of the table in the paper.
        mean: top-1 in percent, rounded to a tenth; two of the means have two decimals.
        std: the population's standard deviation (ddof 0) in percentage points, rounded to a tenth.
    """

    table: int
    mean: float
    std: float


@dataclass(frozen=True)
class Published:
    """One published experiment, in the names of the paper, with all cells that report it.

    Attributes:
        dataset: ``cifar100``, ``tinyimagenet`` or ``imagenet-1k``.
        ipc: images per class.
        method: the distillation method, a name in ``NATIVE_LOSSES``.
        distilled_on: the network that the set was distilled on.
        student: the network of the student.
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
        """Top-1 of the first reading, in percent."""
        return self.first.mean

    @property
    def std(self) -> float:
        """The population's standard deviation (ddof 0) of the first reading, percentage points."""
        return self.first.std

    @property
    def tables(self) -> tuple[int, ...]:
        """The tables that report the experiment."""
        return tuple(reading.table for reading in self.readings)

    @property
    def contradictions(self) -> tuple[Reading, ...]:
        """The readings whose mean differs from that of the first."""
        return tuple(reading for reading in self.readings if reading.mean != self.mean)

    @property
    def other_deviations(self) -> tuple[Reading, ...]:
        """The readings with the mean of the first, but another standard deviation."""
        return tuple(
            reading
            for reading in self.readings
            if reading.mean == self.mean and reading.std != self.std
        )

    @property
    def our_student(self) -> str | None:
        """The student by its name in gift-fast, or None if the paper does not specify it."""
        student = STUDENTS[self.dataset, self.student]
        return f"{student}:norm=instance" if self.has_instance_norm else student

    @property
    def has_instance_norm(self) -> bool:
        """Whether the student has instance norm, as ConvNets on DATM's sets do in the code."""
        return self.method == "DATM" and self.student == "convnet"

    @property
    def our_dataset(self) -> str:
        """The dataset by its name in gift-fast, at the input size of the student."""
        dataset = paper_dataset(self.dataset, self.our_student or self.student)
        return dataset + self.source.dataset_options

    @property
    def our_loss(self) -> str | None:
        """The loss by its name in gift-fast, or None if the paper does not specify it."""
        return LOSSES[self.loss]

    @property
    def native(self) -> Published | None:
        """The same experiment with the native loss, or None if it is not published."""
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
    """All published experiments of a paper, in the order of its tables.

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
    """Find an experiment of the GIFT paper by the names in the paper, or None if there is none.

    Raises:
        ValueError: a value that no experiment has, for example a misspelled name.
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
