"""A study is data: a YAML file that says which runs of the evaluation answer a question.

    title       what is compared, in a line
    answers     the tables and figures of the GIFT paper with the same question
    notes       what a reader should know
    preset      settings of every run (default: paper); see gift_fast.evaluation.protocols
    settings    fields of the run's configuration that override the preset's
    teacher     fields of the teachers' configuration, where teachers are trained here
    sets        distilled sets: dataset, method, ipc, the network they were distilled on, and the
                students if not that network alone; method and ipc may be lists
    labelled_by the network that a set was distilled on (default: network), or the student's, as in
                the paper's code (student)
    losses      specifications; in them, native stands for the method's own loss
    classes     that a student has seen (default: all): specifications, or steps, orders and heads
                of continual learning, each one or a list, for every step of them; see
                gift_fast.data.classes
    optimizers  each with its learning rate, weight decay and momentum (default: the preset's)
    seeds       one student each (default: 0 1 2); see student_seed
    made_by     how sets are made here, see gift_fast.distillation (default: selected)
    set_seeds   one set each, where sets are made here (default: 0 1 2 3 4)
    heldout     training images taken away before teacher and sets are made here (default: none);
                on a smaller dataset that --dataset names, a tenth of its images
    tuning      runs every loss again at the learning rate and weight decay that trials choose:
                weight_decays, and the trials' own seeds and set_seeds

The runs are the product of sets, students, losses, optimizers, classes and seeds. A run has no
identity beside its configuration and inputs, so what two studies share is trained once.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gift_fast.data.classes import ALL, IN_ORDER, build_classes, canonical_classes
from gift_fast.data.datasets import check_dataset
from gift_fast.data.datasets.heldout import split_heldout, with_heldout
from gift_fast.data.datasets.sizes import default_heldout
from gift_fast.distillation import METHODS
from gift_fast.evaluation.config import EvaluationConfig, TeacherConfig
from gift_fast.evaluation.protocols import FIELDS, check_keys, hinted, load_preset
from gift_fast.evaluation.rules import paper_dataset
from gift_fast.files import spec
from gift_fast.files.checks import check_integer, check_number
from gift_fast.files.packaged import load_yaml, packaged_names
from gift_fast.files.texts import parse_yaml
from gift_fast.studies.published import FORMATS
from gift_fast.studies.published import NATIVE_LOSSES as PUBLISHED_LOSSES
from gift_fast.training.models import MODELS
from gift_fast.training.objectives import OBJECTIVES

if TYPE_CHECKING:
    from importlib.abc import Traversable

SELECTED = "selected"
"""How sets are made here unless a study says otherwise, by :func:`select_crops`."""

NATIVE_LOSSES = {
    **{FORMATS[method]: loss for method, loss in PUBLISHED_LOSSES.items()},
    SELECTED: "kl",  # as RDED, whose idea it takes
}
"""What ``native`` stands for: the loss that a method's authors train with."""

LEARNED_LABELS = ("datm",)
"""Methods whose sets hold their own soft labels; the others' sets are labelled by a teacher."""

LABELLED_BY = ("network", "student")
"""Whose labels a set has that holds none: the network that it was distilled on, or the student."""

OPTIMIZER_FIELDS = ("optimizer", "learning_rate", "weight_decay", "momentum")

SETTINGS = FIELDS - {"loss", "student", "teachers", "seed", *OPTIMIZER_FIELDS}
"""What ``settings`` may hold: the axes are not among them."""

STUDENTS = 10_000
"""More than the largest of a study's ``seeds``; see :func:`student_seed`."""

TEACHER_SETTINGS = {f.name for f in dataclasses.fields(TeacherConfig)} - {"dataset", "model"}


