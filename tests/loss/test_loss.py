"""gift_fast.loss: the module, the refined labels, backends and the defaults."""

import copy
import inspect
import pickle
import re

import pytest
import torch
import torch.nn.functional as F
from expected import FLOATS, answer, batch, needs_cpu_kernel

import gift_fast
from gift_fast import GIFTLoss, gift_loss, refine_labels
from gift_fast.loss.reference import reference_loss

OPTIONS = {
    "gamma": 0.4,
    "label_smoothing": 0.2,
    "smoothing": "others",
    "soft_label_temperature": 2.0,
    "ignore_index": 1,
    "reduction": "sum",
    "backend": "reference",
}


def test_the_public_names_are_these():
    names = ["GIFTLoss", "TopKLabels", "backends", "gift_loss", "refine_labels"]
    assert sorted(gift_fast.loss.__all__) == names
    assert set(names) <= set(gift_fast.__all__)


def test_the_three_ways_in_have_the_same_defaults():
    def defaults(function):
        return {
            name: p.default
            for name, p in inspect.signature(function).parameters.items()
            if p.default is not p.empty
        }

    loss = defaults(gift_loss)
    labels = {"target": None, "other_target": None, "target_weight": None}
    assert {**defaults(GIFTLoss), **labels} == loss
    assert defaults(GIFTLoss.forward) == labels
    assert defaults(reference_loss).items() <= loss.items()
    refined = defaults(refine_labels)
    assert refined.pop("num_classes") is None  # which the logits tell the loss
    assert refined.items() <= loss.items()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_named_backend_gives_the_loss_of_auto(dtype, backend):
    if gift_fast.backends()[backend] != "available":
        pytest.skip(f"{backend} is not available")
    inputs = batch(6, 37, dtype)
    got, want = answer(*inputs, backend=backend), answer(*inputs)
    tolerance = (
        {"rtol": 0, "atol": 0}
        if backend == "cpu"
        else {"rtol": 4 * torch.finfo(dtype).eps, "atol": 1e-6 if dtype != torch.float64 else 1e-15}
    )
    torch.testing.assert_close(got.loss, want.loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got[1:], want[1:], **tolerance)


@needs_cpu_kernel
def test_every_way_in_runs_the_kernel(monkeypatch):
    def definition(*arguments, **options):
        raise AssertionError("the definition ran in the kernel's place")

    monkeypatch.setattr("gift_fast.loss.arguments.reference_loss", definition)
    logits, soft_labels, target = batch(6, 37)
    answer(logits, soft_labels, target)
    answer(logits.view(2, 3, 37), soft_labels.view(2, 3, 37), target.view(2, 3))
    answer(logits, soft_labels, target, backend="cpu")
    torch.func.grad(gift_loss)(logits, soft_labels, target)
    torch.func.vmap(torch.func.grad(gift_loss))(logits, soft_labels, target)


def test_the_module_is_the_function_with_its_options():
    inputs = batch(6, 5)
    torch.testing.assert_close(
        GIFTLoss(**OPTIONS)(*inputs), gift_loss(*inputs, **OPTIONS), rtol=0, atol=0
    )
    torch.testing.assert_close(GIFTLoss()(*inputs), gift_loss(*inputs), rtol=0, atol=0)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_the_module_reaches_the_function(name):
    logits, soft_labels, target = batch(6, 5)
    target[0] = 1
    criterion = GIFTLoss(**{name: OPTIONS[name]})
    torch.testing.assert_close(
        criterion(logits, soft_labels, target),
        gift_loss(logits, soft_labels, target, **{name: OPTIONS[name]}),
        rtol=0,
        atol=0,
    )


def test_the_module_prints_its_options():
    assert repr(GIFTLoss(**OPTIONS)) == (
        "GIFTLoss(gamma=0.4, label_smoothing=0.2, smoothing='others', soft_label_temperature=2.0, "
        "ignore_index=1, reduction='sum', backend='reference')"
    )


