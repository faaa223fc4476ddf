"""Runs the extension's tests under AddressSanitizer with UBSan, and under ThreadSanitizer.

``python -m tests.reliability.sanitizers`` builds the extension for each of them in a copy of the
project, runs the tests in a Python that has the sanitizer's library preloaded, and writes
docs/reliability.md. Needs g++ with its sanitizers, on Linux; takes half an hour.

torch itself is not instrumented. What it allocates is followed all the same, since the preloaded
library replaces malloc; its threads are OpenMP's, whose barriers ThreadSanitizer does not see, so
csrc/cpu/gift_loss_cpu.cpp names them in a build for it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.reliability.document import ROOT, write_section

CXX = os.environ.get("CXX", "g++")

TESTS = tuple(
    f"tests/test_{name}.py"
    for name in (
        *("arguments", "autograd", "bounds", "compile", "determinism", "dtypes", "float16"),
        *("loss", "numerics", "ops", "properties", "shapes", "threads", "transforms"),
    )
)
# Compilers, and other instruction sets in processes of their own.
LEFT_OUT = "inductor or exported or instruction_set"
# ThreadSanitizer ends a forked process that starts a thread.
LEFT_OUT_OF_THREADS = f"{LEFT_OUT} or threads_of_its_own"
# One report is enough to fail; these are others' (Python and torch free nothing at exit, and
# NumPy's and torch's allocators mix malloc and new).
ASAN_OPTIONS = "detect_leaks=0:alloc_dealloc_mismatch=0:detect_stack_use_after_return=0:exitcode=66"
UBSAN_OPTIONS = "halt_on_error=1:print_stacktrace=1:exitcode=66"
SUPPRESSED = """\
# Libraries that are not instrumented: their own locks and barriers are unknown.
called_from_lib:libtorch_cpu.so
called_from_lib:libtorch_python.so
called_from_lib:libc10.so
called_from_lib:libgomp
race:libtorch_cpu.so
race:libtorch_python.so
race:libc10.so
race:libgomp
race:libpython
race:libopenblas
race:multiarray
mutex:libtorch_cpu.so
deadlock:libtorch
signal:libpython
"""


class Sanitizer(NamedTuple):
    """A build and how it is run."""

    name: str
    flags: str
    libraries: tuple[str, ...]
    environment: dict[str, str]
    tests: tuple[str, ...]


def sanitizers(folder: Path) -> list[Sanitizer]:
    """The two, with their files in the folder."""
    suppressions = folder / "suppressions.txt"
    suppressions.write_text(SUPPRESSED, encoding="utf-8")
    tsan = f"ignore_noninstrumented_modules=1:suppressions={suppressions}:exitcode=66"
    return [
        Sanitizer(
            "AddressSanitizer and UBSan",
            "-fsanitize=address,undefined -fno-sanitize-recover=undefined",
            ("libasan.so", "libubsan.so", "libstdc++.so"),
            {"ASAN_OPTIONS": ASAN_OPTIONS, "UBSAN_OPTIONS": UBSAN_OPTIONS},
            TESTS,
        ),
        Sanitizer(
            "ThreadSanitizer",
            "-fsanitize=thread",
            ("libtsan.so", "libstdc++.so"),
            {"TSAN_OPTIONS": f"halt_on_error=0:report_bugs=1:second_deadlock_stack=1:{tsan}"},
            tuple(f"tests/test_{name}.py" for name in ("determinism", "float16", "ops", "threads")),
        ),
    ]


def library(name: str) -> str:
    """The path of one of the compiler's libraries."""
    command = [CXX, f"-print-file-name={name}"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(path).is_absolute():
        raise SystemExit(f"{command[0]} has no {name}: install its sanitizers")
    return str(Path(path).resolve())


def build(sanitizer: Sanitizer, folder: Path) -> None:
    """The project in the folder, with its extension built for the sanitizer."""
    for name in ("csrc", "gift_fast", "tests"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored, dirs_exist_ok=True)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, folder)
    # A compiler of its own, since setup.py's -O3 comes behind CXXFLAGS: instrumented code takes
    # five times as long to optimise.
    compiler = folder / "sanitizing-c++"
    compiler.write_text(
        f'#!/bin/sh\nexec {CXX} "$@" {sanitizer.flags} -fno-omit-frame-pointer -g1 -O1\n',
        encoding="utf-8",
    )
    compiler.chmod(0o755)
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=folder,
        env=os.environ | {"CC": str(compiler), "CXX": str(compiler)},
        check=True,
        stdout=subprocess.DEVNULL,
    )


