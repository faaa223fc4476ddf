"""The loss without one of torch's private names: right, if slower, and always imported."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gift_fast
from gift_fast.loss import torch_internals

PACKAGE = Path(gift_fast.__file__).parent
SOURCE = (PACKAGE / "loss" / "torch_internals.py").read_text(encoding="utf-8")
NAMES = re.findall(r'_find\(\s*"([\w.]+)"', SOURCE)

CHECKS = (
    *("values_and_gradients", "kept_graphs", "second_derivatives", "without_gradients"),
    *("transforms", "forward_mode", "batched_gradients", "lazy_values", "bad_targets", "compiled"),
)


@pytest.fixture(scope="module")
def reports():
    """What missing_names.py found, for each name."""
    command = [sys.executable, str(Path(__file__).parent / "missing_names.py"), *NAMES]
    path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_this_torch_has_all_names():
    assert not torch_internals.MISSING
    assert len(NAMES) >= 12


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, as on Linux")
@pytest.mark.parametrize("name", [*NAMES, "nothing"])
def test_without_a_name_the_loss_is_imported_and_right(reports, name):
    report = reports[name]
    assert "import" not in report, report.get("import")
    assert report.pop("missing") == ([] if name == "nothing" else [name])
    assert set(report) == set(CHECKS)
    for check, said in report.items():
        assert said == "ok", f"{check} without {name}:\n{said}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda x: x.stem)
def test_no_other_file_uses_a_private_name_of_torch(path):
    if path.name == "torch_internals.py":
        return
    used = re.findall(r"\btorch(?:\.\w+)*\._\w+|\bforward_ad\._\w+", path.read_text("utf-8"))
    used += re.findall(r"\._is_zerotensor|\btorch\._C\b|from torch\._\S*", path.read_text("utf-8"))
    assert [x for x in used if not x.startswith("torch.__")] == []
