"""The ``gift-fast`` command: reads arguments and hands over."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import math
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gift_fast.advice import in_words
from gift_fast.interrupt import as_interrupted, handling_signals

if TYPE_CHECKING:
    from gift_fast.student.config import TrainingConfig
    from gift_fast.student.job import EvaluationJob, Place
    from gift_fast.study.cluster import ClusterOptions
    from gift_fast.study.plan import Study
    from gift_fast.study.tuning import Runner

STUDENT_PACKAGES = {
    "accelerate": "accelerate",
    "jinja2": "jinja2",
    "kornia": "kornia",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "rich": "rich",
    "safetensors": "safetensors",
    "sklearn": "scikit-learn",
    "torchvision": "torchvision",
    "yaml": "pyyaml",
}
"""What the extra ``student`` installs: the name it is imported by, the name it is installed by."""

READ = ("data", "format", "labels", "labels_class_map", "class_map", "teacher_weights")
"""What ``evaluate`` and ``audit`` read, as attributes of the job."""

TRAINING = "training (a name may have options: kl:temperature=20,scale_t2=true)"

ARGUMENTS = {"root": "data_root", "path": "data", "distilled": "data"}
"""Arguments of the package by the name that they have in a command's options."""

OPTIONS = {"teachers": "teacher"}
"""The options that are not called as what they set."""

POSITIONAL = ("study", "folder", "run", "reproduction", "method")
"""What has no option."""

TRACEBACK = "GIFT_FAST_TRACEBACK"
"""The environment variable that, set to 1, shows the traceback of every error."""

Subparsers = argparse._SubParsersAction  # argparse has no public name for it


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; gives the exit status: 2 for what the user has to mend, 1 for a bug.

    Where SIGTERM or SIGINT ends it, the status is 143 or 130.
    """
    with handling_signals():
        try:
            return run_command(arguments)
        except KeyboardInterrupt as stop:
            return interrupted(stop)


def run_command(arguments: Sequence[str] | None) -> int:
    """Reads the arguments and calls the subcommand; tells what the user has to mend."""
    # A user's own losses and networks are named by import path, from where the command is called.
    sys.path.append("")
    arguments = sys.argv[1:] if arguments is None else arguments
    command = next((argument for argument in arguments if not argument.startswith("-")), "")
    options = build_parser(command).parse_args(arguments)
    missing = [
        package
        for module, package in STUDENT_PACKAGES.items()
        if importlib.util.find_spec(module) is None
    ]
    if missing and options.command != "doctor":
        return fail(
            f"this command needs {', '.join(missing)}; pip install 'gift-fast[student]' brings it "
            "(gift-fast doctor lists what is there)"
        )
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        with warnings_in_a_line(), decoding_shown(options):
            status = run(options)
        sys.stdout.flush()  # a full disk, or a reader that has gone, is told here
        return status
    except BrokenPipeError:  # the reader of the output has gone, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as stop:
        return interrupted(stop, "without --force" if getattr(options, "force", False) else "")
    except Exception as error:
        return failed(error, options)


def interrupted(stop: KeyboardInterrupt, how: str = "") -> int:
    """Says in a line what was saved and how to resume; gives the exit status.

    Args:
        stop: the signal.
        how: the command is to be run again, if otherwise than before.
    """
    stop = as_interrupted(stop)
    if os.environ.get("RANK", "0") == "0":  # of several processes one tells
        again = f"run the same command {how}".rstrip()
        print(f"\n{stop}; {again} to resume", file=sys.stderr, flush=True)
    return stop.status


@contextmanager
def warnings_in_a_line() -> Iterator[None]:
    """Shows a warning as what it says, without the place in the code that gives it."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"gift-fast: warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


@contextmanager
def decoding_shown(options: argparse.Namespace) -> Iterator[None]:
    """Shows how far the decoding of images is, by one process, unless --quiet is given."""
    if options.command == "doctor":  # which needs nothing of the extra
        yield
        return
    from gift_fast.student.datasets.decoding import showing

    main_process = os.environ.get("RANK", "0") == "0"  # as torchrun and accelerate number them
    with showing(main_process and not getattr(options, "quiet", None)):
        yield