@dataclass(frozen=True, kw_only=True)
class SetSource:
    """A distilled set, by what it is called.

    Attributes:
        dataset: of whose classes it is: a name in ``DATASETS``.
        method: that made it; ``selected`` is always made here.
        ipc: images per class.
        network: that it was distilled on; it is the teacher too.
        seed: of a set that is made here, else None.
    """

    dataset: str
    method: str
    ipc: int
    network: str
    seed: int | None = None

    @property
    def made_here(self) -> bool:
        """Whether it is made here, and not read."""
        return self.method == SELECTED or self.seed is not None

    @property
    def name(self) -> str:
        """Its folder's name: ``{dataset}_{method}_ipc{ipc}``, ``_{network}`` if not a ConvNet.

        Example:
            >>> SetSource(dataset="cifar100", method="rded", ipc=10, network="convnet3").name
            'cifar100_rded_ipc10'
            >>> SetSource(dataset="cifar100", method="rded", ipc=10, network="resnet18").name
            'cifar100_rded_ipc10_resnet18'
        """
        network = "" if self.network.startswith("convnet") else f"_{self.network}"
        name = f"{spec.split_spec(self.dataset)[0]}_{self.method}_ipc{self.ipc}{network}"
        return re.sub(r"[^\w.=+-]+", "-", name)

    @property
    def sized_dataset(self) -> str:
        """The dataset at the size in which the paper's networks take it."""
        return paper_dataset(self.dataset, self.network)

    @property
    def teachers(self) -> tuple[str, ...]:
        """The networks that label its images: none where it holds labels of its own."""
        return () if self.method in LEARNED_LABELS else (self.network,)


