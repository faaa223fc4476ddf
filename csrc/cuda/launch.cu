// Chooses a kernel for a problem and launches it. The kernels:
//
//   count_kernel.cuh   the valid rows, before a mean or a sum
//   tiles_kernel.cuh   rows of few classes, which share 32-byte sectors: several to a warp
//   rows_kernel.cuh    other rows, a warp or a block each: in registers, shared memory or streamed
//   top_k_kernel.cuh   rows with top-k labels, a warp or a block each
//   scale_kernel.cuh   a stored gradient times the upstream one
//
// They share packing.cuh (how threads divide and move a row), reductions.cuh (sums over threads and
// blocks) and row.cuh (the arithmetic of a row, on top of ../gift_row.h). Nothing here needs torch.
//
// Arguments go to the kernels as they came, as one struct by value; see ../gift_loss.h.
#include "launch.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>
#include <type_traits>
#include <utility>

#include "count_kernel.cuh"
#include "rows_kernel.cuh"
#include "scale_kernel.cuh"
#include "tiles_kernel.cuh"
#include "top_k_kernel.cuh"

namespace gift {
namespace {

using RowsKernel = decltype(&rows_kernel<float, float, false, false, 1>);
using TilesKernel = decltype(&tiles_kernel<float, float, 1>);

// The kernel for a problem, either of the two, and its launch.
struct Choice {
  int threads, warps;      // blockDim.x and .y
  int64_t rows_per_block;  // that a block takes at a time

  RowsKernel rows;    // null: tiles_kernel
  int64_t row_bytes;  // of shared memory, to keep a row there; 0: it is not to be kept there
  int64_t own_bytes;  // of shared memory, which the kernel takes anyway

