"""What setup.py does where it cannot compile, and how the package tells of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gift_fast.loss.installation import REASON, why_not_built

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.py").exists(), reason="setup.py is in a checkout or an sdist alone"
)


@pytest.fixture(scope="module")
def backend():
    sys.path.insert(0, str(ROOT))
    try:
        import build_backend
    finally:
        sys.path.remove(str(ROOT))
    return build_backend


@pytest.fixture
def site(tmp_path, monkeypatch, backend):
    """An environment without torch, as pip shows it to a build: a place to put a torch into."""
    monkeypatch.setattr(sys, "path", [str(tmp_path / "isolated")])
    monkeypatch.setattr(backend.site, "getsitepackages", lambda: [str(tmp_path)])
    monkeypatch.setattr(backend.site, "getusersitepackages", lambda: str(tmp_path / "user"))
    monkeypatch.delenv("GIFT_FAST_SKIP_BUILD", raising=False)
    monkeypatch.setenv("CXX", sys.executable)  # any program
    return tmp_path


def put_torch(folder, version):
    info = folder / f"torch-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")


def test_a_build_asks_for_a_torch_where_there_is_none(site, backend):
    assert backend.missing_torch() == ["torch>=2.10"]


@pytest.mark.parametrize("version", ["2.9.1", "1.13.0+cu117"])
def test_a_build_asks_for_a_torch_where_it_is_too_old(site, backend, version):
    put_torch(site, version)
    assert backend.missing_torch() == ["torch>=2.10"]


@pytest.mark.parametrize("version", ["2.10.0", "2.14.1+cpu", "3.0.0.dev20270101"])
def test_the_torch_of_the_environment_is_found(site, backend, version):
    put_torch(site, version)
    assert backend.missing_torch() == []
    assert backend.torch_folders() == [str(site)]


def test_a_torch_in_the_build_environment_comes_first(site, backend):
    put_torch(site, "2.11.0")
    put_torch(site / "isolated", "2.12.0")
    assert backend.torch_folders() == []


@pytest.mark.parametrize(
    ("variable", "value"), [("GIFT_FAST_SKIP_BUILD", "1"), ("CXX", "no-such-compiler")]
)
def test_no_torch_is_fetched_where_nothing_is_compiled(site, backend, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    assert value in backend.why_not_compiled()
    assert backend.missing_torch() == []


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    ignored = shutil.ignore_patterns("*.so", REASON, "__pycache__")
    for name in ("gift_fast", "csrc"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("setup.py", "build_backend.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def build(sources, target, **variables):
    dropped = ("FORCE_CUDA", "GIFT_FAST_SKIP_BUILD", "GIFT_FAST_REQUIRE_BUILD", "CXX")
    env = {name: value for name, value in os.environ.items() if name not in dropped}
    return subprocess.run(
        [
            *(sys.executable, "setup.py", "--quiet", "build"),
            *("--build-base", str(target / "temporary"), "--build-lib", str(target)),
        ],
        cwd=sources,
        env=env | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


CANNOT = {
    "no compiler": ({"CXX": "no-such-compiler"}, "no-such-compiler"),
    "the compiler fails": ({"CXX": "false"}, "did not compile"),
    "skipped": ({"GIFT_FAST_SKIP_BUILD": "1"}, "GIFT_FAST_SKIP_BUILD=1"),
}


@pytest.mark.parametrize("case", CANNOT)
def test_pure_python_is_built_with_the_reason(sources, tmp_path, case):
    variables, reason = CANNOT[case]
    result = build(sources, tmp_path, **variables)
    assert result.returncode == 0, result.stderr
    assert "without compiled kernels" in result.stderr
    package = tmp_path / "gift_fast"
    assert (package / "loss" / "functional.py").exists()
    assert not list(package.glob("*.so"))
    said = why_not_built(package)
    assert reason in said
    assert "pip install --force-reinstall" in said


@pytest.mark.parametrize(
    ("variable", "case"),
    [
        ("GIFT_FAST_REQUIRE_BUILD", "no compiler"),
        ("GIFT_FAST_REQUIRE_BUILD", "the compiler fails"),
        ("FORCE_CUDA", "no compiler"),
    ],
)
def test_what_was_asked_for_is_an_error(sources, tmp_path, variable, case):
    variables, _ = CANNOT[case]
    result = build(sources, tmp_path, **variables, **{variable: "1"})
    assert result.returncode != 0
    assert variable in result.stderr
    assert "GIFT_FAST_SKIP_BUILD=1" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_checkout_that_is_not_installed_says_so(tmp_path):
    (tmp_path / "setup.py").touch()
    (tmp_path / "gift_fast").mkdir()
    assert str(tmp_path) in why_not_built(tmp_path / "gift_fast")
    assert "checkout" in why_not_built(tmp_path / "gift_fast")


def test_setuptools_that_is_too_old_is_named(sources, tmp_path):
    old = tmp_path / "setuptools"
    old.mkdir()
    (old / "__init__.py").write_text("__version__ = '65.5.0'\ndef setup(): ...\n")
    (old / "command").mkdir()
    (old / "command/__init__.py").touch()
    (old / "command/build_py.py").write_text("build_py = object\n")
    result = build(sources, tmp_path, PYTHONPATH=str(tmp_path))
    assert result.returncode != 0
    assert "65.5.0" in result.stderr
    assert "pip install --upgrade setuptools" in result.stderr
