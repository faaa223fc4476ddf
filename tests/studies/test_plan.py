from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from gift_fast.studies.overrides import with_overrides
from gift_fast.studies.sets import SetSource
from gift_fast.studies.study_files import load_study, parse_study, study_names

MINIMAL = """
title: two losses
sets: [{dataset: digits, method: selected, ipc: 1, network: convnet3}]
losses: [ce, gift]
"""


def experiments(name: str, published: bool = True):
    return load_study(name).experiments(published=published)


def test_the_studies_of_the_paper_are_there():
    expected = "ablation architectures continual gamma kd losses main optimizers"
    assert study_names() == expected.split()


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        # Cells of the paper's tables, counted by hand, and what stands beside them here.
        ("losses", 7 * (8 + 1)),  # table 6, and KL with T^2
        ("kd", 7 * 5),  # table 3
        ("ablation", 12 * 4 + 18 * 4),  # tables 7 and 13, and 13's refinement alone
        ("main", 44 + 44 + 36),  # tables 1 and 2
        ("architectures", 7 * 6 * 2),  # table 4
        ("optimizers", (8 + 6) * 3 * 3),  # tables 5 and 12, and KL with T^2
        ("gamma", 2 * 8),  # figures 3 and 8
    ],
)
def test_a_study_has_the_cells_of_its_tables_with_three_seeds(name, cells):
    found = experiments(name)
    assert len(found) == len(set(found)) == 3 * cells
    assert Counter(experiment.config.seed for experiment in found) == dict.fromkeys(range(3), cells)


def test_every_run_has_the_papers_protocol():
    for name in study_names():
        for config in (e.config for e in experiments(name)):
            assert (config.augmentation, config.schedule) == ("dsa", "multistep")
            assert config.epochs is None
            assert config.batch_size is None
            if config.optimizer != "sgd":
                assert (config.learning_rate, config.weight_decay) == (None, 1e-4)


def test_native_is_the_methods_own_loss_and_datms_labels_are_its_own():
    native = {}
    for e in experiments("main"):
        if e.config.loss != "gift":
            native[e.source.method] = (e.config.loss, bool(e.config.teachers))
    assert native == {
        "sre2l": ("kl", True),
        "rded": ("kl", True),
        "gvbsm": ("mse+ce", True),
        "datm": ("softce", False),
    }
    refined = {e.config.loss for e in experiments("ablation") if "refine" in e.config.loss}
    assert refined == {"refine+kl", "refine+mse+ce"}


def test_the_teacher_is_the_network_that_the_set_was_distilled_on():
    for e in experiments("architectures"):
        assert e.config.teachers in ((e.source.network,), ())
    students = {e.config.student for e in experiments("architectures")}
    assert {"efficientnet_b0", "mobilenet_v2", "swin_v2_t", "resnet101_modified"} < students


def test_convnets_take_imagenet_at_64_pixels():
    sizes = {(e.config.student, e.config.dataset) for e in experiments("main")}
    assert ("convnet4", "imagenet-1k:side=64") in sizes
    assert ("resnet18", "imagenet-1k") in sizes


def test_gamma_is_an_option_of_the_loss_and_its_default_is_gift_itself():
    losses = list(dict.fromkeys(e.config.loss for e in experiments("gamma")))
    gammas = [0.0, 0.05, "gift", 0.2, 0.3, 0.5, 0.7, 1.0]
    assert losses == [g if g == "gift" else f"gift:gamma={g}" for g in gammas]


def test_studies_share_their_experiments():
    losses = set(experiments("losses"))
    assert len(losses & set(experiments("gamma"))) == 2 * 3
    rded = {e for e in losses if e.config.loss in ("kl", "gift")}
    assert rded <= set(experiments("main"))
    adamw = {e for e in experiments("optimizers") if e.config.optimizer == "adamw"}
    shared = {e for e in adamw if e.config.loss != "kl:scale_t2=true"}
    assert shared <= set(experiments("main"))


