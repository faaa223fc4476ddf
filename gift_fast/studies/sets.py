"""The distilled sets of a study, and the properties of their methods."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gift_fast.evaluation.rules import paper_dataset
from gift_fast.files import spec
from gift_fast.files.record_names import record_name
from gift_fast.studies.published import FORMATS
from gift_fast.studies.published import NATIVE_LOSSES as PUBLISHED_LOSSES

RANDOM = "random"
"""The method for random training images; see :mod:`gift_fast.studies.baselines`."""

SELECTED = "selected"
"""The default method for generated sets, :func:`select_crops`."""

NATIVE_LOSSES = {
    **{FORMATS[method]: loss for method, loss in PUBLISHED_LOSSES.items()},
    SELECTED: "kl",  # as for RDED, on which it is based
}
"""The loss that ``native`` refers to: the one that a method's authors train with."""

LEARNED_LABELS = ("datm",)
"""Methods whose sets include learned soft labels; all other sets need a teacher."""


@dataclass(frozen=True, kw_only=True)
class SetSource:
    """The identification of a distilled set.

    Attributes:
        dataset: the real dataset, a name in ``DATASETS``.
        method: the distillation method; ``selected`` is always generated.
        ipc: images per class.
        network: the network that it was distilled on, which is also the teacher.
        seed: seed of a generated set; None for a published set.
    """

    dataset: str
    method: str
    ipc: int
    network: str
    seed: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dataset", record_name(self.dataset))

    @property
    def generated(self) -> bool:
        """Whether the set is generated, as opposed to published."""
        return self.method == SELECTED or self.seed is not None

    @property
    def name(self) -> str:
        """The name of its folder: ``{dataset}_{method}_ipc{ipc}``, then the network if no ConvNet.

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
        """The dataset at the input size of the paper's networks."""
        return paper_dataset(self.dataset, self.network)

    @property
    def teachers(self) -> tuple[str, ...]:
        """The teachers that label its images; none if it includes learned labels."""
        return () if self.method in LEARNED_LABELS else (self.network,)
