# `make demo` and `make test` need python3, venv, make and g++; everything else is installed into
# .venv on the first call. PYTHON=... names another interpreter, TORCH=torch==2.13.0 another torch.
PYTHON ?= python3
TORCH ?= torch
VENV ?= .venv
BIN := $(VENV)/bin
# Processes of `make test`, each of which takes files of tests.
WORKERS ?= 2

SOURCES := pyproject.toml setup.py build_backend.py gift_fast/__init__.py $(wildcard csrc/* csrc/*/*)

.PHONY: demo test test-avx2 test-cuda lint docs installs bench gpu-check format clean
.DELETE_ON_ERROR:

demo: $(VENV)/built
	$(BIN)/gift-fast demo

test: $(VENV)/built lint
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# The kernels that PyTorch, oneDNN and this package pick on a processor without AVX-512.
test-avx2: $(VENV)/built
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 GIFT_FAST_CPU_CAPABILITY=avx2 \
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder \
	tests/loss/test_numerics.py tests/data tests/training tests/distillation tests/auditing \
	tests/evaluation tests/report/test_accuracies.py

# The CUDA kernels, compiled by nvcc for all architectures of setup.py; no GPU, half an hour.
test-cuda: $(VENV)/built
	GIFT_FAST_TEST_ARCHITECTURES=75,80,90,100,120 $(BIN)/python -m pytest tests/kernels/test_cuda.py

lint: $(VENV)/built
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pre-commit run --all-files --show-diff-on-failure

# The documentation's site, in site/; works without network.
docs: $(VENV)/built
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# An sdist, a wheel of it, and an environment with the oldest Python, torch and dependencies.
installs: $(VENV)/built
	$(BIN)/python -m tests.reliability.installs --ci

bench: $(VENV)/built
	$(BIN)/python -m benchmarks.loss_cpu --out benchmark-results

# On a machine with a GPU: builds the CUDA kernels, tests, sanitizers, benchmark; one report.
gpu-check: $(VENV)/torch
	$(BIN)/python -m benchmarks.gpu_check --out gpu-check.md

format: $(VENV)/built
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(wildcard csrc/*.h csrc/*.cpp csrc/*/*.h csrc/*/*.cpp csrc/*/*.cu csrc/*/*.cuh)

# Torch first and on its own: the extension is then built against it.
$(VENV)/torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)" numpy
	$(BIN)/python -m pip install --quiet --upgrade setuptools ninja pybind11
	touch $@

$(VENV)/built: $(VENV)/torch $(SOURCES)
	GIFT_FAST_REQUIRE_BUILD=1 $(BIN)/python -m pip install --quiet --no-build-isolation \
		--editable ".[dev]"
	touch $@

clean:
	rm -rf build dist *.egg-info gift_fast/*.so $(VENV)