@dataclass(frozen=True)
class Experiment:
    """One run of a study.

    Attributes:
        source: the set that the student is trained on.
        config: of the run, before what follows from the set is filled in.
        purpose: ``protocol``, at the study's settings; ``trial`` of a learning rate and a weight
            decay; or ``tuned``, with those that the trials have chosen.
    """

    source: SetSource
    config: EvaluationConfig
    purpose: str = "protocol"

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of plain values that JSON can hold."""
        source = dataclasses.asdict(self.source)
        return {"purpose": self.purpose, "set": source, "config": self.config.to_dict()}


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How learning rate and weight decay are chosen; see :mod:`gift_fast.studies.tuning`.

    Attributes:
        weight_decays: that are tried with every learning rate.
        seeds: one student each, none of them a reported one's.
        set_seeds: of the sets for the trials, where sets are made here; none is a reported one's.
    """

    weight_decays: tuple[float, ...] = (0.0, 5e-4)
    seeds: tuple[int, ...] = (1000, 1001)
    set_seeds: tuple[int, ...] = (1000,)

    def check_against(self, study: Study) -> None:
        """Raises ValueError where a seed is a reported run's too, or nothing is held out."""
        for name in ("seeds", "set_seeds"):
            both = sorted(set(getattr(self, name)) & set(getattr(study, name)))
            if both:
                raise ValueError(f"tuning: {name} must not be the study's own, got {both} in both")
        arms = [(o.get("optimizer"), o.get("momentum")) for o in study.optimizers]
        if len(set(arms)) < len(arms):
            raise ValueError(
                "optimizers must differ in more than what is tuned, rate and weight decay; "
                f"got {list(map(dict, study.optimizers))}"
            )
        if not study.heldout:
            raise ValueError("heldout must be a number of images for tuning, got 0")


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a study's file says; see the module for its fields.

    Attributes:
        name: the file's name without its ending.
        sets: (set, students) pairs.
    """

    name: str
    title: str
    answers: tuple[str, ...] = ()
    notes: str = ""
    preset: str = "paper"
    settings: Mapping[str, Any] = field(default_factory=dict)
    teacher: Mapping[str, Any] = field(default_factory=dict)
    sets: tuple[tuple[SetSource, tuple[str, ...]], ...]
    labelled_by: str = "network"
    losses: tuple[str, ...]
    classes: tuple[str, ...] = (ALL,)
    optimizers: tuple[Mapping[str, Any], ...] = ({},)
    seeds: tuple[int, ...] = (0, 1, 2)
    made_by: str = SELECTED
    set_seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    heldout: int = 0
    tuning: Tuning | None = None

    def __post_init__(self) -> None:
        if max(self.seeds) >= STUDENTS:
            raise ValueError(f"seeds must be less than {STUDENTS}, got {max(self.seeds)}")
        if self.tuning is not None:
            self.tuning.check_against(self)

    def experiments(self, *, published: bool) -> tuple[Experiment, ...]:
        """Every run at the study's settings once.

        They come set by set, and in a set seed by seed, so that losses grow together.

        Args:
            published: whether the methods' own sets are there. If not, one set for each of
                ``set_seeds`` is made in their place; what teaches by labels of its own has no such
                stand-in and is left out.

        Raises:
            TypeError, ValueError: a name that is not registered, or a value out of range.

        Example:
            >>> study = load_study("losses")
            >>> first = study.experiments(published=True)[0]
            >>> first.source.name, first.config.loss, first.config.optimizer
            ('cifar100_rded_ipc10', 'ce', 'adamw')
        """
        preset = load_preset(self.preset)
        found = []
        for source, students in self.available(published=published):
            for seed in self.seeds:
                for student in students:
                    settings = preset.settings_for(
                        dataset=source.dataset, student=student, format=source.method
                    )
                    for classes, optimizer in product(self.classes, self.optimizers):
                        for loss in self.losses:
                            values = {
                                **settings,
                                **self.settings,
                                **optimizer,
                                "dataset": source.sized_dataset,
                                "ipc": source.ipc,
                                "student": student,
                                "teachers": self.labellers(source, student),
                                "loss": loss_of(loss, source.method),
                                "classes": classes,
                                "seed": student_seed(source, seed),
                            }
                            found.append(Experiment(source, EvaluationConfig.from_dict(values)))
        return tuple(dict.fromkeys(found))

    def labellers(self, source: SetSource, student: str) -> tuple[str, ...]:
        """The networks that label a set's images for a student: none where it has its labels."""
        by_student = self.labelled_by == "student" and source.teachers
        return (student,) if by_student else source.teachers

    def teachers_of(self, source: SetSource) -> tuple[str, ...]:
        """The networks that a set needs: those that label it, and the one that it is made with."""
        needed = [source.network] if source.made_here else []
        alike = replace(source, seed=None)
        for published in (True, False):
            for each, students in self.available(published=published):
                if replace(each, seed=None) == alike:
                    needed += [n for s in students for n in self.labellers(source, s)]
        return tuple(dict.fromkeys(needed))

    def available(self, *, published: bool) -> list[tuple[SetSource, tuple[str, ...]]]:
        """The sets with their students: those of the file, or those made in their place."""
        students_of: dict[SetSource, tuple[str, ...]] = {}
        for source, students in self.sets:
            sources = [source]
            if source.made_here or not published:
                if source.method in LEARNED_LABELS:
                    continue
                own = split_heldout(source.dataset)[1]
                dataset = source.dataset if own else with_heldout(source.dataset, self.heldout)
                method = source.method if source.made_here else self.made_by
                made = replace(source, dataset=dataset, method=method)
                sources = [replace(made, seed=seed) for seed in self.set_seeds]
            for each in sources:
                before = students_of.get(each, ())
                students_of[each] = tuple(dict.fromkeys(before + students))
        return list(students_of.items())


def student_seed(source: SetSource, seed: int) -> int:
    """The seed of a student: on each of several sets that are made here, another one.

    All losses have the same students on a set. But students that began alike on every set would
    have in common what their beginning does to a loss, and an interval over sets would not show it.

    Example:
        >>> made = SetSource(dataset="digits", method="selected", ipc=1, network="convnet3", seed=3)
        >>> student_seed(made, 1)
        30001
    """
    return seed if source.seed is None else STUDENTS * source.seed + seed


