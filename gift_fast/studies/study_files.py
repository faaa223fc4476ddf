"""Studies in YAML files.

    title       what is compared, in one line
    answers     the corresponding tables and figures of the GIFT paper
    notes       background for the reader
    preset      settings of all runs (default: paper); see gift_fast.evaluation.protocols
    settings    fields of EvaluationConfig that override the preset
    teacher     fields of TeacherConfig, for teachers that are trained
    sets        distilled sets: dataset, method, ipc, the network that they were distilled on, and
                the students (default: that network); method and ipc may be lists
    labelled_by the teacher: the network that a set was distilled on (network, the default), or the
                student's network, as in the paper's code (student)
    losses      specifications; native refers to the native loss of the method
    classes     the classes that a student has seen (default: all): specifications, or a mapping
                with steps, orders and heads for continual learning, which may be lists; see
                gift_fast.data.classes
    optimizers  optimizers with learning rate, weight decay and momentum (default: the preset's)
    seeds       seeds of the students (default: 0 1 2); see student_seed
    made_by     method for generated sets, see gift_fast.distillation (default: selected)
    dataset_seeds
                seeds of the generated sets (default: 0 1 2 3 4)
    validation  size of the validation split, which is not used for teachers and generated sets
                (default: none); at most a tenth of the images of a dataset given with --dataset
    tuning      also run every loss with the learning rate and weight decay that trials choose:
                weight_decays, and seeds and dataset_seeds of the trials
    baselines   true: also run random images, hard labels and the full training set, for
                DD-Ranking's scores; see gift_fast.studies.baselines (default: false)

The runs are all combinations of sets, students, losses, optimizers, classes and seeds. A run is
identified by its configuration and inputs only, so a run that two studies share is trained once.
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
from gift_fast.files.record_names import current_name
from gift_fast.files.text_files import parse_yaml
from gift_fast.studies.sets import SetSource
from gift_fast.studies.study import Study, Tuning

if TYPE_CHECKING:
    from importlib.abc import Traversable

LABELLED_BY = ("network", "student")
"""The teacher of sets without labels: the network that a set was distilled on, or the student's."""

OPTIMIZER_FIELDS = ("optimizer", "learning_rate", "weight_decay", "momentum")

SETTINGS = FIELDS - {"loss", "student", "teachers", "seed", *OPTIMIZER_FIELDS}
"""The keys of ``settings``: all fields that have no key of their own in a study file."""

TEACHER_SETTINGS = {f.name for f in dataclasses.fields(TeacherConfig)} - {"dataset", "model"}


def study_names() -> list[str]:
    """The names of the studies that come with the package."""
    return packaged_names(studies_folder())


def load_study(study: str) -> Study:
    """Load a study by name, or from a YAML file.

    Raises:
        ValueError: unknown name, missing file, or an invalid study; the message gives the reason.

    Example:
        >>> load_study("gamma").answers
        ('figure 3', 'figure 8')
    """
    return load_yaml("study", study, studies_folder(), parse_study)


def studies_folder() -> Traversable:
    """The folder of the studies that come with the package."""
    return resources.files("gift_fast.studies").joinpath("paper")


def parse_study(name: str, text: str) -> Study:
    """Parse a study from YAML.

    Args:
        name: the name of the study.
        text: the contents of its file.

    Raises:
        ValueError: the study is invalid; the message names the key, the value received and the
            value expected.
    """
    contents = parse_yaml(text)
    if not isinstance(contents, dict):
        raise ValueError(f"a study must be a mapping, got {contents!r}")
    contents = with_current_names("a study", contents)
    check_keys("a study", contents, READERS.keys())
    missing = [key for key in ("title", "sets", "losses") if key not in contents]
    if missing:
        raise ValueError(f"a study must have the key {missing[0]!r}, got {list(contents)}")
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


def with_current_names(where: str, contents: Mapping[Any, Any]) -> dict[Any, Any]:
    """Replace former names of keys by the current ones; raise ValueError if a key is repeated."""
    renamed: dict[Any, Any] = {}
    for key, value in contents.items():
        name = current_name(key) if isinstance(key, str) else key
        if name in renamed:
            raise ValueError(f"{where} must have {name} only once, got it as {key} too")
        renamed[name] = value
    return renamed


def read_string(key: str, value: Any) -> str:
    """Read a string."""
    if not isinstance(value, str):
        raise ValueError(f"{key} must be a string, got {value!r}")
    return value.strip()


def read_strings(key: str, value: Any) -> tuple[str, ...]:
    """Read one string or a list of different strings."""
    return read_list(key, value, str, "a string or a list of strings")


def read_integers(key: str, value: Any) -> tuple[int, ...]:
    """Read one integer or a list of different integers."""
    return read_list(key, value, int, "an integer or a list of integers")


def read_seeds(key: str, value: Any) -> tuple[int, ...]:
    """Read one seed or a list of different seeds."""
    seeds = read_integers(key, value)
    check_counts(key, seeds, 0)
    return seeds


