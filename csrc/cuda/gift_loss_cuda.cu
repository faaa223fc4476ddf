// The CUDA kernels, then their launchers. What is computed of a row is in ../gift_row.h.
//
// A row belongs to one warp or to one block (blockDim.x threads of it; blockDim.y rows a block,
// more than one only where a warp has a row). Each thread takes packs of 16 bytes, turns them into
// the row's sums, and once the coefficients are known turns the same packs into the gradient. The
// three regimes differ in where the packs are in between:
//
//   one warp a row, registers    short rows: no barrier, and four rows in flight a block
//   one block a row, on chip     in registers, and longer rows in shared memory
//   one block a row, streamed    still longer rows are read twice, the second time mostly out of L2
//
// A row for which float is not good enough is done again in double by the same threads, and so is
// every row of float64: those take one element at a time, 8 bytes each or fewer.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "gift_loss_cuda.h"

// As CUDA_KERNEL_ASSERT: also in a build with NDEBUG.
#define GIFT_DEVICE_ASSERT(condition) \
  if (!(condition)) __assert_fail(#condition, __FILE__, unsigned(__LINE__), __func__)

namespace gift {

// Dynamic shared memory: a row, where the launcher gives enough of it.
extern __shared__ uint4 row_memory[];

namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kMaxThreads = 512;
constexpr int kMaxWarps = kMaxThreads / kWarp;
constexpr int kRowsOfWarps = 4;  // rows a block, where a warp has a row

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

// V consecutive elements as they are stored: one or more vectors of 16 bytes.
template <class T, int V>
struct Pack {
  static constexpr int kPerWord = 4 / sizeof(T);
  static constexpr int kWords = V / kPerWord;
  static constexpr int kVectors = kWords / 4;
  static_assert(kWords % 4 == 0, "a pack is made of whole 16-byte vectors");
  uint32_t words[kWords];

  // The pack's vectors, `step` vectors apart.
  __device__ __forceinline__ void get(const uint4* from, int64_t step) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const uint4 vector = from[i * step];
      words[4 * i] = vector.x;
      words[4 * i + 1] = vector.y;
      words[4 * i + 2] = vector.z;
      words[4 * i + 3] = vector.w;
    }
  }
  __device__ __forceinline__ void put(uint4* to, int64_t step) const {
#pragma unroll
    for (int i = 0; i < kVectors; ++i)
      to[i * step] = make_uint4(words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]);
  }

  // Whole vectors where the address allows, else one element at a time.
  __device__ __forceinline__ void load(const T* from, bool aligned) {
    if (aligned) {
      get(reinterpret_cast<const uint4*>(from), 1);
    } else {
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        T few[kPerWord];
#pragma unroll
        for (int e = 0; e < kPerWord; ++e) few[e] = from[i * kPerWord + e];
        memcpy(&words[i], few, sizeof(few));
      }
    }
  }
  __device__ __forceinline__ void store(T* to, bool aligned) const {
    if (aligned) {
      put(reinterpret_cast<uint4*>(to), 1);
    } else {
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        T few[kPerWord];
        memcpy(few, &words[i], sizeof(few));
#pragma unroll
        for (int e = 0; e < kPerWord; ++e) to[i * kPerWord + e] = few[e];
      }
    }
  }

  __device__ __forceinline__ void widen_into(float (&x)[V]) const {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      float few[kPerWord];
      widen_word(words[i], few, T());
#pragma unroll
      for (int e = 0; e < kPerWord; ++e) x[i * kPerWord + e] = few[e];
    }
  }

  __device__ __forceinline__ void narrow_from(const float (&x)[V]) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      float few[kPerWord];
#pragma unroll
      for (int e = 0; e < kPerWord; ++e) few[e] = x[i * kPerWord + e];
      words[i] = narrow_word(few, T());
    }
  }
};

__device__ __forceinline__ bool is_aligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % 16 == 0;
}

// A row cut at the 16-byte boundaries of one of its arrays: `head` elements before the first
// boundary, whole packs, and a tail shorter than a pack. The row's first threads take the head, one
// element each, the next ones the tail.
template <int V>
struct Cut {
  int head;
  int64_t packs;
  int tail;

