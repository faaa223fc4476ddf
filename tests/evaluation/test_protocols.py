from __future__ import annotations

import pytest

from gift_fast.evaluation import EvaluationConfig
from gift_fast.evaluation.protocols import load_preset, parse_preset, preset_names
from gift_fast.files import spec
from gift_fast.training.objectives import OBJECTIVES

DATASETS = ("cifar10", "cifar100", "tinyimagenet", "imagenet-1k:side=64")
STUDENTS = ("convnet3:width=32", "resnet18", "efficientnet_b0", "mobilenet_v2", "swin_v2_t")
CIFAR10 = {"dataset": "cifar10"}
CIFAR100 = {"dataset": "cifar100"}
TINY = {"dataset": "tinyimagenet"}
IMAGENET = {"dataset": "imagenet-1k"}


def settings(preset: str, dataset: str = "cifar100", student: str = "convnet3", form: str = "auto"):
    return load_preset(preset).settings_for(dataset=dataset, student=student, format=form)


def test_the_presets_of_the_literature_are_there():
    assert preset_names() == [
        *("cvdd", "datm", "edc", "gvbsm", "hald", "lpqld", "official", "paper", "rded", "sre2l")
    ]


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_a_configuration_for_every_dataset_and_student_with_a_source(name):
    assert load_preset(name).source
    for dataset in DATASETS:
        for student in STUDENTS:
            values = settings(name, dataset, student)
            EvaluationConfig.from_dict({**values, "dataset": dataset, "student": student})


def test_the_papers_preset_is_the_default_configuration():
    values = {**settings("paper"), "loss": "gift"}
    assert EvaluationConfig(dataset="cifar100") == EvaluationConfig.from_dict(
        {**values, "dataset": "cifar100"}
    )


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, {"loss": "gift:gamma=0.1,label_smoothing=0.1,smoothing=others,blend=added"}),
        ({**IMAGENET, "student": "resnet18", "form": "rded"}, {"augmentation": "mosaic-dsa"}),
        ({**IMAGENET, "student": "resnet18"}, {"augmentation": "dsa"}),
    ],
)
def test_the_official_preset_says_what_the_authors_code_does(where, expected):
    found = settings("official", **where)
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (  # SRe2L/validate/train_FKD.sh, .py and README.md; relabel/generate_soft_label.py
            IMAGENET,
            {
                "loss": "kl:temperature=20",
                "optimizer": "adamw:decay_1d=false",
                "learning_rate": 1e-3,
                "weight_decay": 0.01,
                "schedule": "cosine",
                "batch_size": 1024,
                "epochs": 300,
                "augmentation": "rrc",
                "mixing": "cutmix:alpha=1",
            },
        ),
        (  # SRe2L/*small_dataset/relabel_cifar.py and .sh
            CIFAR100,
            {
                "loss": "kl:temperature=30",
                "optimizer": "adamw",
                "learning_rate": 1e-3,
                "weight_decay": 0.01,
                "schedule": "cosine",
                "batch_size": 128,
                "epochs": 400,
                "augmentation": "crop-flip",
                "mixing": "mixup:alpha=0.8",
            },
        ),
        (  # zeyuanyin/tiny-imagenet: script/train_kd.sh, classification/train_kd.py, log/
            TINY,
            {
                "loss": "kl:temperature=20,scale_t2=true",
                "optimizer": "sgd",
                "learning_rate": 0.2,
                "momentum": 0.9,
                "weight_decay": 1e-4,
                "schedule": "cosine",
                "batch_size": 256,
                "epochs": 100,
                "augmentation": "rrc",
                "mixing": "none",
            },
        ),
    ],
)
def test_sre2l_trains_as_its_scripts_do(where, expected):
    found = settings("sre2l", **where)
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("where", [CIFAR10, CIFAR100, TINY, IMAGENET])
def test_rded_trains_with_the_options_that_its_code_has_for_every_dataset(where):
    # argument.py; validation/main.py; get_parameters in validation/utils.py; scripts/*.sh
    expected = {
        "loss": "kl:temperature=20",
        "optimizer": "adamw:decay_1d=false",
        "weight_decay": 0.01,
        "schedule": "half-cosine",
        "epochs": 300,
        "mixing": "cutmix:alpha=1",
    }
    found = settings("rded", **where)
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("where", "factor"),
    [(CIFAR10, 1), (CIFAR100, 1), (TINY, 1), (IMAGENET, 2), ({"dataset": "imagenet-nette"}, 2)],
)
def test_rdeds_images_are_mosaics_of_two_by_two_on_imagenet_alone(where, factor):
    assert settings("rded", **where)["augmentation"] == f"rded:factor={factor}"  # scripts/*.sh


