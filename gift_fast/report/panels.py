"""The conditions of a study, with their runs and comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gift_fast.data.classes import ALL, IN_ORDER, build_classes
from gift_fast.evaluation.summary import spread
from gift_fast.report.cells import TUNED, Cell, Condition, Setting, Trial
from gift_fast.report.reading import Run, StudyRecord
from gift_fast.studies.statistics import Comparison, Pair, compare_losses
from gift_fast.studies.tuning import trial_score

REFERENCE = "gift"
"""The loss that the others are compared with, if the study includes it."""

AXES = {"loss", "seed", "learning_rate", "weight_decay", "tested_on", "eval_every", "eval_after"}
"""Fields of a configuration that may differ within a condition."""


@dataclass(frozen=True, eq=False)
class Panel:
    """One condition of a study with all of its runs.

    Attributes:
        condition: the settings that all runs share.
        settings: learning rates and weight decays of the runs; ``TUNED`` is last.
        losses: the specifications of the losses, in the order of the study.
        cells: the cells by setting and loss; in continual learning, those with the largest share
            of the classes.
        shares: in continual learning, the cells of all shares in ascending order; otherwise empty.
        trials: the trials of all losses; empty without tuning.
        reference: the loss that the others are compared with.
        comparisons: the comparison of the reference with each loss, by setting and loss; missing if
            there are fewer than two sets in common.
    """

    condition: Condition
    settings: tuple[Setting, ...]
    losses: tuple[str, ...]
    cells: Mapping[tuple[Setting, str], Cell]
    shares: Mapping[tuple[Setting, str], tuple[Cell, ...]]
    trials: tuple[Trial, ...]
    reference: str
    comparisons: Mapping[tuple[Setting, str], Comparison]

    @property
    def series(self) -> dict[str, int]:
        """The index of every loss in charts; that of the reference is 0."""
        others = [loss for loss in self.losses if loss != self.reference]
        return {loss: index for index, loss in enumerate((self.reference, *others))}

    def column(self, setting: Setting) -> list[Cell]:
        """The cells of a setting, in the order of the losses."""
        found = (self.cells.get((setting, loss)) for loss in self.losses)
        return [cell for cell in found if cell is not None]

    def of_purpose(self, purpose: str) -> list[Setting]:
        """The settings of a purpose."""
        return [setting for setting in self.settings if setting.purpose == purpose]


def condition_of(run: Run) -> Condition:
    """The condition that a run belongs to."""
    config = run.experiment.config
    values = {k: v for k, v in config.to_dict().items() if k not in AXES}
    values["classes"] = way_of(config.classes)
    settings = tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in values.items())
    return Condition(replace(run.experiment.source, seed=None), settings)


def way_of(classes: str) -> str:
    """The order and head of continual learning, without the step.

    Example:
        >>> way_of("seen:steps=5,step=2,order=0"), way_of("all")
        ('classes in order 0, a logit for every class seen', 'all')
    """
    if classes == ALL:
        return ALL
    seen = build_classes(classes)
    order = "the order of the labels" if seen.order == IN_ORDER else f"order {seen.order}"
    head = "every class" if seen.head == "all" else "every class seen"
    return f"classes in {order}, a logit for {head}"


def setting_of(run: Run) -> Setting:
    """The setting that a run belongs to."""
    if run.experiment.purpose == "tuned":
        return TUNED
    config = run.experiment.config
    return Setting("protocol", config.learning_rate, config.weight_decay)


def panels_of(study: StudyRecord) -> tuple[Panel, ...]:
    """The conditions of a study in the order of its manifest, with their comparisons.

    Holm's adjustment covers all comparisons of the study.
    """
    groups: dict[Condition, list[Run]] = {}
    for run in study.runs:
        if run.experiment.purpose == "baseline":  # see gift_fast.report.baselines_table
            continue
        groups.setdefault(condition_of(run), []).append(run)
    groups = with_ends(groups)
    panels = [panel_of(condition, runs) for condition, runs in groups.items()]
    panels = [panel for panel in panels if panel.cells]
    keys, pairs = [], []
    for index, panel in enumerate(panels):
        for (setting, loss), cell in panel.cells.items():
            reference = panel.cells.get((setting, panel.reference))
            pair = None if reference is None or reference is cell else paired(reference, cell)
            if pair is not None:
                keys.append((index, (setting, loss)))
                pairs.append(pair)
    found: list[dict[tuple[Setting, str], Comparison]] = [{} for _ in panels]
    for (index, key), comparison in zip(keys, compare_losses(pairs), strict=True):
        found[index][key] = comparison
    return tuple(
        replace(panel, comparisons=comparisons)
        for panel, comparisons in zip(panels, found, strict=True)
    )


def with_ends(groups: dict[Condition, list[Run]]) -> dict[Condition, list[Run]]:
    """Add the runs on all classes to every condition of continual learning, as its last step."""
    ends = set()
    found = {condition: list(runs) for condition, runs in groups.items()}
    for condition, runs in found.items():
        end = at_end(condition)
        if end != condition and end in groups:
            runs += groups[end]
            ends.add(end)
    return {condition: runs for condition, runs in found.items() if condition not in ends}


def at_end(condition: Condition) -> Condition:
    """The condition after the last step of continual learning, with all classes."""
    settings = tuple((k, ALL if k == "classes" else v) for k, v in condition.settings)
    return replace(condition, settings=settings)


def paired(first: Cell, second: Cell) -> Pair | None:
    """Pair two cells on their common sets and seeds; None if there are fewer than two sets."""
    scores: tuple[dict[str, dict[int, float]], dict[str, dict[int, float]]] = ({}, {})
    for name in first.scores:
        seeds = first.scores[name].keys() & second.scores.get(name, {}).keys()
        if seeds:
            for common, cell in zip(scores, (first, second), strict=True):
                common[name] = {seed: cell.scores[name][seed] for seed in sorted(seeds)}
    if len(scores[0]) < 2:
        return None
    return Pair(first.loss_name, second.loss_name, *scores)


def panel_of(condition: Condition, runs: Sequence[Run]) -> Panel:
    """The panel of a condition, without comparisons."""
    by_share = cells_by_share(condition, runs)
    continual = condition["classes"] != ALL
    most = max((cells[-1].share for cells in by_share.values()), default=1.0)
    settings = sorted({setting for setting, _ in by_share}, key=lambda setting: setting == TUNED)
    losses = tuple(dict.fromkeys(run.experiment.config.loss for run in runs))
    reference = next((x for x in (REFERENCE, condition.native) if x in losses), losses[0])
    return Panel(
        condition=condition,
        settings=tuple(settings),
        losses=losses,
        cells={k: cells[-1] for k, cells in by_share.items() if cells[-1].share == most},
        shares={key: tuple(cells) for key, cells in by_share.items() if continual},
        trials=trials_of(runs),
        reference=reference or losses[0],
        comparisons={},
    )


def cells_by_share(
    condition: Condition, runs: Sequence[Run]
) -> dict[tuple[Setting, str], list[Cell]]:
    """The cells of a condition by setting and loss, in ascending order of the share of classes."""
    tuned = any(run.experiment.purpose == "tuned" for run in runs)
    halved = tuned and not any(run.experiment.source.generated for run in runs)
    groups: dict[tuple[Setting, str, float], list[Run]] = {}
    for run in runs:
        if run.experiment.purpose != "trial":
            config = run.experiment.config
            share = build_classes(config.classes).share
            groups.setdefault((setting_of(run), config.loss, share), []).append(run)
    by_share: dict[tuple[Setting, str], list[Cell]] = {}
    for (setting, loss, share), group in groups.items():
        kept = group if setting != TUNED else latest_tuned(group)
        cell = Cell(condition, setting, loss, share, tuple(kept), halved)
        by_share.setdefault((setting, loss), []).append(cell)
    for cells in by_share.values():
        cells.sort(key=lambda cell: cell.share)
    return by_share


def trials_of(runs: Sequence[Run]) -> tuple[Trial, ...]:
    """The trials of a condition, in ascending order of learning rate and weight decay."""
    groups: dict[tuple[str, float, float], list[Run]] = {}
    for run in runs:
        if run.experiment.purpose == "trial":
            config = run.experiment.config
            assert config.learning_rate is not None
            key = config.loss, config.learning_rate, config.weight_decay
            groups.setdefault(key, []).append(run)
    return tuple(
        Trial(*key, spread([trial_score(run.result) for run in group]).mean, tuple(group))
        for key, group in sorted(groups.items(), key=lambda item: item[0][1:])
    )


def latest_tuned(runs: Sequence[Run]) -> list[Run]:
    """The tuned runs of one loss with the hyperparameters of the study's last call.

    A manifest lists the runs of the last call first. Earlier calls with fewer trials may have
    chosen other hyperparameters.
    """
    points = [(r.experiment.config.learning_rate, r.experiment.config.weight_decay) for r in runs]
    return [run for run, point in zip(runs, points, strict=True) if point == points[0]]


def varying_descriptions(panels: Sequence[Panel]) -> list[str]:
    """The keys of ``Condition.descriptions`` in which conditions differ."""
    names = dict.fromkeys(name for panel in panels for name in panel.condition.descriptions)
    return [name for name in names if len({p.condition.descriptions.get(name) for p in panels}) > 1]


def headings_of(panels: Sequence[Panel]) -> list[str]:
    """Headings of conditions: the settings in which they differ."""
    varying = varying_descriptions(panels)
    found = [[panel.condition.descriptions.get(name, "") for name in varying] for panel in panels]
    return [", ".join(filter(None, descriptions)) for descriptions in found]
