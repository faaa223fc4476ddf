"""The printed results of the demo: its settings, the table of losses and what it shows."""

from __future__ import annotations

from gift_fast.cli.demo.config import AUGMENTATION, OPTIMIZERS, DemoConfig
from gift_fast.data.datasets import ImageDataset
from gift_fast.data.distilled import DistilledSet
from gift_fast.evaluation.results import RunResult
from gift_fast.evaluation.rules import paper_batch_size
from gift_fast.evaluation.summary import divergence, summarize
from gift_fast.report.ranking import ranking_sentences
from gift_fast.report.terminal import accuracy_table, print_table
from gift_fast.training.eval_result import EvalResult
from gift_fast.training.optimizers import optimizer_name


def print_summary(
    demo: DemoConfig,
    dataset: ImageDataset,
    teacher: EvalResult,
    distilled: DistilledSet,
    runs: list[RunResult],
    seconds: float,
) -> None:
    """Prints the settings, the table, the findings and the paths of the files."""
    from rich.console import Console

    console = Console(highlight=False)
    wrap = console.is_terminal  # a pipe gets one line per paragraph

    def say(text: str = "") -> None:
        console.print(text, soft_wrap=not wrap, markup=False)

    cells = summarize(runs)
    say(settings_in_words(demo, dataset, teacher, distilled))
    say()
    print_table(console, accuracy_table(cells))
    say("Mean over n seeds; std: population (ddof 0). The score is the accuracy after the last")
    say("epoch. The paper's code reports the best test instead, which the test images select.")
    say()
    for sentence in ranking_sentences(cells, dataset.num_classes):
        say(f"- {sentence}")
    for line in divergence(runs):
        say(line)
    say(
        "- With small digits, one distilled set and one teacher, this shows how the evaluation "
        "works and says nothing about larger images. The std covers only the seeds of the students."
    )
    say()
    say(
        f"{demo.out}: distilled.png, accuracies.svg, distilled.pt, and in runs/ one JSON file per "
        "run"
    )
    say(f"finished in {seconds:.0f} s")


def settings_in_words(
    demo: DemoConfig, dataset: ImageDataset, teacher: EvalResult, distilled: DistilledSet
) -> str:
    """The settings of the demo, so that the table can be read by itself."""
    optimizers = "; ".join(
        f"{optimizer_name(str(settings['optimizer']))} "
        + ", ".join(
            f"{name.replace('_', ' ')} {value:g}"
            for name, value in settings.items()
            if isinstance(value, float)
        )
        for settings in OPTIMIZERS
    )
    count = len(distilled.images)
    batch_size = paper_batch_size(count)
    return (
        f"Digits, {len(dataset.training_split)} training and {len(dataset.test)} test images "
        f"of {dataset.side} x {dataset.side}. Teacher: ConvNet-3, width 32, "
        f"{teacher.top1:.1f} % top-1. Distilled: {count} images, "
        f"{distilled.source}. Students: the same network, {demo.epochs} epochs, batch size "
        f"{batch_size}, learning rate x 0.2 after 2/3 and 5/6 of the epochs, augmentation "
        f"{AUGMENTATION}. {optimizers}. KL has T = 20 and no factor T^2 by default."
    )
