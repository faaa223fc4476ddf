"""Builds gift_fast._C, the CPU operators, where there is a compiler; all else is in pyproject.toml.

GIFT_FAST_SKIP_BUILD=1 installs pure Python. MAX_JOBS, CC, CXX and CXXFLAGS are honoured.
"""

import os
import re
import shutil
import sys
from pathlib import Path

from setuptools import setup

TORCH_TARGET = (2, 10)  # the oldest torch that has what the stable ABI is used for here


def why_pure_python() -> str | None:
    """The reason for building no extension, or None."""
    if os.environ.get("GIFT_FAST_SKIP_BUILD") == "1":
        return "GIFT_FAST_SKIP_BUILD=1"
    if sys.platform == "win32":
        return "the kernels need GCC's or Clang's vector types"
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None:
        return f"no C++ compiler: {compiler!r} is not on PATH (CXX names another)"
    try:
        import torch
    except ImportError:
        return "torch is not importable"
    installed = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if installed < TORCH_TARGET:
        return f"torch {torch.__version__} is older than {TORCH_TARGET[0]}.{TORCH_TARGET[1]}"
    return None


def extension_arguments() -> dict:
    """The arguments of setup() that build the extension."""
    import pybind11
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    version = re.search(r'__version__ = "(.+)"', Path("gift_fast/__init__.py").read_text())[1]
    major, minor = TORCH_TARGET
    extension = CppExtension(
        name="gift_fast._C",
        sources=[
            "csrc/gift_loss.cpp",
            "csrc/cpu/gift_loss_cpu.cpp",
            "csrc/cpu/rows_default.cpp",
            "csrc/cpu/rows_avx2.cpp",
            "csrc/cpu/rows_avx512.cpp",
        ],
        include_dirs=[pybind11.get_include()],
        extra_compile_args=[
            "-O3",
            "-std=c++17",
            "-Wall",
            "-Wextra",
            "-Wno-unused-parameter",
            "-fvisibility=hidden",
            "-ffp-contract=fast",
            "-g0",
            f"-DTORCH_TARGET_VERSION=0x{major:02x}{minor:02x}000000000000",
            f"-DGIFT_FAST_TORCH_TARGET={major}.{minor}",
            f"-DGIFT_FAST_TORCH_BUILT_WITH={torch.__version__}",
            f"-DGIFT_FAST_VERSION={version}",
        ],
    )
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": BuildExtension.with_options(use_ninja=True)},
    }


reason = why_pure_python()
if reason is None:
    setup(**extension_arguments())
else:
    print(f"gift-fast: installing without compiled kernels: {reason}", file=sys.stderr)
    setup()
