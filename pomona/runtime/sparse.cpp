// Attention of whole sequences to chosen keys, for processors with bf16 dot products (AVX512-BF16).
//
// Queries come in blocks of 64. A block reads tiles of 64 keys (all of them, those not later, or those that two bit maps
// allow: one over keys, one over distances) and, besides, columns that lie scattered: these are packed once per head and
// masked where a tile has them already. Softmax is kept up to date from tile to tile; what was summed is rescaled only
// when a row's maximum grew by more than a factor of 2^8. Sums are float32, products of bf16 numbers.

#include <cstdint>
#include <cstring>
#include <new>
#include <vector>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

constexpr int B = 64;  // rows and keys of a tile
enum Kind { FULL = 0, CAUSAL = 1, BITS = 2 };

struct Call {
    const uint16_t* query;      // (heads, tokens, width) bf16
    const uint16_t* key;        // (kv heads, tokens, width)
    const uint16_t* value;      // (kv heads, tokens, width)
    uint16_t* out;              // (heads, tokens, width)
    const int32_t* kv_head;     // (heads,)
    const int64_t* first_tile;  // (heads * blocks + 1,) where the tiles of a block of queries begin
    const int32_t* tiles;       // block of keys * 4 + kind; the block's own comes first
    const int64_t* first_column;  // (heads + 1,)
    const int32_t* columns;     // ascending in each head
    const uint64_t* seen_keys;  // (heads, blocks) bit j: key j of the block is a column
    const uint8_t* distances;   // (heads, distance_bytes) bit span - o: distance o is seen
    int64_t heads, kv_heads, tokens, width, blocks, span, distance_bytes;
    float scaling;
    int32_t threads;
};

#ifdef __AVX512BF16__

inline __m512bh pair_of(const uint16_t* at) {
    int32_t two;
    std::memcpy(&two, at, 4);
    return (__m512bh)_mm512_set1_epi32(two);
}

// c (64, 16 W) = or += a (64, 2 pairs) b, with b packed as (pairs, columns, 2).
template <int W, bool add>
inline void multiply(const uint16_t* a, int64_t a_row, const uint16_t* b, int64_t b_pair, float* c, int64_t c_row, int pairs) {
    for (int row = 0; row < B; row += 4) {
        __m512 sum[4][W];
        for (int i = 0; i < 4; i++)
            for (int w = 0; w < W; w++)
                sum[i][w] = add ? _mm512_loadu_ps(c + (row + i) * c_row + 16 * w) : _mm512_setzero_ps();
        for (int p = 0; p < pairs; p++) {
            __m512bh column[W];
            for (int w = 0; w < W; w++) {
                column[w] = (__m512bh)_mm512_loadu_si512(b + p * b_pair + 32 * w);
                asm("" : "+v"(column[w]));  // stays in its register: reading it four times takes as long as multiplying
            }
            for (int i = 0; i < 4; i++) {
                __m512bh left = pair_of(a + (row + i) * a_row + 2 * p);
                for (int w = 0; w < W; w++) sum[i][w] = _mm512_dpbf16_ps(sum[i][w], column[w], left);
            }
        }
        for (int i = 0; i < 4; i++)
            for (int w = 0; w < W; w++) _mm512_storeu_ps(c + (row + i) * c_row + 16 * w, sum[i][w]);
    }
}

inline __m512 two_to(__m512 t) {  // 2^t to 4e-5 of itself; 0 far below
    t = _mm512_max_ps(t, _mm512_set1_ps(-200.0f));
    __m512 whole = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 f = _mm512_sub_ps(t, whole);
    __m512 p = _mm512_set1_ps(0.0096181291f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.0555041087f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.2402265070f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.6931471806f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, whole);
}

// 64 keys of `width` numbers as (width / 2, 64, 2); `rows` gives their places, absent ones are 0.
void pack_keys(const uint16_t* key, int64_t width, const int64_t* rows, int count, uint16_t* to) {
    uint32_t* out = (uint32_t*)to;
    int64_t half = width / 2;
    if (count < B) std::memset(to, 0, B * width * 2);
    for (int j = 0; j < count; j++) {
        const uint32_t* from = (const uint32_t*)(key + rows[j] * width);
        for (int64_t p = 0; p < half; p++) out[p * B + j] = from[p];
    }
}

// 64 values as (32, width, 2): two keys beside one another.
void pack_values(const uint16_t* value, int64_t width, const int64_t* rows, int count, uint16_t* to) {
    if (count < B) std::memset(to, 0, B * width * 2);
    for (int j = 0; j < count; j++) {
        const uint16_t* from = value + rows[j] * width;
        uint16_t* out = to + (j / 2) * 2 * width + (j & 1);
        for (int64_t d = 0; d < width; d++) out[2 * d] = from[d];
    }
}

