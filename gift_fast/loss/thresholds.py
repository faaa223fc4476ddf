"""The thresholds of the loss: bounds of norms, and where float32 or float16 is not enough.

``csrc/gift_row.h`` has the same constants for the C++ kernels, ``COSINE_EPS`` as ``kCosineEps``.
"""

COSINE_EPS = 1e-8
"""Lower bound of the norms of z and t, as in ``torch.nn.functional.cosine_similarity``."""

NORMALIZE_EPS = 1e-12
"""Lower bound of the norm of s, as in ``torch.nn.functional.normalize``."""

CANCELLATION = 1e-2
"""Below this ``|t|^2`` the kernels sum ``z.t`` and ``|t|^2`` again, element by element."""

SMALLEST_INVERSE_NORM, LARGEST_INVERSE_NORM = 1e-12, 1e12
"""Rows whose z or s has an inverse norm beyond these are computed in float64."""

LARGEST_INVERSE_TEMPERATURE = 3e38
"""Upper bound of 1/T: a softmax weight of 0 times infinity would be NaN."""

HALF_EXPONENT = 14
"""A row of a float16 gradient is stored times a power of two that brings it below 2^14."""

HALF_MAX_SHIFT = 120
"""The factor of such a row lies between 2^-120 and 2^120."""

HALF_LARGEST = 1e300
"""A row of a float16 gradient with no smaller bound is stored as it is."""

ZERO_ROW_GRADIENT = 2.0**15
"""The largest norm of the gradient of an all-zero float16 row, before the row's weight.

The bounds of the norms make it 1e8 and more, which is infinite in float16.
"""

MASS_ROUNDING = 1e-5
"""Probabilities may sum to 1 plus this and the epsilon of their dtype: those of a softmax over many
classes in float32 do, and so do probabilities that are rounded to fewer bits."""
