// The threads that share a row: a few lanes of a warp, a warp, or a block.
//
// Blocks are (threads of a row, rows). blockDim.y is more than 1 only where each warp has rows of
// its own.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

// CUDA_KERNEL_ASSERT without torch: it also fires in a build with NDEBUG.
#define GIFT_DEVICE_ASSERT(condition)                                                    \
  do {                                                                                   \
    if (!(condition)) __assert_fail(#condition, __FILE__, unsigned(__LINE__), __func__); \
  } while (0)

namespace gift {

// Dynamic shared memory: a row that the launcher keeps there (rows_kernel), or the tiles of a
// block's warps (tiles_kernel).
extern __shared__ uint4 row_memory[];

namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kMaxThreads = 512;  // of a row
constexpr int kMaxWarps = kMaxThreads / kWarp;
constexpr int kOwnWarps = 4;  // warps per block, where each has rows of its own

__device__ __forceinline__ bool row_is_one_warp() { return blockDim.x == kWarp; }
__device__ __forceinline__ int lane() { return int(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warp() { return int(threadIdx.x) / kWarp; }

}  // namespace
}  // namespace gift
