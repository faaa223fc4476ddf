"""Writes label sets shard by shard; a shard that exists is complete."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from gift_fast.data.labels.label_set import (
    CHOICE,
    DTYPES,
    Manifest,
    StoredEpoch,
    compressed,
    is_label_set,
    parameter_name,
    read_manifest,
    shard_path,
    write_manifest,
)
from gift_fast.files.atomic import replacing

INTEGERS = (torch.uint8, torch.int16, torch.int32)
"""Types of stored integers; the first that can represent them is used, otherwise int64."""


class LabelSetWriter:
    """Writes a label set; shards that exist are kept.

    Args:
        folder: for manifest and shards; created if missing.
        manifest: of the set.

    Raises:
        OSError: the manifest cannot be written.
        ValueError: the folder contains a label set with another manifest; the message states the
            first field that differs, with both values.
    """

    def __init__(self, folder: Path | str, manifest: Manifest) -> None:
        self.folder, self.manifest = Path(folder), manifest
        if is_label_set(self.folder):
            there = read_manifest(self.folder)
            if (found := difference(there, manifest)) is not None:
                name, before, now = found
                raise ValueError(
                    f"{self.folder} must be empty or contain a label set with {name} {now!r}, got "
                    f"one with {before!r}; choose another folder, or delete it"
                )
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_manifest(self.folder, manifest)

    def missing(self) -> Iterator[int]:
        """Yield the shards that do not exist, each checked when it is due."""
        for shard in range(self.manifest.shards):
            if not shard_path(self.folder, shard).is_file():
                yield shard

    def write(self, shard: int, epochs: Sequence[StoredEpoch]) -> Path:
        """Write a shard atomically.

        Args:
            shard: its number.
            epochs: the epochs of the shard, with dense labels, which are compressed here.

        Raises:
            OSError: the file cannot be written, for instance on a full disk.
        """
        from safetensors.torch import save

        if len(epochs) != len(self.manifest.epochs_of(shard)):
            raise ValueError(
                f"epochs must be the {len(self.manifest.epochs_of(shard))} epochs of shard "
                f"{shard}, got {len(epochs)}"
            )
        tensors = self.tensors_of(epochs)
        path = shard_path(self.folder, shard)
        with replacing(path) as temporary:
            # Not with save_file, whose files other users cannot read.
            temporary.write_bytes(save(tensors))
        return path

    def tensors_of(self, epochs: Sequence[StoredEpoch]) -> dict[str, Tensor]:
        """The tensors of a shard, by name."""
        manifest = self.manifest
        rows = [tensors_of(manifest, epoch) for epoch in epochs]
        stacked = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        return {name: narrowed(value).contiguous() for name, value in stacked.items()}


def tensors_of(manifest: Manifest, epoch: StoredEpoch) -> dict[str, Tensor]:
    """The tensors of an epoch, by name, before integers are narrowed."""
    dtype = DTYPES[manifest.dtype]
    tensors = {"image": epoch.image}
    for step, (choice, operations) in enumerate(epoch.augmentation):
        described = manifest.augmentation_steps[step]
        if len(described) > 1:
            tensors[CHOICE.format(step=step)] = choice
        for place, parameters in enumerate(operations):
            for name, value in zip(described[place]["parameters"], parameters, strict=True):
                tensors[parameter_name(step, place, name)] = value
    for name in ("partner", "weight", "box"):
        if (value := getattr(epoch, name)) is not None:
            tensors[name] = value
    if manifest.top_k is None:
        return {**tensors, "labels": epoch.labels.to(dtype)}
    assert manifest.rest is not None
    values, indices, rest = compressed(
        epoch.labels, manifest.top_k, manifest.rest, manifest.temperature
    )
    return {**tensors, "values": values.to(dtype), "indices": indices, "rest": rest.to(dtype)}


def narrowed(value: Tensor) -> Tensor:
    """Convert integers to the smallest type in ``INTEGERS`` that can represent them."""
    if value.is_floating_point() or value.dtype == torch.bool or not value.numel():
        return value
    low, high = int(value.min()), int(value.max())
    for dtype in INTEGERS:
        if torch.iinfo(dtype).min <= low and high <= torch.iinfo(dtype).max:
            return value.to(dtype)
    return value


def difference(one: Manifest, other: Manifest) -> tuple[str, object, object] | None:
    """The first field in which two manifests differ, with both values; None if they are equal."""
    for field in dataclasses.fields(Manifest):
        before, now = getattr(one, field.name), getattr(other, field.name)
        if field.compare and before != now:
            return field.name, before, now
    return None
