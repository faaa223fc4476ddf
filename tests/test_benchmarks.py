"""The GPU benchmark and gpu-check without a GPU: what they run and report, that they refuse."""

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from expected import needs_cpu_kernel

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks is no part of the package

from benchmarks import gpu_check, loss_gpu, stacks_cpu
from benchmarks.sampling import interleaved, quartiles, ratios
from gift_fast import gift_loss


def quartile(median):
    return {"median": median, "q1": 0.9 * median, "q3": 1.1 * median}


def timed(**medians):
    first, *others = medians
    return {
        "seconds": {name: quartile(x) for name, x in medians.items()},
        "ratio_to_ours": {name: quartile(medians[name] / medians[first]) for name in others},
    }


@pytest.fixture
def result():
    """A measurement with round numbers: ours is the fastest but for one."""
    names = ("gift_fast cuda", "eager", "liger cross-entropy", "floor")
    return {
        "date": "2026-01-02T03:04:05+00:00",
        "machine": loss_gpu.describe_machine(),
        "repeats": 5,
        "cases": [
            {
                "dtype": "float32",
                "shape": (1000, 1000),
                "minimum_bytes": 12_000_000,
                "not_measured": {},
                "eager": timed(**dict(zip(names, (40e-6, 400e-6, 30e-6, 20e-6), strict=True))),
                "graph": timed(**dict(zip(names[:2], (20e-6, 300e-6), strict=True))),
            },
            {
                "dtype": "float32",
                "shape": (4096, 50257),
                "minimum_bytes": 2_470_232_064,
                "not_measured": {"eager": "out of memory"},
                "eager": timed(**dict(zip(names[::3], (1.5e-3, 1e-3), strict=True))),
                "graph": timed(**dict(zip(names[:1], (1.25e-3,), strict=True))),
            },
        ],
    }


def test_a_table_has_times_ratios_and_rates(result):
    (eager_title, eager), (graph_title, graph) = loss_gpu.tables(result["cases"])
    assert (eager_title, graph_title) == ("float32, eager steps", "float32, CUDA graphs")
    assert eager[1] == [
        *("1000 x 1000", "40.0 us", "400 us (10.0)", "30.0 us (0.75)", "20.0 us (0.50)"),
        *("12 MB", "300", "600"),
    ]
    assert eager[2] == [
        *("4096 x 50257", "1.50 ms", "out of memory", "-", "1.00 ms (0.67)"),
        *("2.47e+03 MB", "1647", "2470"),
    ]
    assert graph[0] == ["N x C", "gift_fast cuda", "eager", "least bytes", "GB/s of gift_fast cuda"]
    assert graph[2][1:3] == ["1.25 ms", "out of memory"]


def test_remarks_name_who_is_faster_and_where(result):
    assert list(loss_gpu.remarks(result["cases"])) == [
        "eager steps: eager is faster in 0 of 1 cases.",
        "eager steps: liger cross-entropy is faster in 1 of 1 cases (1000 x 1000 float32 (0.75)).",
        "CUDA graphs: eager is faster in 0 of 1 cases.",
    ]


def test_a_file_is_reported_on_without_a_device(result, tmp_path, capsys):
    path = tmp_path / "loss_gpu.json"
    path.write_text(json.dumps(result))
    loss_gpu.main(["--markdown", str(path)])
    report = capsys.readouterr().out
    assert f"torch {torch.__version__}" in report
    assert "| 1000 x 1000 | 40.0 us | 400 us (10.0) |" in report
    assert "2026-01-02, medians of 5 repeats" in report
    loss_gpu.text_report(result)


