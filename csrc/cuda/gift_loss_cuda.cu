// The CUDA kernels, then their launchers. What is computed of a row is in ../gift_row.h.
//
// A row belongs to a few lanes of a warp, to one warp or to one block:
//
//   several rows a warp          rows of few classes, which share 32-byte sectors: a warp copies a
//                                tile of them to shared memory and back
//   one warp a row, registers    short rows: no barrier, and four rows in flight a block
//   one block a row, on chip     in registers, and longer rows in shared memory
//   one block a row, streamed    still longer rows are read twice, the second time mostly out of L2
//
// Where a warp or a block has a row (blockDim.x threads; blockDim.y rows a block, more than one
// only where a warp has a row), each thread takes packs of 16-byte vectors, turns them into the
// row's sums, and once the coefficients are known turns the same packs into the gradient.
//
// A row for which float (or, where t nearly vanishes, the closed form) is not good enough is done
// again in double by the same threads.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <type_traits>
#include <utility>

#include "gift_loss_cuda.h"

// As CUDA_KERNEL_ASSERT: also in a build with NDEBUG.
#define GIFT_DEVICE_ASSERT(condition)                                                    \
  do {                                                                                   \
    if (!(condition)) __assert_fail(#condition, __FILE__, unsigned(__LINE__), __func__); \
  } while (0)

namespace gift {

// Dynamic shared memory: a row, where the launcher gives enough of it, or each warp's tile.
extern __shared__ uint4 row_memory[];

namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kMaxThreads = 512;
constexpr int kMaxWarps = kMaxThreads / kWarp;
constexpr int kOwnWarps = 4;  // warps a block, where each has a row or a tile of its own

// ---- the storage types -------------------------------------------------------------------------

template <DType>
struct StorageOf;
template <>
struct StorageOf<DType::kFloat64> {
  using type = double;
};
template <>
struct StorageOf<DType::kFloat32> {
  using type = float;
};
template <>
struct StorageOf<DType::kBFloat16> {
  using type = __nv_bfloat16;
};
template <>
struct StorageOf<DType::kFloat16> {
  using type = __half;
};

__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }

__device__ __forceinline__ void narrow(double x, double& to) { to = x; }
__device__ __forceinline__ void narrow(double x, float& to) { to = float(x); }
__device__ __forceinline__ void narrow(double x, __nv_bfloat16& to) {
  to = __float2bfloat16_rn(float(x));
}
__device__ __forceinline__ void narrow(double x, __half& to) { to = __float2half_rn(float(x)); }

// One 32-bit word: a float, or two 16-bit floats.
__device__ __forceinline__ void widen_word(uint32_t word, float (&x)[1], float) {
  x[0] = __uint_as_float(word);
}
__device__ __forceinline__ void widen_word(uint32_t word, float (&x)[2], __nv_bfloat16) {
  x[0] = __uint_as_float(word << 16);
  x[1] = __uint_as_float(word & 0xffff0000u);
}
__device__ __forceinline__ void widen_word(uint32_t word, float (&x)[2], __half) {
  __half2 pair;
  memcpy(&pair, &word, sizeof(word));
  const float2 both = __half22float2(pair);
  x[0] = both.x;
  x[1] = both.y;
}
__device__ __forceinline__ uint32_t narrow_word(const float (&x)[1], float) {
  return __float_as_uint(x[0]);
}
__device__ __forceinline__ uint32_t narrow_word(const float (&x)[2], __nv_bfloat16) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(x[0], x[1]);
  uint32_t word;
  memcpy(&word, &pair, sizeof(word));
  return word;
}
__device__ __forceinline__ uint32_t narrow_word(const float (&x)[2], __half) {
  const __half2 pair = __floats2half2_rn(x[0], x[1]);
  uint32_t word;
  memcpy(&word, &pair, sizeof(word));
  return word;
}

// ---- how the threads of a row share it ---------------------------------------------------------
// In 16-byte vectors. A pack is what a thread takes at a time: as many elements as one vector of
// the narrower type holds, which are several vectors of the wider one, its chunks. A warp's packs
// are one stretch of the row, and chunk c of its lanes is the stretch's c-th run of 32 chunks:
//
//   wider type     chunk c of all lanes is one access of 512 bytes
//   narrower type  so is the pack; each lane then has elements of its neighbours', and they swap
//
// No lane then reads half of a 32-byte sector, as it would with chunks side by side.
template <class Z, class S>
struct Packing {
  static constexpr int kNarrower = sizeof(Z) < sizeof(S) ? sizeof(Z) : sizeof(S);
  static constexpr int kWider = sizeof(Z) < sizeof(S) ? sizeof(S) : sizeof(Z);
  static constexpr int kChunk = 16 / kWider;  // elements
  static constexpr int kChunks = kWider / kNarrower;
  static constexpr int kElements = kChunk * kChunks;
  // Sums and gradients of double take more registers than 512 threads can have.
  static constexpr int kMostThreads = kWider < 8 ? kMaxThreads : kMaxThreads / 2;
  // Packs that a thread takes at once. Held rows: 32 registers of the 128 that a thread of a
  // 512-thread block may have, 24 or 20 where the types differ in size. Twice as many spill (ptxas
  // of CUDA 13.0): the row's end, in double, wants the rest.
  static constexpr int kHeld = 4 / kChunks;
  // Streamed rows, half: their warps are many enough, and their indices of 64 bits.
  static constexpr int kStreamed = kHeld > 1 ? kHeld / 2 : 1;
};

