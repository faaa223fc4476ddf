"""A short form of what ``python -m tests.reliability.kills`` does fifty times."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL and fork are POSIX")
def test_three_kills_lose_nothing():
    command = [sys.executable, "-m", "tests.reliability.kills", "--kills", "3", "--no-document"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert result.returncode == 0, result.stderr
    assert "| all | 3 |" in result.stdout
