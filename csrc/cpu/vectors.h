// Vectors of GIFT_VECTOR_BYTES bytes, and the four storage types read into and written from them.
//
// The compiler's own vector types: the same source becomes SSE2, AVX2, AVX-512 or NEON. Only the
// conversion of float16 names an instruction set.

// A narrower type is read into, and rounded from, as many lanes as the accumulator has.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(GIFT_VECTOR_BYTES)));
};
template <class T>
using Vector = typename VectorOf<T>::type;
template <class T>
constexpr int kLanes = GIFT_VECTOR_BYTES / sizeof(T);

// uint16 in as many lanes as a vector of float has.
typedef uint16_t ShortVector __attribute__((vector_size(GIFT_VECTOR_BYTES / 2)));

template <class To, class From>
inline To bits_of(From x) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To y;
  memcpy(&y, &x, sizeof(y));
  return y;
}

// ---- one value -------------------------------------------------------------------------------

inline double widen(double x) { return x; }
inline float widen(float x) { return x; }
inline float widen(BFloat16 x) { return bits_of<float>(uint32_t(x.bits) << 16); }
inline float widen(Float16 x) {
#if defined(__aarch64__)
  return bits_of<__fp16>(x.bits);
#else
  const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = uint32_t(x.bits & 0x7fffu) << 13;  // exponent and mantissa, in place
  if (magnitude >= 0x0f800000u) return bits_of<float>(sign | 0x7f800000u | magnitude);  // inf, NaN
  // The exponent's bias differs by 112; a product makes the subnormals come out right too.
  return bits_of<float>(sign | bits_of<uint32_t>(bits_of<float>(magnitude) * 0x1p112f));
#endif
}

template <class T>
inline T narrow(double x);
template <>
inline double narrow<double>(double x) {
  return x;
}
template <>
inline float narrow<float>(double x) {
  return float(x);
}
template <>
inline BFloat16 narrow<BFloat16>(double value) {
  const float x = float(value);
  const uint32_t bits = bits_of<uint32_t>(x);
  if (x != x) return {0x7fc0};
  return {uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};  // to nearest, ties to even
}
template <>
inline Float16 narrow<Float16>(double value) {
#if defined(__aarch64__)
  return {bits_of<uint16_t>(__fp16(float(value)))};
#else
  const float x = float(value);
  const uint32_t bits = bits_of<uint32_t>(x);
  const uint16_t sign = uint16_t((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {uint16_t(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {uint16_t(sign | 0x7c00u)};  // 65520 and above round to inf
  if (magnitude < 0x38800000u) {  // subnormal: the sum with 0.5 leaves the rounded bits at the end
    const float sum = bits_of<float>(magnitude) + 0.5f;
    return {uint16_t(sign | (bits_of<uint32_t>(sum) - 0x3f000000u))};
  }
  const uint32_t odd = (magnitude >> 13) & 1u;
  return {uint16_t(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13))};
#endif
}

// ---- a vector: Accumulator is float or double --------------------------------------------------

template <class Accumulator, class T>
inline Vector<Accumulator> load(const T* from) {
  Vector<Accumulator> x;
  for (int i = 0; i < kLanes<Accumulator>; ++i) x[i] = Accumulator(widen(from[i]));
  return x;
}

template <class Accumulator, class T>
inline void store(T* to, Vector<Accumulator> x) {
  for (int i = 0; i < kLanes<Accumulator>; ++i) to[i] = narrow<T>(x[i]);
}

template <>
inline Vector<float> load<float, float>(const float* from) {
  Vector<float> x;
  memcpy(&x, from, sizeof(x));
  return x;
}
template <>
inline void store<float, float>(float* to, Vector<float> x) {
  memcpy(to, &x, sizeof(x));
}

template <>
inline Vector<double> load<double, double>(const double* from) {
  Vector<double> x;
  memcpy(&x, from, sizeof(x));
  return x;
}
template <>
inline void store<double, double>(double* to, Vector<double> x) {
  memcpy(to, &x, sizeof(x));
}

// Two bytes to four and back. What the compilers make of the portable form takes five instructions.
#if defined(__x86_64__) && GIFT_VECTOR_BYTES == 32
inline Vector<uint32_t> widen_bits(const void* from) {
  return (Vector<uint32_t>)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)from));
}
inline ShortVector narrow_bits(Vector<uint32_t> x) {
  return (ShortVector)_mm_packus_epi32(_mm256_castsi256_si128((__m256i)x),
                                       _mm256_extracti128_si256((__m256i)x, 1));
}
#elif defined(__x86_64__) && GIFT_VECTOR_BYTES == 64
inline Vector<uint32_t> widen_bits(const void* from) {
  return (Vector<uint32_t>)_mm512_maskz_cvtepu16_epi32(0xffff,
                                                       _mm256_loadu_si256((const __m256i*)from));
}
inline ShortVector narrow_bits(Vector<uint32_t> x) {
  return (ShortVector)_mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)x);
}
#else
inline Vector<uint32_t> widen_bits(const void* from) {
  ShortVector x;
  memcpy(&x, from, sizeof(x));
  return __builtin_convertvector(x, Vector<uint32_t>);
}
inline ShortVector narrow_bits(Vector<uint32_t> x) {
  return __builtin_convertvector(x, ShortVector);
}
#endif

