"""Times the loss on a GPU next to its competitors, interleaved, and reports ratios. See README.md.

Measure:  python -m benchmarks.loss_gpu --out benchmarks/results
Report:   python -m benchmarks.loss_gpu --markdown benchmarks/results/loss_gpu.json
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import math
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.competitors import (
    DTYPES,
    FLOOR,
    LOSSES,
    Loss,
    compiled,
    floor_step,
    make_batch,
    training_step,
)
from benchmarks.sampling import interleaved, quartiles, ratios
from benchmarks.tables import (
    Table,
    bytes_text,
    markdown_tables,
    ratio_text,
    shape_argument,
    shape_text,
    text_tables,
    time_text,
    write_text,
)
from gift_fast import backends, gift_loss

# Batches of distilled data, of ImageNet-1k and -21k, and the rows of a language model. The last
# three do not fit the L2 cache of today's GPUs. The others do, and come from it here, step after
# step; in a training loop the network's own tensors push them out.
SHAPES = [
    (100, 10),
    (100, 100),
    (100, 1000),
    (1024, 1000),
    (16384, 1000),
    (65536, 1000),
    (2048, 21841),
    (4096, 50257),
]
SAMPLE_SECONDS = 5e-3  # a sample is as many steps as take this long, and at least one
KERNELS = ("cuda", "triton")

Case = dict[str, Any]


# ---- the competitors -----------------------------------------------------------------------------


def ours(backend: str) -> str:
    """The name of the loss with one set of kernels."""
    return f"gift_fast {backend}"


def liger_cross_entropy() -> Loss | None:
    """Liger-Kernel's cross-entropy with hard labels; None where it is not installed."""
    if importlib.util.find_spec("liger_kernel") is None:
        return None
    from liger_kernel.ops.cross_entropy import LigerCrossEntropyFunction

    # It writes the gradient over the logits, and its later steps see that; they take as long.
    return lambda z, s, y: LigerCrossEntropyFunction.apply(z, y, None)[0]


LIGER = "liger cross-entropy"
# It asks the device for the number of valid rows (`.item()`), so no graph can hold it.
NEVER_CAPTURED = (LIGER,)


def losses() -> dict[str, Loss]:
    """What is compared here, by name: the first is what the ratios are taken to."""
    available = [name for name in KERNELS if backends()[name] == "available"]
    found: dict[str, Loss] = {ours(name): partial(gift_loss, backend=name) for name in available}
    found |= {name: LOSSES[name] for name in ("eager", "reference", "compiled", "cross-entropy")}
    liger = liger_cross_entropy()
    return found if liger is None else found | {LIGER: liger}


# ---- measuring -----------------------------------------------------------------------------------


def seconds_between_events(work: Callable[[], None], number: int) -> float:
    """Seconds of one of so many runs of the work, by the device's clock."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(number):
        work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3 / number


def capture(step: Callable[[], None]) -> Callable[[], None]:
    """The step as a CUDA graph: the same kernels without what the host does between them."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def make_step(
    name: str, loss: Loss | None, dtype: str, shape: tuple[int, int], device: str
) -> Callable[[], None]:
    """A competitor's step, on a batch of its own: one of them writes to it."""
    batch = make_batch(*shape, DTYPES[dtype], device)
    if loss is None:
        return floor_step(*batch[:2])
    return training_step(compiled(loss) if name == "compiled" else loss, *batch)


def measure_works(works: dict[str, Callable[[], None]], repeats: int) -> dict[str, Any]:
    """Quartiles of each one's seconds, and of its ratio to the first one's."""
    samplers = {}
    for name, work in works.items():
        fastest = min(seconds_between_events(work, 1) for _ in range(5))
        number = math.ceil(SAMPLE_SECONDS / fastest)
        samplers[name] = partial(seconds_between_events, work, number)
    seconds = interleaved(samplers, repeats)
    first, *others = seconds
    return {
        "seconds": {name: quartiles(seconds[name]) for name in seconds},
        "ratio_to_ours": {name: ratios(seconds[name], seconds[first]) for name in others},
    }


