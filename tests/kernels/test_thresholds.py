"""Every backend has the same thresholds, each written once in C++ and once in Python."""

import re
from pathlib import Path

import pytest

from gift_fast.loss import thresholds

ROOT = Path(__file__).parents[2]
HEADER = ROOT / "csrc" / "gift_row.h"
KERNELS = sorted(
    file
    for folder in ("csrc/cpu", "csrc/cuda", "gift_fast/loss/triton_kernels")
    for file in (ROOT / folder).iterdir()
    if file.suffix in (".h", ".cpp", ".cu", ".cuh", ".py")
)


def in_cpp() -> dict[str, float]:
    """The constants of the header under their Python names."""
    found = re.findall(
        r"^constexpr (?:double|int) k(\w+) = (\S+);", HEADER.read_text(), re.MULTILINE
    )
    return {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper(): float(x) for name, x in found}


def test_the_c_plus_plus_kernels_and_python_have_the_same_thresholds():
    in_python = {name: float(x) for name, x in vars(thresholds).items() if name.isupper()}
    assert in_cpp() == in_python


@pytest.mark.parametrize("file", KERNELS, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_kernel_writes_a_threshold_of_its_own(file):
    code = re.sub(r"//.*|#.*|\"\"\".*?\"\"\"", "", file.read_text())
    numbers = re.findall(r"(?<![\w.])\d+(?:\.\d*)?e[+-]?\d+", code)
    # 1.0 or 14 may be anything; a number with an exponent is a threshold.
    own = {float(x) for x in numbers} & set(in_cpp().values())
    assert not own, f"{file.name} repeats {sorted(own)} of {HEADER.name}"
