// Multiplies a stored gradient by the upstream one, in place; the backward pass.
//
//   grad[i, j] *= grad_output[i] * grad_scale[i]
//
// Shapes: grad [N, C] of T, contiguous; grad_output [N], or one value with stride 0; grad_scale
// [N], given with float16 gradients. A warp or a block per row, chosen by the launcher. Traffic:
// reads and writes the N * C elements of grad once. If the factor is one for all rows, which is the
// case where backward() is called on the loss itself, each thread reads one value and returns.
#pragma once

#include <cstdint>
#include <type_traits>

#include <cuda_runtime.h>

#include "launch.h"
#include "packing.cuh"

namespace gift {
namespace {

constexpr int kScaleThreads = 256;

template <class T>
__global__ void __launch_bounds__(kScaleThreads) scale_kernel(const ScaleProblem problem) {
  using A = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const auto factor_of = [&](int64_t row) {
    const int64_t i = row * problem.grad_output_stride;
    const double upstream = problem.grad_output_is_double
                                ? __ldg(static_cast<const double*>(problem.grad_output) + i)
                                : double(__ldg(static_cast<const float*>(problem.grad_output) + i));
    return A(problem.grad_scale != nullptr ? upstream * double(__ldg(problem.grad_scale + row))
                                           : upstream);
  };
  // Almost always the loss is what backward() was called on, and there is nothing to do.
  if (problem.grad_scale == nullptr && problem.grad_output_stride == 0 && factor_of(0) == A(1))
    return;

  for (int64_t i = int64_t(blockIdx.x) * blockDim.y + threadIdx.y; i < problem.rows;
       i += int64_t(gridDim.x) * blockDim.y) {
    const A factor = factor_of(i);
    T* row = static_cast<T*>(problem.grad) + i * problem.classes;
    constexpr int V = 16 / sizeof(T);
    const Cut<V, int64_t> cut(row, problem.classes);
    for (int64_t j = threadIdx.x; j < cut.packs; j += blockDim.x) {
      Pack<T, V, 1> pack;
      A x[V];
      pack.load(row + cut.head, j, cut.packs);
      pack.widen_chunk(0, x);
#pragma unroll
      for (int e = 0; e < V; ++e) x[e] *= factor;
      pack.narrow_chunk(0, x);
      pack.store(row + cut.head, j, cut.packs);
    }
    const int64_t edge = cut.edge();
    if (edge >= 0) narrow(widen(row[edge]) * factor, row[edge]);
  }
}

}  // namespace
}  // namespace gift
