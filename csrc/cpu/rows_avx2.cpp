// The row kernels for x86-64 with AVX2, FMA and F16C (2013 and later).
#if defined(__x86_64__)
#define GIFT_ROWS kRowsAvx2
#define GIFT_VECTOR_BYTES 32
#include "rows_includes.h"
// After the standard headers: their inline functions must stay callable on every machine.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#include "rows_kernel.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
