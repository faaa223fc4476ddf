// The row kernels for x86-64 with AVX-512 (F, BW, DQ, VL: 2017 and later).
#if defined(__x86_64__)
#define GIFT_ROWS kRowsAvx512
#define GIFT_VECTOR_BYTES 64
#include "rows_includes.h"
// After the standard headers: their inline functions must stay callable on every machine.
#if defined(__clang__)
#pragma clang attribute push(                                                    \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif
#include "rows_kernel.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
