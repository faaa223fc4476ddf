"""Times and sizes of the loss inside torch.compile, torch.func and checkpoint(). See README.md.

Measure:  python -m benchmarks.stacks_cpu --out mine
Report:   python -m benchmarks.stacks_cpu --markdown mine/stacks_cpu.json
"""

from __future__ import annotations

import argparse
import json
import math
import weakref
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from benchmarks.competitors import eager_loss, make_batch, training_step
from benchmarks.loss_cpu import SAMPLE_SECONDS, describe_machine, sample
from benchmarks.sampling import interleaved, quartiles, ratios
from benchmarks.tables import (
    Table,
    insert_report,
    markdown_tables,
    ratio_text,
    shape_argument,
    shape_text,
    text_tables,
    time_text,
    write_text,
)
from gift_fast import gift_loss
from gift_fast.loss.reference import reference_loss

MARKERS = "<!-- stacks_cpu: begin -->", "<!-- stacks_cpu: end -->"
COMPILED_SHAPES = [(16, 100), (256, 1000), (1024, 1000)]
MODEL_SHAPES = COMPILED_SHAPES
FEATURES = 128
PER_SAMPLE_SHAPES = [(32, 10), (32, 100), (256, 1000)]
MIXED_SHAPES = [(100, 100), (1024, 1000), (64, 128256)]
SLICE_SHAPES = [(1024, 1000)]
LANGUAGE_MODEL = {"tokens": 4096, "classes": 16000, "width": 256, "chunks": 16}

TITLES = {
    "compiled": "A step of the loss alone, eager and compiled",
    "model": f"A step of a linear layer of {FEATURES} features and the loss, eager and compiled",
    "per sample": "Gradients of single rows, vmap(grad(loss))",
    "mixed labels": "A step with one hard label per row and with two",
    "slices": "A step on all tokens but the last of each 128",
}

Case = dict[str, Any]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Steps = dict[str, Callable[[], None]]


# ---- measuring -----------------------------------------------------------------------------------


def hard_cross_entropy(logits: Tensor, soft_labels: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy with the arguments of the other losses."""
    return F.cross_entropy(logits, target)


def compiled_steps(shape: tuple[int, int]) -> Steps:
    """A step of each loss, eager and compiled for this shape."""
    torch.compiler.reset()  # else dynamo would give up at the ninth function
    batch = make_batch(*shape, torch.float32)
    losses: dict[str, Loss] = {"ours": gift_loss, "cross-entropy": hard_cross_entropy}
    for name, loss in (*losses.items(), ("definition", eager_loss)):
        losses[f"{name}, compiled"] = torch.compile(loss, fullgraph=True, dynamic=False)
    return {name: training_step(loss, *batch) for name, loss in losses.items()}


def model_steps(shape: tuple[int, int]) -> Steps:
    """A step of a linear layer with each loss, eager and compiled as one graph."""
    torch.compiler.reset()
    logits, soft_labels, target = make_batch(*shape, torch.float32)
    features = torch.randn(len(logits), FEATURES)
    weight = torch.randn(logits.shape[1], FEATURES).div_(FEATURES**0.5).requires_grad_()

    def with_layer(loss: Loss) -> Callable[..., Tensor]:
        return lambda w, x, s, y: loss(x @ w.T, s, y)

    def step(model: Callable[..., Tensor]) -> None:
        model(weight, features, soft_labels, target).backward()
        weight.grad = None

    losses: dict[str, Loss] = {
        "ours": gift_loss,
        "cross-entropy": hard_cross_entropy,
        "definition": eager_loss,
    }
    models = {name: with_layer(loss) for name, loss in losses.items()}
    for name, model in list(models.items()):
        models[f"{name}, compiled"] = torch.compile(model, fullgraph=True, dynamic=False)
    del models["definition"]
    return {name: partial(step, model) for name, model in models.items()}


class EmptyFunction(torch.autograd.Function):
    """The sum of a row: what torch takes for an autograd function that does almost nothing."""

    @staticmethod
    def forward(row: Tensor) -> Tensor:
        """The sum."""
        return row.sum(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Keeps the length of a row."""
        ctx.classes = inputs[0].shape[-1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        """The gradient of a sum."""
        return grad.unsqueeze(-1).expand(ctx.classes)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, ...], rows: Tensor) -> tuple[Tensor, int]:
        """The sums of all rows."""
        return rows.sum(-1), 0


