"""Builds the operators for the CPU and for CUDA; all else is in pyproject.toml.

gift_fast._C is built where there is a C++ compiler, and gift_fast._C_cuda where FORCE_CUDA=1 asks
for it. Where _C cannot be built, pure Python is installed, which runs the loss's definition, and
gift_fast.backends() says why. MAX_JOBS, CC, CXX, CXXFLAGS, CUDA_HOME and TORCH_CUDA_ARCH_LIST are
honoured, and

    GIFT_FAST_SKIP_BUILD=1     installs pure Python
    GIFT_FAST_REQUIRE_BUILD=1  fails where the extension cannot be built
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import setuptools
from setuptools import setup
from setuptools.command.build_py import build_py

OLDEST_SETUPTOOLS = 77  # the first that reads the license in pyproject.toml
if int(setuptools.__version__.split(".")[0]) < OLDEST_SETUPTOOLS:
    raise SystemExit(
        f"gift-fast: building needs setuptools {OLDEST_SETUPTOOLS} or later, found "
        f"{setuptools.__version__}; run: pip install --upgrade setuptools ninja pybind11"
    )

from build_backend import OLDEST_TORCH, torch_folders, why_not_compiled  # noqa: E402

WITH_CUDA = os.environ.get("FORCE_CUDA") == "1"
WHY_NOT_BUILT = "why-not-built.txt"  # in the package; gift_fast/loss/installation.py reads it


def why_pure_python() -> str | None:
    """The reason for building no extension, or None."""
    reason = why_not_compiled()
    if reason is not None:
        return reason
    folders = torch_folders()
    if folders is None:
        return f"no torch {OLDEST_TORCH[0]}.{OLDEST_TORCH[1]} or later to build against"
    sys.path += folders
    try:
        import torch.utils.cpp_extension  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: a library of torch's is missing
        return f"torch cannot be imported: {error}"
    return None


def install_pure_python(reason: str) -> None:
    """Says that nothing is compiled; raises where the extension was asked for."""
    for variable in ("GIFT_FAST_REQUIRE_BUILD", "FORCE_CUDA"):
        if os.environ.get(variable) == "1":
            raise SystemExit(
                f"gift-fast: {variable}=1, but the extension cannot be built: {reason}\n"
                "gift-fast: GIFT_FAST_SKIP_BUILD=1 installs pure Python"
            )
    print(f"gift-fast: installing without compiled kernels: {reason}", file=sys.stderr)


class BuildPackage(build_py):
    """Copies the package, with the reason for an extension that is not there."""

    why_pure_python: str | None = None  # known before anything is built

    def run(self) -> None:
        """Runs setuptools' own command, and adds the reason."""
        if self.why_pure_python is not None:
            install_pure_python(self.why_pure_python)
        super().run()
        self.write_reason(self.why_pure_python)

    def write_reason(self, reason: str | None) -> None:
        """Writes the reason into what is being built, or removes the one of an earlier build."""
        in_place = self.editable_mode
        package = Path(self.get_package_dir("gift_fast")) if in_place else Path(self.build_lib)
        file = (package if in_place else package / "gift_fast") / WHY_NOT_BUILT
        if reason is not None:
            file.write_text(f"{reason}\n", encoding="utf-8")
        else:
            file.unlink(missing_ok=True)


def optional_extensions() -> type:
    """Torch's command that builds extensions, made to end in pure Python where compiling fails."""
    from torch.utils.cpp_extension import BuildExtension

    class BuildKernels(BuildExtension):
        def run(self) -> None:
            in_place = self.inplace
            try:
                super().run()
            except Exception as error:  # RuntimeError where ninja fails, setuptools' own elsewhere
                first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
                install_pure_python(f"it did not compile: {first_line}")
                self.inplace = in_place
                for extension in self.extensions:  # what an earlier build has left
                    Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
                self.extensions = []
                self.get_finalized_command("build_py").write_reason(
                    "it did not compile; the same installation with GIFT_FAST_REQUIRE_BUILD=1 "
                    "shows the compiler's messages"
                )

    return BuildKernels


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


def extensions() -> list:
    """The extensions to build: for the CPU, and for CUDA where it is asked for."""
    try:
        import pybind11
    except ImportError as error:
        raise SystemExit("gift-fast: building needs pybind11; run: pip install pybind11") from error
    import torch
    from torch.utils import cpp_extension
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    version = re.search(r'__version__ = "(.+)"', Path("gift_fast/__init__.py").read_text())[1]
    major, minor = OLDEST_TORCH
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
        *shlex.split(os.environ.get("CXXFLAGS", "")),  # torch's build command reads CFLAGS alone
    ]
    cuda = (
        f"_C_cuda for {cuda_architectures()}" if WITH_CUDA else "not built: FORCE_CUDA=1 builds it"
    )
    built = [
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
            # Beside torch in site-packages; on Linux its libraries are found without.
            extra_link_args=["-Wl,-rpath,@loader_path/../torch/lib"] * (sys.platform == "darwin"),
        )
    ]
    if WITH_CUDA:
        without = why_no_cuda()
        if without is not None:
            raise SystemExit(f"gift-fast: FORCE_CUDA=1, but CUDA cannot be built: {without}")
        architectures = os.environ["TORCH_CUDA_ARCH_LIST"] = cuda_architectures()
        cpp_extension.CUDA_HOME = str(cuda_toolkit())
        names = " ".join(re.split("[; ]+", architectures))
        built.append(
            CUDAExtension(
                name="gift_fast._C_cuda",
                sources=["csrc/gift_loss_cuda.cpp", "csrc/cuda/launch.cu"],
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
    return built


reason = why_pure_python()
if reason is None:
    commands = {"build_py": BuildPackage, "build_ext": optional_extensions()}
    setup(ext_modules=extensions(), cmdclass=commands)
else:
    BuildPackage.why_pure_python = reason
    setup(cmdclass={"build_py": BuildPackage})