__device__ __forceinline__ bool row_is_one_warp() { return blockDim.x == kWarp; }
__device__ __forceinline__ int lane() { return int(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warp() { return int(threadIdx.x) / kWarp; }

// How many bytes an address lies behind a 16-byte boundary.
__device__ __forceinline__ int past_boundary(const void* address) {
  return int(reinterpret_cast<uintptr_t>(address) % 16);
}

// 16 bytes from `shift` bytes into `vector` on, the last `shift` of them from the vector behind.
// `shift` is a multiple of an element's size, 2 at least.
__device__ __forceinline__ uint4 realigned(uint4 vector, uint4 behind, int shift) {
  uint32_t w[8] = {vector.x, vector.y, vector.z, vector.w, behind.x, behind.y, behind.z, behind.w};
  if (shift & 8) {
#pragma unroll
    for (int i = 0; i < 6; ++i) w[i] = w[i + 2];
  }
  if (shift & 4) {
#pragma unroll
    for (int i = 0; i < 5; ++i) w[i] = w[i + 1];
  }
  const unsigned bytes = shift & 2 ? 0x5432 : 0x3210;
  return make_uint4(__byte_perm(w[0], w[1], bytes), __byte_perm(w[1], w[2], bytes),
                    __byte_perm(w[2], w[3], bytes), __byte_perm(w[3], w[4], bytes));
}

template <class T, int kChunk, int kChunks>
struct Pack {
  static constexpr int kChunkWords = kChunk * int(sizeof(T)) / 4;
  static constexpr int kVectors = kChunkWords * kChunks / 4;
  static constexpr bool kNarrower = kVectors < kChunks;
  // The lane that has the vector behind one of this lane's is so many lanes on.
  static constexpr int kLanesOn = kNarrower ? kChunks : 1;
  uint32_t words[kChunkWords * kChunks];

  __device__ __forceinline__ uint4 vector(int i) const {
    return make_uint4(words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]);
  }
  __device__ __forceinline__ void set_vector(int i, uint4 vector) {
    words[4 * i] = vector.x;
    words[4 * i + 1] = vector.y;
    words[4 * i + 2] = vector.z;
    words[4 * i + 3] = vector.w;
  }

  // Which of the row's vectors this lane moves for its pack: its own, or those it swaps.
  template <class Index>
  static __device__ __forceinline__ Index index(Index pack, int i) {
    const Index stretch = pack - lane();
    if (kNarrower) return stretch + kWarp / kChunks * (lane() % kChunks) + lane() / kChunks;
    return stretch * kChunks + kWarp * i + lane();
  }

  // In two steps, so that the first one's loads are all on their way before the second waits. All
  // lanes of a warp take part in both, also those beyond the row's last pack: they get zeros.
  template <class Index>
  __device__ __forceinline__ void load(const T* first, Index pack, Index packs) {
    const char* const boundary = reinterpret_cast<const char*>(first) - past_boundary(first);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const Index at = index(pack, i);
      set_vector(i, at < packs * kVectors ? reinterpret_cast<const uint4*>(boundary)[at]
                                          : make_uint4(0, 0, 0, 0));
    }
  }
  template <class Index>
  __device__ __forceinline__ void arrange(const T* first, Index pack, Index packs) {
    const int shift = past_boundary(first);
    if (shift != 0) {  // the same for all threads of a row
      const char* const boundary = reinterpret_cast<const char*>(first) - shift;
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        const Index at = index(pack, i);
        const uint4 own = vector(i);
        uint4 behind = make_uint4(__shfl_down_sync(kAllLanes, own.x, kLanesOn),
                                  __shfl_down_sync(kAllLanes, own.y, kLanesOn),
                                  __shfl_down_sync(kAllLanes, own.z, kLanesOn),
                                  __shfl_down_sync(kAllLanes, own.w, kLanesOn));
        const bool no_lane_has_it = lane() >= kWarp - kLanesOn || at + 1 == packs * kVectors;
        if (at < packs * kVectors && no_lane_has_it)
          behind = reinterpret_cast<const uint4*>(boundary)[at + 1];
        set_vector(i, realigned(own, behind, shift));
      }
    }
    swap();
  }

  // `first` is at a 16-byte boundary.
  template <class Index>
  __device__ __forceinline__ void store(T* first, Index pack, Index packs) {
    swap();
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const Index at = index(pack, i);
      if (at < packs * kVectors) reinterpret_cast<uint4*>(first)[at] = vector(i);
    }
  }

  // To and from shared memory, vectors `step` apart.
  __device__ __forceinline__ void keep(uint4* to, int64_t step) const {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) to[i * step] = vector(i);
  }
  __device__ __forceinline__ void get(const uint4* from, int64_t step) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) set_vector(i, from[i * step]);
  }

  template <class A>
  __device__ __forceinline__ void widen_chunk(int c, A (&x)[kChunk]) const {
    const uint32_t* const chunk = words + c * kChunkWords;
    if constexpr (sizeof(T) == 8) {
#pragma unroll
      for (int e = 0; e < kChunk; ++e)
        x[e] = __hiloint2double(int(chunk[2 * e + 1]), int(chunk[2 * e]));
    } else {
      constexpr int kPerWord = 4 / sizeof(T);
#pragma unroll
      for (int i = 0; i < kChunkWords; ++i) {
        float few[kPerWord];
        widen_word(chunk[i], few, T());
#pragma unroll
        for (int e = 0; e < kPerWord; ++e) x[i * kPerWord + e] = few[e];
      }
    }
  }

  template <class A>
  __device__ __forceinline__ void narrow_chunk(int c, const A (&x)[kChunk]) {
    uint32_t* const chunk = words + c * kChunkWords;
    if constexpr (sizeof(T) == 8) {
#pragma unroll
      for (int e = 0; e < kChunk; ++e) {
        chunk[2 * e] = uint32_t(__double2loint(x[e]));
        chunk[2 * e + 1] = uint32_t(__double2hiint(x[e]));
      }
    } else {
      constexpr int kPerWord = 4 / sizeof(T);
#pragma unroll
      for (int i = 0; i < kChunkWords; ++i) {
        float few[kPerWord];
#pragma unroll
        for (int e = 0; e < kPerWord; ++e) few[e] = float(x[i * kPerWord + e]);
        chunk[i] = narrow_word(few, T());
      }
    }
  }

 private:
  // The narrower type, between the vectors and the lanes' own chunks, either way: a vector holds
  // one chunk of each of kChunks neighbours, which transpose what they have.
  __device__ __forceinline__ void swap() {
    if constexpr (kNarrower) {
#pragma unroll
      for (int step = 1; step < kChunks; step *= 2) {
        const bool upper = (lane() & step) != 0;
#pragma unroll
        for (int c = 0; c < kChunks; ++c) {
          if (c & step) continue;
#pragma unroll
          for (int i = 0; i < kChunkWords; ++i) {
            uint32_t& low = words[c * kChunkWords + i];
            uint32_t& high = words[(c | step) * kChunkWords + i];
            const uint32_t received = __shfl_xor_sync(kAllLanes, upper ? low : high, step);
            low = upper ? received : low;
            high = upper ? high : received;
          }
        }
      }
    }
  }
};

// A row cut into `head` elements, whole packs of V, and a tail. The row's first threads take the
// head, one element each, the next ones the tail: at most 15 of either, so that a warp is enough.
template <int V, class Index>
struct Cut {
  static constexpr int kMostEdge = kWarp / 2;
  static_assert(2 * V <= kMostEdge);
  Index n;
  int head, tail;
  Index packs;

  // At a boundary of this array.
  template <class T>
  __device__ __forceinline__ Cut(const T* row, int64_t n_) : n(Index(n_)) {
    constexpr unsigned kPackBytes = V * sizeof(T);  // and not 16, for the narrower array's sake
    const int past = int(reinterpret_cast<uintptr_t>(row) % kPackBytes) / int(sizeof(T));
    head = past == 0 ? 0 : V - past;
    divide(0);
  }

  // Leaves room in head and tail for the vectors that `row`'s packs are put together from, where
  // it lies differently: they reach beyond the packs, and must not reach beyond the row.
  template <class T>
  __device__ __forceinline__ int room_for(const T* row) {
    const int shift = past_boundary(row + head) / int(sizeof(T));
    if (head < shift) head += V;
    return shift == 0 ? 0 : 16 / int(sizeof(T)) - shift;
  }

  __device__ __forceinline__ void divide(int least_tail) {
    if (head > n) head = int(n);
    packs = n - head < least_tail ? 0 : (n - head - least_tail) / V;
    tail = int(n - head - packs * V);
  }

  // Where the packs end.
  __device__ __forceinline__ Index end() const { return head + packs * V; }

  // The element outside of packs that this thread takes, or -1.
  __device__ __forceinline__ Index edge() const {
    const int i = int(threadIdx.x);
    if (i < head) return i;
    return i >= kMostEdge && i < kMostEdge + tail ? end() + (i - kMostEdge) : -1;
  }
};

// ---- what the threads of a row tell each other -------------------------------------------------

// gift_row.h's coefficients, as the sweep uses them.
template <class A>
struct Linear {
  A other, own, all;
  A at_target;  // the gradient's value there
};

template <class A>
struct RowResult {
  bool again;  // A was not good enough for this row: row_in_double() does it again
  A loss;
  Linear<A> z, s;
  float z_scale, s_scale;  // inverse powers of two of float16 gradients
};

// What the threads of a block share. One row a block uses all of it, rows of one warp no sums.
struct Exchange {
  double partial[5][kMaxWarps];
  double largest[kMaxWarps];
  double losses[kOwnWarps];  // of the rows that this block has done
  bool last_block;
};
template <class A>
struct Shared : Exchange {
  RowResult<A> result[kOwnWarps];
};

template <class T>
__device__ __forceinline__ T sum_of_warp(T x) {
#pragma unroll
  for (int other = kWarp / 2; other > 0; other /= 2) x += __shfl_xor_sync(kAllLanes, x, other);
  return x;
}

__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double larger(double a, double b) { return fmax(a, b); }

template <class T>
__device__ __forceinline__ T largest_of_warp(T x) {
#pragma unroll
  for (int other = kWarp / 2; other > 0; other /= 2)
    x = larger(x, __shfl_xor_sync(kAllLanes, x, other));
  return x;
}

// Of what each warp of the block left, this lane's share.
__device__ __forceinline__ double of_warps(const double (&left)[kMaxWarps], double otherwise) {
  return lane() < int(blockDim.x) / kWarp ? left[lane()] : otherwise;
}

