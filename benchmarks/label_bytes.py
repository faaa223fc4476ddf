r"""Measures a student's accuracy against the bytes of its stored soft labels.

    python -m benchmarks.label_bytes --data sets/cifar10_rded_ipc10 --dataset cifar10-jpeg \
        --data-root data --teacher convnet3 --teacher-dir teachers --out label-bytes

Every loss is trained on the k largest logits in float16, for every k, and on all logits in float16
and float32, with the same seeds. Bytes are those of all stored files of a seed, crops and other
parameters of the augmentation included; beside them stand those of the labels alone. Differences to
float32 are paired by seed, with 95 % intervals of Student's t. The same command resumes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from scipy import stats

import gift_fast
from benchmarks.tables import Table, bytes_text, markdown_tables, ratio_text
from gift_fast.data.labels import LabelSet
from gift_fast.evaluation.labeling import Compression, label_bytes_of

LEVEL = 0.95


def forms_of(ks: Sequence[int], rest: str, temperature: float) -> dict[str, Compression]:
    """How labels are stored, by name, the exact ones first."""
    few = {
        f"k = {k}": Compression(dtype="float16", top_k=k, rest=rest, temperature=temperature)
        for k in ks
    }
    return {"all, float32": Compression(), "all, float16": Compression(dtype="float16"), **few}


def interval(differences: Sequence[float]) -> str:
    """The mean difference and the half width of its interval."""
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return f"{mean:+.2f}"
    error = statistics.stdev(differences) / len(differences) ** 0.5
    half = stats.t.ppf((1 + LEVEL) / 2, len(differences) - 1) * error
    return f"{mean:+.2f} ± {half:.2f}"


def measure(options: argparse.Namespace) -> list[Table]:
    """One table for each loss."""
    run = {
        "dataset": options.dataset,
        "data_root": options.data_root,
        "student": options.student,
        "seeds": options.seeds,
        "epochs": options.epochs,
        "preset": options.preset,
        "teacher_dir": options.teacher_dir,
        "quiet": True,
    }
    forms = forms_of(options.k, options.rest, options.temperature)
    top1: dict[tuple[str, str], tuple[float, ...]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for number, (form, compression) in enumerate(forms.items()):
        folder = options.out / f"labels{number}"
        labels = gift_fast.label(
            options.data,
            teacher=options.teacher,
            out=folder,
            dtype=compression.dtype,
            top_k=compression.top_k,
            rest=compression.rest,
            temperature=compression.temperature,
            **run,
        )
        sizes[form] = size_of(labels[0])
        for loss in options.losses:
            scores = gift_fast.evaluate(
                options.data,
                labels=folder,
                loss=loss,
                out=options.out / "runs",
                check_set=False,
                **run,
            )
            top1[loss, form] = scores.top1
            print(f"{loss}, {form}: {scores.mean:.2f} %", file=sys.stderr, flush=True)
    (options.out / "label_bytes.json").write_text(
        json.dumps({"sizes": sizes, "top1": [[*key, *values] for key, values in top1.items()]}),
        encoding="utf-8",
    )
    half = sizes["all, float16"]
    tables = []
    for loss in options.losses:
        exact = top1[loss, "all, float32"]
        rows = [["labels", "bytes", "labels alone", "float16 / labels", "top-1", "to float32"]]
        for form in forms:
            scores_of = top1[loss, form]
            paired = [a - b for a, b in zip(scores_of, exact, strict=True)]
            rows.append(
                [
                    form,
                    bytes_text(sizes[form][0]),
                    bytes_text(sizes[form][1]),
                    ratio_text(half[1] / sizes[form][1]),
                    f"{statistics.fmean(scores_of):.2f}",
                    interval(paired),
                ]
            )
        tables.append((f"{loss}, {len(options.seeds)} seeds", rows))
    return tables


def size_of(labels: LabelSet) -> tuple[int, int]:
    """Bytes of a label set: everything, and the labels alone."""
    return labels.nbytes, label_bytes_of(labels.manifest)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints one table for each loss as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--teacher", default="convnet3")
    parser.add_argument("--teacher-dir", type=Path, default=Path("teachers"))
    parser.add_argument("--student", default="convnet3")
    parser.add_argument("--losses", nargs="+", default=["gift", "kl:temperature=1"])
    parser.add_argument("--k", nargs="+", type=int, default=[1, 2, 5])
    parser.add_argument("--rest", default="logmeanexp")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--out", type=Path, default=Path("label-bytes"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    print("\n".join(markdown_tables(measure(options))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
