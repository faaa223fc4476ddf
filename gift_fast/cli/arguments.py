"""Options that several commands share, and what is built from their values.

Nothing here imports torch until it is called, so that the help of ``demo`` works without torch.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gift_fast.evaluation.context import RunContext
    from gift_fast.training.config import TrainingConfig

INPUTS = ("data", "format", "labels", "labels_class_map", "class_map", "teacher_weights")
"""The options of :func:`add_inputs` that are attributes of an ``EvaluationJob``."""

NAMES_HAVE_OPTIONS = "A name may take options: kl:temperature=20,scale_t2=true."

PRECISION = ("mixed_precision", "channels_last", "compile")
"""The fields of a configuration that are shown under the title "execution"."""


def add_fields(
    parser: argparse.ArgumentParser,
    config: type[TrainingConfig],
    titles: Mapping[str, Sequence[str]],
    *,
    without: Sequence[str] = (),
    defaults: Mapping[str, str] | None = None,
) -> list[str]:
    """Add an option for every field of a configuration that has a help text.

    An option that is not given is None, so that presets and the configuration's own defaults apply.

    Args:
        parser: parser of the command.
        config: class of the configuration.
        titles: titles of the groups, in order, each with the names of its fields.
        without: names of fields that get no option.
        defaults: texts of the defaults that are not those of the configuration, by field.

    Returns:
        The names of the fields that got an option.

    Raises:
        ValueError: a field has a help text and no group, or a group has a field that does not
            exist.
    """
    fields = {field.name: field for field in dataclasses.fields(config) if "help" in field.metadata}
    wanted = set(fields) - set(without)
    grouped = [name for names in titles.values() for name in names]
    if wanted != set(grouped):
        raise ValueError(
            f"titles must have every field of {config.__name__} with a help text, got "
            f"{sorted(grouped)} for {sorted(wanted)}"
        )
    for title, names in titles.items():
        group = group_of(parser, title)
        for name in names:
            add_field(group, fields[name], (defaults or {}).get(name))
    return grouped


def add_field(
    group: argparse._ActionsContainer, field: dataclasses.Field[Any], default: str | None = None
) -> None:
    """Add the option of one field of a configuration; ``default`` describes another default."""
    flag, text = "--" + field.name.replace("_", "-"), field.metadata["help"]
    kind = field.metadata["kind"]
    if kind is bool:
        text += f" (default: {'on' if field.default else 'off'})"
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        return
    if default is not None or field.default is not None:
        text += f" (default: {field.default if default is None else default})"
    metavar = {int: "N", float: "X", str: "NAME"}[kind]
    group.add_argument(flag, type=kind, default=None, metavar=metavar, help=text)


def group_of(
    parser: argparse.ArgumentParser, title: str, description: str | None = None
) -> argparse._ArgumentGroup:
    """Return the group of options with a title; add it if there is none."""
    for group in parser._action_groups:
        if group.title == title:
            return group
    return parser.add_argument_group(title, description)


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the inputs of ``evaluate`` and ``audit``: distilled set, real dataset, teachers."""
    add_distilled_set(parser)
    dataset = group_of(parser, "real dataset")
    add_dataset(dataset, required=True)
    add_data_root(dataset)
    add_teachers(parser)