// The row's sums in double: in its first warp, or in all of them. A is float only inside a warp,
// where five additions of a tree follow each other.
template <int count, class A>
__device__ __forceinline__ void sum_over_row(const A (&part)[count], double (&sum)[count],
                                             bool in_all_warps, Exchange& shared) {
#pragma unroll
  for (int i = 0; i < count; ++i) sum[i] = double(sum_of_warp(part[i]));
  if (row_is_one_warp()) return;
  if (lane() == 0) {
#pragma unroll
    for (int i = 0; i < count; ++i) shared.partial[i][warp()] = sum[i];
  }
  __syncthreads();
  if (in_all_warps || warp() == 0) {
#pragma unroll
    for (int i = 0; i < count; ++i) sum[i] = sum_of_warp(of_warps(shared.partial[i], 0.0));
  }
  if (in_all_warps) __syncthreads();  // partial may be written again
}

template <class A>
__device__ __forceinline__ A largest_of_row(A x, Exchange& shared) {
  x = largest_of_warp(x);
  if (row_is_one_warp()) return x;
  if (lane() == 0) shared.largest[warp()] = double(x);
  __syncthreads();
  return largest_of_warp(A(of_warps(shared.largest, -INFINITY)));
}

// Whose row it is, for row_in_double(): a warp's or a block's,
struct RowOfBlock {
  Exchange& shared;

  __device__ __forceinline__ int64_t first() const { return threadIdx.x; }
  __device__ __forceinline__ int64_t step() const { return blockDim.x; }
  __device__ __forceinline__ double largest(double x) const { return largest_of_row(x, shared); }
  template <int count>
  __device__ __forceinline__ void sum(const double (&part)[count], double (&sum)[count]) const {
    sum_over_row(part, sum, true, shared);
  }
  __device__ __forceinline__ void all_have_read() const {}  // gradients lie elsewhere
};

// or that of `lanes` neighbours, a power of two of them. `together`: the lanes of the warp that
// take part, all or those of one row.
struct RowOfLanes {
  int lanes;
  unsigned together;

  __device__ __forceinline__ int first() const { return lane() & (lanes - 1); }
  __device__ __forceinline__ int step() const { return lanes; }
  template <class A>
  __device__ __forceinline__ A largest(A x) const {
#pragma unroll 1
    for (int other = lanes / 2; other > 0; other /= 2)
      x = larger(x, __shfl_xor_sync(together, x, other));
    return x;
  }
  template <int count, class A>
  __device__ __forceinline__ void sum(const A (&part)[count], double (&sum)[count]) const {
    A x[count];
#pragma unroll
    for (int i = 0; i < count; ++i) x[i] = part[i];
#pragma unroll 1
    for (int other = lanes / 2; other > 0; other /= 2) {
#pragma unroll
      for (int i = 0; i < count; ++i) x[i] += __shfl_xor_sync(together, x[i], other);
    }
#pragma unroll
    for (int i = 0; i < count; ++i) sum[i] = double(x[i]);
  }
  __device__ __forceinline__ void all_have_read() const { __syncwarp(together); }
};

// ---- one row -----------------------------------------------------------------------------------

struct Options {
  SmoothedLabel hard_label;
  double gamma;
  double temperature;  // 0: the soft labels are taken as they are
  double weight;       // of every row
};

template <class Z, class S>
struct RowMemory {
  const Z* z;  // [C]
  const S* s;  // [C]
  Z* dz;       // [C] or null
  S* ds;       // [C] or null
  int64_t n;   // C
  int64_t target;
};

// What sums and gradients are computed in.
template <class Z, class S>
using Accumulator =
    std::conditional_t<std::is_same_v<Z, double> || std::is_same_v<S, double>, double, float>;

template <class T>
constexpr bool kIsHalf = std::is_same_v<T, __half>;

// `own_at` and `other_at`: the two arrays' values at the target.
template <class A>
__device__ __forceinline__ Linear<A> linear(const GradientCoefficients& k, double scale,
                                            double other_at, double own_at) {
  const double at_target = other_at * k.other + own_at * k.own + (k.all + k.target);
  return {A(k.other * scale), A(k.own * scale), A(k.all * scale), A(at_target * scale)};
}

// From the sums of a row to all that is written of it.
template <class A, class Z, class S>
__device__ __forceinline__ RowResult<A> result_of(const RowSums& sums, InverseNorm s_norm,
                                                  const Row& k, const RowMemory<Z, S>& row,
                                                  const Options& options) {
  const SmoothedLabel h = options.hard_label;
  const double gamma = options.gamma, weight = options.weight;
  RowResult<A> result = {};
  result.loss = A(1.0 - k.cosine);
  if (row.dz != nullptr) {
    const double scale = kIsHalf<Z> ? half_gradient_factor(weight * k.z.value) : 1.0;
    result.z = linear<A>(logits_gradient(k, h, gamma, weight), scale, sums.s_at, sums.z_at);
    result.z_scale = half_logits_unit(k, scale);
  }
  if (row.ds != nullptr) {
    const double steepest = options.temperature > 0.0 ? 1.0 / options.temperature : 1.0;
    const double bound = steepest * weight * (1.0 - gamma) * k.s.value * k.t.value;
    const double scale = kIsHalf<S> ? half_gradient_factor(bound) : 1.0;
    result.s =
        linear<A>(soft_labels_gradient(sums, k, h, gamma, weight), scale, sums.z_at, sums.s_at);
    if (options.temperature > 0.0) result.s.at_target *= A(sums.s_at * steepest);
    result.s_scale = half_soft_labels_unit(k, scale);
  }
  return result;
}

// Whether the sums are good enough: those of double unless t nearly vanishes; those of float only
// at ordinary norms, as rows_kernel.h has it: others leave float no room for products and digits.
template <class A>
__device__ __forceinline__ bool good_enough(const RowSums& sums, const RowProducts& products,
                                            const Row& row) {
  if (std::is_same_v<A, double>) return !(products.tt < kCancellation);
  const auto ordinary = [](InverseNorm norm) { return norm.value >= 1e-12 && norm.value <= 1e12; };
  return products.tt >= kCancellation && isfinite(sums.zs) && ordinary(row.z) && ordinary(row.s);
}

__device__ __forceinline__ float exp_of(float x) { return expf(x); }
__device__ __forceinline__ double exp_of(double x) { return exp(x); }

// The row in double, element by element and out of memory again: for rows that are not good enough
// otherwise. Its loops are not unrolled, so as to need no more registers than the usual rows.
template <class Z, class S, class Threads>
__device__ __forceinline__ RowResult<double> row_in_double(const RowMemory<Z, S>& row,
                                                           const Options& options,
                                                           const Threads& threads) {
  const bool softmax = options.temperature > 0.0;
  const double inverse = softmax ? fmin(1.0 / options.temperature, 1e308) : 1.0;  // 0 * inf: NaN
  const double gamma = options.gamma;
  const int64_t first = threads.first(), step = threads.step();

  double largest = -INFINITY;
  if (softmax) {
#pragma unroll 1
    for (int64_t j = first; j < row.n; j += step) largest = fmax(largest, double(widen(row.s[j])));
    largest = threads.largest(largest);
  }
  const auto z_of = [&](int64_t j) { return double(widen(row.z[j])); };
  const auto s_of = [&](int64_t j) {
    const double s = double(widen(row.s[j]));
    return softmax ? exp_of((s - largest) * inverse) : s;
  };

  double part[5] = {}, sum[5];
#pragma unroll 1
  for (int64_t j = first; j < row.n; j += step) {
    const double z = z_of(j), s = s_of(j);
    part[0] += z;
    part[1] += s;
    part[2] += z * z;
    part[3] += s * s;
    part[4] += z * s;
  }
  threads.sum(part, sum);
  const RowSums sums = {sum[0], sum[1], sum[2], sum[3], sum[4], z_of(row.target), s_of(row.target)};
  const InverseNorm s_norm = inverse_norm(sums.ss, kNormalizeEps);
  RowProducts products = row_products(sums, s_norm, options.hard_label, gamma);
  if (products.tt < kCancellation) {
    // t nearly vanishes. The target last, so that its part of the hard label cannot cancel again.
    const RefinedLabel t = refined_label(s_norm, options.hard_label, gamma);
    double refined_part[2] = {}, refined[2];
#pragma unroll 1
    for (int64_t j = first; j < row.n; j += step) {
      const double x = j == row.target ? 0.0 : s_of(j) * t.scale + t.base;
      refined_part[0] += z_of(j) * x;
      refined_part[1] += x * x;
    }
    threads.sum(refined_part, refined);
    const double x = sums.s_at * t.scale + (t.base + t.on_target);
    products = {refined[0] + sums.z_at * x, refined[1] + x * x};
  }
  const RowResult<double> result =
      result_of<double>(sums, s_norm, finish_row(sums, s_norm, products), row, options);

  threads.all_have_read();
#pragma unroll 1
  for (int64_t j = first; j < row.n; j += step) {
    const double z = z_of(j), s = s_of(j);
    if (row.dz != nullptr) {
      const double x = s * result.z.other + (z * result.z.own + result.z.all);
      narrow(j == row.target ? result.z.at_target : x, row.dz[j]);
    }
    if (row.ds != nullptr) {
      double x = z * result.s.other + (s * result.s.own + result.s.all);
      if (softmax) x *= s * inverse;
      narrow(j == row.target ? result.s.at_target : x, row.ds[j]);
    }
  }
  return result;
}