@pytest.mark.parametrize(
    ("student", "rate"),
    [
        ("convnet4", 1e-3),
        ("resnet18_modified", 1e-3),
        ("resnet101", 1e-3),
        ("efficientnet_b0", 2e-3),
        ("mobilenet_v2", 2.5e-3),
        ("swin_v2_t", 1e-4),
        ("vit_b_16", 1e-4),
    ],
)
def test_rdeds_learning_rate_follows_the_student(student, rate):
    assert settings("rded", "cifar100", student)["learning_rate"] == rate  # argument.py


@pytest.mark.parametrize(
    ("dataset", "student", "num_classes", "batch_size"),
    [
        ("cifar10", "convnet3", 10, 50),
        ("cifar100", "resnet18_modified", 100, 100),
        ("cifar100", "convnet3", 100, 25),
        ("tinyimagenet", "convnet4", 200, 100),
        ("imagenet-nette", "resnet18", 10, 50),
        ("imagenet-1k", "resnet18", 1000, 100),
    ],
)
def test_rdeds_batch_sizes_are_its_codes_at_ten_images_per_class(
    dataset, student, num_classes, batch_size
):
    values = {**settings("rded", dataset, student), "dataset": dataset, "student": student}
    config = EvaluationConfig.from_dict(values).resolved(num_images=10 * num_classes, ipc=10)
    assert config.batch_size == batch_size  # argument.py
    assert config.learning_rate == (2e-3 if batch_size == 25 else 1e-3)


@pytest.mark.parametrize(
    ("dataset", "num_classes", "expected"),
    [
        ("cifar10", 10, {1: 10, 10: 50, 50: 100}),
        ("cifar10-jpeg", 10, {1: 10, 10: 50, 50: 100}),
        ("imagenet-100", 100, {1: 20, 10: 100, 50: 200}),
        ("imagenet-1k", 1000, {1: 20, 10: 100, 50: 200}),
        ("tinyimagenet", 200, {1: 100, 10: 100, 50: 100, 20: 100}),
    ],
)
def test_rdeds_batch_sizes_follow_the_images_per_class(dataset, num_classes, expected):
    for ipc, batch_size in expected.items():  # argument.py
        values = {**settings("rded", dataset, "resnet18"), "dataset": dataset, "ipc": ipc}
        config = EvaluationConfig.from_dict(values).resolved(ipc * num_classes)
        assert config.batch_size == batch_size


@pytest.mark.parametrize("ipc", [20, None])
def test_rdeds_code_has_no_batch_size_for_other_images_per_class(ipc):
    values = {**settings("rded", "cifar10"), "dataset": "cifar10"}
    config = EvaluationConfig.from_dict(values)
    with pytest.raises(ValueError, match=rf"batch_size must be given, .* 1, 10, 50 .*({ipc}|uneq)"):
        config.resolved(200, ipc=ipc)
    assert EvaluationConfig.from_dict({**values, "batch_size": 7}).resolved(200).batch_size == 7


def test_rded_tests_six_times_in_the_last_fifth_and_forwards_every_batch_twice():
    values = {**settings("rded", "cifar10"), "dataset": "cifar10", "ipc": 10}
    config = EvaluationConfig.from_dict(values).resolved(100)
    tested = [epoch for epoch in range(1, 301) if config.is_test_epoch(epoch)]
    assert tested == [250, 260, 270, 280, 290, 300]  # validation/main.py, which counts from 0
    assert config.forward_twice


def test_copies_have_the_settings_of_their_dataset():
    for name in preset_names():
        assert settings(name, "cifar10-jpeg") == settings(name, "cifar10")


