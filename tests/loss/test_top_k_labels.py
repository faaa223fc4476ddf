"""``TopKLabels``: what it stands for, how it is made, and its checks."""

import pytest
import torch
from expected import FLOATS

from gift_fast import TopKLabels


def scores(rows=5, classes=12, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("indices_dtype", [torch.int16, torch.int32, torch.int64], ids=str)
def test_the_dense_form_has_the_values_at_their_classes_and_the_rest_elsewhere(indices_dtype):
    labels = TopKLabels(
        torch.tensor([[[5.0, -1.0]], [[2.0, 3.0]]]),
        torch.tensor([[[3, 0]], [[1, 2]]], dtype=indices_dtype),
        torch.tensor([[0.5], [-2.0]], dtype=torch.float16),
    )
    want = torch.tensor([[[-1.0, 0.5, 0.5, 5.0]], [[-2.0, 2.0, 3.0, -2.0]]])
    torch.testing.assert_close(labels.dense(4), want, rtol=0, atol=0)


def test_without_a_rest_the_missing_mass_is_spread_evenly():
    labels = TopKLabels(torch.tensor([[0.5, 0.25], [0.75, 0.25]]), torch.tensor([[4, 1], [0, 2]]))
    want = torch.tensor([[1 / 12, 0.25, 1 / 12, 1 / 12, 0.5], [0.75, 0.0, 0.25, 0.0, 0.0]])
    torch.testing.assert_close(labels.dense(5), want)
    rounded = TopKLabels(torch.tensor([[1.000001]]), torch.tensor([[0]]))
    assert rounded.dense(3)[0, 1:].tolist() == [0.0, 0.0]
    assert TopKLabels(torch.tensor([[0.4]]), torch.tensor([[0]])).dense(1).item() == pytest.approx(
        0.4
    )


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_dense_form_is_float64_or_float32(dtype):
    labels = TopKLabels.from_dense(scores(dtype=dtype), 3, "min")
    assert labels.values.dtype == labels.rest.dtype == dtype
    want = torch.float64 if dtype == torch.float64 else torch.float32
    assert labels.dense(12).dtype == want
    assert labels._replace(rest=labels.rest.double()).dense(12).dtype == torch.float64


def test_the_dense_form_is_differentiable_in_values_and_rest():
    labels = TopKLabels.from_dense(scores(), 3, "min")
    weights = torch.rand(5, 12, dtype=torch.float64)

    def total(values, rest):
        return (TopKLabels(values, labels.indices, rest).dense(12) * weights).sum()

    values, rest = labels.values.requires_grad_(), labels.rest.requires_grad_()
    assert torch.autograd.gradcheck(total, (values, rest))


@pytest.mark.parametrize("k", [1, 3, 12])
@pytest.mark.parametrize("leading", [(), (5,), (2, 3)])
def test_all_largest_values_are_kept(leading, k):
    dense = torch.rand(*leading, 12, dtype=torch.float64).softmax(-1)
    labels = TopKLabels.from_dense(dense, k)
    assert labels.rest is None
    assert labels.values.shape == labels.indices.shape == (*leading, k)
    want, order = dense.sort(-1, descending=True)
    torch.testing.assert_close(labels.values, want[..., :k])
    assert torch.equal(labels.indices.long(), order[..., :k])
    if k == 12:
        torch.testing.assert_close(labels.dense(12), dense)


def test_what_stands_for_the_other_classes():
    dense = torch.tensor([[4.0, 1.0, -2.0, 0.0]], dtype=torch.float64)
    assert TopKLabels.from_dense(dense, 2, "zero").rest.item() == 0.0
    assert TopKLabels.from_dense(dense, 2, "min").rest.item() == -2.0
    got = TopKLabels.from_dense(dense, 2, "logmeanexp", temperature=0.5).rest.item()
    want = 0.5 * torch.tensor([-4.0, 0.0], dtype=torch.float64).exp().mean().log().item()
    assert got == pytest.approx(want)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_logmeanexp_keeps_the_mass_of_every_kept_class_at_its_temperature(temperature):
    dense = scores()
    labels = TopKLabels.from_dense(dense, 3, "logmeanexp", temperature=temperature)
    full, ours = ((x / temperature).softmax(-1) for x in (dense, labels.dense(12)))
    kept = labels.indices.long()
    torch.testing.assert_close(ours.gather(1, kept), full.gather(1, kept))


@pytest.mark.parametrize(
    ("rest", "temperature"), [("zero", None), ("min", None), ("logmeanexp", 2.0)]
)
def test_with_all_classes_kept_nothing_is_left_to_the_rest(rest, temperature):
    labels = TopKLabels.from_dense(scores(), 12, rest, temperature)
    torch.testing.assert_close(labels.dense(12), scores())
    assert torch.isfinite(labels.rest).all()


@pytest.mark.parametrize(
    ("classes", "dtype"), [(10, torch.int16), (32768, torch.int16), (32769, torch.int32)]
)
def test_indices_are_stored_in_the_smallest_type_that_holds_them(classes, dtype):
    dense = torch.zeros(1, classes)
    dense[0, -1] = 1.0
    labels = TopKLabels.from_dense(dense, 1)
    assert labels.indices.dtype == dtype
    assert labels.indices.item() == classes - 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"labels": [0.5, 0.5]}, TypeError, "labels must be a torch.Tensor, got list"),
        (
            {"labels": torch.ones(3, dtype=torch.int64)},
            TypeError,
            "labels must have one of the dtypes float32, bfloat16, float16, float64, got "
            "torch.int64",
        ),
        ({"labels": torch.tensor(1.0)}, ValueError, "labels must have the shape (..., C)"),
        ({"k": 4}, ValueError, "k must be in [1, C = 3], got 4"),
        ({"k": 0}, ValueError, "k must be in [1, C = 3], got 0"),
        ({"k": 1.0}, TypeError, "k must be an int, got float"),
        (
            {"rest": "mean"},
            ValueError,
            "rest must be one of 'uniform', 'zero', 'min', 'logmeanexp'",
        ),
        ({"rest": "logmeanexp"}, ValueError, "rest='logmeanexp' needs temperature"),
        (
            {"rest": "logmeanexp", "temperature": 0.0},
            ValueError,
            "temperature must be positive and finite, got 0.0",
        ),
        (
            {"rest": "zero", "temperature": 1.0},
            ValueError,
            "temperature is read by rest='logmeanexp' alone, got rest='zero'",
        ),
        (
            {"labels": torch.tensor([[0.5, 0.5, 0.0], [2.0, 1.0, 0.0]])},
            ValueError,
            "labels must be probabilities for rest='uniform', got a smallest value of 0 and a sum "
            "of 3 in row 1; logits become probabilities by softmax(-1)",
        ),
    ],
)
def test_bad_arguments_are_named(changes, error, message):
    arguments = {"labels": torch.tensor([[0.5, 0.3, 0.2]]), "k": 2} | changes
    with pytest.raises(error) as raised:
        TopKLabels.from_dense(**arguments)
    assert str(raised.value).startswith(message)


def test_an_index_that_is_no_class_is_named_with_its_row():
    labels = TopKLabels(torch.ones(3, 2), torch.tensor([[0, 1], [2, 1], [0, -1]]), torch.zeros(3))
    with pytest.raises(IndexError, match=r"^indices must be classes in \[0, 3\), got -1 in row 2$"):
        labels.dense(3)
