// The row kernels for what every CPU of the architecture has: SSE2 on x86-64, NEON on arm64.
#define GIFT_ROWS kRowsDefault
#define GIFT_VECTOR_BYTES 16
#include "rows_includes.h"
#include "rows_kernel.h"