struct Packed {  // aligned: a read across two cache lines takes twice as long
    uint16_t* data;
    explicit Packed(int64_t size) : data((uint16_t*)::operator new((size + 1) * 2, std::align_val_t(64))) {}
    ~Packed() { ::operator delete(data, std::align_val_t(64)); }
};

struct Row {  // of one block of queries
    alignas(64) float scores[B * B];
    alignas(64) uint16_t weights[B * B];
    alignas(64) float out[B * 256];
    alignas(64) float total[B * 16];
    float most[B];
};

inline uint64_t bits_at(const uint8_t* map, int64_t index) {
    uint64_t low;
    std::memcpy(&low, map + (index >> 3), 8);
    int shift = index & 7;
    return shift ? (low >> shift) | (uint64_t(map[(index >> 3) + 8]) << (64 - shift)) : low;
}

// One tile: scores, weights, and their part of the output. `allowed` has the keys of each row.
template <typename Allowed>
void attend(const Call& call, Row& r, const uint16_t* query, const uint16_t* keys, const uint16_t* values, bool whole,
            Allowed allowed) {
    const int width = int(call.width);
    multiply<4, false>(query, width, keys, 2 * B, r.scores, B, width / 2);
    const __m512 scale = _mm512_set1_ps(call.scaling * 1.4426950408889634f), hidden = _mm512_set1_ps(-1e30f);
    for (int row = 0; row < B; row++) {
        __m512 s[4];
        uint64_t bits = whole ? ~0ull : allowed(row);
        for (int w = 0; w < 4; w++) {
            s[w] = _mm512_mul_ps(_mm512_load_ps(r.scores + row * B + 16 * w), scale);
            if (!whole) s[w] = _mm512_mask_blend_ps(__mmask16(bits >> (16 * w)), hidden, s[w]);
        }
        float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(s[0], s[1]), _mm512_max_ps(s[2], s[3])));
        if (most > r.most[row] + 8.0f) {
            __m512 factor = two_to(_mm512_set1_ps(r.most[row] - most));
            for (int d = 0; d < width; d += 16)
                _mm512_store_ps(r.out + row * width + d, _mm512_mul_ps(_mm512_load_ps(r.out + row * width + d), factor));
            _mm512_store_ps(r.total + 16 * row, _mm512_mul_ps(_mm512_load_ps(r.total + 16 * row), factor));
            r.most[row] = most;
        }
        __m512 base = _mm512_set1_ps(r.most[row]);
        for (int w = 0; w < 4; w++) s[w] = two_to(_mm512_sub_ps(s[w], base));
        __m512 sum = _mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3]));
        _mm512_store_ps(r.total + 16 * row, _mm512_add_ps(_mm512_load_ps(r.total + 16 * row), sum));
        _mm512_store_si512(r.weights + row * B, (__m512i)_mm512_cvtne2ps_pbh(s[1], s[0]));
        _mm512_store_si512(r.weights + row * B + 32, (__m512i)_mm512_cvtne2ps_pbh(s[3], s[2]));
    }
    int d = 0;
    for (; d + 64 <= width; d += 64) multiply<4, true>(r.weights, B, values + 2 * d, 2 * width, r.out + d, width, B / 2);
    for (; d + 16 <= width; d += 16) multiply<1, true>(r.weights, B, values + 2 * d, 2 * width, r.out + d, width, B / 2);
}

