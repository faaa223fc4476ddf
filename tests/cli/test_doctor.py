from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from gift_fast.cli import main
from gift_fast.cli.doctor import kernels, machine, packages, report
from gift_fast.cli.doctor.missing import missing
from gift_fast.cli.requirements import STUDENT_PACKAGES

SECTIONS = [
    *("versions", "platform", "compiler", "gpu", "backends", "cpu", "memory", "variables"),
    *("warnings", "missing"),
]


def test_the_report_has_every_section_and_can_be_json(capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == SECTIONS
    assert found["versions"]["torch"] == importlib.metadata.version("torch")
    assert set(found["backends"]) >= {"cpu", "cuda", "triton", "reference"}
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert f"  python: {found['versions']['python']}\n" in printed
    assert "\nmissing\n" in printed


def test_whatever_raises_is_an_answer_and_no_error(monkeypatch):
    def broken(*arguments: object) -> str:
        raise OSError("no such thing")

    monkeypatch.setattr(machine, "output_of", broken)
    monkeypatch.setattr(report, "versions", broken)
    monkeypatch.setattr(machine, "machine_memory", broken)
    found = report.examine()
    assert found["versions"] == {"unknown": "OSError: no such thing"}
    assert found["memory"]["memory"] == "unknown: OSError: no such thing"
    assert "unknown" in report.as_text(found)


def test_what_is_missing_comes_with_the_command_that_mends_it(monkeypatch):
    version = packages.version

    def without(package: str) -> str:
        if package in ("kornia", "scipy", "ray"):
            raise importlib.metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(packages, "version", without)
    reason = "not built when gift-fast was installed: no C++ compiler"
    monkeypatch.setattr(report, "backends", lambda: {"cpu": reason})
    lacks = {lack["what"]: lack["command"] for lack in report.examine()["missing"]}
    assert lacks["kornia, scipy"] == "pip install 'gift-fast[student]'"
    assert lacks["ray"] == "pip install 'gift-fast[cluster]'"
    assert "C++ compiler" in lacks["the CPU kernels"]
    assert "pip install" in lacks["the CPU kernels"]


@pytest.mark.parametrize(
    ("gpu", "what"),
    [
        ({"usable by torch": "no", "driver": "580.95, NVIDIA H200"}, "a torch for this GPU"),
        ({"usable by torch": "yes", "driver": "580.95, NVIDIA H200"}, "triton"),
        ({"usable by torch": "no", "driver": "nvidia-smi not found"}, None),
    ],
)
def test_a_gpu_that_is_not_used_is_told(gpu, what):
    given = {"versions": {"triton": "not installed"}, "gpu": gpu, "backends": {}}
    found = [lack["what"] for lack in missing(given)]
    assert found == ([] if what is None else [what])


@pytest.mark.parametrize("fails", [False, True])
def test_the_self_check_of_the_kernels_is_reported(monkeypatch, fails):
    def self_check() -> dict[str, str]:
        if fails:
            raise RuntimeError("launch failed")
        return {"cpu": "ok", "triton": "no device"}

    monkeypatch.setattr("gift_fast.loss.self_check.self_check", self_check)
    found = kernels.backends()
    if fails:
        assert found["every self-check"].startswith("failed: ")
    else:
        assert found["cpu self-check"] == "ok"
        assert found["triton self-check"] == "no device"


def test_it_answers_where_torch_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = report.examine()
    assert list(found) == SECTIONS
    assert "torch" in found["gpu"]["unknown"]
    assert found["versions"]["python"]
    assert "missing" in report.as_text(found)


def test_a_torch_capability_that_differs_between_processes_is_warned_of(monkeypatch, capsys):
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == []
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    warned = printed[printed.index("\nwarnings\n") : printed.index("\nmissing\n")]
    assert "ATEN_CPU_CAPABILITY" in warned
    assert "TORCHINDUCTOR_CACHE_DIR" in warned


WITHOUT_THE_EXTRA = """
import importlib.util, sys
extra = {*sys.argv[1:]}
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in extra else find(name, *rest)
for name in extra:
    sys.modules[name] = None
from gift_fast.cli import main
sys.exit(main(["doctor"]))
"""


def test_it_runs_without_the_extra():
    extra = [name for name in STUDENT_PACKAGES if name != "numpy"]
    command = [sys.executable, "-c", WITHOUT_THE_EXTRA, *extra]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\nbackends\n  cpu: " in done.stdout
