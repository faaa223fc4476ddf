"""What ``import gift_fast`` and the command import: torch, only where it is needed."""

import pkgutil
import subprocess
import sys

import pytest

import gift_fast
from gift_fast import cli
from gift_fast.cli.commands import COMMANDS

NAMES = ["GIFTLoss", "TopKLabels", "backends", "gift_loss", "refine_labels"]
"""Public names that need torch alone."""

EVALUATION = ["audit", "evaluate", "label", "load_teacher", "read_distilled", "train_teacher"]
"""Those of the extra ``student``."""


def run(program):
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


COMMAND = """
import sys
from gift_fast.cli import main
try:
    main({arguments})
finally:
    print(sorted({{"torch", "torchvision", "numpy"}} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--version"], ["--help"], ["table", "--help"], ["report", "-h"], ["demo", "--help"]),
        ["doctor", "--help"],
    ],
    ids=" ".join,
)
def test_version_and_help_import_neither_torch_nor_numpy(arguments):
    *said, imported = run(COMMAND.format(arguments=arguments))
    assert imported == "[]"
    assert "gift-fast" in said[0]


IMPORTED = """
import sys
from gift_fast.cli.commands import COMMANDS
from gift_fast.cli.main import main
try:
    main({arguments})
finally:
    print(*(name for name, command in COMMANDS.items() if command.module in sys.modules))
"""


@pytest.mark.parametrize(
    ("arguments", "imported"),
    [(["--help"], ""), (["table", "--help"], "table"), (["study", "--help"], "study")],
)
def test_only_the_module_of_the_called_command_is_imported(arguments, imported):
    assert run(IMPORTED.format(arguments=arguments))[-1] == imported


def test_the_help_names_every_subcommand():
    named = {line.split()[0] for line in run(COMMAND.format(arguments=["--help"])) if line.strip()}
    assert set(COMMANDS) <= named


def test_every_module_of_the_command_is_a_command_or_shared():
    """A command that is missing from the registry would never be offered."""
    modules = {module.name for module in pkgutil.iter_modules(cli.__path__, "gift_fast.cli.")}
    names = [
        *("__main__", "arguments", "commands", "duration"),
        *("errors", "main", "parser", "requirements"),
    ]
    shared = {f"gift_fast.cli.{name}" for name in names}
    assert modules - shared == {command.module for command in COMMANDS.values()}


def test_the_command_runs_as_a_module():
    command = [sys.executable, "-m", "gift_fast.cli", "--version"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert said.stdout.startswith("gift-fast ")


@pytest.mark.parametrize("command", ["train-teacher", "evaluate", "audit", "study"])
def test_the_help_of_a_subcommand_has_its_arguments(command):
    assert any("--data-root DIR" in line for line in run(COMMAND.format(arguments=[command, "-h"])))


def test_the_package_alone_leaves_torch_alone():
    assert run("import sys, gift_fast; print('torch' in sys.modules, gift_fast.__version__)") == [
        f"False {gift_fast.__version__}"
    ]


def test_the_public_names_are_there_without_torch_imported_before():
    program = f"import gift_fast; print(*(getattr(gift_fast, name).__name__ for name in {NAMES}))"
    assert run(program) == [" ".join(NAMES)]
    assert run("from gift_fast import gift_loss; print(gift_loss.__name__)") == ["gift_loss"]


@pytest.mark.parametrize(
    "imports",
    [
        "import torch, gift_fast",
        "import gift_fast.loss, torch",
        "import gift_fast, torch; gift_fast.gift_loss",
    ],
)
def test_the_operators_are_registered(imports):
    assert run(f"{imports}; print(hasattr(torch.ops.gift_fast, 'gift_loss'))") == ["True"]


def test_the_public_names_are_listed():
    program = "import sys, gift_fast; print(dir(gift_fast)); print('torch' in sys.modules)"
    listed, torch = run(program)
    assert torch == "False"
    assert all(repr(name) in listed for name in NAMES)
    assert sorted(gift_fast.__all__) == sorted([*NAMES, *EVALUATION])


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        gift_fast.no_such_name  # noqa: B018
