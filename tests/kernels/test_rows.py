"""The row kernels without torch: under sanitizers, and for arm64 under an emulator."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROWS = HERE.parents[1] / "csrc" / "cpu"
# The instruction sets of x86-64: source, table, and the flags of /proc/cpuinfo that it needs.
X86 = {
    "default": ("kRowsDefault", ()),
    "avx2": ("kRowsAvx2", ("avx2", "fma", "f16c")),
    "avx512": ("kRowsAvx512", ("avx512f", "avx512bw", "avx512dq", "avx512vl")),
}


def build(compiler: str, rows: str, table: str, out: Path, *flags: str) -> Path:
    program = out / f"check_{rows}"
    command = [compiler, "-std=c++17", *flags, f"-DGIFT_CHECKED_ROWS=gift::{table}"]
    command += [str(HERE / "check_rows.cpp"), str(ROWS / f"rows_{rows}.cpp"), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return program


def check(*command: str) -> None:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64 CPU")
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize("rows", X86)
def test_rows_are_right_and_clean_under_address_and_undefined_behaviour_sanitizers(rows, tmp_path):
    table, needs = X86[rows]
    missing = set(needs) - set(Path("/proc/cpuinfo").read_text().split())
    if missing:
        pytest.skip(f"needs a CPU with {', '.join(sorted(missing))}")
    # Not optimized: compiling takes most of the time, four times as long at -O1.
    flags = ("-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    check(str(build("g++", rows, table, tmp_path, *flags)))


@pytest.mark.skipif(
    shutil.which("aarch64-linux-gnu-g++") is None or shutil.which("qemu-aarch64") is None,
    reason="needs Debian's g++-aarch64-linux-gnu and qemu-user",
)
def test_rows_are_right_on_arm64(tmp_path):
    program = build("aarch64-linux-gnu-g++", "default", "kRowsDefault", tmp_path, "-O2", "-static")
    check("qemu-aarch64", str(program))
