"""``gift-fast study``: run all evaluations of a study."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gift_fast.cli.arguments import (
    DeprecatedOption,
    add_data_root,
    add_dataset,
    add_execution,
    add_output,
    add_teacher_dir,
    context_of,
    given,
    group_of,
    status_printer,
)
from gift_fast.evaluation.context import RunContext
from gift_fast.process.signals import as_interrupted
from gift_fast.studies.baselines import baseline_experiments
from gift_fast.studies.failures import RunsFailed
from gift_fast.studies.manifest import describe, format_progress, state_of
from gift_fast.studies.overrides import with_overrides
from gift_fast.studies.preflight import check_study
from gift_fast.studies.run import LocalRunner, run_study, split_by_presence
from gift_fast.studies.study import Study
from gift_fast.studies.study_files import load_study, study_names
from gift_fast.studies.tuning import Runner, expected_runs
from gift_fast.training.processes import is_main_process

if TYPE_CHECKING:
    from gift_fast.studies.cluster import ClusterOptions

OVERRIDES = (
    *("dataset", "ipc", "student", "epochs", "seeds", "dataset_seeds"),
    *("validation", "tuning_seeds", "tuned", "baselines", "data_root"),
)
"""The options that are arguments of ``with_overrides``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``study``."""
    parser.add_argument("study", metavar="NAME", help=f"{', '.join(study_names())}, or a YAML file")
    parser.add_argument(
        "--sets",
        type=Path,
        metavar="DIR",
        help=(
            "folder of distilled sets, named DATASET_METHOD_ipcN; missing sets are skipped "
            "(default: sets are generated from crops of the real images)"
        ),
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only list the runs and their estimated time"
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
            "maximum size of a label set that runs share; if labels would be larger, every run "
            "has its teachers online; 0 disables sharing (default: 10)"
        ),
    )
    add_execution(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add the options in ``OVERRIDES``."""
    group = parser.add_argument_group("options that override the study")
    add_dataset(group, required=False)
    group.add_argument("--ipc", nargs="+", type=int, metavar="N", help="images per class")
    group.add_argument("--student", metavar="NAME", help="network of all teachers and students")
    group.add_argument("--epochs", type=int, metavar="N", help="epochs of every student")
    group.add_argument("--seeds", nargs="+", type=int, metavar="N", help="seeds of the students")
    group.add_argument(
        "--dataset-seeds",
        nargs="+",
        type=int,
        metavar="N",
        help="seeds of generated sets",
    )
    group.add_argument(
        "--validation",
        type=int,
        metavar="N",
        help="size of the validation split for generated sets",
    )
    group.add_argument(
        "--set-seeds",
        dest="dataset_seeds",
        nargs="+",
        type=int,
        action=DeprecatedOption,
        new_name="--dataset-seeds",
    )
    group.add_argument(
        "--heldout", dest="validation", type=int, action=DeprecatedOption, new_name="--validation"
    )
    group.add_argument(
        "--tuning-seeds",
        nargs="+",
        type=int,
        metavar="N",
        help="seeds of the trials",
    )
    group.add_argument(
        "--no-tuning",
        dest="tuned",
        action="store_false",
        default=None,
        help="skip tuning; use the study's own hyperparameters only",
    )
    group.add_argument(
        "--baselines",
        action="store_true",
        default=None,
        help=(
            "also run random images, hard labels and the full training set, and compute "
            "DD-Ranking's scores"
        ),
    )


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add the options for a Ray cluster."""
    cluster = parser.add_argument_group("parallel runs (requires gift-fast[cluster])")
    cluster.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help=(
            "run on a Ray cluster: local (default) starts one on this machine, auto uses the "
            "cluster of this machine, HOST:PORT another one (without --ray: one run at a time)"
        ),
    )
    cluster.add_argument(
        "--cpus-per-run",
        type=int,
        metavar="N",
        help="CPU cores and torch threads per run (default: 1)",
    )
    cluster.add_argument(
        "--gpus-per-run",
        type=float,
        metavar="X",
        help="GPUs per run, at most 1; may be a fraction (default: 1 if the cluster has GPUs)",
    )


def run(options: argparse.Namespace) -> int:
    """Run the study and print its tables; the exit status is 1 if a run failed."""
    # Imports scipy, which takes a second and is not needed for --help.
    from gift_fast.report import write_tables

    cluster, log = cluster_options(options), status_printer(options)
    loaded = load_study(options.study)
    study = with_overrides(loaded, **given(options, OVERRIDES))
    if options.validation is None and study.validation != loaded.validation:
        log(
            f"validation split: {study.validation} training images, chosen for the size of "
            f"{options.dataset} (the study has {loaded.validation}); --validation sets another size"
        )
    planned = study.experiments(published=options.sets is not None)
    experiments, missing = split_by_presence(planned, options.sets)
    context = context_of(options)
    if missing:
        print(f"skipped, not found in {options.sets}: {', '.join(missing)}", file=sys.stderr)
    if not options.dry_run:
        baselines = baseline_experiments(experiments) if study.baselines else []
        check_study(study, [*experiments, *baselines], context, options.sets)
    try:
        with runner_of(cluster, options, study, context) as (runner, parallel_runs):
            if options.dry_run:
                state = state_of(expected_runs(study, experiments, context.out), context.out)
                print(describe(study, state, parallel_runs))
                return 0
            finished = run_study(study, experiments, runner, log)
    except KeyboardInterrupt as error:
        stop = as_interrupted(error)
        state = state_of(expected_runs(study, experiments, context.out), context.out)
        stop.details.append(f"{format_progress(state)}, {len(state.left)} left")
        raise stop from None
    except RunsFailed as failed:
        print(failed.report(), file=sys.stderr)
        print("run the same command to retry the failed runs", file=sys.stderr)
        return 1
    if is_main_process():
        markdown, table = write_tables(context.out, study, finished)
        print(markdown.read_text(encoding="utf-8"))
        print(f"{markdown} {table}; for figures, run: gift-fast report {context.out}")
    return 0


def cluster_options(options: argparse.Namespace) -> ClusterOptions | None:
    """Build the options of the Ray cluster; return None without ``--ray``."""
    resources = given(options, ["cpus_per_run", "gpus_per_run"])
    if options.ray is None:
        for name, value in resources.items():
            raise ValueError(f"{name} must be used with --ray, got {value}")
        return None
    from gift_fast.studies.cluster import ClusterOptions

    cluster = ClusterOptions(address=options.ray, **resources)
    if importlib.util.find_spec("ray") is None:
        raise ImportError("--ray needs ray; install it with pip install 'gift-fast[cluster]'")
    return cluster


@contextmanager
def runner_of(
    cluster: ClusterOptions | None, options: argparse.Namespace, study: Study, context: RunContext
) -> Iterator[tuple[Runner, int]]:
    """Yield a runner, in this process or on a cluster, and its maximum number of parallel runs."""
    if cluster is None:
        yield LocalRunner(study, context, options.sets), 1
        return
    from gift_fast.studies.cluster import connected
    from gift_fast.studies.ray_runner import RayRunner

    with connected(cluster, device=context.device, quiet=context.quiet) as connection:
        yield RayRunner(connection, study, context, options.sets), connection.runs