def test_another_method_may_make_the_sets():
    study = parse_study("mine", MINIMAL.replace("selected", "rded") + "made_by: rded:crops=5\n")
    sources = {experiment.source for experiment in study.experiments(published=False)}
    assert {source.method for source in sources} == {"rded"}  # options at their defaults left out
    assert all(source.generated for source in sources)
    assert not any(each.source.generated for each in study.experiments(published=True))
    with pytest.raises(
        ValueError, match=r"made_by must be one of random, rded, selected, .*'rdde'"
    ):
        parse_study("mine", MINIMAL + "made_by: rdde\n")


def test_sets_made_here_stand_for_the_methods_and_each_has_its_seed():
    sources = {e.source for e in experiments("optimizers", published=False)}
    assert {source.method for source in sources} == {"selected"}
    assert {source.seed for source in sources} == set(range(5))
    assert "convnet3:norm=instance" not in {source.network for source in sources}


def test_a_study_is_moved_to_other_data_and_made_smaller():
    study = with_overrides(
        load_study("losses"),
        dataset="fashion-mnist",
        ipc=[10],
        student="convnet3:width=32",
        epochs=100,
        seeds=[0, 1],
        dataset_seeds=[0],
    )
    found = study.experiments(published=False)
    source = SetSource(
        dataset="fashion-mnist:heldout=5000",
        method="selected",
        ipc=10,
        network="convnet3:width=32",
        seed=0,
    )
    assert {e.source for e in found} == {source}
    assert len(found) == 9 * 2
    first = found[0].config
    assert (first.dataset, first.ipc) == ("fashion-mnist:heldout=5000", 10)
    assert first.student == "convnet3:width=32"
    assert (first.epochs, first.teachers) == (100, ("convnet3:width=32",))


def test_a_dataset_of_the_study_is_kept_alone():
    study = with_overrides(load_study("losses"), dataset="tinyimagenet")
    assert {(s.dataset, s.network, s.ipc) for s, _ in study.sets} == {
        ("tinyimagenet", "convnet4", 10),
        ("tinyimagenet", "convnet4", 50),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "mnits"}, "dataset must be one of .*; got 'mnits'"),
        ({"student": "convnet"}, "student must be one of .*; got 'convnet'"),
        ({"ipc": [0]}, "ipc must be at least 1, got 0"),
        ({"seeds": [1, 1]}, r"seeds must be .* without duplicates, got \[1, 1\]"),
        ({"dataset_seeds": []}, r"dataset_seeds must be .* without duplicates, got \[\]"),
    ],
)
def test_a_change_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        with_overrides(load_study("losses"), **change)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: two losses", "", "a study must have the key 'title'"),
        ("title: two losses", "title: 2", "title must be a string, got 2"),
        ("losses:", "loss:", "a study may contain .*, got 'loss'"),
        ("[ce, gift]", "[]", r"losses must be a string or a list of strings, got \[\]"),
        ("[ce, gift]", "[ce, ce]", "losses must not have duplicates"),
        ("[ce, gift]", "[l1]", "loss must be one of .*; got 'l1'"),
        ("[ce, gift]", "['gift:gama=1']", "loss 'gift' has the options: .*; got 'gama'"),
        ("ipc: 1", "ipc: ten", "ipc must be an integer or a list of integers, got 'ten'"),
        ("ipc: 1", "ipc: 0", "ipc must be at least 1, got 0"),
        ("ipc: 1, ", "", "a set must have the key 'ipc', got "),
        ("ipc: 1", "ipcs: 1", "a set may contain .*, got 'ipcs'"),
        ("network: convnet3", "network: vgg", "student must be one of .*; got 'vgg'"),
        ("[ce, gift]", "ce\nsettings: {loss: kl}", "settings may contain .*, got 'loss'"),
        ("[ce, gift]", "ce\nsettings: 3", "settings must be a mapping, got 3"),
        ("[ce, gift]", "ce\nteacher: {model: x}", "teacher may contain .*, got 'model'"),
        ("[ce, gift]", "ce\nteacher: {epochs: 0}", "epochs must be at least 1, got 0"),
        ("[ce, gift]", "ce\npreset: papper", "preset must be one of .*; got 'papper'"),
        ("[ce, gift]", "ce\nseeds: [0, x]", "seeds must be an integer or a list of integers"),
        ("[ce, gift]", "ce\nseeds: [-1]", "seeds must be at least 0, got -1"),
        ("[ce, gift]", "ce\noptimizers: [{lr: 1}]", "an optimizer may contain .*, got 'lr'"),
        (
            "[ce, gift]",
            "ce\noptimizers: [{momentum: 0.5}]",
            "an optimizer must have the key 'optimizer'",
        ),
        (
            "[ce, gift]",
            "ce\noptimizers: [{optimizer: sgd, learning_rate: 1e-3}]",
            "learning_rate must be a number, got '1e-3'",
        ),
    ],
)
def test_what_is_no_study_is_refused_with_key_value_and_what_was_expected(old, new, message):
    assert old in MINIMAL
    with pytest.raises(ValueError, match=message):
        parse_study("mine", MINIMAL.replace(old, new))


