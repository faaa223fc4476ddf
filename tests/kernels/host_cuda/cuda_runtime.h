// As much of CUDA as the kernels use, for a host compiler: a kernel's own source runs on the CPU,
// one fiber for each thread of a block, one block after the other.
//
// A fiber runs until it waits for others: at __syncthreads() for its block, at a shuffle for the
// lanes of its warp that the mask names. Waiting for a thread that has returned is reported, and so
// are lanes that meet at different shuffles and a block that cannot go on.
// GIFT_FIBER_SEED shuffles the order of the fibers, where a missing barrier shows as a wrong
// result.
#pragma once

#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include <ucontext.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
// One copy for the block that runs, and `extern` works with it.
#define __shared__ thread_local

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct float2 {
  float x, y;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

inline dim3 gridDim, blockDim, blockIdx;
using std::isfinite;
using std::max;
using std::min;

namespace fibers {

constexpr int kWarp = 32;
constexpr size_t kStack = 64 << 10;  // cleared by AddressSanitizer at every switch

enum class State { kReady, kAtBarrier, kAtShuffle, kReturned };

struct Fiber {
  ucontext_t context;
  dim3 index;
  State state;
  const void* shuffle;  // which one it waits at: where the code goes on behind it
  unsigned together;    // and with which lanes of its warp
  unsigned char value[8], received[8];
  int from;
};

inline std::vector<Fiber> all;
inline std::vector<char> stacks;
inline ucontext_t scheduler;
inline Fiber* current;
inline std::function<void()> kernel;
inline int64_t launches = 0, barriers = 0;
// A launch has no more: a kernel that strides over the grid is right with any number of blocks.
inline unsigned most_blocks = 4096;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "block %u: %s\n", blockIdx.x, what);
  std::abort();
}

inline void wait(State state) {
  Fiber* self = current;
  self->state = state;
  swapcontext(&self->context, &scheduler);
}

inline void start() {
  kernel();
  wait(State::kReturned);
}

// Gives lanes of a warp their values, once all that wait for each other are there.
inline bool exchange(Fiber* lanes) {
  bool progress = false;
  for (int first = 0; first < kWarp; ++first) {
    if (lanes[first].state != State::kAtShuffle) continue;
    const auto each = [&](const auto& body) {
      for (int i = 0; i < kWarp; ++i)
        if (lanes[first].together >> i & 1) body(lanes[i]);
    };
    bool all_there = true;
    each([&](Fiber& lane) {
      if (lane.state == State::kReturned) fail("a shuffle waits for a lane that has returned");
      // With another mask it waits for fewer lanes, or for more, and may come here afterwards.
      all_there &= lane.state == State::kAtShuffle && lane.together == lanes[first].together;
    });
    if (!all_there) continue;
    each([&](Fiber& lane) {
      if (lane.shuffle != lanes[first].shuffle) fail("lanes of a warp meet at different shuffles");
      if (!(lane.together >> lane.from & 1)) fail("a shuffle from a lane that takes no part");
      std::memcpy(lane.received, lanes[lane.from].value, 8);
    });
    each([&](Fiber& lane) { lane.state = State::kReady; });
    progress = true;
  }
  return progress;
}

inline void run_block(std::mt19937* random) {
  const int threads = int(blockDim.x * blockDim.y);
  if (threads % kWarp != 0) fail("a block is not made of whole warps");
  all.resize(size_t(threads));
  stacks.resize(size_t(threads) * kStack);
  std::vector<int> order;
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = all[size_t(i)];
    fiber.index = dim3(unsigned(i) % blockDim.x, unsigned(i) / blockDim.x);
    fiber.state = State::kReady;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = &stacks[size_t(i) * kStack];
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, start, 0);
    order.push_back(i);
  }
  for (;;) {
    if (random != nullptr) std::shuffle(order.begin(), order.end(), *random);
    bool progress = false;
    for (const int i : order) {
      if (all[size_t(i)].state != State::kReady) continue;
      current = &all[size_t(i)];
      swapcontext(&scheduler, &current->context);
      progress = true;
    }
    for (int i = 0; i < threads; i += kWarp) progress |= exchange(&all[size_t(i)]);
    if (progress) continue;
    int at_barrier = 0, returned = 0;
    for (const Fiber& fiber : all) {
      at_barrier += fiber.state == State::kAtBarrier;
      returned += fiber.state == State::kReturned;
    }
    if (returned == threads) return;
    if (at_barrier < threads) fail("threads wait for each other at different places");
    ++barriers;
    for (Fiber& fiber : all) fiber.state = State::kReady;
  }
}

