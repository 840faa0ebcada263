// Attention of whole sequences to chosen keys, for processors with bf16 dot products (AVX512-BF16).
//
// Queries come in groups of 16, and so do keys: lines of equal distance are thin, and larger tiles would mostly compute
// what is masked. A group of queries reads the groups of keys some steps before it, the same steps for every group, or
// the blocks that a list names; two bit maps, over keys and over distances, say which pairs count. Columns that lie
// scattered are packed once per head and masked where a group has them already. Four groups of keys at a time become one
// tile. Softmax is kept up to date from tile to tile; what was summed is rescaled only when a row's maximum grew by more
// than a factor of 2^8. Sums are float32, products of bf16 numbers.

#include <cstdint>
#include <cstring>
#include <new>
#include <vector>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

constexpr int G = 16, W = 4;  // queries or keys of a group; groups of a tile, and of a listed block of 64 keys

struct Call {
    const uint16_t* query;        // (heads, tokens, width) bf16
    const uint16_t* key;          // (kv heads, tokens, width)
    const uint16_t* value;        // (kv heads, tokens, width)
    uint16_t* out;                // (heads, tokens, width)
    const int32_t* kv_head;       // (heads,)
    const int64_t* first_step;    // (heads + 1,) where the steps of a head begin
    const int32_t* steps;         // groups back from a group of queries, ascending, 0 first
    const int64_t* first_block;   // (heads * blocks + 1,) where the list of a block of queries begins
    const int32_t* listed;        // blocks of keys, the block's own first
    const int64_t* first_column;  // (heads + 1,)
    const int32_t* columns;       // ascending in each head
    const uint16_t* seen_keys;    // (heads, groups) bit j: key j of the group is a column
    const uint8_t* distances;     // (heads, distance_bytes) bit span - o: distance o is seen
    int64_t heads, kv_heads, tokens, width, groups, span, distance_bytes;
    float scaling;
    int32_t threads;
};

#ifdef __AVX512BF16__

inline __m512bh pair_of(const uint16_t* at) {
    int32_t two;
    std::memcpy(&two, at, 4);
    return (__m512bh)_mm512_set1_epi32(two);
}

