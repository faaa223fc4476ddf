"""The private names of torch that the loss uses, and what is done where one is missing.

Looked up once, when this module is imported, and nowhere else. A torch that has renamed one of them
costs time or a feature, as its comment says, but neither the import nor a right answer. Names that
are there are torch's own functions: the calls of a training step go through no wrapper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_MISSING = object()

MISSING: set[str] = set()
"""The names that this torch does not have."""


def _find(name: str, otherwise: Any) -> Any:
    """The attribute of torch with this dotted name, or what to use in its place."""
    found: Any = torch
    for part in name.split("."):
        found = getattr(found, part, _MISSING)
        if found is _MISSING:
            MISSING.add(name)
            return otherwise
    return found


def _always(*_: Any) -> bool:
    return True


# ---- is this a plain call? -----------------------------------------------------------------------
# Without an answer no call is plain: all of them take the general way, a few microseconds longer.

transforms_active: Callable[[], bool] = _find("_C._are_functorch_transforms_active", _always)
"""Whether a transform of ``torch.func`` runs. Unknown: the composable autograd function is used,
and a target out of range under ``backend="reference"`` is an error of torch's own."""

dispatch_modes: Callable[[], int] = _find("_C._len_torch_dispatch_stack", _always)
"""How many ``TorchDispatchMode`` are active."""

tracing: Callable[[], bool] = _find("_C._is_tracing", _always)
"""Whether ``torch.jit.trace`` runs."""

is_zerotensor: Callable[[Tensor], bool] = _find("Tensor._is_zerotensor", _always)
"""Whether a tensor is zero without having memory."""


class _ProbedLevel:
    """``_current_level`` of torch.autograd.forward_ad, by its public functions."""

    @property
    def _current_level(self) -> int:
        try:
            forward_ad.make_dual(torch.zeros(()), torch.zeros(()))
        except RuntimeError:  # no level to make it at
            return -1
        return 0


# A module, of which the caller reads `_current_level`. A probe costs microseconds.
_find("autograd.forward_ad._current_level", None)
forward_mode: Any = (
    _ProbedLevel() if "autograd.forward_ad._current_level" in MISSING else forward_ad
)
"""Its ``_current_level`` is not negative inside ``torch.autograd.forward_ad.dual_level``."""


# ---- torch.func ----------------------------------------------------------------------------------

_is_wrapped: Callable[[Tensor], bool] | None = _find(
    "_C._functorch.is_functorch_wrapped_tensor", None
)
_unwrapped: Callable[[Tensor], Tensor] | None = _find("_C._functorch.get_unwrapped", None)
_kinds: Any = _find("_C._functorch.TransformType", None)
_interpreters: Callable[[], Any] | None = _find("_C._functorch.get_interpreter_stack", None)


def is_tracked(x: Tensor) -> bool:
    """Whether some level of ``torch.func`` differentiates x: a wrapper knows its own alone.

    Unknown: yes, and a gradient may be computed that nobody asked for.
    """
    if _is_wrapped is None or _unwrapped is None:
        return True
    while not x.requires_grad:
        if not _is_wrapped(x):
            return False
        x = _unwrapped(x)
    return True


def only_vmap_and_grad() -> bool:
    """Whether every active transform of ``torch.func`` is one of these two.

    Unknown: no, and the definition runs in the kernels' place.
    """
    if _interpreters is None or not {"Vmap", "Grad"} <= set(dir(_kinds)):
        return False
    return all(one.key() in (_kinds.Vmap, _kinds.Grad) for one in _interpreters() or ())


# ---- may a gradient be written over? -------------------------------------------------------------
# Without an answer it may not, and every backward pass makes a copy. A second backward pass through
# a graph that was not kept then gives the same gradients once more, where torch has an error.

graph_is_kept: Callable[[], bool] = _find(
    "_C._autograd._get_current_graph_task_keep_graph", _always
)
"""Whether the running backward pass keeps its graph."""

is_legacy_batched: Callable[[Tensor], bool] = _find(
    "_C._functorch.is_legacy_batchedtensor", _always
)
"""Whether ``is_grads_batched=True`` batches x, with the vmap that came before ``torch.func``'s."""


# ---- saved-tensor hooks --------------------------------------------------------------------------

CHECKPOINT = "torch.utils.checkpoint"
"""The module of the hooks of activation checkpointing, under which saving an input costs nothing:
it is computed again anyway. A name that has changed costs second derivatives there."""

_top_hooks: Callable[[bool], tuple[Any, Any] | None] | None = _find(
    "_C._autograd._top_saved_tensors_default_hooks", None
)


def saved_tensor_hooks() -> str | None:
    """The module of the hooks that see what autograd saves now; None: there are none.

    Unknown: as under a checkpoint, which keeps everything where hooks see it.
    """
    if _top_hooks is None:
        return CHECKPOINT
    hooks = _top_hooks(False)
    return None if hooks is None else getattr(hooks[0], "__module__", "")


# ---- operators -----------------------------------------------------------------------------------

_tag: Any = _find("Tag.pt2_compliant_tag", None)
TAGS: tuple[Any, ...] = () if _tag is None else (_tag,)
"""Of operators that ``torch.compile`` may put into a graph. Without it they are not, under torch's
option that forbids what is not tagged."""


# ---- on GPUs -------------------------------------------------------------------------------------

assert_async: Callable[[Tensor, str], None] | None = _find("_assert_async", None)
"""An assert that the device checks. Without it an out-of-range target is not reported; the loss
and the gradients of its row are NaN."""
