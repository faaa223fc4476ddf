"""The distilled sets of a study, and what follows from how they were made."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gift_fast.evaluation.rules import paper_dataset
from gift_fast.files import spec
from gift_fast.files.record_names import recorded
from gift_fast.studies.published import FORMATS
from gift_fast.studies.published import NATIVE_LOSSES as PUBLISHED_LOSSES

RANDOM = "random"
"""The method of random training images, see :mod:`gift_fast.studies.baselines`."""

SELECTED = "selected"
"""The default method of generated sets, :func:`select_crops`."""

NATIVE_LOSSES = {
    **{FORMATS[method]: loss for method, loss in PUBLISHED_LOSSES.items()},
    SELECTED: "kl",  # as RDED, whose idea it takes
}
"""What ``native`` stands for: the loss that a method's authors train with."""

LEARNED_LABELS = ("datm",)
"""Methods whose sets hold their own soft labels; the others' sets need a teacher."""


@dataclass(frozen=True, kw_only=True)
class SetSource:
    """A distilled set, by what it is called.

    Attributes:
        dataset: of whose classes it is: a name in ``DATASETS``.
        method: that made it; ``selected`` is always generated.
        ipc: images per class.
        network: that it was distilled on; it is the teacher too.
        seed: of a generated set; None for a published one.
    """

    dataset: str
    method: str
    ipc: int
    network: str
    seed: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dataset", recorded(self.dataset))

    @property
    def generated(self) -> bool:
        """Whether it is generated, and not read from files."""
        return self.method == SELECTED or self.seed is not None

    @property
    def name(self) -> str:
        """Its folder's name: ``{dataset}_{method}_ipc{ipc}``, ``_{network}`` if not a ConvNet.

        Example:
            >>> SetSource(dataset="cifar100", method="rded", ipc=10, network="convnet3").name
            'cifar100_rded_ipc10'
            >>> SetSource(dataset="cifar100", method="rded", ipc=10, network="resnet18").name
            'cifar100_rded_ipc10_resnet18'
        """
        network = "" if self.network.startswith("convnet") else f"_{self.network}"
        name = f"{spec.split_spec(self.dataset)[0]}_{self.method}_ipc{self.ipc}{network}"
        return re.sub(r"[^\w.=+-]+", "-", name)

    @property
    def sized_dataset(self) -> str:
        """The dataset at the size in which the paper's networks take it."""
        return paper_dataset(self.dataset, self.network)

    @property
    def teachers(self) -> tuple[str, ...]:
        """The networks that label its images: none where it holds labels of its own."""
        return () if self.method in LEARNED_LABELS else (self.network,)
