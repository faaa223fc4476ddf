"""The processes and devices of a run, through Hugging Face accelerate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gift_fast.training.augment import Part

if TYPE_CHECKING:
    from accelerate import Accelerator

    from gift_fast.training.config import TrainingConfig


def new_accelerator(config: TrainingConfig, *, device: str = "auto", **options: Any) -> Accelerator:
    """Create the accelerator of a run, with the processes and devices that it was launched with.

    Args:
        config: of the run; its ``mixed_precision`` is used.
        device: ``auto`` or ``cpu``. CUDA_VISIBLE_DEVICES selects one of several GPUs.
        options: further arguments of ``accelerate.Accelerator``, such as trackers.

    Raises:
        ValueError: ``device`` is neither.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    if device not in ("auto", "cpu"):
        raise ValueError(
            f"device must be auto or cpu (CUDA_VISIBLE_DEVICES selects a GPU), got {device!r}"
        )
    # accelerate keeps the precision and device of a process's first run; later runs may differ.
    AcceleratorState._reset_state()
    if PartialState._shared_state and PartialState().num_processes == 1:
        PartialState._reset_state()
    return Accelerator(
        # Several processes on the CPU only connect to each other if the CPU is requested.
        cpu=device == "cpu" or not torch.accelerator.is_available(),
        mixed_precision=config.mixed_precision,
        step_scheduler_with_optimizer=False,
        **options,
    )


@dataclass(frozen=True)
class Processes:
    """The index of this process and the number of processes.

    Attributes:
        index: from 0.
        count: at least 1.
    """

    index: int = 0
    count: int = 1

    def part_of(self, size: int) -> tuple[Part, float]:
        """This process's part of a global batch, and its share of the loss.

        The sizes of the parts differ by at most one image. A process without images takes the first
        image with a share of 0, because all processes have to take part in the step.

        Example:
            >>> Processes(1, 2).part_of(5)
            (Part(start=2, stop=5, size=5), 0.6)
        """
        start, stop = (size * (self.index + k) // self.count for k in (0, 1))
        if start == stop:
            return Part(start=0, stop=1, size=size), 0.0
        return Part(start=start, stop=stop, size=size), (stop - start) / size


def processes_of(accelerator: Accelerator) -> Processes:
    """The process index and count of an accelerator."""
    return Processes(accelerator.process_index, accelerator.num_processes)


def can_skip_wrapper(accelerator: Accelerator) -> bool:
    """Whether the wrapped optimizer can be used without accelerate's wrapper.

    The wrapper looks for installed packages in every step, which takes 0.2 ms. It is not needed
    without a gradient scaler, if gradients are averaged by DDP or not at all.
    """
    from accelerate import DistributedType

    plain = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    return accelerator.scaler is None and accelerator.distributed_type in plain


def share_buffers(model: nn.Module, accelerator: Accelerator) -> None:
    """Copy the buffers of the main process to all processes.

    Every process has its own running statistics of batch norm, but one network is tested and saved.
    """
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


def check_agreement(accelerator: Accelerator, what: str, value: int) -> None:
    """Raise ValueError unless all processes read the same value from their files."""
    if accelerator.num_processes == 1:
        return
    values = accelerator.gather(torch.tensor([value], device=accelerator.device)).tolist()
    if len(set(values)) > 1:
        raise ValueError(
            f"{what} must be the same for all processes, got {values}: all machines of a run must "
            "use the same folder for results"
        )


def is_main_process() -> bool:
    """Whether this is the main process, the one that reports."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)
