"""Required packages of the extra ``student``."""

from __future__ import annotations

import importlib.util

STUDENT_PACKAGES = {
    "accelerate": "accelerate",
    "jinja2": "jinja2",
    "kornia": "kornia",
    "numpy": "numpy",
    "rich": "rich",
    "safetensors": "safetensors",
    "sklearn": "scikit-learn",
    "torchvision": "torchvision",
    "yaml": "pyyaml",
}
"""Packages of the extra ``student``: import name and distribution name."""


def missing_packages() -> list[str]:
    """List the packages of the extra ``student`` that are not installed."""
    return [
        package
        for module, package in STUDENT_PACKAGES.items()
        if importlib.util.find_spec(module) is None
    ]
