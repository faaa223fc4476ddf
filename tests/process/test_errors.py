"""What a user can cause ends in one line and status 2; what he cannot keeps its traceback."""

from __future__ import annotations

import errno

import pytest
import torch

from gift_fast.cli import main
from gift_fast.cli.demo import experiment as demo
from gift_fast.process.errors import error_message
from gift_fast.studies.failures import Failure


def too_large_for_the_cpu() -> BaseException:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 50)
    return raised.value


def too_large_for_python() -> BaseException:
    with pytest.raises(MemoryError) as raised:
        bytearray(1 << 60)
    return raised.value


OUT_OF_MEMORY = {
    "torch, CPU": too_large_for_the_cpu,
    "Python": too_large_for_python,
    "torch, GPU": lambda: torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has 10.00 MiB free."
    ),
    "CUDA itself": lambda: RuntimeError("CUDA error: out of memory\nFor debugging consider ..."),
    "cuBLAS": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `create`"),
    "the system": lambda: OSError(errno.ENOMEM, "Cannot allocate memory"),
}


@pytest.mark.parametrize("source", OUT_OF_MEMORY)
def test_out_of_memory_is_told_in_a_line_with_what_takes_less(source):
    told = error_message(OUT_OF_MEMORY[source]())
    assert told is not None
    assert "out of memory" in told
    assert "a smaller batch size" in told
    assert "\n" not in told
    assert ("the GPU is" in told) == (source in ("torch, GPU", "CUDA itself", "cuBLAS"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_names_the_file_and_what_to_do(number):
    told = error_message(OSError(number, "No space", "runs/a.json"))
    assert told is not None
    assert "the disk is full" in told
    assert "runs/a.json" in told
    assert "free some space" in told


def test_a_gpu_that_cannot_be_used_leads_to_the_doctor():
    told = error_message(RuntimeError("No CUDA GPUs are available"))
    assert told is not None
    assert "gift-fast doctor" in told
    assert "--device cpu" in told


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("CUDA error: device-side assert triggered"),
        AttributeError("'NoneType' object has no attribute 'shape'"),
        KeyError("model"),
    ],
)
def test_a_programming_error_is_not_told_as_a_users(error):
    assert error_message(error) is None


def raising(error: BaseException):
    def run(config):
        raise error

    return run


def test_the_command_tells_what_a_user_can_cause_without_a_traceback(monkeypatch, capsys):
    monkeypatch.setattr(demo, "run_demo", raising(torch.OutOfMemoryError("CUDA out of memory.")))
    assert main(["demo"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("gift-fast: error: the GPU is out of memory")
    assert printed.count("\n") == 1


def test_a_programming_error_keeps_its_traceback_and_asks_for_a_report(monkeypatch, capsys):
    monkeypatch.setattr(demo, "run_demo", raising(RuntimeError("shapes cannot be multiplied")))
    assert main(["demo"]) == 1
    *trace, last = capsys.readouterr().err.splitlines()
    assert trace[0].startswith("Traceback")
    assert "in run" in "".join(trace)
    assert trace[-1] == "RuntimeError: shapes cannot be multiplied"
    assert "gift-fast doctor" in last
    assert "report" in last


def test_every_traceback_can_be_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(demo, "run_demo", raising(ValueError("ipc must be at least 1, got 0")))
    monkeypatch.setenv("GIFT_FAST_TRACEBACK", "1")
    assert main(["demo"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback")
    assert printed.endswith("gift-fast: error: --ipc must be at least 1, got 0\n")


def test_a_run_of_a_study_is_told_likewise():
    short = Failure.of("CE, seed 0", MemoryError("there is no more"))
    assert "out of memory (there is no more)" in short.reason
    assert short.trace == ""
    bug = Failure.of("CE, seed 0", RuntimeError("shapes cannot be multiplied"))
    assert bug.trace.startswith("Traceback") or "RuntimeError" in bug.trace