def add_distilled_set(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say what the distilled set is and how it is stored."""
    from gift_fast.data.distilled.formats import FORMATS

    group = group_of(parser, "distilled set")
    group.add_argument(
        "--data", type=Path, required=True, metavar="PATH", help="folder or file of the set"
    )
    group.add_argument(
        "--format", metavar="NAME", help=f"file format: {', '.join(FORMATS)} (default: auto)"
    )
    group.add_argument(
        "--labels",
        type=Path,
        metavar="DIR",
        help=(
            "folder of its stored soft labels, if they are not in --data, or one that `gift-fast "
            "label` wrote"
        ),
    )
    group.add_argument(
        "--class-map",
        type=Path,
        metavar="FILE",
        help="class map of images and labels, as written by `gift-fast audit --write-class-map`",
    )
    group.add_argument(
        "--labels-class-map",
        type=Path,
        metavar="FILE",
        help="class map of the stored soft labels, if it is not that of the images",
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


def add_data_root(group: argparse._ActionsContainer) -> None:
    """Add the argument that says where the real dataset is."""
    group.add_argument(
        "--data-root", type=Path, metavar="DIR", help="folder that holds the real dataset"
    )


def add_teachers(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name teachers and their weights."""
    group = group_of(parser, "teachers")
    group.add_argument(
        "--teacher",
        dest="teachers",
        nargs="*",
        metavar="MODEL",
        help=(
            "networks that compute the soft labels of every batch, averaged over several; without "
            "a name: use the stored soft labels (default: convnet3)"
        ),
    )
    group.add_argument(
        "--teacher-weights",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="weights, one file per teacher (default: from --teacher-dir)",
    )
    add_teacher_dir(group)


def add_teacher_dir(group: argparse._ActionsContainer) -> None:
    """Add the argument that names the folder of the teachers' weights."""
    group.add_argument(
        "--teacher-dir",
        type=Path,
        metavar="DIR",
        help="folder of the teachers' weights, DATASET_MODEL.pth (default: teachers)",
    )


def add_output(
    parser: argparse.ArgumentParser, *, out: str, force: str = "", required: bool = False
) -> argparse._ArgumentGroup:
    """Add the arguments that say where results are written.

    Args:
        parser: parser of the command.
        out: help of ``--out``, with its default.
        force: help of ``--force``; "" leaves that option out.
        required: whether ``--out`` must be given.

    Returns:
        The group, for the command's own options.
    """
    group = group_of(parser, "output")
    group.add_argument("--out", type=Path, required=required, metavar="DIR", help=out)
    if force:
        group.add_argument("--force", action="store_true", default=None, help=force)
    return group


def add_execution(parser: argparse.ArgumentParser, *, trains: bool = True) -> None:
    """Add the arguments that say how a command runs; no result depends on them.

    Args:
        parser: parser of the command.
        trains: whether the command trains networks, and so has checkpoints and progress.
    """
    group = group_of(parser, "execution")
    group.add_argument("--device", metavar="NAME", help="auto or cpu (default: auto)")
    if not trains:
        return
    group.add_argument(
        "--checkpoint-every",
        metavar="TIME",
        help="time between checkpoints, such as 30s, 10m or 1h (default: 5m)",
    )
    group.add_argument(
        "--trackers",
        nargs="+",
        metavar="NAME",
        help="experiment trackers: tensorboard, wandb, mlflow (default: none)",
    )
    group.add_argument("--quiet", action="store_true", default=None, help="show no progress")


def given(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Select the named options that were given.

    The others are None and left out, so that the defaults of whatever takes the values apply.

    Example:
        >>> given(argparse.Namespace(ipc=10, epochs=None), ["ipc", "epochs", "seeds"])
        {'ipc': 10}
    """
    values = {name: getattr(options, name, None) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def context_of(options: argparse.Namespace) -> RunContext:
    """Build the context from the options that name folders and from those of ``add_execution``."""
    from gift_fast.cli.duration import parse_duration
    from gift_fast.evaluation.context import RunContext

    values = given(options, [field.name for field in dataclasses.fields(RunContext)])
    if "checkpoint_every" in values:
        every = parse_duration("checkpoint_every", values["checkpoint_every"])
        values["checkpoint_every"] = every
    return RunContext(**values)


def teller(options: argparse.Namespace) -> Callable[[str], None]:
    """Return a function that prints a line to standard error.

    It prints nothing with ``--quiet``, and in all but the first of several processes.
    """
    from gift_fast.training.processes import is_main_process

    def tell(text: str) -> None:
        if not options.quiet and is_main_process():
            print(text, file=sys.stderr, flush=True)

    return tell


class FormerName(argparse.Action):
    """Stores the value of an option under its former name, and prints the present one."""

    def __init__(self, *, present: str, **options: Any) -> None:
        super().__init__(**options, help=argparse.SUPPRESS)
        self.present = present

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Called by argparse."""
        setattr(namespace, self.dest, values)
        print(f"gift-fast: note: {option_string} is now {self.present}", file=sys.stderr)