def row_definition(logits: Tensor, soft_labels: Tensor, target: Tensor) -> Tensor:
    """GIFT of one row, (C), as research code writes it."""
    elsewhere = 0.1 / logits.shape[0]
    hard = torch.full_like(soft_labels, elsewhere).scatter(0, target[None], 0.9 + elsewhere)
    refined = 0.1 * F.normalize(hard, dim=0) + 0.9 * F.normalize(soft_labels, dim=0)
    return 1.0 - F.cosine_similarity(logits, refined, dim=0)


def per_sample_steps(shape: tuple[int, int]) -> Steps:
    """The gradients of all rows by vmap and grad."""
    logits, soft_labels, target = make_batch(*shape, torch.float32)
    batch = logits.detach(), soft_labels, target

    def step(gradients: Callable[..., Tensor]) -> None:
        gradients(*batch)

    losses: dict[str, Loss] = {
        "ours": gift_loss,
        "definition": row_definition,
        "reference": reference_loss,
        "an empty function": lambda z, s, y: EmptyFunction.apply(z),
    }
    return {name: partial(step, vmap(grad(loss))) for name, loss in losses.items()}


def mixed_steps(shape: tuple[int, int]) -> Steps:
    """A step with one hard label per row, with two, and with two by calling the loss twice."""
    logits, soft_labels, target = make_batch(*shape, torch.float32)
    other, weight = target.roll(1), 0.7

    def in_one_call(z: Tensor, s: Tensor, y: Tensor) -> Tensor:
        return gift_loss(z, s, y, other, weight)

    def in_two_calls(z: Tensor, s: Tensor, y: Tensor) -> Tensor:
        return weight * gift_loss(z, s, y) + (1 - weight) * gift_loss(z, s, other)

    losses = {"one label": gift_loss, "two labels": in_one_call, "two calls": in_two_calls}
    return {name: training_step(loss, logits, soft_labels, target) for name, loss in losses.items()}


def slice_steps(shape: tuple[int, int]) -> Steps:
    """A step on all but the last of 128 tokens: of slices, and with a padded target instead."""
    tokens = 128
    logits, soft_labels, target = (
        x.detach().unflatten(0, (-1, tokens)) for x in make_batch(*shape, torch.float32)
    )
    logits.requires_grad_()
    padded = target.roll(-1, 1)
    padded[:, -1] = -100

    def sliced(z: Tensor, s: Tensor, y: Tensor) -> Tensor:
        return gift_loss(z[:, :-1], s[:, :-1], y[:, 1:])

    def with_padding(z: Tensor, s: Tensor, y: Tensor) -> Tensor:
        return gift_loss(z, s, padded)

    losses = {"slices": sliced, "padded target": with_padding}
    return {name: training_step(loss, logits, soft_labels, target) for name, loss in losses.items()}


def measure_case(
    steps: dict[str, Callable[[], None]], shape: tuple[int, int], repeats: int
) -> Case:
    """All steps, each once per repeat, in a new order."""
    numbers = {}
    for name, step in steps.items():
        step()  # compiles
        fastest, _ = min(sample(step, 1) for _ in range(5))
        numbers[name] = math.ceil(SAMPLE_SECONDS / fastest)
    samplers = {name: partial(sample, step, numbers[name]) for name, step in steps.items()}
    seconds = {
        name: [second for second, _ in pairs]
        for name, pairs in interleaved(samplers, repeats).items()
    }
    return {
        "shape": shape,
        "seconds": {name: quartiles(values) for name, values in seconds.items()},
        "ratios": {
            f"{one} / {other}": ratios(seconds[one], seconds[other])
            for one, other in (
                ("ours, compiled", "ours"),
                ("cross-entropy, compiled", "cross-entropy"),
                ("definition, compiled", "ours, compiled"),
                ("definition", "ours"),
                ("reference", "ours"),
                ("an empty function", "definition"),
                ("two labels", "one label"),
                ("two calls", "one label"),
                ("slices", "padded target"),
            )
            if one in seconds and other in seconds
        },
    }


