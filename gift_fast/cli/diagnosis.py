"""``gift-fast doctor``: what this installation and this machine have, for a user and a bug report.

It needs nothing of the extra ``student``, and answers where torch itself cannot be imported: every
question is asked on its own, and one that fails is answered with why.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = {
    "the loss": ("gift-fast", "torch", "triton"),
    "student": (
        *("accelerate", "jinja2", "kornia", "matplotlib", "numpy", "pyyaml", "rich"),
        *("safetensors", "scikit-learn", "scipy", "torchvision"),
    ),
    "cluster": ("ray",),
    "networks and trackers": ("timm", "tensorboard", "wandb", "mlflow"),
}
"""The packages whose versions are shown, by what needs them; two of these are extras."""

EXTRAS = ("student", "cluster")

OPTIONAL = {
    "timm": "networks named timm:name=...",
    "tensorboard": "--trackers tensorboard",
    "wandb": "--trackers wandb",
    "mlflow": "--trackers mlflow",
}
"""Packages that no extra brings, and what each is for."""

VARIABLES = (
    *("GIFT_FAST_CPU_CAPABILITY", "GIFT_FAST_SELF_CHECK", "GIFT_FAST_CACHE", "XDG_CACHE_HOME"),
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_HOME", "TORCH_CUDA_ARCH_LIST", "FORCE_CUDA", "CC", "CXX"),
)
"""Environment variables that change what is built, what is run, or how fast; where they are set."""

AGAIN = "pip install --force-reinstall --no-cache-dir --no-deps gift-fast (in a checkout: .)"
"""Builds the extension anew; a wheel that was built without it may lie in pip's cache."""

SLOW = 20
"""Seconds after which a compiler or driver that was asked for its version has no answer."""

GIB = 1 << 30

Answers = dict[str, str]
"""What was asked, and what came of it; one section of the report."""


def examine() -> dict[str, Any]:
    """Everything that is known of this installation and this machine; never raises.

    Returns:
        Sections by name. Each is a dictionary of texts, but ``missing``, a list of dictionaries
        with ``what``, ``effect`` and ``command``. JSON can hold all of it.

    Example:
        >>> list(examine())
        ['versions', 'platform', 'compiler', 'gpu', 'backends', 'cpu', 'memory', 'variables', \
'missing']
    """
    found: dict[str, Any] = {
        "versions": answered(versions),
        "platform": answered(platform_of),
        "compiler": answered(compilers),
        "gpu": answered(gpus),
        "backends": answered(backends),
        "cpu": answered(cpu),
        "memory": answered(memory),
        "variables": answered(variables),
    }
    try:
        found["missing"] = missing(found)
    except Exception as error:
        found["missing"] = [{"what": "unknown", "effect": reason(error), "command": ""}]
    return found


def answered(section: Callable[[], Answers]) -> Answers:
    """A section of the report, or why there is none."""
    try:
        return section()
    except Exception as error:
        return {"not known": reason(error)}


def asked(question: Callable[..., object], *arguments: Any) -> str:
    """The answer to one question in words, or why there is none."""
    try:
        return str(question(*arguments))
    except Exception as error:
        return f"not known: {reason(error)}"


def reason(error: Exception) -> str:
    """An error in one line."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# ---- sections ------------------------------------------------------------------------------------


def versions() -> Answers:
    """Of Python and of every package that gift-fast can use; where gift-fast lies."""
    found = {"python": platform.python_version()}
    for packages in PACKAGES.values():
        found |= {name: installed(name) or "not installed" for name in packages}
    found["gift-fast at"] = str(Path(__file__).parent)
    return found


def installed(package: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def platform_of() -> Answers:
    """The system and the processor."""
    return {
        "system": asked(platform.platform),
        "machine": asked(platform.machine),
        "processor": asked(processor),
        "cores": asked(cores),
        "python at": sys.executable,
        "encoding": f"{sys.getfilesystemencoding()}, standard output {sys.stdout.encoding}",
    }


def processor() -> str:
    """The name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or "not known"