def test_the_native_loss_of_an_unknown_method_is_refused():
    text = MINIMAL.replace("[ce, gift]", "[native]").replace("selected", "mine")
    with pytest.raises(ValueError, match=r"native must be used with .*'mine' is not known"):
        parse_study("mine", text)


def test_an_error_names_the_users_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("title: x")
    with pytest.raises(ValueError, match=r"mine\.yaml: a study must have the key 'sets'"):
        load_study(str(path))
    with pytest.raises(ValueError, match="study must be a readable file"):
        load_study(str(tmp_path / "none.yaml"))
    with pytest.raises(ValueError, match=r"study must be one of ablation, .*; got 'loses'"):
        load_study("loses")


def test_a_set_is_labelled_by_the_network_it_was_distilled_on_or_by_the_students():
    text = MINIMAL.replace("network: convnet3", "network: convnet3, students: [convnet3, resnet18]")
    for labelled_by, teachers in (
        ("network", {"convnet3": ("convnet3",), "resnet18": ("convnet3",)}),
        ("student", {"convnet3": ("convnet3",), "resnet18": ("resnet18",)}),
    ):
        study = parse_study("mine", f"{text}\nlabelled_by: {labelled_by}")
        experiments = study.experiments(published=False)
        assert {e.config.student: e.config.teachers for e in experiments} == teachers
        needed = tuple(dict.fromkeys(n for names in teachers.values() for n in names))
        assert all(study.teachers_of(e.source) == needed for e in experiments)


def test_the_network_that_makes_a_set_is_needed_whoever_labels_it():
    text = MINIMAL.replace("network: convnet3", "network: convnet3, students: resnet18")
    study = parse_study("mine", f"{text}\nlabelled_by: student")
    made = study.experiments(published=False)[0].source
    assert study.teachers_of(made) == ("convnet3", "resnet18")
    read = parse_study("mine", f"{text.replace('selected', 'rded')}\nlabelled_by: student")
    assert read.teachers_of(read.experiments(published=True)[0].source) == ("resnet18",)


def test_labels_of_the_set_itself_stay_whoever_labels_others():
    text = MINIMAL.replace("selected", "datm")
    study = parse_study("mine", f"{text}\nlabelled_by: student")
    experiments = study.experiments(published=True)
    assert {e.config.teachers for e in experiments} == {()}
    assert study.teachers_of(experiments[0].source) == ()
    with pytest.raises(ValueError, match="labelled_by must be one of network, student, got 'me'"):
        parse_study("mine", f"{MINIMAL}\nlabelled_by: me")


def test_all_losses_have_the_same_students_on_a_set_and_other_sets_have_others():
    study = replace(load_study("losses"), seeds=(0, 1), dataset_seeds=(0, 1))
    students: dict[tuple[int, str], set[int]] = {}
    for experiment in study.experiments(published=False):
        place = (experiment.source.seed, experiment.config.loss)
        students.setdefault(place, set()).add(experiment.config.seed)
    assert {seeds == {0, 1} for (made, _), seeds in students.items() if made == 0} == {True}
    assert {seeds == {10000, 10001} for (made, _), seeds in students.items() if made == 1} == {True}
    published = {experiment.config.seed for experiment in study.experiments(published=True)}
    assert published == {0, 1}


def test_a_seed_that_would_be_another_sets_is_refused():
    with pytest.raises(ValueError, match="seeds must be less than 10000, got 10000"):
        with_overrides(load_study("losses"), seeds=[0, 10000])
