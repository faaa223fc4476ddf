"""``gift-fast study``: runs every evaluation of a comparison."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gift_fast.cli.arguments import (
    FormerName,
    add_data_root,
    add_dataset,
    add_execution,
    add_output,
    add_teacher_dir,
    context_of,
    given,
    group_of,
    teller,
)
from gift_fast.evaluation.context import RunContext
from gift_fast.process.signals import as_interrupted
from gift_fast.studies.baselines import baseline_experiments
from gift_fast.studies.failures import RunsFailed
from gift_fast.studies.manifest import count_in_words, describe, state_of
from gift_fast.studies.overrides import narrowed
from gift_fast.studies.preflight import check_study
from gift_fast.studies.run import LocalRunner, run_study, split_by_presence
from gift_fast.studies.study import Study
from gift_fast.studies.study_files import load_study, study_names
from gift_fast.studies.tuning import Runner, foreseen
from gift_fast.training.processes import is_main_process

if TYPE_CHECKING:
    from gift_fast.studies.cluster import ClusterOptions

CHANGES = (
    *("dataset", "ipc", "student", "epochs", "seeds", "dataset_seeds"),
    *("validation", "tuning_seeds", "tuned", "baselines", "data_root"),
)
"""The options that replace what the study says."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``study``."""
    parser.add_argument("study", metavar="NAME", help=f"{', '.join(study_names())}, or a YAML file")
    parser.add_argument(
        "--sets",
        type=Path,
        metavar="DIR",
        help=(
            "folder of distilled sets, DATASET_METHOD_ipcN each; a set that is not in it is left "
            "out (default: sets are generated from crops of the real images)"
        ),
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="list the runs and estimate their time"
    )
    add_overrides(parser)
    add_cluster(parser)
    inputs = group_of(parser, "input files")
    add_data_root(inputs)
    add_teacher_dir(inputs)
    add_output(
        parser,
        out="folder for results, checkpoints and tables (default: runs)",
        force="repeat finished runs",
    ).add_argument(
        "--label-limit",
        type=float,
        metavar="GB",
        help=(
            "largest soft labels that runs share through a file, which is removed after them; "
            "teachers of runs with more label online, with 0 always (default: 10)"
        ),
    )
    add_execution(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add the options in ``CHANGES``."""
    parts = parser.add_argument_group("options that override the study")
    add_dataset(parts, required=False)
    parts.add_argument("--ipc", nargs="+", type=int, metavar="N", help="images per class")
    parts.add_argument("--student", metavar="NAME", help="network of all teachers and students")
    parts.add_argument("--epochs", type=int, metavar="N", help="of every student")
    parts.add_argument("--seeds", nargs="+", type=int, metavar="N", help="one student per seed")
    parts.add_argument(
        "--dataset-seeds",
        nargs="+",
        type=int,
        metavar="N",
        help="seeds of generated sets",
    )
    parts.add_argument(
        "--validation",
        type=int,
        metavar="N",
        help="size of the validation split for generated sets",
    )
    parts.add_argument(
        "--set-seeds",
        dest="dataset_seeds",
        nargs="+",
        type=int,
        action=FormerName,
        present="--dataset-seeds",
    )
    parts.add_argument(
        "--heldout", dest="validation", type=int, action=FormerName, present="--validation"
    )
    parts.add_argument(
        "--tuning-seeds",
        nargs="+",
        type=int,
        metavar="N",
        help="of the students of every trial",
    )
    parts.add_argument(
        "--no-tuning",
        dest="tuned",
        action="store_false",
        default=None,
        help="skip tuning; use the study's own hyperparameters only",
    )
    parts.add_argument(
        "--baselines",
        action="store_true",
        default=None,
        help=(
            "also run random images, hard labels and the full training set, and compute "
            "DD-Ranking's scores"
        ),
    )


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add the options of a Ray cluster."""
    cluster = parser.add_argument_group("several runs at a time (requires gift-fast[cluster])")
    cluster.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help=(
            "run on a Ray cluster: local (default) starts one on this machine, auto uses the one "
            "that this machine is part of, HOST:PORT another (without --ray: one run at a time)"
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


def run(options: argparse.Namespace) -> int:
    """Run the study and print its tables; the exit status is 1 if a run failed."""
    # It imports scipy, which takes a second that --help can do without.
    from gift_fast.report import write_tables

    asked = cluster_options(options)
    loaded = load_study(options.study)
    plan = narrowed(loaded, **given(options, CHANGES))
    if options.validation is None and plan.validation != loaded.validation:
        teller(options)(
            f"validation split: {plan.validation} training images, as suits {options.dataset}; the "
            f"study's own number is {loaded.validation}, and --validation gives another"
        )
    planned = plan.experiments(published=options.sets is not None)
    experiments, missing = split_by_presence(planned, options.sets)
    context = context_of(options)
    if missing:
        print(f"left out, not in {options.sets}: {', '.join(missing)}", file=sys.stderr)
    if not options.dry_run:
        baselines = baseline_experiments(experiments) if plan.baselines else []
        check_study(plan, [*experiments, *baselines], context, options.sets)
    try:
        with runner_of(asked, options, plan, context) as (runner, at_a_time):
            if options.dry_run:
                state = state_of(foreseen(plan, experiments, context.out), context.out)
                print(describe(plan, state, at_a_time))
                return 0
            finished = run_study(plan, experiments, runner, teller(options))
    except KeyboardInterrupt as error:
        stop = as_interrupted(error)
        state = state_of(foreseen(plan, experiments, context.out), context.out)
        stop.details.append(f"{count_in_words(state)}, {len(state.left)} left")
        raise stop from None
    except RunsFailed as failed:
        print(failed.report(), file=sys.stderr)
        print("the same command runs those again, and nothing else", file=sys.stderr)
        return 1
    if is_main_process():
        markdown, table = write_tables(context.out, plan, finished)
        print(markdown.read_text(encoding="utf-8"))
        print(f"{markdown} {table}; with figures: gift-fast report {context.out}")
    return 0


def cluster_options(options: argparse.Namespace) -> ClusterOptions | None:
    """Build the options of the Ray cluster; None without ``--ray``."""
    share = given(options, ["cpus_per_run", "gpus_per_run"])
    if options.ray is None:
        for name, value in share.items():
            raise ValueError(f"{name} must come with --ray, got {value}")
        return None
    from gift_fast.studies.cluster import ClusterOptions

    asked = ClusterOptions(address=options.ray, **share)
    if importlib.util.find_spec("ray") is None:
        raise ImportError("--ray needs ray; pip install 'gift-fast[cluster]' brings it")
    return asked


@contextmanager
def runner_of(
    asked: ClusterOptions | None, options: argparse.Namespace, plan: Study, context: RunContext
) -> Iterator[tuple[Runner, int]]:
    """Yield what runs the experiments, in this process or on a cluster, and how many at a time."""
    if asked is None:
        yield LocalRunner(plan, context, options.sets), 1
        return
    from gift_fast.studies.cluster import connected
    from gift_fast.studies.ray_runner import RayRunner

    with connected(asked, device=context.device, quiet=context.quiet) as cluster:
        yield RayRunner(cluster, plan, context, options.sets), cluster.runs
