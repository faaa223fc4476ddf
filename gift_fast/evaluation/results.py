"""The results of runs and their files.

Every finished run has a JSON file. Its name contains a digest of everything that the result depends
on, so a run is only repeated if its configuration or its inputs change.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gift_fast.evaluation.config import ResolvedEvaluationConfig
from gift_fast.files.atomic import replacing
from gift_fast.training.eval_result import EvalResult

if TYPE_CHECKING:
    pass

FORMAT = 3
"""Version of the file format, raised when the meaning of a field changes. Others are not read."""


@dataclass(frozen=True)
class RunResult:
    """The configuration of a student, its inputs and its accuracy.

    Attributes:
        config: the resolved configuration.
        inputs: digests of the normalized test data, the distilled set and the teachers.
        checks: the tests, in order; the last one is the score.
        seconds: wall time of training and tests.
        images_per_second: training throughput over all processes; tests are not counted.
        peak_memory: peak memory in bytes, of the GPU or otherwise of this process.
        environment: versions and device.
        source: description of the distilled set's source.
    """

    config: ResolvedEvaluationConfig
    inputs: dict[str, str]
    checks: tuple[EvalResult, ...]
    seconds: float
    images_per_second: float
    peak_memory: int
    environment: dict[str, str]
    source: str = ""

    @property
    def last(self) -> EvalResult:
        """The test after the last epoch, which is the score."""
        return self.checks[-1]

    @property
    def best(self) -> EvalResult:
        """The test with the highest top-1 accuracy, which the paper's code reports.

        It is biased upward, because the epoch is selected on the test split.
        """
        return max(self.checks, key=lambda check: check.top1)

    @property
    def diverged(self) -> int | None:
        """The epoch of the first test with a NaN or infinite loss; None if there is none.

        The accuracy of a diverged student says nothing about its loss function.
        """
        finite = (math.isfinite(check.loss + check.test_loss) for check in self.checks)
        return next(
            (c.epoch for c, fine in zip(self.checks, finite, strict=True) if not fine), None
        )

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-compatible values."""
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
        """The result with the values of ``to_dict``.

        Raises:
            ValueError: another format, or a value of the wrong type.
        """
        if values["format"] != FORMAT:
            raise ValueError(f"format must be {FORMAT}, got {values['format']!r}")
        if not values["checks"]:
            raise ValueError("checks must contain at least one test, got none")
        checks = tuple(EvalResult.from_dict(check) for check in values["checks"])
        if not all(isinstance(c.top1, int | float) and 0 <= c.top1 <= 100 for c in checks):
            raise ValueError("top1 of every check must be a percentage")
        for name in ("top5", "loss", "test_loss"):
            for value in (getattr(check, name) for check in checks):
                if not isinstance(value, int | float) or math.isinf(value):  # NaN: diverged
                    raise ValueError(f"{name} of every check must be a number, got {value!r}")
        for name in ("seconds", "images_per_second", "peak_memory"):
            if not isinstance(values[name], int | float) or not math.isfinite(values[name]):
                raise ValueError(f"{name} must be a finite number, got {values[name]!r}")
        for name in ("inputs", "environment"):
            texts = values[name]
            if not isinstance(texts, dict) or not all(isinstance(x, str) for x in texts.values()):
                raise ValueError(f"{name} must be a mapping to strings, got {texts!r}")
        inputs = values["inputs"]
        if not isinstance(values["source"], str):
            raise ValueError(f"source must be a string, got {values['source']!r}")
        return cls(
            config=ResolvedEvaluationConfig.from_dict(values["config"]),
            inputs=inputs,
            checks=checks,
            seconds=values["seconds"],
            images_per_second=values["images_per_second"],
            peak_memory=values["peak_memory"],
            environment=values["environment"],
            source=values["source"],
        )


def run_path(directory: Path, config: ResolvedEvaluationConfig, inputs: dict[str, str]) -> Path:
    """The file of a run's result: loss, optimizer, seed, and a digest that makes it unique."""
    identity = json.dumps([FORMAT, config.to_dict(), inputs], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    name = f"{config.loss}-{config.optimizer}-seed{config.seed}"
    return directory / f"{re.sub(r'[^A-Za-z0-9.=-]+', '_', name)}-{digest}.json"


def write_run(directory: Path, result: RunResult) -> Path:
    """Write a result atomically to :func:`run_path` and return the path."""
    path = run_path(directory, result.config, result.inputs)
    with replacing(path) as temporary:
        text = json.dumps(result.to_dict(), indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    return path


def read_run(path: Path) -> RunResult:
    """Read a result that :func:`write_run` wrote.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is not such a result; the message names it.
    """
    contents = path.read_bytes()
    try:
        return RunResult.from_dict(json.loads(contents))
    except (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as e:
        raise ValueError(
            f"{path} must contain the result of a run, got: {e!r}; if it is damaged, delete it and "
            "repeat the run"
        ) from e


def find_run(
    directory: Path, config: ResolvedEvaluationConfig, inputs: dict[str, str]
) -> RunResult | None:
    """Read the finished run with this configuration and these inputs; None if there is none."""
    path = run_path(directory, config, inputs)
    return read_run(path) if path.exists() else None
