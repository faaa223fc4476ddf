// How the threads of a row divide it, and how they move it: 16 bytes at a time, whatever the types
// and the alignment of the row.
//
//   Packing   how many elements a thread takes at a time, from the types of logits and soft labels
//   Cut       a row as a head, whole packs and a tail; head and tail are moved element by element
//   Pack      one thread's elements of one array: load, arrange, widen; narrow, store
//
// Traffic: a pack's loads and stores cover whole 32-byte sectors of the row, each once. An array
// that lies differently from the gradients is loaded at its own 16-byte boundaries; the last lanes
// of a warp then load the vector behind theirs as well.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "threads.cuh"

namespace gift {
namespace {

// ---- storage types: double, float, __nv_bfloat16 and __half ------------------------------------

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

// ---- packs -------------------------------------------------------------------------------------

// A pack is what a thread takes at a time: as many elements as one 16-byte vector of the narrower
// type holds, which are several vectors of the wider one, its chunks. The packs of a warp are one
// stretch of the row, and chunk c of its lanes is the stretch's c-th run of 32 chunks:
//
//   wider type     chunk c of all lanes is one access of 512 bytes
//   narrower type  so is the pack; each lane then has elements of its neighbors', and they swap
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

  // In two steps: all loads of the first are issued before the second waits for any. All lanes of a
  // warp take part in both; those beyond the row's last pack get zeros.
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
  // one chunk of each of kChunks neighbors, which transpose what they have.
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

}  // namespace
}  // namespace gift
