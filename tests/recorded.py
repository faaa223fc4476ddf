"""Studies as `gift-fast study` records them, with results that are made up."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.evaluation.results import RunResult, write_run
from gift_fast.studies.manifest import manifest_path
from gift_fast.studies.sets import SetSource
from gift_fast.studies.study import Experiment
from gift_fast.training.eval_result import EvalResult

ENVIRONMENT = {"gift_fast": "0.1.0", "torch": "2.14.1", "device": "cpu (x86_64)"}

HERE = SetSource(dataset="digits", method="selected", ipc=10, network="convnet3", seed=0)
RDED = SetSource(dataset="cifar100", method="rded", ipc=10, network="convnet3")


class RecordedStudy:
    """Collects runs and writes them as a study has left them.

    Args:
        folder: of the runs.
        name: of the study.
        fields: of the manifest, in place of the defaults.
    """

    def __init__(self, folder: Path, name: str = "mine", **fields: object) -> None:
        self.folder = folder
        self.name = name
        self.fields = fields
        self.runs: list[dict[str, object]] = []

    def add(
        self,
        loss: str,
        top1: float,
        *,
        source: SetSource = HERE,
        seed: int = 0,
        purpose: str = "protocol",
        finished: bool = True,
        halves: tuple[float, float] | None = None,
        best: float | None = None,
        diverged: bool = False,
        **settings: object,
    ) -> None:
        """A run with a score; ``best`` is that of an earlier check."""
        last_loss = math.nan if diverged else 1.5
        values = {
            "dataset": source.dataset,
            "ipc": source.ipc,
            "student": source.network,
            "teachers": source.teachers,
            "loss": loss,
            "seed": seed,
            **settings,
        }
        config = EvaluationConfig.from_dict(values)
        experiment = Experiment(source, config, purpose).to_dict()
        classes = {"cifar100": 100, "tinyimagenet": 200}.get(source.dataset, 10)
        settled = config.resolved(num_images=source.ipc * classes)
        epochs = settled.epochs or 1
        halves = halves or (top1, top1)
        checks = [
            EvalResult(epochs // 2, (top1 if best is None else best), 99.0, 1.0, 2.0, halves),
            EvalResult(epochs, top1, 99.0, 1.0, last_loss, halves),
        ]
        inputs = {"test": "0" * 16, "distilled": f"{source.name}-{source.seed}"}
        result = RunResult(
            config=settled,
            inputs=inputs,
            checks=tuple(checks),
            seconds=1.0,
            images_per_second=100.0,
            peak_memory=1 << 20,
            environment=ENVIRONMENT,
            source="made up",
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        file = write_run(self.folder, result)
        if not finished:
            file.unlink()
        self.runs.append({**experiment, "file": file.name})

    def over_sets(self, loss: str, scores: list[float], **settings: object) -> None:
        """A run on each of as many sets."""
        for seed, score in enumerate(scores):
            self.add(loss, score, source=dataclasses.replace(HERE, seed=seed), **settings)

    def write(self) -> Path:
        """Writes the manifest; gives the folder."""
        contents = {
            "format": 2,
            "name": self.name,
            "title": "Losses on digits",
            "answers": ["table 6"],
            "notes": "",
            "preset": "paper",
            "tuning": None,
            **self.fields,
            "runs": self.runs,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        manifest_path(self.folder, self.name).write_text(json.dumps(contents))
        return self.folder