def loss_of(loss: str, method: str) -> str:
    """A loss of a study for a method: ``native`` replaced, options of their default left out.

    So an experiment is written in one way, in whichever study it stands.

    Example:
        >>> loss_of("refine+native", "gvbsm"), loss_of("gift:gamma=0.1", "rded")
        ('refine+mse+ce', 'gift')
    """
    name, colon, options = loss.partition(":")
    parts = name.split("+")
    if "native" in parts:
        method = spec.split_spec(method)[0]
        if method not in NATIVE_LOSSES:
            raise ValueError(
                f"native must stand for the loss of {', '.join(NATIVE_LOSSES)}; {method!r} has "
                "none that is known here"
            )
        parts[parts.index("native")] = NATIVE_LOSSES[method]
    return spec.canonical("loss", "+".join(parts) + colon + options, OBJECTIVES)


def narrowed(
    study: Study,
    *,
    dataset: str | None = None,
    ipc: Sequence[int] | None = None,
    student: str | None = None,
    epochs: int | None = None,
    seeds: Sequence[int] | None = None,
    set_seeds: Sequence[int] | None = None,
    heldout: int | None = None,
    tuning_seeds: Sequence[int] | None = None,
    tuned: bool = True,
    data_root: Path | None = None,
) -> Study:
    """A study on other data, or smaller; what is None stays.

    Args:
        study: to start from.
        dataset: keeps its sets alone; where the study has none, those of its first dataset are
            taken to be of this one.
        ipc: images per class, in place of the study's.
        student: the network of every teacher and student.
        epochs: of every student.
        seeds: of the students.
        set_seeds: of the sets that are made here.
        heldout: training images taken away before teacher and sets are made here. None is the
            study's number; on a dataset that is not among the study's, at most a tenth of the
            images, see :func:`~gift_fast.data.datasets.sizes.default_heldout`.
        tuning_seeds: of the students of the trials, where the study has any.
        tuned: whether to keep the study's tuning, if it has any.
        data_root: the folder that holds ``dataset``, whose images are counted where its size is
            not a published one.

    Raises:
        OSError: the images of ``dataset`` cannot be counted, since they are missing.
        TypeError, ValueError: a value is not one that the study's file could hold.
    """
    sets = list(study.sets)
    if dataset is not None:
        check_dataset(dataset)
        known = [source.dataset for source, _ in sets]
        kept = dataset if dataset in known else known[0]
        own = split_heldout(dataset)[1]
        if dataset not in known and heldout is None and study.heldout and not own:
            heldout = default_heldout(dataset, study.heldout, data_root)
        sets = [
            (replace(source, dataset=dataset), students)
            for source, students in sets
            if source.dataset == kept
        ]
    if ipc is not None:
        check_counts("ipc", ipc, 1)
        sets = [(replace(source, ipc=n), students) for source, students in sets for n in ipc]
    if student is not None:
        spec.resolve("student", student, MODELS)
        sets = [(replace(source, network=student), (student,)) for source, _ in sets]
    changes: dict[str, Any] = {"sets": tuple(dict.fromkeys(sets))}
    if epochs is not None:
        changes["settings"] = {**study.settings, "epochs": epochs}
    for name, values in (("seeds", seeds), ("set_seeds", set_seeds)):
        if values is not None:
            check_counts(name, values, 0)
            changes[name] = tuple(values)
    if heldout is not None:
        check_integer("heldout", heldout, 0)
        changes["heldout"] = heldout
    tuning = study.tuning if tuned else None
    if tuning_seeds is not None:
        check_counts("tuning_seeds", tuning_seeds, 0)
        if tuning is None:
            raise ValueError(f"tuning_seeds must be for a study that tunes, got {tuning_seeds}")
        tuning = replace(tuning, seeds=tuple(tuning_seeds))
    return replace(study, **changes, tuning=tuning)


# ---- files ---------------------------------------------------------------------------------------


