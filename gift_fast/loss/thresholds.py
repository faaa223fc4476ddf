"""The thresholds of the loss: lower bounds of norms, and the limits of float32 and float16.

``csrc/gift_row.h`` has the same constants for the C++ kernels, with ``COSINE_EPS`` as
``kCosineEps`` and so on.
"""

COSINE_EPS = 1e-8
"""Lower bound of the norms of z and t, as in ``torch.nn.functional.cosine_similarity``."""

NORMALIZE_EPS = 1e-12
"""Lower bound of the norm of s, as in ``torch.nn.functional.normalize``."""

CANCELLATION = 1e-2
"""If ``|t|^2`` is smaller, the kernels sum ``z.t`` and ``|t|^2`` again, element by element."""

SMALLEST_INVERSE_NORM, LARGEST_INVERSE_NORM = 1e-12, 1e12
"""Rows whose z or s has an inverse norm outside of this range are computed in float64."""

LARGEST_INVERSE_TEMPERATURE = 3e38
"""Upper bound of 1/T: a softmax weight of 0 times infinity would be NaN."""

HALF_EXPONENT = 14
"""A row of a float16 gradient is stored multiplied by a power of two, so that it is below 2^14."""

HALF_MAX_SHIFT = 120
"""The factor of such a row is between 2^-120 and 2^120."""

HALF_LARGEST = 1e300
"""A row of a float16 gradient without a smaller bound is stored without a factor."""

ZERO_ROW_GRADIENT = 2.0**15
"""The largest norm of the gradient of an all-zero float16 row, before the row's weight.

Without this limit, the lower bounds of the norms make it 1e8 or more, which is infinite in float16.
"""

MASS_ROUNDING = 1e-4
"""Probabilities can sum to up to 1 plus this plus the epsilon of their dtype, because of the
rounding of a float32 softmax over many classes and of a conversion to fewer bits."""