class Outcome(NamedTuple):
    """What a run under a sanitizer came to."""

    tests: list[str]  # the files
    summary: str  # pytest's last line
    reports: list[str]  # the sanitizer's, by their first lines
    returncode: int


def run(sanitizer: Sanitizer, folder: Path) -> Outcome:
    """The tests, under the sanitizer. Reports go to files: pytest would keep some to itself."""
    log = folder / "report"
    for old in folder.glob("report.*"):
        old.unlink()
    options = {key: f"{value}:log_path={log}" for key, value in sanitizer.environment.items()}
    environment = os.environ | options | {
        "LD_PRELOAD": " ".join(map(library, sanitizer.libraries)),
        "PYTHONPATH": str(folder),
        "OMP_NUM_THREADS": "4",
    }  # fmt: skip
    # Without the randomised layout of memory, for which old ThreadSanitizers have no room.
    command = ["setarch", platform.machine(), "-R", sys.executable, "-m", "pytest", "-q"]
    command += ["-p", "no:cacheprovider", "-p", "no:xdist", "--tb=short"]
    left_out = LEFT_OUT_OF_THREADS if "thread" in sanitizer.flags else LEFT_OUT
    command += ["-k", f"not ({left_out})"]
    command += ["-o", "timeout=3600", *sanitizer.tests]
    process = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    print(process.stdout[-3000:], process.stderr[-3000:], sep="\n", flush=True)
    reports = []
    for file in sorted(folder.glob("report.*")):
        text = file.read_text(encoding="utf-8", errors="replace")
        print(text[:6000], flush=True)
        reports += re.findall(r"(?:ERROR|WARNING): (\w+Sanitizer: .*)|(.*runtime error: .*)", text)
    lines = process.stdout.strip().splitlines() or ["no output"]
    summary = re.sub(r" in [\d.]+s.*", "", lines[-1].strip("= "))
    names = [Path(x).stem.removeprefix("test_") for x in sanitizer.tests]
    return Outcome(names, summary, [a or b for a, b in reports], process.returncode)


def main() -> None:
    """Builds, runs, and writes the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", help="a word of the sanitizer's name; the other's outcome is kept"
    )
    parser.add_argument("--tests", nargs="+", help="of these files alone, such as threads and ops")
    parser.add_argument("--folder", type=Path, help="keeps builds and outcomes there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        wanted = sanitizers(folder)
        if arguments.tests:
            files = tuple(f"tests/test_{name}.py" for name in arguments.tests)
            wanted = [sanitizer._replace(tests=files) for sanitizer in wanted]
        for sanitizer in wanted:
            if arguments.only and arguments.only.lower() not in sanitizer.name.lower():
                continue
            project = folder / sanitizer.name.split()[0]
            project.mkdir(exist_ok=True)
            outcome_file(sanitizer, folder).unlink(missing_ok=True)
            build(sanitizer, project)
            outcome = run(sanitizer, project)
            outcome_file(sanitizer, folder).write_text(json.dumps(outcome), encoding="utf-8")
            print(f"{sanitizer.name}: {outcome}", flush=True)
        outcomes = []
        for sanitizer in wanted:
            file = outcome_file(sanitizer, folder)
            if file.exists():
                outcomes.append((sanitizer, Outcome(*json.loads(file.read_text("utf-8")))))
        if len(outcomes) == len(wanted):
            write_section("sanitizers", section(outcomes))
    if any(outcome.returncode != 0 or outcome.reports for _, outcome in outcomes):
        raise SystemExit(1)


def outcome_file(sanitizer: Sanitizer, folder: Path) -> Path:
    """Where the outcome of a run is kept, for the section."""
    return folder / f"{sanitizer.name.split()[0]}.json"


def section(outcomes: list[tuple[Sanitizer, Outcome]]) -> str:
    """The section of docs/reliability.md."""
    rows = []
    for sanitizer, outcome in outcomes:
        files = ", ".join(outcome.tests)
        found = "; ".join(dict.fromkeys(outcome.reports)) or "none"
        rows.append(f"| {sanitizer.name} | {files} | {outcome.summary} | {found} |")
    table = "\n".join(["| build | files of tests | pytest | reports |", "|---|---|---|---|", *rows])
    command = [CXX, "--version"]
    version = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return (
        f"The C++ extension under the tests that call it, with 4 OpenMP threads.\n\n{table}\n\n"
        f"{version.splitlines()[0]}, optimized with -O1; torch is not instrumented."
    )


if __name__ == "__main__":
    main()
