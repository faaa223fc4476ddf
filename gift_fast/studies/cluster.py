"""Connection to a Ray cluster, and the number of runs that fit on it."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gift_fast.files.checks import check_integer, check_number
from gift_fast.process import signals as interrupt


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """The address of a cluster and the resources of a run.

    Attributes:
        address: ``local`` starts Ray on this machine only, ``auto`` uses the cluster of this
            machine, and ``HOST:PORT`` or ``ray://HOST:PORT`` another one.
        cpus_per_run: CPU cores and torch threads per run.
        gpus_per_run: GPUs per run, at most 1; None is 1 if the cluster has GPUs, otherwise 0.
    """

    address: str
    cpus_per_run: int = 1
    gpus_per_run: float | None = None

    def __post_init__(self) -> None:
        if self.address not in ("local", "auto") and self.host_and_port is None:
            raise ValueError(
                "--ray must be local, auto, HOST:PORT (port of Ray) or ray://HOST:PORT (port of "
                f"the Ray client server), got {self.address!r}"
            )
        check_integer("cpus_per_run", self.cpus_per_run, 1)
        if self.gpus_per_run is not None:
            if self.gpus_per_run > 1:
                raise ValueError(f"gpus_per_run must be at most 1, got {self.gpus_per_run}")
            check_number("gpus_per_run", self.gpus_per_run, 1e-4, math.inf, "1e-4 or more")

    @property
    def host_and_port(self) -> tuple[str, int] | None:
        """Host and port of the cluster, or None for ``local`` and ``auto``.

        Example:
            >>> ClusterOptions(address="ray://10.0.0.1:10001").host_and_port
            ('10.0.0.1', 10001)
        """
        host, _, port = self.address.removeprefix("ray://").rpartition(":")
        return (host.strip("[]"), int(port)) if host and port.isdecimal() else None

    def check_reachable(self) -> None:
        """Raise OSError if no process listens at the address; Ray would retry for minutes."""
        if self.host_and_port is not None:
            with socket.create_connection(self.host_and_port, timeout=10.0):
                pass


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to.

    Attributes:
        ray: the imported package.
        cpus: CPU cores per run.
        gpus: GPUs per run; 0 without GPUs.
        runs: maximum number of parallel runs.
    """

    ray: Any
    cpus: int
    gpus: float
    runs: int


@contextmanager
def connected(options: ClusterOptions, *, device: str, quiet: bool) -> Iterator[Cluster]:
    """Connect this process to a cluster; at the end of the block, running tasks are ended.

    Args:
        options: the address of the cluster and the resources of a run.
        device: ``auto`` or ``cpu``; with ``cpu``, no GPUs are requested.
        quiet: whether to hide the output of the workers.

    Raises:
        ImportError: Ray is not installed.
        OSError: the cluster cannot be reached.
        ValueError: no machine of the cluster has enough resources for a run.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "--ray needs ray; install it with pip install 'gift-fast[cluster]'"
        ) from error

    settings: dict[str, Any] = {"log_to_driver": not quiet, "logging_level": "ERROR"}
    if options.address == "local":
        # A temporary cluster needs neither a dashboard nor usage statistics.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        settings["include_dashboard"] = False
    try:
        options.check_reachable()
        ray.init(address=options.address, **settings)
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"--ray {options.address}: cannot connect to a Ray cluster ({error}); start one with "
            "`ray start --head`, or use --ray local to run on this machine only"
        ) from error
    interrupt.current().install()  # Ray has replaced the signal handler
    try:
        yield cluster_of(ray, options, device)
    finally:
        ray.shutdown()


def cluster_of(ray: Any, options: ClusterOptions, device: str) -> Cluster:
    """The resources of a connected cluster.

    Raises:
        ValueError: no machine has enough resources for a run.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = options.cpus_per_run, options.gpus_per_run
    if device == "cpu" or not any(machine.get("GPU") for machine in machines):
        if gpus is not None:
            raise ValueError(f"gpus_per_run must not be set without GPUs, got {gpus}")
        gpus = 0.0
    elif gpus is None:
        gpus = 1.0
    runs = sum(runs_on(machine, cpus, gpus) for machine in machines)
    if runs == 0:
        largest = max((int(machine.get("CPU", 0)) for machine in machines), default=0)
        raise ValueError(
            f"cpus_per_run must be at most the number of cores of a machine"
            f"{' with a GPU' if gpus else ''}, got {cpus}; the largest machine has {largest}"
        )
    return Cluster(ray, cpus, gpus, runs)


def runs_on(machine: dict[str, float], cpus: int, gpus: float) -> int:
    """The maximum number of parallel runs on a machine.

    Example:
        >>> runs_on({"CPU": 16.0, "GPU": 2.0}, cpus=2, gpus=0.5)
        4
    """
    by_cpu = int(machine.get("CPU", 0.0)) // cpus
    # A run is not split across GPUs, so the number per GPU is rounded down.
    return min(by_cpu, int(machine.get("GPU", 0.0)) * int(1.0 / gpus)) if gpus else by_cpu