// c (16, 16 N) = or += a (16, 2 * pairs * parts) times parts that lie apart, each packed as (pairs, columns, 2). Without
// `shared`, the columns of c come from different parts; with it every part adds to all columns.
template <int N, bool shared>
inline void multiply(const uint16_t* a, int64_t a_row, const uint16_t* const* parts, int64_t pair, int pairs, float* c,
                     int64_t c_row) {
    for (int row = 0; row < G; row += 4) {
        __m512 sum[4][N];
        for (int i = 0; i < 4; i++)
            for (int n = 0; n < N; n++)
                sum[i][n] = shared ? _mm512_loadu_ps(c + (row + i) * c_row + 16 * n) : _mm512_setzero_ps();
        for (int part = 0; part < (shared ? W : 1); part++) {
            for (int p = 0; p < pairs; p++) {
                __m512bh column[N];
                for (int n = 0; n < N; n++) {
                    const uint16_t* from = shared ? parts[part] + p * pair + 32 * n : parts[n] + p * pair;
                    column[n] = (__m512bh)_mm512_loadu_si512(from);
                    asm("" : "+v"(column[n]));  // stays in its register: reading it four times would take as long
                }
                for (int i = 0; i < 4; i++) {
                    __m512bh left = pair_of(a + (row + i) * a_row + 2 * (part * pairs + p));
                    for (int n = 0; n < N; n++) sum[i][n] = _mm512_dpbf16_ps(sum[i][n], column[n], left);
                }
            }
        }
        for (int i = 0; i < 4; i++)
            for (int n = 0; n < N; n++) _mm512_storeu_ps(c + (row + i) * c_row + 16 * n, sum[i][n]);
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

// 16 keys of `width` numbers as (width / 2, 16, 2); `rows` gives their places, absent ones are 0.
void pack_keys(const uint16_t* key, int64_t width, const int64_t* rows, int count, uint16_t* to) {
    uint32_t* out = (uint32_t*)to;
    if (count < G) std::memset(to, 0, G * width * 2);
    for (int j = 0; j < count; j++) {
        const uint32_t* from = (const uint32_t*)(key + rows[j] * width);
        for (int64_t p = 0; p < width / 2; p++) out[p * G + j] = from[p];
    }
}

// 16 values as (8, width, 2): two keys beside one another.
void pack_values(const uint16_t* value, int64_t width, const int64_t* rows, int count, uint16_t* to) {
    if (count < G) std::memset(to, 0, G * width * 2);
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

struct Tile {  // four groups of keys for one group of queries, and what the queries have summed so far
    alignas(64) float scores[G * G * W];
    alignas(64) uint16_t weights[G * G * W];
    alignas(64) float out[G * 256];
    alignas(64) float total[G * G];
    float most[G];
    const uint16_t *keys[W], *values[W];
    const uint16_t* masks[W];  // 16 rows each; nullptr: every pair counts
    uint16_t extra[W];         // columns, besides
    bool own[W];               // the queries' own group: columns only up to the row
    int count = 0;
};

inline uint16_t bits_at(const uint8_t* map, int64_t index) {
    uint32_t bits;
    std::memcpy(&bits, map + (index >> 3), 4);
    return uint16_t(bits >> (index & 7));
}

// Scores, weights, and their part of the output.
void attend(const Call& call, Tile& t, const uint16_t* query) {
    static const uint16_t nothing[G] = {};
    const int width = int(call.width);
    for (int w = t.count; w < W; w++) {
        t.keys[w] = t.keys[0];
        t.values[w] = t.values[0];
        t.masks[w] = nothing;
        t.extra[w] = 0;
        t.own[w] = false;
    }
    multiply<W, false>(query, width, t.keys, 2 * G, width / 2, t.scores, G * W);
    const __m512 scale = _mm512_set1_ps(call.scaling * 1.4426950408889634f), hidden = _mm512_set1_ps(-1e30f);
    for (int row = 0; row < G; row++) {
        __m512 s[W];
        for (int w = 0; w < W; w++) {
            s[w] = _mm512_mul_ps(_mm512_load_ps(t.scores + (row * W + w) * G), scale);
            if (t.masks[w]) {
                uint16_t column = t.own[w] ? t.extra[w] & uint16_t((2u << row) - 1) : t.extra[w];
                s[w] = _mm512_mask_blend_ps(__mmask16(t.masks[w][row] | column), hidden, s[w]);
            }
        }
        float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(s[0], s[1]), _mm512_max_ps(s[2], s[3])));
        if (most > t.most[row] + 8.0f) {
            __m512 factor = two_to(_mm512_set1_ps(t.most[row] - most));
            for (int d = 0; d < width; d += 16)
                _mm512_store_ps(t.out + row * width + d, _mm512_mul_ps(_mm512_load_ps(t.out + row * width + d), factor));
            _mm512_store_ps(t.total + G * row, _mm512_mul_ps(_mm512_load_ps(t.total + G * row), factor));
            t.most[row] = most;
        }
        __m512 base = _mm512_set1_ps(t.most[row]);
        for (int w = 0; w < W; w++) s[w] = two_to(_mm512_sub_ps(s[w], base));
        __m512 sum = _mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3]));
        _mm512_store_ps(t.total + G * row, _mm512_add_ps(_mm512_load_ps(t.total + G * row), sum));
        _mm512_store_si512(t.weights + row * G * W, (__m512i)_mm512_cvtne2ps_pbh(s[1], s[0]));
        _mm512_store_si512(t.weights + row * G * W + 32, (__m512i)_mm512_cvtne2ps_pbh(s[3], s[2]));
    }
    const uint16_t* values[W];
    int d = 0;
    for (; d + 64 <= width; d += 64) {
        for (int w = 0; w < W; w++) values[w] = t.values[w] + 2 * d;
        multiply<4, true>(t.weights, G * W, values, 2 * width, G / 2, t.out + d, width);
    }
    for (; d + 16 <= width; d += 16) {
        for (int w = 0; w < W; w++) values[w] = t.values[w] + 2 * d;
        multiply<1, true>(t.weights, G * W, values, 2 * width, G / 2, t.out + d, width);
    }
    t.count = 0;
}

inline void add(const Call& call, Tile& t, const uint16_t* query, const uint16_t* key, const uint16_t* value,
                const uint16_t* mask, uint16_t extra, bool own) {
    t.keys[t.count] = key;
    t.values[t.count] = value;
    t.masks[t.count] = mask;
    t.extra[t.count] = extra;
    t.own[t.count] = own;
    if (++t.count == W) attend(call, t, query);
}

