"""No kernel goes past a row, masked instructions included, which sanitizers do not see."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from expected import needs_cpu_kernel
from instruction_sets import run_with, skip_without


@needs_cpu_kernel
@pytest.mark.skipif(sys.platform != "linux", reason="protects pages as Linux does")
@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_rows_at_the_edge_of_memory_are_read_and_written_to_it_and_no_further(
    capability: str,
) -> None:
    skip_without(capability)
    run = run_with(capability, str(Path(__file__).with_name("guarded_rows.py")))
    assert run.returncode == 0, run.stderr