def failed(error: Exception, options: argparse.Namespace) -> int:
    """Says what an error was; gives the exit status, 2 where the user can do something about it."""
    message = in_words(error)
    if message is None or os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    if message is not None:
        return fail(in_options(message, options))
    print(
        f"gift-fast: unexpected error: {type(error).__name__}. If it does not come from code of "
        "your own, please report it, with the lines above and what `gift-fast doctor` prints",
        file=sys.stderr,
    )
    return 1


def fail(message: str) -> int:
    """Says on the standard error what is wrong."""
    print(f"gift-fast: error: {message}", file=sys.stderr)
    return 2


def in_options(message: str, options: argparse.Namespace) -> str:
    """A message that begins with the name of an argument, with the command's option in its place.

    Example:
        >>> in_options("epochs must be at least 1, got 0", argparse.Namespace(epochs=0))
        '--epochs must be at least 1, got 0'
        >>> in_options("root must hold cifar10", argparse.Namespace(data_root=None))
        '--data-root must hold cifar10'
    """
    name, space, rest = message.partition(" ")
    argument = ARGUMENTS.get(name, name)
    if not hasattr(options, argument) or argument in POSITIONAL or not rest.startswith("must"):
        return message
    return f"--{OPTIONS.get(argument, argument).replace('_', '-')}{space}{rest}"


