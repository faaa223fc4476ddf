"""Feeds damaged and hostile files to everything that reads a user's files.

    python -m tests.reliability.fuzz --cases 100000

A case is a number. It chooses a reader, whose whole files are damaged by ``fuzz_damage`` and then
read, as a command would. The files are accepted, or refused by an error that names one of them;
anything else is a failure:

- an error that is neither ValueError nor OSError, or names no file;
- a crash, or no end within the time limit;
- more memory than the limit, or an attempt to take more than there is;
- a program that was run: a canary appeared, or Python's audit hook saw a process, a connection or
  a write elsewhere;
- a file outside of the folder that was opened, because a text in it named that file.

Cases run in processes of their own, which are replaced when they die. The same seed gives the same
cases; ``--case N`` repeats one and leaves its files. The counts are kept in ``--state`` and the
next call with the same file resumes from there.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import io
import json
import logging
import os
import queue
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

READERS = "tests.reliability.fuzz_readers"

SECONDS = 120.0
"""Wall time of a case after which it is taken to hang; a busy machine may need a part of it."""

START_SECONDS = 900.0
"""Wall time in which the process that reads must have begun."""

CPU_SECONDS = 10.0
"""Processor time of a case that is too long for a small file."""

MEMORY = 2**30
"""Bytes that a case may take."""

ADDRESS_SPACE = 3 * MEMORY
"""Bytes beyond those of the idle process after which the operating system refuses more."""

SAVE_EVERY = 500
"""Cases between two writes of the state."""

ACCEPTED, REFUSED = "accepted", "refused"


@dataclass(frozen=True)
class Reader:
    """Something that reads files.

    Attributes:
        write: writes whole files into an empty folder.
        read: reads them, as a command would; raises where they are damaged.
        weight: how many cases it gets for one of another reader's.
    """

    write: Callable[[Path], object]
    read: Callable[[Path], object]
    weight: int = 1


@dataclass
class Tally:
    """What has come of the cases so far.

    Attributes:
        seed: of the cases.
        done: how many have been run.
        seconds: how long that took.
        counts: cases by reader, and by outcome: accepted, refused, or the kind of a failure.
        failures: case, reader, outcome, damage and detail of every failure.
    """

    seed: int
    done: int = 0
    seconds: float = 0.0
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def add(self, reader: str, outcome: str) -> None:
        """Counts a case."""
        of_reader = self.counts.setdefault(reader, {})
        of_reader[outcome] = of_reader.get(outcome, 0) + 1
        self.done += 1


def case_of(number: int, seed: int, readers: dict[str, Reader]) -> tuple[str, random.Random]:
    """The reader of a case, and where its damage is drawn from."""
    rng = random.Random(f"{seed}/{number}")
    names = list(readers)
    return rng.choices(names, [readers[name].weight for name in names])[0], rng


# ---- the process that reads ----------------------------------------------------------------------


class Watch:
    """Notes what Python's audit hook tells while files are read."""

    FORBIDDEN = (
        *("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn"),
        *("subprocess.Popen", "socket.connect", "socket.bind", "webbrowser.open"),
        *("shutil.rmtree", "shutil.move", "ctypes.dlopen", "code.__new__"),
    )
    WRITING = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink")

    def __init__(self) -> None:
        self.place: Path | None = None
        self.seen: list[tuple[str, str]] = []
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Is called by Python at every event."""
        if self.place is None:
            return
        if event in self.FORBIDDEN:
            self.seen.append(("code run", f"{event} {arguments!r}"[:300]))
        elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            self.opened(os.path.abspath(os.fsdecode(arguments[0])), arguments[1], arguments[2])
        elif event in self.WRITING and isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if not path.startswith(f"{self.place}/"):
                self.seen.append(("code run", f"{event} {path}"[:300]))

    def opened(self, path: str, mode: str | None, flags: int) -> None:
        """A file is opened; ``path`` is absolute, and links in it are not followed."""
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and not path.startswith((f"{self.place}/", "/dev/", "/proc/")):
            self.seen.append(("code run", f"writes {path}"[:300]))
        if path.startswith((f"{self.place}/decoy/", "/etc/passwd")):
            self.seen.append(("outside", path))

    @contextmanager
    def watching(self, place: Path) -> Iterator[list[tuple[str, str]]]:
        """Within, what is noted is kept in the list."""
        self.seen, self.place = [], place
        try:
            yield self.seen
        finally:
            self.place = None


def peak_memory() -> int:
    """The most bytes that this process has held since :func:`forget_peak`."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.partition("VmHWM:")[2].split()[0])


