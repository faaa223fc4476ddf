"""The accuracies of the students of an evaluation, their mean and standard deviation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gift_fast.evaluation.results import RunResult
from gift_fast.evaluation.summary import divergence, marked, spread

if TYPE_CHECKING:
    import pandas

COLUMNS = ("seed", "top-1", "top-5", "best top-1", "seconds")


@dataclass(frozen=True, repr=False)
class Scores:
    """The results of students with one configuration, one per seed.

    Attributes:
        runs: the result of every student.
        paths: the JSON files of the results.
    """

    runs: tuple[RunResult, ...]
    paths: tuple[Path, ...] = ()

    @property
    def top1(self) -> tuple[float, ...]:
        """Top-1 accuracy of every student after its last epoch, percent."""
        return tuple(run.last.top1 for run in self.runs)

    @property
    def mean(self) -> float:
        """Mean top-1 accuracy over the seeds, percent."""
        return spread(self.top1).mean

    @property
    def std(self) -> float:
        """Standard deviation of top-1 over the seeds, with ddof 0 as in the paper, percent."""
        return spread(self.top1).population_std

    def to_pandas(self) -> pandas.DataFrame:
        """Convert to a data frame with the columns seed, top1, top5, best_top1, seconds, loss.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "to_pandas requires pandas, which is not installed: pip install pandas"
            ) from error
        return pandas.DataFrame(
            [
                {
                    "seed": run.config.seed,
                    "top1": run.last.top1,
                    "top5": run.last.top5,
                    "best_top1": run.best.top1,
                    "seconds": run.seconds,
                    "loss": run.config.loss,
                }
                for run in self.runs
            ]
        )

    def __str__(self) -> str:
        config = self.runs[0].config
        rows = [
            (
                str(run.config.seed),
                marked(f"{run.last.top1:.2f}", [run]),
                f"{run.last.top5:.2f}",
                f"{run.best.top1:.2f}",
                f"{run.seconds:.1f}",
            )
            for run in self.runs
        ]
        return "\n".join(
            [
                f"{config.student} on {self.runs[0].source}, loss {config.loss}",
                *aligned([COLUMNS, *rows]),
                f"top-1: {self.mean:.2f} ± {self.std:.2f} % (mean and std over "
                f"{len(self.runs)} seed{'s' * (len(self.runs) > 1)})",
                *divergence(self.runs),
            ]
        )

    def __repr__(self) -> str:
        return f"Scores(mean={self.mean:.2f}, std={self.std:.2f}, runs={len(self.runs)})"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Format rows of cells as lines with right-aligned columns.

    Example:
        >>> aligned([("seed", "top-1"), ("0", "55.10")])
        ['seed  top-1', '   0  55.10']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