def given(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Those of the named options that were given; the others are left to their defaults."""
    values = {name: getattr(options, name, None) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of all subcommands.

    Args:
        command: the one that is going to be parsed, or "" for none. The help of some options names
            what the registries hold, which takes an import of torch: the parsers of the other
            subcommands are left without arguments. None: all have theirs.
    """

    def wanted(name: str) -> bool:
        return command is None or command == name

    parser = argparse.ArgumentParser(
        prog="gift-fast",
        description="Evaluates students that are trained on distilled datasets with soft labels.",
    )
    parser.add_argument("--version", action="version", version=f"gift-fast {package_version()}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    add_demo(commands)
    add_train_teacher(commands, arguments=wanted("train-teacher"))
    add_distill(commands, arguments=wanted("distill"))
    add_evaluate(commands, arguments=wanted("evaluate"))
    add_table(commands)
    add_audit(commands, arguments=wanted("audit"))
    add_study(commands, arguments=wanted("study"))
    add_reproduce(commands, arguments=wanted("reproduce"))
    add_report(commands)
    add_doctor(commands)
    return parser


def add_fields(
    group: argparse._ActionsContainer, config: type[TrainingConfig], *, without: str = ""
) -> list[str]:
    """An option for every field of a configuration that explains itself; gives their names.

    What is not given stays None, so that presets and the configuration's own defaults apply.
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


def add_place(command: argparse.ArgumentParser, *, trains: bool = True) -> None:
    """The arguments of :class:`gift_fast.student.job.Place`; without those of training or not."""
    group = command.add_argument_group("where, and what is shown")
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
    """The argument that names a real dataset."""
    from gift_fast.student.datasets import DATASETS

    group.add_argument(
        "--dataset",
        required=required,
        metavar="NAME",
        help=f"the real dataset: {', '.join(DATASETS)}",
    )


def add_data(command: argparse.ArgumentParser) -> None:
    """What ``evaluate`` and ``audit`` read: a distilled set, a real dataset and teachers."""
    from gift_fast.student.distilled.formats import FORMATS

    data = command.add_argument_group("data")
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
    teachers = command.add_argument_group("teachers")
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


def place_of(options: argparse.Namespace) -> Place:
    """The place that the arguments name."""
    from gift_fast.student.duration import parse_duration
    from gift_fast.student.job import Place

    values = given(options, [field.name for field in dataclasses.fields(Place)])
    if "checkpoint_every" in values:
        every = parse_duration("checkpoint_every", values["checkpoint_every"])
        values["checkpoint_every"] = every
    return Place(**values)


def add_evaluate(commands: Subparsers[argparse.ArgumentParser], *, arguments: bool) -> None:
    """The subcommand ``evaluate``, and its arguments where they are wanted."""
    command = commands.add_parser(
        "evaluate",
        help="train students on a distilled set and report their accuracy",
        description=(
            "Trains students on a distilled dataset as its authors publish it and reports their "
            "accuracy on the real test images: mean and std over the seeds. A finished run is read "
            "and not repeated; an interrupted one is resumed from its checkpoint."
        ),
        epilog=(
            "example: gift-fast evaluate --data cifar100_ipc10 --format rded --dataset cifar100 "
            "--data-root data --student convnet3 --teacher convnet3 --loss gift --seeds 0 1 2"
        ),
    )
    if not arguments:
        return
    from gift_fast.student.config import EvaluationConfig
    from gift_fast.student.presets import preset_names

    add_data(command)
    command.add_argument(
        "--no-check", dest="check_set", action="store_false", default=None, help="skip the audit"
    )
    training = command.add_argument_group(TRAINING)
    training.add_argument(
        "--preset",
        default="paper",
        metavar="NAME",
        help=(
            f"settings that the options below override: {', '.join(preset_names())}, or a YAML "
            "file (default: paper)"
        ),
    )
    names = add_fields(training, EvaluationConfig, without="seed")
    command.add_argument(
        "--seeds", nargs="+", type=int, metavar="N", help="a student each (default: 0 1 2)"
    )
    command.add_argument(
        "--keep-weights", action="store_true", default=None, help="keep every student's weights"
    )
    command.add_argument("--json", action="store_true", help="print the results as JSON")
    add_place(command)
    command.set_defaults(run=evaluate, fields=names)


def evaluate(options: argparse.Namespace) -> int:
    """The subcommand ``evaluate``."""
    from gift_fast.student.job import is_main_process, run_job
    from gift_fast.student.report import print_results
    from gift_fast.student.results import run_path

    place = place_of(options)
    runs = run_job(job_of(options), place)
    if is_main_process():
        print_results(runs, as_json=options.json)
        if not options.json:
            print(
                "every setting and check:",
                *(run_path(place.out, run.config, run.inputs) for run in runs),
            )
    return 0


def job_of(options: argparse.Namespace) -> EvaluationJob:
    """The evaluation that the arguments name: the preset's settings, and over them the options."""
    from gift_fast.student.config import EvaluationConfig, paper_dataset
    from gift_fast.student.distilled.formats import recognise
    from gift_fast.student.job import EvaluationJob
    from gift_fast.student.presets import load_preset

    preset = load_preset(options.preset)
    own = given(options, [*options.fields, "teachers"])
    student = own.get("student", preset.settings.get("student", "convnet3"))
    dataset = paper_dataset(options.dataset, student)
    form = options.format or "auto"
    if form == "auto":
        form = recognise(options.data, options.labels)
    settings = preset.settings_for(dataset=dataset, student=student, format=form)
    config = EvaluationConfig.from_dict({**settings, **own, "dataset": dataset})
    return EvaluationJob(
        config=config,
        preset=f"{preset.title} (preset {preset.name})",
        **given(options, [*READ, "seeds", "keep_weights", "check_set"]),
    )


def add_table(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """The arguments of ``table``."""
    command = commands.add_parser(
        "table",
        help="put all evaluations of a folder into one table",
        description=(
            "Prints a row for every configuration that `gift-fast evaluate` has run, its seeds "
            "together: what the configurations differ in, and their accuracy. Runs of studies are "
            "left to `gift-fast report`."
        ),
        epilog="example: gift-fast table runs --markdown",
    )
    command.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=Path("runs"),
        metavar="DIR",
        help="that `gift-fast evaluate --out` has written to (default: runs)",
    )
    form = command.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print it in Markdown")
    form.add_argument("--csv", action="store_true", help="print it as CSV, with every setting")
    command.set_defaults(run=table)


def table(options: argparse.Namespace) -> int:
    """The subcommand ``table``; the exit status is 1 where a file could not be read."""
    from gift_fast.study.report.evaluations import (
        evaluations_csv,
        evaluations_table,
        print_evaluations,
        read_evaluations,
    )
    from gift_fast.study.report.tables import as_markdown

    evaluations, damaged, of_studies = read_evaluations(options.folder)
    for message in damaged:
        print(f"gift-fast: not in the table: {message}", file=sys.stderr)
    if of_studies:
        print(
            f"left out: {of_studies} runs of studies, see gift-fast report {options.folder}",
            file=sys.stderr,
        )
    if evaluations and options.csv:
        print(evaluations_csv(evaluations), end="")
    elif evaluations and options.markdown:
        found = evaluations_table(evaluations)
        print(f"**{found.caption}**", "", as_markdown(found), *found.notes, sep="\n")
    elif evaluations:
        print_evaluations(evaluations_table(evaluations))
    return 1 if damaged else 0


def add_train_teacher(commands: Subparsers[argparse.ArgumentParser], *, arguments: bool) -> None:
    """The subcommand ``train-teacher``, and its arguments where they are wanted."""
    command = commands.add_parser(
        "train-teacher",
        help="train a teacher on a real dataset and record its accuracy",
        description=(
            "Trains a network on the real training images with cross-entropy and saves its weights "
            "with its accuracy, where `gift-fast evaluate` looks for them. The same command "
            "resumes an interrupted run."
        ),
        epilog="example: gift-fast train-teacher --dataset cifar100 --data-root data",
    )
    if not arguments:
        return
    from gift_fast.student.config import TeacherConfig

    add_dataset(command, required=True)
    training = command.add_argument_group(TRAINING)
    names = add_fields(training, TeacherConfig)
    add_place(command)
    command.set_defaults(run=train_teacher, fields=names)


def train_teacher(options: argparse.Namespace) -> int:
    """The subcommand ``train-teacher``."""
    from gift_fast.student.config import TeacherConfig, paper_dataset
    from gift_fast.student.job import run_teacher

    own = given(options, options.fields)
    dataset = paper_dataset(options.dataset, own.get("model", TeacherConfig.model))
    config = TeacherConfig(dataset=dataset, **own)
    path, check = run_teacher(config, place_of(options))
    if not math.isfinite(check.loss + check.test_loss):
        return fail(
            f"{path} holds no usable teacher: its training diverged, the loss is not finite. Train "
            "it again with --force and a smaller --learning-rate"
        )
    print(f"{path}: top-1 {check.top1:.2f} %, top-5 {check.top5:.2f} % on the test images")
    return 0


def add_distill(commands: Subparsers[argparse.ArgumentParser], *, arguments: bool) -> None:
    """The subcommand ``distill``, and its arguments where they are wanted."""
    command = commands.add_parser(
        "distill",
        help="make a distilled set from real images and a teacher",
        description=(
            "Makes a distilled set by one of the methods that need no optimisation, and writes it "
            "as the method's authors do. A set that has been made before is not made again."
        ),
        epilog=(
            "example: gift-fast distill rded --dataset cifar10 --data-root data --teacher convnet3 "
            "--ipc 10 --out sets/cifar10_rded_ipc10"
        ),
    )
    if not arguments:
        return
    from gift_fast.student.distill import METHODS

    command.add_argument(
        "method",
        metavar="METHOD",
        help=f"{', '.join(METHODS)}; it may have options: rded:factor=2",
    )
    add_dataset(command, required=True)
    command.add_argument("--ipc", type=int, required=True, metavar="N", help="images per class")
    command.add_argument("--seed", type=int, metavar="N", help="of all that is random (default: 0)")
    command.add_argument(
        "--teacher",
        default="convnet3",
        metavar="MODEL",
        help="scores the crops (default: convnet3)",
    )
    command.add_argument(
        "--teacher-weights", type=Path, metavar="FILE", help="its weights, if not in --teacher-dir"
    )
    command.add_argument(
        "--force", action="store_true", default=None, help="replace another set in --out"
    )
    add_place(command, trains=False)
    command.set_defaults(run=distill)


def distill(options: argparse.Namespace) -> int:
    """The subcommand ``distill``."""
    from gift_fast.student.config import TeacherConfig, paper_dataset
    from gift_fast.student.datasets import load_dataset
    from gift_fast.student.distill import distill
    from gift_fast.student.job import advice_for, load_teacher, teacher_path

    place, network = place_of(options), options.teacher
    if options.out is None:
        raise ValueError("out must be the folder for the set, got none")
    config = TeacherConfig(dataset=paper_dataset(options.dataset, network), model=network)
    dataset = load_dataset(config.dataset, place.data_root)
    weights = options.teacher_weights or teacher_path(place, config.dataset, network)
    advice = advice_for(config.dataset, network)
    teacher, _ = load_teacher(network, weights, dataset, advice=advice)
    made = distill(
        options.method,
        dataset,
        teacher.to(place.accelerator(config).device),
        place.out,
        **given(options, ["ipc", "seed", "force"]),
    )
    print(f"{made.source}; digest {made.fingerprint()}")
    return 0


def add_audit(commands: Subparsers[argparse.ArgumentParser], *, arguments: bool) -> None:
    """The subcommand ``audit``, and its arguments where they are wanted."""
    command = commands.add_parser(
        "audit",
        help="examine a distilled set: class order, images, labels",
        description=(
            "Looks for what goes wrong silently between a teacher, a distilled set and the test "
            "images: another class order, images on another scale, missing classes, labels of "
            "other images. The exit status is 1 where it finds an error."
        ),
        epilog=(
            "example: gift-fast audit --data cifar100_ipc10 --dataset cifar100 --data-root data "
            "--teacher convnet3 --write-class-map map.json"
        ),
    )
    if not arguments:
        return
    add_data(command)
    command.add_argument("--quick", action="store_true", help="look at a sample of the images")
    command.add_argument(
        "--write-class-map",
        type=Path,
        metavar="FILE",
        help="write the permutation that was found, for --class-map",
    )
    command.add_argument("--json", action="store_true", help="print all measures as JSON")
    add_place(command, trains=False)
    command.set_defaults(run=audit)


def audit(options: argparse.Namespace) -> int:
    """The subcommand ``audit``."""
    from gift_fast.student.audit import print_audit
    from gift_fast.student.config import EvaluationConfig, paper_dataset
    from gift_fast.student.disk import check_can_write
    from gift_fast.student.job import EvaluationJob, run_audit

    teachers = EvaluationConfig.teachers if options.teachers is None else options.teachers
    dataset = paper_dataset(options.dataset, teachers[0]) if teachers else options.dataset
    config = EvaluationConfig(dataset=dataset, teachers=teachers)
    job = EvaluationJob(config=config, **given(options, READ))
    if options.write_class_map is not None:
        check_can_write(options.write_class_map.parent)
    report = run_audit(job, place_of(options), quick=options.quick)
    if options.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        from rich.console import Console

        print_audit(report, Console())
    if options.write_class_map is not None:
        if report.class_map is None:
            return fail("no class map to write: the audit found no permutation of the classes")
        report.write_class_map(options.write_class_map)
        print(f"class map written: {options.write_class_map}", file=sys.stderr)
    return 1 if report.severity == "error" else 0


def add_study(commands: Subparsers[argparse.ArgumentParser], *, arguments: bool) -> None:
    """The subcommand ``study``, and its arguments where they are wanted."""
    command = commands.add_parser(
        "study",
        help="run all of a comparison, such as one of the paper's tables",
        description=(
            "Trains every student of a study and writes its tables to --out as study-NAME.md and "
            ".csv. Teachers are trained where there are none. The same command resumes an "
            "interrupted study, and a run that two studies share is trained once."
        ),
        epilog=(
            "example: gift-fast study losses --dataset fashion-mnist --ipc 10 "
            "--student convnet3:width=32 --epochs 100 --seeds 0 1 2 --set-seeds 0"
        ),
    )
    if not arguments:
        return
    from gift_fast.study.plan import study_names

    command.add_argument(
        "study", metavar="NAME", help=f"{', '.join(study_names())}, or a YAML file"
    )
    command.add_argument(
        "--sets",
        type=Path,
        metavar="DIR",
        help=(
            "folder of distilled sets, DATASET_METHOD_ipcN each; a set that is not in it is left "
            "out (default: sets are made here from crops of the real images)"
        ),
    )
    command.add_argument(
        "--dry-run", action="store_true", help="list the runs and estimate their time"
    )
    parts = command.add_argument_group("in place of what the study says")
    add_dataset(parts, required=False)
    parts.add_argument("--ipc", nargs="+", type=int, metavar="N", help="images per class")
    parts.add_argument("--student", metavar="NAME", help="network of all teachers and students")
    parts.add_argument("--epochs", type=int, metavar="N", help="of every student")
    parts.add_argument("--seeds", nargs="+", type=int, metavar="N", help="a student each")
    parts.add_argument(
        "--set-seeds", nargs="+", type=int, metavar="N", help="a set each, where they are made here"
    )
    parts.add_argument(
        "--heldout",
        type=int,
        metavar="N",
        help="training images taken away before teacher and sets are made here",
    )
    parts.add_argument(
        "--tuning-seeds", nargs="+", type=int, metavar="N", help="a student each in every trial"
    )
    parts.add_argument(
        "--no-tuning",
        dest="tuned",
        action="store_false",
        default=None,
        help="run at the study's own learning rates alone",
    )
    cluster = command.add_argument_group("runs side by side (needs gift-fast[cluster])")
    cluster.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help=(
            "run as tasks of a Ray cluster: local, or no address, starts one on this machine, auto "
            "takes the one that this machine is part of, HOST:PORT another (default: one run after "
            "the other)"
        ),
    )
    cluster.add_argument(
        "--cpus-per-run", type=int, metavar="N", help="cores and torch threads (default: 1)"
    )
    cluster.add_argument(
        "--gpus-per-run",
        type=float,
        metavar="X",
        help="1 or a fraction, for small students (default: 1 where the cluster has GPUs)",
    )
    add_place(command)
    command.set_defaults(run=study)


def study(options: argparse.Namespace) -> int:
    """The subcommand ``study``."""
    from gift_fast.student.job import is_main_process
    from gift_fast.study.failures import RunsFailed
    from gift_fast.study.manifest import count_in_words, describe, state_of
    from gift_fast.study.plan import load_study, narrowed
    from gift_fast.study.preflight import check_study
    from gift_fast.study.report import write_tables
    from gift_fast.study.run import run_study, split_by_presence
    from gift_fast.study.tuning import foreseen

    parts = ("dataset", "ipc", "student", "epochs", "seeds", "set_seeds")
    names = (*parts, "heldout", "tuning_seeds", "tuned")
    asked = cluster_options(options)
    changes = given(options, [*names, "data_root"])
    loaded = load_study(options.study)
    plan = narrowed(loaded, **changes)
    if options.heldout is None and plan.heldout != loaded.heldout:
        teller(options)(
            f"{plan.heldout} training images are held out, as many as suit {options.dataset}; the "
            f"study's own number is {loaded.heldout}, and --heldout gives another"
        )
    planned = plan.experiments(published=options.sets is not None)
    experiments, missing = split_by_presence(planned, options.sets)
    place = place_of(options)
    if missing:
        print(f"left out, not in {options.sets}: {', '.join(missing)}", file=sys.stderr)
    if not options.dry_run:
        check_study(plan, experiments, place, options.sets)
    try:
        with runner_of(asked, options, plan, place) as (run, at_a_time):
            if options.dry_run:
                state = state_of(foreseen(plan, experiments, place.out), place.out)
                print(describe(plan, state, at_a_time))
                return 0
            finished = run_study(plan, experiments, run, teller(options))
    except KeyboardInterrupt as error:
        stop = as_interrupted(error)
        state = state_of(foreseen(plan, experiments, place.out), place.out)
        stop.details.append(f"{count_in_words(state)}, {len(state.left)} left")
        raise stop from None
    except RunsFailed as failed:
        print(failed.report(), file=sys.stderr)
        print("the same command runs those again, and nothing else", file=sys.stderr)
        return 1
    if is_main_process():
        markdown, table = write_tables(place.out, plan, finished)
        print(markdown.read_text(encoding="utf-8"))
        print(f"{markdown} {table}; with figures: gift-fast report {place.out}")
    return 0


def teller(options: argparse.Namespace) -> Callable[[str], None]:
    """What says on the standard error what a command is about to do, unless --quiet is given."""
    from gift_fast.student.job import is_main_process

    def tell(text: str) -> None:
        if not options.quiet and is_main_process():
            print(text, file=sys.stderr, flush=True)

    return tell


def cluster_options(options: argparse.Namespace) -> ClusterOptions | None:
    """The cluster that the arguments name, or None where there is to be none."""
    share = given(options, ["cpus_per_run", "gpus_per_run"])
    if options.ray is None:
        for name, value in share.items():
            raise ValueError(f"{name} must come with --ray, got {value}")
        return None
    from gift_fast.study.cluster import ClusterOptions

    asked = ClusterOptions(address=options.ray, **share)
    if importlib.util.find_spec("ray") is None:
        raise ImportError("--ray needs ray; pip install 'gift-fast[cluster]' brings it")
    return asked


@contextmanager
def runner_of(
    asked: ClusterOptions | None, options: argparse.Namespace, plan: Study, place: Place
) -> Iterator[tuple[Runner, int]]:
    """What runs the experiments, and how many at a time: this process, or a cluster's."""
    if asked is None:
        from gift_fast.study.run import LocalRunner

        yield LocalRunner(plan, place, options.sets), 1
        return
    from gift_fast.study.cluster import RayRunner, connected

    with connected(asked, device=place.device, quiet=place.quiet) as cluster:
        yield RayRunner(cluster, plan, place, options.sets), cluster.runs


def add_reproduce(commands: Subparsers[argparse.ArgumentParser], *, arguments: bool) -> None:
    """The subcommand ``reproduce``, and its arguments where they are wanted."""
    command = commands.add_parser(
        "reproduce",
        help="measure what others have published, from teachers to a report",
        description=(
            "Trains teachers, makes distilled sets, trains students and writes a report, by a plan "
            "of several studies. Says before it starts how long each part takes on this machine, "
            "from a short measurement. A stopped reproduction resumes when it is called again."
        ),
        epilog=(
            "example: gift-fast reproduce rded-cifar10 --data-root data --out runs/rded-cifar10"
        ),
    )
    if not arguments:
        return
    from gift_fast.study.reproduce import reproduction_names

    command.add_argument(
        "reproduction",
        metavar="NAME",
        help=f"{', '.join(reproduction_names())}, or a folder with plan.yaml",
    )
    command.add_argument(
        "--dry-run", action="store_true", help="measure and print the plan, and run nothing"
    )
    command.add_argument("--dataset", metavar="NAME", help="in place of the plan's, such as copies")
    add_place(command)
    command.set_defaults(run=reproduce)


def reproduce(options: argparse.Namespace) -> int:
    """The subcommand ``reproduce``."""
    from gift_fast.student.job import is_main_process
    from gift_fast.study.reproduce import (
        describe,
        estimates_of,
        load_reproduction,
        run_reproduction,
    )

    plan, place, tell = load_reproduction(options.reproduction), place_of(options), teller(options)
    if options.dataset is not None:
        plan = plan.on(options.dataset)
    if options.teacher_dir is not None:
        raise ValueError("teacher_dir must not be given: the plan says where each part's lie")
    text = describe(plan, estimates_of(plan, place, tell))
    if is_main_process():
        print(text, flush=True)
    if options.dry_run:
        return 0
    failures = list(run_reproduction(plan, place, tell))
    for failed in failures:
        print(failed.report(), file=sys.stderr)
    if failures:
        print("the same command runs those again, and nothing else", file=sys.stderr)
    return 1 if failures else 0


def add_report(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """The arguments of ``report``."""
    command = commands.add_parser(
        "report",
        help="show what studies have found, beside what is published",
        description=(
            "Writes every study of a folder as one HTML page that needs no network, and its tables "
            "as Markdown, LaTeX and CSV beside it. Unfinished studies are shown as far as they are."
        ),
        epilog="example: gift-fast report runs --open",
    )
    command.add_argument(
        "folder", type=Path, metavar="DIR", help="that `gift-fast study --out` has written to"
    )
    command.add_argument(
        "--out", type=Path, metavar="FILE", help="the HTML page (default: report.html in DIR)"
    )
    command.add_argument("--open", action="store_true", help="show it in the browser")
    command.set_defaults(run=report, force=None)


def report(options: argparse.Namespace) -> int:
    """The subcommand ``report``; the exit status is 1 where a file could not be read."""
    import webbrowser

    from gift_fast.study.report import write_report

    page, damaged = write_report(options.folder, options.out)
    for message in damaged:
        print(f"gift-fast: not in the report: {message}", file=sys.stderr)
    print(*(page.with_suffix(suffix) for suffix in (page.suffix, ".md", ".tex", ".csv")))
    if options.open:
        webbrowser.open(page.resolve().as_uri())
    return 1 if damaged else 0


def add_doctor(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """The arguments of ``doctor``."""
    command = commands.add_parser(
        "doctor",
        help="show what this installation and this machine have, and what is missing",
        description=(
            "Prints versions, compiler, CUDA, the loss's backends, memory, and what is missing "
            "with the command that installs it. It works where parts of the installation do not. "
            "Add its output to bug reports."
        ),
    )
    command.add_argument("--json", action="store_true", help="print it as JSON")
    command.set_defaults(run=doctor)


def doctor(options: argparse.Namespace) -> int:
    """The subcommand ``doctor``."""
    from gift_fast import doctor

    found = doctor.examine()
    print(json.dumps(found, indent=2) if options.json else doctor.in_words(found))
    return 0


def demo(options: argparse.Namespace) -> int:
    """The subcommand ``demo``."""
    from gift_fast.student.demo import DemoConfig, run_demo

    run_demo(DemoConfig(**given(options, [field.name for field in dataclasses.fields(DemoConfig)])))
    return 0


def add_demo(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """The arguments of ``demo``; a default of None leaves the choice to ``DemoConfig``."""
    command = commands.add_parser(
        "demo",
        help="compare losses on handwritten digits, in about a minute",
        description=(
            "Trains a teacher on scikit-learn's 8 x 8 digits, distils a few images a class from "
            "it, trains students under each loss with AdamW and SGD, and reports their accuracy. "
            "Nothing is downloaded. A run that has finished with the same settings is not "
            "repeated; the same command resumes an interrupted demo."
        ),
    )
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for results (default: gift-fast-demo)"
    )
    command.add_argument(
        "--losses",
        nargs="+",
        type=str,
        metavar="LOSS",
        help=(
            "losses to compare, with options as in kl:temperature=4,scale_t2=true; an unknown "
            "name lists them all (default: ce kl gift)"
        ),
    )
    command.add_argument(
        "--seeds", type=int, metavar="N", help="students per loss and optimizer (default: 3)"
    )
    command.add_argument(
        "--ipc", type=int, metavar="N", help="distilled images per class (default: 5)"
    )
    command.add_argument(
        "--epochs", type=int, metavar="N", help="epochs of every student (default: 300)"
    )
    command.add_argument("--device", metavar="NAME", help="auto or cpu (default: auto)")
    command.add_argument(
        "--quiet", action="store_true", default=None, help="show the results only, no progress"
    )
    command.add_argument(
        "--force", action="store_true", default=None, help="repeat runs that have finished"
    )
    command.set_defaults(run=demo)


def package_version() -> str:
    """The version of the installed package."""
    try:
        return version("gift-fast")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
