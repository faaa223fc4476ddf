"""What a call with top-k labels must give: the loss of their dense labels, in float64."""

import torch
from expected import ROUNDING, Options, gradient_bounds

from gift_fast import TopKLabels, gift_loss
from gift_fast.loss.reference import compute_dtype, reference_loss

ROWS = 9


def top_k_batch(
    classes=37,
    k=5,
    dtypes=(torch.float32, torch.float32, torch.float32),
    *,
    rest="min",
    rows=ROWS,
    indices=torch.int64,
    seed=0,
):
    """Logits, top-k labels and targets, one of them ignored and one of them kept.

    ``rest``: a kind of ``from_dense``, or ``"-inf"``.
    """
    generator = torch.Generator().manual_seed(seed)
    z, s = (3 * torch.randn(rows, classes, generator=generator).double() for _ in range(2))
    kind = "min" if rest == "-inf" else rest
    s = s.softmax(-1) if rest == "uniform" else s
    labels = TopKLabels.from_dense(s, k, kind, 2.0 if kind == "logmeanexp" else None)
    order = torch.rand(rows, k, generator=generator).argsort(-1)
    values, kept = (x.gather(-1, order) for x in labels[:2])
    u = labels.rest
    if rest == "-inf":
        u = torch.full_like(u, -torch.inf)
    y = torch.randint(classes, (rows,), generator=generator)
    y[0], y[1] = int(kept[0, -1]), -100
    labels = TopKLabels(
        values.to(dtypes[1]), kept.to(indices), None if u is None else u.to(dtypes[2])
    )
    return z.to(dtypes[0]), labels, y


def differentiated(function, z, labels, y, *mixed, upstream=None, **options):
    """The loss, and the gradients to logits, values and rest."""
    z = z.detach().requires_grad_()
    inputs = [z, labels.values.detach().requires_grad_()]
    if labels.rest is not None:
        inputs.append(labels.rest.detach().requires_grad_())
    labels = TopKLabels(inputs[1], labels.indices, inputs[2] if len(inputs) > 2 else None)
    loss = function(z, labels, y, *mixed, **options)
    upstream = torch.ones_like(loss) if upstream is None else upstream.to(loss.dtype)
    return loss.detach(), torch.autograd.grad(loss, inputs, upstream)


def exact(z, labels, y, *mixed, **options):
    """By the definition, through the dense labels, in float64."""
    wide = TopKLabels(
        labels.values.double(),
        labels.indices,
        None if labels.rest is None else labels.rest.double(),
    )
    mixed = [
        w.double() if isinstance(w, torch.Tensor) and w.is_floating_point() else w for w in mixed
    ]

    def dense_loss(z, labels, y, *mixed, **options):
        valid = y != options.get("ignore_index", -100)
        if mixed:
            valid = valid | (mixed[0] != options.get("ignore_index", -100))
        safe = TopKLabels(
            labels.values, torch.where(valid[..., None], labels.indices, 0), labels.rest
        )
        return reference_loss(z, safe.dense(z.shape[-1]), y, *mixed, **options)

    return differentiated(dense_loss, z.double(), wide, y, *mixed, **options)


def bounds(z, labels, y, *mixed, reduction="mean", ignore_index=-100, backend="auto", **options):
    """What no element of a row's gradients to logits, values and rest exceeds, (..., 1)."""
    targets = [y, *mixed[:1]]
    valid = [one != ignore_index for one in targets]
    kept = torch.where((valid[0] | valid[-1]).unsqueeze(-1), labels.indices, 0)
    dense = labels._replace(indices=kept).dense(z.shape[-1])
    others = max(z.shape[-1] - labels.values.shape[-1], 1)
    largest = []
    for one, counts in zip(targets, valid, strict=True):
        safe = torch.where(counts, one, 0)
        pair = gradient_bounds(z, dense, safe, Options(**options))
        weight = 1 / counts.sum() if reduction == "mean" else 1
        largest.append([weight * x for x in pair])
    of_z, of_s = (torch.maximum(*x) for x in zip(largest[0], largest[-1], strict=True))
    # The rest's is the sum of as many; without a rest it has a share in those of the values.
    return of_z, 2 * of_s, of_s * others**0.5


def assert_exact(z, labels, y, *mixed, roundings=32.0, **options):
    """Within so many roundings of the sums' type, in units of the bounds, and one of the result."""
    loss, gradients = differentiated(gift_loss, z, labels, y, *mixed, **options)
    largest = bounds(z, labels, y, *mixed, **options)
    backend = options.pop("backend", "auto")
    want, expected = exact(z, labels, y, *mixed, **options)
    sums = roundings * ROUNDING[compute_dtype(z)]
    assert loss.dtype == compute_dtype(z)
    torch.testing.assert_close(loss.double(), want, rtol=0, atol=sums, equal_nan=True)
    inputs = [x for x in (z, labels.values, labels.rest) if x is not None]
    for x, gradient, wanted, bound in zip(inputs, gradients, expected, largest, strict=False):
        assert gradient.dtype == x.dtype
        assert gradient.shape == x.shape
        stored = 1.01 * ROUNDING[x.dtype] * wanted.abs() + torch.finfo(x.dtype).tiny
        if mixed and not (x is z and backend == "auto"):  # a sum of two rounded gradients
            stored = stored + 2 * ROUNDING[x.dtype] * bound.reshape(
                *y.shape, *[1] * (x.dim() - y.dim())
            )
        error = ((gradient.double() - wanted).abs() - stored).clamp_min(0)
        share = error.reshape(*z.shape[:-1], -1) / (sums * bound).clamp_min(1e-300)
        assert share.max() <= 1, float(share.max())
