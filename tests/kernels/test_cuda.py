"""The CUDA source without a GPU: run by a host compiler, and compiled by nvcc and read."""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "csrc" / "cuda" / "launch.cu"

needs_host_compiler = pytest.mark.skipif(
    shutil.which("g++") is None or platform.machine() != "x86_64",
    reason="needs g++ with _Float16 on x86-64",
)


# Compilers take minutes for these files, and an hour where the machine is busy.
takes_long = pytest.mark.timeout(7200)

PROGRAMS = ("check_cuda", "check_top_k_cuda")


def build(name: str, out: Path, *flags: str) -> Path:
    program = out / name
    # Not optimized: compiling takes most of the time.
    command = ["g++", "-std=c++17", "-O0", "-Wno-unknown-pragmas", *flags]
    command += [f"-I{HERE / 'host_cuda'}", "-x", "c++", str(HERE / f"{name}.cpp")]
    built = subprocess.run([*command, "-o", str(program)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return program


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    return {name: build(name, tmp_path_factory.mktemp("host")) for name in PROGRAMS}


@needs_host_compiler
@takes_long
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("seed", [None, "1"], ids=["in order", "shuffled"])
def test_the_kernels_are_right_in_whatever_order_threads_and_blocks_run(programs, name, seed):
    env = os.environ | ({"GIFT_FIBER_SEED": seed} if seed else {})
    run = subprocess.run([programs[name]], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stdout + run.stderr


@needs_host_compiler
@takes_long
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_kernels_are_clean_under_address_and_undefined_behaviour_sanitizers(tmp_path, name):
    program = build(name, tmp_path, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    env = os.environ | {"ASAN_OPTIONS": "detect_stack_use_after_return=0"}
    run = subprocess.run([program], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stdout + run.stderr


@needs_host_compiler
@pytest.mark.parametrize("stride", ["2", "3"], ids=["in a tile", "in a row of its own"])
@pytest.mark.parametrize("name", ["target", "other_target"])
def test_a_target_out_of_range_trips_the_assert(programs, stride, name):
    other = ["other"] * (name == "other_target")
    run = subprocess.run([programs["check_cuda"], stride, *other], capture_output=True, text=True)
    assert run.returncode < 0
    assert f"Assertion `{name} >= 0 && {name} < classes' failed" in run.stderr


@needs_host_compiler
@pytest.mark.parametrize(
    ("fault", "assertion"),
    [
        ("target", "target >= 0 && target < classes"),
        ("index", "index >= 0 && index < classes"),
        ("negative index", "index >= 0 && index < classes"),
        ("negative value", "are_probabilities"),
        ("sum", "are_probabilities"),
        ("rest", "rest_is_finite"),
    ],
)
def test_top_k_labels_that_are_no_labels_trip_an_assert(programs, fault, assertion):
    run = subprocess.run([programs["check_top_k_cuda"], fault], capture_output=True, text=True)
    assert run.returncode < 0
    assert f"Assertion `{assertion}' failed" in run.stderr


@needs_host_compiler
def test_top_k_labels_trip_no_assert(programs):
    run = subprocess.run([programs["check_top_k_cuda"], "none"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


# ---- compiled --------------------------------------------------------------------------------

# Each from PTX of its own, as setup.py builds it. The oldest and the newest: nvcc takes minutes for
# each, and `make test-cuda` names all that setup.py builds for.
ARCHITECTURES = tuple(map(int, os.environ.get("GIFT_FAST_TEST_ARCHITECTURES", "75,120").split(",")))
BYTES = {"f": 4, "d": 8, "6__half": 2, "13__nv_bfloat16": 2}  # as C++ mangles the types


def nvcc() -> str | None:
    for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if home and Path(home, "bin/nvcc").exists():
            return str(Path(home, "bin/nvcc"))
    return shutil.which("nvcc")


def disassembler(name: str) -> str | None:
    """cuobjdump or nvdisasm, of the toolkit or of the Triton wheel."""
    triton = importlib.util.find_spec("triton")
    homes = [Path(nvcc() or "/").parent]
    if triton is not None and triton.origin is not None:
        homes.append(Path(triton.origin).parent / "backends" / "nvidia" / "bin")
    found = [home / name for home in homes if (home / name).exists()]
    return str(found[0]) if found else shutil.which(name)


class Kernel(NamedTuple):
    name: str
    registers: int
    local_bytes: int  # a thread's stack: spilled registers
    instructions: Counter  # how often each memory instruction occurs


def output_of(*command: str, cwd: Path | None = None) -> str:
    run = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def kernels(tmp_path_factory) -> dict[int, list[Kernel]]:
    """All kernels for each architecture, from one call of nvcc."""
    out = tmp_path_factory.mktemp("nvcc")
    command = [nvcc(), "-O3", "-std=c++17", "--threads=2", "-fatbin", str(SOURCE)]
    command += [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in ARCHITECTURES]
    output_of(*command, "-o", str(out / "kernels.fatbin"))
    output_of(disassembler("cuobjdump"), "-xelf", "all", "kernels.fatbin", cwd=out)
    return {sm: read_kernels(next(out.glob(f"*sm_{sm}.cubin"))) for sm in ARCHITECTURES}


def read_kernels(cubin: Path) -> list[Kernel]:
    usage = output_of(disassembler("cuobjdump"), "-res-usage", str(cubin))
    resources = re.findall(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    assembly = output_of(disassembler("nvdisasm"), "-c", str(cubin))
    pieces = re.split(r"\.section\s+\.text\.(\w+),", assembly)
    code = dict(zip(pieces[1::2], pieces[2::2], strict=True))
    memory = r"\*/\s+(?:@!?\w+ )?((?:LDG|STG|LDL|STL|LD|ST)\.\S+)"
    return [
        Kernel(
            name,
            int(registers),
            int(stack) + int(local),
            Counter(re.findall(memory, code[name])),
        )
        for name, registers, stack, local in resources
    ]


def sizes_and_sweep(kernel: Kernel) -> tuple[int, int, str] | None:
    """Bytes of a logit and of a soft label, and how rows are read; None: no such kernel."""
    one = r"(d|f|6__half|13__nv_bfloat16|S\d_)"  # a mangled type; S2_: the same one again
    types = re.search(rf"(rows|tiles)_kernelI{one}{one}(?:Lb[01]ELb([01])E)?Li[12]E", kernel.name)
    if types is None:
        return None
    z = BYTES[types[2]]
    sweep = "tiles" if types[1] == "tiles" else {"0": "held", "1": "streamed"}[types[4]]
    return z, BYTES.get(types[3], z), sweep


def accesses(kernel: Kernel, instruction: str, wide: bool) -> int:
    """How many instructions move 16 bytes at a time, or fewer."""
    return sum(
        count
        for name, count in kernel.instructions.items()
        if name.startswith(instruction) and ("128" in name.split(".")) == wide
    )


needs_nvcc = pytest.mark.skipif(nvcc() is None, reason="needs nvcc")
needs_disassembler = pytest.mark.skipif(
    disassembler("cuobjdump") is None or disassembler("nvdisasm") is None,
    reason="needs cuobjdump and nvdisasm, of the CUDA toolkit or of the Triton wheel",
)
for_every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES, ids="sm_{}".format)


@needs_nvcc
@needs_disassembler
@takes_long
@for_every_architecture
def test_no_kernel_spills(kernels, architecture):
    # 36 of rows in float, 14 in double, 16 of tiles and 8 of top-k labels, each for one label a row
    # and for two; 4 scales, 1 count
    assert len(kernels[architecture]) == 153
    for kernel in kernels[architecture]:
        assert kernel.local_bytes == 0, kernel
        assert not any(name.startswith(("LDL", "STL")) for name in kernel.instructions), kernel
        # 65,536 are for 512 threads, or for 256 of those with top-k labels or in double.
        sizes = sizes_and_sweep(kernel)
        is_double = sizes and sizes[2] != "tiles" and 8 in sizes[:2]
        most = 255 if is_double or "top_k_kernel" in kernel.name else 128
        assert kernel.registers <= most, kernel


@needs_nvcc
@needs_disassembler
@takes_long
@for_every_architecture
def test_every_pack_of_logits_with_top_k_labels_moves_in_16_byte_accesses(kernels, architecture):
    rows = [kernel for kernel in kernels[architecture] if "top_k_kernel" in kernel.name]
    assert len(rows) == 16
    for kernel in rows:
        packs = 4 if re.search(r"Lb1ELi[12]E", kernel.name) else 8  # streamed, or held
        assert accesses(kernel, "LDG", wide=True) >= packs, kernel
        assert accesses(kernel, "STG", wide=True) >= packs, kernel


@needs_nvcc
@needs_disassembler
@takes_long
@for_every_architecture
def test_every_pack_moves_in_16_byte_accesses(kernels, architecture):
    rows = [kernel for kernel in kernels[architecture] if sizes_and_sweep(kernel)]
    assert len(rows) == 132
    for kernel in rows:
        z, s, sweep = sizes_and_sweep(kernel)
        packs = 4 * min(z, s) // max(z, s)  # that a thread has at once
        if sweep == "streamed":
            packs = max(packs // 2, 1)
        # Of a tile a lane loads four vectors of either matrix at a time, and stores one of each.
        loads = 8 if sweep == "tiles" else packs * (z + s) // min(z, s)
        assert accesses(kernel, "LDG", wide=True) >= loads, kernel
        assert accesses(kernel, "STG", wide=True) >= (2 if sweep == "tiles" else loads), kernel
        # The row's edges, rows done again, losses and scales; a pack stored singly is 4 to 8 more.
        assert accesses(kernel, "STG", wide=False) <= 12, kernel
        assert accesses(kernel, "LD.", wide=False) == accesses(kernel, "ST.", wide=False) == 0
