"""The CPU kernels under a named instruction set, in another process: each reads it once."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHOSEN = (
    "from gift_fast.loss.operators import CPU_LIBRARY;"
    "print(CPU_LIBRARY.build_info()['cpu_capability'])"
)
"""Prints the instruction set whose kernels run."""


def run_with(capability: str, *command: str) -> subprocess.CompletedProcess[str]:
    """The output of this Python under GIFT_FAST_CPU_CAPABILITY."""
    return subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"GIFT_FAST_CPU_CAPABILITY": capability},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@functools.cache
def has(capability: str) -> bool:
    """Whether this processor and this build have an instruction set."""
    return run_with(capability, "-c", CHOSEN).stdout.strip() == capability


def skip_without(capability: str) -> None:
    """Skips a test on a machine without an instruction set; every machine has ``default``."""
    if not has(capability):
        assert capability != "default"
        pytest.skip(f"this machine has no {capability}")
