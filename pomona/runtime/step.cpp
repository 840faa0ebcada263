// One decoding step of a pre-norm decoder on the CPU: embed, blocks, head. See native.py for who calls it.
//
// A step takes R rows, each one token of one sequence (its slot in the cache) at one position. Rows of one sequence
// may follow each other in a step (a prompt) and rows of several sequences may meet (a batch): nothing is padded.
// Activations and sums are float32, weights are read as they are stored. All threads run the whole step together and
// meet at barriers, five to each block; between barriers every thread owns a range of output rows.
//
// Shape suffixes: R rows, D hidden, N query heads, K key-value heads, H head size, F feed-forward, V vocabulary,
// O/I outputs/inputs of a weight, G groups of a quantized row, T positions.

#include <atomic>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

#include <omp.h>
#include <sched.h>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512BF16__)
#define WITH_BF16_DOT 1
#endif
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

// ---------------------------------------------------------------- what native.py hands over (same order there)

enum Storage : int32_t { FLOAT32 = 0, BFLOAT16 = 1, INT4 = 2, INT8 = 3 };
enum Activation : int32_t { SILU = 0, GELU = 1, GELU_TANH = 2, RELU = 3 };

struct Matrix {
    const void* data;        // (O, I); INT4: 8 codes to a 32-bit word, lowest bits first, offset by 8
    const void* scale;       // INT4: (O, G) float32 or bfloat16; INT8: (O,) float32
    const int8_t* zero;      // INT4: (O, G), or null when all are 0
    const int32_t* order;    // INT4: (I,) which input each column reads, or null for the natural order
    const float* bias;       // (O,) or null
    int64_t rows, columns, groups, group_size;
    int32_t storage, scale_is_bfloat16;
};

struct Norm {
    const float* gain;       // null: no norm
    const float* bias;       // null: none
    float epsilon;
    int32_t centred;         // 1: LayerNorm, 0: RMSNorm
};

struct Block {
    Norm norm_attention, norm_ffn, norm_query, norm_key;
    Matrix query, key, value, output, up, gate, down;   // gate.data null: not gated
};

struct Model {
    const Block* blocks;
    Matrix embedding, positions, head, screen;          // positions.data, screen.data may be null
    const float* screen_error;                          // (V,) norm of each row's rounding error in `screen`
    Norm final_norm;
    const float* cosine;                                // (T, rotary_size) or null
    const float* sine;
    int64_t block_count, hidden_size, heads, kv_heads, head_dim, feed_forward, vocabulary, rotary_size;
    float scaling;
    int32_t activation;
};

struct Cache {
    void* keys;              // (L, slots, K, T, H), float32 or bfloat16
    void* values;
    int64_t slots, capacity;
    int32_t is_bfloat16;
};

// ---------------------------------------------------------------- vectors of 16, whatever the processor has

typedef float f16x __attribute__((vector_size(64)));
typedef uint32_t u16x __attribute__((vector_size(64)));
typedef int32_t i16x __attribute__((vector_size(64)));
typedef uint16_t h16x __attribute__((vector_size(32)));
typedef int8_t b16x __attribute__((vector_size(16)));

constexpr int LANES = 16, CHUNK = 128;

// Rows of weights to a tile, and how far ahead a tile asks for memory. Several rows are read at once, in an order that
// the processor does not foresee; but a thread's rows lie one after the other, so what it needs next is always this
// many bytes further on. Without this, waiting for memory takes most of a step. Measured on Zen 5.
constexpr int TILE_INT4 = 4, AHEAD_INT4 = 4096, TILE_OTHER = 2, AHEAD_OTHER = 8192;

template <class V, class P> inline V load(const P* from) { V v; std::memcpy(&v, from, sizeof v); return v; }
inline f16x zeros() { return f16x{}; }
inline f16x all(float x) { return x - f16x{}; }
inline float sum(f16x v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps(load<__m512>(&v));
#else
    float part[LANES];
    std::memcpy(part, &v, sizeof part);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) part[i] += part[i + width];
    return part[0];
#endif
}
inline float from_bfloat16(uint16_t x) { uint32_t w = uint32_t(x) << 16; float f; std::memcpy(&f, &w, 4); return f; }
inline uint16_t to_bfloat16(float x) {   // to nearest, ties to even; a NaN stays one
    uint32_t w; std::memcpy(&w, &x, 4);
    if ((w & 0x7fffffffu) > 0x7f800000u) return uint16_t((w >> 16) | 0x40u);
    return uint16_t((w + 0x7fffu + ((w >> 16) & 1u)) >> 16);
}

