"""What the studies cost, against counts made by hand."""

from __future__ import annotations

import pytest

from benchmarks.study_cost import STUDIES, cost_of, flops_of, main, runs_of
from gift_fast.studies.study_files import load_study, study_names


def convolution(side: int, inputs: int, outputs: int) -> int:
    """Operations of a 3 x 3 convolution on a map of this side: a multiply-add is two."""
    return 2 * side**2 * 9 * inputs * outputs


def test_the_operations_of_a_convnet_are_those_of_its_layers():
    first = convolution(32, 3, 128)
    others = convolution(16, 128, 128) + convolution(8, 128, 128) + 2 * 4 * 4 * 128 * 100
    forward, both = flops_of("convnet3", 32, 100)
    assert forward == first + others
    # Backward: a gradient for the weights and one for the input, which the images do not need.
    assert both == forward + first + 2 * others


def test_a_run_costs_its_epochs_the_teachers_labels_and_four_tests():
    config = next(
        e.config
        for e in load_study("losses").experiments(published=True)
        if e.source.name == "cifar100_rded_ipc10" and e.config.loss == "gift"
    )
    forward, both = flops_of("convnet3", 32, 100)
    cost = cost_of(config)
    assert (cost.trained, cost.tested) == (1000 * 1000, 4 * 10_000)
    assert cost.flops == pytest.approx(1e6 * (both + forward) + 4e4 * forward)


def test_every_study_is_counted_and_a_shared_run_once():
    assert set(STUDIES) <= set(study_names())
    runs = runs_of(STUDIES, tuning=False)
    assert (
        len(runs)
        == len(set(runs))
        < sum(len(load_study(name).experiments(published=True)) for name in STUDIES)
    )
    assert set(runs.values()) == set(STUDIES)


def test_the_command_takes_the_rate_that_was_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["study_cost"])
    main()
    printed = capsys.readouterr().out
    assert "images/s of convnet3 at 32 x 32 with 100 classes, teacher online" in printed
    assert printed.splitlines()[-1].startswith("| all |")
