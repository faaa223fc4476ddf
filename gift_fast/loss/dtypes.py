"""The dtypes that the loss supports."""

import torch

FLOAT_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
TARGET_TYPES = (torch.int64, torch.int32)
INDEX_TYPES = (torch.int64, torch.int32, torch.int16)


def dtype_names(dtypes: tuple[torch.dtype, ...]) -> str:
    """Join the names of dtypes, for messages."""
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
