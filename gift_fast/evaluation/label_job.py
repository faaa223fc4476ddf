"""The label sets of one ``gift-fast label`` command."""

from __future__ import annotations

import sys
from dataclasses import replace

from gift_fast.data.labels.label_set import LabelSet
from gift_fast.evaluation.context import RunContext, check_writable
from gift_fast.evaluation.description import describe_inputs, describe_settings
from gift_fast.evaluation.inputs import load_inputs
from gift_fast.evaluation.job import EvaluationJob
from gift_fast.evaluation.label_sets import describe_storage
from gift_fast.evaluation.labeling import (
    EXACT,
    Compression,
    LabelingProgress,
    label_run,
    plan_labels,
)
from gift_fast.files.disk import check_space, format_size


def run_label_job(
    job: EvaluationJob, context: RunContext, compression: Compression = EXACT
) -> list[LabelSet]:
    """Label the batches of every seed of a job, in ``seed0``, ``seed1``, ... of ``context.out``.

    Prints the sizes first. Labels that are already stored are kept.

    Raises:
        OSError: a file is missing, or there is not enough disk space.
        ValueError: the job has no teacher, or a folder contains another label set.
    """
    if not job.config.teachers:
        raise ValueError("teacher must be one or more networks that label the batches, got none")
    accelerator = context.accelerator(job.config)
    check_writable(context.out, accelerator)
    inputs = load_inputs(job, context, accelerator.device)
    config = inputs.resolve(job.config)
    read = inputs.narrowed(config.classes)
    plan = plan_labels(
        config,
        read.distilled,
        read.dataset.num_classes,
        set_digest=read.digests["distilled"],
        teacher_digest=read.digests["teachers"],
        compression=compression,
    )
    if accelerator.is_main_process and not context.quiet:
        print(f"settings: {job.preset or 'without a preset'}", file=sys.stderr)
        print(describe_settings(job.config), file=sys.stderr)
        print(describe_inputs(job.config, config, read), file=sys.stderr)
        size, labels = format_size(plan.nbytes), format_size(plan.label_bytes)
        print(
            f"labels: {describe_storage(plan.manifest)}; {config.epochs} epochs of "
            f"{len(read.distilled)} images; {size} for each of {len(job.seeds)} seeds, of which "
            f"{labels} are labels",
            file=sys.stderr,
            flush=True,
        )
    folders = {seed: context.out / f"seed{seed}" for seed in job.seeds}
    new = sum(not folder.exists() for folder in folders.values())
    check_space(context.out, new * plan.nbytes, "labels")
    with context.showing(accelerator, len(job.seeds)) as shown:
        found = []
        for seed, folder in folders.items():
            labels_of_seed = label_run(
                replace(config, seed=seed),
                read.dataset,
                read.distilled,
                read.teachers,
                folder,
                accelerator=accelerator,
                compression=compression,
                on_progress=LabelingProgress(shown.progress, f"seed {seed}"),
            )
            shown.progress.end(f"{format_size(labels_of_seed.nbytes)} in {folder}")
            found.append(labels_of_seed)
    return found