  template <class T>
  __device__ __forceinline__ Cut(const T* row, int64_t n) {
    const int past = int(reinterpret_cast<uintptr_t>(row) % 16) / int(sizeof(T));
    head = past == 0 ? 0 : 16 / int(sizeof(T)) - past;
    if (head > n) head = int(n);
    packs = (n - head) / V;
    tail = int(n - head - packs * V);
  }

  // The element outside of packs that this thread takes, or -1.
  __device__ __forceinline__ int64_t edge() const {
    const int i = int(threadIdx.x);
    if (i < head) return i;
    return i >= V && i < V + tail ? head + packs * V + (i - V) : -1;
  }

  // The thread that takes element j.
  __device__ __forceinline__ int owner(int64_t j) const {
    if (j < head) return int(j);
    const int64_t pack = (j - head) / V;
    return pack < packs ? int(pack % blockDim.x) : int(V + (j - head - packs * V));
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
  bool in_double;  // float was not good enough: do the row again
  A loss;
  Linear<A> z, s;
  float z_scale, s_scale;  // inverse powers of two of float16 gradients
};

// Of a block that has one row; a row of one warp needs none of it.
struct Shared {
  double partial[5][kMaxWarps];
  double largest[kMaxWarps];
  RowResult<float> result;
  double losses[kRowsOfWarps];
  bool last_block;
};

__device__ __forceinline__ bool row_is_one_warp() { return blockDim.x == kWarp; }
__device__ __forceinline__ int lane() { return int(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warp() { return int(threadIdx.x) / kWarp; }

template <class T>
__device__ __forceinline__ T sum_of_warp(T x) {
#pragma unroll
  for (int other = kWarp / 2; other > 0; other /= 2) x += __shfl_xor_sync(kAllLanes, x, other);
  return x;
}

__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double larger(double a, double b) { return fmax(a, b); }

// The row's sums in double: in its first warp, or in all of them. A is float only inside a warp,
// where five additions of a tree follow each other.
template <int count, class A>
__device__ __forceinline__ void sum_over_row(const A (&part)[count], double (&sum)[count],
                                             bool in_all_warps, Shared& shared) {
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
    for (int i = 0; i < count; ++i) sum[i] = shared.partial[i][0];
    for (int w = 1; w < int(blockDim.x) / kWarp; ++w) {
#pragma unroll
      for (int i = 0; i < count; ++i) sum[i] += shared.partial[i][w];
    }
  }
  if (in_all_warps) __syncthreads();  // partial may be written again
}

template <class A>
__device__ __forceinline__ A largest_of_row(A x, Shared& shared) {
#pragma unroll
  for (int other = kWarp / 2; other > 0; other /= 2)
    x = larger(x, __shfl_xor_sync(kAllLanes, x, other));
  if (row_is_one_warp()) return x;
  if (lane() == 0) shared.largest[warp()] = double(x);
  __syncthreads();
  for (int w = 0; w < int(blockDim.x) / kWarp; ++w) x = larger(x, A(shared.largest[w]));
  return x;
}

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

// rows_kernel.h says when: norms beyond these leave float no room for products and digits.
__device__ __forceinline__ bool ordinary(InverseNorm norm) {
  return norm.value >= 1e-12 && norm.value <= 1e12;
}

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
                                                  const RowProducts& products,
                                                  const RowMemory<Z, S>& row,
                                                  const Options& options) {
  const SmoothedLabel h = options.hard_label;
  const double gamma = options.gamma, weight = options.weight;
  const Row k = finish_row(sums, s_norm, products);
  RowResult<A> result = {};
  if (std::is_same_v<A, float> &&
      !(products.tt >= kCancellation && isfinite(sums.zs) && ordinary(k.z) && ordinary(k.s))) {
    result.in_double = true;
    return result;
  }
  result.loss = A(1.0 - k.cosine);
  if (row.dz != nullptr) {
    const double scale = kIsHalf<Z> ? half_gradient_factor(weight * k.z.value) : 1.0;
    result.z = linear<A>(logits_gradient(k, h, gamma, weight), scale, sums.s_at, sums.z_at);
    result.z_scale = float(1.0 / scale);
  }
  if (row.ds != nullptr) {
    const double steepest = options.temperature > 0.0 ? 1.0 / options.temperature : 1.0;
    const double bound = steepest * weight * (1.0 - gamma) * k.s.value * k.t.value;
    const double scale = kIsHalf<S> ? half_gradient_factor(bound) : 1.0;
    result.s =
        linear<A>(soft_labels_gradient(sums, k, h, gamma, weight), scale, sums.z_at, sums.s_at);
    if (options.temperature > 0.0) result.s.at_target *= A(sums.s_at * steepest);
    result.s_scale = float(1.0 / scale);
  }
  return result;
}

// The row in double, element by element: float64, and rare rows of other types, which are read
// again; those loops are not unrolled, so as to need no more registers than the usual rows.
template <bool rare, class Z, class S>
__device__ __forceinline__ RowResult<double> row_in_double(const RowMemory<Z, S>& row,
                                                           const Options& options, Shared& shared) {
  [[maybe_unused]] constexpr int kUnrolled = rare ? 1 : 2;
  const bool softmax = options.temperature > 0.0;
  const double inverse = softmax ? fmin(1.0 / options.temperature, 1e308) : 1.0;  // 0 * inf: NaN
  const double gamma = options.gamma;
  const int64_t first = threadIdx.x, step = blockDim.x;

  double largest = -INFINITY;
  if (softmax) {
#pragma unroll kUnrolled
    for (int64_t j = first; j < row.n; j += step) largest = fmax(largest, double(widen(row.s[j])));
    largest = largest_of_row(largest, shared);
  }
  const auto z_of = [&](int64_t j) { return double(widen(row.z[j])); };
  const auto s_of = [&](int64_t j) {
    const double s = double(widen(row.s[j]));
    return softmax ? exp((s - largest) * inverse) : s;
  };

  double part[5] = {}, sum[5];
#pragma unroll kUnrolled
  for (int64_t j = first; j < row.n; j += step) {
    const double z = z_of(j), s = s_of(j);
    part[0] += z;
    part[1] += s;
    part[2] += z * z;
    part[3] += s * s;
    part[4] += z * s;
  }
  sum_over_row(part, sum, true, shared);
  const RowSums sums = {sum[0], sum[1], sum[2], sum[3], sum[4], z_of(row.target), s_of(row.target)};
  const InverseNorm s_norm = inverse_norm(sums.ss, kNormalizeEps);
  RowProducts products = row_products(sums, s_norm, options.hard_label, gamma);
  if (products.tt < kCancellation) {
    // t nearly vanishes. The target last, so that its part of the hard label cannot cancel again.
    const RefinedLabel t = refined_label(s_norm, options.hard_label, gamma);
    double refined_part[2] = {}, refined[2];
#pragma unroll kUnrolled
    for (int64_t j = first; j < row.n; j += step) {
      const double x = j == row.target ? 0.0 : s_of(j) * t.scale + t.base;
      refined_part[0] += z_of(j) * x;
      refined_part[1] += x * x;
    }
    sum_over_row(refined_part, refined, true, shared);
    const double x = sums.s_at * t.scale + (t.base + t.on_target);
    products = {refined[0] + sums.z_at * x, refined[1] + x * x};
  }
  const RowResult<double> result = result_of<double>(sums, s_norm, products, row, options);

#pragma unroll kUnrolled
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

// What a pack has of each type, and how many packs a thread takes at a time: 32 registers of the
// 128 that a thread of a 512-thread block may have, 24 where the types differ in size. Twice as
// many spill (ptxas of CUDA 13.0): the row's end, in double, wants the rest.
template <class Z, class S>
constexpr int kPackElements = 16 / (sizeof(Z) < sizeof(S) ? sizeof(Z) : sizeof(S));
template <class Z, class S>
constexpr int kPacksAtOnce = sizeof(Z) == sizeof(S) ? 4 : 2;

struct FloatSums {
  float sum[5] = {};

  __device__ __forceinline__ void add(float z, float s) {
    sum[0] += z;
    sum[1] += s;
    sum[2] += z * z;
    sum[3] += s * s;
    sum[4] += z * s;
  }
};

// The row in float. `streamed`: it is longer than the threads hold, and is read twice (its soft
// labels three times with a softmax).
template <class Z, class S, bool softmax, bool streamed>
__device__ __forceinline__ RowResult<float> row_in_float(const RowMemory<Z, S>& row,
                                                         const Options& options, uint4* kept,
                                                         Shared& shared) {
  constexpr int V = kPackElements<Z, S>, kPacks = kPacksAtOnce<Z, S>;
  const Cut<V> cut = sizeof(Z) <= sizeof(S) ? Cut<V>(row.z, row.n) : Cut<V>(row.s, row.n);
  const int64_t edge = cut.edge(), threads = blockDim.x;
  const Z* z_packs = row.z + cut.head;
  const S* s_packs = row.s + cut.head;
  const bool z_aligned = is_aligned(z_packs), s_aligned = is_aligned(s_packs);

  Pack<Z, V> z[kPacks];
  Pack<S, V> s[kPacks];
  const auto load_z = [&](int64_t begin) {
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
      if (begin + k * threads < cut.packs)
        z[k].load(z_packs + (begin + k * threads) * V, z_aligned);
  };
  const auto load_s = [&](int64_t begin) {
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
      if (begin + k * threads < cut.packs)
        s[k].load(s_packs + (begin + k * threads) * V, s_aligned);
  };
  // A streamed row that fits into shared memory is put there by the first sweep; a thread reads
  // back what it wrote itself, so no barrier. Vectors of a pack lie `packs` apart: no bank
  // conflict.
  uint4* const kept_s = kept + (kept != nullptr ? cut.packs * Pack<Z, V>::kVectors : 0);
  const auto keep = [&](int64_t begin) {
    if (kept == nullptr) return;
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      if (begin + k * threads >= cut.packs) break;
      z[k].put(kept + begin + k * threads, cut.packs);
      s[k].put(kept_s + begin + k * threads, cut.packs);
    }
  };
  const auto load_again = [&](int64_t begin) {
    if (!streamed) return;
    if (kept == nullptr) {
      load_z(begin);
      load_s(begin);
      return;
    }
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      if (begin + k * threads >= cut.packs) break;
      z[k].get(kept + begin + k * threads, cut.packs);
      s[k].get(kept_s + begin + k * threads, cut.packs);
    }
  };
  // body(begin): the packs begin, begin + threads, ... of this thread, kPacks of them at most.
  const auto each_batch = [&](const auto& body) {
    if (!streamed) {
      body(int64_t(threadIdx.x));
    } else {
      for (int64_t begin = threadIdx.x; begin < cut.packs; begin += kPacks * threads) body(begin);
    }
  };

