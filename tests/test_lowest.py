"""The lowest versions that pyproject.toml states, which CI installs."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from reliability.lowest import lowest_versions

PROJECT = """
[project]
name = "some-package"
dependencies = [{dependency}]
[project.optional-dependencies]
extra = ["numpy>=1.26"]
all = ["some-package[extra]", "torch>=2.10"]
"""


def project(tmp_path, dependency):
    path = tmp_path / "pyproject.toml"
    path.write_text(PROJECT.format(dependency=f'"{dependency}"'))
    return path


def test_every_package_once(tmp_path):
    versions = lowest_versions(project(tmp_path, "torch>=2.10"))
    assert versions == {"torch": "2.10", "numpy": "1.26"}


def test_a_pinned_version_is_its_own_lowest(tmp_path):
    assert lowest_versions(project(tmp_path, "torch==2.10"))["torch"] == "2.10"


def test_a_dependency_without_one_is_named(tmp_path):
    with pytest.raises(ValueError, match="'scipy'"):
        lowest_versions(project(tmp_path, "scipy"))


def test_two_lowest_versions_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"torch.*2\.9.*2\.10"):
        lowest_versions(project(tmp_path, "torch>=2.9"))


def test_the_project_states_all_of_its_own():
    lowest = lowest_versions()
    assert {"torch", "torchvision", "numpy", "pytest"} <= lowest.keys()
