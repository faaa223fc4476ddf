"""Missing packages and features, and the commands that install them."""

from __future__ import annotations

from collections.abc import Mapping

from gift_fast.cli.doctor.packages import PACKAGES

EXTRAS = {"student": "no evaluation of students", "cluster": "no study --ray"}
"""The extras of gift-fast, and what does not work without them."""

OPTIONAL = {
    "timm": "networks named timm:name=...",
    "tensorboard": "--trackers tensorboard",
    "wandb": "--trackers wandb",
    "mlflow": "--trackers mlflow",
}
"""Packages that are not part of an extra, and the features that need them."""

REBUILD = "pip install --force-reinstall --no-cache-dir --no-deps gift-fast (in a checkout: .)"
"""Rebuilds the extension; without --no-cache-dir, pip may reuse a wheel that lacks it."""


def missing(found: Mapping[str, Mapping[str, str]]) -> list[dict[str, str]]:
    """List what is missing, what does not work without it, and the command that installs it.

    Args:
        found: the other sections of the report.
    """
    entries = []

    def add(what: str, effect: str, command: str) -> None:
        entries.append({"what": what, "effect": effect, "command": command})

    versions = found["versions"]
    absent = {name for name, version in versions.items() if version == "not installed"}
    if "torch" in absent:
        add("torch", "nothing runs", "pip install torch")
    for extra, effect in EXTRAS.items():
        names = [name for name in PACKAGES[extra] if name in absent]
        if names:
            add(", ".join(names), effect, f"pip install 'gift-fast[{extra}]'")
    for name, use in OPTIONAL.items():
        if name in absent:
            add(name, f"no {use}", f"pip install {name}")
    gpu = found["gpu"]
    if gpu.get("usable by torch") == "no" and gpu.get("driver", "").startswith(tuple("0123456789")):
        add(
            "a torch for this GPU",
            "the driver finds a GPU that torch does not: torch is a CPU build or too new for the "
            "driver, or CUDA_VISIBLE_DEVICES hides the GPU",
            "choose another build at https://pytorch.org/get-started/locally",
        )
    if gpu.get("usable by torch") == "yes" and "triton" in absent:
        add("triton", "the loss has no Triton backend", "pip install triton")
    kernels = found["backends"].get("cpu", "available")
    if kernels.startswith("not built"):
        add(
            "the CPU kernels",
            "the reference implementation is used instead, which is several times slower",
            f"install a C++ compiler (apt-get install g++, xcode-select --install), then {REBUILD}",
        )
    elif kernels != "available":
        add("loadable CPU kernels", kernels, REBUILD)
    return entries