def measure_case(dtype: str, shape: tuple[int, int], repeats: int, device: str = "cuda") -> Case:
    """All competitors on one shape: step by step as eager code runs them, and as CUDA graphs."""
    steps: dict[str, Callable[[], None]] = {}
    graphs: dict[str, Callable[[], None]] = {}
    not_measured: dict[str, str] = {}
    for name, loss in {**losses(), FLOOR: None}.items():
        try:
            step = make_step(name, loss, dtype, shape, device)
            step()  # compiles where there is something to compile
            steps[name] = step
            if name not in NEVER_CAPTURED:
                graphs[name] = capture(step)
        except torch.cuda.OutOfMemoryError:
            not_measured[name] = "out of memory"
    return {
        "dtype": dtype,
        "shape": shape,
        # Read z, read s, write dz.
        "minimum_bytes": 3 * shape[0] * shape[1] * DTYPES[dtype].itemsize,
        "not_measured": not_measured,
        "eager": measure_works(steps, repeats),
        "graph": measure_works(graphs, repeats),
    }


def measure(dtypes: list[str], shapes: list[tuple[int, int]], repeats: int) -> dict[str, Any]:
    """Everything that the JSON file holds."""
    started = time.perf_counter()
    cases = []
    for dtype in dtypes:
        for shape in shapes:
            cases.append(measure_case(dtype, shape, repeats))
            print(progress_line(cases[-1]), flush=True)
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "repeats": repeats,
        "wall_seconds": round(time.perf_counter() - started),
        "cases": cases,
    }


def driver_version() -> str:
    """NVIDIA's driver, as nvidia-smi names it."""
    if shutil.which("nvidia-smi") is None:
        return "unknown: no nvidia-smi"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    run = subprocess.run(query, capture_output=True, text=True, check=False)
    return (run.stdout or run.stderr).strip().split("\n")[0]


def version_of(package: str) -> str:
    """The installed version, or that there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def describe_machine() -> dict[str, Any]:
    """Card, driver and software: what a reader needs to place the figures."""
    card = None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties()
        card = {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_GiB": round(properties.total_memory / 2**30, 1),
            "L2_MiB": round(properties.L2_cache_size / 2**20, 1),
            "count": torch.cuda.device_count(),
        }
    return {
        "card": card,
        "driver": driver_version(),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda_of_torch": torch.version.cuda,
        "backends": backends(),
        **{name: version_of(name) for name in ("triton", "gift-fast", "liger-kernel")},
    }


# ---- reporting -----------------------------------------------------------------------------------


def ours_first(case: Case, how: str) -> str:
    """The name of the loss that the ratios are taken to."""
    return next(iter(case[how]["seconds"]))


def progress_line(case: Case) -> str:
    """The case and its ratios as CUDA graphs, on one line."""
    first = ours_first(case, "graph")
    theirs = (
        f"{name} {ratio_text(quartile['median'])}"
        for name, quartile in case["graph"]["ratio_to_ours"].items()
    )
    return (
        f"{case['dtype']:8} {shape_text(case['shape']):>12}: {first} "
        f"{time_text(case['graph']['seconds'][first]['median'])}; as long: {', '.join(theirs)}"
    )


def cell(case: Case, how: str, name: str) -> str:
    """The time, and in brackets its ratio to ours; or why there is none."""
    if name not in case[how]["seconds"]:
        return case["not_measured"].get(name, "-")
    seconds = time_text(case[how]["seconds"][name]["median"])
    ratio = case[how]["ratio_to_ours"].get(name)
    return seconds if ratio is None else f"{seconds} ({ratio_text(ratio['median'])})"


def rate(case: Case, how: str, name: str) -> str:
    """The least bytes over the time, in GB/s."""
    if name not in case[how]["seconds"]:
        return "-"
    return f"{case['minimum_bytes'] / case[how]['seconds'][name]['median'] / 1e9:.0f}"


HOW = {"eager": "eager steps", "graph": "CUDA graphs"}


def tables(cases: list[Case]) -> Iterator[Table]:
    """For each dtype, and for eager steps and CUDA graphs, every competitor's time and ratio."""
    for dtype in dict.fromkeys(case["dtype"] for case in cases):
        chosen = [case for case in cases if case["dtype"] == dtype]
        for how, title in HOW.items():
            names = list(dict.fromkeys(name for case in chosen for name in case[how]["seconds"]))
            rated = [name for name in names if name.startswith("gift_fast") or name == FLOOR]
            header = ["N x C", *names, "least bytes", *(f"GB/s of {name}" for name in rated)]
            rows = [
                [
                    shape_text(case["shape"]),
                    *(cell(case, how, name) for name in names),
                    bytes_text(case["minimum_bytes"]),
                    *(rate(case, how, name) for name in rated),
                ]
                for case in chosen
            ]
            yield f"{dtype}, {title}", [header, *rows]


