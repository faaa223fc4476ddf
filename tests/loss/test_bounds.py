"""No kernel goes past a row, masked instructions included, which sanitizers do not see."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from expected import needs_cpu_kernel


@needs_cpu_kernel
@pytest.mark.skipif(sys.platform != "linux", reason="protects pages as Linux does")
@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_rows_at_the_edge_of_memory_are_read_and_written_to_it_and_no_further(
    capability: str,
) -> None:
    script = Path(__file__).with_name("guarded_rows.py")
    run = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "GIFT_FAST_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
