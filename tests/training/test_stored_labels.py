"""Students trained on stored labels of every form, as evaluations train them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from gift_fast.data.labels import FkdImageLabels, HaldLabels, LpqldLabels
from gift_fast.evaluation import EvaluationConfig, evaluate
from gift_fast.evaluation.description import describe_labels
from gift_fast.evaluation.inputs import Inputs
from gift_fast.evaluation.student import batches_of, train_student
from gift_fast.training.processes import Processes
from tests.training.test_checkpoint import check_resumes_with_the_same_bits

CONFIG = EvaluationConfig(
    dataset="digits",
    ipc=2,
    student="convnet3:width=16",
    teachers=(),
    loss="kl:temperature=4",
    epochs=4,
    eval_every=1,
    augmentation="none",
    batch_size=5,
)
WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])


@pytest.fixture
def logits(distilled, teacher, dataset):
    """Of all images, and of their mirror images."""
    with torch.no_grad():
        images = dataset.normalize(distilled.images)
        return torch.stack([teacher(images), teacher(images.flip(3))])


def batches_written(n, epochs):
    """Index and flips of batches of 5, in the order of FKD's sampler."""
    generator = torch.Generator().manual_seed(42)
    for _ in range(epochs):
        order = list(torch.utils.data.RandomSampler(range(n), generator=generator))
        for index in torch.tensor(order).split(5):
            yield index, torch.arange(5) % 2 == 0


def lpqld(folder, distilled, logits, **options):
    order = {}
    for number, (index, flip) in enumerate(batches_written(20, 2)):
        kept = logits[flip.long(), index].topk(4)
        contents = [WHOLE.repeat(5, 1).half(), flip, None, None, None]
        contents += [kept.values.half(), kept.indices.short()]
        torch.save(contents, folder / f"batch_{number}.tar")
        order[number] = index.tolist()
    (folder / "sampler_indices_batch.json").write_text(json.dumps(order))
    return replace(distilled, replay=LpqldLabels(folder, distilled.labels, 10, **options))


def hald(folder, distilled, logits):
    stored = list(batches_written(20, 2))
    for epoch in range(2):
        contents = [
            [
                WHOLE.repeat(5, 1).half(),
                flip,
                None,
                None,
                None,
                (logits[flip.long(), index] / 4).softmax(1).half(),
            ]
            for index, flip in stored[4 * epoch :][:4]
        ]
        torch.save(contents, folder / f"epoch_{epoch}.tar")
    order = {
        str(epoch): torch.cat([index for index, _ in stored[4 * epoch :][:4]]).tolist()
        for epoch in range(2)
    }
    torch.save(order, folder / "sampler_indices_dict.pt")
    options = {"temperature": 4.0, "at_random": False}
    return replace(distilled, replay=HaldLabels(folder, distilled.labels, 10, **options))


def fkd(folder, distilled, logits):
    for image, label in enumerate(distilled.labels.tolist()):
        kept = logits[:, image].softmax(1).topk(3)
        path = folder / f"{label:02d}" / f"{image:03d}.tar"
        path.parent.mkdir(exist_ok=True)
        crops = torch.stack([kept.indices.float(), kept.values], 1)
        torch.save([WHOLE.repeat(2, 1), torch.tensor([False, True]), crops], path)
    return replace(distilled, replay=FkdImageLabels(folder, distilled.labels, 10))


SETS = {"lpqld": lpqld, "hald": hald, "fkd": fkd}


@pytest.mark.parametrize("name", SETS)
def test_a_batch_has_the_images_and_the_labels_that_were_stored(
    dataset, distilled, logits, tmp_path, name
):
    stored = SETS[name](tmp_path, distilled, logits)
    config = CONFIG.resolved(20)
    seen = 0
    for batch in batches_of(config, dataset, stored, Processes()).epoch(1):
        images = dataset.normalize(distilled.images)
        for row, image in enumerate(batch.images):
            far = torch.stack([(x - image).abs().amax((1, 2, 3)) for x in (images, images.flip(3))])
            flip, index = divmod(int(far.argmin()), 20)
            assert far.min() < 1e-5
            assert distilled.labels[index] == batch.target[row]
            expected = logits[flip, index]
            soft = batch.soft_labels
            if name == "lpqld":
                kept = expected.topk(4)
                assert soft.indices[row].tolist() == kept.indices.tolist()
                torch.testing.assert_close(soft.values[row], kept.values, rtol=1e-3, atol=1e-3)
            elif name == "hald":
                expected = (expected / 4).softmax(0)
                torch.testing.assert_close(soft[row], expected, rtol=1e-3, atol=1e-5)
            else:
                kept = expected.softmax(0).topk(3)
                torch.testing.assert_close(soft.values[row], kept.values)
            seen += 1
    assert seen == 20


@pytest.mark.parametrize("stop", [(1, 2), (3, 4)])
@pytest.mark.parametrize("name", SETS)
def test_a_resumed_run_on_stored_labels_ends_with_the_same_bits(
    dataset, distilled, logits, tmp_path, name, stop
):
    stored = SETS[name](tmp_path, distilled, logits)
    config = replace(CONFIG, loss="annealed-kl") if name == "lpqld" else CONFIG
    check_resumes_with_the_same_bits(tmp_path / "run.ckpt", stop, config, dataset, stored)


