from __future__ import annotations

import json
import math

import pytest
import torch

pytest.importorskip("accelerate", reason="needs the extra [student]")
pytest.importorskip("benchmarks", reason="needs the repository's root: python -m pytest")

from expected import needs_cpu_kernel

from benchmarks import student_cpu
from benchmarks.student_cpu import BF16, FLOAT32, PLAIN, Work
from gift_fast.training.augment import build_augmentation

WORK = Work(width=4, batch_size=4, steps=2, threads=1)


@pytest.mark.parametrize("name", ["flip", "color", "crop", "scale", "rotate", "cutout"])
def test_the_plain_augmentation_has_the_distribution_of_ours(name: str) -> None:
    image = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    images = image.expand(20_000, -1, -1, -1).contiguous()
    ours = build_augmentation(f"dsa:strategy={name}", seed=0, device="cpu")(images)
    plain = getattr(student_cpu, f"plain_{name}")(images)
    assert plain.is_contiguous()
    for power in (1, 2):
        a, b = ours**power, plain**power
        # Of 192 means, none is off by five times its standard deviation by chance.
        bound = 5 * ((a.var(0) + b.var(0)) / len(images)).sqrt() + 1e-5
        assert ((a.mean(0) - b.mean(0)).abs() <= bound).all()


def test_plain_dsa_warps_every_image_in_one_way_and_cuts_a_hole() -> None:
    images = torch.ones(50, 3, 8, 8)
    augmented = student_cpu.plain_dsa(images)
    assert augmented.shape == images.shape
    assert ((augmented == 0).flatten(1).sum(1) >= 3 * 16 / 4).all()  # a corner's quarter at least


def test_the_plain_loop_and_ours_take_the_same_steps() -> None:
    numerics = student_cpu.compare_losses(WORK, epochs=3)
    plain = numerics["losses"][PLAIN]
    assert len(plain) == 3
    assert plain[-1] < plain[0]
    assert numerics["losses"][FLOAT32] == pytest.approx(plain, rel=1e-4)
    assert numerics["losses"][BF16] == pytest.approx(plain, rel=5e-2)
    assert numerics["largest_relative_difference"][FLOAT32] < 1e-4


def test_the_shares_of_the_profile_are_all_of_the_time() -> None:
    result = student_cpu.measure_shares(BF16, WORK, warm_up=1, epochs=2)
    percent = result["percent"]
    assert sum(percent.values()) == pytest.approx(100.0)
    assert min(percent.values()) > 0.0
    rest = result["percent_of_everything_else"]
    assert sum(rest.values()) == pytest.approx(percent["everything else"])
    assert rest["Optimizer.step#AdamW.step"] > 0.0


def test_accuracy_is_compared_seed_by_seed() -> None:
    protocol = student_cpu.Protocol("convnet3:width=4", 1, 1, 1, 2, "none")
    result = student_cpu.compare_accuracies("digits", protocol, seeds=2, threads=1)
    assert [len(values) for values in result["top1"].values()] == [2, 2]
    report = "\n".join(student_cpu.accuracy_lines(result))
    assert "| bf16 |" in report


@needs_cpu_kernel
def test_a_run_from_the_command_line_reports_and_writes_every_part(
    tmp_path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The contestants have their processes; the other parts run here, which is faster.
    monkeypatch.setattr(student_cpu, "in_new_process", lambda part, *arguments: part(*arguments))
    monkeypatch.setenv("KINETO_LOG_LEVEL", "99")
    small = "--width 4 --steps 1 --rounds 2 --warm-up 1 --batch-sizes 4 --contestants plain float32"
    student_cpu.main([*small.split(), "--out", str(tmp_path)])
    report = capsys.readouterr().out
    for title in ("**Batch 4**", "**The same 5 steps**", "**Where the time goes**"):
        assert title in report
    result = json.loads((tmp_path / "student_cpu.json").read_text())
    (case,) = result["speed"]
    assert [len(case["samples"][name]) for name in (PLAIN, FLOAT32)] == [2, 2]
    ratios = [p / o for p, o in zip(*case["samples"].values(), strict=True)]
    assert case["times_as_fast_as_plain"][FLOAT32]["median"] == pytest.approx(sum(ratios) / 2)
    assert math.isfinite(result["load_average_at_start"])


def test_a_contestant_that_dies_ends_the_measurement() -> None:
    with pytest.raises(SystemExit, match="'nobody' has died"):
        student_cpu.measure_speed(["nobody"], Work(0, 4, 1, 1), warm_up=1, rounds=2)
