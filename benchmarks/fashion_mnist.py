"""Results of the losses on real images: Fashion-MNIST, a teacher and distilled sets made here.

    python -m benchmarks.fashion_mnist --out runs/fashion-mnist

Two parts, both fixed before any result was seen. ``full``: the paper's protocol (ConvNet-3 of width
128, AdamW, 1000 epochs) at one image a class for all losses, and at ten for GIFT and KL, one seed.
``reduced``: width 32, 100 epochs, three seeds, at 10 and 50 images a class, all losses. Every run
is a file, and a stopped call goes on when it is called again. The tables go to the standard output,
as Markdown, and with ``--write docs/results.md`` there, with a picture beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tables import insert_report
from gift_fast.student import EvaluationConfig, TeacherConfig, load_dataset
from gift_fast.student.distilled.selection import select_crops
from gift_fast.student.job import Inputs, Place, prepare_teacher, run_student
from gift_fast.student.objectives import display_name
from gift_fast.student.report import save_figure
from gift_fast.student.results import RunResult, summarize

DATASET = "fashion-mnist"
MARKERS = "<!-- fashion_mnist: begin -->", "<!-- fashion_mnist: end -->"

REFINED = tuple(f"refine+{loss}" for loss in ("cosine", "kl", "mse", "softce"))
LOSSES = (
    *("gift", "cosine", "ce", "kl", "kl:scale_t2=true", "mse", "softce"),
    *("kl+ce", "mse+ce", "softce+ce", "kd", "dkd", "nkd", "wsld"),
    *REFINED,
)


@dataclass(frozen=True)
class Part:
    """Runs of one protocol.

    Attributes:
        title: heads its table.
        network: of teacher and students.
        epochs: of every student.
        seeds: students of every cell.
        cells: losses by images per class.
    """

    title: str
    network: str
    epochs: int
    seeds: int
    cells: dict[int, tuple[str, ...]]


PARTS = {
    "full": Part("The paper's protocol", "convnet3", 1000, 1, {1: LOSSES, 10: ("gift", "kl")}),
    "reduced": Part(
        "`reduced`: width 32, 100 epochs", "convnet3:width=32", 100, 3, {10: LOSSES, 50: LOSSES}
    ),
}


def teacher_config(part: Part) -> TeacherConfig:
    """Ten epochs of the usual recipe, in bfloat16: the students are trained in float32."""
    return TeacherConfig(dataset=DATASET, model=part.network, epochs=10, mixed_precision="bf16")


def student_configs(part: Part) -> Iterator[EvaluationConfig]:
    """Every run of a part."""
    for ipc, losses in part.cells.items():
        for loss in losses:
            for seed in range(part.seeds):
                yield EvaluationConfig(
                    dataset=DATASET,
                    ipc=ipc,
                    student=part.network,
                    teachers=(part.network,),
                    loss=loss,
                    epochs=part.epochs,
                    seed=seed,
                )


def run_part(part: Part, place: Place) -> list[RunResult]:
    """Runs what has not been run, and gives all results."""
    dataset = load_dataset(DATASET, place.data_root)
    config = teacher_config(part)
    configs = list(student_configs(part))
    accelerator = place.accelerator(config)
    with place.progress(accelerator, 1 + len(configs)) as progress:
        teacher, _ = prepare_teacher(config, dataset, place, accelerator, progress)
        inputs = {
            ipc: Inputs(dataset, select_crops(dataset, teacher, ipc=ipc), (teacher,))
            for ipc in part.cells
        }
        return [
            run_student(
                config.resolved(len(inputs[config.ipc].distilled)),
                inputs[config.ipc],
                place,
                accelerator,
                progress,
                title=f"IPC {config.ipc}, {display_name(config.loss)}, seed {config.seed}",
            )
            for config in configs
        ]


def save_picture(path: Path, results: dict[str, list[RunResult]]) -> None:
    """Saves a PNG: a panel for every number of images a class that all losses ran at."""
    from matplotlib.figure import Figure

    panels = [
        (f"{PARTS[name].title}\nIPC {ipc}", [run for run in runs if run.config.ipc == ipc])
        for name, runs in results.items()
        for ipc, losses in PARTS[name].cells.items()
        if losses == LOSSES
    ]
    figure = Figure(figsize=(4.0 * len(panels), 4.8), layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, runs) in zip(row, panels, strict=True):
        cells = sorted(summarize(runs), key=lambda cell: cell.last.mean)
        for place, cell in enumerate(cells):
            axes.plot(cell.values, [place] * len(cell.values), "o", color="#56B4E9", markersize=4)
            axes.plot(cell.last.mean, place, "D", color="#0072B2", markersize=6)
        axes.set_yticks(range(len(cells)), [display_name(cell.loss) for cell in cells])
        axes.grid(axis="x", linewidth=0.3)
        axes.set_xlabel("top-1 after the last epoch, %")
        axes.set_title(title.replace("`", ""), fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(path, figure)


def table(part: Part, runs: list[RunResult]) -> str:
    """The results as Markdown: a row a loss, top-1 of the last epoch and of the best check."""
    lines = []
    for ipc in part.cells:
        cells = summarize([run for run in runs if run.config.ipc == ipc])
        n = cells[0].last.n
        lines += [f"### {part.title}, IPC {ipc}, {n} seed{'s' if n > 1 else ''}", ""]
        lines += ["| loss | top-1, last epoch | best check |", "|---|---:|---:|"]
        for cell in sorted(cells, key=lambda cell: -cell.last.mean):
            spread = f" +- {cell.last.sample_std:.1f}" if n > 1 else ""
            lines.append(
                f"| {display_name(cell.loss)} | {cell.last.mean:.1f}{spread} "
                f"| {cell.best.mean:.1f} |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Runs the parts and prints their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, help="default: Debian's package")
    parser.add_argument("--out", type=Path, default=Path("runs/fashion-mnist"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--write", type=Path, metavar="FILE", help="puts the tables into this file")
    options = parser.parse_args()
    place = Place(
        out=options.out, data_root=options.data_root, teacher_dir=options.out / "teachers"
    )
    results = {name: run_part(PARTS[name], place) for name in options.parts}
    tables = "\n".join(table(PARTS[name], runs) for name, runs in results.items())
    print(tables)
    if options.write:
        insert_report(options.write, tables.strip(), MARKERS)
        save_picture(options.write.with_suffix(".png"), results)


if __name__ == "__main__":
    main()
