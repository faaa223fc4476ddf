"""README and docs: Python blocks run, commands parse, YAML loads, the digits tutorial works."""

from __future__ import annotations

import importlib
import itertools
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from gift_fast.cli import main
from gift_fast.cli.commands import COMMANDS
from gift_fast.cli.parser import build_parser
from gift_fast.data.datasets import check_dataset
from gift_fast.studies.study_files import parse_study
from gift_fast.training.models import build_model
from gift_fast.training.objectives import build_objective

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks/README.md")
)
NOT_RUN = "<!-- not run: "
"""Stands above a Python block that cannot run here, with the reason."""


COMMAND = re.compile(r"([A-Z_]+=\S+ )*(gift-fast|make|pip|python|accelerate|torchrun|srun) ")


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        language: of the fence; "" for an indented block.
        text: without its indentation.
        line: where it begins.
        runs: whether the page does not say otherwise.
    """

    language: str
    text: str
    line: int
    runs: bool = True


def blocks_of(page: str) -> Iterator[Block]:
    """The fenced and the indented blocks of a page, in order."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        start = number
        fence = re.fullmatch(r"( *)```(\w*)", lines[number])
        if fence:
            end = next(i for i in range(start + 1, len(lines)) if lines[i].strip() == "```")
            text = textwrap.dedent("\n".join(lines[start + 1 : end]))
            above = next((x for x in reversed(lines[:start]) if x.strip()), "")
            yield Block(fence[2] or "text", text, start + 1, not above.startswith(NOT_RUN))
            number = end + 1
        elif lines[number].startswith("    ") and (number == 0 or not lines[number - 1].strip()):
            while number < len(lines) and (lines[number].startswith("    ") or not lines[number]):
                number += 1
            yield Block("", textwrap.dedent("\n".join(lines[start:number])), start + 1)
        else:
            number += 1


def joined(text: str) -> list[str]:
    """The lines of a script, after those that a backslash continues have been joined."""
    return re.sub(r"\\\n\s*", " ", text).splitlines()


def commands_of(page: str) -> Iterator[tuple[int, list[str]]]:
    """The command lines of a page, split into words: ``\\`` continues a line, ``#`` ends it."""
    for block in blocks_of(page):
        if block.language in ("", "bash"):
            for line in joined(block.text):
                command = re.split(r"\s#\s", line.strip())[0]
                if COMMAND.match(command):
                    yield block.line, shlex.split(command)


def calls_of(page: str) -> Iterator[tuple[int, list[str]]]:
    """The arguments of every call of ``gift-fast``; ``...`` stands for options of its example."""
    for line, words in commands_of(page):
        text = shlex.join(words).replace("-m gift_fast.cli", "gift-fast")
        if "gift-fast " not in text.replace("gift-fast-", ""):
            continue
        name, *arguments = shlex.split(text.split("gift-fast ", 1)[1])
        if "..." in arguments:
            arguments.remove("...")
            example = shlex.split(joined(COMMANDS[name].example)[0])[2:]
            options = list(itertools.dropwhile(lambda word: word[0] != "-", example))
            given = list(itertools.takewhile(lambda word: word[0] != "-", arguments))
            arguments = [*given, *options, *arguments[len(given) :]]  # the last one counts
        yield line, [name, *arguments]


EXCERPTS = "docs/training-stacks.md"
"""The page whose blocks are parts of the examples, which run in test_examples.py."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for path in tmp_path.glob("*.py"):  # the modules that a page shows
        sys.modules.pop(path.stem, None)


def write_modules(page: str, folder: Path) -> None:
    """Writes the blocks that begin with the comment ``# name.py`` to that file."""
    for block in blocks_of(page):
        name = re.match(r"# (\w+\.py)\n", block.text)
        if name:
            (folder / name[1]).write_text(block.text, encoding="utf-8")
    importlib.invalidate_caches()


def stand_ins() -> dict[str, object]:
    """What the pages take for granted: networks and a batch."""
    torch.manual_seed(0)
    return {
        "student": nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10)),
        "teacher": nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10)),
        "images": torch.randn(4, 3, 8, 8),
        "labels": torch.tensor([1, 0, 9, 5]),
    }


@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if p != EXCERPTS and any(b.language == "python" for b in blocks_of(p))],
)
def test_python_runs(page, folder):
    write_modules(page, folder)
    names = stand_ins()
    for block in blocks_of(page):
        if block.language == "python" and block.runs:
            # Tracebacks show the line of the page.
            code = compile("\n" * block.line + block.text, str(ROOT / page), "exec")
            exec(code, names)