@pytest.mark.parametrize(
    ("where", "batch_size"),
    [
        (CIFAR10, 128),
        (CIFAR100, 128),
        (TINY, 128),
        ({"dataset": "imagenet-nette"}, 128),
        (IMAGENET, 256),
    ],
)
def test_datm_trains_as_evaluate_synset_does(where, batch_size):
    assert settings("datm", **where) == {
        "loss": "softce",  # distill/evaluation.py
        "optimizer": "sgd",  # here and to the next comment: utils/utils_baseline.py
        "learning_rate": None,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "step:factor=0.1",
        "epochs": 1001,
        "augmentation": "dsa-one",
        "teachers": [],
        "batch_size": batch_size,  # configs/*/*/*.yaml
    }


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (  # Branch_full_ImageNet_1k/train/train.sh and train_FKD_parallel.py
            IMAGENET,
            {
                "loss": "mse+ce:weight=0.1",
                "optimizer": "adamw:decay_1d=false",
                "learning_rate": 1e-3,
                "weight_decay": 0.01,
                "batch_size": 1024,
                "epochs": 300,
            },
        ),
        (  # Branch_CIFAR_10/train/train.sh and train_FKD.py
            CIFAR10,
            {
                "loss": "mse+ce:weight=0.15",
                "optimizer": "adamw:decay_1d=false",
                "learning_rate": 1e-3,
                "weight_decay": 0.0,
                "batch_size": 100,
                "epochs": 1000,
            },
        ),
        (  # Branch_CIFAR_100/train/train.sh and train_FKD.py
            CIFAR100,
            {
                "loss": "mse+ce:weight=0.15",
                "optimizer": "sgd:decay_1d=false",
                "learning_rate": 0.1,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "batch_size": 64,
                "epochs": 1000,
            },
        ),
        (  # Branch_Tiny_ImageNet/train/train.sh and train_FKD.py
            TINY,
            {
                "loss": "mse+ce:weight=0.1",
                "optimizer": "sgd:decay_1d=false",
                "learning_rate": 0.1,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "batch_size": 100,
                "epochs": 100,
            },
        ),
        ({**TINY, "student": "resnet101"}, {"weight_decay": 1e-3}),  # a comment in train_FKD.py
    ],
)
def test_gvbsm_trains_as_the_scripts_of_its_branches_do(where, expected):
    everywhere = {  # relabel/relabel.sh and train/train_FKD.py of every branch
        "schedule": "cosine",
        "augmentation": "rrc",
        "mixing": "cutmix:alpha=1",
        "mixed_targets": False,
    }
    found = settings("gvbsm", **where)
    assert {key: found[key] for key in everywhere} == everywhere
    assert {key: found[key] for key in expected} == expected


def resolved(preset: str, **changes: object):
    values = {**settings(preset, "imagenet-1k", "resnet18"), **changes}
    return EvaluationConfig.from_dict({**values, "dataset": "imagenet-1k"}).resolved(10_000)


def test_lpqld_anneals_the_teachers_temperature_and_fits_the_students():
    config = resolved("lpqld")
    assert spec.with_defaults("loss", config.loss, OBJECTIVES) == (
        "annealed-kl:temperature=20.0,factor=0.7,every=30,least=2.0,student_temperature=0.0"
    )
    assert config.teachers == ()
    # train_FKD_LPQLD.py and cfg/reproduce/LPQLD_in1k_[4k].yaml
    assert (config.optimizer, config.learning_rate) == ("adamw:decay_1d=false", 1e-3)
    assert (config.weight_decay, config.schedule, config.epochs) == (0.01, "cosine", 300)


def test_hald_trains_on_soft_hard_and_soft_labels():
    config = resolved("hald")
    hard = [epoch for epoch in range(1, config.epochs + 1) if config.is_hard_epoch(epoch)]
    assert (hard[0] - 1, len(hard), config.epochs - hard[-1]) == (75, 150, 75)
    assert config.loss == "kl"  # at temperature 20
    assert config.hard_loss == "ce:label_smoothing=0.8"
    assert config.mixing == "cutmix:alpha=1"
    # validate/hyper.yaml and validate/scripts/imagenet1k/train.sh
    assert (config.schedule, config.batch_size) == ("half-cosine:eta=2", 16)
    assert (config.learning_rate, config.weight_decay) == (1e-3, 0.01)


def test_edc_tests_an_average_of_weights_that_are_trained_with_mse_and_a_little_ce():
    config = resolved("edc")
    assert (config.loss, config.ema_decay) == ("mse+ce:weight=0.025", 0.99)
    # Branch_full_ImageNet_1k/train/train.sh and train_FKD_parallel.py
    assert config.ema_buffers is False
    assert config.mixed_targets is False
    assert (config.schedule, config.batch_size) == ("half-cosine:eta=2", 100)
    assert config.augmentation == "rrc:min_scale=0.5"