template <class A>
struct Sums {
  A sum[5] = {};

  __device__ __forceinline__ void add(A z, A s) {
    sum[0] += z;
    sum[1] += s;
    sum[2] += z * z;
    sum[3] += s * s;
    sum[4] += z * s;
  }
};

// Cut at the boundaries of what is written, so that stores need no realigning; the gradients begin
// at such boundaries and are contiguous, so the narrower one's are the other's too.
template <class Index, class Z, class S>
__device__ __forceinline__ auto cut_row(const RowMemory<Z, S>& row) {
  using RowCut = Cut<Packing<Z, S>::kElements, Index>;
  const bool at_dz = row.dz != nullptr && (sizeof(Z) <= sizeof(S) || row.ds == nullptr);
  RowCut cut = at_dz               ? RowCut(row.dz, row.n)
               : row.ds != nullptr ? RowCut(row.ds, row.n)
                                   : RowCut(row.z, row.n);
  const int z_tail = cut.room_for(row.z), s_tail = cut.room_for(row.s);
  cut.divide(z_tail > s_tail ? z_tail : s_tail);
  return cut;
}

// The row, read once and held in registers; `streamed`: it is longer than that, and read twice (its
// soft labels three times with a softmax) unless `kept`, shared memory for all of it, is given.
template <class Z, class S, bool can_softmax, bool streamed>
__device__ __forceinline__ RowResult<Accumulator<Z, S>> row_in_packs(
    const RowMemory<Z, S>& row, const Options& options, uint4* kept,
    Shared<Accumulator<Z, S>>& shared) {
  using A = Accumulator<Z, S>;
  using P = Packing<Z, S>;
  // The kernels in double are not worth two versions.
  const bool softmax = can_softmax && (std::is_same_v<A, float> || options.temperature > 0.0);
  constexpr int kPacks = streamed ? P::kStreamed : P::kHeld, kChunk = P::kChunk,
                kChunks = P::kChunks;
  using Index = std::conditional_t<streamed, int64_t, int>;  // what is held is short
  const auto cut = cut_row<Index>(row);
  const Index edge = cut.edge();
  const int threads = int(blockDim.x);
  const Z* const z_packs = row.z + cut.head;
  const S* const s_packs = row.s + cut.head;

  Pack<Z, kChunk, kChunks> z[kPacks];
  Pack<S, kChunk, kChunks> s[kPacks];
  // Of this thread's k-th pack of a batch: whether its warp has any, and where its chunks begin.
  const auto exists = [&](Index begin, int k) { return begin + k * threads - lane() < cut.packs; };
  const auto chunk_begin = [&](Index begin, int k, int c) {
    return cut.head + ((begin + k * threads - lane()) * kChunks + kWarp * c + lane()) * kChunk;
  };
  const auto load = [&](auto& packs, const auto* first, Index begin) {
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
      if (exists(begin, k)) packs[k].load(first, begin + k * threads, cut.packs);
  };
  const auto arrange = [&](auto& packs, const auto* first, Index begin) {
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
      if (exists(begin, k)) packs[k].arrange(first, begin + k * threads, cut.packs);
  };
  const auto load_both = [&](Index begin) {
    load(z, z_packs, begin);
    load(s, s_packs, begin);
    arrange(z, z_packs, begin);
    arrange(s, s_packs, begin);
  };
  // A streamed row that fits into shared memory is put there by the first sweep; a thread reads
  // back what it wrote itself, so no barrier. A pack's vectors lie apart: no bank conflict.
  const Index slots = (cut.packs + kWarp - 1) / kWarp * kWarp;
  uint4* const kept_s = kept + (kept != nullptr ? slots * z[0].kVectors : 0);
  const auto keep = [&](Index begin) {
    if (kept == nullptr) return;
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      if (!exists(begin, k)) break;
      z[k].keep(kept + begin + k * threads, slots);
      s[k].keep(kept_s + begin + k * threads, slots);
    }
  };
  const auto load_again = [&](Index begin) {
    if (!streamed) return;
    if (kept == nullptr) {
      load_both(begin);
      return;
    }
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      if (!exists(begin, k)) break;
      z[k].get(kept + begin + k * threads, slots);
      s[k].get(kept_s + begin + k * threads, slots);
    }
  };
  // body(begin): the packs begin, begin + threads, ... of this thread, kPacks of them at most.
  const auto each_batch = [&](const auto& body) {
    if (!streamed) {
      body(Index(threadIdx.x));
    } else {
      for (Index begin = threadIdx.x; exists(begin, 0); begin += kPacks * threads) body(begin);
    }
  };

  const A z_edge = edge >= 0 ? A(widen(row.z[edge])) : A(0);
  const A s_edge_stored = edge >= 0 ? A(widen(row.s[edge])) : A(0);
  if (!streamed) load_both(Index(threadIdx.x));
  // The coefficients are some hundred operations in double: the first warp's, for all.
  const bool computes_result = row_is_one_warp() || warp() == 0;
  const A z_at = computes_result ? A(widen(row.z[row.target])) : A(0);
  const A s_at_stored = computes_result ? A(widen(row.s[row.target])) : A(0);

  A largest = -INFINITY, inverse = 1;
  if (softmax) {
    inverse = A(fmin(1.0 / options.temperature, std::is_same_v<A, double> ? 1e308 : 3e38));
    if (edge >= 0) largest = s_edge_stored;
    each_batch([&](Index begin) {
      if (streamed) {
        load_both(begin);
        keep(begin);
      }
#pragma unroll
      for (int k = 0; k < kPacks; ++k) {
        if (!exists(begin, k)) break;
#pragma unroll
        for (int c = 0; c < kChunks; ++c) {
          if (chunk_begin(begin, k, c) >= cut.end()) continue;
          A x[kChunk];
          s[k].widen_chunk(c, x);
#pragma unroll
          for (int e = 0; e < kChunk; ++e) largest = larger(largest, x[e]);
        }
      }
    });
    largest = largest_of_row(largest, shared);
  }
  const auto label = [&](A x) { return softmax ? exp_of((x - largest) * inverse) : x; };
  const A s_edge = label(s_edge_stored);

  {
    RowResult<A> result = {};
    double sum[5];
    Sums<A> part;
    if (edge >= 0) part.add(z_edge, s_edge);
    const auto add_batch = [&](Index begin) {
#pragma unroll
      for (int k = 0; k < kPacks; ++k) {
        if (!exists(begin, k)) break;
#pragma unroll
        for (int c = 0; c < kChunks; ++c) {
          if (chunk_begin(begin, k, c) >= cut.end()) continue;
          A a[kChunk], b[kChunk];
          z[k].widen_chunk(c, a);
          s[k].widen_chunk(c, b);
#pragma unroll
          for (int e = 0; e < kChunk; ++e) part.add(a[e], label(b[e]));
        }
      }
    };
    if (!streamed) {
      add_batch(Index(threadIdx.x));
      sum_over_row(part.sum, sum, false, shared);
    } else {
      // Float over at most kPacks packs: sums of a long constant row would drift otherwise.
      double total[5] = {};
      each_batch([&](Index begin) {
        if (softmax) {
          load_again(begin);
        } else {
          load_both(begin);
          keep(begin);
        }
        add_batch(begin);
#pragma unroll
        for (int i = 0; i < 5; ++i) total[i] += double(part.sum[i]);
        part = {};
      });
#pragma unroll
      for (int i = 0; i < 5; ++i) total[i] += double(part.sum[i]);
      sum_over_row(total, sum, false, shared);
    }
    if (computes_result) {
      const RowSums sums = {sum[0], sum[1], sum[2], sum[3], sum[4], z_at, label(s_at_stored)};
      const InverseNorm s_norm = inverse_norm(sums.ss, kNormalizeEps);
      const RowProducts products = row_products(sums, s_norm, options.hard_label, options.gamma);
      const Row k = finish_row(sums, s_norm, products);
      result = result_of<A>(sums, s_norm, k, row, options);
      result.again = !good_enough<A>(sums, products, k);
    }
    // By way of shared memory, also inside a warp: not all of it is needed in registers at once.
    if (row_is_one_warp()) __syncwarp();  // the last row's has been read
    if (threadIdx.x == 0) shared.result[threadIdx.y] = result;
    if (row_is_one_warp())
      __syncwarp();
    else
      __syncthreads();
  }
  const RowResult<A>& result = shared.result[threadIdx.y];
  if (result.again) return result;

  // k: the gradient's value at the target; gradient(z_j, s_j): elsewhere.
  const auto write = [&](auto* gradient_row, const Linear<A>& k, const auto& gradient) {
    Pack<std::remove_pointer_t<decltype(gradient_row)>, kChunk, kChunks> out;
    each_batch([&](Index begin) {
      load_again(begin);
#pragma unroll
      for (int i = 0; i < kPacks; ++i) {
        if (!exists(begin, i)) break;
#pragma unroll
        for (int c = 0; c < kChunks; ++c) {
          A a[kChunk], b[kChunk];
          z[i].widen_chunk(c, a);
          s[i].widen_chunk(c, b);
#pragma unroll
          for (int e = 0; e < kChunk; ++e) a[e] = gradient(a[e], label(b[e]));
          const Index target = Index(row.target) - chunk_begin(begin, i, c);
          // Without a branch where lanes swap next, for which they have to be together.
          if (kChunks > 1 || (target >= 0 && target < kChunk)) {
#pragma unroll
            for (int e = 0; e < kChunk; ++e) a[e] = e == target ? k.at_target : a[e];
          }
          out.narrow_chunk(c, a);
        }
        out.store(gradient_row + cut.head, begin + i * threads, cut.packs);
      }
    });
  };
  const auto z_gradient = [&](A a, A b) {
    return b * result.z.other + (a * result.z.own + result.z.all);
  };
  const auto s_gradient = [&](A a, A b) {
    const A x = a * result.s.other + (b * result.s.own + result.s.all);
    return softmax ? x * (b * inverse) : x;
  };
  if (row.dz != nullptr) write(row.dz, result.z, z_gradient);
  if (row.ds != nullptr) write(row.ds, result.s, s_gradient);
  // Last, since some lanes go here alone, and above they have to be together.
  if (edge >= 0) {
    const bool at_target = edge == Index(row.target);
    if (row.dz != nullptr)
      narrow(at_target ? result.z.at_target : z_gradient(z_edge, s_edge), row.dz[edge]);
    if (row.ds != nullptr)
      narrow(at_target ? result.s.at_target : s_gradient(z_edge, s_edge), row.ds[edge]);
  }
  return result;
}