def remarks(cases: list[Case]) -> Iterator[str]:
    """Where a competitor takes less time than ours."""
    for how, title in HOW.items():
        names = dict.fromkeys(name for case in cases for name in case[how]["ratio_to_ours"])
        for name in names:
            if name == FLOOR:
                continue
            measured = [case for case in cases if name in case[how]["ratio_to_ours"]]
            faster = [
                f"{shape_text(case['shape'])} {case['dtype']} "
                f"({ratio_text(case[how]['ratio_to_ours'][name]['median'])})"
                for case in measured
                if case[how]["ratio_to_ours"][name]["median"] < 1
            ]
            where = f" ({', '.join(faster)})" if faster else ""
            yield f"{title}: {name} is faster in {len(faster)} of {len(measured)} cases{where}."


def text_report(result: dict[str, Any]) -> str:
    """The tables for a terminal."""
    cases = result["cases"]
    return "\n".join([*text_tables(tables(cases)), "", *remarks(cases)])


def machine_lines(machine: dict[str, Any]) -> Iterator[str]:
    """Card, driver and software as a Markdown list."""
    card = machine["card"]
    if card is None:
        yield "- no CUDA device"
    else:
        yield (
            f"- {card['name']}, sm_{card['capability'].replace('.', '')}: "
            f"{card['multiprocessors']} multiprocessors, {card['memory_GiB']} GiB of memory, "
            f"{card['L2_MiB']} MiB of L2; {card['count']} of them"
        )
    yield f"- driver {machine['driver']}; {machine['system']}; Python {machine['python']}"
    names = ("torch", "triton", "gift-fast", "liger-kernel")
    versions = ", ".join(f"{name} {machine[name]}" for name in names)
    yield f"- {versions}; CUDA of torch {machine['cuda_of_torch']}"
    yield f"- kernels: {'; '.join(f'{name}: {why}' for name, why in machine['backends'].items())}"


def markdown_report(result: dict[str, Any]) -> str:
    """The same as Markdown, with the machine."""
    cases = result["cases"]
    return "\n".join(
        [
            *machine_lines(result["machine"]),
            f"- {result['date'][:10]}, medians of {result['repeats']} repeats; in brackets the "
            "ratio to the first column",
            *markdown_tables(tables(cases)),
            "",
            *(f"- {remark}" for remark in remarks(cases)),
        ]
    )


# ---- command line --------------------------------------------------------------------------------


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loss_gpu", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--shapes", type=shape_argument, nargs="+", default=SHAPES, metavar="NxC")
    parser.add_argument("--repeats", type=int, default=31, help="samples of each step, at least 2")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write loss_gpu.json here")
    parser.add_argument("--quick", action="store_true", help="three shapes, 5 repeats")
    parser.add_argument("--markdown", type=Path, metavar="JSON", help="only report on this file")
    args = parser.parse_args(arguments)
    if args.repeats < 2:
        parser.error("--repeats must be at least 2")
    if args.quick:
        args.shapes, args.repeats = [(100, 100), (1024, 1000), (16384, 1000)], 5
    return args


def why_not() -> str | None:
    """What is missing for a measurement, or None."""
    if not torch.cuda.is_available():
        return f"needs a CUDA device: torch {torch.__version__} finds none"
    if all(backends()[name] != "available" for name in KERNELS):
        return "; ".join(f"{name}: {backends()[name]}" for name in KERNELS)
    return None


def main(arguments: list[str] | None = None) -> None:
    """Measures, or reports on an earlier measurement."""
    args = parse_arguments(arguments)
    if args.markdown:
        print(markdown_report(json.loads(args.markdown.read_text(encoding="utf-8"))))
        return
    missing = why_not()
    if missing is not None:
        raise SystemExit(f"benchmarks.loss_gpu {missing}")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    result = measure(args.dtypes, args.shapes, args.repeats)
    print(text_report(result))
    if args.out:
        write_text(args.out / "loss_gpu.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