def test_the_module_can_be_copied_and_pickled_and_has_no_state():
    criterion, inputs = GIFTLoss(**OPTIONS), batch(6, 5)
    for other in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        torch.testing.assert_close(other(*inputs), criterion(*inputs), rtol=0, atol=0)
    assert criterion.state_dict() == {}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"gamma": 2.0}, ValueError, "gamma must be in [0, 1], got 2.0"),
        ({"gamma": [0.1]}, TypeError, "gamma must be a float, got list"),
        (
            {"reduction": "avg"},
            ValueError,
            "reduction must be one of 'none', 'mean', 'sum', got 'avg'",
        ),
        (
            {"backend": "gpu"},
            ValueError,
            "backend must be one of 'auto', 'cpu', 'cuda', 'triton', 'reference', got 'gpu'",
        ),
    ],
)
def test_the_module_checks_its_options_when_it_is_made(options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        GIFTLoss(**options)


@pytest.mark.parametrize("temperature", [None, 0.5])
@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5), (0, 5)])
def test_one_minus_the_cosine_with_the_refined_label_is_the_loss(shape, temperature):
    logits, soft_labels = torch.randn(2, *shape, dtype=torch.float64)
    target = torch.randint(5, shape[:-1])
    options = {"gamma": 0.3, "smoothing": "others", "soft_label_temperature": temperature}
    refined = refine_labels(soft_labels, target, **options)
    assert refined.shape == shape
    torch.testing.assert_close(
        1 - F.cosine_similarity(logits, refined, dim=-1),
        gift_loss(logits, soft_labels, target, reduction="none", **options),
    )


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_refined_labels_are_float32_or_float64(dtype):
    _, soft_labels, target = batch(4, 5, dtype)
    refined = refine_labels(soft_labels, target)
    assert refined.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(refine_labels(soft_labels, target), refined, rtol=0, atol=0)
    torch.testing.assert_close(refine_labels(soft_labels, target.int()), refined, rtol=0, atol=0)


def test_refined_labels_are_those_worked_out_by_hand():
    # 0.1 (1, 0) + 0.9 (3, 4)/5
    refined = refine_labels(torch.tensor([[3.0, 4.0]]), torch.tensor([0]), label_smoothing=0.0)
    torch.testing.assert_close(refined, torch.tensor([[0.64, 0.72]]))


def test_refined_labels_are_differentiable_twice():
    soft_labels = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 3, 2])
    function = lambda s: refine_labels(s, target, soft_label_temperature=2.0)  # noqa: E731
    assert torch.autograd.gradcheck(function, soft_labels, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, soft_labels)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"soft_labels": None}, TypeError, "soft_labels must be a torch.Tensor, got NoneType"),
        (
            {"soft_labels": torch.zeros(2, 3, dtype=torch.int64)},
            TypeError,
            "soft_labels must have one of the dtypes float32, bfloat16, float16, float64, "
            "got torch.int64",
        ),
        (
            {"target": torch.zeros(3, dtype=torch.int64)},
            ValueError,
            "target must have the shape of soft_labels without its last dimension (2,), got (3,)",
        ),
        ({"gamma": 1.5}, ValueError, "gamma must be in [0, 1], got 1.5"),
        ({"gamma": [1.5]}, TypeError, "gamma must be a float, got list"),
        (
            {"soft_labels": torch.ones(2, 1), "smoothing": "others"},
            ValueError,
            "smoothing='others' needs at least 2 classes, got C = 1",
        ),
        (
            {"target": torch.tensor([0, 3])},
            IndexError,
            "target must be a class in [0, 3), got 3 in row 1",
        ),
        (
            {"target": torch.tensor([0, -100])},
            IndexError,
            "target must be a class in [0, 3), got -100 in row 1",
        ),
    ],
)
def test_bad_arguments_of_refine_labels_are_named(changes, error, message):
    arguments = {"soft_labels": torch.ones(2, 3), "target": torch.tensor([0, 1])} | changes
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        refine_labels(**arguments)