// ---- several rows of a warp --------------------------------------------------------------------
// A tile: consecutive rows of a matrix without gaps, one stretch of memory. Once it is in shared
// memory a row has 1, 2, 4, 8 or 16 lanes, so that a warp's tile is 32, 16, 8, 4 or 2 rows: as many
// as take at most kTileBytes, of logits and soft labels. So much is long beside the sectors that
// two tiles share, and a block's 16 kB leave an SM as many warps as its registers do. Every lane
// computes coefficients, so that a tile takes some 800 instructions beside what its elements take
// (docs/gpu.md): for 32 rows next to nothing, for 2 as many as a row of a warp's.
constexpr int kTileBytes = 4096;
constexpr int kMostLanes = 16;

// `row_bytes` of logits and soft labels; 0: a row is too long.
int lanes_of_tile(int64_t row_bytes) {
  for (int lanes = 1; lanes <= kMostLanes; lanes *= 2)
    if (kWarp / lanes * row_bytes <= kTileBytes) return lanes;
  return 0;
}

// Shared memory for `elements` of T, wherever they begin in a vector of 16 bytes.
template <class T>
GIFT_HOST_DEVICE int tile_vectors(int elements) {
  return (elements * int(sizeof(T)) + 15) / 16 + 1;
}

template <class T>
struct Tile {
  static constexpr int V = 16 / sizeof(T);
  // Vectors that a lane loads at a time: all that a tile of two types of one size has for it.
  static constexpr int kBatch = 4;
  uint4* vectors;  // in shared memory: as they lie in the matrix, at its own 16-byte boundaries
  const T* first;  // [n] in the matrix
  int n, past;     // the tile begins so many elements into the first vector
  int begin, end;  // of the vectors, those that reach beyond neither end of the matrix

  // `before` and `behind`: the elements of the matrix up to the tile, and from its begin on.
  __device__ __forceinline__ Tile(uint4* vectors_, const T* first_, int n_, int64_t before,
                                  int64_t behind)
      : vectors(vectors_), first(first_), n(n_), past(past_boundary(first_) / int(sizeof(T))) {
    const int count = (past + n + V - 1) / V;
    begin = before < past ? 1 : 0;
    end = count * V - past > behind ? count - 1 : count;
  }

  __device__ __forceinline__ T* element(int i) const {
    return reinterpret_cast<T*>(vectors) + past + i;
  }

  // All of a batch's loads are on their way before the first is waited for.
  __device__ __forceinline__ void fetch(int at, uint4 (&held)[kBatch]) const {
    const auto* const matrix = reinterpret_cast<const uint4*>(first - past);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int v = at + i * kWarp;
      held[i] = v >= begin && v < end ? matrix[v] : make_uint4(0, 0, 0, 0);
    }
  }
  __device__ __forceinline__ void put(int at, const uint4 (&held)[kBatch]) const {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int v = at + i * kWarp;
      if (v >= begin && v < end) vectors[v] = held[i];
    }
  }
  // The vectors that reach beyond the matrix, an element a lane and zeros outside of the tile.
  __device__ __forceinline__ void copy_ends() const {
    const int v = lane() < kWarp / 2 ? 0 : (past + n - 1) / V;
    const int i = v * V + lane() % (kWarp / 2) - past;
    if ((v >= begin && v < end) || i >= v * V + V - past) return;
    if (i >= 0 && i < n) {
      *element(i) = first[i];
    } else {
      narrow(0.0, *element(i));
    }
  }

  // The tile's gradient, whose rows may begin at another place in a vector than the input's.
  __device__ __forceinline__ void store(T* to) const {
    const Cut<V, int> cut(to, n);
    const int shift = past + cut.head, skipped = shift / V, bytes = shift % V * int(sizeof(T));
#pragma unroll 1
    for (int v = lane(); v < cut.packs; v += kWarp) {
      uint4 vector = vectors[skipped + v];
      if (bytes != 0) vector = realigned(vector, vectors[skipped + v + 1], bytes);
      reinterpret_cast<uint4*>(to + cut.head)[v] = vector;
    }
    const int edge = cut.edge();
    if (edge >= 0) to[edge] = *element(edge);
  }
};