struct Float32 {
    typedef float type;
    static f16x vector(const float* p) { return load<f16x>(p); }
    static float scalar(float x) { return x; }
    static float store(float x) { return x; }
};
struct BFloat16 {
    typedef uint16_t type;
    static f16x vector(const uint16_t* p) {
        u16x w = __builtin_convertvector(load<h16x>(p), u16x) << 16;
        return load<f16x>(&w);
    }
    static float scalar(uint16_t x) { return from_bfloat16(x); }
    static uint16_t store(float x) { return to_bfloat16(x); }
};
struct Int8 {
    typedef int8_t type;
    static f16x vector(const int8_t* p) {
#if defined(__AVX512F__)
        const __m512 v = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
        return load<f16x>(&v);
#else
        return __builtin_convertvector(__builtin_convertvector(load<b16x>(p), i16x), f16x);
#endif
    }
    static float scalar(int8_t x) { return float(x); }
};

// exp(x) to about 2 units in the last place, without branches so that loops over it become vector code.
inline float exponential(float x) {
    x = std::min(std::max(x, -87.0f), 88.0f);
    float n = std::nearbyint(x * 1.44269504088896341f);
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = (int32_t(n) + 127) << 23;
    float scale; std::memcpy(&scale, &bits, 4);
    return p * scale;
}

// ---------------------------------------------------------------- memory that a step works in

struct Buffer {
    float* data = nullptr;
    size_t size = 0;
    float* get(size_t wanted) {
        if (wanted > size) {
            ::operator delete[](data, std::align_val_t(64));
            data = nullptr; size = 0;
            data = static_cast<float*>(::operator new[](wanted * sizeof(float), std::align_val_t(64)));
            size = wanted;
        }
        return data;
    }
    ~Buffer() { ::operator delete[](data, std::align_val_t(64)); }
};

// Inputs of a product, laid out for the storage of the weights. Every thread makes its own: a barrier costs more.
struct Inputs {
    Buffer plain, mixed, sums;
    int64_t width = 0, chunks = 0;   // columns; columns / CHUNK rounded up
    const float* source = nullptr;
    int64_t stride = 0;
    bool has_mixed = false;
    const int32_t* order = nullptr;

    void set(const float* x, int64_t ld, int64_t columns) {
        source = x; stride = ld; width = columns; chunks = (columns + CHUNK - 1) / CHUNK; has_mixed = false;
    }
    const float* row(int64_t r) const { return source + r * stride; }

    // For INT4. In one chunk of 128 columns, 16-bit lane m of the j-th of 4 vectors holds column 4 m + j (32-bit
    // lane l of the j-th of 8: column 8 l + j), so that shifting all words alike brings the codes under the inputs.
    void mix(int64_t R, const int32_t* wanted) {
        if (has_mixed && wanted == order) return;
        has_mixed = true; order = wanted;
        const int64_t per = chunks * CHUNK;
        float* lane_sums = sums.get(R * chunks * LANES);
        alignas(64) float part[CHUNK];
#if WITH_BF16_DOT
        // A float32 is the sum of two bfloat16 to 16 bits: the products below lose almost nothing.
        uint16_t* halves = reinterpret_cast<uint16_t*>(mixed.get(R * per));
#else
        float* out = mixed.get(R * per);
#endif
        for (int64_t r = 0; r < R; ++r)
            for (int64_t c = 0; c < chunks; ++c) {
                const int64_t count = std::min<int64_t>(CHUNK, width - c * CHUNK);
                const float* x = row(r);
                if (order) for (int64_t i = 0; i < count; ++i) part[i] = x[order[c * CHUNK + i]];
                else std::memcpy(part, x + c * CHUNK, count * sizeof(float));
                for (int64_t i = count; i < CHUNK; ++i) part[i] = 0;
                float* s = lane_sums + (r * chunks + c) * LANES;
                for (int l = 0; l < LANES; ++l) {
                    float total = 0;
                    for (int i = 0; i < 8; ++i) total += part[8 * l + i];
                    s[l] = total;
                }
#if WITH_BF16_DOT
                uint16_t* high = halves + (r * chunks + c) * 2 * CHUNK;
                uint16_t* low = high + CHUNK;
                for (int j = 0; j < 4; ++j)
                    for (int m = 0; m < 32; ++m) {
                        const float v = part[4 * m + j];
                        const uint16_t h = to_bfloat16(v);
                        high[32 * j + m] = h;
                        low[32 * j + m] = to_bfloat16(v - from_bfloat16(h));
                    }
#else
                float* o = out + (r * chunks + c) * CHUNK;
                for (int j = 0; j < 8; ++j)
                    for (int l = 0; l < LANES; ++l) o[LANES * j + l] = part[8 * l + j];
#endif
            }
    }
};

// ---------------------------------------------------------------- products: NR weight rows x MB input rows at once