def study_names() -> list[str]:
    """The studies that come with the package."""
    return packaged_names(studies_folder())


def load_study(study: str) -> Study:
    """The study of this name, or in this YAML file.

    Raises:
        ValueError: no such study or file, or one that is not a study; the message says why.

    Example:
        >>> load_study("gamma").answers
        ('figure 3', 'figure 8')
    """
    return load_yaml("study", study, studies_folder(), parse_study)


def studies_folder() -> Traversable:
    """Where the studies lie that come with the package."""
    return resources.files("gift_fast.studies").joinpath("paper")


def parse_study(name: str, text: str) -> Study:
    """The study that a YAML text holds.

    Raises:
        ValueError: the text is no study; the message names the key, what came and what was
            expected.
    """
    contents = parse_yaml(text)
    if not isinstance(contents, dict):
        raise ValueError(f"a study must be a mapping, got {contents!r}")
    check_keys("a study", contents, READERS.keys())
    missing = [key for key in ("title", "sets", "losses") if key not in contents]
    if missing:
        raise ValueError(f"a study must hold {missing[0]!r}, got {list(contents)}")
    try:
        study = Study(name=name, **{key: READERS[key](key, contents[key]) for key in contents})
        load_preset(study.preset)
        study.experiments(published=True)
        study.experiments(published=False)
        for source, _ in study.sets:
            TeacherConfig.from_dict(
                {**study.teacher, "dataset": source.sized_dataset, "model": source.network}
            )
    except TypeError as error:
        raise ValueError(hinted(str(error))) from error
    return study


def read_text(key: str, value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise ValueError(f"{key} must be a text, got {value!r}")
    return value.strip()


def read_texts(key: str, value: Any) -> tuple[str, ...]:
    """One text or more, all different."""
    return read_list(key, value, str, "a text or a list of texts")


def read_numbers(key: str, value: Any) -> tuple[int, ...]:
    """One integer or more, all different."""
    return read_list(key, value, int, "an integer or a list of integers")


def read_seeds(key: str, value: Any) -> tuple[int, ...]:
    """One seed or more, all different."""
    seeds = read_numbers(key, value)
    check_counts(key, seeds, 0)
    return seeds


def read_list(key: str, value: Any, kind: type, expected: str) -> tuple[Any, ...]:
    """A value or a list of values of one type, at least one and all different."""
    values = value if isinstance(value, list) else [value]
    if not values or not all(type(item) is kind for item in values):
        raise ValueError(f"{key} must be {expected}, got {value!r}")
    if len(set(values)) < len(values):
        raise ValueError(f"{key} must differ from each other, got {value!r}")
    return tuple(values)


def read_mapping(key: str, value: Any, known: set[str]) -> dict[str, Any]:
    """A mapping with known keys."""
    if not isinstance(value, dict):
        raise ValueError(f"{key} must be a mapping, got {value!r}")
    check_keys(key, value, known)
    return value


def read_optimizers(key: str, value: Any) -> tuple[Mapping[str, Any], ...]:
    """A list of optimizers with their settings."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{key} must be a list of one mapping or more, got {value!r}")
    optimizers = tuple(read_mapping("an optimizer", item, set(OPTIMIZER_FIELDS)) for item in value)
    for optimizer in optimizers:
        if "optimizer" not in optimizer:
            raise ValueError(f"an optimizer must hold its name, optimizer; got {optimizer!r}")
    return optimizers


def read_labelled_by(key: str, value: Any) -> str:
    """One of ``LABELLED_BY``."""
    if value not in LABELLED_BY:
        raise ValueError(f"{key} must be one of {', '.join(LABELLED_BY)}, got {value!r}")
    return str(value)


def read_made_by(key: str, value: Any) -> str:
    """A method with its options, in one way of writing it."""
    return spec.canonical(key, read_text(key, value), METHODS)


def read_classes(key: str, value: Any) -> tuple[str, ...]:
    """Specifications, or every step of some numbers of steps; those of fewer classes first."""
    if not isinstance(value, dict):
        return tuple(dict.fromkeys(map(canonical_classes, read_texts(key, value))))
    read_mapping(key, value, {"steps", "orders", "heads"})
    if "steps" not in value:
        raise ValueError(f"{key} must hold 'steps', got {value!r}")
    counts = read_numbers(f"{key}: steps", value["steps"])
    check_counts(f"{key}: steps", counts, 2)
    orders = value.get("orders", IN_ORDER)
    orders = [str(order) for order in (orders if isinstance(orders, list) else [orders])]
    heads = read_texts(f"{key}: heads", value.get("heads", "seen"))
    every = [
        canonical_classes(f"seen:steps={steps},step={step},order={order},head={head}")
        for order, head, steps in product(orders, heads, counts)
        for step in range(1, steps + 1)
    ]
    return tuple(sorted(dict.fromkeys(every), key=lambda classes: build_classes(classes).share))


def read_sets(key: str, value: Any) -> tuple[tuple[SetSource, tuple[str, ...]], ...]:
    """A list of sets, each entry one for every method and number of images that it names."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{key} must be a list of one mapping or more, got {value!r}")
    sets = []
    required = ("dataset", "method", "ipc", "network")
    for entry in value:
        read_mapping("a set", entry, {*required, "students"})
        missing = [name for name in required if name not in entry]
        if missing:
            raise ValueError(f"a set must hold {missing[0]!r}, got {entry!r}")
        dataset, network = (read_text(name, entry[name]) for name in ("dataset", "network"))
        students = read_texts("students", entry.get("students", network))
        counts = read_numbers("ipc", entry["ipc"])
        check_counts("ipc", counts, 1)
        for method in read_texts("method", entry["method"]):
            for ipc in counts:
                source = SetSource(dataset=dataset, method=method, ipc=ipc, network=network)
                sets.append((source, students))
    return tuple(sets)