// A row in shared memory, gradients in place of the inputs. All lanes of a warp call it together.
// `valid`: this lane has a row, and it is not ignored. `skew`: the element that the row's first
// lane begins with.
template <class Z, class S>
__device__ __forceinline__ RowResult<double> row_of_lanes(const RowMemory<Z, S>& row, bool valid,
                                                          int lanes, int skew,
                                                          const Options& options) {
  using A = Accumulator<Z, S>;
  constexpr int kBatch = std::is_same_v<A, float> ? 4 : 2;
  const bool softmax = options.temperature > 0.0;
  const int n = valid ? int(row.n) : 0;
  const RowOfLanes own = {lanes, kAllLanes};

  A largest = -INFINITY, inverse = 1;
  const auto label = [&](A x) { return softmax ? exp_of((x - largest) * inverse) : x; };
  // body(j, z_j, s_j), of this lane's share of the row: kBatch loads of either before the first is
  // waited for, and what is left one by one.
  const auto few = [&](auto count, int at, const auto& body) {
    constexpr int kCount = decltype(count)::value;
    int j[kCount];
    A z[kCount], s[kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      j[i] = at + i * lanes + skew;
      if (j[i] >= n) j[i] -= n;
      z[i] = A(widen(row.z[j[i]]));
      s[i] = A(widen(row.s[j[i]]));
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) body(j[i], z[i], s[i]);
  };
  const auto each = [&](const auto& body) {
    int at = own.first();
#pragma unroll 1
    for (; at + (kBatch - 1) * lanes < n; at += kBatch * lanes)
      few(std::integral_constant<int, kBatch>(), at, body);
#pragma unroll 1
    for (; at < n; at += lanes) few(std::integral_constant<int, 1>(), at, body);
  };

  if (softmax) {
    inverse = A(fmin(1.0 / options.temperature, std::is_same_v<A, double> ? 1e308 : 3e38));
    each([&](int, A, A s) { largest = larger(largest, s); });
    largest = own.largest(largest);
  }
  Sums<A> part;
  each([&](int, A z, A s) { part.add(z, label(s)); });
  const A z_at = A(widen(row.z[row.target])), s_at = label(A(widen(row.s[row.target])));
  double sum[5];
  own.sum(part.sum, sum);
  const RowSums sums = {sum[0], sum[1], sum[2], sum[3], sum[4], z_at, s_at};
  const InverseNorm s_norm = inverse_norm(sums.ss, kNormalizeEps);
  const RowProducts products = row_products(sums, s_norm, options.hard_label, options.gamma);
  const Row k = finish_row(sums, s_norm, products);
  own.all_have_read();
  if (!valid) return {};
  if (!good_enough<A>(sums, products, k)) {
    const unsigned of_row = ((1u << lanes) - 1) << (lane() - own.first());
    return row_in_double(row, options, RowOfLanes{lanes, of_row});
  }
  const RowResult<A> result = result_of<A>(sums, s_norm, k, row, options);
  each([&](int j, A z, A stored) {
    const A s = label(stored);
    const bool at_target = j == int(row.target);
    if (row.dz != nullptr) {
      const A x = s * result.z.other + (z * result.z.own + result.z.all);
      narrow(at_target ? result.z.at_target : x, row.dz[j]);
    }
    if (row.ds != nullptr) {
      A x = z * result.s.other + (s * result.s.own + result.s.all);
      if (softmax) x *= s * inverse;
      narrow(at_target ? result.s.at_target : x, row.ds[j]);
    }
  });
  RowResult<double> usual = {};
  usual.loss = result.loss;
  usual.z_scale = result.z_scale;
  usual.s_scale = result.s_scale;
  return usual;
}

template <class T>
__device__ __forceinline__ void write_zeros(T* row, int64_t n) {
  constexpr int V = 16 / sizeof(T);
  const Cut<V, int64_t> cut(row, n);
  for (int64_t i = threadIdx.x; i < cut.packs; i += blockDim.x)
    reinterpret_cast<uint4*>(row + cut.head)[i] = make_uint4(0, 0, 0, 0);
  const int64_t edge = cut.edge();
  if (edge >= 0) narrow(0.0, row[edge]);
}

// ---- the kernels -------------------------------------------------------------------------------

__device__ __forceinline__ int64_t integer_at(const void* array, bool is_int64, int64_t i) {
  return is_int64 ? static_cast<const int64_t*>(array)[i]
                  : int64_t(static_cast<const int32_t*>(array)[i]);
}

// Before the rows: how many of them are valid, and no block is done.
__global__ void __launch_bounds__(256, 1)  // without the 1, ptxas of CUDA 13.0 spills for sm_100
    count_kernel(int64_t rows,
                 const void* __restrict__ target,  // [N] of int64_t or int32_t
                 int64_t target_stride, bool target_is_int64, int64_t ignore_index,
                 int64_t* __restrict__ valid,  // [gridDim.x]
                 int* __restrict__ done) {
  __shared__ int64_t counts[256 / kWarp];
  int64_t count = 0;
  for (int64_t row = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; row < rows;
       row += int64_t(gridDim.x) * blockDim.x)
    count += integer_at(target, target_is_int64, row * target_stride) != ignore_index;
  count = sum_of_warp(count);
  if (lane() == 0) counts[warp()] = count;
  __syncthreads();
  if (threadIdx.x != 0) return;
  count = 0;
  for (int w = 0; w < int(blockDim.x) / kWarp; ++w) count += counts[w];
  valid[blockIdx.x] = count;
  if (blockIdx.x == 0) *done = 0;
}

// What the sum of the losses is divided by. Asked for twice rather than kept, for registers' sake;
// there is one part unless there are thousands of rows.
__device__ __forceinline__ double divisor_of(const int64_t* valid, int parts) {
  if (parts == 0) return 1.0;
  int64_t rows = 0;
#pragma unroll 1
  for (int i = 0; i < parts; ++i) rows += valid[i];
  return double(rows);
}

// Of `shared.losses`, the block's sum; the last block to arrive adds up what all have written, in
// the order of the blocks.
template <class Loss>
__device__ __forceinline__ void add_up(Exchange& shared, void* total, const int64_t* valid,
                                       int parts, unsigned long long* losses, int* done) {
  __syncthreads();
  const int thread = int(threadIdx.y * blockDim.x + threadIdx.x);
  if (thread == 0) {
    double sum = shared.losses[0];
    for (int y = 1; y < int(blockDim.y); ++y) sum += shared.losses[y];
    // An atomic write: other blocks read it in this launch, and a plain store would be a data race.
    atomicExch(losses + blockIdx.x, (unsigned long long)__double_as_longlong(sum));
    __threadfence();
    shared.last_block = atomicAdd(done, 1) == int(gridDim.x) - 1;
  }
  __syncthreads();
  if (!shared.last_block) return;
  __threadfence();
  if (threadIdx.y != 0) return;
  double sum = 0;
  // volatile: other blocks wrote them after this one began.
  for (int b = int(threadIdx.x); b < int(gridDim.x); b += int(blockDim.x))
    sum +=
        __longlong_as_double(int64_t(static_cast<const volatile unsigned long long*>(losses)[b]));
  // Warps other than the first have returned where each has a row of its own.
  sum = sum_of_warp(sum);
  if (!row_is_one_warp()) {
    if (lane() == 0) shared.largest[warp()] = sum;
    __syncthreads();
    sum = sum_of_warp(of_warps(shared.largest, 0.0));
  }
  // No valid row: 0 / 0, as F.cross_entropy has it.
  if (thread == 0) *static_cast<Loss*>(total) = Loss(sum / divisor_of(valid, parts));
}

