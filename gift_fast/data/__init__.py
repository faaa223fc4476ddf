"""Images and labels: real datasets, published distilled sets, stored soft labels."""

from gift_fast.data.datasets import ImageDataset, load_dataset
from gift_fast.data.distilled import DistilledSet, read_distilled, write_distilled

__all__ = ["DistilledSet", "ImageDataset", "load_dataset", "read_distilled", "write_distilled"]
