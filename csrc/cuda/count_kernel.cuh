// Counts the valid rows, before rows_kernel or tiles_kernel divides their losses by them.
//
//   valid[b] = number of rows i of block b with target[i] != ignore_index
//   done = 0, the counter by which add_up() knows the last block of the next launch
//
// Shapes: target [N], valid [gridDim.x]. Each block takes every gridDim.x-th stretch of 256 rows.
// Traffic: reads the N targets, 8 or 4 bytes each; writes 8 bytes per block.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "launch.h"
#include "reductions.cuh"
#include "row.cuh"

namespace gift {
namespace {

constexpr int kCountThreads = 256;

__global__ void __launch_bounds__(kCountThreads, 1)  // without the 1, ptxas 13.0 spills for sm_100
    count_kernel(const Problem problem, Workspace* workspace) {
  __shared__ int64_t counts[kCountThreads / kWarp];
  int64_t count = 0;
  for (int64_t row = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; row < problem.rows;
       row += int64_t(gridDim.x) * blockDim.x)
    count += target_of(problem, row) != problem.ignore_index;
  count = sum_of_warp(count);
  if (lane() == 0) counts[warp()] = count;
  __syncthreads();
  if (threadIdx.x != 0) return;
  count = 0;
  for (int w = 0; w < int(blockDim.x) / kWarp; ++w) count += counts[w];
  workspace->valid[blockIdx.x] = count;
  if (blockIdx.x == 0) workspace->done = 0;
}

}  // namespace
}  // namespace gift
