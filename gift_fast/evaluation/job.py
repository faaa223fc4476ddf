"""Jobs: the students of one ``gift-fast evaluate`` command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gift_fast.data.distilled.formats import recognize
from gift_fast.evaluation.config import EvaluationConfig
from gift_fast.evaluation.label_sets import read_label_sets
from gift_fast.evaluation.protocols import load_preset
from gift_fast.evaluation.rules import paper_dataset
from gift_fast.files.checks import check_integer


@dataclass(frozen=True, kw_only=True)
class EvaluationJob:
    """Students with one configuration and several seeds, on a distilled set in files.

    Attributes:
        config: of every student; its seed is replaced.
        data: folder or file of the distilled set.
        format: a name in ``FORMATS``, or ``auto``.
        labels: folder of stored soft labels: FKD's, if the format stores them separately, or label
            sets, which replace the teachers.
        labels_class_map: file with the class map of these labels.
        teacher_weights: one file per teacher; by default those in the teachers' folder.
        class_map: file with the class map of the distilled set.
        seeds: one student per seed.
        keep_weights: whether to save the weights of every student with its result.
        check_set: whether to run a quick audit first and print its warnings.
        preset: title of the preset that the settings are from.
    """

    config: EvaluationConfig
    data: Path
    format: str = "auto"
    labels: Path | None = None
    labels_class_map: Path | None = None
    teacher_weights: tuple[Path, ...] = ()
    class_map: Path | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    keep_weights: bool = False
    check_set: bool = True
    preset: str = ""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be one or more distinct seeds, got {list(self.seeds)}")
        for seed in self.seeds:
            check_integer("seeds", seed, 0)
        if self.teacher_weights and len(self.teacher_weights) != len(self.config.teachers):
            raise ValueError(
                f"teacher_weights must be {len(self.config.teachers)} files, one per teacher, "
                f"got {len(self.teacher_weights)}"
            )


def job_of_preset(
    data: Path | str,
    dataset: str,
    preset: str,
    settings: Mapping[str, Any],
    **inputs: Any,
) -> EvaluationJob:
    """Create a job with the settings of a preset, which other settings override.

    Args:
        data: the distilled set.
        dataset: the real dataset; for ConvNets it has the paper's size, unless a size is given.
        preset: name or YAML file of the preset.
        settings: fields of :class:`~gift_fast.evaluation.config.EvaluationConfig`.
        inputs: other attributes of the job.
    """
    loaded = load_preset(preset)
    student = settings.get("student", loaded.settings.get("student", EvaluationConfig.student))
    sized = paper_dataset(dataset, student)
    form = inputs.get("format", "auto")
    if form == "auto":
        form = recognize(Path(data), inputs.get("labels"))
    own = loaded.settings_for(dataset=sized, student=student, format=form)
    label_sets = read_label_sets(inputs.get("labels"))
    if label_sets is not None and not settings.get("teachers"):
        settings = {**settings, "teachers": label_sets.teachers}
    return EvaluationJob(
        config=EvaluationConfig.from_dict({**own, **settings, "dataset": sized}),
        data=Path(data),
        preset=f"{loaded.title} (preset {loaded.name})",
        **inputs,
    )
