// Counts the valid rows, before rows_kernel or tiles_kernel divides their losses by them.
//
//   valid[b] = number of rows i of block b with target[i] != ignore_index
//   valid_others[b], with mixed labels: likewise by other_target[i]
//   done = 0, the counter by which add_up() knows the last block of the next launch
//
// Shapes: targets [N], valid [gridDim.x]. Each block takes every gridDim.x-th stretch of 256 rows.
// Traffic: reads the N targets, 8 or 4 bytes each; writes 8 bytes per block. With mixed labels
// twice.
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
  __shared__ int64_t counts[2][kCountThreads / kWarp];
  const bool mixed = problem.other_target != nullptr;
  int64_t count = 0, others = 0;
  for (int64_t row = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; row < problem.rows;
       row += int64_t(gridDim.x) * blockDim.x) {
    count += target_of(problem, row) != problem.ignore_index;
    if (mixed) others += other_target_of(problem, row) != problem.ignore_index;
  }
  count = sum_of_warp(count);
  others = sum_of_warp(others);
  if (lane() == 0) {
    counts[0][warp()] = count;
    counts[1][warp()] = others;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  count = others = 0;
  for (int w = 0; w < int(blockDim.x) / kWarp; ++w) {
    count += counts[0][w];
    others += counts[1][w];
  }
  workspace->valid[blockIdx.x] = count;
  if (mixed) workspace->valid_others[blockIdx.x] = others;
  if (blockIdx.x == 0) workspace->done = 0;
}

}  // namespace
}  // namespace gift