def test_the_loss_of_probabilities_is_that_of_the_teachers_logits(
    dataset, distilled, logits, tmp_path
):
    stored = hald(tmp_path, distilled, logits)
    small = {"epochs": 1, "learning_rate": 1e-12}
    result = evaluate(replace(CONFIG, **small), dataset, stored)
    student, _ = train_student(replace(CONFIG, **small), dataset, stored)
    student.train()
    losses = []
    images = dataset.normalize(distilled.images)
    for index, flip in list(batches_written(20, 1)):
        shown = torch.where(flip[:, None, None, None], images.flip(3)[index], images[index])
        with torch.no_grad():
            z = student(shown)
        p, q = (logits[flip.long(), index] / 4).softmax(1), (z / 4).softmax(1)
        losses.append((p * (p / q).log()).sum(1).mean().item())
    assert result.last.loss == pytest.approx(sum(losses) / 4, rel=2e-3)


def test_hald_trains_on_hard_labels_in_the_middle(dataset, distilled, logits, tmp_path):
    stored = hald(tmp_path, distilled, logits)
    hard = {"hard_loss": "ce:label_smoothing=0.8", "mixing": "cutmix"}
    config = replace(CONFIG, **hard)
    batches = batches_of(config.resolved(20), dataset, stored, Processes())
    kinds = [[b.soft_labels is None for b in batches.epoch(epoch)] for epoch in range(1, 5)]
    assert kinds == [[False] * 4, [True] * 4, [True] * 4, [False] * 4]
    assert [b.mixed_target is None for b in batches.epoch(2)] == [False] * 4
    result = evaluate(config, dataset, stored)
    assert (result.config.mixing, result.config.augmentation) == ("cutmix", "none")
    # Label smoothing of 0.8 leaves a loss of at least the entropy of the label.
    label = torch.full((10,), 0.08).index_add_(0, torch.tensor([0]), torch.tensor([0.2]))
    floor = -(label * label.log()).sum().item()
    soft, first, second, _ = (check.loss for check in result.checks)
    assert min(first, second) > floor > soft


@pytest.mark.parametrize("stop", [(1, 2), (2, 2), (3, 4)])
def test_a_run_in_parts_ends_with_the_same_bits_after_an_interruption(
    dataset, distilled, logits, tmp_path, stop
):
    stored = hald(tmp_path, distilled, logits)
    config = replace(CONFIG, hard_loss="ce", mixing="cutmix", augmentation="rrc")
    check_resumes_with_the_same_bits(tmp_path / "run.ckpt", stop, config, dataset, stored)


@pytest.mark.parametrize(
    ("name", "loss", "message"),
    [
        ("hald", "mse", "contains probabilities .* mse needs the teacher's logits"),
        ("hald", "refine+kl", "refine.kl needs the teacher's logits"),
        (
            "lpqld",
            "gift",
            "contains logits without rest .* gift needs values for all classes .or use g",
        ),
        ("lpqld", "cosine", "no mass elsewhere .* cosine needs values for all classes"),
        ("fkd", "mse+ce", "contains probabilities .FKD, 3 of 10 probabilities"),
    ],
)
def test_labels_that_a_loss_cannot_read_are_refused_before_training(
    dataset, distilled, logits, tmp_path, name, loss, message
):
    stored = SETS[name](tmp_path, distilled, logits)
    with pytest.raises(ValueError, match=message):
        evaluate(replace(CONFIG, loss=loss), dataset, stored)


@pytest.mark.parametrize("loss", ["gift:soft_label_temperature=4", "kd", "softce+ce", "ce"])
def test_other_losses_are_trained_on_the_kept_logits(dataset, distilled, logits, tmp_path, loss):
    stored = lpqld(tmp_path, distilled, logits)
    result = evaluate(replace(CONFIG, loss=loss, epochs=1), dataset, stored)
    assert F.relu(torch.tensor(result.last.loss)).isfinite()


@pytest.mark.parametrize("loss", ["gift", "mse", "refine+kl"])
def test_with_a_number_elsewhere_every_loss_is(dataset, distilled, logits, tmp_path, loss):
    stored = lpqld(tmp_path, distilled, logits, rest="min")
    assert torch.tensor(evaluate(replace(CONFIG, loss=loss), dataset, stored).last.loss).isfinite()


def test_the_size_of_batches_is_chosen_where_the_files_do_not_say_it(
    dataset, distilled, logits, tmp_path
):
    stored = fkd(tmp_path, distilled, logits)
    result = evaluate(replace(CONFIG, batch_size=10, epochs=1), dataset, stored)
    assert result.config.batch_size == 10
    (tmp_path / "lpqld").mkdir()
    kept = lpqld(tmp_path / "lpqld", distilled, logits)
    result = evaluate(replace(CONFIG, batch_size=10, epochs=1), dataset, kept)
    assert result.config.batch_size == 5


def test_what_stands_for_the_rest_is_shown(dataset, distilled, logits, tmp_path):
    stored = lpqld(tmp_path, distilled, logits)
    assert describe_labels(CONFIG, Inputs(dataset, stored)) == (
        "stored with the set: LPQLD, 4 of 10 logits in float16, no mass elsewhere (MR: a softmax "
        "of the kept logits alone)"
    )