def read_heldout(key: str, value: Any) -> int:
    """A number of images."""
    check_integer(key, value, 0)
    return int(value)


def read_tuning(key: str, value: Any) -> Tuning:
    """What is tried; an empty mapping takes all defaults."""
    read_mapping(key, value, {field.name for field in dataclasses.fields(Tuning)})
    settings: dict[str, Any] = {
        name: read_seeds(f"{key}: {name}", value[name])
        for name in ("seeds", "set_seeds")
        if name in value
    }
    if "weight_decays" in value:
        decays = value["weight_decays"]
        decays = decays if isinstance(decays, list) else [decays]
        for decay in decays:
            check_number(f"{key}: weight_decays", decay, 0.0, math.inf, "0 or more")
        if not decays or len(set(decays)) < len(decays):
            raise ValueError(f"{key}: weight_decays must be one or more that differ, got {decays}")
        settings["weight_decays"] = tuple(map(float, decays))
    return Tuning(**settings)


READERS: dict[str, Callable[[str, Any], Any]] = {
    "title": read_text,
    "answers": read_texts,
    "notes": read_text,
    "preset": read_text,
    "settings": lambda key, value: read_mapping(key, value, SETTINGS),
    "teacher": lambda key, value: read_mapping(key, value, TEACHER_SETTINGS),
    "sets": read_sets,
    "labelled_by": read_labelled_by,
    "losses": read_texts,
    "classes": read_classes,
    "optimizers": read_optimizers,
    "seeds": read_seeds,
    "made_by": read_made_by,
    "set_seeds": read_seeds,
    "heldout": read_heldout,
    "tuning": read_tuning,
}
"""How the value of every key of a study is read."""


def check_counts(name: str, values: Sequence[int], least: int) -> None:
    """Raises unless there is one integer or more, each at least ``least``, all different."""
    for value in values:
        check_integer(name, value, least)
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{name} must be one or more that differ, got {list(values)}")