template <>
inline Vector<float> load<float, BFloat16>(const BFloat16* from) {
  return (Vector<float>)(widen_bits(from) << 16);
}
template <>
inline void store<float, BFloat16>(BFloat16* to, Vector<float> x) {
  const Vector<uint32_t> bits = (Vector<uint32_t>)x;
  const Vector<uint32_t> rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Vector<uint32_t> nan = (Vector<uint32_t>)(x != x);
  const ShortVector y = narrow_bits(nan ? (Vector<uint32_t>){} + 0x7fc0u : rounded);
  memcpy(to, &y, sizeof(y));
}

// float16 has instructions of its own.
#if defined(__x86_64__) && GIFT_VECTOR_BYTES == 32
template <>
inline Vector<float> load<float, Float16>(const Float16* from) {
  return (Vector<float>)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from));
}
template <>
inline void store<float, Float16>(Float16* to, Vector<float> x) {
  _mm_storeu_si128((__m128i*)to, _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__x86_64__) && GIFT_VECTOR_BYTES == 64
// The masked forms, all lanes on: GCC 12 warns of an uninitialised value inside its plain ones.
template <>
inline Vector<float> load<float, Float16>(const Float16* from) {
  return (Vector<float>)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256((const __m256i*)from));
}
template <>
inline void store<float, Float16>(Float16* to, Vector<float> x) {
  _mm256_storeu_si256((__m256i*)to,
                      _mm512_maskz_cvtps_ph(0xffff, (__m512)x, _MM_FROUND_TO_NEAREST_INT));
}
#endif

// ---- stores past the cache ----------------------------------------------------------------------
// For outputs that no cache holds until somebody reads them: the line is not read first. A stream
// store is one whole, aligned vector; what has none here is stored as usual.

#if defined(__x86_64__)
template <class Accumulator, class T>
constexpr bool kStreams = std::is_same_v<Accumulator, float> && std::is_same_v<T, float>;

inline void stream(float* to, Vector<float> x) {
#if GIFT_VECTOR_BYTES == 64
  _mm512_stream_ps(to, (__m512)x);
#elif GIFT_VECTOR_BYTES == 32
  _mm256_stream_ps(to, (__m256)x);
#else
  _mm_stream_ps(to, (__m128)x);
#endif
}
#else
template <class Accumulator, class T>
constexpr bool kStreams = false;
#endif

// How many floats lie before the next aligned vector: fewer than a vector has.
inline int64_t floats_to_alignment(const float* address) {
  const uintptr_t past = reinterpret_cast<uintptr_t>(address) % GIFT_VECTOR_BYTES;
  return past == 0 ? 0 : int64_t(GIFT_VECTOR_BYTES - past) / int64_t(sizeof(float));
}

// Makes streamed stores visible before whatever this thread does next.
inline void stream_fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// ---- fewer elements than a vector has -----------------------------------------------------------

// Copies `bytes`, 1 to kSize, between memory and an array of kSize, the rest of which they leave
// zero or do not read. AVX-512 has masked moves; elsewhere this is a call, and slow.
template <size_t kSize>
inline void load_bytes(void* array, const void* from, int64_t bytes) {
#if defined(__x86_64__) && GIFT_VECTOR_BYTES == 64
  if constexpr (kSize <= 64) {
    const __m512i x = _mm512_maskz_loadu_epi8(~uint64_t(0) >> (64 - bytes), from);
    memcpy(array, &x, kSize);
    return;
  }
#endif
  memset(array, 0, kSize);
  memcpy(array, from, size_t(bytes));
}

template <size_t kSize>
inline void store_bytes(void* to, const void* array, int64_t bytes) {
#if defined(__x86_64__) && GIFT_VECTOR_BYTES == 64
  if constexpr (kSize <= 64) {
    __m512i x = {};
    memcpy(&x, array, kSize);
    _mm512_mask_storeu_epi8(to, ~uint64_t(0) >> (64 - bytes), x);
    return;
  }
#endif
  memcpy(to, array, size_t(bytes));
}