// Rows, grid-stride. Parameters one by one and not as a struct, as debuggers and tools show them.
template <class Z, class S, bool softmax, bool streamed>
__global__ void __launch_bounds__(Packing<Z, S>::kMostThreads, 1)
    rows_kernel(int64_t rows, int64_t classes,     // N, C
                const void* __restrict__ logits,   // [N, C] of Z
                int64_t logits_stride,             // in elements, as all strides
                const void* __restrict__ labels,   // [N, C] of S
                int64_t labels_stride,             //
                const void* __restrict__ targets,  // [N] of int64_t or int32_t
                int64_t target_stride, bool target_is_int64, int64_t ignore_index,  //
                double on_target, double elsewhere, double gamma, double temperature,
                void* __restrict__ row_losses,      // [N] of float, double where Z is; or null
                void* __restrict__ total,           // scalar, likewise
                void* __restrict__ logits_grad,     // [N, C] of Z, contiguous, or null
                void* __restrict__ labels_grad,     // [N, C] of S, contiguous, or null
                float* __restrict__ logits_scale,   // [N], given with a float16 gradient
                float* __restrict__ labels_scale,   // [N]
                const int64_t* __restrict__ valid,  // [parts]
                int parts,                          // 0: not a mean
                unsigned long long* losses,         // [gridDim.x] doubles' bits, given with `total`
                int* done,
                bool keep) {  // streamed: the row fits into the dynamic shared memory
  using Loss = std::conditional_t<std::is_same_v<Z, double>, double, float>;
  __shared__ Shared<Accumulator<Z, S>> shared;
  uint4* const kept = keep ? row_memory : nullptr;

  const Options options = {
      {on_target, elsewhere}, gamma, temperature, 1.0 / divisor_of(valid, parts)};

  if (threadIdx.x == 0) shared.losses[threadIdx.y] = 0.0;
  for (int64_t i = blockIdx.x * blockDim.y + threadIdx.y; i < rows; i += gridDim.x * blockDim.y) {
    const int64_t target = integer_at(targets, target_is_int64, i * target_stride);
    const RowMemory<Z, S> row = {
        static_cast<const Z*>(logits) + i * logits_stride,
        static_cast<const S*>(labels) + i * labels_stride,
        logits_grad != nullptr ? static_cast<Z*>(logits_grad) + i * classes : nullptr,
        labels_grad != nullptr ? static_cast<S*>(labels_grad) + i * classes : nullptr,
        classes,
        target};
    RowResult<double> result = {};
    if (target == ignore_index) {
      result.z_scale = result.s_scale = 1.0f;
      if (row.dz != nullptr) write_zeros(row.dz, classes);
      if (row.ds != nullptr) write_zeros(row.ds, classes);
    } else {
      GIFT_DEVICE_ASSERT(target >= 0 && target < classes);
      const auto usual = row_in_packs<Z, S, softmax, streamed>(row, options, kept, shared);
      if (usual.again) {
        result = row_in_double(row, options, RowOfBlock{shared});
      } else {
        result.loss = usual.loss;
        result.z_scale = usual.z_scale;
        result.s_scale = usual.s_scale;
      }
    }
    if (threadIdx.x == 0) {
      shared.losses[threadIdx.y] += result.loss;
      if (row_losses != nullptr) static_cast<Loss*>(row_losses)[i] = Loss(result.loss);
      if (kIsHalf<Z> && row.dz != nullptr) logits_scale[i] = result.z_scale;
      if (kIsHalf<S> && row.ds != nullptr) labels_scale[i] = result.s_scale;
    }
  }
  if (total != nullptr) add_up<Loss>(shared, total, valid, parts, losses, done);
}

// Rows of few classes, a tile a warp, grid-stride; arguments as rows_kernel's. Neither matrix has a
// gap between its rows.
template <class Z, class S>
__global__ void __launch_bounds__(kOwnWarps* kWarp, 4)  // so that 128 registers are the most
    tiles_kernel(int64_t rows, int64_t classes, const void* __restrict__ logits,
                 int64_t logits_stride, const void* __restrict__ labels, int64_t labels_stride,
                 const void* __restrict__ targets, int64_t target_stride, bool target_is_int64,
                 int64_t ignore_index, double on_target, double elsewhere, double gamma,
                 double temperature, void* __restrict__ row_losses, void* __restrict__ total,
                 void* __restrict__ logits_grad, void* __restrict__ labels_grad,
                 float* __restrict__ logits_scale, float* __restrict__ labels_scale,
                 const int64_t* __restrict__ valid, int parts, unsigned long long* losses,
                 int* done,
                 int lanes) {  // that a row has
  using Loss = std::conditional_t<std::is_same_v<Z, double>, double, float>;
  __shared__ Exchange shared;
  const int most_rows = kWarp / lanes, own_row = lane() / lanes;
  const int z_vectors = tile_vectors<Z>(most_rows * int(classes));
  const int s_vectors = tile_vectors<S>(most_rows * int(classes));
  uint4* const z_memory = row_memory + int(threadIdx.y) * (z_vectors + s_vectors);
  uint4* const s_memory = z_memory + z_vectors;
  // Rows whose first elements lie in one bank would all ask it at once. Each of them begins so many
  // elements further on, and ends with those it has skipped. With a lane a row no two lanes are
  // then at one bank, except for elements of 16 bits at odd addresses; with more the conflicts are
  // fewer.
  constexpr int kNarrower = Packing<Z, S>::kNarrower;
  constexpr int kBanks = 128 / kNarrower, kOneBank = kNarrower < 4 ? 4 / kNarrower : 1;
  const int power_of_two = min(int(classes) & -int(classes), kBanks);
  const int skew = own_row * power_of_two / kBanks * max(lanes, kOneBank) & (power_of_two - 1);

  const Options options = {
      {on_target, elsewhere}, gamma, temperature, 1.0 / divisor_of(valid, parts)};
  double loss = 0.0;
  const int64_t step = int64_t(gridDim.x) * kOwnWarps * most_rows;
  for (int64_t i = (int64_t(blockIdx.x) * kOwnWarps + threadIdx.y) * most_rows; i < rows;
       i += step) {
    const int tile_rows = int(min(int64_t(most_rows), rows - i));
    const int n = tile_rows * int(classes);
    const int64_t before = i * classes, behind = (rows - i) * classes;
    const Tile<Z> z(z_memory, static_cast<const Z*>(logits) + i * logits_stride, n, before, behind);
    const Tile<S> s(s_memory, static_cast<const S*>(labels) + i * labels_stride, n, before, behind);
    const bool has_row = own_row < tile_rows;
    const int64_t target =
        has_row ? integer_at(targets, target_is_int64, (i + own_row) * target_stride) : 0;
#pragma unroll 1
    for (int at = lane(); at < max(z.end, s.end); at += Tile<Z>::kBatch * kWarp) {
      uint4 z_held[Tile<Z>::kBatch], s_held[Tile<S>::kBatch];
      z.fetch(at, z_held);
      s.fetch(at, s_held);
      z.put(at, z_held);
      s.put(at, s_held);
    }
    z.copy_ends();
    s.copy_ends();
    const bool is_valid = has_row && target != ignore_index;
    if (is_valid) GIFT_DEVICE_ASSERT(target >= 0 && target < classes);
    __syncwarp();

    const int first = has_row ? own_row * int(classes) : 0;
    const RowMemory<Z, S> row = {z.element(first),
                                 s.element(first),
                                 logits_grad != nullptr ? z.element(first) : nullptr,
                                 labels_grad != nullptr ? s.element(first) : nullptr,
                                 classes,
                                 is_valid ? target : 0};
    RowResult<double> result = row_of_lanes(row, is_valid, lanes, skew, options);
    const int part = lane() & (lanes - 1);
    if (has_row && !is_valid) {
      result.z_scale = result.s_scale = 1.0f;
#pragma unroll 1
      for (int j = part; j < int(classes); j += lanes) {
        if (row.dz != nullptr) narrow(0.0, row.dz[j]);
        if (row.ds != nullptr) narrow(0.0, row.ds[j]);
      }
    }
    if (has_row && part == 0) {
      loss += result.loss;
      if (row_losses != nullptr) static_cast<Loss*>(row_losses)[i + own_row] = Loss(result.loss);
      if (kIsHalf<Z> && row.dz != nullptr) logits_scale[i + own_row] = result.z_scale;
      if (kIsHalf<S> && row.ds != nullptr) labels_scale[i + own_row] = result.s_scale;
    }
    __syncwarp();
    if (logits_grad != nullptr) z.store(static_cast<Z*>(logits_grad) + before);
    if (labels_grad != nullptr) s.store(static_cast<S*>(labels_grad) + before);
    __syncwarp();  // the next tile goes where this one was
  }
  if (total == nullptr) return;
  loss = sum_of_warp(loss);
  if (lane() == 0) shared.losses[threadIdx.y] = loss;
  add_up<Loss>(shared, total, valid, parts, losses, done);
}

