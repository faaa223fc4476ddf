"""A Ray cluster: how to connect to it, and how many runs it can do at a time."""

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
        if self.address not in ("local", "auto") and self.host_and_port is None:
            raise ValueError(
                "--ray must be local, auto, HOST:PORT or ray://HOST:PORT, of Ray's own port or its "
                f"client's; got {self.address!r}"
            )
        check_integer("cpus_per_run", self.cpus_per_run, 1)
        if self.gpus_per_run is not None:
            if self.gpus_per_run > 1:
                raise ValueError(f"gpus_per_run must be at most 1, got {self.gpus_per_run}")
            check_number("gpus_per_run", self.gpus_per_run, 1e-4, math.inf, "1e-4 or more")

    @property
    def host_and_port(self) -> tuple[str, int] | None:
        """Where the cluster is, if it is named.

        Example:
            >>> ClusterOptions(address="ray://10.0.0.1:10001").host_and_port
            ('10.0.0.1', 10001)
        """
        host, _, port = self.address.removeprefix("ray://").rpartition(":")
        return (host.strip("[]"), int(port)) if host and port.isdecimal() else None

    def check_answer(self) -> None:
        """Raise OSError where nothing listens at a named address; Ray would try for minutes."""
        if self.host_and_port is not None:
            with socket.create_connection(self.host_and_port, timeout=10.0):
                pass


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
    """Connect this process to a cluster, and leaves it again; what still runs is then ended.

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
        options.check_answer()
        ray.init(address=options.address, **settings)
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"--ray {options.address}: no Ray cluster answers there ({error}); `ray start --head` "
            "starts one, and --ray local takes this machine alone"
        ) from error
    interrupt.current().install()  # Ray has put a handler of its own in its place
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