template <class S, int NR, int MB>
inline void product(const Matrix& w, int64_t o, const Inputs& x, int64_t r, float out[NR][MB]) {
    typedef typename S::type type;
    constexpr int U = 2;  // sums that do not wait for each other; the same for every tile, so that all round alike
    const type* row[NR];
    const float* in[MB];
    f16x total[NR][MB][U];
    for (int b = 0; b < MB; ++b) in[b] = x.row(r + b);
    for (int a = 0; a < NR; ++a) {
        row[a] = static_cast<const type*>(w.data) + (o + a) * w.columns;
        for (int b = 0; b < MB; ++b)
            for (int u = 0; u < U; ++u) total[a][b][u] = zeros();
    }
    const int64_t columns = w.columns;
    int64_t i = 0;
    for (; i + U * LANES <= columns; i += U * LANES)
        for (int u = 0; u < U; ++u)
            for (int a = 0; a < NR; ++a) {
                const type* at = row[a] + i + u * LANES;
                __builtin_prefetch(reinterpret_cast<const char*>(at) + AHEAD_OTHER);
                const f16x v = S::vector(at);
                for (int b = 0; b < MB; ++b) total[a][b][u] += v * load<f16x>(in[b] + i + u * LANES);
            }
    for (int a = 0; a < NR; ++a)
        for (int b = 0; b < MB; ++b) {
            for (int u = 1; u < U; ++u) total[a][b][0] += total[a][b][u];
            float s = sum(total[a][b][0]);
            for (int64_t k = i; k < columns; ++k) s += S::scalar(row[a][k]) * in[b][k];
            out[a][b] = s;
        }
}

// Where the scales of a chunk begin, and how many of them it needs: group sizes divide 128 or are multiples of it.
struct Groups {
    int64_t size, per_chunk, chunks_per_group;
    explicit Groups(const Matrix& w)
        : size(w.group_size),
          per_chunk(w.group_size < CHUNK ? CHUNK / w.group_size : 1),
          chunks_per_group(w.group_size < CHUNK ? 1 : w.group_size / CHUNK) {}
    int64_t first(int64_t c) const { return per_chunk > 1 ? c * per_chunk : c / chunks_per_group; }
};

