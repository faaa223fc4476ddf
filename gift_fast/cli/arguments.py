"""Options that several commands share, and the objects that are built from them.

torch is only imported inside functions, so that the help of ``demo`` works without torch.
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
    from gift_fast.evaluation.job import EvaluationJob
    from gift_fast.training.config import TrainingConfig

INPUTS = ("data", "format", "labels", "labels_class_map", "class_map", "teacher_weights")
"""The options of :func:`add_inputs` that are attributes of an ``EvaluationJob``."""

NAMES_HAVE_OPTIONS = "Names accept options: kl:temperature=20,scale_t2=true."

PRECISION = ("mixed_precision", "channels_last", "compile")
"""The fields of a configuration in the option group "execution"."""


def add_fields(
    parser: argparse.ArgumentParser,
    config: type[TrainingConfig],
    titles: Mapping[str, Sequence[str]],
    *,
    without: Sequence[str] | None = (),
    defaults: Mapping[str, str] | None = None,
) -> list[str]:
    """Add options for the fields of a configuration.

    An option that is not given is None, so that the defaults of the preset and the configuration
    apply.

    Args:
        parser: parser of the command.
        config: class of the configuration.
        titles: titles of the option groups, in order, each with the names of its fields.
        without: fields with a help text that get no option; None allows any.
        defaults: descriptions of defaults that differ from those of the configuration, by field.

    Returns:
        The names of the fields that got an option.

    Raises:
        ValueError: a field has a help text but no group, or a group has an unknown field.
    """
    fields = {field.name: field for field in dataclasses.fields(config) if "help" in field.metadata}
    grouped = [name for names in titles.values() for name in names]
    expected = set(grouped if without is None else fields) - set(without or ())
    if expected != set(grouped) or not expected <= set(fields):
        raise ValueError(
            f"titles must have every field of {config.__name__} with a help text, got "
            f"{sorted(grouped)}, expected {sorted(expected & set(fields))}"
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
    """Return the option group with a title; add it if it does not exist."""
    for group in parser._action_groups:
        if group.title == title:
            return group
    return parser.add_argument_group(title, description)


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the input options of an evaluation: distilled set, real dataset and teachers."""
    add_distilled_set(parser)
    dataset = group_of(parser, "real dataset")
    add_dataset(dataset, required=True)
    add_data_root(dataset)
    add_teachers(parser)


def add_distilled_set(parser: argparse.ArgumentParser) -> None:
    """Add the options for the distilled set and its file format."""
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
            "folder of the stored soft labels, if they are not in --data, or a folder written by "
            "`gift-fast label`"
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
        help="class map of the stored soft labels, if it differs from that of the images",
    )


def add_dataset(group: argparse._ActionsContainer, *, required: bool) -> None:
    """Add the option for the name of the real dataset."""
    from gift_fast.data.datasets import DATASETS

    group.add_argument(
        "--dataset",
        required=required,
        metavar="NAME",
        help=f"the real dataset: {', '.join(DATASETS)}",
    )


def add_data_root(group: argparse._ActionsContainer) -> None:
    """Add the option for the folder of the real dataset."""
    group.add_argument(
        "--data-root", type=Path, metavar="DIR", help="folder that contains the real dataset"
    )