@pytest.mark.parametrize(
    ("dataset", "student", "learning_rate", "eta"),
    [  # validate/train_fkd.py, for 10 images per class
        ("cifar10", "resnet18_modified", 1e-3, 1),
        ("cifar10", "resnet101_modified", 5e-4, 1),
        ("cifar100", "resnet18_modified", 1e-3, 2),
        ("cifar100", "resnet50_modified", 1e-3, 2),
        ("cifar100", "resnet101_modified", 5e-4, 1),
        ("tinyimagenet", "resnet18_modified", 1e-3, 1),
        ("tinyimagenet", "resnet50_modified", 1e-3, 1),
        ("tinyimagenet", "resnet101_modified", 5e-4, 2),
        ("imagenet-nette", "resnet18", 5e-4, 1),
        ("imagenet-nette", "resnet50", 1e-3, 1),
        ("imagenet-nette", "resnet101", 5e-4, 2),
        ("imagenet-1k", "resnet18", 1e-3, 2),
        ("imagenet-1k", "resnet50", 1e-3, 2),
        ("imagenet-1k", "resnet101", 1e-3, 2),
    ],
)
def test_cvdds_cosine_is_stretched_by_dataset_and_network(dataset, student, learning_rate, eta):
    found = settings("cvdd", dataset, student)
    assert (found["learning_rate"], found["schedule"]) == (learning_rate, f"half-cosine:eta={eta}")
    assert (found["loss"], found["batch_size"]) == ("kl:temperature=20", 16)


@pytest.mark.parametrize(
    ("preset", "repository"),
    [
        ("cvdd", "github.com/Jiacheng8/CV-DD"),
        ("datm", "github.com/NUS-HPC-AI-Lab/DATM"),
        ("edc", "github.com/shaoshitong/EDC"),
        ("gvbsm", "github.com/shaoshitong/G_VBSM_Dataset_Condensation"),
        ("hald", "github.com/Jiacheng8/HALD"),
        ("lpqld", "github.com/he-y/soft-label-pruning-quantization-for-dataset-distillation"),
        ("rded", "github.com/LINs-lab/RDED"),
        ("sre2l", "github.com/VILA-Lab/SRe2L"),
    ],
)
def test_a_methods_preset_names_the_code_that_it_is_taken_from(preset, repository):
    assert repository in load_preset(preset).source


def test_a_preset_of_the_users_own_is_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("settings: {loss: ce}\noverrides:\n- when: {student: resnet18}\n  loss: kl\n")
    assert settings(str(path))["loss"] == "ce"
    assert settings(str(path), student="resnet18")["loss"] == "kl"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "must be a mapping with the key settings"),
        ("settings: {lr: 1}", "settings may contain augmentation, .*, got 'lr'"),
        ("settings: {}\nextra: 1", "a preset may contain .*, got 'extra'"),
        (
            "settings: {}\noverrides: [{loss: ce}]",
            "an override must be a mapping with the key `when`",
        ),
        ("settings: {}\noverrides: [{when: {ipc: 1}}]", "when may contain dataset, .*, got 'ipc'"),
        ("settings: {", "must be valid YAML"),
        ("settings: {seed: 1}", "settings may contain .*, got 'seed'"),
        ("settings: {epoch: 1}", r"got 'epoch'; did you mean 'epochs'\?"),
        ("settings: {}\nnotes: [a]", r"notes must be a string, got \['a'\]"),
        ("settings: {}\ntitle: no", "title must be a string, got False; .* quote them"),
        ("settings: {}\noverrides: {loss: ce}", r"overrides must be a list, got \{'loss': 'ce'\}"),
        ("settings: {}\noverrides: ", "overrides must be a list, got None"),
        ("settings: {}\noverrides: [{when: {format: 3}}]", "when: format must be a name or .* 3"),
        (
            "settings: {}\noverrides: [{when: {format: []}}]",
            r"when: format must be a name or .* \[",
        ),
        (
            "settings: {}\noverrides: [{when: {format: [rded, off]}}]",
            r"when: format must be a name or a list of names, got \['rded', False\]; .* quote",
        ),
        ("settings: {student: 3}", "settings: student must be a string, got int"),
        ("settings: {student: yes}", "student must be a string, got bool; .* quote them"),
        ("settings: {mixed_precision: no}", "mixed_precision must be .*, got False; .* quote"),
        ("settings: {teachers: 3}", "settings: teachers must be a sequence of names, got 3"),
        ("settings: {learning_rate: 1e-3}", "must be a number, got '1e-3'; .* 1.0e-3"),
        (
            "settings: {}\noverrides: [{when: {format: rded}, epochs: 0}]",
            "an override: epochs must be at least 1, got 0",
        ),
    ],
)
def test_what_is_no_preset_is_refused_with_the_reason(text, message):
    with pytest.raises(ValueError, match=message):
        parse_preset("mine", text)


def test_the_error_of_a_file_names_it(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("settings: {student: 3}")
    with pytest.raises(
        ValueError, match=r"mine\.yaml: settings: student must be a string, got int"
    ):
        load_preset(str(path))


def test_an_unknown_preset_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"preset must be one of cvdd, datm, .*; got 'papper'"):
        load_preset("papper")
    with pytest.raises(ValueError, match="preset must be a readable file"):
        load_preset(str(tmp_path / "none.yaml"))