inline void launch(dim3 grid, dim3 block, std::function<void()> body) {
  gridDim = dim3(std::min(grid.x, most_blocks));
  blockDim = block;
  kernel = std::move(body);
  ++launches;
  std::unique_ptr<std::mt19937> random;
  if (const char* seed = std::getenv("GIFT_FIBER_SEED"))
    random = std::make_unique<std::mt19937>(unsigned(std::atoi(seed)));
  for (unsigned i = 0; i < gridDim.x; ++i) {
    blockIdx = dim3(random ? gridDim.x - 1 - i : i, 0, 0);
    run_block(random.get());
  }
}

}  // namespace fibers

#define threadIdx (fibers::current->index)

inline void __syncthreads() { fibers::wait(fibers::State::kAtBarrier); }
inline void __threadfence() {}

inline int own_lane() { return int(fibers::current - fibers::all.data()) % fibers::kWarp; }

// `from`: the lane whose value this one gets. Its callers are not inlined: `shuffle` is the address
// that they return to.
template <class T>
T exchanged(const void* shuffle, unsigned mask, T value, int from) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  if (!(mask >> own_lane() & 1)) fibers::fail("a shuffle whose mask leaves out the caller");
  fibers::Fiber* self = fibers::current;
  self->shuffle = shuffle;
  self->together = mask;
  std::memcpy(self->value, &value, sizeof(value));
  self->from = from;
  fibers::wait(fibers::State::kAtShuffle);
  std::memcpy(&value, self->received, sizeof(value));
  return value;
}
template <class T>
[[gnu::noinline]] T __shfl_xor_sync(unsigned mask, T value, int other) {
  return exchanged(__builtin_return_address(0), mask, value, own_lane() ^ other);
}
template <class T>
[[gnu::noinline]] T __shfl_down_sync(unsigned mask, T value, int lanes) {
  const int from = own_lane() + lanes;
  return exchanged(__builtin_return_address(0), mask, value,
                   from < fibers::kWarp ? from : own_lane());
}

[[gnu::noinline]] inline void __syncwarp(unsigned mask = 0xffffffffu) {
  exchanged(__builtin_return_address(0), mask, 0, own_lane());
}

template <class T>
T __ldg(const T* address) {
  return *address;
}

inline int atomicAdd(int* address, int value) {
  const int before = *address;
  *address += value;
  return before;
}
inline unsigned long long atomicExch(unsigned long long* address, unsigned long long value) {
  std::swap(*address, value);
  return value;
}

inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

inline double __hiloint2double(int high, int low) {
  const uint64_t bits = uint64_t(uint32_t(high)) << 32 | uint32_t(low);
  double x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
inline long long __double_as_longlong(double x) {
  long long bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
inline double __longlong_as_double(long long bits) {
  double x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
inline int __double2loint(double x) { return int(__double_as_longlong(x) & 0xffffffff); }
inline int __double2hiint(double x) { return int(__double_as_longlong(x) >> 32); }
// Four bytes out of eight, by the lower three bits of each of the selector's four digits.
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const uint64_t bytes = uint64_t(high) << 32 | low;
  unsigned picked = 0;
  for (int i = 0; i < 4; ++i)
    picked |= unsigned(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return picked;
}

// ---- the runtime, as far as the launchers call it ----------------------------------------------

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

// Two devices, of which the second has no more shared memory than any block gets; which of them is
// the current one, how much memory a launch took, and how often kernels asked for more.
namespace fibers {
constexpr int kSharedMemory[] = {101376, 0};
inline int device = 0;
inline size_t shared_memory_taken = 0;
inline std::map<std::pair<int, const void*>, int> asked_for_memory;
}  // namespace fibers

inline cudaError_t cudaGetDevice(int* device) {
  *device = fibers::device;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int device) {
  *value = fibers::kSharedMemory[device];
  return cudaSuccess;
}
inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int) {
  ++fibers::asked_for_memory[{fibers::device, kernel}];
  return cudaSuccess;
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  fibers::shared_memory_taken = config->dynamicSmemBytes;
  fibers::launch(config->gridDim, config->blockDim, [=] { kernel(arguments...); });
  return cudaSuccess;
}
