"""The CUDA source without a GPU: run by a host compiler, and compiled by nvcc and read."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "csrc" / "cuda" / "gift_loss_cuda.cu"

needs_host_compiler = pytest.mark.skipif(
    shutil.which("g++") is None or platform.machine() != "x86_64",
    reason="needs g++ with _Float16 on x86-64",
)


def build(out: Path, *flags: str) -> Path:
    program = out / "check_cuda"
    # Not optimised: compiling takes most of the time.
    command = ["g++", "-std=c++17", "-O0", "-Wno-unknown-pragmas", *flags]
    command += [f"-I{HERE / 'host_cuda'}", "-x", "c++", str(HERE / "check_cuda.cpp")]
    built = subprocess.run([*command, "-o", str(program)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return program


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("host"))


@needs_host_compiler
@pytest.mark.parametrize("seed", [None, "1"], ids=["in order", "shuffled"])
def test_the_kernels_are_right_in_whatever_order_threads_and_blocks_run(program, seed):
    env = os.environ | ({"GIFT_FIBER_SEED": seed} if seed else {})
    run = subprocess.run([program], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stdout + run.stderr


@needs_host_compiler
def test_the_kernels_are_clean_under_address_and_undefined_behaviour_sanitizers(tmp_path):
    program = build(tmp_path, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    env = os.environ | {"ASAN_OPTIONS": "detect_stack_use_after_return=0"}
    run = subprocess.run([program], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stdout + run.stderr


@needs_host_compiler
def test_a_target_out_of_range_trips_the_assert(program):
    run = subprocess.run([program, "bad target"], capture_output=True, text=True)
    assert run.returncode < 0
    assert "Assertion `target >= 0 && target < classes' failed" in run.stderr


def nvcc() -> str | None:
    for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if home and Path(home, "bin/nvcc").exists():
            return str(Path(home, "bin/nvcc"))
    return shutil.which("nvcc")


@pytest.mark.skipif(nvcc() is None, reason="needs nvcc")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_no_kernel_spills_and_every_row_moves_in_16_byte_accesses(architecture, tmp_path):
    keep = ["-O3", "-std=c++17", f"-arch={architecture}", "-Xptxas", "-v", "--keep"]
    command = [nvcc(), *keep, "--keep-dir", str(tmp_path), "-cubin", str(SOURCE)]
    built = subprocess.run(
        [*command, "-o", str(tmp_path / "kernels.cubin")], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    report = (
        r"entry function '(\S+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+)"
    )
    kernels = re.findall(report, built.stderr, re.DOTALL)
    assert len(kernels) == 48  # 36 rows in float, 7 in double, 4 scales, 1 count
    assert [name for name, stores, loads, _ in kernels if (stores, loads) != ("0", "0")] == []
    assert max(int(registers) for *_, registers in kernels) <= 128

    # PTX, which nvcc alone can show: ptxas keeps the width of an access.
    (ptx,) = tmp_path.glob("*.ptx")
    entries = re.split(r"(?=\.entry )", ptx.read_text())[1:]
    sweeps = [e for e in entries if re.match(r"\.entry \S*rows_kernel\S*SweepE[01]E", e)]
    assert len(sweeps) == 36
    for body in sweeps:
        # Both arrays, and both gradients.
        assert len(re.findall(r"ld\.global\.(nc\.)?v4\.[bu]32", body)) >= 2
        assert len(re.findall(r"st\.global\.v4\.[bu]32", body)) >= 2