def add_teachers(parser: argparse.ArgumentParser) -> None:
    """Add the options for the teachers and their weights."""
    group = group_of(parser, "teachers")
    group.add_argument(
        "--teacher",
        dest="teachers",
        nargs="*",
        metavar="MODEL",
        help=(
            "networks that compute the soft labels of every batch; the outputs of several are "
            "averaged; without a name, the stored soft labels are used (default: convnet3)"
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
    """Add the option for the folder of the teachers' weights."""
    group.add_argument(
        "--teacher-dir",
        type=Path,
        metavar="DIR",
        help="folder of the teachers' weights, DATASET_MODEL.pth (default: teachers)",
    )


def add_output(
    parser: argparse.ArgumentParser, *, out: str, force: str = "", required: bool = False
) -> argparse._ArgumentGroup:
    """Add the options for the output folder.

    Args:
        parser: parser of the command.
        out: help text of ``--out``, with its default.
        force: help text of ``--force``; without it, the option is omitted.
        required: whether ``--out`` is required.

    Returns:
        The option group, to which the command can add options.
    """
    group = group_of(parser, "output")
    group.add_argument("--out", type=Path, required=required, metavar="DIR", help=out)
    if force:
        group.add_argument("--force", action="store_true", default=None, help=force)
    return group


def add_execution(parser: argparse.ArgumentParser, *, trains: bool = True) -> None:
    """Add the options for execution, which do not affect results.

    Args:
        parser: parser of the command.
        trains: whether the command trains networks and needs options for checkpoints and progress.
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


def add_protocol(parser: argparse.ArgumentParser, titles: Sequence[str], *, per_seed: str) -> None:
    """Add the options for the protocol and the seeds of an evaluation.

    Args:
        parser: parser of the command.
        titles: titles of the option groups that follow in the help.
        per_seed: what the command creates for every seed, such as "student".
    """
    from gift_fast.evaluation.protocols import preset_names

    group = group_of(parser, "student and protocol", NAMES_HAVE_OPTIONS)
    for title in titles:
        group_of(parser, title)
    group.add_argument(
        "--preset",
        default="paper",
        metavar="NAME",
        help=(
            f"protocol: {', '.join(preset_names())}, or a YAML file; the other options override "
            "its settings (default: paper)"
        ),
    )
    group.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        metavar="N",
        help=f"seeds; one {per_seed} per seed (default: 0 1 2)",
    )


def job_of(options: argparse.Namespace, names: Sequence[str] = ()) -> EvaluationJob:
    """Build an evaluation from the options of ``add_inputs`` and ``add_protocol``.

    Args:
        options: the parsed options; those that were given override the settings of the preset.
        names: further options that are arguments of ``job_of_preset``.
    """
    from gift_fast.evaluation.job import job_of_preset

    return job_of_preset(
        dataset=options.dataset,
        preset=options.preset,
        settings=given(options, [*options.fields, "teachers"]),
        **given(options, [*INPUTS, "seeds", *names]),
    )


def given(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Select the named options that were given.

    Options that were not given are None; they are omitted, so that the defaults of the called
    function apply.

    Example:
        >>> given(argparse.Namespace(ipc=10, epochs=None), ["ipc", "epochs", "seeds"])
        {'ipc': 10}
    """
    values = {name: getattr(options, name, None) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def context_of(options: argparse.Namespace) -> RunContext:
    """Build the context from the options for folders and execution."""
    from gift_fast.cli.duration import parse_duration
    from gift_fast.evaluation.context import RunContext

    values = given(options, [field.name for field in dataclasses.fields(RunContext)])
    if "checkpoint_every" in values:
        every = parse_duration("checkpoint_every", values["checkpoint_every"])
        values["checkpoint_every"] = every
    return RunContext(**values)


def status_printer(options: argparse.Namespace) -> Callable[[str], None]:
    """Return a function that prints a status message to standard error.

    With ``--quiet``, and in all processes but the main one, it prints nothing.
    """
    from gift_fast.training.processes import is_main_process

    def log(message: str) -> None:
        if not options.quiet and is_main_process():
            print(message, file=sys.stderr, flush=True)

    return log


class DeprecatedOption(argparse.Action):
    """An option under its former name, which prints a note with the new name."""

    def __init__(self, *, new_name: str, **options: Any) -> None:
        super().__init__(**options, help=argparse.SUPPRESS)
        self.new_name = new_name

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store the value and print the note; called by argparse."""
        setattr(namespace, self.dest, values)
        print(f"gift-fast: note: {option_string} is now {self.new_name}", file=sys.stderr)