// The first `count` lanes, at least one, the others zero.
template <class Accumulator, class T>
inline Vector<Accumulator> load_part(const T* from, int64_t count) {
  T padded[kLanes<Accumulator>];
  load_bytes<sizeof(padded)>(padded, from, count * int64_t(sizeof(T)));
  return load<Accumulator>(padded);
}

template <class Accumulator, class T>
inline void store_part(T* to, Vector<Accumulator> x, int64_t count) {
  T padded[kLanes<Accumulator>];
  store<Accumulator>(padded, x);
  store_bytes<sizeof(padded)>(to, padded, count * int64_t(sizeof(T)));
}

// at(i) in each lane i below `count`, `rest` in the others. The lanes are put together in
// registers: a vector read from elements that were just written one by one waits until the cache
// has them.
template <class T, class At>
inline Vector<T> collect_lanes(int64_t count, T rest, const At& at) {
  Vector<T> x = Vector<T>{} + rest;
  for (int i = 0; i < kLanes<T>; ++i)
    if (i < count) x[i] = at(i);
  return x;
}

// x in the lanes [from, to), zero in the others, whatever was in them.
template <class T>
inline Vector<T> keep_lanes(Vector<T> x, int64_t from, int64_t to) {
  using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  Vector<Index> lane;
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = Index(i);
  const auto kept = (lane >= Index(from)) & (lane < Index(to));
  return kept ? x : Vector<T>{};
}

// The sum of the lanes: halves onto each other down to 16 bytes, the rest in double.
template <class T, int kBytes>
inline double sum_of_lanes(const T* lanes) {
  if constexpr (kBytes > 16) {
    typedef T Half __attribute__((vector_size(kBytes / 2)));
    Half low, high;
    memcpy(&low, lanes, sizeof(low));
    memcpy(&high, lanes + kBytes / 2 / sizeof(T), sizeof(high));
    low += high;
    T folded[kBytes / 2 / sizeof(T)];
    memcpy(folded, &low, sizeof(low));
    return sum_of_lanes<T, kBytes / 2>(folded);
  } else if constexpr (sizeof(T) == 4) {
    return (double(lanes[0]) + double(lanes[1])) + (double(lanes[2]) + double(lanes[3]));
  } else {
    return double(lanes[0]) + double(lanes[1]);
  }
}
template <class T>
inline double sum_of_lanes(Vector<T> x) {
  T lanes[kLanes<T>];
  memcpy(lanes, &x, sizeof(x));
  return sum_of_lanes<T, GIFT_VECTOR_BYTES>(lanes);
}

// ---- exp(x) for x <= 0 -------------------------------------------------------------------------
// x = n ln 2 + r, |r| <= ln(2)/2; the series of exp(r), times 2^n. Within 2 units in the last place
// (tests/kernels); 0 where the result would be subnormal; NaN stays.

template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  using Bits = uint32_t;
  static constexpr float smallest = -87.0f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float to_integer = 0x1.8p23f;  // adding it rounds to an integer in the low bits
  static constexpr int mantissa = 23, bias = 127, terms = 7;
};
template <>
struct ExpConstants<double> {
  using Bits = uint64_t;
  static constexpr double smallest = -708.0, ln2_high = 6.93147180369123816490e-01,
                          ln2_low = 1.90821492927058770002e-10;
  static constexpr double to_integer = 0x1.8p52;
  static constexpr int mantissa = 52, bias = 1023, terms = 13;
};

template <class T>
inline Vector<T> exp_of_nonpositive(Vector<T> x) {
  using K = ExpConstants<T>;
  using Bits = typename K::Bits;
  const Vector<T> zero = {};
  const Vector<T> bounded = x < K::smallest ? zero + K::smallest : x;
  const Vector<T> shifted = bounded * T(1.4426950408889634) + K::to_integer;
  const Vector<T> n = shifted - K::to_integer;
  const Vector<T> r = (bounded - n * K::ln2_high) - n * K::ln2_low;
  Vector<T> series = zero + T(1);
  for (int k = K::terms; k > 0; --k) series = series * (r * T(1.0 / k)) + T(1);
  // The integer n sits in the low bits of `shifted`; moved into the exponent it is 2^n.
  const Vector<Bits> power = ((Vector<Bits>)shifted + K::bias) << K::mantissa;
  return x < K::smallest ? zero : series * (Vector<T>)power;
}