def cores() -> str:
    """Cores of the machine, and those that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{usable} of {os.cpu_count()} usable"


def compilers() -> Answers:
    """What builds the extension: a C++ compiler, CUDA's, ninja."""
    own = os.environ.get("CXX", "c++").split()[:1]
    return {
        "C++": asked(program, *own, "c++", "g++", "cl"),
        "nvcc": asked(program, str(Path(cuda_home(), "bin", "nvcc")), "nvcc"),
        "ninja": asked(program, "ninja"),
    }


def cuda_home() -> str:
    """Where the environment says that CUDA is, else where it usually is."""
    return os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"


def program(*names: str) -> str:
    """The first of some programs that is there, with its version."""
    for name in names:
        path = shutil.which(name)
        if path is not None:
            lines = output_of(path, "--version").splitlines() or [""]
            told = lines[-1 if Path(path).stem == "nvcc" else 0]  # nvcc begins with its name
            return f"{told.strip()} ({path})"
    return "none found"


def output_of(*command: str) -> str:
    """What a program prints on either output; an OSError or a timeout is the caller's."""
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, errors="replace", timeout=SLOW
    )
    return (done.stdout.strip() or done.stderr.strip()).strip()


def gpus() -> Answers:
    """CUDA of torch and of the driver, and every device with its memory."""
    import torch

    found = {"torch's CUDA": str(torch.version.cuda or "none: a CPU build of torch")}
    if torch.version.hip:
        found["torch's ROCm"] = str(torch.version.hip)
    found["driver"] = asked(driver)
    available = asked(torch.cuda.is_available)
    found["usable by torch"] = {"True": "yes", "False": "no"}.get(available, available)
    if available == "True":
        for index in range(torch.cuda.device_count()):
            found[f"device {index}"] = asked(device_in_words, torch, index)
    return found


def driver() -> str:
    """The NVIDIA driver's version, as nvidia-smi tells it."""
    path = shutil.which("nvidia-smi")
    if path is None:
        return "nvidia-smi not found"
    query = ("--query-gpu=driver_version,name", "--format=csv,noheader")
    return "; ".join(dict.fromkeys(output_of(path, *query).splitlines())) or "no answer"


def device_in_words(torch: Any, index: int) -> str:
    """A GPU: name, compute capability, memory."""
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    return (
        f"{properties.name}, compute capability {properties.major}.{properties.minor}, "
        f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    )


def backends() -> Answers:
    """What the loss can run on, and why not on the rest; where kernels check themselves, how."""
    from gift_fast.loss.operators import backends as available

    found = dict(available())
    for backend, outcome in self_checks().items():
        found[f"{backend}, checked against the definition"] = outcome
    return found


def self_checks() -> Mapping[str, str]:
    """What the kernels' own check gives, a backend each; nothing where there is no such check."""
    if importlib.util.find_spec("gift_fast.loss.self_check") is None:
        return {}
    try:
        module = importlib.import_module("gift_fast.loss.self_check")
        outcomes: dict[str, str] = module.self_check()
        return outcomes
    except Exception as error:
        return {"self-check": f"failed: {reason(error)}"}


def cpu() -> Answers:
    """Which instruction set the CPU kernels and torch use, and how they were built."""
    import torch

    from gift_fast.loss.operators import CPU_LIBRARY

    found = {"torch's capability": asked(torch.backends.cpu.get_cpu_capability)}
    found["torch's threads"] = asked(torch.get_num_threads)
    if CPU_LIBRARY is not None:
        built = CPU_LIBRARY.build_info()
        found |= {f"kernels: {name.replace('_', ' ')}": str(x) for name, x in built.items()}
    return found


