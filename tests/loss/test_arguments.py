"""What a bad call raises, and its words: the argument, what it was and what it must be."""

import re

import numpy as np
import pytest
import torch
from expected import needs_cpu_kernel

from gift_fast import backends, gift_loss

LOGITS, SOFT_LABELS, TARGET = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
FLOAT_NAMES = "float32, bfloat16, float16, float64"
TO_DENSE = "; convert it with to_dense()"

BAD_TENSORS = {
    "logits of a list": (
        {"logits": [[1.0, 2.0]]},
        TypeError,
        "logits must be a torch.Tensor, got list",
    ),
    "logits of numpy": (
        {"logits": np.zeros((4, 3))},
        TypeError,
        "logits must be a torch.Tensor, got ndarray",
    ),
    "no soft labels": (
        {"soft_labels": None},
        TypeError,
        "soft_labels must be a torch.Tensor, got NoneType",
    ),
    "soft labels of numpy": (
        {"soft_labels": np.zeros((4, 3), np.float32)},
        TypeError,
        "soft_labels must be a torch.Tensor, got ndarray",
    ),
    "a target of a list": (
        {"target": [0, 1, 2, 0]},
        TypeError,
        "target must be a torch.Tensor, got list",
    ),
    "integer logits": (
        {"logits": torch.zeros(4, 3, dtype=torch.int64)},
        TypeError,
        f"logits must have one of the dtypes {FLOAT_NAMES}, got torch.int64",
    ),
    "complex logits": (
        {"logits": torch.zeros(4, 3, dtype=torch.complex64)},
        TypeError,
        f"logits must have one of the dtypes {FLOAT_NAMES}, got torch.complex64",
    ),
    "float8 logits": (
        {"logits": torch.zeros(4, 3).to(torch.float8_e4m3fn)},
        TypeError,
        f"logits must have one of the dtypes {FLOAT_NAMES}, got torch.float8_e4m3fn",
    ),
    "boolean soft labels": (
        {"soft_labels": torch.zeros(4, 3, dtype=torch.bool)},
        TypeError,
        f"soft_labels must have one of the dtypes {FLOAT_NAMES}, got torch.bool",
    ),
    "a float target": (
        {"target": torch.zeros(4)},
        TypeError,
        "target must have one of the dtypes int64, int32, got torch.float32",
    ),
    "a uint8 target": (
        {"target": torch.zeros(4, dtype=torch.uint8)},
        TypeError,
        "target must have one of the dtypes int64, int32, got torch.uint8",
    ),
    "logits without classes": (
        {"logits": torch.tensor(1.0)},
        ValueError,
        "logits must have the shape (..., C) with C >= 1, got ()",
    ),
    "no class": (
        {"logits": torch.zeros(4, 0), "soft_labels": torch.zeros(4, 0)},
        ValueError,
        "logits must have the shape (..., C) with C >= 1, got (4, 0)",
    ),
    "soft labels of fewer classes": (
        {"soft_labels": torch.zeros(4, 2)},
        ValueError,
        "soft_labels must have the shape of logits (4, 3), got (4, 2)",
    ),
    "soft labels of fewer rows": (
        {"soft_labels": torch.zeros(3)},
        ValueError,
        "soft_labels must have the shape of logits (4, 3), got (3,)",
    ),
    "a target of another batch": (
        {"target": torch.zeros(5, dtype=torch.int64)},
        ValueError,
        "target must have the shape of logits without its last dimension (4,), got (5,)",
    ),
    "a target with a dimension too many": (
        {"target": torch.zeros(4, 1, dtype=torch.int64)},
        ValueError,
        "target must have the shape of logits without its last dimension (4,), got (4, 1)",
    ),
    "a scalar target": (
        {"target": torch.tensor(0)},
        ValueError,
        "target must have the shape of logits without its last dimension (4,), got ()",
    ),
    "soft labels elsewhere": (
        {"soft_labels": SOFT_LABELS.to("meta")},
        ValueError,
        "soft_labels must be on the device of logits cpu, got meta",
    ),
    "a target elsewhere": (
        {"target": TARGET.to("meta")},
        ValueError,
        "target must be on the device of logits cpu, got meta",
    ),
    "one class without others": (
        {
            "logits": torch.ones(4, 1),
            "soft_labels": torch.ones(4, 1),
            "smoothing": "others",
            "target": torch.zeros(4, dtype=torch.int64),
        },
        ValueError,
        "smoothing='others' needs at least 2 classes, got C = 1",
    ),
    "sparse logits": (
        {"logits": LOGITS.to_sparse()},
        TypeError,
        f"logits must be a dense tensor, got one with the layout torch.sparse_coo{TO_DENSE}",
    ),
    "sparse soft labels": (
        {"soft_labels": SOFT_LABELS.to_sparse()},
        TypeError,
        f"soft_labels must be a dense tensor, got one with the layout torch.sparse_coo{TO_DENSE}",
    ),
    "a sparse target": (
        {"target": TARGET.to_sparse()},
        TypeError,
        f"target must be a dense tensor, got one with the layout torch.sparse_coo{TO_DENSE}",
    ),
}

