"""The packages that gift-fast can use, and their installed versions."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import gift_fast
from gift_fast.cli.doctor.queries import Section
from gift_fast.cli.requirements import STUDENT_PACKAGES

PACKAGES = {
    "the loss": ("gift-fast", "torch", "triton"),
    "student": tuple(sorted([*STUDENT_PACKAGES.values(), "scipy"])),
    "cluster": ("ray",),
    "networks and trackers": ("timm", "tensorboard", "wandb", "mlflow"),
}
"""The packages whose versions are shown, by the feature that needs them."""


def versions() -> Section:
    """Return the versions of Python and of the packages, and the folder of gift-fast."""
    found = {"python": platform.python_version()}
    for packages in PACKAGES.values():
        found |= {name: installed(name) or "not installed" for name in packages}
    found["gift-fast at"] = str(Path(gift_fast.__file__).parent)
    return found


def installed(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