// A stored gradient times the upstream one, in place.
template <class T>
__global__ void __launch_bounds__(256)
    scale_kernel(int64_t rows, int64_t classes,         // N, C
                 void* __restrict__ grad,               // [N, C] of T, contiguous
                 const void* __restrict__ grad_output,  // [N], or one value with stride 0
                 int64_t grad_output_stride, bool grad_output_is_double,
                 const float* __restrict__ grad_scale) {  // [N] or null
  using A = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const auto factor_of = [&](int64_t row) {
    const int64_t i = row * grad_output_stride;
    const double upstream = grad_output_is_double
                                ? static_cast<const double*>(grad_output)[i]
                                : double(static_cast<const float*>(grad_output)[i]);
    return A(grad_scale != nullptr ? upstream * double(grad_scale[row]) : upstream);
  };
  // Almost always the loss is what backward() was called on, and there is nothing to do.
  if (grad_scale == nullptr && grad_output_stride == 0 && factor_of(0) == A(1)) return;

  for (int64_t i = int64_t(blockIdx.x) * blockDim.y + threadIdx.y; i < rows;
       i += int64_t(gridDim.x) * blockDim.y) {
    const A factor = factor_of(i);
    T* row = static_cast<T*>(grad) + i * classes;
    constexpr int V = 16 / sizeof(T);
    const Cut<V, int64_t> cut(row, classes);
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

// ---- the launchers -----------------------------------------------------------------------------

using RowsKernel = decltype(&rows_kernel<float, float, false, false>);
using TilesKernel = decltype(&tiles_kernel<float, float>);

struct Choice {
  RowsKernel kernel;
  int threads, rows_a_block;
  int64_t row_bytes;            // to keep a row in shared memory; 0: it is not to be kept there
  int64_t own_bytes;            // of shared memory, which the kernel takes anyway
  TilesKernel tiles = nullptr;  // instead
  int lanes = 0;                // that a tile's row has
  int64_t tiles_bytes = 0;      // of shared memory, for a block's tiles
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
template <class Z, class S, bool softmax>
Choice choose_sweep(int64_t classes) {
  using P = Packing<Z, S>;
  const int64_t packs = classes / P::kElements;
  const int threads = threads_for(packs, P::kHeld, P::kMostThreads);
  const int64_t own_bytes = sizeof(Shared<Accumulator<Z, S>>);
  if (threads == 0)
    return {rows_kernel<Z, S, softmax, true>, P::kMostThreads, 1,
            (packs + kWarp - 1) / kWarp * kWarp * P::kElements * int64_t(sizeof(Z) + sizeof(S)),
            own_bytes};
  return {rows_kernel<Z, S, softmax, false>, threads, threads == kWarp ? kOwnWarps : 1, 0,
          own_bytes};
}

template <class Z, class S>
Choice choose(const Problem& problem) {
  const int64_t classes = problem.classes;
  const int lanes = lanes_of_tile(classes * int64_t(sizeof(Z) + sizeof(S)));
  if (lanes > 0 && problem.logits_stride == classes && problem.soft_labels_stride == classes) {
    const int rows = kWarp / lanes, elements = rows * int(classes);
    const int vectors = kOwnWarps * (tile_vectors<Z>(elements) + tile_vectors<S>(elements));
    return {nullptr, kWarp, kOwnWarps * rows, 0, 0, tiles_kernel<Z, S>, lanes, vectors * 16};
  }
  // In double the version that can take a softmax is the only one.
  constexpr bool kIsDouble = std::is_same_v<Accumulator<Z, S>, double>;
  return problem.soft_label_temperature > 0.0 ? choose_sweep<Z, S, true>(problem.classes)
                                              : choose_sweep<Z, S, kIsDouble>(problem.classes);
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

Choice choose_kernel(const Problem& problem) {
  switch (problem.logits_type) {
    case DType::kFloat64: return choose_labels<double>(problem);
    case DType::kFloat32: return choose_labels<float>(problem);
    case DType::kBFloat16: return choose_labels<__nv_bfloat16>(problem);
    default: return choose_labels<__half>(problem);
  }
}

template <class Kernel, class... Arguments>
cudaError_t launch(Kernel kernel, dim3 grid, dim3 block, int64_t shared_bytes, cudaStream_t stream,
                   Arguments... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = size_t(shared_bytes);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

int64_t blocks_for(int64_t items, int64_t per_block, int64_t most) {
  return std::max<int64_t>(std::min((items + per_block - 1) / per_block, most), 1);
}

// The most dynamic shared memory that a kernel can have on the current device, beside its own. A
// kernel has to ask for more than 48 KiB: once for each device, for all that there is, and under a
// lock, since several threads may launch it.
cudaError_t dynamic_shared_memory(RowsKernel kernel, int64_t own_bytes, int64_t& bytes) {
  static std::mutex mutex;
  static std::map<std::pair<int, RowsKernel>, int64_t> known;
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
  error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes));
  if (error == cudaSuccess) known[{device, kernel}] = bytes;
  return error;
}

}  // namespace

cudaError_t launch_cuda(const Problem& problem, Workspace* workspace, cudaStream_t stream) {
  int parts = 0;
  if (problem.total != nullptr) {
    // Several blocks for millions of rows; for a usual batch the first is enough.
    parts = int(blocks_for(problem.rows, 4096, kCountBlocks));
    const cudaError_t error =
        launch(count_kernel, dim3(unsigned(parts)), dim3(256), 0, stream, problem.rows,
               problem.target, problem.target_stride, problem.target_is_int64, problem.ignore_index,
               workspace->valid, &workspace->done);
    if (error != cudaSuccess) return error;
  } else if (problem.rows == 0) {
    return cudaSuccess;
  }
  const Choice choice = choose_kernel(problem);
  const int64_t blocks = blocks_for(problem.rows, choice.rows_a_block, kLossBlocks);
  // `last`: the argument that the two kernels do not share.
  const auto launch_rows = [&](auto* kernel, int warps_or_rows, int64_t shared_bytes, auto last) {
    return launch(kernel, dim3(unsigned(blocks)),
                  dim3(unsigned(choice.threads), unsigned(warps_or_rows)), shared_bytes, stream,
                  problem.rows, problem.classes, problem.logits, problem.logits_stride,
                  problem.soft_labels, problem.soft_labels_stride, problem.target,
                  problem.target_stride, problem.target_is_int64, problem.ignore_index,
                  problem.hard_label.on_target, problem.hard_label.elsewhere, problem.gamma,
                  problem.soft_label_temperature, problem.row_losses, problem.total,
                  problem.logits_grad, problem.soft_labels_grad, problem.logits_grad_scale,
                  problem.soft_labels_grad_scale, workspace != nullptr ? workspace->valid : nullptr,
                  problem.mean ? parts : 0, workspace != nullptr ? workspace->losses : nullptr,
                  workspace != nullptr ? &workspace->done : nullptr, last);
  };
  if (choice.tiles != nullptr)
    return launch_rows(choice.tiles, kOwnWarps, choice.tiles_bytes, choice.lanes);
  bool keep = false;
  if (choice.row_bytes > 0) {
    int64_t most = 0;
    const cudaError_t error = dynamic_shared_memory(choice.kernel, choice.own_bytes, most);
    if (error != cudaSuccess) return error;
    keep = choice.row_bytes <= most;
  }
  return launch_rows(choice.kernel, choice.rows_a_block, keep ? choice.row_bytes : 0, keep);
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
  const int rows_a_block = by_warp ? 8 : 1;
  const int64_t blocks = blocks_for(problem.rows, rows_a_block, kLossBlocks);
  return launch(kernel, dim3(unsigned(blocks)),
                dim3(unsigned(by_warp ? kWarp : 256), unsigned(rows_a_block)), 0, stream,
                problem.rows, problem.classes, problem.grad, problem.grad_output,
                problem.grad_output_stride, problem.grad_output_is_double, problem.grad_scale);
}

}  // namespace gift
