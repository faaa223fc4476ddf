"""Runs a study's experiments as tasks of a Ray cluster, on this machine or on many.

The queue, the retries and the machines are Ray's. A task is what
:class:`~gift_fast.study.run.LocalRunner` does for one experiment, with the same function, and all
that it leaves behind is in the folder of the runs, which the machines share:

- What an experiment needs, its teachers and its set, is made by tasks of its own, each once.
- A task whose worker dies, with its machine or without, is run again on another (``RETRIES``), and
  goes on from the run's checkpoint.
- A run with a result is not begun. A worker that was given up but lives on, behind a broken network,
  may train a run for a second time; as every file is replaced whole, under a name that follows from
  configuration and inputs, what is left is the result of one of the two, and either is right. On
  CPUs with the same number of threads they are the same to the bit.
- A run that raises stops no other.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from gift_fast.student.config import EvaluationConfig, check_integer, check_number
from gift_fast.student.job import (
    EvaluationJob,
    Inputs,
    Place,
    check_writable,
    load_inputs,
    run_student,
    teacher_path,
)
from gift_fast.student.results import RunResult, code_of, read_run, run_path
from gift_fast.study.board import Board, Overview, Reporter, show_overview
from gift_fast.study.failures import Failure, RunsFailed
from gift_fast.study.manifest import Finished, Record, title_of
from gift_fast.study.plan import Experiment, SetSource, Study
from gift_fast.study.run import (
    Opened,
    groups_of,
    open_group,
    prepare,
    settled_for,
    train_missing_teacher,
)

RETRIES = 3
"""How often a task is run again when its worker has died. An exception is not a reason: it would
be raised again."""

REFRESH = 1.0
"""Seconds between two looks at the board."""


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Which cluster, and how much of it a run takes.

    Attributes:
        address: ``local`` starts Ray on this machine alone, ``auto`` takes the cluster that this
            machine is part of, and ``HOST:PORT`` or ``ray://HOST:PORT`` another one.
        cpus_per_run: CPU cores, and torch's threads.
        gpus_per_run: GPUs, 1 or a fraction of one; None is 1 where the cluster has GPUs.
    """

    address: str
    cpus_per_run: int = 1
    gpus_per_run: float | None = None

    def __post_init__(self) -> None:
        check_integer("cpus_per_run", self.cpus_per_run, 1)
        if self.gpus_per_run is not None:
            if self.gpus_per_run > 1:
                raise ValueError(f"gpus_per_run must be at most 1, got {self.gpus_per_run}")
            check_number("gpus_per_run", self.gpus_per_run, 1e-4, math.inf, "1e-4 or more")


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to.

    Attributes:
        ray: the package.
        cpus: cores of a run.
        gpus: GPUs of a run, 0 where it has none.
        runs: how many runs there can be at a time.
    """

    ray: Any
    cpus: int
    gpus: float
    runs: int


@contextmanager
def connected(options: ClusterOptions, *, device: str, quiet: bool) -> Iterator[Cluster]:
    """Connects this process to a cluster, and leaves it again; what still runs is then ended.

    Args:
        options: which cluster, and what a run takes of it.
        device: ``auto`` or ``cpu``; on ``cpu`` no GPU is asked for.
        quiet: does not show what workers print.

    Raises:
        ImportError: Ray is not installed.
        OSError: there is no such cluster.
        ValueError: no machine of the cluster is large enough for a run.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("--ray needs ray; pip install 'gift-fast[cluster]' brings it") from error

    settings: dict[str, Any] = {"log_to_driver": not quiet, "logging_level": "ERROR"}
    if options.address == "local":
        # A cluster for one command has no use for a dashboard, and should tell nobody of itself.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        settings["include_dashboard"] = False
    try:
        ray.init(address=options.address, **settings)
    except (ConnectionError, RuntimeError) as error:
        raise OSError(
            f"--ray {options.address}: no Ray cluster answers there ({error}); `ray start --head` "
            "starts one, and --ray local takes this machine alone"
        ) from error
    try:
        yield cluster_of(ray, options, device)
    finally:
        ray.shutdown()


