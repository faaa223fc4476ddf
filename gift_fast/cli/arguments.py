"""Arguments that several commands share, and what is built from their values.

Nothing here imports torch until it is called: ``demo`` uses this module, and its help works without
torch.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gift_fast.evaluation.job import Place
    from gift_fast.training.config import TrainingConfig

INPUTS = ("data", "format", "labels", "labels_class_map", "class_map", "teacher_weights")
"""The options of :func:`add_data` that are attributes of an ``EvaluationJob``."""

TRAINING = "training (a name may have options: kl:temperature=20,scale_t2=true)"
"""Title of the group of options that :func:`add_fields` adds."""


def add_fields(
    group: argparse._ActionsContainer, config: type[TrainingConfig], *, without: str = ""
) -> list[str]:
    """Add an option for every field of a configuration that has a help text.

    An option that is not given is None, so that presets and the configuration's own defaults apply.

    Args:
        group: parser or group to add the options to.
        config: class of the configuration.
        without: name of a field that gets no option.

    Returns:
        The names of the fields that got an option.
    """
    names = []
    for field in dataclasses.fields(config):
        if "help" not in field.metadata or field.name == without:
            continue
        names.append(field.name)
        flag, text = "--" + field.name.replace("_", "-"), field.metadata["help"]
        if field.default is not None:
            text += f" (default: {field.default})"
        if field.metadata["kind"] is bool:
            action = argparse.BooleanOptionalAction
            group.add_argument(flag, action=action, default=None, help=text)
        else:
            kind = field.metadata["kind"]
            metavar = {int: "N", float: "X", str: "NAME"}[kind]
            group.add_argument(flag, type=kind, default=None, metavar=metavar, help=text)
    return names


def add_place(parser: argparse.ArgumentParser, *, trains: bool = True) -> None:
    """Add the arguments of a :class:`gift_fast.evaluation.job.Place`.

    Args:
        parser: parser of the command.
        trains: whether the command trains networks, and so has checkpoints and progress.
    """
    group = parser.add_argument_group("where, and what is shown")
    group.add_argument(
        "--data-root", type=Path, metavar="DIR", help="folder that holds the real dataset"
    )
    group.add_argument(
        "--teacher-dir",
        type=Path,
        metavar="DIR",
        help="folder of the teachers' weights, DATASET_MODEL.pth (default: teachers)",
    )
    group.add_argument("--device", metavar="NAME", help="auto or cpu (default: auto)")
    group.add_argument("--out", type=Path, metavar="DIR", help="folder for results (default: runs)")
    if not trains:
        return
    group.add_argument(
        "--checkpoint-every",
        metavar="TIME",
        help=(
            "time between two checkpoints, such as 30s, 10m or 1h: what a killed run loses at most "
            "(default: 5m)"
        ),
    )
    group.add_argument(
        "--trackers",
        nargs="+",
        metavar="NAME",
        help="tensorboard, wandb or mlflow, which must be installed",
    )
    group.add_argument("--quiet", action="store_true", default=None, help="no progress")
    group.add_argument(
        "--force", action="store_true", default=None, help="repeat what has finished"
    )


def add_dataset(group: argparse._ActionsContainer, *, required: bool) -> None:
    """Add the argument that names a real dataset."""
    from gift_fast.data.datasets import DATASETS

    group.add_argument(
        "--dataset",
        required=required,
        metavar="NAME",
        help=f"the real dataset: {', '.join(DATASETS)}",
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the inputs of ``evaluate`` and ``audit``: distilled set, real dataset, teachers."""
    from gift_fast.data.distilled.formats import FORMATS

    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, required=True, metavar="PATH", help="distilled set")
    data.add_argument(
        "--format", metavar="NAME", help=f"how it is stored: {', '.join(FORMATS)} (default: auto)"
    )
    data.add_argument("--labels", type=Path, metavar="DIR", help="its stored soft labels (FKD)")
    data.add_argument(
        "--labels-class-map",
        type=Path,
        metavar="FILE",
        help="puts the classes of these labels alone in the dataset's order",
    )
    add_dataset(data, required=True)
    data.add_argument(
        "--class-map", type=Path, metavar="FILE", help="puts its classes in the dataset's order"
    )
    teachers = parser.add_argument_group("teachers")
    teachers.add_argument(
        "--teacher",
        dest="teachers",
        nargs="*",
        metavar="MODEL",
        help=(
            "label every batch; several are averaged, none takes the stored labels "
            "(default: convnet3)"
        ),
    )
    teachers.add_argument(
        "--teacher-weights", nargs="+", type=Path, metavar="FILE", help="a file for every teacher"
    )


def given(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Select the named options that were given.

    The others are None and left out, so that the defaults of whatever takes the values apply.

    Example:
        >>> given(argparse.Namespace(ipc=10, epochs=None), ["ipc", "epochs", "seeds"])
        {'ipc': 10}
    """
    values = {name: getattr(options, name, None) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def place_of(options: argparse.Namespace) -> Place:
    """Build the place from the options of :func:`add_place`."""
    from gift_fast.cli.duration import parse_duration
    from gift_fast.evaluation.job import Place

    values = given(options, [field.name for field in dataclasses.fields(Place)])
    if "checkpoint_every" in values:
        every = parse_duration("checkpoint_every", values["checkpoint_every"])
        values["checkpoint_every"] = every
    return Place(**values)


def teller(options: argparse.Namespace) -> Callable[[str], None]:
    """Return a function that prints a line to standard error.

    It prints nothing with ``--quiet``, and in all but the first of several processes.
    """
    from gift_fast.evaluation.job import is_main_process

    def tell(text: str) -> None:
        if not options.quiet and is_main_process():
            print(text, file=sys.stderr, flush=True)

    return tell