#if WITH_BF16_DOT
template <bool HAS_ZERO, int NR, int MB>
inline void product_int4(const Matrix& w, int64_t o, const Inputs& x, int64_t r, float out[NR][MB]) {
    const Groups groups(w);
    const int64_t words = (w.columns + 7) / 8;
    // The index of a table look-up is five bits: a code and the lowest bit of its neighbour, which must not matter.
    alignas(64) uint16_t codes[32];
    for (int i = 0; i < 32; ++i) codes[i] = to_bfloat16(float((i & 15) - 8));
    const __m512i table = _mm512_load_si512(codes);
    alignas(64) int32_t which[LANES];
    for (int l = 0; l < LANES; ++l) which[l] = groups.per_chunk > 1 ? int32_t(l * 8 / groups.size) : 0;
    const __m512i spread = _mm512_load_si512(which);

    __m512 total[NR][MB];
    for (int a = 0; a < NR; ++a)
        for (int b = 0; b < MB; ++b) total[a][b] = _mm512_setzero_ps();
    const uint16_t* halves = reinterpret_cast<const uint16_t*>(x.mixed.data);

    for (int64_t c = 0; c < x.chunks; ++c) {
        const int64_t left = words - c * LANES;
        const __mmask16 mask = left >= LANES ? __mmask16(0xffff) : __mmask16((1u << left) - 1);
        const int64_t g = groups.first(c);
        const int64_t some = std::min(groups.per_chunk, w.groups - g);
        const __mmask16 wanted = __mmask16((1u << some) - 1);
        for (int a = 0; a < NR; ++a) {
            const uint32_t* row = static_cast<const uint32_t*>(w.data) + (o + a) * words;
            __builtin_prefetch(reinterpret_cast<const char*>(row + c * LANES) + AHEAD_INT4);
            const __m512i v = _mm512_maskz_loadu_epi32(mask, row + c * LANES);
            const int64_t at = (o + a) * w.groups + g;
            __m512 scale, zero = _mm512_setzero_ps();
            if (groups.per_chunk == 1) {
                scale = _mm512_set1_ps(w.scale_is_bfloat16 ? from_bfloat16(static_cast<const uint16_t*>(w.scale)[at])
                                                           : static_cast<const float*>(w.scale)[at]);
                if (HAS_ZERO) zero = _mm512_set1_ps(float(w.zero[at]));
            } else {
                if (w.scale_is_bfloat16) {
                    const __m256i h = _mm256_maskz_loadu_epi16(wanted, static_cast<const uint16_t*>(w.scale) + at);
                    scale = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
                } else {
                    scale = _mm512_maskz_loadu_ps(wanted, static_cast<const float*>(w.scale) + at);
                }
                scale = _mm512_permutexvar_ps(spread, scale);
                if (HAS_ZERO) {
                    const __m128i z = _mm_maskz_loadu_epi8(wanted, w.zero + at);
                    zero = _mm512_permutexvar_ps(spread, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(z)));
                }
            }
            __m512bh code[4];
            code[0] = (__m512bh)_mm512_permutexvar_epi16(v, table);
            code[1] = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(v, 4), table);
            code[2] = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(v, 8), table);
            code[3] = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(v, 12), table);
            for (int b = 0; b < MB; ++b) {
                const uint16_t* in = halves + ((r + b) * x.chunks + c) * 2 * CHUNK;
                __m512 high = _mm512_setzero_ps(), low = _mm512_setzero_ps();
                if (HAS_ZERO)
                    low = _mm512_mul_ps(zero, _mm512_sub_ps(low, _mm512_loadu_ps(x.sums.data + ((r + b) * x.chunks + c) * LANES)));
                for (int j = 0; j < 4; ++j) {
                    high = _mm512_dpbf16_ps(high, code[j], (__m512bh)_mm512_loadu_si512(in + 32 * j));
                    low = _mm512_dpbf16_ps(low, code[j], (__m512bh)_mm512_loadu_si512(in + CHUNK + 32 * j));
                }
                total[a][b] = _mm512_fmadd_ps(scale, _mm512_add_ps(high, low), total[a][b]);
            }
        }
    }
    for (int a = 0; a < NR; ++a)
        for (int b = 0; b < MB; ++b) out[a][b] = _mm512_reduce_add_ps(total[a][b]);
}
#else
template <bool HAS_ZERO, int NR, int MB>
inline void product_int4(const Matrix& w, int64_t o, const Inputs& x, int64_t r, float out[NR][MB]) {
    const Groups groups(w);
    const int64_t words = (w.columns + 7) / 8;
    f16x total[NR][MB];
    for (int a = 0; a < NR; ++a)
        for (int b = 0; b < MB; ++b) total[a][b] = zeros();
    for (int64_t c = 0; c < x.chunks; ++c) {
        const int64_t left = std::min<int64_t>(LANES, words - c * LANES);
        const int64_t g = groups.first(c);
        for (int a = 0; a < NR; ++a) {
            const uint32_t* row = static_cast<const uint32_t*>(w.data) + (o + a) * words + c * LANES;
            u16x v = {};
            std::memcpy(&v, row, left * sizeof(uint32_t));
            const int64_t at = (o + a) * w.groups;
            f16x scale, zero = zeros();
            for (int l = 0; l < LANES; ++l) {
                int64_t k = at + std::min(g + (groups.per_chunk > 1 ? l * 8 / groups.size : 0), w.groups - 1);
                scale[l] = w.scale_is_bfloat16 ? from_bfloat16(static_cast<const uint16_t*>(w.scale)[k])
                                               : static_cast<const float*>(w.scale)[k];
                if (HAS_ZERO) zero[l] = float(w.zero[k]);
            }
            for (int b = 0; b < MB; ++b) {
                const float* in = x.mixed.data + ((r + b) * x.chunks + c) * CHUNK;
                f16x part = zeros();
                if (HAS_ZERO) part = -zero * load<f16x>(x.sums.data + ((r + b) * x.chunks + c) * LANES);
                for (int j = 0; j < 8; ++j) {
                    const i16x code = __builtin_convertvector((v >> (4 * j)) & 15u, i16x) - 8;
                    part += __builtin_convertvector(code, f16x) * load<f16x>(in + LANES * j);
                }
                total[a][b] += scale * part;
            }
        }
    }
    for (int a = 0; a < NR; ++a)
        for (int b = 0; b < MB; ++b) out[a][b] = sum(total[a][b]);
}
#endif

// One kind of storage: how a tile of outputs is computed, and how many rows it has.
template <class S>
struct Dense {
    static constexpr int ROWS = TILE_OTHER;
    template <int NR, int MB>
    static void tile(const Matrix& w, int64_t o, const Inputs& x, int64_t r, float out[NR][MB]) {
        product<S, NR, MB>(w, o, x, r, out);
        if (w.storage != INT8) return;
        for (int a = 0; a < NR; ++a)
            for (int b = 0; b < MB; ++b) out[a][b] *= static_cast<const float*>(w.scale)[o + a];
    }
};
template <bool HAS_ZERO>
struct Packed {
    static constexpr int ROWS = TILE_INT4;
    template <int NR, int MB>
    static void tile(const Matrix& w, int64_t o, const Inputs& x, int64_t r, float out[NR][MB]) {
        product_int4<HAS_ZERO, NR, MB>(w, o, x, r, out);
    }
};

template <class F>
inline void by_storage(const Matrix& w, F&& f) {
    switch (w.storage) {
        case FLOAT32: f(Dense<Float32>()); break;
        case BFLOAT16: f(Dense<BFloat16>()); break;
        case INT8: f(Dense<Int8>()); break;
        default:
            if (w.zero) f(Packed<true>());
            else f(Packed<false>());
    }
}

