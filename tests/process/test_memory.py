from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

STEPS, MIB = 20, 64

SCRIPT = f"""
import resource
import sys
import torch
from gift_fast.process.memory import keep_freed_memory

def step():
    return torch.ones({MIB} * 2**18).sum()

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(10):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({STEPS}):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    call = [sys.executable, "-c", SCRIPT, mode]
    return int(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_a_step_takes_no_page_faults_for_memory_that_the_step_before_has_freed():
    pages = STEPS * MIB * 2**20 // 4096
    assert page_faults("default") > pages * 3 // 4  # what it is there to avoid
    # Where small blocks fall on the heap is up to chance: now and then a step has to extend it.
    assert page_faults("keep") < pages // 8
