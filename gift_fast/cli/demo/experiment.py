"""A minimal evaluation: a teacher, a distilled set, students and a table of losses.

A teacher is trained on the digits, the crops with the lowest teacher loss become the distilled set,
and students are trained on that set with several losses and two optimizers. All steps use the same
code as the other commands.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from gift_fast.cli.demo.config import DATASET, TEACHER, DemoConfig, student_configs
from gift_fast.cli.demo.summary import print_summary
from gift_fast.data.datasets import load_dataset
from gift_fast.data.distilled import DistilledSet
from gift_fast.distillation.selection import check_ipc, select_crops
from gift_fast.evaluation.context import RunContext
from gift_fast.evaluation.inputs import Inputs
from gift_fast.evaluation.results import RunResult
from gift_fast.evaluation.run import run_student
from gift_fast.evaluation.summary import summarize
from gift_fast.evaluation.teacher import prepare_teacher
from gift_fast.files.atomic import replacing
from gift_fast.files.disk import check_can_write
from gift_fast.report.pictures import save_accuracies, save_images
from gift_fast.training.objectives import display_name
from gift_fast.training.optimizers import optimizer_name


def run_demo(demo: DemoConfig) -> list[RunResult]:
    """Run the demo, print its results and write all files to ``demo.out``.

    Finished runs with the same settings are read and not repeated, so the same call resumes an
    interrupted demo.
    """
    start = time.perf_counter()
    dataset = load_dataset(DATASET)
    check_ipc(dataset, demo.ipc)
    check_can_write(demo.out)
    configs = list(student_configs(demo))
    context = RunContext(
        out=demo.out / "runs",
        teacher_dir=demo.out,
        device=demo.device,
        quiet=demo.quiet,
        force=demo.force,
    )
    with context.showing(context.accelerator(TEACHER), 1 + len(configs)) as shown:
        teacher, check = prepare_teacher(TEACHER, dataset, shown, replaces=True)
        distilled = select_crops(dataset, teacher, ipc=demo.ipc)
        save_distilled(demo.out / "distilled.pt", distilled)
        save_images(demo.out / "distilled.png", distilled)
        inputs = Inputs(dataset, distilled, (teacher,))
        runs = [
            run_student(
                config.resolved(len(distilled), distilled.learning_rate),
                inputs,
                shown,
                title=(
                    f"{display_name(config.loss)}, {optimizer_name(config.optimizer)}, "
                    f"seed {config.seed}"
                ),
            )
            for config in configs
        ]

    save_accuracies(demo.out / "accuracies.svg", summarize(runs), dataset.num_classes)
    print_summary(demo, dataset, check, distilled, runs, time.perf_counter() - start)
    return runs


def save_distilled(path: Path, distilled: DistilledSet) -> None:
    """Write a distilled set in the file format of GIFT's own code, with images in [0, 1]."""
    contents = {"dataset": DATASET, "data": distilled.images, "label": distilled.labels}
    with replacing(path) as temporary:
        torch.save(contents, temporary)
