"""The Triton kernels without a GPU: interpreted, and compiled ahead of time for several."""

import collections
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="needs triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from gift_fast.loss.triton_kernels import launch  # noqa: E402
from gift_fast.loss.triton_kernels.plan import kept_plan_of, plan_of  # noqa: E402

HERE = Path(__file__).parent
BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
F64, F32, BF16, F16 = torch.float64, torch.float32, torch.bfloat16, torch.float16
POINTER = {F64: "*fp64", F32: "*fp32", BF16: "*bf16", F16: "*fp16"}
SM = {arch: GPUTarget("cuda", arch, 32) for arch in (80, 90, 100)}


def test_the_interpreted_kernels_are_exact():
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "triton_on_cpu", "--tb=short"]
    run = subprocess.run(
        [*command, str(HERE / "interpreted_triton.py")],
        cwd=HERE.parents[1],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr


def compiled(kernel, arguments, target, warps, multiples_of_16=(), aligned=True):
    """A kernel for a target: ``arguments`` are types by name, and values that are constants."""
    kinds = {name: arguments[name] for name in kernel.arg_names}
    types = {n: x if isinstance(x, str) else "constexpr" for n, x in kinds.items()}
    constants = {n: x for n, x in kinds.items() if not isinstance(x, str)}
    divisible = {
        (i,): [["tt.divisibility", 16]]
        for i, (name, kind) in enumerate(types.items())
        if (kind.startswith("*") and aligned) or name in multiples_of_16
    }
    source = ASTSource(kernel, types, constants, divisible)
    return triton.compile(source, target=target, options={"num_warps": warps})


def compiled_rows(
    classes, logits, soft_labels, target, *, softmax=False, requested=(True, False), int32=False,
    aligned=True, mixed=False,
):  # fmt: skip
    """``rows_kernel`` as contiguous rows are launched, and the plan of the launch."""
    plan = plan_of(
        classes,
        (classes, classes),
        (logits.itemsize, soft_labels.itemsize),
        aligned=aligned,
        soft_labels_grad=requested[1],
        add=True,
        softmax=softmax,
        float64=logits == F64,
    )
    grads = [
        POINTER[x] if y else None for x, y in zip((logits, soft_labels), requested, strict=True)
    ]
    scales = ["*fp32" if x == "*fp16" else None for x in grads]
    lengths = ("classes", "logits_stride", "soft_labels_stride")
    arguments = {
        **common_arguments(int32, mixed),
        **dict.fromkeys(lengths, "i32"),
        "logits": POINTER[logits],
        "soft_labels": POINTER[soft_labels],
        "soft_labels_group_stride": None,
        **dict(zip(("logits_grad", "soft_labels_grad"), grads, strict=True)),
        **dict(zip(("logits_scales", "soft_labels_scales"), scales, strict=True)),
        "PLAN": plan,
    }
    wide = lengths if classes % 16 == 0 else ()
    return plan, compiled(launch.rows_kernel, arguments, target, plan.warps, wide, aligned)


def common_arguments(int32, mixed):
    """What the kernels for dense and for top-k labels have in common."""
    return {
        **dict.fromkeys(("weight", "losses"), "*fp64"),
        **dict.fromkeys(("rows", "ignore_index"), "i32"),
        **dict.fromkeys(("gamma", "on_target", "elsewhere", "inverse_temperature"), "fp64"),
        "target": "*i32" if int32 else "*i64",
        "target_stride": 1,
        "other_target": "*i64" if mixed else None,
        "target_weight": "*fp32" if mixed else None,
        "other_target_stride": 1 if mixed else None,
        "target_weight_stride": 1 if mixed else None,
        **dict.fromkeys(("logits_group_stride", "rows_per_group")),
    }


def compiled_top_k(classes, kept, logits, target, *, softmax=False, mixed=False):
    """``top_k_kernel`` as contiguous rows are launched, and the plan of the launch."""
    plan = plan_of(
        classes,
        (classes,),
        (logits.itemsize,),
        aligned=True,
        soft_labels_grad=False,
        add=True,
        softmax=softmax,
        float64=logits == F64,
    )
    lengths = ("classes", "logits_stride")
    arguments = {
        **common_arguments(False, mixed),
        **dict.fromkeys((*lengths, "kept", "values_stride", "indices_stride"), "i32"),
        "logits": POINTER[logits],
        "values": "*fp16",
        "indices": "*i16",
        "rest": "*fp16" if softmax else None,
        "rest_stride": 1 if softmax else None,
        "fits": "*i1",
        "largest_mass": "fp64",
        "logits_grad": POINTER[logits],
        "logits_scales": "*fp32" if logits == F16 else None,
        "PLAN": plan,
        "KEPT": kept_plan_of(plan, classes, kept, probabilities=not softmax),
    }
    wide = lengths if classes % 16 == 0 else ()
    return plan, compiled(launch.top_k_kernel, arguments, target, plan.warps, wide)


def memory_instructions(kernel, directory):
    """How often each memory instruction is in the SASS, and the bytes of stack a thread has."""
    cubin = directory / "kernel.cubin"
    cubin.write_bytes(kernel.asm["cubin"])

    def output(tool, *flags):
        command = [str(BINARIES / tool), *flags, str(cubin)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    sass = output("nvdisasm", "-c")
    found = collections.Counter(re.findall(r"\b((?:LDG|STG|LDL|STL)(?:\.\w+)*)", sass))
    stack = re.search(r"STACK:(\d+)", output("cuobjdump", "-res-usage"))
    assert stack, "cuobjdump says nothing of the stack"
    return found, int(stack[1])


@pytest.mark.skipif(
    not (BINARIES / "nvdisasm").exists(), reason="needs the nvdisasm of triton's wheel"
)
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize(
    ("classes", "logits", "soft_labels", "requested"),
    [
        (100, F32, F32, (True, False)),
        (1000, BF16, BF16, (True, False)),
        (1001, F32, F32, (True, False)),
        (1001, F16, BF16, (True, True)),
        (8192, F16, F16, (True, True)),
        (4096, BF16, F32, (True, True)),
        (16384, BF16, F32, (True, False)),
        (21841, F32, F32, (True, False)),
        (50257, BF16, BF16, (True, True)),
    ],
)
def test_rows_are_moved_in_vectors_of_16_bytes_and_not_spilled(
    classes, logits, soft_labels, requested, arch, tmp_path
):
    plan, kernel = compiled_rows(classes, logits, soft_labels, SM[arch], requested=requested)
    found, stack = memory_instructions(kernel, tmp_path)
    assert stack == 0
    assert not [name for name in found if name.startswith(("LDL", "STL"))]
    # Every full vector of a tile of z and of s is one access, and of a gradient too: 16 bytes, or
    # as many elements of the narrower type as 16 bytes have of the wider.
    vectors = max(1, plan.rows * plan.block // (plan.vector * 32 * plan.warps))
    written = [x for x, y in zip((logits, soft_labels), requested, strict=True) if y]
    assert plan.vector * max(logits.itemsize, soft_labels.itemsize) == 16
    for kind, moved in (("LDG", (logits, soft_labels)), ("STG", written)):
        for width, count in collections.Counter(plan.vector * x.itemsize for x in moved).items():
            wide = (
                n for name, n in found.items() if name.startswith(kind) and f".{8 * width}" in name
            )
            assert sum(wide) >= count * vectors, (kind, width)


@pytest.mark.skipif(
    not (BINARIES / "nvdisasm").exists(), reason="needs the nvdisasm of triton's wheel"
)
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize(
    ("classes", "logits", "soft_labels", "requested"),
    [(10, F16, F16, (True, True)), (33, BF16, F32, (True, False)), (33, F16, F16, (True, True))],
)
def test_several_rows_of_a_thread_are_not_spilled(
    classes, logits, soft_labels, requested, arch, tmp_path
):
    _, kernel = compiled_rows(classes, logits, soft_labels, SM[arch], requested=requested)
    found, stack = memory_instructions(kernel, tmp_path)
    assert stack == 0
    assert not [name for name in found if name.startswith(("LDL", "STL"))]


@pytest.mark.skipif(
    not (BINARIES / "nvdisasm").exists(), reason="needs the nvdisasm of triton's wheel"
)
@pytest.mark.parametrize(
    ("classes", "logits", "soft_labels", "requested"),
    [(10, F16, F16, (True, True)), (1000, BF16, BF16, (True, False)), (21841, F32, F32, (1, 0))],
)
def test_mixed_labels_read_no_more_vectors_and_spill_nothing(
    classes, logits, soft_labels, requested, tmp_path
):
    named = {"requested": requested, "softmax": classes == 10}
    (one, _), (two, stack) = (
        memory_instructions(
            compiled_rows(classes, logits, soft_labels, SM[90], mixed=mixed, **named)[1], tmp_path
        )
        for mixed in (False, True)
    )
    assert stack == 0
    assert not [name for name in two if name.startswith(("LDL", "STL"))]
    wide = {name for name in one | two if ".128" in name}
    assert {name: one[name] for name in wide} == {name: two[name] for name in wide}


@pytest.mark.skipif(
    not (BINARIES / "nvdisasm").exists(), reason="needs the nvdisasm of triton's wheel"
)
@pytest.mark.parametrize(
    ("classes", "kept", "logits", "mixed", "arch"),
    [
        (10, 3, F16, True, 90),
        (1001, 40, F32, False, 90),
        (16384, 20, BF16, True, 90),
        (50257, 64, F32, False, 80),
    ],
)
def test_logits_with_top_k_labels_are_moved_in_vectors_and_not_spilled(
    classes, kept, logits, mixed, arch, tmp_path
):
    plan, kernel = compiled_top_k(classes, kept, logits, SM[arch], softmax=kept == 20, mixed=mixed)
    found, stack = memory_instructions(kernel, tmp_path)
    assert stack == 0
    assert not [name for name in found if name.startswith(("LDL", "STL"))]
    if classes > 10:  # rows of 20 bytes begin anywhere
        assert plan.vector * logits.itemsize == 16
        vectors = max(1, plan.rows * plan.block // (plan.vector * 32 * plan.warps))
        for kind in ("LDG", "STG"):
            wide = (n for name, n in found.items() if name.startswith(kind) and ".128" in name)
            assert sum(wide) >= vectors, kind
    # What is written over has to be there: a barrier in float32, and one in float64.
    assert len(re.findall(r"\w\.barrier\b", kernel.asm["ttir"])) == 2


@pytest.mark.parametrize(
    ("classes", "logits", "target"),
    [(33, F64, SM[100]), (1001, BF16, GPUTarget("hip", "gfx942", 64))],
    ids=str,
)
def test_top_k_labels_compile_for_other_devices(classes, logits, target):
    _, kernel = compiled_top_k(classes, 20, logits, target, softmax=True, mixed=True)
    assert kernel.asm["ptx" if target.backend == "cuda" else "amdgcn"]


@pytest.mark.parametrize("classes", [100, 1000, 1001, 21841])
def test_threads_take_turns_where_vectors_cannot_be_moved(classes):
    # A view that begins off 16 bytes: neighbours in a warp have neighbouring elements.
    _, kernel = compiled_rows(classes, BF16, BF16, SM[90], aligned=False)
    layouts = re.findall(r"blocked<\{sizePerThread = \[1, (\d+)\]", kernel.asm["ttgir"])
    assert layouts
    assert set(layouts) == {"1"}


@pytest.mark.parametrize("target", [SM[100], GPUTarget("hip", "gfx942", 64)], ids=str)
@pytest.mark.parametrize(
    ("classes", "logits", "soft_labels", "softmax"),
    [(10, F32, F16, True), (1001, F16, BF16, True), (21841, BF16, F32, True), (33, F64, F32, True)],
)
def test_rows_compile_for_other_devices(classes, logits, soft_labels, softmax, target):
    _, kernel = compiled_rows(
        classes, logits, soft_labels, target, softmax=softmax, requested=(True, True), int32=True
    )
    assert kernel.asm["ptx" if target.backend == "cuda" else "amdgcn"]


@pytest.mark.parametrize("target", [*SM.values(), GPUTarget("hip", "gfx942", 64)], ids=str)
def test_the_small_kernels_compile(target):
    counts = dict.fromkeys(("rows", "classes", "ignore_index"), "i32")
    targets = {"target": "*i64", "weight": "*fp64", "all_in_range": "*i1", "target_stride": 1}
    for other, stride, fits in ((None, None, "*i1"), ("*i32", 1, None)):
        others = {"other_target": other, "other_target_stride": stride, "fits": fits}
        arguments = {**counts, **targets, **others, "MEAN": True, "BLOCK": 1024}
        assert compiled(launch.targets_kernel, arguments, target, 2)
    losses = {
        "losses": "*fp64",
        "weight": "*fp64",
        "loss": "*fp32",
        "programs": "i32",
        "MIXED": True,
        "BLOCK": 1024,
    }
    assert compiled(launch.reduce_kernel, losses, target, 2)
    for grad, scale, per_row, short in (("*fp16", "*fp32", True, True), ("*bf16", None, 0, 0)):
        scaling = {
            **dict.fromkeys(("rows", "classes", "tiles", "grad_output_stride"), "i32"),
            **{"grad": grad, "grad_output": "*fp32", "scale": scale, "size": "i64"},
            **{"PER_ROW": bool(per_row), "SHORT": bool(short), "BLOCK": 2048},
        }
        assert compiled(launch.scale_kernel, scaling, target, 4)
