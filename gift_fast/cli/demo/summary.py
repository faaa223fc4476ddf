"""The printed results of the demo: settings, table of losses and findings."""

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
    """Print the settings, the table, the findings and the paths of the files."""
    from rich.console import Console

    console = Console(highlight=False)
    wrap = console.is_terminal  # otherwise, one line per paragraph

    def echo(text: str = "") -> None:
        console.print(text, soft_wrap=not wrap, markup=False)

    cells = summarize(runs)
    echo(format_settings(demo, dataset, teacher, distilled))
    echo()
    print_table(console, accuracy_table(cells))
    echo("Mean over n seeds; std: population (ddof 0). The score is the accuracy after the last")
    echo("epoch. The paper's code reports the best test of each run instead, which is optimistic.")
    echo()
    for sentence in ranking_sentences(cells, dataset.num_classes):
        echo(f"- {sentence}")
    for line in divergence(runs):
        echo(line)
    echo(
        "- This demo uses small images, one distilled set and one teacher. It shows how the "
        "evaluation works; the results do not transfer to larger images. The std covers the "
        "seeds of the students only."
    )
    echo()
    echo(
        f"{demo.out}: distilled.png, accuracies.svg, distilled.pt, and one JSON file per run in "
        "runs/"
    )
    echo(f"finished in {seconds:.0f} s")


def format_settings(
    demo: DemoConfig, dataset: ImageDataset, teacher: EvalResult, distilled: DistilledSet
) -> str:
    """Format the settings of the demo, so that the table is self-contained."""
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
        f"{AUGMENTATION}. {optimizers}. By default, KL has T = 20 and no factor T^2."
    )
