"""Runs the students of a job one after another; finished ones are read from their files."""

from __future__ import annotations

import sys
from dataclasses import replace

from gift_fast.data.labels.label_set import LabelSet
from gift_fast.evaluation.audit import audit_of, warn_of
from gift_fast.evaluation.config import ResolvedEvaluationConfig
from gift_fast.evaluation.context import RunContext, check_writable, tracked
from gift_fast.evaluation.description import describe_inputs, describe_settings
from gift_fast.evaluation.inputs import Inputs, check_files, load_inputs, load_tested
from gift_fast.evaluation.job import EvaluationJob
from gift_fast.evaluation.results import RunResult, find_run, run_path, write_run
from gift_fast.evaluation.student import train_student
from gift_fast.evaluation.summary import outcome
from gift_fast.files.disk import check_space, checkpoint_bytes
from gift_fast.process.signals import current
from gift_fast.training.checkpoint import CheckpointConfig
from gift_fast.training.models import new_model
from gift_fast.training.observer import RunObserver
from gift_fast.training.processes import check_agreement
from gift_fast.training.weights import save_weights


def run_job(job: EvaluationJob, context: RunContext) -> list[RunResult]:
    """Train the students of a job, or read those that have finished, and return the results.

    A finished student has a JSON file in ``context.out``. An interrupted one has a checkpoint there
    and is resumed from it.
    """
    accelerator = context.accelerator(job.config)
    check_files(job, context)
    check_writable(context.out, accelerator)
    shows = accelerator.is_main_process and not context.quiet
    if shows:  # before anything slow
        print(f"settings: {job.preset or 'without a preset'}", file=sys.stderr)
        print(describe_settings(job.config), file=sys.stderr, flush=True)
    dataset = load_tested(job.config, context.data_root)
    student = new_model(job.config.student, dataset, seed=0)  # raises if it cannot be built
    needed = checkpoint_bytes(student, averaged=job.config.ema_decay > 0)
    check_space(context.out, needed, "checkpoints")
    inputs = load_inputs(job, context, accelerator.device, dataset=dataset)
    config = inputs.resolve(job.config)
    narrowed = inputs.narrowed(config.classes)
    configs = [replace(config, seed=seed) for seed in job.seeds]
    for each in configs:
        inputs.labels_of(each)  # raises before the first student is trained
    if shows:
        print(describe_inputs(job.config, config, narrowed), file=sys.stderr, flush=True)
    if accelerator.is_main_process and job.check_set:
        warn_of(audit_of(inputs, accelerator.device, quick=True))
    with context.showing(accelerator, len(configs)) as shown:
        return [
            run_student(
                config,
                inputs,
                shown,
                title=f"seed {config.seed}",
                keep_weights=job.keep_weights,
            )
            for config in configs
        ]


def run_student(
    config: ResolvedEvaluationConfig,
    inputs: Inputs,
    context: RunContext,
    *,
    title: str,
    keep_weights: bool = False,
    labels: LabelSet | None = None,
) -> RunResult:
    """Train a student, or read its result if it has finished.

    Args:
        config: of the student, resolved for these inputs.
        inputs: with all classes.
        context: device, folders and progress; the student is one stage of the progress.
        title: of the stage.
        keep_weights: whether to save the student's weights with its result.
        labels: an exact label set of this run, written by a study; None uses that of the inputs,
            if there is one.
    """
    accelerator, progress = context.accelerator(config), context.progress
    digests = inputs.digests_of(config)
    path = run_path(context.out, config, digests)
    checkpoint = path.with_suffix(".ckpt")
    finished = None if context.force else find_run(context.out, config, digests)
    check_agreement(accelerator, "whether a run has finished", int(finished is not None))
    if finished is not None:
        progress.begin(title, config.epochs, done=config.epochs)
        progress.end(f"{outcome(finished)}, from an earlier call")
        return finished
    if context.force and accelerator.is_main_process:
        checkpoint.unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    read = inputs.narrowed(config.classes)
    labels = labels or inputs.labels_of(config)
    interruption = current()
    with interruption.held():  # until the result is written; otherwise it would be lost
        with tracked(accelerator, context, path.stem, config):
            student, result = train_student(
                config,
                read.dataset,
                read.distilled,
                read.teachers,
                labels=labels,
                whiten=read.whiten,
                accelerator=accelerator,
                checkpoint=CheckpointConfig(checkpoint, context.checkpoint_every),
                interruption=interruption,
                observer=RunObserver(title, progress, accelerator),
                inputs=digests,
            )
        if accelerator.is_main_process:
            if keep_weights:
                weights = path.with_suffix(".pth")
                save_weights(weights, student, top1=result.last.top1, config=config.to_dict())
            write_run(context.out, result)
            checkpoint.unlink(missing_ok=True)
        accelerator.wait_for_everyone()
        progress.end(outcome(result))
    return result