  TilesKernel tiles;    // null: rows_kernel
  int lanes;            // that a tile's row has
  int64_t tiles_bytes;  // of shared memory, for a block's tiles
};

// How many threads, at most `most`, take `packs`, if each takes `held` of them; 0: too many packs.
int threads_for(int64_t packs, int held, int most) {
  int threads = kWarp;
  while (threads < most && packs > int64_t(threads) * held) threads *= 2;
  return packs > int64_t(threads) * held ? 0 : threads;
}

// The boundaries, in classes:                                               float64 and
//                         two 16-bit  two float32  one of each  two float64  float32  16-bit
//   several rows a warp          512          256          341          128      170     204
//   one warp a row              1031          515          519          257      259     263
//   registers of a block       16391         8195         8199         2049     2051    2055
//   shared memory              25095        12547        16647         6209     8323    9991
//   streamed              beyond
//
// Several rows, as long as two of both arrays make a tile, and only where neither has gaps between
// its rows. A warp, as long as 32 threads hold the row: no barrier. Registers, as long as 512
// threads do (256 of double). Shared memory, as far as a block may have it: the last row is of 99
// KiB, an RTX 30's to 50's, and an H100 has 227. Beyond, the second read finds most of the row in
// L2: the rows of 50257 bfloat16 that 132 blocks are at take 26 MB.
template <class Z, class S, bool softmax, int labels>
Choice choose_sweep(int64_t classes) {
  using P = Packing<Z, S>;
  const int64_t packs = classes / P::kElements;
  const int threads = threads_for(packs, P::kHeld, P::kMostThreads);
  Choice choice = {};
  choice.own_bytes = sizeof(Shared<Accumulator<Z, S>, labels>);
  choice.threads = threads > 0 ? threads : P::kMostThreads;
  choice.warps = threads == kWarp ? kOwnWarps : 1;
  choice.rows_per_block = choice.warps;
  choice.rows = threads > 0 ? rows_kernel<Z, S, softmax, false, labels>
                            : rows_kernel<Z, S, softmax, true, labels>;
  if (threads == 0)
    choice.row_bytes =
        (packs + kWarp - 1) / kWarp * kWarp * P::kElements * int64_t(sizeof(Z) + sizeof(S));
  return choice;
}

template <class Z, class S, int labels>
Choice choose_tiles(int classes, int lanes) {
  const int rows = kWarp / lanes;
  Choice choice = {};
  choice.threads = kWarp;
  choice.warps = kOwnWarps;
  choice.rows_per_block = kOwnWarps * rows;
  choice.tiles = tiles_kernel<Z, S, labels>;
  choice.lanes = lanes;
  choice.tiles_bytes =
      16 * kOwnWarps * (tile_vectors<Z>(rows * classes) + tile_vectors<S>(rows * classes));
  return choice;
}

template <class Z, class S, int labels>
Choice choose_of_labels(const Problem& problem) {
  const int64_t classes = problem.classes;
  const int lanes = lanes_of_tile(classes * int64_t(sizeof(Z) + sizeof(S)), labels);
  if (lanes > 0 && problem.rows_per_group >= problem.rows && problem.logits_stride == classes &&
      problem.soft_labels_stride == classes)
    return choose_tiles<Z, S, labels>(int(classes), lanes);
  // In double the version that can take a softmax is the only one.
  constexpr bool kIsDouble = std::is_same_v<Accumulator<Z, S>, double>;
  return problem.soft_label_temperature > 0.0 ? choose_sweep<Z, S, true, labels>(classes)
                                              : choose_sweep<Z, S, kIsDouble, labels>(classes);
}

template <class Z, class S>
Choice choose(const Problem& problem) {
  return problem.other_target == nullptr ? choose_of_labels<Z, S, 1>(problem)
                                         : choose_of_labels<Z, S, 2>(problem);
}

template <class Z>
Choice choose_labels(const Problem& problem) {
  switch (problem.soft_labels_type) {
    case DType::kFloat64: return choose<Z, double>(problem);
    case DType::kFloat32: return choose<Z, float>(problem);
    case DType::kBFloat16: return choose<Z, __nv_bfloat16>(problem);
    default: return choose<Z, __half>(problem);
  }
}

// The kernel for top-k labels, and its launch.
using TopKKernel = decltype(&top_k_kernel<float, false, 1>);

struct TopKChoice {
  int threads, warps;
  TopKKernel kernel;
  int64_t row_bytes;  // as in Choice
};

// The boundaries, in classes:          16-bit  float32  float64
//                one warp a row          2055     1027      513
//                registers of a block   16391     8195     4097
//                shared memory          49927    24963    12481
//                streamed              beyond
template <class Z, int labels>
TopKChoice choose_top_k_of_labels(int64_t classes) {
  using P = TopKPacking<Z>;
  const int64_t packs = classes / P::kElements;
  const int threads = threads_for(packs, P::kHeld, P::kMostThreads);
  if (threads == 0)
    return {P::kMostThreads, 1, top_k_kernel<Z, true, labels>,
            (packs + kWarp - 1) / kWarp * kWarp * 16};
  return {threads, threads == kWarp ? kOwnWarps : 1, top_k_kernel<Z, false, labels>, 0};
}

template <class Z>
TopKChoice choose_top_k(const Problem& call) {
  return call.other_target == nullptr ? choose_top_k_of_labels<Z, 1>(call.classes)
                                      : choose_top_k_of_labels<Z, 2>(call.classes);
}

TopKChoice choose_kernel(const TopKProblem& problem) {
  switch (problem.call.logits_type) {
    case DType::kFloat64: return choose_top_k<double>(problem.call);
    case DType::kFloat32: return choose_top_k<float>(problem.call);
    case DType::kBFloat16: return choose_top_k<__nv_bfloat16>(problem.call);
    default: return choose_top_k<__half>(problem.call);
  }
}

Choice choose_kernel(const Problem& problem) {
  switch (problem.logits_type) {
    case DType::kFloat64: return choose_labels<double>(problem);
    case DType::kFloat32: return choose_labels<float>(problem);
    case DType::kBFloat16: return choose_labels<__nv_bfloat16>(problem);
    default: return choose_labels<__half>(problem);
  }
}

cudaLaunchConfig_t configuration(int64_t blocks, dim3 block, int64_t shared_bytes,
                                 cudaStream_t stream) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(unsigned(blocks));
  config.blockDim = block;
  config.dynamicSmemBytes = size_t(shared_bytes);
  config.stream = stream;
  return config;
}

int64_t blocks_for(int64_t items, int64_t per_block, int64_t most) {
  return std::max<int64_t>(std::min((items + per_block - 1) / per_block, most), 1);
}

// Groups that follow each other without gaps are one, and so are the rows of groups of one row.
void merge_groups(Problem& problem, TopKLabels& labels) {
  const int64_t rows = problem.rows_per_group;
  if (rows >= problem.rows) return;
  const std::pair<int64_t*, int64_t> strides[] = {
      {&problem.logits_stride, problem.logits_group_stride},
      {&problem.soft_labels_stride, problem.soft_labels_group_stride},
      {&problem.target_stride, problem.target_group_stride},
      {&problem.other_target_stride, problem.other_target_group_stride},
      {&problem.target_weight_stride, problem.target_weight_group_stride},
      {&labels.values_stride, labels.values_group_stride},
      {&labels.indices_stride, labels.indices_group_stride},
      {&labels.rest_stride, labels.rest_group_stride}};
  for (const auto& [stride, group_stride] : strides)
    if (rows > 1 && group_stride != rows * *stride) return;
  for (const auto& [stride, group_stride] : strides)
    if (rows == 1) *stride = group_stride;
  problem.rows_per_group = problem.rows;
}

// The most dynamic shared memory that a kernel can have on the current device, beside its own. A
// kernel has to request more than 48 KiB: once for each device, for all that there is, and under a
// lock, since several threads may launch it.
cudaError_t dynamic_shared_memory(const void* kernel, int64_t own_bytes, int64_t& bytes) {
  static std::mutex mutex;
  static std::map<std::pair<int, const void*>, int64_t> known;
  int device = 0, most = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find({device, kernel});
  if (found != known.end()) {
    bytes = found->second;
    return cudaSuccess;
  }
  error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) return error;
  bytes = std::max<int64_t>(most - own_bytes, 0) / 16 * 16;  // it begins at a multiple of 16
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes));
  if (error == cudaSuccess) known[{device, kernel}] = bytes;
  return error;
}

