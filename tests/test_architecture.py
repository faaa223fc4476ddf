"""Imports run down the folders of the package, never up."""

import ast
from pathlib import Path

import gift_fast

PACKAGE = Path(gift_fast.__file__).parent

FOLDERS = (
    *("cli", "reproductions", "report", "studies", "evaluation", "auditing", "distillation"),
    *("training", "data", "loss", "files", "process"),
)
"""Top to bottom, as in docs/design.md. A module imports from its own folder and those below."""


def imported_folders(path: Path) -> set[str]:
    """The folders of the package that a module imports from, wherever in the module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "gift_fast":
                names = [f"gift_fast.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("gift_fast.")}
    return found & {*FOLDERS}


def test_every_module_is_in_a_folder_of_the_list():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders - {"student"} == {*FOLDERS}  # student: former names, deprecated
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py"}


def test_imports_run_downwards():
    upwards = []
    for path in PACKAGE.rglob("*.py"):
        folder = path.relative_to(PACKAGE).parts[0]
        if folder in FOLDERS:
            above = FOLDERS[: FOLDERS.index(folder)]
            name = path.relative_to(PACKAGE)
            upwards += [f"{name} -> {x}" for x in imported_folders(path) if x in above]
    assert not upwards, "\n".join(sorted(upwards))


def test_the_loss_needs_nothing_of_the_evaluation():
    for path in (PACKAGE / "loss").glob("*.py"):
        assert imported_folders(path) <= {"loss"}, path.name
