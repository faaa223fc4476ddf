from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import types

import pytest

from gift_fast.cli import diagnosis as doctor
from gift_fast.cli.main import STUDENT_PACKAGES, main

SECTIONS = [
    *("versions", "platform", "compiler", "gpu", "backends", "cpu", "memory", "variables"),
    "missing",
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

    monkeypatch.setattr(doctor, "output_of", broken)
    monkeypatch.setattr(doctor, "versions", broken)
    monkeypatch.setattr(doctor, "machine_memory", broken)
    found = doctor.examine()
    assert found["versions"] == {"not known": "OSError: no such thing"}
    assert found["memory"]["memory"] == "not known: OSError: no such thing"
    assert "not known" in doctor.in_words(found)


def test_what_is_missing_comes_with_the_command_that_mends_it(monkeypatch):
    version = doctor.version

    def without(package: str) -> str:
        if package in ("kornia", "scipy", "ray"):
            raise importlib.metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(doctor, "version", without)
    reason = "not built when gift-fast was installed: no C++ compiler"
    monkeypatch.setattr(doctor, "backends", lambda: {"cpu": reason})
    lacks = {lack["what"]: lack["command"] for lack in doctor.examine()["missing"]}
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
    found = [lack["what"] for lack in doctor.missing(given)]
    assert found == ([] if what is None else [what])


@pytest.mark.parametrize("fails", [False, True])
def test_the_kernels_own_check_is_run_where_there_is_one(monkeypatch, fails):
    def self_check() -> dict[str, str]:
        if fails:
            raise RuntimeError("launch failed")
        return {"cpu": "ok", "triton": "no device"}

    module = types.ModuleType("gift_fast.loss.self_check")
    module.self_check = self_check  # type: ignore[attr-defined]
    module.__spec__ = importlib.machinery.ModuleSpec("gift_fast.loss.self_check", None)
    monkeypatch.setitem(sys.modules, "gift_fast.loss.self_check", module)
    found = doctor.backends()
    if fails:
        assert found["self-check, checked against the definition"].startswith("failed: ")
    else:
        assert found["cpu, checked against the definition"] == "ok"
        assert found["triton, checked against the definition"] == "no device"


def test_it_answers_where_torch_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = doctor.examine()
    assert list(found) == SECTIONS
    assert "torch" in found["gpu"]["not known"]
    assert found["versions"]["python"]
    assert "missing" in doctor.in_words(found)


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