// Counts the valid rows for a mean or a sum; `parts`: of the workspace that a mean has to add up.
cudaError_t count_valid(const Problem& problem, Workspace* workspace, cudaStream_t stream,
                        int& parts) {
  parts = 0;
  if (problem.total == nullptr) return cudaSuccess;
  // Several blocks for millions of rows; for a usual batch the first is enough.
  const int64_t blocks = blocks_for(problem.rows, 4096, kCountBlocks);
  if (problem.mean) parts = int(blocks);
  const auto config = configuration(blocks, dim3(kCountThreads), 0, stream);
  return cudaLaunchKernelEx(&config, count_kernel, problem, workspace);
}

// Whether a row of so many bytes (0: not to be kept) fits into what the kernel may have of shared
// memory.
cudaError_t fits(const void* kernel, int64_t row_bytes, int64_t own_bytes, bool& keep) {
  keep = false;
  if (row_bytes == 0) return cudaSuccess;
  int64_t most = 0;
  const cudaError_t error = dynamic_shared_memory(kernel, own_bytes, most);
  keep = row_bytes <= most;
  return error;
}

}  // namespace

bool copies_groups(int64_t rows, int64_t row_bytes) {
  // With more lanes a row takes as many instructions in a tile as of a warp's own (docs/gpu.md).
  const int lanes = lanes_of_tile(row_bytes, 1);
  return rows > int64_t(UINT32_MAX) || (lanes > 0 && lanes <= 4);
}

cudaError_t launch_cuda(const Problem& given, Workspace* workspace, cudaStream_t stream) {
  Problem problem = given;
  if (problem.total == nullptr && problem.rows == 0) return cudaSuccess;
  TopKLabels none = {};
  merge_groups(problem, none);
  int parts = 0;
  cudaError_t error = count_valid(problem, workspace, stream, parts);
  if (error != cudaSuccess) return error;

  const Choice choice = choose_kernel(problem);
  const int64_t blocks = blocks_for(problem.rows, choice.rows_per_block, kLossBlocks);
  const dim3 block(unsigned(choice.threads), unsigned(choice.warps));
  if (choice.tiles != nullptr) {
    const auto config = configuration(blocks, block, choice.tiles_bytes, stream);
    return cudaLaunchKernelEx(&config, choice.tiles, problem, workspace, parts, choice.lanes);
  }
  bool keep = false;
  error =
      fits(reinterpret_cast<const void*>(choice.rows), choice.row_bytes, choice.own_bytes, keep);
  if (error != cudaSuccess) return error;
  const auto config = configuration(blocks, block, keep ? choice.row_bytes : 0, stream);
  return cudaLaunchKernelEx(&config, choice.rows, problem, workspace, parts, keep);
}

cudaError_t launch_cuda(const TopKProblem& given, Workspace* workspace, cudaStream_t stream) {
  TopKProblem problem = given;
  Problem& call = problem.call;
  if (call.total == nullptr && call.rows == 0) return cudaSuccess;
  merge_groups(call, problem.labels);
  int parts = 0;
  cudaError_t error = count_valid(call, workspace, stream, parts);
  if (error != cudaSuccess) return error;

  const TopKChoice choice = choose_kernel(problem);
  bool keep = false;
  error = fits(reinterpret_cast<const void*>(choice.kernel), choice.row_bytes,
               sizeof(TopKShared<2>), keep);
  if (error != cudaSuccess) return error;
  const auto config = configuration(blocks_for(call.rows, choice.warps, kLossBlocks),
                                    dim3(unsigned(choice.threads), unsigned(choice.warps)),
                                    keep ? choice.row_bytes : 0, stream);
  return cudaLaunchKernelEx(&config, choice.kernel, problem,
                            largest_mass(problem.labels.values_type), workspace, parts, keep);
}

cudaError_t launch_cuda(const ScaleProblem& problem, cudaStream_t stream) {
  if (problem.rows == 0) return cudaSuccess;
  auto* kernel = &scale_kernel<double>;
  switch (problem.grad_type) {
    case DType::kFloat64: break;
    case DType::kFloat32: kernel = &scale_kernel<float>; break;
    case DType::kBFloat16: kernel = &scale_kernel<__nv_bfloat16>; break;
    case DType::kFloat16: kernel = &scale_kernel<__half>; break;
  }
  const bool by_warp = problem.classes <= 2048;
  const int threads = by_warp ? kWarp : kScaleThreads, rows = kScaleThreads / threads;
  const auto config = configuration(blocks_for(problem.rows, rows, kLossBlocks),
                                    dim3(unsigned(threads), unsigned(rows)), 0, stream);
  return cudaLaunchKernelEx(&config, kernel, problem);
}

}  // namespace gift
