"""Setuptools' build backend, which finds a torch to compile against before pip downloads one.

``pip install .`` builds in an environment of its own, where the user's torch cannot be imported.
Another torch for that environment is a download of 3 GB. So the build uses the torch of the
environment that gift-fast is installed into, and asks pip for one only where there is none, as when
wheels are built for others. The extension uses torch's stable ABI alone: whichever torch it was
compiled against, it loads under every torch from 2.10 on.
"""

import os
import re
import shutil
import site
import sys
from importlib.metadata import distributions

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  # the hooks that are not here

OLDEST_TORCH = (2, 10)  # the oldest torch that has what the stable ABI is used for here


def get_requires_for_build_wheel(config_settings=None):
    """What pip installs into the build environment, beside [build-system] in pyproject.toml."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *missing_torch()]


def get_requires_for_build_editable(config_settings=None):
    """The same for an editable installation."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *missing_torch()]


def missing_torch() -> list[str]:
    """A torch to install for the build, unless there is one or nothing is compiled."""
    if why_not_compiled() is not None or torch_folders() is not None:
        return []
    return [f"torch>={OLDEST_TORCH[0]}.{OLDEST_TORCH[1]}"]


def why_not_compiled() -> str | None:
    """The reason for compiling nothing, whatever torch there is; or None."""
    if os.environ.get("GIFT_FAST_SKIP_BUILD") == "1":
        return "GIFT_FAST_SKIP_BUILD=1 was set"
    if sys.platform == "win32":
        return "the kernels need GCC's or Clang's vector types, and are not built on Windows"
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None:
        return f"no C++ compiler: {compiler!r} was not on PATH (CXX names another)"
    return None


def torch_folders() -> list[str] | None:
    """What sys.path needs for torch to be imported; None where there is no torch, or an old one."""
    for folders in ([], environment_folders()):
        for torch in distributions(name="torch", path=[*sys.path, *folders]):
            if major_minor(torch.version) >= OLDEST_TORCH:
                return folders
            break
    return None


def environment_folders() -> list[str]:
    """The site-packages of the environment that pip runs in, which it hides from a build."""
    folders = site.getsitepackages()
    if sys.prefix == sys.base_prefix:  # a virtual environment does not see the user's own
        folders.append(site.getusersitepackages())
    return [folder for folder in folders if os.path.isdir(folder)]


def major_minor(version: str) -> tuple[int, ...]:
    """The major and minor number of a version.

    Example:
        >>> major_minor("2.14.1+cpu")
        (2, 14)
    """
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