BAD_OPTIONS = {
    "gamma too large": ({"gamma": 1.5}, ValueError, "gamma must be in [0, 1], got 1.5"),
    "gamma negative": ({"gamma": -0.1}, ValueError, "gamma must be in [0, 1], got -0.1"),
    "gamma nan": ({"gamma": float("nan")}, ValueError, "gamma must be in [0, 1], got nan"),
    "gamma a bool": ({"gamma": True}, TypeError, "gamma must be a float, got bool"),
    "gamma a string": ({"gamma": "x"}, TypeError, "gamma must be a float, got str"),
    "gamma None": ({"gamma": None}, TypeError, "gamma must be a float, got NoneType"),
    "gamma a tensor": (
        {"gamma": torch.tensor(0.5)},
        TypeError,
        "gamma must be a float, got Tensor",
    ),
    "gamma a bool of numpy": (
        {"gamma": np.bool_(True)},
        TypeError,
        f"gamma must be a float, got {np.bool_.__name__}",
    ),
    "gamma beyond any float": ({"gamma": 10**400}, ValueError, "gamma must be in [0, 1], got inf"),
    "reduction of numpy": (
        {"reduction": np.array(["mean", "sum"])},
        ValueError,
        "reduction must be one of 'none', 'mean', 'sum', got array(['mean', 'sum'], dtype='<U4')",
    ),
    "gamma a list": ({"gamma": [0.5]}, TypeError, "gamma must be a float, got list"),
    "smoothing too large": (
        {"label_smoothing": 1.01},
        ValueError,
        "label_smoothing must be in [0, 1], got 1.01",
    ),
    "smoothing of a string": (
        {"label_smoothing": "0.1"},
        TypeError,
        "label_smoothing must be a float, got str",
    ),
    "an unknown smoothing": (
        {"smoothing": "foo"},
        ValueError,
        "smoothing must be one of 'uniform', 'others', got 'foo'",
    ),
    "smoothing a number": (
        {"smoothing": 0.1},
        ValueError,
        "smoothing must be one of 'uniform', 'others', got 0.1",
    ),
    "temperature zero": (
        {"soft_label_temperature": 0},
        ValueError,
        "soft_label_temperature must be positive and finite, got 0.0",
    ),
    "temperature negative": (
        {"soft_label_temperature": -1.0},
        ValueError,
        "soft_label_temperature must be positive and finite, got -1.0",
    ),
    "temperature infinite": (
        {"soft_label_temperature": float("inf")},
        ValueError,
        "soft_label_temperature must be positive and finite, got inf",
    ),
    "temperature nan": (
        {"soft_label_temperature": float("nan")},
        ValueError,
        "soft_label_temperature must be positive and finite, got nan",
    ),
    "temperature a bool": (
        {"soft_label_temperature": True},
        TypeError,
        "soft_label_temperature must be a float, got bool",
    ),
    "reduction avg": (
        {"reduction": "avg"},
        ValueError,
        "reduction must be one of 'none', 'mean', 'sum', got 'avg'",
    ),
    "reduction None": (
        {"reduction": None},
        ValueError,
        "reduction must be one of 'none', 'mean', 'sum', got None",
    ),
    "reduction a list": (
        {"reduction": ["mean"]},
        ValueError,
        "reduction must be one of 'none', 'mean', 'sum', got ['mean']",
    ),
    "ignore_index a float": (
        {"ignore_index": 1.0},
        TypeError,
        "ignore_index must be an int, got float",
    ),
    "ignore_index None": (
        {"ignore_index": None},
        TypeError,
        "ignore_index must be an int, got NoneType",
    ),
    "ignore_index a bool": (
        {"ignore_index": False},
        TypeError,
        "ignore_index must be an int, got bool",
    ),
    "ignore_index beyond 64 bits": (
        {"ignore_index": 2**70},
        ValueError,
        f"ignore_index must fit in 64 bits, got {2**70}",
    ),
    "an unknown backend": (
        {"backend": "nope"},
        ValueError,
        "backend must be one of 'auto', 'cpu', 'cuda', 'triton', 'reference', got 'nope'",
    ),
    "no backend": (
        {"backend": None},
        ValueError,
        "backend must be one of 'auto', 'cpu', 'cuda', 'triton', 'reference', got None",
    ),
}


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(
    ("changes", "error", "message"), BAD_TENSORS.values(), ids=BAD_TENSORS.keys()
)
def test_a_bad_tensor_is_named(changes, error, message, backend, capfd):
    arguments = {
        "logits": LOGITS.clone().requires_grad_(),
        "soft_labels": SOFT_LABELS,
        "target": TARGET,
        "backend": backend,
    } | changes
    with pytest.raises(error, match=f"^{re.escape(message)}$") as raised:
        gift_loss(**arguments)
    assert raised.value.__context__ is None  # one traceback, not two


