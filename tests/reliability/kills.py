"""Kills training, studies and reports with SIGKILL at random moments, and looks at what is left.

    python -m tests.reliability.kills

trains a teacher and runs a study and its report on handwritten digits, undisturbed once and then
again and again with kills, until there were 50. After every kill

- each file has to be whole: results, manifests, checkpoints, weights, sets, pages;
- each result and each teacher that had finished before has to be there, unchanged;

and at the end of every round the numbers have to be those of the undisturbed commands: the tests of
every student, the tables, and the teacher's weights to the bit.

Commands run in children that are forked from this process, which has imported torch already, so
that kills hit the work and not Python's start.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open

import gift_fast.evaluation.run
import gift_fast.report
import gift_fast.studies.run  # noqa: F401, so that the children need not
from gift_fast.cli import main as call
from gift_fast.evaluation.results import read_run
from gift_fast.studies.manifest import read_manifest
from tests.reliability.document import write_section

NETWORK = "convnet3:width=8"

STUDY = """
title: Losses on digits
teacher: {epochs: 1, batch_size: 500}
settings: {epochs: 60, eval_every: 20, batch_size: 8}
sets: [{dataset: digits, method: selected, ipc: 2, network: "convnet3:width=8"}]
losses: [ce, gift]
seeds: [0, 1]
dataset_seeds: [0]
"""

TRIES = {"train-teacher": 3, "study": 8, "report": 3}
"""The commands of a round, and how often each is killed at most before it is left to its end."""


def commands(folder: Path) -> dict[str, list[str]]:
    """The arguments of a round's commands."""
    teachers, runs, study = folder / "teachers", folder / "runs", folder / "losses.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    study.write_text(STUDY)
    often = ["--checkpoint-every", "0.01s"]  # as often as a hundredth of the time allows
    places = ["--teacher-dir", str(teachers), "--out", str(runs), *often]
    training = ["--model", NETWORK, "--epochs", "6", "--batch-size", "50"]
    return {
        "train-teacher": ["train-teacher", "--dataset", "digits", *training, *places],
        "study": ["study", str(study), *places],
        "report": ["report", str(runs)],
    }


def start(arguments: list[str], log: Path) -> int:
    """Runs a command in a child process, and gives the child's number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = call(arguments)
    finally:
        os._exit(status)


def finish(arguments: list[str], log: Path) -> float:
    """Runs a command to its end, and gives the seconds that it took."""
    begun = time.monotonic()
    _, status = os.waitpid(start(arguments, log), 0)
    if status != 0:
        raise AssertionError(f"{arguments[0]} has ended with {status}:\n{log.read_text()}")
    return time.monotonic() - begun


def kill(arguments: list[str], log: Path, after: float) -> bool:
    """Kills a command after so many seconds; False where it has ended before, as it should."""
    child = start(arguments, log)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if status != 0:
        raise AssertionError(f"{arguments[0]} has ended with {status}:\n{log.read_text()}")
    return False


def visible(folder: Path) -> Iterator[Path]:
    """The files of a folder; those whose names begin with a dot are being written."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            yield path


def check_whole(path: Path) -> None:
    """Raises where a file is cut off or does not hold what its name says."""
    if path.suffix == ".json":
        if path.name.startswith("study-"):
            read_manifest(path)
        elif path.parent.name == "sets":
            json.loads(path.read_text())
        else:
            read_run(path)
    elif path.suffix in (".pth", ".ckpt"):
        torch.load(path, weights_only=True)
    elif path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            assert file.keys()
    elif path.suffix == ".html":
        assert path.read_text().rstrip().endswith("</html>"), path


def finished(folder: Path) -> dict[str, bytes]:
    """The results of students and the teachers' weights, by their names."""
    results = [p for p in (folder / "runs").glob("*.json") if not p.name.startswith("study-")]
    teachers = (folder / "teachers").glob("*.pth")
    return {path.name: path.read_bytes() for path in [*results, *teachers]}


def numbers(folder: Path) -> dict[str, object]:
    """All that has to come out alike: tests, tables, and the weights of teachers."""
    found: dict[str, object] = {}
    for path in (folder / "runs").glob("*.json"):
        if not path.name.startswith("study-"):
            found[path.name] = read_run(path).checks
    for path in (folder / "runs").glob("*.csv"):
        found[path.name] = path.read_text()
    for path in (folder / "teachers").glob("*.pth"):
        contents = torch.load(path, weights_only=True)
        weights = {name: value.tolist() for name, value in contents["model"].items()}
        found[path.name] = (weights, contents["checks"])
    return found


@dataclass
class Tally:
    """What happened.

    Attributes:
        kills: by command.
        resumed: commands that found a checkpoint after a kill.
        kept: finished results that were there when a kill came, counted at every kill.
        files: that were read after kills.
        rounds: that were compared with the undisturbed one.
    """

    kills: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    kept: int = 0
    files: int = 0
    rounds: int = 0


def run_round(folder: Path, seconds: dict[str, float], most: int, tally: Tally) -> None:
    """Runs the commands in a new folder, each killed some times and then left to its end.

    A kill comes within half the time of an undisturbed command. What was done before the kill is
    resumed, so that kills reach the later parts of the work too.
    """
    log = folder / "log"
    for name, arguments in commands(folder).items():
        for _ in range(TRIES[name]):
            if tally.kills.total() >= most:
                break
            before = finished(folder)
            if not kill(arguments, log, after=random.uniform(0.0, seconds[name] / 2)):
                break
            tally.kills[name] += 1
            tally.kept += len(before)
            after = finished(folder)
            lost = [file for file in before if after.get(file) != before[file]]
            assert not lost, f"{name} was killed, and lost {lost}"
            for path in visible(folder):
                if path != log:
                    check_whole(path)
                    tally.files += 1
            tally.resumed += any(path.suffix == ".ckpt" for path in visible(folder))
        finish(arguments, log)
    for path in visible(folder):
        if path != log:
            check_whole(path)


def main() -> None:
    """Kills until there were enough, and writes the section of the document."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--document", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    random.seed(options.seed)
    torch.set_num_threads(1)
    tally = Tally()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        undisturbed = root / "undisturbed"
        seconds = {
            command: finish(arguments, root / "log")
            for command, arguments in commands(undisturbed).items()
        }
        expected = numbers(undisturbed)
        assert len(expected) >= 6, expected.keys()
        while tally.kills.total() < options.kills:
            folder = root / f"round{tally.rounds}"
            run_round(folder, seconds, options.kills, tally)
            assert numbers(folder) == expected, f"round {tally.rounds} differs"
            tally.rounds += 1
            print(f"{tally.kills.total()} of {options.kills} kills", file=sys.stderr, flush=True)
    text = in_words(tally, options.seed)
    print(text)
    if options.document:
        write_section("kills", text)


def in_words(tally: Tally, seed: int) -> str:
    """What was done and what came out, in Markdown."""
    rows = "\n".join(f"| `{name}` | {tally.kills[name]} |" for name in TRIES)
    return f"""\
A teacher, a study of four students and its report, on handwritten digits, killed with SIGKILL at
random moments (seed {seed}) and called again:

| command | kills |
|---|---:|
{rows}
| all | {tally.kills.total()} |

After every kill all files were read, {tally.files} in sum: each was whole. Results and teachers
that had finished before a kill, {tally.kept} counted at every kill, were all there and unchanged.
After {tally.resumed} of the kills there was a checkpoint to resume from. Each of the {tally.rounds}
rounds ended with the numbers of the undisturbed commands: the tests of every student, the tables,
and the teacher's weights to the bit."""


if __name__ == "__main__":
    main()
