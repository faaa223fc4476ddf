"""The files of a folder of stored labels, ``epoch_{e}/batch_{b}.tar``."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

EPOCH_FOLDER = re.compile(r"epoch_(\d+)")
BATCH_FILE = re.compile(r"batch_(\d+)\.tar")


def batch_path(folder: Path, epoch: int, batch: int) -> Path:
    """The file of one batch."""
    return folder / f"epoch_{epoch}" / f"batch_{batch}.tar"


class LabelsFolder:
    """Lists the epochs and batches of a folder and checks that all files exist and are complete.

    Args:
        folder: contains ``epoch_0``, ``epoch_1`` and so on.
        num_images: images of the distilled set.
        batch_size: of every batch but the last of an epoch.
        bytes_per_row: size of one image's logits.
        images_listed: images of each epoch from the order file; None without an order file.

    Attributes:
        images_of: images of each epoch.
        nbytes: size of all files.
        digests: for each epoch, a digest of the numbers and sizes of its files, as text.

    Raises:
        FileNotFoundError: an epoch or a batch is missing.
        ValueError: there are too many epochs or batches, or a file is too short.
    """

    def __init__(
        self,
        folder: Path,
        *,
        num_images: int,
        batch_size: int,
        bytes_per_row: int,
        images_listed: list[int] | None,
    ) -> None:
        self.folder = folder
        self.num_images = num_images
        self.batch_size = batch_size
        self.images_of: list[int] = []
        self.nbytes = 0
        self.digests: list[str] = []
        for epoch in range(self._count_epochs(images_listed)):
            sizes = self._sizes_of_files(epoch)
            listed = None if images_listed is None else images_listed[epoch]
            self.images_of.append(self._images_in(epoch, len(sizes), listed))
            self._check_sizes(epoch, sizes, bytes_per_row)
            self.nbytes += sum(sizes.values())
            digest = hashlib.sha256(repr(sorted(sizes.items())).encode()).hexdigest()
            self.digests.append(f"epoch_{epoch} {digest}")

    def path(self, epoch: int, batch: int) -> Path:
        """The file of a batch."""
        return batch_path(self.folder, epoch, batch)

    def batches_of(self, epoch: int) -> int:
        """The number of batches of an epoch."""
        return -(-self.images_of[epoch] // self.batch_size)

    def rows_of(self, epoch: int, batch: int) -> int:
        """The number of images of a batch."""
        return min(self.batch_size, self.images_of[epoch] - batch * self.batch_size)

    def _count_epochs(self, images_listed: list[int] | None) -> int:
        folders = [EPOCH_FOLDER.fullmatch(name) for name in os.listdir(self.folder)]
        epochs = {int(match[1]) for match in folders if match}
        if missing := sorted(set(range(max(epochs))) - epochs):
            raise FileNotFoundError(
                f"{self.folder} must contain epoch_{missing[0]}, because it has epoch_{max(epochs)}"
            )
        if images_listed is not None and len(images_listed) != len(epochs):
            raise ValueError(
                f"{self.folder} must contain the {len(images_listed)} epochs of its order file, "
                f"got {len(epochs)}"
            )
        return len(epochs)

    def _sizes_of_files(self, epoch: int) -> dict[int, int]:
        with os.scandir(self.folder / f"epoch_{epoch}") as entries:
            return {
                int(match[1]): entry.stat().st_size
                for entry in entries
                if (match := BATCH_FILE.fullmatch(entry.name))
            }

    def _images_in(self, epoch: int, files: int, listed: int | None) -> int:
        """The number of images that an epoch with ``files`` files should have."""
        if listed is not None:
            return listed
        if epoch > 0:
            return self.images_of[0]
        full = self.num_images // self.batch_size
        # LPLD drops the last batch of an epoch if it is not full.
        return full * self.batch_size if files == full else self.num_images

    def _check_sizes(self, epoch: int, sizes: dict[int, int], bytes_per_row: int) -> None:
        count = self.batches_of(epoch)
        missing, surplus = set(range(count)) - set(sizes), set(sizes) - set(range(count))
        if missing or surplus:
            kind = FileNotFoundError if missing else ValueError
            raise kind(
                f"{self.folder / f'epoch_{epoch}'} must contain {count} batches of "
                f"{self.batch_size} images, for {self.images_of[epoch]} images; "
                + (f"batch_{min(missing)}.tar is missing" if missing else f"got {len(sizes)}")
            )
        for batch in range(count):
            least = self.rows_of(epoch, batch) * bytes_per_row
            if sizes[batch] < least:
                raise ValueError(
                    f"{self.path(epoch, batch)} must have at least {least} bytes, the size of its "
                    f"logits, got {sizes[batch]}; the file may be incomplete, copy it again"
                )