def read_list(key: str, value: Any, kind: type, expected: str) -> tuple[Any, ...]:
    """Read one value or a non-empty list of different values of one type."""
    values = value if isinstance(value, list) else [value]
    if not values or not all(type(item) is kind for item in values):
        raise ValueError(f"{key} must be {expected}, got {value!r}")
    if len(set(values)) < len(values):
        raise ValueError(f"{key} must not have duplicates, got {value!r}")
    return tuple(values)


def read_mapping(key: str, value: Any, known: set[str]) -> dict[str, Any]:
    """Read a mapping with known keys."""
    if not isinstance(value, dict):
        raise ValueError(f"{key} must be a mapping, got {value!r}")
    check_keys(key, value, known)
    return value


def read_optimizers(key: str, value: Any) -> tuple[Mapping[str, Any], ...]:
    """Read a list of optimizers with their settings."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{key} must be a non-empty list of mappings, got {value!r}")
    optimizers = tuple(read_mapping("an optimizer", item, set(OPTIMIZER_FIELDS)) for item in value)
    for optimizer in optimizers:
        if "optimizer" not in optimizer:
            raise ValueError(f"an optimizer must have the key 'optimizer', got {optimizer!r}")
    return optimizers


def read_labelled_by(key: str, value: Any) -> str:
    """Read one of ``LABELLED_BY``."""
    check_choice(key, value, LABELLED_BY)
    return str(value)


def read_made_by(key: str, value: Any) -> str:
    """Read a distillation method, and return its canonical specification."""
    return spec.canonical(key, read_string(key, value), METHODS)


def read_classes(key: str, value: Any) -> tuple[str, ...]:
    """Read specifications of classes, or a mapping that expands to all steps, in rising order."""
    if not isinstance(value, dict):
        return tuple(dict.fromkeys(map(canonical_classes, read_strings(key, value))))
    read_mapping(key, value, {"steps", "orders", "heads"})
    if "steps" not in value:
        raise ValueError(f"{key} must have the key 'steps', got {value!r}")
    counts = read_integers(f"{key}: steps", value["steps"])
    check_counts(f"{key}: steps", counts, 2)
    orders = value.get("orders", IN_ORDER)
    orders = [str(order) for order in (orders if isinstance(orders, list) else [orders])]
    heads = read_strings(f"{key}: heads", value.get("heads", "seen"))
    classes = [
        canonical_classes(f"seen:steps={steps},step={step},order={order},head={head}")
        for order, head, steps in product(orders, heads, counts)
        for step in range(1, steps + 1)
    ]
    return tuple(sorted(dict.fromkeys(classes), key=lambda name: build_classes(name).share))


def read_sets(key: str, value: Any) -> tuple[tuple[SetSource, tuple[str, ...]], ...]:
    """Read a list of sets; an entry with lists is expanded to one set per method and IPC."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{key} must be a non-empty list of mappings, got {value!r}")
    sets = []
    required = ("dataset", "method", "ipc", "network")
    for entry in value:
        read_mapping("a set", entry, {*required, "students"})
        missing = [name for name in required if name not in entry]
        if missing:
            raise ValueError(f"a set must have the key {missing[0]!r}, got {entry!r}")
        dataset, network = (read_string(name, entry[name]) for name in ("dataset", "network"))
        students = read_strings("students", entry.get("students", network))
        counts = read_integers("ipc", entry["ipc"])
        check_counts("ipc", counts, 1)
        for method in read_strings("method", entry["method"]):
            for ipc in counts:
                source = SetSource(dataset=dataset, method=method, ipc=ipc, network=network)
                sets.append((source, students))
    return tuple(sets)


def read_validation(key: str, value: Any) -> int:
    """Read the size of the validation split."""
    check_integer(key, value, 0)
    return int(value)


def read_bool(key: str, value: Any) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{key} must be true or false, got {value!r}")
    return value


def read_tuning(key: str, value: Any) -> Tuning:
    """Read the settings of tuning; an empty mapping uses the defaults."""
    if isinstance(value, dict):
        value = with_current_names(key, value)
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
            raise ValueError(
                f"{key}: weight_decays must be a non-empty list without duplicates, got {decays}"
            )
        settings["weight_decays"] = tuple(map(float, decays))
    return Tuning(**settings)


READERS: dict[str, Callable[[str, Any], Any]] = {
    "title": read_string,
    "answers": read_strings,
    "notes": read_string,
    "preset": read_string,
    "settings": lambda key, value: read_mapping(key, value, SETTINGS),
    "teacher": lambda key, value: read_mapping(key, value, TEACHER_SETTINGS),
    "sets": read_sets,
    "labelled_by": read_labelled_by,
    "losses": read_strings,
    "classes": read_classes,
    "optimizers": read_optimizers,
    "seeds": read_seeds,
    "made_by": read_made_by,
    "dataset_seeds": read_seeds,
    "validation": read_validation,
    "tuning": read_tuning,
    "baselines": read_bool,
}
"""The functions that read and check the values of a study's keys."""


def check_counts(name: str, values: Sequence[int], minimum: int) -> None:
    """Raise unless the values are a non-empty sequence of different integers >= ``minimum``."""
    for value in values:
        check_integer(name, value, minimum)
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{name} must be a non-empty list without duplicates, got {list(values)}")