void run(const Call& c) {
    const int64_t width = c.width, block_size = B * width;
    Packed keys(c.kv_heads * c.blocks * block_size), values(c.kv_heads * c.blocks * block_size);
    std::vector<int64_t> first_packed(c.heads + 1, 0);
    for (int64_t h = 0; h < c.heads; h++)
        first_packed[h + 1] = first_packed[h] + (c.first_column[h + 1] - c.first_column[h] + B - 1) / B;
    Packed column_keys(first_packed[c.heads] * block_size), column_values(first_packed[c.heads] * block_size);
#pragma omp parallel num_threads(c.threads)
    {
#pragma omp for schedule(static)
        for (int64_t each = 0; each < c.kv_heads * c.blocks; each++) {
            int64_t head = each / c.blocks, start = (each % c.blocks) * B, rows[B];
            int count = int(c.tokens - start < B ? c.tokens - start : B);
            for (int j = 0; j < count; j++) rows[j] = head * c.tokens + start + j;
            pack_keys(c.key, width, rows, count, keys.data + each * block_size);
            pack_values(c.value, width, rows, count, values.data + each * block_size);
        }
#pragma omp for schedule(static)
        for (int64_t h = 0; h < c.heads; h++) {
            for (int64_t part = first_packed[h]; part < first_packed[h + 1]; part++) {
                int64_t start = c.first_column[h] + (part - first_packed[h]) * B, rows[B];
                int count = int(c.first_column[h + 1] - start < B ? c.first_column[h + 1] - start : B);
                for (int j = 0; j < count; j++) rows[j] = c.kv_head[h] * c.tokens + c.columns[start + j];
                pack_keys(c.key, width, rows, count, column_keys.data + part * block_size);
                pack_values(c.value, width, rows, count, column_values.data + part * block_size);
            }
        }
        Row* r = new (std::align_val_t(64)) Row;
        std::vector<uint8_t> touched(c.blocks);
        std::vector<uint16_t> tail(block_size);
#pragma omp for schedule(dynamic, 1)
        for (int64_t turn = 0; turn < c.heads * c.blocks; turn++) {
            // The last blocks, which have most to do, come first.
            int64_t h = turn % c.heads, block = c.blocks - 1 - turn / c.heads, item = h * c.blocks + block;
            int64_t start = block * B, kv = c.kv_head[h];
            int rows = int(c.tokens - start < B ? c.tokens - start : B);
            const uint16_t* query = c.query + (h * c.tokens + start) * width;
            if (rows < B) {
                std::memset(tail.data(), 0, block_size * 2);
                std::memcpy(tail.data(), query, rows * width * 2);
                query = tail.data();
            }
            std::memset(r->out, 0, B * width * 4);
            std::memset(r->total, 0, sizeof r->total);
            for (int i = 0; i < B; i++) r->most[i] = -1e29f;
            const int64_t from = c.first_tile[item], to = c.first_tile[item + 1];
            for (int64_t at = from; at < to; at++) {
                const int64_t key_block = c.tiles[at] >> 2, which = kv * c.blocks + key_block;
                const int kind = c.tiles[at] & 3;
                touched[key_block] = 1;
                const uint16_t *k = keys.data + which * block_size, *v = values.data + which * block_size;
                const bool own = key_block == block;
                if (kind == BITS) {
                    const uint8_t* map = c.distances + h * c.distance_bytes;
                    const uint64_t columns = c.seen_keys[h * c.blocks + key_block];
                    const int64_t index = c.span - start + key_block * B;
                    attend(c, *r, query, k, v, false, [=](int row) {
                        return bits_at(map, index - row) | (columns & (own ? ~0ull >> (63 - row) : ~0ull));
                    });
                } else {
                    attend(c, *r, query, k, v, !own, [](int row) { return ~0ull >> (63 - row); });
                }
            }
            for (int64_t part = first_packed[h]; part < first_packed[h + 1]; part++) {
                int64_t begin = c.first_column[h] + (part - first_packed[h]) * B;
                if (c.columns[begin] >= start) break;  // later columns, which the block's own tile has
                int count = int(c.first_column[h + 1] - begin < B ? c.first_column[h + 1] - begin : B);
                uint64_t left = 0;
                for (int j = 0; j < count; j++) {
                    int32_t column = c.columns[begin + j];
                    left |= uint64_t(column < start && !touched[column / B]) << j;
                }
                if (!left) continue;
                attend(c, *r, query, column_keys.data + part * block_size, column_values.data + part * block_size,
                       left == ~0ull, [=](int) { return left; });
            }
            for (int64_t at = from; at < to; at++) touched[c.tiles[at] >> 2] = 0;
            for (int i = 0; i < rows; i++) {
                __m512 inverse = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(_mm512_load_ps(r->total + 16 * i)));
                for (int64_t d = 0; d < width; d += 16) {
                    __m512 o = _mm512_mul_ps(_mm512_load_ps(r->out + i * width + d), inverse);
                    _mm256_storeu_si256((__m256i*)(c.out + (h * c.tokens + start + i) * width + d),
                                        (__m256i)_mm512_cvtneps_pbh(o));
                }
            }
        }
        ::operator delete(r, std::align_val_t(64));
    }
}

#endif

}  // namespace

extern "C" int32_t pomona_sparse_prefill(const Call* call) {
#ifdef __AVX512BF16__
    run(*call);
    return 0;
#else
    return 1;
#endif
}

extern "C" int32_t pomona_layout() {
#ifdef __AVX512BF16__
    return int32_t(sizeof(Call));
#else
    return 0;  // the processor has no such instructions
#endif
}