template <class K, int NR, int MB>
inline void tile(const Matrix& w, int64_t o, const Inputs& x, int64_t r, float* y, int64_t ld, bool add) {
    float out[NR][MB];
    K::template tile<NR, MB>(w, o, x, r, out);
    for (int a = 0; a < NR; ++a)
        for (int b = 0; b < MB; ++b) {
            const float value = out[a][b] + (w.bias ? w.bias[o + a] : 0.0f);
            float& to = y[(r + b) * ld + o + a];
            to = add ? to + value : value;
        }
}

template <class K, int NR>
inline void tiles(const Matrix& w, int64_t o, const Inputs& x, int64_t R, float* y, int64_t ld, bool add) {
    int64_t r = 0;
    for (; r + 4 <= R; r += 4) tile<K, NR, 4>(w, o, x, r, y, ld, add);
    for (; r < R; ++r) tile<K, NR, 1>(w, o, x, r, y, ld, add);
}

struct Range { int64_t begin, end; };
inline Range share(int64_t count, int thread, int threads, int64_t step) {
    const int64_t parts = (count + step - 1) / step;
    return {std::min(count, parts * thread / threads * step), std::min(count, parts * (thread + 1) / threads * step)};
}

// y[r, o] (+)= W[o, :] . x[r, :] + bias[o] for this thread's share of the outputs.
inline void multiply(const Matrix& w, Inputs& x, int64_t R, float* y, int64_t ld, bool add, int thread, int threads) {
    if (w.storage == INT4) x.mix(R, w.order);
    const Range mine = share(w.rows, thread, threads, LANES);
    by_storage(w, [&](auto kind) {
        typedef decltype(kind) K;
        int64_t o = mine.begin;
        for (; o + K::ROWS <= mine.end; o += K::ROWS) tiles<K, K::ROWS>(w, o, x, R, y, ld, add);
        for (; o < mine.end; ++o) tiles<K, 1>(w, o, x, R, y, ld, add);
    });
}

// ---------------------------------------------------------------- the other parts of a block

inline void normalize(const Norm& norm, const float* x, float* y, int64_t size) {
    const int64_t whole = size / LANES * LANES;
    float mean = 0, squares = 0;
    if (norm.centred) {
        f16x total = zeros();
        for (int64_t i = 0; i < whole; i += LANES) total += load<f16x>(x + i);
        mean = sum(total);
        for (int64_t i = whole; i < size; ++i) mean += x[i];
        mean /= float(size);
    }
    f16x total = zeros();
    for (int64_t i = 0; i < whole; i += LANES) { const f16x d = load<f16x>(x + i) - mean; total += d * d; }
    squares = sum(total);
    for (int64_t i = whole; i < size; ++i) squares += (x[i] - mean) * (x[i] - mean);
    const float scale = 1.0f / std::sqrt(squares / float(size) + norm.epsilon);
    for (int64_t i = 0; i < size; ++i) y[i] = (x[i] - mean) * scale * norm.gain[i] + (norm.bias ? norm.bias[i] : 0.0f);
}

inline void activate(int32_t kind, float* x, const float* factor, int64_t count) {
    switch (kind) {
        case SILU:
            for (int64_t i = 0; i < count; ++i) x[i] = x[i] / (1.0f + exponential(-x[i]));
            break;
        case GELU:
            for (int64_t i = 0; i < count; ++i) x[i] = 0.5f * x[i] * (1.0f + std::erf(x[i] * 0.70710678118654752f));
            break;
        case GELU_TANH:  // 0.5 (1 + tanh(u)) = 1 / (1 + exp(-2 u))
            for (int64_t i = 0; i < count; ++i) {
                const float u = 0.79788456080286536f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
                x[i] = x[i] / (1.0f + exponential(-2.0f * u));
            }
            break;
        default:
            for (int64_t i = 0; i < count; ++i) x[i] = std::max(x[i], 0.0f);
    }
    if (factor) for (int64_t i = 0; i < count; ++i) x[i] *= factor[i];
}

// Rotary positions, halves paired (i, i + size / 2), on the first `size` features of a head.
inline void rotate(float* x, const float* cosine, const float* sine, int64_t size) {
    const int64_t half = size / 2;
    for (int64_t i = 0; i < half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i + half] + a * sine[i + half];
    }
}