  const float z_edge = edge >= 0 ? widen(row.z[edge]) : 0.0f;
  const float s_edge_stored = edge >= 0 ? widen(row.s[edge]) : 0.0f;
  if (!streamed) {
    load_z(threadIdx.x);
    load_s(threadIdx.x);
  }
  const float z_at = widen(row.z[row.target]), s_at_stored = widen(row.s[row.target]);

  float largest = -INFINITY, inverse = 1.0f;
  if (softmax) {
    inverse = float(fmin(1.0 / options.temperature, 3e38));
    if (edge >= 0) largest = s_edge_stored;
    each_batch([&](int64_t begin) {
      if (streamed) {
        load_s(begin);
        if (kept != nullptr) {
          load_z(begin);
          keep(begin);
        }
      }
#pragma unroll
      for (int k = 0; k < kPacks; ++k) {
        if (begin + k * threads >= cut.packs) break;
        float x[V];
        s[k].widen_into(x);
#pragma unroll
        for (int e = 0; e < V; ++e) largest = larger(largest, x[e]);
      }
    });
    largest = largest_of_row(largest, shared);
  }
  const auto label = [&](float x) { return softmax ? expf((x - largest) * inverse) : x; };
  const float s_edge = label(s_edge_stored);

  RowResult<float> result;
  {
    double sum[5];
    FloatSums part;
    if (edge >= 0) part.add(z_edge, s_edge);
    const auto add_batch = [&](int64_t begin) {
#pragma unroll
      for (int k = 0; k < kPacks; ++k) {
        if (begin + k * threads >= cut.packs) break;
        float a[V], b[V];
        z[k].widen_into(a);
        s[k].widen_into(b);
#pragma unroll
        for (int e = 0; e < V; ++e) part.add(a[e], label(b[e]));
      }
    };
    if (!streamed) {
      add_batch(threadIdx.x);
      sum_over_row(part.sum, sum, false, shared);
    } else {
      // Float over at most kPacks packs: sums of a long constant row would drift otherwise.
      double total[5] = {};
      each_batch([&](int64_t begin) {
        if (!softmax || kept == nullptr) {
          load_z(begin);
          load_s(begin);
          keep(begin);
        } else {
          load_again(begin);
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
    // The coefficients are some hundred operations in double: the first warp's, for all.
    if (row_is_one_warp() || warp() == 0) {
      const RowSums sums = {sum[0], sum[1], sum[2], sum[3], sum[4], z_at, label(s_at_stored)};
      const InverseNorm s_norm = inverse_norm(sums.ss, kNormalizeEps);
      const RowProducts products = row_products(sums, s_norm, options.hard_label, options.gamma);
      result = result_of<float>(sums, s_norm, products, row, options);
      if (!row_is_one_warp() && threadIdx.x == 0) shared.result = result;
    }
    if (!row_is_one_warp()) {
      __syncthreads();
      result = shared.result;
    }
  }
  if (result.in_double) return result;

  const bool owns_target = cut.owner(row.target) == int(threadIdx.x);
  // gradient_j = other_j p + own_j q + r, as packs, this thread's edge, and the target's element:
  // written last and by the thread that wrote over it.
  if (row.dz != nullptr) {
    Z* dz_packs = row.dz + cut.head;
    const bool aligned = is_aligned(dz_packs);
    const float p = result.z.other, q = result.z.own, r = result.z.all;
    const auto gradient = [&](float a, float b) { return b * p + (a * q + r); };
    each_batch([&](int64_t begin) {
      load_again(begin);
#pragma unroll
      for (int k = 0; k < kPacks; ++k) {
        if (begin + k * threads >= cut.packs) break;
        float a[V], b[V];
        z[k].widen_into(a);
        s[k].widen_into(b);
#pragma unroll
        for (int e = 0; e < V; ++e) a[e] = gradient(a[e], label(b[e]));
        Pack<Z, V> out;
        out.narrow_from(a);
        out.store(dz_packs + (begin + k * threads) * V, aligned);
      }
    });
    if (edge >= 0) narrow(gradient(z_edge, s_edge), row.dz[edge]);
    if (owns_target) narrow(result.z.at_target, row.dz[row.target]);
  }
  if (row.ds != nullptr) {
    S* ds_packs = row.ds + cut.head;
    const bool aligned = is_aligned(ds_packs);
    const float p = result.s.other, q = result.s.own, r = result.s.all;
    const auto gradient = [&](float a, float b) {
      const float x = a * p + (b * q + r);
      return softmax ? x * (b * inverse) : x;
    };
    each_batch([&](int64_t begin) {
      load_again(begin);
#pragma unroll
      for (int k = 0; k < kPacks; ++k) {
        if (begin + k * threads >= cut.packs) break;
        float a[V], b[V];
        z[k].widen_into(a);
        s[k].widen_into(b);
#pragma unroll
        for (int e = 0; e < V; ++e) b[e] = gradient(a[e], label(b[e]));
        Pack<S, V> out;
        out.narrow_from(b);
        out.store(ds_packs + (begin + k * threads) * V, aligned);
      }
    });
    if (edge >= 0) narrow(gradient(z_edge, s_edge), row.ds[edge]);
    if (owns_target) narrow(result.s.at_target, row.ds[row.target]);
  }
  return result;
}

template <class T>
__device__ __forceinline__ void write_zeros(T* row, int64_t n) {
  constexpr int V = 16 / sizeof(T);
  const Cut<V> cut(row, n);
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
__global__ void __launch_bounds__(256)
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

enum class Sweep { kHeld, kStreamed, kDouble };

// Rows, grid-stride. Parameters one by one and not as a struct, as debuggers and tools show them.
template <class Z, class S, Sweep sweep, bool softmax>
__global__ void __launch_bounds__(kMaxThreads, 1)
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
                double* losses,                     // [gridDim.x], given with `total`
                int* done,
                bool keep) {  // streamed: the row fits into the dynamic shared memory
  using Loss = std::conditional_t<std::is_same_v<Z, double>, double, float>;
  __shared__ Shared shared;
  uint4* const kept = keep ? row_memory : nullptr;

  double divisor = 1.0;
  if (parts > 0) divisor = double(sum_of_warp(lane() < parts ? valid[lane()] : int64_t(0)));
  const Options options = {{on_target, elsewhere}, gamma, temperature, 1.0 / divisor};

  double sum = 0;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.y + threadIdx.y; i < rows;
       i += int64_t(gridDim.x) * blockDim.y) {
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
      if constexpr (sweep == Sweep::kDouble) {
        result = row_in_double<false>(row, options, shared);
      } else {
        constexpr bool streamed = sweep == Sweep::kStreamed;
        const RowResult<float> in_float =
            row_in_float<Z, S, softmax, streamed>(row, options, kept, shared);
        if (in_float.in_double) {
          result = row_in_double<true>(row, options, shared);
        } else {
          result.loss = in_float.loss;
          result.z_scale = in_float.z_scale;
          result.s_scale = in_float.s_scale;
        }
      }
    }
    sum += result.loss;
    if (threadIdx.x == 0) {
      if (row_losses != nullptr) static_cast<Loss*>(row_losses)[i] = Loss(result.loss);
      if (kIsHalf<Z> && row.dz != nullptr) logits_scale[i] = result.z_scale;
      if (kIsHalf<S> && row.ds != nullptr) labels_scale[i] = result.s_scale;
    }
  }
  if (total == nullptr) return;

  // The last block to arrive adds up what all have written, in the order of the blocks.
  if (threadIdx.x == 0) shared.losses[threadIdx.y] = sum;
  __syncthreads();
  const int thread = int(threadIdx.y * blockDim.x + threadIdx.x);
  if (thread == 0) {
    for (int y = 1; y < int(blockDim.y); ++y) sum += shared.losses[y];
    losses[blockIdx.x] = sum;
    __threadfence();
    shared.last_block = atomicAdd(done, 1) == int(gridDim.x) - 1;
  }
  __syncthreads();
  if (!shared.last_block) return;
  __threadfence();
  if (threadIdx.y != 0) return;
  sum = 0;
  // volatile: other blocks wrote them after this one began.
  for (int b = int(threadIdx.x); b < int(gridDim.x); b += int(blockDim.x))
    sum += static_cast<const volatile double*>(losses)[b];
  // Warps other than the first have returned where each has a row of its own.
  sum = sum_of_warp(sum);
  if (!row_is_one_warp()) {
    if (lane() == 0) shared.largest[warp()] = sum;
    __syncthreads();
    sum = 0;
    for (int w = 0; w < int(blockDim.x) / kWarp; ++w) sum += shared.largest[w];
  }
  // No valid row: 0 / 0, as F.cross_entropy has it.
  if (thread == 0) *static_cast<Loss*>(total) = Loss(sum / divisor);
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
    if constexpr (std::is_same_v<T, double>) {
      for (int64_t j = threadIdx.x; j < classes; j += blockDim.x) row[j] *= factor;
    } else {
      constexpr int V = 16 / sizeof(T);
      const Cut<V> cut(row, classes);
      const int64_t edge = cut.edge();
      for (int64_t j = threadIdx.x; j < cut.packs; j += blockDim.x) {
        Pack<T, V> pack;
        float x[V];
        pack.load(row + cut.head + j * V, true);
        pack.widen_into(x);
#pragma unroll
        for (int e = 0; e < V; ++e) x[e] *= factor;
        pack.narrow_from(x);
        pack.store(row + cut.head + j * V, true);
      }
      if (edge >= 0) narrow(widen(row[edge]) * factor, row[edge]);
    }
  }
}

// ---- the launchers -----------------------------------------------------------------------------

using RowsKernel = decltype(&rows_kernel<double, double, Sweep::kDouble, false>);

struct Choice {
  RowsKernel kernel;
  int threads, rows_a_block;
  int64_t row_bytes;  // to keep a row in shared memory; 0: it is not to be kept there
};

// How many threads take `items`, if each takes `most` of them; 0: too many items.
int threads_for(int64_t items, int most) {
  int threads = kWarp;
  while (threads < kMaxThreads && items > int64_t(threads) * most) threads *= 2;
  return items > int64_t(threads) * most ? 0 : threads;
}

// The boundaries, in classes, for two 16-bit types / two float32 / one of each:
//
//   one warp a row        1024   512    512   what 32 threads hold; no barrier
//   registers of a block 16384  8192   8192   what 512 threads hold
//   shared memory        24576 12288  16384   99 KiB, an RTX 30 to 50's; 58000 on H100
//   streamed              beyond              the second read finds most of the row in L2: the rows
//                                             of 50257 bfloat16 that 132 blocks are at take 26 MB
template <class Z, class S, bool softmax>
Choice choose_in_float(int64_t classes) {
  const int threads = threads_for(classes / kPackElements<Z, S>, kPacksAtOnce<Z, S>);
  if (threads == 0)
    return {rows_kernel<Z, S, Sweep::kStreamed, softmax>, kMaxThreads, 1,
            classes * int64_t(sizeof(Z) + sizeof(S))};
  return {rows_kernel<Z, S, Sweep::kHeld, softmax>, threads, threads == kWarp ? kRowsOfWarps : 1,
          0};
}

template <class Z, class S>
Choice choose(const Problem& problem) {
  if constexpr (std::is_same_v<Z, double> || std::is_same_v<S, double>) {
    const int threads = threads_for(problem.classes, 16);
    return {rows_kernel<Z, S, Sweep::kDouble, false>, threads > 0 ? threads : kMaxThreads,
            threads == kWarp ? kRowsOfWarps : 1, 0};
  } else {
    return problem.soft_label_temperature > 0.0 ? choose_in_float<Z, S, true>(problem.classes)
                                                : choose_in_float<Z, S, false>(problem.classes);
  }
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

// Whether this device has the shared memory for a row, beside the kernel's own few hundred bytes.
cudaError_t fits_shared_memory(const Choice& choice, bool& fits) {
  int device = 0, most = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  fits = error == cudaSuccess && choice.row_bytes + int64_t(sizeof(Shared)) <= most;
  if (fits)
    error =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(choice.kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, int(choice.row_bytes));
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
  bool keep = false;
  if (choice.row_bytes > 0) {
    const cudaError_t error = fits_shared_memory(choice, keep);
    if (error != cudaSuccess) return error;
  }
  return launch(choice.kernel, dim3(unsigned(blocks)),
                dim3(unsigned(choice.threads), unsigned(choice.rows_a_block)),
                keep ? choice.row_bytes : 0, stream, problem.rows, problem.classes, problem.logits,
                problem.logits_stride, problem.soft_labels, problem.soft_labels_stride,
                problem.target, problem.target_stride, problem.target_is_int64,
                problem.ignore_index, problem.hard_label.on_target, problem.hard_label.elsewhere,
                problem.gamma, problem.soft_label_temperature, problem.row_losses, problem.total,
                problem.logits_grad, problem.soft_labels_grad, problem.logits_grad_scale,
                problem.soft_labels_grad_scale, workspace != nullptr ? workspace->valid : nullptr,
                problem.mean ? parts : 0, workspace != nullptr ? workspace->losses : nullptr,
                workspace != nullptr ? &workspace->done : nullptr, keep);
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