class Memory(TorchDispatchMode):
    """The bytes of all storages that operations returned and that are still alive, and their peak.

    Without those of the inputs, and without what an operation allocates and frees itself.
    """

    def __init__(self, *inputs: Tensor) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self.seen = {x.untyped_storage()._cdata for x in inputs}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        outputs = function(*args, **(kwargs or {}))
        for x in outputs if isinstance(outputs, (tuple, list)) else [outputs]:
            if isinstance(x, Tensor):
                self._count(x.untyped_storage())
        return outputs

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen:
            return
        self.seen.add(key)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)

        def freed() -> None:
            self.seen.discard(key)
            self.bytes -= size

        weakref.finalize(storage, freed)


def kl(logits: Tensor, soft_labels: Tensor, target: Tensor) -> Tensor:
    """The sum of KL over the tokens that are not ignored, from the teacher's logits."""
    student, teacher = F.log_softmax(logits, -1), F.log_softmax(soft_labels, -1)
    rows = F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
    return rows.masked_fill(target == -100, 0.0).sum()


LANGUAGE_MODEL_LOSSES: dict[str, Loss] = {
    "ours": partial(gift_loss, reduction="sum"),
    "KL": kl,
    "definition": lambda z, s, y: eager_loss(z, s, y) * len(y),
    "cross-entropy": lambda z, s, y: F.cross_entropy(z, y, reduction="sum"),
}


def language_model_peak(loss: Loss, tokens: int, classes: int, width: int, chunks: int) -> int:
    """The peak of a step of an lm_head and its loss, in checkpointed chunks of tokens.

    On tensors without data, which count as many bytes.
    """
    with FakeTensorMode():
        return _peak_of_a_step(loss, tokens, classes, width, chunks)


