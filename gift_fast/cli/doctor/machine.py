"""The system, the compilers, the GPUs, the memory and the environment variables."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gift_fast.cli.doctor.queries import Section, output_of, query

VARIABLES = (
    *("GIFT_FAST_CPU_CAPABILITY", "GIFT_FAST_SELF_CHECK", "GIFT_FAST_CACHE", "XDG_CACHE_HOME"),
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_HOME", "TORCH_CUDA_ARCH_LIST", "FORCE_CUDA", "CC", "CXX"),
)
"""Environment variables that affect the build, the backends or the speed."""

GIB = 1 << 30


def system() -> Section:
    """Return the operating system, the processor and the Python executable."""
    return {
        "system": query(platform.platform),
        "machine": query(platform.machine),
        "processor": query(processor),
        "cores": query(cores),
        "python at": sys.executable,
        "encoding": f"{sys.getfilesystemencoding()}, standard output {sys.stdout.encoding}",
    }


def processor() -> str:
    """Return the name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or "unknown"


def cores() -> str:
    """Return the number of cores that this process may use, and that of the machine."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{usable} of {os.cpu_count()} usable"


def compilers() -> Section:
    """Return the programs that build the extension, with their versions."""
    compiler = os.environ.get("CXX", "c++").split()[:1]
    return {
        "C++": query(program, *compiler, "c++", "g++", "cl"),
        "nvcc": query(program, str(Path(cuda_home(), "bin", "nvcc")), "nvcc"),
        "ninja": query(program, "ninja"),
    }


def cuda_home() -> str:
    """Return the CUDA folder from the environment, or the default one."""
    return os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"


def program(*names: str) -> str:
    """Return the version and path of the first program that is installed."""
    for name in names:
        path = shutil.which(name)
        if path is not None:
            lines = output_of(path, "--version").splitlines() or [""]
            line = lines[-1 if Path(path).stem == "nvcc" else 0]  # nvcc prints its name first
            return f"{line.strip()} ({path})"
    return "none found"


def gpus() -> Section:
    """Return the CUDA versions of torch and the driver, and every GPU with its memory."""
    import torch

    found = {"torch's CUDA": str(torch.version.cuda or "none: a CPU build of torch")}
    if torch.version.hip:
        found["torch's ROCm"] = str(torch.version.hip)
    found["driver"] = query(driver)
    available = query(torch.cuda.is_available)
    found["usable by torch"] = {"True": "yes", "False": "no"}.get(available, available)
    if available == "True":
        for index in range(torch.cuda.device_count()):
            found[f"device {index}"] = query(device, torch, index)
    return found


def driver() -> str:
    """Return the version of the NVIDIA driver, according to nvidia-smi."""
    path = shutil.which("nvidia-smi")
    if path is None:
        return "nvidia-smi not found"
    arguments = ("--query-gpu=driver_version,name", "--format=csv,noheader")
    return "; ".join(dict.fromkeys(output_of(path, *arguments).splitlines())) or "no answer"


def device(torch: Any, index: int) -> str:
    """Return the name, compute capability and memory of a GPU."""
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    return (
        f"{properties.name}, compute capability {properties.major}.{properties.minor}, "
        f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    )


def memory() -> Section:
    """Return the memory of the machine and the free space on its disks."""
    found = {"memory": query(machine_memory)}
    for what, folder in (
        ("this folder", Path.cwd),
        ("the cache", cache_folder),
        ("temporary files", temporary_folder),
    ):
        found[f"disk of {what}"] = query(disk_space, folder)
    return found


def machine_memory() -> str:
    """Return total and available memory, and the limit of a Linux container if there is one."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    parts = [f"{total / GIB:.1f} GiB"]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = (line.split() for line in meminfo.read_text(encoding="ascii").splitlines())
        kilobytes = {fields[0].rstrip(":"): int(fields[1]) for fields in lines}
        parts.append(f"{1024 * kilobytes['MemAvailable'] / GIB:.1f} GiB available")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text(encoding="ascii").strip()).isdecimal():
        parts.append(f"limited to {int(text) / GIB:.1f} GiB (cgroup)")
    return ", ".join(parts)


def cache_folder() -> Path:
    """Return the folder of decoded images."""
    from gift_fast.files.cache import cache_folder

    return cache_folder()


def temporary_folder() -> Path:
    """Return the folder of temporary files."""
    import tempfile

    return Path(tempfile.gettempdir())


def disk_space(locate: Callable[[], Path]) -> str:
    """Return the free space on the disk of a folder, which may not exist yet."""
    folder = locate()
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    usage = shutil.disk_usage(existing)
    return f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free ({folder})"


def variables() -> Section:
    """Return the ``VARIABLES`` that are set."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}