template <class S>
inline void attend(const float* query, const typename S::type* keys, const typename S::type* values, int64_t count,
                   int64_t H, float scaling, float* scores, float* out) {
    float top = -std::numeric_limits<float>::infinity();
    for (int64_t p = 0; p < count; ++p) {
        f16x total = zeros();
        int64_t i = 0;
        for (; i + LANES <= H; i += LANES) total += load<f16x>(query + i) * S::vector(keys + p * H + i);
        float s = sum(total);
        for (; i < H; ++i) s += query[i] * S::scalar(keys[p * H + i]);
        scores[p] = s * scaling;
        top = std::max(top, scores[p]);
    }
    float mass = 0;
    for (int64_t p = 0; p < count; ++p) scores[p] = exponential(scores[p] - top);
    for (int64_t p = 0; p < count; ++p) mass += scores[p];
    const float inverse = 1.0f / mass;
    int64_t i = 0;
    for (; i + LANES <= H; i += LANES) {
        f16x a = zeros(), b = zeros();
        int64_t p = 0;
        for (; p + 2 <= count; p += 2) {
            a += scores[p] * S::vector(values + p * H + i);
            b += scores[p + 1] * S::vector(values + (p + 1) * H + i);
        }
        if (p < count) a += scores[p] * S::vector(values + p * H + i);
        a = (a + b) * inverse;
        std::memcpy(out + i, &a, sizeof a);
    }
    for (; i < H; ++i) {
        float s = 0;
        for (int64_t p = 0; p < count; ++p) s += scores[p] * S::scalar(values[p * H + i]);
        out[i] = s * inverse;
    }
}

