"""Runs the whole suite as on lesser processors.

    python -m tests.reliability.processors --results processors

PyTorch, oneDNN and this package pick their kernels by the instructions that the processor has;
variables hold them to fewer. A suite whose results are in the folder already is not run again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from tests.reliability.document import ROOT, write_section

PROCESSORS = {
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "GIFT_FAST_CPU_CAPABILITY": "avx2",
    },
    "default": {
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "ATEN_CPU_CAPABILITY": "default",
        "GIFT_FAST_CPU_CAPABILITY": "default",
    },
}
"""By name, the variables that hide instructions."""


def run_suite(name: str, results: Path, more: Sequence[str]) -> None:
    """Runs the suite under the variables of a processor, and writes its results."""
    command = [sys.executable, "-m", "pytest", f"--junitxml={results}", *more]
    print(f"{name}: {' '.join(command)}", flush=True)
    subprocess.run(command, cwd=ROOT, env=os.environ | PROCESSORS[name], check=False)


def row_of(name: str, results: Path) -> tuple[str, list[str]]:
    """The row of a processor, and the tests that did not pass."""
    suite = next(ElementTree.parse(results).getroot().iter("testsuite"))
    tests, failed, errors, skipped = (
        int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")
    )
    minutes = float(suite.get("time", 0)) / 60
    variables = " ".join(f"{key}={value}" for key, value in PROCESSORS[name].items())
    numbers = (tests - failed - errors - skipped, skipped, failed, errors)
    row = [f"`{variables}`", *(f"{n:,}" for n in numbers), f"{minutes:.0f}"]
    bad = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    return "| " + " | ".join(row) + " |", bad


def section(folder: Path) -> str:
    """The section of docs/reliability.md: a row for each processor whose results are there."""
    lines = [
        "| variables | passed | skipped | failed | errors | minutes |",
        "|---" + "|---:" * 5 + "|",
    ]
    notes = []
    for name in PROCESSORS:
        results = folder / f"processors-{name}.xml"
        if results.exists():
            row, bad = row_of(name, results)
            lines.append(row)
            notes += [f"- {name}: {test}" for test in bad]
    return "\n".join([*lines, *(["", "Not passed:", "", *notes] if notes else [])])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; further arguments go to pytest."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, required=True, help="folder of the results")
    options, more = parser.parse_known_args(arguments)
    options.results.mkdir(parents=True, exist_ok=True)
    for name in PROCESSORS:
        results = options.results.resolve() / f"processors-{name}.xml"
        if not results.exists():
            run_suite(name, results, more)
    text = section(options.results)
    print(text)
    write_section("processors", text)
    return 1 if "Not passed" in text else 0


if __name__ == "__main__":
    sys.exit(main())
