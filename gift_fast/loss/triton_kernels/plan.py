"""How the rows of a batch are laid out over programs.

- **Held rows**, up to ``HELD_CLASSES`` classes: z and s are read once and stay in registers.
- **Long rows** are read twice, in blocks; the second time in reverse order, from the end that is
  still in the L2 cache.
"""

import functools
from typing import NamedTuple

import triton

HELD_CLASSES, HELD_CLASSES_BOTH = 16384, 8192
"""The longest rows that are held in registers, without and with a gradient of the soft labels.

16384: 32 pairs (z, s) a thread, 64 of the 128 registers that 512 threads have each. Both gradients
of such a row need more (ptxas spilled 8 to 18 for sm_80 and sm_90), and so does any longer row.
"""

# What a thread holds of z and of s: 32 elements from a row of 1024 on, 16 of short rows. The row is
# then one warp's up to 1024 classes, and its sums need no shared memory.
_WARP_TILE = 1024
_SHORT_TILE, _SHORT_ROWS = 256, 8
_LONG_BLOCK, _LONG_WARPS = 4096, 16
_EXACT_TILE = 128  # a warp's, in float64
_SHORT_KEPT = 16  # kept classes of short rows that are read once


class Plan(NamedTuple):
    """What ``rows_kernel`` is compiled for."""

    add: bool  # the losses will be added up
    softmax: bool  # of the soft labels
    float64: bool  # sums in float64
    held: bool  # z and s stay in registers: classes <= block
    realign: bool  # rows begin anywhere, those of all tensors alike
    vector: int  # elements that divide all rows' offsets, or those behind their edges
    sector: int  # elements at whose multiples `realign` cuts the edges off
    rows: int  # of a program
    block: int
    block64: int  # of the float64 passes
    warps: int


class KeptPlan(NamedTuple):
    """What ``top_k_kernel`` is compiled for beside its :class:`Plan`."""

    block: int  # of kept classes
    one: bool  # they are one block, which stays in registers
    probabilities: bool  # the rest is what is missing to 1
    has_others: bool  # not all classes are kept
    few_others: bool  # most are


def kept_plan_of(plan: Plan, classes: int, kept: int, *, probabilities: bool) -> KeptPlan:
    """Plans the passes over the kept classes."""
    # A lane for every thread, as of edges (packing.py); with several rows a warp, a few more.
    block = max(32 * plan.warps // plan.rows, min(triton.next_power_of_2(kept), _SHORT_KEPT))
    return KeptPlan(block, kept <= block, probabilities, kept < classes, 0 < classes - kept < kept)


@functools.lru_cache(maxsize=256)
def plan_of(
    classes: int,
    strides: tuple[int, ...],
    widths: tuple[int, ...],
    *,
    group_strides: tuple[int, ...] = (),
    aligned: bool,
    soft_labels_grad: bool,
    add: bool,
    softmax: bool,
    float64: bool,
) -> Plan:
    """Plans a launch from what is the same in every step.

    Args:
        classes: Length of a row.
        strides: Distance of rows, of logits and soft labels, in elements; of top-k labels' logits
            alone.
        widths: Bytes of an element, likewise.
        group_strides: Distance of groups of rows, likewise; none where all rows are alike.
        aligned: Whether every tensor begins at a multiple of 16 bytes.
        soft_labels_grad: Whether the gradient of the soft labels is requested.
        add: Whether the losses are added up.
        softmax: Whether the soft labels go through a softmax.
        float64: Whether the sums are taken in float64.
    """
    # Elements in 16 bytes of the wider type. As many of the narrower are 8 bytes or less: were they
    # 16, a thread's share of the wider would be two accesses that both touch all of its sectors.
    wide = 16 // max(widths)
    # Where a tensor begins elsewhere, its vectors would be moved element by element, each access
    # strewn over as many sectors as threads: then threads had better take turns.
    vector = wide if aligned else 1
    while any(n % vector for n in (classes, *strides, *group_strides)):
        vector //= 2
    realign = False
    held = classes <= (HELD_CLASSES_BOTH if soft_labels_grad else HELD_CLASSES)
    block = max(8, triton.next_power_of_2(classes)) if held else _LONG_BLOCK
    # A thread meets two rows of a tile at most: it has a dozen float64 numbers of each.
    rows = min(max(1, _SHORT_TILE // block), _SHORT_ROWS, 2 * max(1, 32 * vector // block))
    warps = max(1, block // _WARP_TILE) if held else _LONG_WARPS
    alike = not group_strides and all(stride % wide == classes % wide for stride in strides)
    if vector < wide and rows == 1 and alike and aligned and not float64:
        realign, vector = True, wide
    block64 = min(block, _EXACT_TILE * warps // rows)
    # Of the narrower type, 32 bytes: body and edges then share no sector of memory.
    sector = 32 // min(widths)
    return Plan(add, softmax, float64, held, realign, vector, sector, rows, block, block64, warps)
