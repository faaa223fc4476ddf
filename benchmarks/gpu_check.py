"""Everything that needs a GPU, in one go, and one Markdown file to send back: ``make gpu-check``.

Builds the CUDA kernels for this machine's card, runs the tests marked ``gpu``, the kernels under
compute-sanitizer where that is installed, and the benchmark. Ends with an error if a step failed;
the report is written all the same.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
LAST_LINES = 60  # of a failed step's output, in the report


@dataclass
class Step:
    """A command and how it went."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    returncode: int | None = None
    """None: not run, and `remark` says why."""
    seconds: float = 0.0
    output: str = ""
    remark: str = ""

    @property
    def outcome(self) -> str:
        """One word for the table."""
        if self.returncode is None:
            return "not run"
        return "passed" if self.returncode == 0 else f"FAILED (exit status {self.returncode})"

    def run(self) -> Step:
        """Runs it in the project's root, showing its output as it comes."""
        said = " ".join([*(f"{k}={v}" for k, v in self.environment.items()), *self.command])
        print(f"\n==== {self.name}: {said}", flush=True)
        start = time.perf_counter()
        with subprocess.Popen(
            self.command,
            cwd=ROOT,
            env=os.environ | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        self.returncode = process.returncode
        self.seconds = time.perf_counter() - start
        self.output = "".join(lines)
        return self


# ---- the steps -----------------------------------------------------------------------------------


def build_step(capability: str) -> Step:
    """Installs the package with CUDA kernels for this card, unless the caller names others."""
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--editable"]
    architectures = os.environ.get("TORCH_CUDA_ARCH_LIST", capability)
    environment = {"FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": architectures}
    return Step("build", [*command, ".[dev]"], environment)


def test_step(junit: Path) -> Step:
    """The tests marked ``gpu``."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-q", "--tb=short"]
    return Step("tests", [*command, f"--junitxml={junit}"])


def sanitizer_steps() -> Iterator[Step]:
    """The kernels once in every regime under each of compute-sanitizer's tools."""
    sanitizer = shutil.which("compute-sanitizer")
    for tool in SANITIZERS:
        if sanitizer is None:
            yield Step(tool, [], remark="compute-sanitizer is not on PATH")
            continue
        command = [sanitizer, "--tool", tool, "--error-exitcode", "99", sys.executable]
        # Each tensor an allocation of its own: an access past its end is seen.
        yield Step(
            tool,
            [*command, "-m", "benchmarks.gpu_check", "--exercise"],
            {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        )


def benchmark_step(directory: Path, quick: bool) -> Step:
    """The benchmark; leaves loss_gpu.json in the directory."""
    command = [sys.executable, "-m", "benchmarks.loss_gpu", "--out", str(directory)]
    return Step("benchmark", [*command, *(["--quick"] if quick else [])])


def exercise() -> None:
    """Runs every regime of every set of kernels once: what the sanitizers watch."""
    import torch

    from gift_fast import backends, gift_loss

    for backend in ("cuda", "triton"):
        if backends()[backend] != "available":
            continue
        for classes in (1, 10, 100, 1000, 1001, 4096, 16384, 21841, 50257):
            for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
                logits, soft_labels = torch.randn(2, 5, classes, device="cuda").to(dtype)
                logits[2] = 0.0  # a row that is done again in float64
                target = torch.tensor([0, classes - 1, 0, -100, 0], device="cuda")
                for temperature in (None, 2.0):
                    for upstream in (1.0, 3.0):
                        z, s = logits.clone().requires_grad_(), soft_labels.clone().requires_grad_()
                        loss = gift_loss(
                            z, s, target, soft_label_temperature=temperature, backend=backend
                        )
                        loss.backward(torch.full_like(loss, upstream))
        torch.cuda.synchronize()
        print(f"{backend}: every regime has run")


# ---- the report ----------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What :func:`benchmarks.loss_gpu.describe_machine` says, in a process that sees the build."""
    code = "import json, benchmarks.loss_gpu as b; print(json.dumps(b.describe_machine()))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    description: dict[str, Any] = json.loads(run.stdout.strip().splitlines()[-1])
    return description


def last_line_of(*command: str) -> str:
    """The last line of a command's output, or that there is no such command."""
    if shutil.which(command[0]) is None:
        return f"no {command[0]} on PATH"
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return ((run.stdout or run.stderr).strip().splitlines() or ["no output"])[-1]


def test_counts(junit: Path) -> str:
    """How many tests passed, failed and were skipped, and why: from pytest's JUnit file."""
    if not junit.exists():
        return "no result: pytest did not get as far as that"
    cases = list(ElementTree.parse(junit).iter("testcase"))
    failed = [c for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = [reason for c in cases if (reason := c.find("skipped")) is not None]
    lines = [
        f"{len(cases) - len(failed) - len(skipped)} passed, {len(failed)} failed, "
        f"{len(skipped)} skipped."
    ]
    lines += [f"- failed: `{c.get('classname')}::{c.get('name')}`" for c in failed]
    reasons = [reason.get("message", "") for reason in skipped]
    lines += [f"- skipped {reasons.count(why)}: {why}" for why in dict.fromkeys(reasons)]
    return "\n".join(lines)


def fenced(text: str, last: int | None = None) -> str:
    """The text, or its last lines, as a block of code; without what colors a terminal."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).strip().splitlines()
    return "\n".join(["```text", *(lines if last is None else lines[-last:]), "```"])


def report(
    steps: list[Step],
    machine_list: list[str],
    tests: str,
    benchmark: dict[str, Any] | None,
) -> str:
    """The Markdown file: machine, steps, tests, sanitizers, figures, and what failed steps said."""
    # Imported late: after the build, so that it is the built package that is imported.
    from benchmarks.loss_gpu import markdown_report

    lines = ["# gift-fast on a GPU", "", *machine_list, "", "| step | outcome | seconds |"]
    lines += ["| --- | --- | ---: |"]
    for step in steps:
        remark = f": {step.remark}" if step.remark else ""
        lines.append(f"| {step.name} | {step.outcome}{remark} | {step.seconds:.0f} |")
    lines += ["", "## Tests", "", tests, "", "## compute-sanitizer", ""]
    for step in steps:
        if step.name in SANITIZERS:
            summary = re.findall(r"=+ (.*SUMMARY.*)", step.output) or [step.remark or "no summary"]
            lines.append(f"- {step.name}: {summary[-1]}")
    lines += ["", "## Benchmark", ""]
    lines.append(markdown_report(benchmark) if benchmark else "No result.")
    for step in steps:
        if step.returncode:
            lines += ["", f"## What {step.name} said last", ""]
            lines += [f"`{shlex.join(step.command)}`", "", fenced(step.output, LAST_LINES)]
    if benchmark:
        raw = fenced(json.dumps(benchmark))
        lines += ["", "<details><summary>loss_gpu.json</summary>", "", raw, "", "</details>"]
    return "\n".join([*lines, ""])


# ---- command line --------------------------------------------------------------------------------


def check(out: Path, quick: bool) -> bool:
    """Runs all steps and writes the report; whether all that ran passed."""
    import torch

    from benchmarks.loss_gpu import machine_lines
    from benchmarks.tables import write_text

    major, minor = torch.cuda.get_device_capability()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        junit = scratch / "tests.xml"
        steps = [build_step(f"{major}.{minor}").run()]
        if steps[0].returncode:
            steps[0].remark = "what follows is without the CUDA kernels"
        planned = [test_step(junit), *sanitizer_steps(), benchmark_step(scratch, quick)]
        steps += [step.run() if step.command else step for step in planned]
        figures = scratch / "loss_gpu.json"
        benchmark = json.loads(figures.read_text(encoding="utf-8")) if figures.exists() else None
        machine_list = [
            *machine_lines(machine()),
            f"- nvcc: {last_line_of('nvcc', '--version')}",
            f"- commit {last_line_of('git', 'describe', '--always', '--dirty')}",
        ]
        write_text(out, report(steps, machine_list, test_counts(junit), benchmark))
    for step in steps:
        print(f"{step.name:12}{step.outcome} {step.remark}")
    print(f"The report is {out}.")
    return not any(step.returncode for step in steps)


def main(arguments: list[str] | None = None) -> None:
    """Checks, or is what the sanitizers run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=Path("gpu-check.md"), metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="a benchmark of three shapes")
    parser.add_argument("--exercise", action="store_true", help="only run every kernel once")
    args = parser.parse_args(arguments)
    try:
        import torch
    except ImportError:
        raise SystemExit("gpu-check needs torch: `make gpu-check` installs it") from None
    if not torch.cuda.is_available():
        raise SystemExit(
            f"gpu-check needs a CUDA device, and torch {torch.__version__} finds none"
            + (": it is built without CUDA" if torch.version.cuda is None else "")
        )
    if args.exercise:
        exercise()
    elif not check(args.out, args.quick):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
