// What the CUDA operators hand to the launchers.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "../gift_loss.h"

namespace gift {

// Blocks that count the valid rows, and blocks that compute: bounds that depend on no device, so
// that the order of the sums, and with it every bit of the loss, is the same on all of them.
constexpr int kCountBlocks = 32;
constexpr int kLossBlocks = 4096;

// On the device, allocated for each call: two streams, or two replays of a graph, must not share
// it.
struct Workspace {
  int64_t valid[kCountBlocks];             // valid rows that each block of the prologue counted
  unsigned long long losses[kLossBlocks];  // each block's share of the total: a double's bits
  int done;                                // blocks that have written theirs
  int64_t valid_others[kCountBlocks];      // as valid, by the other target of mixed labels
};

// Whether rows of several groups (gift_loss.h) are to be copied into one first: rows of few
// classes, of so many bytes of logits and soft labels, which are faster in tiles; and more than 32
// bits number.
bool copies_groups(int64_t rows, int64_t row_bytes);

// `workspace` may be null for reduction "none". Nothing here waits for the device.
cudaError_t launch_cuda(const Problem& problem, Workspace* workspace, cudaStream_t stream);
cudaError_t launch_cuda(const TopKProblem& problem, Workspace* workspace, cudaStream_t stream);
cudaError_t launch_cuda(const ScaleProblem& problem, cudaStream_t stream);

}  // namespace gift
