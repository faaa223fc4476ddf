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
    """An accelerator for a run: all devices and processes that it was launched with, or the CPU.

    Args:
        config: its precision is used.
        device: ``auto`` or ``cpu``. CUDA_VISIBLE_DEVICES picks one of several GPUs.
        options: more arguments of ``accelerate.Accelerator``: trackers, for instance.

    Raises:
        ValueError: ``device`` is neither.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    if device not in ("auto", "cpu"):
        raise ValueError(
            f"device must be auto or cpu (CUDA_VISIBLE_DEVICES picks a GPU), got {device!r}"
        )
    # accelerate keeps the first precision and device of a process; runs may differ in both.
    AcceleratorState._reset_state()
    if PartialState._shared_state and PartialState().num_processes == 1:
        PartialState._reset_state()
    return Accelerator(
        # Several processes on the CPU find each other only if it is asked for.
        cpu=device == "cpu" or not torch.accelerator.is_available(),
        mixed_precision=config.mixed_precision,
        step_scheduler_with_optimizer=False,
        **options,
    )


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is.

    Attributes:
        index: from 0.
        count: at least 1.
    """

    index: int = 0
    count: int = 1

    def part_of(self, size: int) -> tuple[Part, float]:
        """This process's part of a joint batch, and its share of the joint loss.

        The parts differ by at most one image. A process that would get none takes the first image
        with a share of 0, since all have to take part in the step.

        Example:
            >>> Processes(1, 2).part_of(5)
            (Part(start=2, stop=5, size=5), 0.6)
        """
        start, stop = (size * (self.index + k) // self.count for k in (0, 1))
        if start == stop:
            return Part(start=0, stop=1, size=size), 0.0
        return Part(start=start, stop=stop, size=size), (stop - start) / size


def processes_of(accelerator: Accelerator) -> Processes:
    """Which of how many processes this is."""
    return Processes(accelerator.process_index, accelerator.num_processes)


def steps_alone(accelerator: Accelerator) -> bool:
    """Whether a prepared optimizer does no more in a step than the optimizer in it.

    accelerate's looks for packages in every step, which takes 0.2 ms; it is left out where there is
    no scaler, and gradients are averaged by DDP or not at all.
    """
    from accelerate import DistributedType

    plain = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    return accelerator.scaler is None and accelerator.distributed_type in plain


def share_buffers(model: nn.Module, accelerator: Accelerator) -> None:
    """Gives every process the main one's buffers.

    Each process has its own running statistics of batch norm; what is tested, and saved, is one
    network.
    """
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


def check_agreement(accelerator: Accelerator, what: str, value: int) -> None:
    """Raises ValueError unless all processes have the same value, read from files of their own."""
    if accelerator.num_processes == 1:
        return
    values = accelerator.gather(torch.tensor([value], device=accelerator.device)).tolist()
    if len(set(values)) > 1:
        raise ValueError(
            f"{what} must be the same for all processes, got {values}: the machines of a run must "
            "share the folder of its results"
        )


def is_main_process() -> bool:
    """Whether this process is the one that reports."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)
