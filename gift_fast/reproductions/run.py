"""Running a reproduction: the checks before it, its studies and the reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gift_fast.evaluation.context import RunContext
from gift_fast.reproductions.plan import Reproduction
from gift_fast.studies.baselines import baseline_experiments
from gift_fast.studies.failures import RunsFailed
from gift_fast.studies.preflight import check_study
from gift_fast.studies.run import LocalRunner, run_study
from gift_fast.training.processes import is_main_process


def check_reproduction(reproduction: Reproduction, context: RunContext) -> None:
    """Raise if one of the studies cannot run to completion; see ``check_study``.

    Args:
        reproduction: the plan.
        context: the context of the reproduction, with its folder.
    """
    for part in reproduction.parts:
        baselines = baseline_experiments(part.experiments) if part.study.baselines else []
        check_study(part.study, [*part.experiments, *baselines], part.context(context), None)


def run_reproduction(
    reproduction: Reproduction, context: RunContext, log: Callable[[str], None]
) -> Iterator[RunsFailed]:
    """Run every part and write its tables, then write the report of every folder.

    Finished runs are not repeated. If runs of a part fail, the other parts are still run.

    Args:
        reproduction: the plan.
        context: the context of the reproduction; each part has a subfolder of its ``out``.
        log: called with a message before each part.

    Yields:
        The failures of every part in which runs failed.
    """
    from gift_fast.report import write_report, write_tables

    for number, part in enumerate(reproduction.parts, 1):
        log(f"part {number} of {len(reproduction.parts)}: {part.study.title}")
        part_context = part.context(context)
        try:
            runner = LocalRunner(part.study, part_context)
            finished = run_study(part.study, part.experiments, runner)
        except RunsFailed as failed:
            yield failed
            continue
        if is_main_process():
            write_tables(part_context.out, part.study, finished)
    if is_main_process():
        for out in dict.fromkeys(part.context(context).out for part in reproduction.parts):
            if list(out.glob("study-*.json")):
                page, _ = write_report(out, None)
                log(f"{page}")