// Threads meet here. They spin, since the next meeting is microseconds away, and give way when it is not.
struct Barrier {
    std::atomic<int> waiting{0}, phase{0};
    int threads = 1;
    void meet() {
        const int now = phase.load(std::memory_order_relaxed);
        if (waiting.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
            waiting.store(0, std::memory_order_relaxed);
            phase.store(now + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; phase.load(std::memory_order_acquire) == now; ++spins) {
            if (spins > 4000) sched_yield();
#if defined(__x86_64__)
            else __builtin_ia32_pause();
#endif
        }
    }
};

struct Scratch { Buffer normed, scores; Inputs inputs; };

struct Workspace {
    Buffer hidden, query, key, value, mixed, up, gate, last, bound;
    std::vector<Scratch> threads;
    std::vector<float> best;
    std::vector<int64_t> argbest;
};

struct Call {
    const Model& m;
    const Cache& cache;
    Workspace& w;
    const int64_t R;
    const int32_t *tokens, *slots, *positions;
    const int64_t outputs;
    const int32_t* output_rows;
    const int32_t keep;              // 0: all logits, exactly. k: the k largest, exactly; the others are -infinity
    float* logits;                   // (outputs, V)
    int32_t* best;                   // (outputs,) index of the largest logit
    Barrier barrier;
};

inline void look_up(const Matrix& table, int64_t row, float* to, int64_t size, bool add) {
    for (int64_t i = 0; i < size; ++i) {
        const float v = table.storage == FLOAT32 ? static_cast<const float*>(table.data)[row * size + i]
                                                 : from_bfloat16(static_cast<const uint16_t*>(table.data)[row * size + i]);
        to[i] = add ? to[i] + v : v;
    }
}

// Normalized rows of the residual stream, as inputs of the next product.
inline void read_residual(Call& call, const Norm& norm, Scratch& own, const float* x, int64_t R) {
    const int64_t D = call.m.hidden_size;
    float* y = own.normed.get(R * D);
    for (int64_t r = 0; r < R; ++r) normalize(norm, x + r * D, y + r * D, D);
    own.inputs.set(y, D, D);
}

template <class S>
void attention(Call& call, const Block& block, int64_t layer, Scratch& own, int thread, int threads) {
    typedef typename S::type type;
    const Model& m = call.m;
    const int64_t H = m.head_dim, N = m.heads, K = m.kv_heads, T = call.cache.capacity;
    const int64_t head_size = T * H, slot_size = K * head_size;
    type* keys = static_cast<type*>(call.cache.keys) + layer * call.cache.slots * slot_size;
    type* values = static_cast<type*>(call.cache.values) + layer * call.cache.slots * slot_size;

    // Heads' norms and rotary positions; keys and values go into the cache.
    const Range heads = share(call.R * (N + K), thread, threads, 1);
    for (int64_t task = heads.begin; task < heads.end; ++task) {
        const int64_t r = task / (N + K), h = task % (N + K);
        const bool is_query = h < N;
        float* x = is_query ? call.w.query.data + r * N * H + h * H : call.w.key.data + r * K * H + (h - N) * H;
        const Norm& norm = is_query ? block.norm_query : block.norm_key;
        if (norm.gain) normalize(norm, x, x, H);
        const int64_t position = call.positions[r];
        if (m.cosine) rotate(x, m.cosine + position * m.rotary_size, m.sine + position * m.rotary_size, m.rotary_size);
        if (!is_query) {
            const int64_t at = call.slots[r] * slot_size + (h - N) * head_size + position * H;
            const float* v = call.w.value.data + r * K * H + (h - N) * H;
            for (int64_t i = 0; i < H; ++i) { keys[at + i] = S::store(x[i]); values[at + i] = S::store(v[i]); }
        }
    }
    call.barrier.meet();

    float* scores = own.scores.get(T);
    const Range queries = share(call.R * N, thread, threads, 1);
    for (int64_t task = queries.begin; task < queries.end; ++task) {
        const int64_t r = task / N, h = task % N;
        const int64_t at = call.slots[r] * slot_size + h / (N / K) * head_size;
        attend<S>(call.w.query.data + task * H, keys + at, values + at, call.positions[r] + 1, H, m.scaling, scores,
                  call.w.mixed.data + task * H);
    }
    call.barrier.meet();
}

// Logits of the chosen rows. With `keep`, an int8 copy of the head is read first: each of its logits is off by at
// most |rounding error of the row| * |input|, so only rows whose upper bound reaches the k-th lower bound can be among
// the k largest, and only those are computed again from the head itself.
void head(Call& call, Scratch& own, int thread, int threads) {
    const Model& m = call.m;
    const int64_t D = m.hidden_size, V = m.vocabulary, P = call.outputs;
    if (P == 0) return;
    float* chosen = own.normed.get(P * D);
    for (int64_t p = 0; p < P; ++p) normalize(m.final_norm, call.w.hidden.data + call.output_rows[p] * D, chosen + p * D, D);
    own.inputs.set(chosen, D, D);
    const bool screened = call.keep > 0 && m.screen.data;
    multiply(screened ? m.screen : m.head, own.inputs, P, call.logits, V, false, thread, threads);
    if (call.keep == 0) return;

    const Range mine = share(V, thread, threads, LANES);
    if (screened) {
        float* bound = call.w.bound.data;     // (P, V) lower bounds, needed as a whole for k > 1 only
        std::vector<float> length(P);
        for (int64_t p = 0; p < P; ++p) {
            double squares = 0;
            for (int64_t i = 0; i < D; ++i) squares += double(chosen[p * D + i]) * chosen[p * D + i];
            length[p] = float(std::sqrt(squares)) * 1.0001f;
            float top = -std::numeric_limits<float>::infinity();
            for (int64_t o = mine.begin; o < mine.end; ++o) {
                const float low = call.logits[p * V + o] - m.screen_error[o] * length[p];
                top = std::max(top, low);
                if (call.keep > 1) bound[p * V + o] = low;
            }
            call.w.best[p * threads + thread] = top;
        }
        call.barrier.meet();
        if (call.keep > 1) {
            for (int64_t p = thread; p < P; p += threads) {
                const int64_t k = std::min<int64_t>(call.keep, V);
                std::nth_element(bound + p * V, bound + p * V + (k - 1), bound + (p + 1) * V, std::greater<float>());
                for (int t = 0; t < threads; ++t) call.w.best[p * threads + t] = bound[p * V + k - 1];
            }
            call.barrier.meet();
        }
        if (m.head.storage == INT4) own.inputs.mix(P, m.head.order);
        by_storage(m.head, [&](auto kind) {
            typedef decltype(kind) Kind;
            for (int64_t p = 0; p < P; ++p) {
                float floor = call.w.best[p * threads];
                for (int t = 1; t < threads; ++t) floor = std::max(floor, call.w.best[p * threads + t]);
                for (int64_t o = mine.begin; o < mine.end; ++o) {
                    float& logit = call.logits[p * V + o];
                    if (logit + m.screen_error[o] * length[p] < floor) logit = -std::numeric_limits<float>::infinity();
                    else tile<Kind, 1, 1>(m.head, o, own.inputs, p, call.logits, V, false);
                }
            }
        });
        call.barrier.meet();  // `best` is read above and written below
    }
    for (int64_t p = 0; p < P; ++p) {
        int64_t arg = mine.begin;
        for (int64_t o = mine.begin; o < mine.end; ++o)
            if (call.logits[p * V + o] > call.logits[p * V + arg]) arg = o;
        call.w.best[p * threads + thread] =
            mine.begin < mine.end ? call.logits[p * V + arg] : -std::numeric_limits<float>::infinity();
        call.w.argbest[p * threads + thread] = arg;
    }
    call.barrier.meet();
    if (thread == 0)
        for (int64_t p = 0; p < P; ++p) {
            int winner = 0;
            for (int t = 1; t < threads; ++t)
                if (call.w.best[p * threads + t] > call.w.best[p * threads + winner]) winner = t;
            call.best[p] = int32_t(call.w.argbest[p * threads + winner]);
        }
}

void run(Call& call, int thread, int threads) {
    const Model& m = call.m;
    Workspace& w = call.w;
    Scratch& own = w.threads[thread];
    const int64_t R = call.R, D = m.hidden_size, Q = m.heads * m.head_dim, KV = m.kv_heads * m.head_dim, F = m.feed_forward;
    float* hidden = w.hidden.data;

    const Range rows = share(R, thread, threads, 1);
    for (int64_t r = rows.begin; r < rows.end; ++r) {
        look_up(m.embedding, call.tokens[r], hidden + r * D, D, false);
        if (m.positions.data) look_up(m.positions, call.positions[r], hidden + r * D, D, true);
    }
    call.barrier.meet();

    for (int64_t layer = 0; layer < m.block_count; ++layer) {
        const Block& block = m.blocks[layer];
        read_residual(call, block.norm_attention, own, hidden, R);
        multiply(block.query, own.inputs, R, w.query.data, Q, false, thread, threads);
        multiply(block.key, own.inputs, R, w.key.data, KV, false, thread, threads);
        multiply(block.value, own.inputs, R, w.value.data, KV, false, thread, threads);
        call.barrier.meet();

        if (call.cache.is_bfloat16) attention<BFloat16>(call, block, layer, own, thread, threads);
        else attention<Float32>(call, block, layer, own, thread, threads);

        own.inputs.set(w.mixed.data, Q, Q);
        multiply(block.output, own.inputs, R, hidden, D, true, thread, threads);
        call.barrier.meet();

        read_residual(call, block.norm_ffn, own, hidden, R);
        multiply(block.up, own.inputs, R, w.up.data, F, false, thread, threads);
        const bool gated = block.gate.data != nullptr;
        if (gated) multiply(block.gate, own.inputs, R, w.gate.data, F, false, thread, threads);
        const Range mine = share(F, thread, threads, LANES);   // the same range that this thread has just written
        float* acted = gated ? w.gate.data : w.up.data;
        for (int64_t r = 0; r < R; ++r)
            activate(m.activation, acted + r * F + mine.begin, gated ? w.up.data + r * F + mine.begin : nullptr,
                     mine.end - mine.begin);
        call.barrier.meet();

        own.inputs.set(acted, F, F);
        multiply(block.down, own.inputs, R, hidden, D, true, thread, threads);
        call.barrier.meet();
    }
    head(call, own, thread, threads);
}

}  // namespace