def _peak_of_a_step(loss: Loss, tokens: int, classes: int, width: int, chunks: int) -> int:
    hidden, head, teacher_hidden, teacher_head = (
        torch.randn(rows, width) for rows in (tokens, classes, tokens, classes)
    )
    hidden.requires_grad_()
    head.requires_grad_()
    target = torch.randint(classes, (tokens,))

    def chunk(student_part: Tensor, teacher_part: Tensor, target_part: Tensor) -> Tensor:
        with torch.no_grad():
            soft_labels = teacher_part @ teacher_head.T
        return loss(student_part @ head.T, soft_labels, target_part)

    with Memory(hidden, head, teacher_hidden, teacher_head, target) as memory:
        parts = zip(*(x.chunk(chunks) for x in (hidden, teacher_hidden, target)), strict=True)
        total = torch.zeros(())
        for part in parts:
            total = total + checkpoint(chunk, *part, use_reentrant=False)
        (total / tokens).backward()
    return memory.peak


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that the JSON file holds."""
    torch.set_num_threads(1)
    cases: dict[str, list[Case]] = {group: [] for group in TITLES}
    for group, steps, shapes in (
        ("compiled", compiled_steps, args.compiled_shapes),
        ("model", model_steps, args.model_shapes),
        ("per sample", per_sample_steps, args.per_sample_shapes),
        ("mixed labels", mixed_steps, args.mixed_shapes),
        ("slices", slice_steps, args.slice_shapes),
    ):
        for shape in shapes:
            cases[group].append(measure_case(steps(shape), shape, args.repeats))
            print(group, shape_text(shape), "measured", flush=True)
    size = dict(zip(LANGUAGE_MODEL, args.language_model, strict=True))
    return {
        "machine": describe_machine(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "repeats": args.repeats,
        **cases,
        "language model": {
            **size,
            "peaks": {
                name: language_model_peak(loss, **size)
                for name, loss in LANGUAGE_MODEL_LOSSES.items()
            },
        },
    }


# ---- reporting -----------------------------------------------------------------------------------


def tables(result: dict[str, Any]) -> Iterator[Table]:
    """A title and the rows, header first, for each kind of measurement."""
    for group, title in TITLES.items():
        if not result[group]:
            continue
        names = list(result[group][0]["seconds"])
        pairs = list(result[group][0]["ratios"])
        yield (
            title,
            [
                ["N x C", *names, *pairs],
                *(
                    [
                        shape_text(case["shape"]),
                        *(time_text(case["seconds"][name]["median"]) for name in names),
                        *(ratio_text(case["ratios"][pair]["median"]) for pair in pairs),
                    ]
                    for case in result[group]
                ),
            ],
        )
    size = result["language model"]
    peaks = size["peaks"]
    yield (
        f"Peak memory of an lm_head of width {size['width']} and its loss, without the inputs: "
        f"{size['tokens']} tokens x {size['classes']} classes in {size['chunks']} chunks",
        [
            list(peaks),
            [f"{peak / 2**20:.0f} MiB" for peak in peaks.values()],
        ],
    )


def markdown_report(result: dict[str, Any]) -> str:
    """The tables for README.md, with the machine."""
    machine = result["machine"]
    lines = [
        f"- {machine['cpu']}, family {machine['cpu_family']}, model {machine['cpu_model']}"
        f"{', in a virtual machine' if machine['virtual_machine'] else ''}; one thread",
        f"- torch {machine['torch']}; {result['date'][:10]}, "
        f"medians of {result['repeats']} repeats",
    ]
    return "\n".join([*lines, *markdown_tables(tables(result))])


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stacks_cpu", description=__doc__.split("\n")[0]
    )
    shapes: dict[str, Any] = {"type": shape_argument, "nargs": "*", "metavar": "NxC"}
    parser.add_argument("--compiled-shapes", default=COMPILED_SHAPES, **shapes)
    parser.add_argument("--model-shapes", default=MODEL_SHAPES, **shapes)
    parser.add_argument("--per-sample-shapes", default=PER_SAMPLE_SHAPES, **shapes)
    parser.add_argument("--mixed-shapes", default=MIXED_SHAPES, **shapes)
    parser.add_argument("--slice-shapes", default=SLICE_SHAPES, **shapes)
    parser.add_argument(
        "--language-model",
        type=int,
        nargs=4,
        default=list(LANGUAGE_MODEL.values()),
        metavar=tuple(name.upper() for name in LANGUAGE_MODEL),
    )
    parser.add_argument("--repeats", type=int, default=31, help="samples of each step, at least 2")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write stacks_cpu.json here")
    parser.add_argument("--markdown", type=Path, metavar="JSON", help="only report on this file")
    parser.add_argument("--write", type=Path, metavar="README", help="put the report in this file")
    args = parser.parse_args(arguments)
    if args.write and not args.markdown:
        parser.error("--write goes with --markdown")
    if args.repeats < 2:
        parser.error("--repeats must be at least 2")
    return args


def main(arguments: list[str] | None = None) -> None:
    """Measures, or reports on an earlier measurement."""
    args = parse_arguments(arguments)
    if args.markdown:
        report = markdown_report(json.loads(args.markdown.read_text(encoding="utf-8")))
        if args.write:
            insert_report(args.write, report, MARKERS)
        else:
            print(report)
        return
    result = measure(args)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        write_text(args.out / "stacks_cpu.json", json.dumps(result, indent=2) + "\n")
    print("\n".join(text_tables(tables(result))))


if __name__ == "__main__":
    main()
