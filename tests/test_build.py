"""A package whose extension was not built, or was built and is broken."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from expected import needs_cpu_kernel

import gift_fast
from gift_fast.loss import operators as ops

PROGRAM = """
import sys, warnings
{break_extension}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch
    caught.clear()
    import gift_fast
    import gift_fast.loss.operators
    import importlib
    importlib.import_module("gift_fast.loss")
ours = [w for w in caught if "gift_fast" in str(w.message)]
print(len(ours), *(w.category.__name__ for w in ours))
print(*(str(w.message).replace(chr(10), " ") for w in ours))
print(gift_fast.backends()["cpu"])
z = torch.tensor([[3.0, 4.0]], requires_grad=True)
s = torch.tensor([[1.0, 0.0]], requires_grad=True)
y = torch.tensor([1])
loss = gift_fast.gift_loss(z, s, y, gamma=0.5, label_smoothing=0.0)
loss.backward()
print(round(loss.item(), 6), z.grad.isfinite().all().item(), s.grad.isfinite().all().item())
(grad,) = torch.autograd.grad(gift_fast.GIFTLoss()(z, s, y), z, create_graph=True)
grad.sum().backward()
print(torch.compile(gift_fast.gift_loss, backend="aot_eager", fullgraph=True)(z, s, y).shape)
for call, error in (
    (lambda: gift_fast.gift_loss(z, s, y, backend="cpu"), RuntimeError),
    (lambda: gift_fast.gift_loss(z, s, y + 1), IndexError),
    (lambda: gift_fast.gift_loss(z, s[0], y), ValueError),
):
    try:
        call()
    except error as caught_error:
        print(caught_error)
"""


def run(break_extension):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(break_extension=break_extension)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.fixture(scope="module")
def not_built():
    return run("sys.modules['gift_fast._C'] = None  # importing it raises ModuleNotFoundError")


BROKEN = """
import importlib.abc, importlib.machinery

class Broken(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name == "gift_fast._C":
            return importlib.machinery.ModuleSpec(name, self)

    def exec_module(self, module):
        raise ImportError("undefined symbol: gone")

sys.meta_path.insert(0, Broken())
"""


@pytest.fixture(scope="module")
def broken():
    return run(BROKEN)


def test_an_extension_that_was_not_built_is_no_cause_for_a_warning(not_built):
    assert not_built[0] == "0"


def test_backends_say_that_it_was_not_built(not_built):
    assert not_built[2].startswith("not built when gift-fast was installed")


def test_a_broken_extension_warns_once(broken):
    assert broken[0] == "1 RuntimeWarning"
    assert "built, but cannot be loaded: undefined symbol: gone" in broken[1]
    assert "reinstall" in broken[1]


def test_backends_say_why_it_does_not_load(broken):
    assert broken[2] == "built, but cannot be loaded: undefined symbol: gone"


@pytest.mark.parametrize("build", ["not_built", "broken"])
def test_the_reference_runs_in_its_place(build, request):
    lines = request.getfixturevalue(build)
    assert lines[3] == "0.010051 True True"
    assert lines[4] == "torch.Size([])"


@pytest.mark.parametrize("build", ["not_built", "broken"])
def test_errors_are_as_with_the_kernels(build, request):
    lines = request.getfixturevalue(build)
    assert lines[5].startswith("backend='cpu' is not available: ")
    assert lines[6] == "target must be a class in [0, 2) or ignore_index (-100), got 2 in row 0"
    assert lines[7] == "soft_labels must have the shape of logits (1, 2), got (2,)"
    assert len(lines) == 8


@needs_cpu_kernel
def test_the_library_tells_how_it_was_built():
    info = ops.CPU_LIBRARY.build_info()
    assert info["version"] == gift_fast.__version__
    assert info["torch_target"] == "2.10"
    assert info["cpu_capability"] in info["cpu_capabilities_built"].split()
    assert info["compiler"].startswith(("gcc", "clang"))
    assert {"openmp", "cuda", "torch_built_with"} <= info.keys()
