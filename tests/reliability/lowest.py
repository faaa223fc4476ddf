"""The lowest version of every dependency that pyproject.toml states, as constraints for pip.

python -m tests.reliability.lowest > lowest.txt
pip install -c lowest.txt '.[student,test]'
"""

from __future__ import annotations

import sys
from pathlib import Path

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]


def lowest_versions(pyproject: Path = ROOT / "pyproject.toml") -> dict[str, str]:
    """Each required package by name, and the version that its requirement begins at.

    Args:
        pyproject: the file.

    Raises:
        ValueError: a requirement states no lowest version, or two state different ones.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    lowest: dict[str, str] = {}
    for text in [*project["dependencies"], *(text for extra in extras for text in extra)]:
        requirement = Requirement(text)
        if requirement.name == project["name"]:  # one extra that brings another
            continue
        stated = [s.version for s in requirement.specifier if s.operator in (">=", "==", "~=")]
        if len(stated) != 1:
            raise ValueError(
                f"{pyproject}: {text!r} must state its lowest version, as in NAME>=1.2"
            )
        if lowest.setdefault(requirement.name, stated[0]) != stated[0]:
            raise ValueError(
                f"{pyproject}: {requirement.name} must have one lowest version, got "
                f"{lowest[requirement.name]} and {stated[0]}"
            )
    return lowest


def main() -> None:
    """Prints the constraints."""
    for name, version in sorted(lowest_versions().items()):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
