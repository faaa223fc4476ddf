"""The registry of commands, with the texts that ``gift-fast --help`` shows without importing them.

A new command is a module with ``add_arguments(parser)`` and ``run(options)``, and an entry in
``COMMANDS``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """The help texts and requirements of a command.

    Args:
        module: name of the module with ``add_arguments(parser)`` and ``run(options)``.
        usage: required arguments, for the usage line.
        help: one-line summary in ``gift-fast --help``.
        description: first paragraph of the command's help.
        example: example at the end of the command's help; may have continuation lines.
        needs_student: whether the command needs the packages of the extra ``student``.
    """

    module: str
    usage: str
    help: str
    description: str
    example: str
    needs_student: bool = True


COMMANDS = {
    "demo": Command(
        module="gift_fast.cli.demo",
        usage="",
        help="compare losses on handwritten digits, in about a minute",
        description=(
            "Trains a teacher on scikit-learn's 8 x 8 digits, selects a few distilled images per "
            "class, trains students on them with each loss under AdamW and SGD, and reports their "
            "accuracy on the test images. Nothing is downloaded. Finished runs are not repeated; "
            "the same command resumes an interrupted demo."
        ),
        example="gift-fast demo --losses ce kl:temperature=4 gift --seeds 5",
    ),
    "train-teacher": Command(
        module="gift_fast.cli.train_teacher",
        usage="--dataset NAME",
        help="train a teacher on a real dataset",
        description=(
            "Trains a network on the real training images with cross-entropy, and saves its "
            "weights and its test accuracy in --teacher-dir, from which the other commands load "
            "teachers. The same command resumes an interrupted run."
        ),
        example=(
            "gift-fast train-teacher --dataset cifar100 --data-root data \\\n"
            "  --model convnet3 --epochs 60"
        ),
    ),
    "distill": Command(
        module="gift_fast.cli.distill",
        usage="METHOD --dataset NAME --ipc N --out DIR",
        help="generate a distilled set from real images and a teacher",
        description=(
            "Generates a distilled set with a method that needs no optimization, and writes it in "
            "the file format of the method's authors. An existing set is not overwritten."
        ),
        example=(
            "gift-fast distill rded --dataset cifar10 --data-root data \\\n"
            "  --teacher convnet3 --ipc 10 --out sets/cifar10_rded_ipc10"
        ),
    ),
    "evaluate": Command(
        module="gift_fast.cli.evaluate",
        usage="--data PATH --dataset NAME",
        help="train students on a distilled set and report their test accuracy",
        description=(
            "Trains one student per seed on a distilled set and reports the mean and standard "
            "deviation of their accuracy on the real test images. Finished runs are read from "
            "--out and not repeated; interrupted runs resume from their checkpoint."
        ),
        example=(
            "gift-fast evaluate --data cifar100_rded_ipc10 --dataset cifar100 --data-root data \\\n"
            "  --student convnet3 --teacher convnet3 --loss gift --seeds 0 1 2"
        ),
    ),
    "label": Command(
        module="gift_fast.cli.label",
        usage="--data PATH --dataset NAME --out DIR",
        help="store the teacher's soft labels for whole training runs",
        description=(
            "Labels the batches that `gift-fast evaluate` trains on with the same settings and "
            "seeds, and stores the labels with the augmentation parameters of every batch. "
            "`evaluate --labels` replays them with any loss and without the teacher. The same "
            "command resumes an interrupted run."
        ),
        example=(
            "gift-fast label --data cifar100_rded_ipc10 --dataset cifar100 --data-root data \\\n"
            "  --teacher convnet3 --top-k 10 --dtype float16 --out labels"
        ),
    ),
    "table": Command(
        module="gift_fast.cli.table",
        usage="[DIR]",
        help="show all evaluations in a folder as one table",
        description=(
            "Prints one row for each configuration that `gift-fast evaluate` has run: the settings "
            "in which the configurations differ, and the accuracy over seeds. Runs of studies are "
            "not included; `gift-fast report` shows them."
        ),
        example="gift-fast table runs --markdown",
    ),
    "audit": Command(
        module="gift_fast.cli.audit",
        usage="--data PATH --dataset NAME",
        help="check a distilled set's class order, images and labels",
        description=(
            "Checks a distilled set against its teacher and the real test images for mistakes that "
            "raise no error: a different class order, a different value range of images, missing "
            "classes, mismatched labels. No network is trained. The exit status is 1 if an error "
            "is found."
        ),
        example=(
            "gift-fast audit --data cifar100_rded_ipc10 --dataset cifar100 --data-root data \\\n"
            "  --teacher convnet3 --write-class-map map.json"
        ),
    ),
    "study": Command(
        module="gift_fast.cli.study",
        usage="NAME",
        help="run a comparison, such as one of the paper's tables",
        description=(
            "Trains all students of a study, and teachers that do not exist yet, and writes tables "
            "to --out as study-NAME.md and study-NAME.csv. The same command resumes an "
            "interrupted study; runs that several studies share are trained once."
        ),
        example=(
            "gift-fast study losses --dataset fashion-mnist --ipc 10 \\\n"
            "  --student convnet3:width=32 --epochs 100 --seeds 0 1 2 --dataset-seeds 0"
        ),
    ),
    "reproduce": Command(
        module="gift_fast.cli.reproduce",
        usage="NAME",
        help="reproduce published results, from the teachers to a report",
        description=(
            "Trains teachers, generates distilled sets, trains students and writes a report, "
            "according to a plan of several studies. Before that, short runs on this machine are "
            "timed and the estimated time of each part is printed. The same command resumes an "
            "interrupted reproduction."
        ),
        example="gift-fast reproduce rded-cifar10 --data-root data --out runs/rded-cifar10",
    ),
    "report": Command(
        module="gift_fast.cli.report",
        usage="DIR",
        help="write a report on studies, with published results for comparison",
        description=(
            "Writes all studies of a folder to one self-contained HTML page, and their tables as "
            "Markdown, LaTeX and CSV. Unfinished studies are shown with the runs that have "
            "finished."
        ),
        example="gift-fast report runs --open",
    ),
    "doctor": Command(
        module="gift_fast.cli.doctor",
        usage="",
        help="show versions, hardware, available backends, and what is missing",
        description=(
            "Prints versions, compilers, GPUs, the backends of the loss, memory, disk space, and "
            "missing packages with the command that installs them. It also works with a broken "
            "installation. Please add its output to bug reports."
        ),
        example="gift-fast doctor --json",
        needs_student=False,
    ),
}
"""The commands, in the order of ``gift-fast --help``."""