def forget_peak() -> None:
    """Starts the measurement of the peak anew."""
    Path("/proc/self/clear_refs").write_text("5")


def is_clear(error: BaseException, folder: Path, names: set[str]) -> bool:
    """Whether an error is of a kind that commands print, and names a file."""
    if not isinstance(error, ValueError | OSError) or isinstance(error, UnicodeError):
        return False
    message = str(error)
    return str(folder) in message or any(name in message for name in names)


def wanted_memory(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, is that there is not enough memory.

    A length that a pickle claims is only reserved until so much has been read, which it never is.
    """
    while error is not None:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            line = traceback.extract_tb(error.__traceback__)[-1].line or ""
            return "read(" not in line
        error = error.__cause__ or error.__context__
    return False


class Cases:
    """Runs cases in this process.

    Args:
        readers: by name.
        seed: of the cases.
        place: an empty folder.
    """

    def __init__(self, readers: dict[str, Reader], seed: int, place: Path) -> None:
        self.readers, self.seed, self.place = readers, seed, place
        self.watch = Watch()
        for name in readers:
            self.read_whole(name)  # and whatever is imported is imported before anything is watched

    def corpus(self, name: str) -> Path:
        """The whole files of a reader."""
        folder = self.place / "corpus" / str(list(self.readers).index(name))
        if not folder.exists():
            folder.mkdir(parents=True)
            self.readers[name].write(folder)
        return folder

    def read_whole(self, name: str) -> None:
        """Reads files that are not damaged; raises what the reader raises."""
        from tests.reliability.fuzz_damage import copy_input

        self.readers[name].read(copy_input(self.corpus(name), self.place / "case"))

    def run(self, number: int) -> tuple[str, str, str, str]:
        """Runs a case; gives reader, outcome, damage and detail."""
        from tests.reliability.fuzz_damage import CANARY, DECOY, copy_input, damage

        name, rng = case_of(number, self.seed, self.readers)
        place = self.place / "case"
        folder = copy_input(self.corpus(name), place)
        names = {file.name for file in folder.rglob("*")}
        done = damage(folder, rng)
        names |= {file.name for file in folder.rglob("*")}
        (place / DECOY).mkdir()
        for file in ("decoy.json", "decoy.png"):
            (place / DECOY / file).write_text("{}")
        os.environ["GIFT_FAST_CACHE"] = str(place / "cache")  # of what was decoded, or checked
        forget_peak()
        before, started = peak_memory(), time.process_time()
        outcome, detail = ACCEPTED, ""
        with self.watch.watching(place) as seen:
            try:
                self.readers[name].read(folder)
            except BaseException as error:
                outcome = REFUSED if is_clear(error, folder, names) else "unclear error"
                detail = "".join(traceback.format_exception(error)[-12:])[-3000:]
                if wanted_memory(error):
                    outcome = "memory"
        if time.process_time() - started > CPU_SECONDS:
            outcome, detail = "slow", f"{time.process_time() - started:.1f} s\n{detail}"
        if peak_memory() - before > MEMORY:
            outcome, detail = "memory", f"{(peak_memory() - before) / 2**20:.0f} MiB\n{detail}"
        if seen:
            outcome, detail = seen[0]
        if (place / CANARY).exists():
            outcome, detail = "code run", "the canary is there"
        return name, outcome, done, detail if outcome != REFUSED else ""


def work(arguments: argparse.Namespace) -> None:
    """The process that reads: runs the cases whose numbers it is told, and tells what came."""
    import torch

    warnings.simplefilter("ignore")
    logging.disable()
    torch.set_num_threads(1)
    readers = importlib.import_module(arguments.readers).READERS
    told = os.fdopen(os.dup(1), "w")
    faulthandler.enable()
    with tempfile.TemporaryDirectory() as place, redirect_stderr(io.StringIO()):
        cases = Cases(readers, arguments.seed, Path(place).resolve())
        size = 4096 * int(Path("/proc/self/statm").read_text().split()[0])
        limit = size + ADDRESS_SPACE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        print("begun", file=told, flush=True)
        for line in sys.stdin:
            print(json.dumps(cases.run(int(line))), file=told, flush=True)


# ---- the process that watches it -----------------------------------------------------------------


class Worker:
    """A process that runs cases, one after the other, as it is asked.

    Args:
        seed: of the cases.
        readers: the module that has the readers.
    """

    def __init__(self, seed: int, readers: str) -> None:
        command = [sys.executable, "-m", "tests.reliability.fuzz", "--work"]
        command += ["--readers", readers, "--seed", str(seed)]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by end()
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.questions, self.answers = self.process.stdin, self.process.stdout
        self.waiting = b""

    def begin(self) -> None:
        """Waits until the process has read all whole files.

        Raises:
            RuntimeError: it has ended, as where they are refused, or has not begun in time.
        """
        try:
            self.line(START_SECONDS)
        except (EOFError, TimeoutError) as error:
            raise RuntimeError(f"the process that reads has not begun: {self.end()}") from error

    def ask(self, number: int, seconds: float) -> list[str]:
        """Runs a case; gives reader, outcome, damage and detail.

        Raises:
            EOFError: the process has died.
            TimeoutError: it has told nothing for so long.
        """
        try:
            self.questions.write(b"%d\n" % number)
            self.questions.flush()
        except BrokenPipeError as error:
            raise EOFError from error
        answer: list[str] = json.loads(self.line(seconds))
        return answer

    def line(self, seconds: float) -> bytes:
        """The next line that it prints."""
        while b"\n" not in self.waiting:
            if not select.select([self.answers], [], [], seconds)[0]:
                raise TimeoutError
            part = os.read(self.answers.fileno(), 1 << 16)
            if not part:
                raise EOFError
            self.waiting += part
        line, _, self.waiting = self.waiting.partition(b"\n")
        return line

    def end(self, *, kill: bool = False) -> str:
        """Ends the process; gives how it ended and the last of what it said."""
        if kill:
            self.process.kill()
        with suppress(BrokenPipeError):
            self.questions.close()  # it ends when there is nothing to read
        status = self.process.wait()
        self.answers.close()
        self.errors.seek(0)
        text = self.errors.read()[-2000:]
        self.errors.close()
        return f"status {status}\n{text}"


def campaign(
    cases: int,
    tally: Tally,
    *,
    readers: str = READERS,
    seconds: float = SECONDS,
    processes: int = 1,
    state: Path | None = None,
) -> Tally:
    """Runs cases until so many are done.

    Args:
        cases: how many in all.
        tally: of those that are done; it grows.
        readers: the module that has the readers.
        seconds: wall time of a case.
        processes: how many read at a time.
        state: the file in which the tally is kept.

    Raises:
        RuntimeError: a process ends before its first case, as where whole files are refused.
    """
    began = time.monotonic() - tally.seconds
    workers: queue.SimpleQueue[Worker] = queue.SimpleQueue()

    def run(number: int) -> tuple[int, list[str]]:
        worker = workers.get()
        try:
            answer = worker.ask(number, seconds)
        except (EOFError, TimeoutError) as error:
            hangs = isinstance(error, TimeoutError)
            how = worker.end(kill=hangs)
            names = importlib.import_module(readers).READERS
            name = case_of(number, tally.seed, names)[0]
            answer = [name, "hang" if hangs else "crash", "", how]
            worker = Worker(tally.seed, readers)
            worker.begin()
        workers.put(worker)
        return number, answer

    begun = [Worker(tally.seed, readers) for _ in range(processes)]
    for worker in begun:
        worker.begin()
        workers.put(worker)
    with ThreadPoolExecutor(processes) as pool:
        while tally.done < cases:
            part = range(tally.done, min(tally.done + SAVE_EVERY, cases))
            for number, (name, outcome, done, detail) in pool.map(run, part):
                tally.add(name, outcome)
                if outcome not in (ACCEPTED, REFUSED):
                    tally.failures.append(failure(number, name, outcome, done, detail))
            tally.seconds = time.monotonic() - began
            save(tally, state)
    for _ in range(processes):
        workers.get().end()
    return tally


def failure(case: int, reader: str, outcome: str, damage: str, detail: str) -> dict[str, Any]:
    """What is kept of a case that failed."""
    return {"case": case, "reader": reader, "outcome": outcome, "damage": damage, "detail": detail}


def save(tally: Tally, state: Path | None) -> None:
    """Writes the tally, whole or not at all."""
    if state is not None:
        temporary = state.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(tally), indent=1))
        os.replace(temporary, state)


def resumed(state: Path, seed: int) -> Tally:
    """The tally in a file, or a new one."""
    if not state.exists():
        return Tally(seed)
    tally = Tally(**json.loads(state.read_text()))
    if tally.seed != seed:
        raise SystemExit(f"{state} must be of seed {seed}, got {tally.seed}: name another file")
    return tally


# ---- what came of it -----------------------------------------------------------------------------


def section(tally: Tally) -> str:
    """The section of docs/reliability.md: a row for every reader."""
    outcomes = sorted({o for counts in tally.counts.values() for o in counts} - {ACCEPTED, REFUSED})
    rows = [["reader", "cases", "accepted", "refused by name", *(outcomes or ["failures"])]]
    total: Counter[str] = Counter()
    for name, counts in sorted(tally.counts.items()):
        total.update(counts)
        rows.append(row_of(name, Counter(counts), outcomes))
    rows.append(row_of("all", total, outcomes))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" + "|---:" * (len(rows[0]) - 1) + "|")
    return "\n".join([
        f"{tally.done:,} cases with seed {tally.seed} in {tally.seconds / 60:.0f} minutes, "
        f"{len(tally.failures)} failures. Accepted are files that the damage left readable, or "
        "that were not read.",
        "",
        *lines,
    ])  # fmt: skip


def row_of(name: str, counts: Counter[str], outcomes: Sequence[str]) -> list[str]:
    """A row of the table."""
    failed = [counts[outcome] for outcome in outcomes] if outcomes else [0]
    numbers = [sum(counts.values()), counts[ACCEPTED], counts[REFUSED], *failed]
    return [name, *(f"{number:,}" for number in numbers)]


def show(tally: Tally) -> None:
    """Prints the table and every failure."""
    print(section(tally))
    for failure in tally.failures:
        print(f"\n{failure['outcome']}, case {failure['case']}, {failure['reader']}:")
        print(f"  {failure['damage']}\n{failure['detail']}")


def repeat(arguments: argparse.Namespace) -> None:
    """Runs a case in this process, and leaves its files."""
    warnings.simplefilter("ignore")
    place = Path(tempfile.mkdtemp(prefix="fuzz-"))
    cases = Cases(importlib.import_module(arguments.readers).READERS, arguments.seed, place)
    print("\n".join([*cases.run(arguments.case), f"files: {place / 'case'}"]))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; the exit status is 1 where a case failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=100_000, help="how many in all")
    parser.add_argument("--seed", type=int, default=0, help="of the cases")
    parser.add_argument("--state", type=Path, default=Path("fuzz.json"), help="file of the counts")
    parser.add_argument("--case", type=int, help="repeat this one and leave its files")
    parser.add_argument("--document", action="store_true", help="write docs/reliability.md")
    parser.add_argument("--readers", default=READERS, help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=1, help="how many read at a time")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        work(options)
        return 0
    if options.case is not None:
        repeat(options)
        return 0
    tally = resumed(options.state, options.seed)
    campaign(
        options.cases,
        tally,
        readers=options.readers,
        processes=options.processes,
        state=options.state,
    )
    show(tally)
    if options.document:
        from tests.reliability.document import write_section

        write_section("fuzz", section(tally))
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