# No kernel may run on these, nor torch print what went wrong inside of it.
WITHOUT_PLAIN_MEMORY = {
    "csr": (lambda x: x.to_sparse_csr(), "layout torch.sparse_csr"),
    "csc": (lambda x: x.to_sparse_csc(), "layout torch.sparse_csc"),
    "coo": (lambda x: x.to_sparse(), "layout torch.sparse_coo"),
    "hybrid": (lambda x: x.to_sparse(1), "layout torch.sparse_coo"),
    "mkldnn": (lambda x: x.to_mkldnn(), "layout torch._mkldnn"),
    "nested": (lambda x: torch.nested.nested_tensor(list(x)), "a nested tensor"),
    "jagged": (
        lambda x: torch.nested.nested_tensor(list(x), layout=torch.jagged),
        "a nested tensor",
    ),
    "quantized": (
        lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
        "dtypes float32, bfloat16, float16, float64, got torch.qint8",
    ),
    "complex": (lambda x: torch.complex(x, x), "got torch.complex64"),
}


@pytest.mark.filterwarnings("ignore")  # torch's own: prototypes, and what is deprecated
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", ["logits", "soft_labels"])
@pytest.mark.parametrize("kind", WITHOUT_PLAIN_MEMORY)
def test_tensors_without_plain_memory_are_refused_before_a_kernel_runs(kind, name, backend, capfd):
    make, named = WITHOUT_PLAIN_MEMORY[kind]
    arguments = {"logits": LOGITS, "soft_labels": SOFT_LABELS, "target": TARGET}
    arguments[name] = make(arguments[name])
    with pytest.raises(TypeError, match=f"^{name} must .*{re.escape(named)}") as raised:
        gift_loss(**arguments, backend=backend)
    assert raised.value.__context__ is None
    assert capfd.readouterr() == ("", "")


def test_tensors_without_data_give_a_loss_without_data():
    loss = gift_loss(*(x.to("meta") for x in (LOGITS, SOFT_LABELS, TARGET)))
    assert loss.is_meta
    assert loss.shape == ()


@pytest.mark.parametrize(
    ("changes", "error", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys()
)
def test_a_bad_option_is_named(changes, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$") as raised:
        gift_loss(LOGITS, SOFT_LABELS, TARGET, **changes)
    assert raised.value.__context__ is None


def test_options_are_checked_before_the_tensors_are_touched():
    with pytest.raises(ValueError, match="gamma"):
        gift_loss(None, None, None, gamma=2.0)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_options_may_be_numbers_of_numpy(kind):
    target = torch.tensor([0, 1, 2, -1])
    expected = gift_loss(LOGITS, SOFT_LABELS, target, gamma=0.25, ignore_index=-1)
    loss = gift_loss(LOGITS, SOFT_LABELS, target, gamma=kind(0.25), ignore_index=np.int64(-1))
    assert torch.equal(loss, expected)
    expected = gift_loss(LOGITS, SOFT_LABELS, TARGET, soft_label_temperature=4)
    loss = gift_loss(LOGITS, SOFT_LABELS, TARGET, soft_label_temperature=kind(4))
    assert torch.equal(loss, expected)


def test_options_are_keywords():
    with pytest.raises(TypeError, match="positional"):
        gift_loss(LOGITS, SOFT_LABELS, TARGET, None, None, 0.1)


@pytest.mark.parametrize("name", ["cuda", "triton"])
def test_a_named_backend_that_is_missing_is_an_error(name):
    reason = backends()[name]
    if reason == "available":
        pytest.skip(f"{name} is available here")
    with pytest.raises(
        RuntimeError, match=re.escape(f"backend={name!r} is not available: {reason}")
    ):
        gift_loss(LOGITS, SOFT_LABELS, TARGET, backend=name)


@needs_cpu_kernel
def test_a_backend_that_does_not_serve_the_device_is_an_error():
    meta = [x.to("meta") for x in (LOGITS, SOFT_LABELS, TARGET)]
    message = "backend='cpu' cannot run on the device of logits, 'meta'"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        gift_loss(*meta, backend="cpu")


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32], ids=str)
@pytest.mark.parametrize("wrong", [3, -1, -101, 2**31 - 1])
def test_a_target_out_of_range_is_named_with_its_row(wrong, dtype, backend):
    target = TARGET.to(dtype, copy=True)
    target[2] = wrong
    message = f"target must be a class in [0, 3) or ignore_index (-100), got {wrong} in row 2"
    with pytest.raises(IndexError, match=f"^{re.escape(message)}$"):
        gift_loss(LOGITS, SOFT_LABELS, target, backend=backend)