def test_arguments_choose_what_is_measured():
    args = loss_gpu.parse_arguments(["--shapes", "3x5", "7x11", "--dtypes", "bfloat16"])
    assert (args.shapes, args.dtypes, args.repeats) == ([(3, 5), (7, 11)], ["bfloat16"], 31)
    assert loss_gpu.parse_arguments(["--quick"]).repeats == 5
    with pytest.raises(SystemExit):
        loss_gpu.parse_arguments(["--repeats", "1"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_refuses_and_says_why():
    with pytest.raises(SystemExit, match=r"needs a CUDA device: torch .* finds none"):
        loss_gpu.main(["--quick"])


def test_every_competitor_is_measured_in_every_way(monkeypatch):
    def seconds_on_the_host(work, number):
        start = time.perf_counter()
        for _ in range(number):
            work()
        return (time.perf_counter() - start) / number

    # The events and graphs of a GPU are replaced; all else is what runs there.
    found = {"gift_fast cuda": gift_loss, "eager": partial(gift_loss, backend="reference")}
    found[loss_gpu.LIGER] = found["eager"]
    monkeypatch.setattr(loss_gpu, "losses", lambda: found)
    monkeypatch.setattr(loss_gpu, "seconds_between_events", seconds_on_the_host)
    monkeypatch.setattr(loss_gpu, "capture", lambda step: step)
    monkeypatch.setattr(loss_gpu, "SAMPLE_SECONDS", 1e-4)
    case = loss_gpu.measure_case("float32", (4, 10), 3, device="cpu")
    assert list(case["eager"]["seconds"]) == [*found, "floor"]
    assert list(case["graph"]["seconds"]) == ["gift_fast cuda", "eager", "floor"]
    assert list(case["graph"]["ratio_to_ours"]) == ["eager", "floor"]
    assert case["minimum_bytes"] == 3 * 4 * 10 * 4
    assert loss_gpu.progress_line(case).startswith("float32        4 x 10: gift_fast cuda ")
    json.dumps(case)


def test_what_does_not_fit_the_memory_is_left_out(monkeypatch):
    def too_large(*batch):
        raise torch.cuda.OutOfMemoryError

    found = {"gift_fast cuda": gift_loss, "eager": too_large}
    monkeypatch.setattr(loss_gpu, "losses", lambda: found)
    monkeypatch.setattr(loss_gpu, "measure_works", lambda works, repeats: list(works))
    monkeypatch.setattr(loss_gpu, "capture", lambda step: step)
    case = loss_gpu.measure_case("float32", (4, 10), 3, device="cpu")
    assert case["not_measured"] == {"eager": "out of memory"}
    assert case["eager"] == case["graph"] == ["gift_fast cuda", "floor"]


def test_samples_are_interleaved_in_a_fresh_order_each_time():
    order = []
    samplers = {name: partial(order.append, name) for name in "abc"}
    samples = interleaved(samplers, 20)
    assert {name: len(x) for name, x in samples.items()} == dict.fromkeys("abc", 20)
    repeats = [tuple(order[i : i + 3]) for i in range(0, 60, 3)]
    assert {tuple(sorted(x)) for x in repeats} == {("a", "b", "c")}
    assert len(set(repeats)) > 2


def test_ratios_are_taken_within_a_repeat():
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == {"median": 3.0, "q1": 2.0, "q3": 4.0}
    assert ratios([2.0, 20.0, 200.0], [1.0, 10.0, 100.0])["median"] == 2.0


# ---- make gpu-check ------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("arguments", [[], ["--exercise"]])
def test_gpu_check_without_a_device_fails_at_once_and_says_why(arguments, tmp_path):
    out = tmp_path / "report.md"
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check", "--out", str(out), *arguments],
        cwd=gpu_check.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr.startswith("gpu-check needs a CUDA device, and torch ")
    assert not out.exists()


def test_a_step_keeps_its_output_and_exit_status(capsys):
    program = "import os, sys; print(os.environ['WORD']); sys.exit(3)"
    step = gpu_check.Step("a step", [sys.executable, "-c", program], {"WORD": "hello"}).run()
    assert (step.output, step.outcome) == ("hello\n", "FAILED (exit status 3)")
    assert "hello" in capsys.readouterr().out


def test_sanitizers_that_are_not_installed_are_named_and_not_run(monkeypatch):
    monkeypatch.setenv("PATH", "")
    steps = list(gpu_check.sanitizer_steps())
    assert [step.name for step in steps] == ["memcheck", "racecheck", "initcheck", "synccheck"]
    assert {step.outcome for step in steps} == {"not run"}


def test_the_report_has_the_machine_the_tests_the_sanitizers_and_the_figures(result, tmp_path):
    junit = tmp_path / "tests.xml"
    junit.write_text(
        "<testsuites><testsuite><testcase classname='tests.gpu.a' name='right'/>"
        "<testcase classname='tests.gpu.a' name='wrong'><failure message='no'/></testcase>"
        "<testcase classname='tests.gpu.a' name='left_out'>"
        "<skipped message='needs two CUDA devices'/></testcase></testsuite></testsuites>"
    )
    steps = [
        gpu_check.Step("build", ["pip"], returncode=0, seconds=61.2),
        gpu_check.Step("tests", ["pytest", "-m", "gpu"], returncode=1, output="the last words"),
        gpu_check.Step("memcheck", ["x"], returncode=0, output="==== ERROR SUMMARY: 0 errors"),
        gpu_check.Step("racecheck", [], remark="compute-sanitizer is not on PATH"),
    ]
    tests = gpu_check.test_counts(junit)
    text = gpu_check.report(steps, ["- a card", "- a driver"], tests, result)
    for line in (
        "- a card",
        "| build | passed | 61 |",
        "| tests | FAILED (exit status 1) | 0 |",
        "| racecheck | not run: compute-sanitizer is not on PATH | 0 |",
        "1 passed, 1 failed, 1 skipped.",
        "- failed: `tests.gpu.a::wrong`",
        "- skipped 1: needs two CUDA devices",
        "- memcheck: ERROR SUMMARY: 0 errors",
        "| 1000 x 1000 | 40.0 us | 400 us (10.0) | 30.0 us (0.75) | 20.0 us (0.50) | 12 MB "
        "| 300 | 600 |",
        "## What tests said last",
        "the last words",
    ):
        assert line in text.splitlines(), line
    assert "What build said" not in text
    assert gpu_check.report(steps[:1], [], "", None).count("No result.") == 1


@needs_cpu_kernel
def test_the_benchmark_of_other_stacks_measures_and_reports(tmp_path):
    small = "--compiled-shapes 16x10 --model-shapes 12x10 --per-sample-shapes 4x10 "
    small += "--mixed-shapes 8x10 --slice-shapes 256x10 --language-model 64 200 8 4"
    stacks_cpu.main([*small.split(), "--repeats", "2", "--out", str(tmp_path)])
    readme = tmp_path / "README.md"
    readme.write_text("\n".join(("before", *stacks_cpu.MARKERS, "after")), encoding="utf-8")
    result = tmp_path / "stacks_cpu.json"
    stacks_cpu.main(["--markdown", str(result), "--write", str(readme)])
    text = readme.read_text(encoding="utf-8")
    assert "| 16 x 10 |" in text
    assert "| 12 x 10 |" in text
    assert "| 4 x 10 |" in text
    assert "| 8 x 10 |" in text
    assert "| 256 x 10 |" in text
    assert text.startswith("before")
    assert text.endswith("after")


@needs_cpu_kernel
def test_a_chunked_language_model_peaks_as_under_cross_entropy_and_below_kl():
    size = {"tokens": 4096, "classes": 16000, "width": 256, "chunks": 16}
    peaks = {
        name: stacks_cpu.language_model_peak(loss, **size)
        for name, loss in stacks_cpu.LANGUAGE_MODEL_LOSSES.items()
    }
    logits = 4 * size["tokens"] * size["classes"]
    assert peaks["ours"] > logits / size["chunks"]  # the logits of a chunk, at least
    assert peaks["ours"] <= 1.1 * peaks["cross-entropy"]
    assert peaks["ours"] < 0.75 * peaks["KL"]