extern "C" {

int32_t pomona_layout(void) {  // native.py compares this with its own idea of the structures
    return int32_t(sizeof(Matrix) + 1000 * sizeof(Norm) + 10000 * (sizeof(Block) / 8) + 1000000 * (sizeof(Model) / 8));
}

int32_t pomona_uses_bf16_dot(void) {
#if WITH_BF16_DOT
    return 1;
#else
    return 0;
#endif
}

void* pomona_workspace(void) { return new (std::nothrow) Workspace; }
void pomona_free(void* workspace) { delete static_cast<Workspace*>(workspace); }

// Returns 0, or 1 when memory ran out (then nothing useful was written).
int32_t pomona_step(const Model* model, const Cache* cache, void* workspace, int64_t rows, const int32_t* tokens,
                    const int32_t* slots, const int32_t* positions, int64_t outputs, const int32_t* output_rows,
                    int32_t keep, float* logits, int32_t* best, int32_t threads) {
    try {
        Workspace& w = *static_cast<Workspace*>(workspace);
        const Model& m = *model;
        w.hidden.get(rows * m.hidden_size);
        w.query.get(rows * m.heads * m.head_dim);
        w.key.get(rows * m.kv_heads * m.head_dim);
        w.value.get(rows * m.kv_heads * m.head_dim);
        w.mixed.get(rows * m.heads * m.head_dim);
        w.up.get(rows * m.feed_forward);
        w.gate.get(rows * m.feed_forward);
        if (keep > 1) w.bound.get(outputs * m.vocabulary);
        if (int32_t(w.threads.size()) < threads) w.threads = std::vector<Scratch>(threads);
        // What the threads need is taken here: an exception must not leave a thread.
        const int64_t widest = std::max({m.hidden_size, m.heads * m.head_dim, m.feed_forward}) + CHUNK;
        for (Scratch& own : w.threads) {
            own.normed.get(std::max(rows, outputs) * m.hidden_size);
            own.scores.get(cache->capacity);
            own.inputs.mixed.get(std::max(rows, outputs) * widest);
            own.inputs.sums.get(std::max(rows, outputs) * (widest / 8 + LANES));
        }
        w.best.resize(std::max<size_t>(w.best.size(), outputs * threads));
        w.argbest.resize(std::max<size_t>(w.argbest.size(), outputs * threads));
        Call call{m, *cache, w, rows, tokens, slots, positions, outputs, output_rows, keep, logits, best, {}};
#pragma omp parallel num_threads(threads)
        {
#pragma omp single
            call.barrier.threads = omp_get_num_threads();
            run(call, omp_get_thread_num(), omp_get_num_threads());
        }
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // extern "C"