@pytest.mark.parametrize("wrong", [2**32, 2**32 + 1, -(2**63), 2**63 - 1])
def test_a_target_is_read_with_all_its_bits(wrong):
    target = torch.tensor([0, wrong, 2, 0])
    with pytest.raises(IndexError, match=re.escape(f"got {wrong} in row 1")):
        gift_loss(LOGITS, SOFT_LABELS, target)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_of_many_bad_targets_the_first_is_named(backend, threads):
    torch.set_num_threads(threads)
    logits, target = torch.randn(1024, 1000), torch.zeros(1024, dtype=torch.int64)
    target[700] = target[701] = target[1023] = 1000
    with pytest.raises(IndexError, match=r"got 1000 in row 700$"):
        gift_loss(logits, logits, target, backend=backend)
    target[3] = -7
    with pytest.raises(IndexError, match=r"got -7 in row 3$"):
        gift_loss(logits, logits, target, backend=backend)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_row_of_a_batch_of_several_dimensions_is_counted_flat(backend):
    logits, target = torch.randn(2, 3, 5), torch.zeros(2, 3, dtype=torch.int64)
    target[1, 1] = 5
    with pytest.raises(IndexError, match=r"got 5 in row 4$"):
        gift_loss(logits, logits, target, backend=backend)


def test_minus_one_hundred_is_a_bad_target_when_another_index_is_ignored():
    with pytest.raises(IndexError, match=r"or ignore_index \(-1\), got -100 in row 0"):
        gift_loss(LOGITS, SOFT_LABELS, torch.full((4,), -100), ignore_index=-1)


@pytest.mark.parametrize("number", [0, 1, 0.5])
def test_integers_serve_as_fractions(number):
    torch.testing.assert_close(
        gift_loss(LOGITS, SOFT_LABELS, TARGET, gamma=number, label_smoothing=number),
        gift_loss(LOGITS, SOFT_LABELS, TARGET, gamma=float(number), label_smoothing=float(number)),
    )


@needs_cpu_kernel
def test_the_operators_check_their_arguments_themselves():
    operator = torch.ops.gift_fast.loss_and_gradients
    options = (0.1, 0.1, False, None, -100, 1, True, False)
    with pytest.raises(
        ValueError, match=re.escape("soft_labels must have the shape of logits (4, 3)")
    ):
        operator(LOGITS, SOFT_LABELS[0], TARGET, *options)
    with pytest.raises(ValueError, match="target must be int64 or int32"):
        operator(LOGITS, SOFT_LABELS, TARGET.double(), *options)
    with pytest.raises(ValueError, match="logits must be float64, float32, bfloat16 or float16"):
        operator(LOGITS.long(), SOFT_LABELS, TARGET, *options)
    message = "target must have the shape of logits (4, 3) without its last dimension, got (3,)"
    with pytest.raises(ValueError, match=re.escape(message)):
        operator(LOGITS, SOFT_LABELS, TARGET[:3], *options)
    with pytest.raises(IndexError, match="in row 3"):
        operator(LOGITS, SOFT_LABELS, TARGET + torch.tensor([0, 0, 0, 9]), *options)
    scale = torch.ops.gift_fast.scale_gradient_
    with pytest.raises(ValueError, match="grad must be contiguous"):
        scale(LOGITS.t(), torch.tensor(1.0), None)
    message = "grad_output must be a scalar or have the shape of grad (4, 3) without its last"
    with pytest.raises(ValueError, match=re.escape(message)):
        scale(LOGITS, torch.ones(3), None)
    with pytest.raises(ValueError, match="grad_output must be float64 or float32"):
        scale(LOGITS, torch.tensor(1), None)
    with pytest.raises(ValueError, match="scale must be contiguous and float32"):
        scale(LOGITS.half(), torch.tensor(1.0), torch.ones(3))