def test_excerpts_are_those_of_the_examples():
    lines = (ROOT / EXCERPTS).read_text(encoding="utf-8").splitlines()
    for block in blocks_of(EXCERPTS):
        if block.language == "python":
            above = "\n".join(lines[: block.line])
            name = re.findall(r"\(\.\./(examples/\w+\.py)\)", above)[-1]
            program = [line.strip() for line in (ROOT / name).read_text().splitlines()]
            for excerpt in re.split(r"\n{2,}", block.text):
                wanted = [line.strip() for line in excerpt.splitlines()]
                assert any(
                    program[start : start + len(wanted)] == wanted for start in range(len(program))
                ), f"{EXCERPTS}:{block.line}: not in {name}"


@pytest.mark.parametrize("page", [p for p in PAGES if any(True for _ in calls_of(p))])
def test_calls_of_gift_fast_parse(page, folder, capsys):
    write_modules("docs/evaluation.md", folder)
    for line, arguments in calls_of(page):
        name = arguments[0]
        try:
            options = build_parser(name).parse_args(arguments)
        except SystemExit:  # argparse's
            pytest.fail(f"{page}:{line}: {capsys.readouterr().err}")
        try:
            for loss in (getattr(options, "loss", None), *(getattr(options, "losses", None) or ())):
                if loss is not None:
                    build_objective(loss)
            for model in ("student", "model"):
                if getattr(options, model, None):
                    build_model(
                        getattr(options, model), channels=3, side=32, num_classes=10, seed=0
                    )
            if getattr(options, "dataset", None):
                check_dataset(options.dataset)
        except (OSError, ValueError, TypeError) as error:
            pytest.fail(f"{page}:{line}: gift-fast {shlex.join(arguments)}: {error}")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert name in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES)
def test_other_commands_exist(page):
    """Targets of make, extras of pip, modules of python -m, paths of scripts."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")  # Python 3.10 has no tomllib
    optional = project.split("[project.optional-dependencies]\n")[1].split("\n[")[0]
    extras = set(re.findall(r"^(\w+) = \[", optional, re.MULTILINE))
    for line, words in commands_of(page):
        words = list(itertools.dropwhile(lambda word: re.match(r"[A-Z_0-9]+=", word), words))
        if words[:1] == ["make"]:
            assert words[1] in targets, f"{page}:{line}"
        elif words[:2] == ["pip", "install"]:
            asked = re.findall(r"\.\[([\w,]+)\]", " ".join(words))
            assert {name for names in asked for name in names.split(",")} <= extras, (
                f"{page}:{line}"
            )
        elif words[:2] == ["python", "-m"]:
            module = words[2].replace(".", "/")
            assert (ROOT / f"{module}.py").exists() or (ROOT / module / "__main__.py").exists(), (
                f"{page}:{line}"
            )


@pytest.mark.parametrize("page", [p for p in PAGES if p != "CHANGELOG.md"])
def test_files_that_a_page_names_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    folders = "gift_fast|csrc|tests|benchmarks|examples|docs"
    paths = re.findall(rf"`((?:{folders})/[\w./-]+)`", text)
    missing = [path for path in paths if not (ROOT / path).exists()]
    missing += [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]
    # Two pages of the site are files of the repository's root.
    assert set(missing) <= {"contributing.md", "changelog.md", "benchmarks.md"}


@pytest.mark.parametrize("page", sorted(p for p in PAGES if p.startswith("docs/api/")))
def test_what_the_api_pages_name_exists(page):
    for name in re.findall(r"^::: ([\w.]+)$", (ROOT / page).read_text(), re.MULTILINE):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_the_layout_of_the_design_is_that_of_the_package():
    text = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    listed = re.findall(r"^      (\w+)/ ", text.split("    csrc/")[0], re.MULTILINE)
    folders = {path.parent.name for path in ROOT.glob("gift_fast/*/__init__.py")}
    assert {*listed} == folders - {"student"}  # former names, deprecated


@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(b.language == "bash" for b in blocks_of(p))]
)
def test_shell_scripts_parse(page):
    for block in blocks_of(page):
        if block.language == "bash":
            subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)


def test_the_study_of_the_page_loads(folder):
    write_modules("docs/evaluation.md", folder)
    text = next(b.text for b in blocks_of("docs/studies.md") if "losses:" in b.text)
    study = parse_study("my_study", text)
    assert "my_losses.huber" in study.losses


def test_the_tutorial_on_digits_works(folder, capsys):
    """Every command of the section without downloads, with one epoch instead of many."""
    calls = [call for _, call in calls_of("docs/tutorial.md") if "digits" in str(call)]
    assert [call[0] for call in calls] == [
        "train-teacher",
        "distill",
        "audit",
        "evaluate",
        "evaluate",
    ]
    for call in calls:
        quick = ["--epochs", "1"] if call[0] in ("train-teacher", "evaluate") else []
        status = main([*call, *quick])
        # A teacher of one epoch may fail the audit: 1 says so, 2 would be an error of the call.
        assert status == 0 or (call[0] == "audit" and status == 1), capsys.readouterr().err
    assert main(["table", "runs"]) == 0
    table = capsys.readouterr().out
    assert "gift" in table
    assert "kl" in table