def cluster_of(ray: Any, options: ClusterOptions, device: str) -> Cluster:
    """What there is of a cluster for runs."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = options.cpus_per_run, options.gpus_per_run
    if device == "cpu" or not any(machine.get("GPU") for machine in machines):
        if gpus is not None:
            raise ValueError(f"gpus_per_run must be left out where runs have no GPU, got {gpus}")
        gpus = 0.0
    elif gpus is None:
        gpus = 1.0
    runs = sum(runs_on(machine, cpus, gpus) for machine in machines)
    if runs == 0:
        largest = max((int(machine.get("CPU", 0)) for machine in machines), default=0)
        raise ValueError(
            f"cpus_per_run must be at most the cores of a machine{' with a GPU' if gpus else ''}, "
            f"got {cpus}; the largest machine has {largest}"
        )
    return Cluster(ray, cpus, gpus, runs)


def runs_on(machine: dict[str, float], cpus: int, gpus: float) -> int:
    """How many runs a machine can do at a time.

    Example:
        >>> runs_on({"CPU": 16.0, "GPU": 2.0}, cpus=2, gpus=0.5)
        4
    """
    by_cpu = int(machine.get("CPU", 0.0)) // cpus
    # As many on every GPU as fit on one: no run is spread over two.
    return min(by_cpu, int(machine.get("GPU", 0.0)) * int(1.0 / gpus)) if gpus else by_cpu


class RayRunner:
    """Runs experiments as tasks of a cluster.

    Args:
        cluster: that this process is connected to.
        study: that the experiments are of.
        place: where teachers and results are, for all machines alike; see
            :class:`~gift_fast.study.run.LocalRunner`.
        sets: folder of the published sets, or None where all are made here.
    """

    def __init__(
        self, cluster: Cluster, study: Study, place: Place, sets: Path | None = None
    ) -> None:
        self.cluster = cluster
        self.study = study
        self.force = place.force
        self.quiet = place.quiet
        # The driver removes what is to be repeated: a task that is run again is to go on.
        self.place = replace(
            place,
            out=place.out.absolute(),
            data_root=None if place.data_root is None else place.data_root.absolute(),
            teacher_dir=place.teacher_dir.absolute(),
            force=False,
        )
        self.sets = None if sets is None else sets.absolute()
        self.board = self.actor(Board)
        self.prepared: dict[SetSource, Any] = {}
        self.teachers: dict[Path, Any] = {}
        self.begun: set[str] = set()

    def actor(self, kind: type) -> Any:
        """A board beside the driver: it takes no core, and is lost with the driver only."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ray = self.cluster.ray
        here = ray.get_runtime_context().get_node_id()
        beside = NodeAffinitySchedulingStrategy(node_id=here, soft=True)
        return ray.remote(num_cpus=0, scheduling_strategy=beside)(kind).remote()

    def task(self, function: Callable[..., Any], name: str, *arguments: Any) -> Any:
        """Gives a function to the cluster, with the share of a machine that a run has."""
        cluster = self.cluster
        remote = cluster.ray.remote(
            num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_retries=RETRIES
        )(function)
        surroundings = Surroundings(cluster.cpus, os.getcwd(), self.board)
        return remote.options(name=name).remote(surroundings, *arguments)

    def __call__(self, experiments: Sequence[Experiment]) -> list[Finished]:
        """Runs what has not been run, and gives all results in the order of the experiments.

        Raises:
            RunsFailed: some runs have failed, after all others have finished.
        """
        check_writable(self.place.out)
        with show_overview(len(experiments), quiet=self.quiet) as overview:
            call = Call(self, experiments, overview)
            call.wait()
        if call.failures:
            raise RunsFailed(call.failures, overview.done)
        return [
            Finished(experiment, call.results[call.files[experiment]]) for experiment in experiments
        ]

    def set_of(self, source: SetSource) -> Any:
        """The task that gives the path of a set, after those of its teachers."""
        if source not in self.prepared:
            teachers = []
            for teacher in source.teachers:
                path = teacher_path(self.place, source.sized_dataset, teacher)
                if path not in self.teachers:
                    arguments = (self.study, source, teacher, self.place)
                    self.teachers[path] = self.task(make_teacher, path.stem, *arguments)
                teachers.append(self.teachers[path])
            arguments = (self.study, source, self.place, self.sets)
            self.prepared[source] = self.task(make_set, source.name, *arguments, *teachers)
        return self.prepared[source]
