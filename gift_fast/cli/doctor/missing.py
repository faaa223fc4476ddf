"""What is missing, and the command that installs it."""

from __future__ import annotations

from collections.abc import Mapping

from gift_fast.cli.doctor.packages import PACKAGES

EXTRAS = {"student": "gift-fast evaluates no students", "cluster": "no study --ray"}
"""The extras of gift-fast, and what is missing without them."""

OPTIONAL = {
    "timm": "networks named timm:name=...",
    "tensorboard": "--trackers tensorboard",
    "wandb": "--trackers wandb",
    "mlflow": "--trackers mlflow",
}
"""Packages that belong to no extra, and what needs them."""

AGAIN = "pip install --force-reinstall --no-cache-dir --no-deps gift-fast (in a checkout: .)"
"""Rebuilds the extension; without --no-cache-dir, pip may reuse a wheel that lacks it."""


def missing(found: Mapping[str, Mapping[str, str]]) -> list[dict[str, str]]:
    """List what is missing, what does not work without it, and the command that installs it.

    Args:
        found: the other sections of the report.
    """
    lacks = []

    def lack(what: str, effect: str, command: str) -> None:
        lacks.append({"what": what, "effect": effect, "command": command})

    given = found["versions"]
    absent = {name for name, text in given.items() if text == "not installed"}
    if "torch" in absent:
        lack("torch", "nothing runs", "pip install torch")
    for extra, effect in EXTRAS.items():
        names = [name for name in PACKAGES[extra] if name in absent]
        if names:
            lack(", ".join(names), effect, f"pip install 'gift-fast[{extra}]'")
    for name, use in OPTIONAL.items():
        if name in absent:
            lack(name, f"no {use}", f"pip install {name}")
    gpu = found["gpu"]
    if gpu.get("usable by torch") == "no" and gpu.get("driver", "").startswith(tuple("0123456789")):
        lack(
            "a torch for this GPU",
            "the driver finds a GPU that torch does not: torch is a CPU build or too new for the "
            "driver, or CUDA_VISIBLE_DEVICES hides the GPU",
            "choose another build at https://pytorch.org/get-started/locally",
        )
    if gpu.get("usable by torch") == "yes" and "triton" in absent:
        lack("triton", "the loss has no Triton backend", "pip install triton")
    kernels = found["backends"].get("cpu", "available")
    if kernels.startswith("not built"):
        lack(
            "the CPU kernels",
            "the reference implementation replaces them, several times slower",
            f"install a C++ compiler (apt-get install g++, xcode-select --install), then {AGAIN}",
        )
    elif kernels != "available":
        lack("CPU kernels that load", kernels, AGAIN)
    return lacks
