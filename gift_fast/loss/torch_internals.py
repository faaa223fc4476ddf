"""The private names of torch that the loss uses, with replacements for missing ones.

They are looked up once, when this module is imported, and nowhere else. If a version of torch has
renamed one of them, some speed or a feature is lost, as its comment says, but the import succeeds
and results stay correct. Names that exist are torch's functions themselves, without a wrapper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_MISSING = object()

MISSING: set[str] = set()
"""The names that this version of torch does not have."""


def _find(name: str, otherwise: Any) -> Any:
    """The attribute of torch with this dotted name, or ``otherwise``."""
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
# If a name is missing, all calls take the general path, which is a few microseconds slower.

transforms_active: Callable[[], bool] = _find("_C._are_functorch_transforms_active", _always)
"""Whether a transform of ``torch.func`` is active. If missing, the composable autograd function is
used, and for a target out of range with ``backend="reference"``, torch raises the error."""

dispatch_modes: Callable[[], int] = _find("_C._len_torch_dispatch_stack", _always)
"""The number of active ``TorchDispatchMode``."""

tracing: Callable[[], bool] = _find("_C._is_tracing", _always)
"""Whether ``torch.jit.trace`` is running."""

is_zerotensor: Callable[[Tensor], bool] = _find("Tensor._is_zerotensor", _always)
"""Whether a tensor is zero without having memory."""


class _ProbedLevel:
    """``_current_level`` of torch.autograd.forward_ad, determined with its public functions."""

    @property
    def _current_level(self) -> int:
        try:
            forward_ad.make_dual(torch.zeros(()), torch.zeros(()))
        except RuntimeError:  # there is no level
            return -1
        return 0


# A module whose `_current_level` the caller reads. The replacement costs microseconds per read.
_find("autograd.forward_ad._current_level", None)
forward_mode: Any = (
    _ProbedLevel() if "autograd.forward_ad._current_level" in MISSING else forward_ad
)
"""Its ``_current_level`` is 0 or more inside of ``torch.autograd.forward_ad.dual_level``."""


# ---- torch.func ----------------------------------------------------------------------------------

_is_wrapped: Callable[[Tensor], bool] | None = _find(
    "_C._functorch.is_functorch_wrapped_tensor", None
)
_unwrapped: Callable[[Tensor], Tensor] | None = _find("_C._functorch.get_unwrapped", None)
_kinds: Any = _find("_C._functorch.TransformType", None)
_interpreters: Callable[[], Any] | None = _find("_C._functorch.get_interpreter_stack", None)


def is_tracked(x: Tensor) -> bool:
    """Whether any level of ``torch.func`` differentiates x; a wrapper only knows its own level.

    If names are missing, the answer is yes, and an unneeded gradient may be computed.
    """
    if _is_wrapped is None or _unwrapped is None:
        return True
    while not x.requires_grad:
        if not _is_wrapped(x):
            return False
        x = _unwrapped(x)
    return True


def only_vmap_and_grad() -> bool:
    """Whether every active transform of ``torch.func`` is ``vmap`` or ``grad``.

    If names are missing, the answer is no, and the reference implementation is used.
    """
    if _interpreters is None or not {"Vmap", "Grad"} <= set(dir(_kinds)):
        return False
    return all(one.key() in (_kinds.Vmap, _kinds.Grad) for one in _interpreters() or ())


# ---- can a gradient be overwritten? --------------------------------------------------------------
# If a name is missing, it is not, and every backward pass makes a copy. A second backward pass
# through a graph that was not retained then returns the same gradients, instead of an error.

graph_is_kept: Callable[[], bool] = _find(
    "_C._autograd._get_current_graph_task_keep_graph", _always
)
"""Whether the running backward pass retains its graph."""

is_legacy_batched: Callable[[Tensor], bool] = _find(
    "_C._functorch.is_legacy_batchedtensor", _always
)
"""Whether ``is_grads_batched=True`` batches x, with the vmap that preceded ``torch.func``'s."""


# ---- saved-tensor hooks --------------------------------------------------------------------------

CHECKPOINT = "torch.utils.checkpoint"
"""The module of the hooks of activation checkpointing, under which saving an input is free, because
it is recomputed. If the name has changed, there are no second derivatives under a checkpoint."""

_top_hooks: Callable[[bool], tuple[Any, Any] | None] | None = _find(
    "_C._autograd._top_saved_tensors_default_hooks", None
)


def saved_tensor_hooks() -> str | None:
    """The module of the active saved-tensor hooks; None if there are none.

    If a name is missing, the answer is that of a checkpoint, so that hooks see all saved tensors.
    """
    if _top_hooks is None:
        return CHECKPOINT
    hooks = _top_hooks(False)
    return None if hooks is None else getattr(hooks[0], "__module__", "")


# ---- operators -----------------------------------------------------------------------------------

_tag: Any = _find("Tag.pt2_compliant_tag", None)
TAGS: tuple[Any, ...] = () if _tag is None else (_tag,)
"""Tags of operators that ``torch.compile`` can put into a graph. If it is missing, they are
excluded from graphs by torch's option that forbids untagged operators."""


# ---- on GPUs -------------------------------------------------------------------------------------

assert_async: Callable[[Tensor, str], None] | None = _find("_assert_async", None)
"""A device-side assertion. If it is missing, an out-of-range target is not reported; the loss and
the gradients of its row are NaN."""
