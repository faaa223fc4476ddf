"""Studies in YAML files.

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
    seeds       of the students (default: 0 1 2); see student_seed
    made_by     how sets are generated, see gift_fast.distillation (default: selected)
    dataset_seeds
                of generated sets, one per set (default: 0 1 2 3 4)
    validation  size of the validation split, which teachers and generated sets do not see (default:
                none); a tenth of the images of a smaller dataset given with --dataset
    tuning      runs every loss again at the learning rate and weight decay that trials choose:
                weight_decays, and the trials' own seeds and dataset_seeds
    baselines   true: random images, hard labels and the full training set beside every set, with
                DD-Ranking's scores, see gift_fast.studies.baselines (default: false)

The runs are the product of sets, students, losses, optimizers, classes and seeds. A run has no
identity beside its configuration and inputs, so what two studies share is trained once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from itertools import product
from typing import TYPE_CHECKING, Any

from gift_fast.data.classes import IN_ORDER, build_classes, canonical_classes
from gift_fast.distillation import METHODS
from gift_fast.evaluation.config import TeacherConfig
from gift_fast.evaluation.protocols import FIELDS, check_keys, hinted, load_preset
from gift_fast.files import spec
from gift_fast.files.checks import check_choice, check_integer, check_number
from gift_fast.files.packaged import load_yaml, packaged_names
from gift_fast.files.record_names import present
from gift_fast.files.text_files import parse_yaml
from gift_fast.studies.sets import SetSource
from gift_fast.studies.study import Study, Tuning

if TYPE_CHECKING:
    from importlib.abc import Traversable

LABELLED_BY = ("network", "student")
"""Whose labels a set has that holds none: the network that it was distilled on, or the student."""

OPTIMIZER_FIELDS = ("optimizer", "learning_rate", "weight_decay", "momentum")

SETTINGS = FIELDS - {"loss", "student", "teachers", "seed", *OPTIMIZER_FIELDS}
"""What ``settings`` may hold: the axes are not among them."""

TEACHER_SETTINGS = {f.name for f in dataclasses.fields(TeacherConfig)} - {"dataset", "model"}


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
    contents = with_present_names("a study", contents)
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


def with_present_names(place: str, contents: Mapping[Any, Any]) -> dict[Any, Any]:
    """A mapping with its present keys; raises ValueError where a key comes twice."""
    found: dict[Any, Any] = {}
    for key, value in contents.items():
        name = present(key) if isinstance(key, str) else key
        if name in found:
            raise ValueError(f"{place} may hold {name} once, got it as {key} too")
        found[name] = value
    return found


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
    check_choice(key, value, LABELLED_BY)
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


def read_validation(key: str, value: Any) -> int:
    """A number of images."""
    check_integer(key, value, 0)
    return int(value)


def read_flag(key: str, value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{key} must be true or false, got {value!r}")
    return value


def read_tuning(key: str, value: Any) -> Tuning:
    """What is tried; an empty mapping takes all defaults."""
    if isinstance(value, dict):
        value = with_present_names(key, value)
    read_mapping(key, value, {field.name for field in dataclasses.fields(Tuning)})
    settings: dict[str, Any] = {
        name: read_seeds(f"{key}: {name}", value[name])
        for name in ("seeds", "dataset_seeds")
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
    "dataset_seeds": read_seeds,
    "validation": read_validation,
    "tuning": read_tuning,
    "baselines": read_flag,
}
"""How the value of every key of a study is read."""


def check_counts(name: str, values: Sequence[int], least: int) -> None:
    """Raise unless there is one integer or more, each at least ``least``, all different."""
    for value in values:
        check_integer(name, value, least)
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{name} must be one or more that differ, got {list(values)}")
