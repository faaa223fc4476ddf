"""Times the CPU loss next to its competitors, interleaved, and reports ratios. See README.md.

Measure:  python -m benchmarks.loss_cpu --out mine
Report:   python -m benchmarks.loss_cpu --markdown mine/loss_cpu.json
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from timeit import Timer
from typing import Any

import torch

from benchmarks.competitors import (
    COMPETITORS,
    DTYPES,
    FLOOR,
    OURS,
    SHAPES,
    THREADS,
    make_batch,
    make_step,
)
from benchmarks.sampling import interleaved, quartiles, ratios
from benchmarks.tables import (
    Table,
    bytes_text,
    insert_report,
    markdown_tables,
    ratio_text,
    shape_argument,
    shape_text,
    text_tables,
    time_text,
    write_text,
)
from gift_fast.loss.operators import CPU_LIBRARY, backends

SAMPLE_SECONDS = 5e-3  # a sample is as many steps as take this long, and at least one
MARKERS = "<!-- loss_cpu: begin -->", "<!-- loss_cpu: end -->"

Case = dict[str, Any]


# ---- measuring -----------------------------------------------------------------------------------


def page_faults() -> int:
    """Page faults of this process so far that needed no disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def sample(step: Callable[[], None], number: int) -> tuple[float, float]:
    """Seconds and page faults a step, over `number` steps, after one that does not count.

    glibc returns the top of the heap to the system after large frees; whoever runs next takes the
    page faults. The step that does not count takes them, for every competitor alike. What a
    competitor does to itself from step to step stays in its time.
    """
    step()
    before = page_faults()
    seconds = Timer(step).timeit(number)  # with the garbage collector off
    return seconds / number, (page_faults() - before) / number


def measure_case(threads: int, dtype: str, shape: tuple[int, int], repeats: int) -> Case:
    """All competitors on one batch. Each repeat runs every one of them once, in a fresh order."""
    batch = make_batch(*shape, DTYPES[dtype])
    steps = {name: make_step(name, *batch) for name in COMPETITORS}
    numbers = {}
    for name, step in steps.items():
        step()  # compiles where there is something to compile
        fastest, _ = min(sample(step, 1) for _ in range(5))
        numbers[name] = math.ceil(SAMPLE_SECONDS / fastest)

    samplers = {name: partial(sample, step, numbers[name]) for name, step in steps.items()}
    samples = interleaved(samplers, repeats)
    seconds = {name: [second for second, _ in pairs] for name, pairs in samples.items()}
    faults = {name: [fault for _, fault in pairs] for name, pairs in samples.items()}

    return {
        "threads": threads,
        "dtype": dtype,
        "shape": shape,
        # Read z, read s, write dz.
        "minimum_bytes": 3 * shape[0] * shape[1] * DTYPES[dtype].itemsize,
        "steps_per_sample": numbers,
        "page_faults_per_step": {name: statistics.median(faults[name]) for name in faults},
        "seconds": {name: quartiles(seconds[name]) for name in seconds},
        "ratio_to_ours": {
            name: ratios(theirs, seconds[OURS]) for name, theirs in seconds.items() if name != OURS
        },
    }


