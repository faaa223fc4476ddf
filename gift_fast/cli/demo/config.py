"""The settings of the demo.

The settings were fixed before any result was seen. AdamW, schedule and batch size follow the paper
(table 11), the weight decay its code. The paper gives no settings for SGD: learning rate, momentum
and weight decay are those of dataset condensation for the same ConvNet (Zhao, Mopuri and Bilen,
ICLR 2021). With fewer epochs and narrower networks than in the paper, the demo takes about a
minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gift_fast.evaluation.config import EvaluationConfig, TeacherConfig
from gift_fast.files.checks import check_integer

DATASET = "digits"
NETWORK = "convnet3:width=32"
AUGMENTATION = "dsa:strategy=crop_scale_rotate"
TEACHER = TeacherConfig(
    dataset=DATASET,
    model=NETWORK,
    optimizer="adamw",
    learning_rate=1e-3,
    weight_decay=1e-4,
    schedule="multistep",
    batch_size=None,
    epochs=30,
    augmentation=AUGMENTATION,
)
LOSSES = ("ce", "kl", "gift")
OPTIMIZERS = (
    {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-4},
    {"optimizer": "sgd", "learning_rate": 1e-2, "weight_decay": 5e-4, "momentum": 0.9},
)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The options of the demo.

    Attributes:
        out: folder for results, weights and pictures; created if it does not exist.
        losses: the losses to compare, each a name in ``OBJECTIVES`` with options.
        seeds: number of students per loss and optimizer; their seeds are 0, 1, ...
        ipc: distilled images per class.
        epochs: epochs per student.
        device: ``auto`` or ``cpu``.
        quiet: whether to hide progress.
        force: whether to repeat finished runs.

    Raises:
        TypeError: a value has the wrong type.
        ValueError: a value is out of range, or a loss is not registered.
    """

    out: Path = Path("gift-fast-demo")
    losses: tuple[str, ...] = LOSSES
    seeds: int = 3
    ipc: int = 5
    epochs: int = 300
    device: str = "auto"
    quiet: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        check_integer("seeds", self.seeds, 1)
        if len(set(self.losses)) != len(self.losses):
            raise ValueError(f"losses must differ from each other, got {' '.join(self.losses)}")
        for _ in student_configs(self):  # checks ipc, epochs and losses
            pass


def student_configs(demo: DemoConfig) -> Iterator[EvaluationConfig]:
    """The configuration of every run, in the order in which they are trained."""
    for loss in demo.losses:
        for settings in OPTIMIZERS:
            for seed in range(demo.seeds):
                yield EvaluationConfig.from_dict(
                    {
                        "dataset": DATASET,
                        "ipc": demo.ipc,
                        "student": NETWORK,
                        "teachers": (NETWORK,),
                        "loss": loss,
                        "epochs": demo.epochs,
                        "augmentation": AUGMENTATION,
                        "seed": seed,
                        **settings,
                    }
                )