void run(const Call& c) {
    const int64_t width = c.width, size = G * width, blocks = (c.groups + W - 1) / W;
    Packed keys(c.kv_heads * c.groups * size), values(c.kv_heads * c.groups * size);
    std::vector<int64_t> first_packed(c.heads + 1, 0);
    for (int64_t h = 0; h < c.heads; h++)
        first_packed[h + 1] = first_packed[h] + (c.first_column[h + 1] - c.first_column[h] + G - 1) / G;
    Packed column_keys(first_packed[c.heads] * size), column_values(first_packed[c.heads] * size);
    // The pairs of a group of queries and the group so many steps before it are the same for all groups.
    std::vector<uint16_t> masks(c.first_step[c.heads] * G);
    std::vector<uint8_t> whole(c.first_step[c.heads]);
    uint16_t triangle[G], nothing[G] = {};
    for (int row = 0; row < G; row++) triangle[row] = uint16_t((2u << row) - 1);
#pragma omp parallel num_threads(c.threads)
    {
#pragma omp for schedule(static)
        for (int64_t each = 0; each < c.kv_heads * c.groups; each++) {
            int64_t head = each / c.groups, start = (each % c.groups) * G, rows[G];
            int count = int(c.tokens - start < G ? c.tokens - start : G);
            for (int j = 0; j < count; j++) rows[j] = head * c.tokens + start + j;
            pack_keys(c.key, width, rows, count, keys.data + each * size);
            pack_values(c.value, width, rows, count, values.data + each * size);
        }
#pragma omp for schedule(static)
        for (int64_t h = 0; h < c.heads; h++) {
            for (int64_t part = first_packed[h]; part < first_packed[h + 1]; part++) {
                int64_t start = c.first_column[h] + (part - first_packed[h]) * G, rows[G];
                int count = int(c.first_column[h + 1] - start < G ? c.first_column[h + 1] - start : G);
                for (int j = 0; j < count; j++) rows[j] = c.kv_head[h] * c.tokens + c.columns[start + j];
                pack_keys(c.key, width, rows, count, column_keys.data + part * size);
                pack_values(c.value, width, rows, count, column_values.data + part * size);
            }
            for (int64_t at = c.first_step[h]; at < c.first_step[h + 1]; at++) {
                whole[at] = 1;
                for (int row = 0; row < G; row++) {
                    uint16_t bits = bits_at(c.distances + h * c.distance_bytes, c.span - G * c.steps[at] - row);
                    masks[at * G + row] = bits;
                    whole[at] &= bits == 0xffff;
                }
            }
        }
        Tile* t = new (std::align_val_t(64)) Tile;
        std::vector<uint8_t> touched(blocks * W);
        std::vector<uint16_t> tail(size);
#pragma omp for schedule(dynamic, 8)
        for (int64_t turn = 0; turn < c.heads * c.groups; turn++) {
            // The last groups, which have most to do, come first.
            const int64_t h = turn / c.groups, group = c.groups - 1 - turn % c.groups, start = group * G;
            const int64_t kv = c.kv_head[h] * c.groups;
            const int rows = int(c.tokens - start < G ? c.tokens - start : G);
            const uint16_t* query = c.query + (h * c.tokens + start) * width;
            if (rows < G) {
                std::memset(tail.data(), 0, size * 2);
                std::memcpy(tail.data(), query, rows * width * 2);
                query = tail.data();
            }
            std::memset(t->out, 0, G * width * 4);
            std::memset(t->total, 0, sizeof t->total);
            for (int i = 0; i < G; i++) t->most[i] = -1e29f;
            std::memset(touched.data(), 0, touched.size());
            for (int64_t at = c.first_step[h]; at < c.first_step[h + 1] && c.steps[at] <= group; at++) {
                const int64_t from = group - c.steps[at];
                touched[from] = 1;
                add(c, *t, query, keys.data + (kv + from) * size, values.data + (kv + from) * size,
                    whole[at] ? nullptr : masks.data() + at * G, c.seen_keys[h * c.groups + from], from == group);
            }
            const int64_t item = h * blocks + group / W;
            for (int64_t at = c.first_block[item]; at < c.first_block[item + 1]; at++) {
                // Backwards, so that the queries' own group is among the first.
                for (int64_t from = W * c.listed[at] + W - 1; from >= W * int64_t(c.listed[at]); from--) {
                    if (from > group) continue;
                    touched[from] = 1;
                    add(c, *t, query, keys.data + (kv + from) * size, values.data + (kv + from) * size,
                        from == group ? triangle : nullptr, 0, false);
                }
            }
            for (int64_t part = first_packed[h]; part < first_packed[h + 1]; part++) {
                const int64_t begin = c.first_column[h] + (part - first_packed[h]) * G;
                if (c.columns[begin] >= start) break;  // later columns, which the own group has
                const int count = int(c.first_column[h + 1] - begin < G ? c.first_column[h + 1] - begin : G);
                uint32_t left = 0;
                for (int j = 0; j < count; j++) {
                    const int32_t column = c.columns[begin + j];
                    left |= uint32_t(column < start && !touched[column / G]) << j;
                }
                if (left)
                    add(c, *t, query, column_keys.data + part * size, column_values.data + part * size,
                        left == 0xffff ? nullptr : nothing, uint16_t(left), false);
            }
            if (t->count) attend(c, *t, query);
            for (int i = 0; i < rows; i++) {
                __m512 inverse = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(_mm512_load_ps(t->total + G * i)));
                for (int64_t d = 0; d < width; d += 16) {
                    __m512 o = _mm512_mul_ps(_mm512_load_ps(t->out + i * width + d), inverse);
                    _mm256_storeu_si256((__m256i*)(c.out + (h * c.tokens + start + i) * width + d),
                                        (__m256i)_mm512_cvtneps_pbh(o));
                }
            }
        }
        ::operator delete(t, std::align_val_t(64));
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
