"""The ``gift-fast`` command: reads arguments and hands over."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gift_fast.interrupt import as_interrupted, handling_signals

if TYPE_CHECKING:
    from gift_fast.student.config import TrainingConfig
    from gift_fast.student.job import EvaluationJob, Place
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

POSITIONAL = ("study", "folder", "run")
"""What has no option."""

Subparsers = argparse._SubParsersAction  # argparse has no public name for it


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; gives the exit status, 2 for what the user has to mend.

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
    options = build_parser().parse_args(arguments)
    missing = [
        package
        for module, package in STUDENT_PACKAGES.items()
        if importlib.util.find_spec(module) is None
    ]
    if missing:
        return fail(
            f"this command needs {', '.join(missing)}; pip install 'gift-fast[student]' brings it"
        )
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        status = run(options)
        sys.stdout.flush()  # a full disk, or a reader that has gone, is told here
        return status
    except BrokenPipeError:  # the reader of the output has gone, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ImportError, OSError, ValueError) as error:
        return fail(in_options(str(error), options))
    except KeyboardInterrupt as stop:
        return interrupted(stop, "without --force" if getattr(options, "force", False) else "")


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


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = argparse.ArgumentParser(
        prog="gift-fast",
        description="Evaluates students that are trained on distilled datasets with soft labels.",
    )
    parser.add_argument("--version", action="version", version=f"gift-fast {package_version()}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    add_demo(commands)
    add_train_teacher(commands)
    add_evaluate(commands)
    add_table(commands)
    add_audit(commands)
    add_study(commands)
    add_report(commands)
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


def add_evaluate(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """The arguments of ``evaluate``."""
    from gift_fast.student.config import EvaluationConfig
    from gift_fast.student.presets import preset_names

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


def add_train_teacher(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """The arguments of ``train-teacher``."""
    from gift_fast.student.config import TeacherConfig

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
    print(f"{path}: top-1 {check.top1:.2f} %, top-5 {check.top5:.2f} % on the test images")
    return 0


def add_audit(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """The arguments of ``audit``."""
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
    from gift_fast.student.job import EvaluationJob, run_audit

    teachers = EvaluationConfig.teachers if options.teachers is None else options.teachers
    dataset = paper_dataset(options.dataset, teachers[0]) if teachers else options.dataset
    config = EvaluationConfig(dataset=dataset, teachers=teachers)
    job = EvaluationJob(config=config, **given(options, READ))
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


def add_study(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """The arguments of ``study``."""
    from gift_fast.study.plan import study_names

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
        metavar="ADDRESS",
        help=(
            "run as tasks of a Ray cluster: local starts one on this machine, auto takes the one "
            "that this machine is part of, HOST:PORT another (default: one run after the other)"
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
    from gift_fast.study.report import write_tables
    from gift_fast.study.run import run_study, split_by_presence
    from gift_fast.study.tuning import foreseen

    parts = ("dataset", "ipc", "student", "epochs", "seeds", "set_seeds")
    names = (*parts, "heldout", "tuning_seeds", "tuned")
    plan = narrowed(load_study(options.study), **given(options, names))
    planned = plan.experiments(published=options.sets is not None)
    experiments, missing = split_by_presence(planned, options.sets)
    place = place_of(options)
    if missing:
        print(f"left out, not in {options.sets}: {', '.join(missing)}", file=sys.stderr)
    try:
        with runner_of(options, plan, place) as (run, at_a_time):
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


@contextmanager
def runner_of(
    options: argparse.Namespace, plan: Study, place: Place
) -> Iterator[tuple[Runner, int]]:
    """What runs the experiments, and how many at a time: this process, or a cluster's."""
    from gift_fast.study.run import LocalRunner

    if options.ray is None:
        for name in ("cpus_per_run", "gpus_per_run"):
            if getattr(options, name) is not None:
                raise ValueError(f"{name} must come with --ray, got {getattr(options, name)}")
        yield LocalRunner(plan, place, options.sets), 1
        return
    from gift_fast.study.cluster import ClusterOptions, RayRunner, connected

    share = given(options, ["cpus_per_run", "gpus_per_run"])
    asked = ClusterOptions(address=options.ray, **share)
    with connected(asked, device=place.device, quiet=place.quiet) as cluster:
        yield RayRunner(cluster, plan, place, options.sets), cluster.runs


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