def measure_threads(
    threads: int, dtypes: list[str], shapes: list[tuple[int, int]], repeats: int
) -> list[Case]:
    """All cases of one thread count, printed as they come. Runs in a process of its own."""
    torch.set_num_threads(threads)
    cases = []
    for dtype in dtypes:
        for shape in shapes:
            cases.append(measure_case(threads, dtype, shape, repeats))
            print(progress_line(cases[-1]), flush=True)
    return cases


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that the JSON file holds."""
    started = time.perf_counter()
    machine = describe_machine()
    cases: list[Case] = []
    for threads in args.threads:
        # A process for each thread count: the same heap to start from, no idle workers of OpenMP
        # from the count before, and code that was compiled for this count.
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            job = process.submit(measure_threads, threads, args.dtypes, args.shapes, args.repeats)
            cases += job.result()
    return {
        "machine": machine,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "repeats": args.repeats,
        "sample_seconds": SAMPLE_SECONDS,
        "wall_seconds": round(time.perf_counter() - started),
        "cases": cases,
    }


def describe_machine() -> dict[str, Any]:
    """Processor, caches, memory and software: what a reader needs to place the figures."""
    assert CPU_LIBRARY is not None  # main() has seen to it
    lscpu = {}
    if shutil.which("lscpu"):
        text = subprocess.run(
            ["lscpu"], capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C"}
        ).stdout
        lscpu = dict(re.findall(r"^\s*([^:]+):\s*(.+)$", text, re.MULTILINE))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": lscpu.get("Model name") or platform.processor() or platform.machine(),
        "cpu_family": lscpu.get("CPU family", "?"),
        "cpu_model": lscpu.get("Model", "?"),
        "virtual_machine": "Hypervisor vendor" in lscpu,
        "cores": os.cpu_count(),
        "caches": {level: lscpu.get(f"{level} cache", "?") for level in ("L1d", "L2", "L3")},
        "memory_GiB": round(memory / 2**30, 1),
        "system": f"{platform.system()}, {' '.join(platform.libc_ver()).strip()}",
        "allocator_settings": {
            key: os.environ[key]
            for key in sorted(os.environ)
            if key.startswith("MALLOC_") or key in ("GLIBC_TUNABLES", "LD_PRELOAD")
        },
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "bfloat16_units": [
            unit
            for unit in ("amx_bf16", "avx512_bf16", "bf16")  # the last is arm64's
            if unit in lscpu.get("Flags", "").split()
        ],
        "gift_fast": CPU_LIBRARY.build_info(),
    }


# ---- reporting -----------------------------------------------------------------------------------


def threads_text(threads: int) -> str:
    """A thread count with its noun."""
    return "1 thread" if threads == 1 else f"{threads} threads"


def progress_line(case: Case) -> str:
    """The case and its most telling ratios, on one line."""
    ratios = {name: ratio_text(q["median"]) for name, q in case["ratio_to_ours"].items()}
    return (
        f"{threads_text(case['threads'])}, {case['dtype']:8} {shape_text(case['shape']):>11}: "
        f"{time_text(case['seconds'][OURS]['median'])}; times as long: "
        + ", ".join(f"{name} {ratio}" for name, ratio in ratios.items() if name != FLOOR)
    )


HEADER = [
    "N x C",
    "ours (quartiles)",
    *(f"{name} / ours" for name in COMPETITORS if name not in (OURS, FLOOR)),
    "ours / floor",
    "least bytes",
    "GB/s",
    "share of floor",
]


def row(case: Case) -> list[str]:
    """A line of the table, as HEADER names its cells."""
    ours = case["seconds"][OURS]
    ratios = {name: quartile["median"] for name, quartile in case["ratio_to_ours"].items()}
    floor = ratios.pop(FLOOR)
    return [
        shape_text(case["shape"]),
        time_text(ours["median"], ours["q1"], ours["q3"]),
        *map(ratio_text, ratios.values()),
        ratio_text(1 / floor),
        bytes_text(case["minimum_bytes"]),
        f"{case['minimum_bytes'] / ours['median'] / 1e9:.1f}",
        f"{floor:.0%}",
    ]


def tables(cases: list[Case]) -> Iterator[Table]:
    """A title and the rows, header first, for each thread count and dtype."""
    for threads, dtype in dict.fromkeys((case["threads"], case["dtype"]) for case in cases):
        chosen = [c for c in cases if (c["threads"], c["dtype"]) == (threads, dtype)]
        yield f"{dtype}, {threads_text(threads)}", [HEADER, *map(row, chosen)]


def remarks(cases: list[Case]) -> Iterator[str]:
    """Where a competitor takes less time than ours, and what the heap does to whom."""
    nowhere = True
    for name in (one for one in COMPETITORS if one not in (OURS, FLOOR)):
        faster = [
            f"{shape_text(case['shape'])} {case['dtype']} {threads_text(case['threads'])} "
            f"({ratio_text(case['ratio_to_ours'][name]['median'])})"
            for case in cases
            if case["ratio_to_ours"][name]["median"] < 1
        ]
        if faster:
            nowhere = False
            yield f"{name} is faster in {len(faster)} of {len(cases)} cases: {', '.join(faster)}."
    if nowhere:
        yield "No competitor is faster in any case."
    for name in COMPETITORS:
        faults = [case["page_faults_per_step"][name] for case in cases]
        paying = sum(fault >= 1 for fault in faults)
        if paying:
            yield (
                f"{name} takes page faults in {paying} of {len(cases)} cases, "
                f"up to {max(faults):.0f} a step."
            )


def text_report(result: dict[str, Any]) -> str:
    """The tables for a terminal."""
    cases = result["cases"]
    return "\n".join([*text_tables(tables(cases)), "", *remarks(cases)])


def markdown_report(result: dict[str, Any]) -> str:
    """The same for README.md, with the machine."""
    machine, build = result["machine"], result["machine"]["gift_fast"]
    caches = ", ".join(f"{level} {size}" for level, size in machine["caches"].items())
    settings = [f"{key}={value}" for key, value in machine["allocator_settings"].items()]
    lines = [
        f"- {machine['cpu']}, family {machine['cpu_family']}, model {machine['cpu_model']}"
        f"{', in a virtual machine' if machine['virtual_machine'] else ''}: "
        f"{machine['cores']} cores; {caches}; {machine['memory_GiB']} GiB of memory",
        f"- {machine['system']}; allocator settings: {' '.join(settings) or 'the defaults'}",
        f"- torch {machine['torch']} ({machine['torch_cpu_capability']}); gift_fast "
        f"{build['version']} ({build['compiler']}, {build['cpu_capability']})",
        f"- {result['date'][:10]}, medians of {result['repeats']} repeats",
    ]
    lines += markdown_tables(tables(result["cases"]))
    return "\n".join([*lines, "", *(f"- {remark}" for remark in remarks(result["cases"]))])


# ---- command line --------------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loss_cpu",
        description=__doc__.split("\n")[0],
    )
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--shapes", type=shape_argument, nargs="+", default=SHAPES, metavar="NxC")
    parser.add_argument("--repeats", type=int, default=31, help="samples of each step, at least 2")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write loss_cpu.json, .png here")
    parser.add_argument("--quick", action="store_true", help="float32, one thread, 5 repeats")
    parser.add_argument("--markdown", type=Path, metavar="JSON", help="only report on this file")
    parser.add_argument("--write", type=Path, metavar="README", help="put the report in this file")
    args = parser.parse_args()
    if args.write and not args.markdown:
        parser.error("--write goes with --markdown")
    if args.repeats < 2:
        parser.error("--repeats must be at least 2")
    if args.quick:
        args.threads, args.dtypes, args.repeats = [1], ["float32"], 5
    return args


def main() -> None:
    """Measures, or reports on an earlier measurement."""
    args = parse_arguments()
    if args.markdown:
        report = markdown_report(json.loads(args.markdown.read_text(encoding="utf-8")))
        if args.write:
            insert_report(args.write, report, MARKERS)
        else:
            print(report)
        return

    if CPU_LIBRARY is None:
        raise SystemExit(f"no CPU kernels to measure: {backends()['cpu']}")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    result = measure(args)
    print(text_report(result))
    if args.out:
        write_text(args.out / "loss_cpu.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