def memory() -> Answers:
    """Of the machine and of the disks that are written to."""
    found = {"memory": asked(machine_memory)}
    for what, folder in (("this folder", Path.cwd), ("cache", cache_folder), ("temporary", temp)):
        found[f"disk of {what}"] = asked(disk_in_words, folder)
    return found


def machine_memory() -> str:
    """Total and available memory; under Linux with the container's limit, if it has one."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    words = [f"{total / GIB:.1f} GiB in all"]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = (line.split() for line in meminfo.read_text(encoding="ascii").splitlines())
        kilobytes = {fields[0].rstrip(":"): int(fields[1]) for fields in lines}
        words.append(f"{1024 * kilobytes['MemAvailable'] / GIB:.1f} GiB available")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text(encoding="ascii").strip()).isdecimal():
        words.append(f"limited to {int(text) / GIB:.1f} GiB (cgroup)")
    return ", ".join(words)


def cache_folder() -> Path:
    """Where decoded datasets are kept, see :func:`gift_fast.data.datasets.decoded`."""
    from gift_fast.files.cache import cache_folder

    return cache_folder()


def temp() -> Path:
    """The folder of temporary files."""
    import tempfile

    return Path(tempfile.gettempdir())


def disk_in_words(locate: Callable[[], Path]) -> str:
    """Free space of the disk that a folder lies on, or would lie on."""
    folder = locate()
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    usage = shutil.disk_usage(there)
    return f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free ({folder})"


def variables() -> Answers:
    """Those of ``VARIABLES`` that are set."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


# ---- what is missing -----------------------------------------------------------------------------


def missing(found: Mapping[str, Mapping[str, str]]) -> list[dict[str, str]]:
    """What is not there, what that means, and the command that mends it.

    Args:
        found: the other sections.
    """
    lacks = []

    def lack(what: str, effect: str, command: str) -> None:
        lacks.append({"what": what, "effect": effect, "command": command})

    given = found["versions"]
    absent = {name for name, text in given.items() if text == "not installed"}
    if "torch" in absent:
        lack("torch", "nothing runs", "pip install torch")
    for extra in EXTRAS:
        names = [name for name in PACKAGES[extra] if name in absent]
        if names:
            does = {"student": "gift-fast evaluates no students", "cluster": "no study --ray"}
            lack(", ".join(names), does[extra], f"pip install 'gift-fast[{extra}]'")
    for name, use in OPTIONAL.items():
        if name in absent:
            lack(name, f"no {use}", f"pip install {name}")
    gpu = found["gpu"]
    if gpu.get("usable by torch") == "no" and gpu.get("driver", "").startswith(tuple("0123456789")):
        lack(
            "a torch for this GPU",
            "the driver sees a GPU that torch does not: it is a CPU build, or too new for the "
            "driver, or CUDA_VISIBLE_DEVICES hides it",
            "choose another build at https://pytorch.org/get-started/locally",
        )
    if gpu.get("usable by torch") == "yes" and "triton" in absent:
        lack("triton", "the loss on GPUs has no Triton kernels", "pip install triton")
    kernels = found["backends"].get("cpu", "available")
    if kernels.startswith("not built"):
        lack(
            "the CPU kernels",
            "the plain PyTorch definition runs in their place, several times slower",
            f"install a C++ compiler (apt-get install g++, xcode-select --install), then {AGAIN}",
        )
    elif kernels != "available":
        lack(
            "CPU kernels that load",
            kernels,
            AGAIN,
        )
    return lacks


# ---- as text -------------------------------------------------------------------------------------


def in_words(found: Mapping[str, Any]) -> str:
    """The report as lines: sections, then what is missing."""
    lines = []
    for section, answers in found.items():
        if section == "missing" or not answers:
            continue
        lines += [section, *(f"  {name}: {answer}" for name, answer in answers.items())]
    lines.append("missing")
    for lack in found["missing"]:
        lines.append(f"  {lack['what']}: {lack['effect']}; {lack['command']}")
    if not found["missing"]:
        lines.append("  nothing")
    return "\n".join(lines)
