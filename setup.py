"""Builds the operators for the CPU and for CUDA; all else is in pyproject.toml.

gift_fast._C where there is a C++ compiler; gift_fast._C_cuda where FORCE_CUDA=1 asks for it, as
long as it has not run on a GPU. GIFT_FAST_SKIP_BUILD=1 installs pure Python. MAX_JOBS, CC, CXX,
CXXFLAGS, CUDA_HOME and TORCH_CUDA_ARCH_LIST are honoured.
"""

import os
import re
import shutil
import subprocess
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


def cuda_toolkit() -> Path | None:
    """Where nvcc and its headers are: CUDA_HOME, what torch found, or the usual place."""
    from torch.utils.cpp_extension import CUDA_HOME

    for home in (os.environ.get("CUDA_HOME"), CUDA_HOME, "/usr/local/cuda"):
        if (
            home
            and Path(home, "bin/nvcc").exists()
            and Path(home, "include/cuda_runtime.h").exists()
        ):
            return Path(home)
    return None


def why_no_cuda() -> str | None:
    """The reason for building no CUDA operators, or None."""
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    home = cuda_toolkit()
    if home is None:
        return "no CUDA toolkit: CUDA_HOME names one"
    nvcc = home / "bin" / "nvcc"
    try:
        said = subprocess.run(
            [nvcc, "--version"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        return f"{nvcc} does not run: {error}"
    release = re.search(r"release (\d+)", said)
    if release is None or release[1] != torch.version.cuda.split(".")[0]:
        found = release[1] if release else "an unknown version"
        return f"{nvcc} is of CUDA {found}, torch of CUDA {torch.version.cuda}"
    return None


def cuda_architectures() -> str:
    """TORCH_CUDA_ARCH_LIST, or one list for every machine: a build needs no GPU.

    Ampere, Hopper and Blackwell, data centre and desktop, each also running on what is newer within
    its generation; PTX for what comes.
    """
    return os.environ.get("TORCH_CUDA_ARCH_LIST") or "8.0;9.0;10.0;12.0+PTX"


def extension_arguments() -> dict:
    """The arguments of setup() that build the extensions."""
    import pybind11
    import torch
    from torch.utils import cpp_extension
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    version = re.search(r'__version__ = "(.+)"', Path("gift_fast/__init__.py").read_text())[1]
    major, minor = TORCH_TARGET
    flags = [
        "-O3",
        "-std=c++17",
        "-Wall",
        "-Wextra",
        "-Wno-unused-parameter",
        "-fvisibility=hidden",
        "-g0",
        f"-DTORCH_TARGET_VERSION=0x{major:02x}{minor:02x}000000000000",
        f"-DGIFT_FAST_TORCH_TARGET={major}.{minor}",
        f"-DGIFT_FAST_TORCH_BUILT_WITH={torch.__version__}",
        f"-DGIFT_FAST_VERSION={version}",
    ]
    with_cuda = os.environ.get("FORCE_CUDA") == "1"
    cuda = (
        f"_C_cuda for {cuda_architectures()}" if with_cuda else "not built: FORCE_CUDA=1 builds it"
    )
    extensions = [
        CppExtension(
            name="gift_fast._C",
            sources=[
                "csrc/gift_loss.cpp",
                "csrc/cpu/gift_loss_cpu.cpp",
                "csrc/cpu/rows_default.cpp",
                "csrc/cpu/rows_avx2.cpp",
                "csrc/cpu/rows_avx512.cpp",
            ],
            include_dirs=[pybind11.get_include()],
            extra_compile_args=[*flags, "-ffp-contract=fast", f'-DGIFT_FAST_CUDA="{cuda}"'],
        )
    ]
    if with_cuda:
        without = why_no_cuda()
        if without is not None:
            raise SystemExit(f"gift-fast: FORCE_CUDA=1, but CUDA cannot be built: {without}")
        architectures = os.environ["TORCH_CUDA_ARCH_LIST"] = cuda_architectures()
        cpp_extension.CUDA_HOME = str(cuda_toolkit())
        names = " ".join(re.split("[; ]+", architectures))
        extensions.append(
            CUDAExtension(
                name="gift_fast._C_cuda",
                sources=["csrc/gift_loss_cuda.cpp", "csrc/cuda/gift_loss_cuda.cu"],
                include_dirs=[pybind11.get_include()],
                extra_compile_args={
                    "cxx": [
                        *flags,
                        "-DUSE_CUDA",  # declares the stream functions of the stable ABI
                        f'-DGIFT_FAST_CUDA_ARCHITECTURES="{names}"',
                    ],
                    "nvcc": ["-O3", "-std=c++17", "--threads=2", "-Xcompiler=-fvisibility=hidden"],
                },
            )
        )
    return {
        "ext_modules": extensions,
        "cmdclass": {"build_ext": BuildExtension.with_options(use_ninja=True)},
    }


reason = why_pure_python()
if reason is None:
    setup(**extension_arguments())
else:
    print(f"gift-fast: installing without compiled kernels: {reason}", file=sys.stderr)
    setup()
