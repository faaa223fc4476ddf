"""What a run gives, where it is kept, and how several runs become one number.

Every finished run is a JSON file of its own. Its name holds a digest of everything that the result
depends on, so a run is found again exactly when configuration and inputs are the same.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import nn

from gift_fast.data.datasets import ImageDataset
from gift_fast.data.distilled import DistilledSet
from gift_fast.data.zca import ZCA
from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.files import spec
from gift_fast.files.atomic import replacing
from gift_fast.files.fingerprint import fingerprint
from gift_fast.training.eval_result import Check
from gift_fast.training.predict import Transform

if TYPE_CHECKING:
    pass

FORMAT = 3
"""Raised whenever the meaning of a field changes; files of another format are not read."""


@dataclass(frozen=True)
class RunResult:
    """One student: what it was trained with and how accurate it became.

    Attributes:
        config: the run's configuration, resolved.
        inputs: digests of the test data with its normalisation, the distilled set, the teachers.
        checks: the tests, in order; the last one is the score.
        seconds: wall time of training and tests.
        images_per_second: of the training, tests left out, over all processes.
        peak_memory: most bytes held at a time: of the GPU, else of this process.
        environment: versions and device, for the record.
        source: where the distilled set is from, in words.
    """

    config: EvaluationConfig
    inputs: dict[str, str]
    checks: tuple[Check, ...]
    seconds: float
    images_per_second: float
    peak_memory: int
    environment: dict[str, str]
    source: str = ""

    @property
    def last(self) -> Check:
        """The test after the last epoch: the score."""
        return self.checks[-1]

    @property
    def best(self) -> Check:
        """The best of all tests, which is what the paper's code reports.

        It picks the moment by the test split, so it flatters.
        """
        return max(self.checks, key=lambda check: check.top1)

    @property
    def diverged(self) -> int | None:
        """The epoch of the first test at which a loss was NaN or infinite; None where none was.

        The student's accuracy then does not measure the loss that it was trained with.
        """
        finite = (math.isfinite(check.loss + check.test_loss) for check in self.checks)
        return next(
            (c.epoch for c, fine in zip(self.checks, finite, strict=True) if not fine), None
        )

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of plain values that JSON can hold."""
        return {
            "format": FORMAT,
            "config": self.config.to_dict(),
            "inputs": self.inputs,
            "last": self.last.to_dict(),
            "best": self.best.to_dict(),
            "diverged": self.diverged,
            "checks": [check.to_dict() for check in self.checks],
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "peak_memory": self.peak_memory,
            "environment": self.environment,
            "source": self.source,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunResult:
        """The result that ``to_dict`` was called on."""
        if values["format"] != FORMAT:
            raise ValueError(f"format must be {FORMAT}, got {values['format']!r}")
        if not values["checks"]:
            raise ValueError("checks must hold at least one test, got none")
        checks = tuple(Check.from_dict(check) for check in values["checks"])
        if not all(isinstance(c.top1, int | float) and 0 <= c.top1 <= 100 for c in checks):
            raise ValueError("top1 of every check must be a percentage")
        if not all(isinstance(c.top5, int | float) for c in checks):
            raise ValueError("top5 of every check must be a number")
        inputs = values["inputs"]
        if not isinstance(inputs, dict) or not all(isinstance(x, str) for x in inputs.values()):
            raise ValueError(f"inputs must be a mapping of digests, got {inputs!r}")
        if not isinstance(values["source"], str):
            raise ValueError(f"source must be a text, got {values['source']!r}")
        return cls(
            config=EvaluationConfig.from_dict(values["config"]),
            inputs=inputs,
            checks=checks,
            seconds=values["seconds"],
            images_per_second=values["images_per_second"],
            peak_memory=values["peak_memory"],
            environment=values["environment"],
            source=values["source"],
        )


def inputs_of(
    dataset: ImageDataset,
    distilled: DistilledSet,
    teachers: Sequence[nn.Module],
    whiten: Transform | None = None,
) -> dict[str, str]:
    """Digests of what a run reads beside its configuration."""
    constants = f"{dataset.mean} {dataset.std}"
    inputs = {
        "test": fingerprint([dataset.test.fingerprint(), constants]),
        "distilled": distilled.fingerprint(),
    }
    if isinstance(whiten, ZCA):
        inputs["whitening"] = whiten.fingerprint()
    if teachers:
        inputs["teachers"] = fingerprint(
            value for teacher in teachers for value in teacher.state_dict().values()
        )
    return inputs


def code_of(config: EvaluationConfig) -> dict[str, str]:
    """A digest of the modules with functions of the user's own, where a configuration names any.

    Two runs that call ``my_losses.huber`` are the same only where ``my_losses`` is.
    """
    specs = (
        *(config.dataset, config.student, *config.teachers, config.loss, config.optimizer),
        *(config.schedule, config.augmentation, config.mixing, config.classes),
    )
    names = sorted({name for name, _ in map(spec.split_spec, specs) if "." in name})
    if not names:
        return {}
    modules = [inspect.getmodule(spec.imported("config", name)) for name in names]
    return {"code": fingerprint(source_of(module) for module in modules)}


def source_of(module: ModuleType | None) -> str:
    """The text of a module; of one without a text, its name."""
    try:
        return "" if module is None else inspect.getsource(module)
    except (OSError, TypeError):
        return str(module)


def run_path(directory: Path, config: EvaluationConfig, inputs: dict[str, str]) -> Path:
    """Where the result of a run is kept: readable first, then the digest that makes it unique."""
    identity = json.dumps([FORMAT, config.to_dict(), inputs], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    name = f"{config.loss}-{config.optimizer}-seed{config.seed}"
    return directory / f"{re.sub(r'[^A-Za-z0-9.=-]+', '_', name)}-{digest}.json"


def write_run(directory: Path, result: RunResult) -> Path:
    """Writes a result under its name, whole or not at all, and gives the path."""
    path = run_path(directory, result.config, result.inputs)
    with replacing(path) as temporary:
        text = json.dumps(result.to_dict(), indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    return path


def read_run(path: Path) -> RunResult:
    """Reads a result that :func:`write_run` wrote.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is not such a result; the message names it.
    """
    contents = path.read_bytes()
    try:
        return RunResult.from_dict(json.loads(contents))
    except (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as e:
        raise ValueError(
            f"{path} must hold the result of a run, got: {e!r}; if it is damaged, delete it, and "
            "the run is made again"
        ) from e


def find_run(directory: Path, config: EvaluationConfig, inputs: dict[str, str]) -> RunResult | None:
    """The finished run with this configuration and these inputs, or None."""
    path = run_path(directory, config, inputs)
    return read_run(path) if path.exists() else None


# ---- runs that have diverged ---------------------------------------------------------------------


DIVERGED = "†"
"""Marks an accuracy that diverged runs are part of."""


def marked(text: str, runs: Iterable[RunResult]) -> str:
    """An accuracy in words, with a mark where any of its runs has diverged."""
    return text + DIVERGED if any(run.diverged is not None for run in runs) else text


def divergence(runs: Sequence[RunResult]) -> list[str]:
    """A line on how many of some runs have diverged and what to do, or nothing where none has."""
    lost = [run.diverged for run in runs if run.diverged is not None]
    if not lost:
        return []
    epochs = f"{min(lost)}" + (f" to {max(lost)}" if min(lost) < max(lost) else "")
    return [
        f"{DIVERGED} {len(lost)} of {len(runs)} run{'s' * (len(runs) > 1)} diverged: not finite at "
        f"the test after epoch {epochs}. Their accuracy does not measure the loss function; try a "
        "smaller learning rate."
    ]


def outcome(run: RunResult) -> str:
    """What came of a run, for a line of progress."""
    lost = "" if run.diverged is None else f", diverged by epoch {run.diverged}"
    return f"top-1 {run.last.top1:.1f} %{lost}"


# ---- several runs as one number ------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds.

    Attributes:
        mean: the mean.
        population_std: with ddof 0, divided by n: what the paper's code reports.
        sample_std: with ddof 1, divided by n - 1; NaN for a single value.
        n: number of values.

    Example:
        >>> spread([1.0, 3.0])
        Spread(mean=2.0, population_std=1.0, sample_std=1.4142135623730951, n=2)
    """

    mean: float
    population_std: float
    sample_std: float
    n: int


def spread(values: Sequence[float]) -> Spread:
    """Mean and both standard deviations; at least one value is needed, else ValueError."""
    n = len(values)
    if n == 0:
        raise ValueError("values must hold at least one number, got none")
    mean = math.fsum(values) / n
    squares = math.fsum((value - mean) ** 2 for value in values)
    sample_std = math.sqrt(squares / (n - 1)) if n > 1 else math.nan
    return Spread(mean, math.sqrt(squares / n), sample_std, n)


@dataclass(frozen=True)
class Cell:
    """All seeds of one loss under one optimizer.

    Attributes:
        loss: the specification of the loss.
        optimizer: name of the optimizer.
        last: top-1 after the last epoch, percent: the score.
        best: top-1 of each run's best check, percent.
        values: the score of every seed, in the order of the runs.
        seconds: mean wall time of a run.
        diverged: how many of the runs have diverged.
    """

    loss: str
    optimizer: str
    last: Spread
    best: Spread
    values: tuple[float, ...]
    seconds: float
    diverged: int = 0


def summarize(runs: Sequence[RunResult]) -> list[Cell]:
    """One cell for every loss and optimizer, in the order in which they first come."""
    groups: dict[tuple[str, str], list[RunResult]] = {}
    for run in runs:
        groups.setdefault((run.config.loss, run.config.optimizer), []).append(run)
    return [
        Cell(
            loss=loss,
            optimizer=optimizer,
            last=spread([run.last.top1 for run in group]),
            best=spread([run.best.top1 for run in group]),
            values=tuple(run.last.top1 for run in group),
            seconds=spread([run.seconds for run in group]).mean,
            diverged=sum(run.diverged is not None for run in group),
        )
        for (loss, optimizer), group in groups.items()
    ]
