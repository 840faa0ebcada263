// Logarithms and ratios of modified Bessel functions, eight values at a time. The mathematics is told in bessel_torch.py,
// which computes the same in torch; here values are sorted by branch first, so that none is computed for nothing.
// Built without contraction: where a product and a sum become one, it is written `fused`.

#include <cmath>
#include <cstdint>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

constexpr int LANES = 8, BLOCK = 1024;
typedef double V __attribute__((vector_size(8 * LANES)));
typedef int64_t I __attribute__((vector_size(8 * LANES)));

struct Tables {            // the same order as in bessel_native.py
    const double* debye;   // p_k, k = 1..terms: k + 1 coefficients each
    const double* slope;   // w_k, k = 0..terms - 1
    const double* log;     // 16 reciprocals, then 16 logarithms (high), then 16 (low)
    const double* even;    // 1 / Gamma(1 + m): coefficients of even powers
    const double* odd;     // and of odd ones
    const double* cosh;    // cosh(j h) - 1
    double step, near, far, middle;
    int32_t terms, few, gammas, nodes;
};

enum Wanted { VALUE = 0, RATIO = 1, GAP = 2 };

inline V all(double x) { return V{} + x; }
inline V pick(I mask, V yes, V no) { return mask ? yes : no; }
inline V larger(V a, V b) { return a > b ? a : b; }

inline V fused(V a, V b, V c) {
#ifdef __AVX512F__
    return (V)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#else
    V r;
    for (int i = 0; i < LANES; i++) r[i] = __builtin_fma(a[i], b[i], c[i]);
    return r;
#endif
}

inline V root(V a) {
#ifdef __AVX512F__
    return (V)_mm512_sqrt_pd((__m512d)a);
#else
    V r;
    for (int i = 0; i < LANES; i++) r[i] = __builtin_sqrt(a[i]);
    return r;
#endif
}

// ---- numbers of twice the length: high + low

struct Two { V high, low; };

inline Two sum(V a, V b) {
    V s = a + b, t = s - a;
    return {s, (a - (s - t)) + (b - t)};
}

inline Two product(V a, V b) {
    V p = a * b;
    return {p, fused(a, b, -p)};
}

constexpr double LN2 = 0.693147180559945309417232121458;
constexpr double LN2_HIGH = 0x1.62e42fefa38p-1, LN2_LOW = 0x1.ef35793c7673p-45;  // exponent times the first is exact

inline V lookup(const double* table, I index) {  // of 16
#ifdef __AVX512F__
    return (V)_mm512_permutex2var_pd(_mm512_loadu_pd(table), (__m512i)index, _mm512_loadu_pd(table + 8));
#else
    V r;
    for (int i = 0; i < LANES; i++) r[i] = table[index[i]];
    return r;
#endif
}

// log(high + low) + shift log 2 of positive normal numbers, to about 1e-21 where `exact`, else to the last bit or two.
template <bool exact>
inline Two logarithm(const Tables& t, V high, V low, V shift) {
    I bits = (I)high;
    I exponent = ((bits >> 52) & 0x7ff) - 1023;
    I index = (bits >> 48) & 15;
    V mantissa = (V)((bits & 0x000fffffffffffffLL) | 0x3ff0000000000000LL);
    V scale = (V)((1023 - exponent) << 52);  // 2 ** -exponent
    // The last sixteenth belongs to the next power of two, so that logarithms near 0 do not cancel.
    V power = __builtin_convertvector(exponent - (I)(index == 15), V) + shift;  // true is -1
    V inverse = lookup(t.log, index);
    Two m = product(mantissa, inverse);
    V r = m.high - 1.0;
    V tail = m.low + low * scale * inverse;
    Two whole = sum(r, tail);
    r = whole.high;
    tail = whole.low;
    // log(1 + r) = r - r^2 / 2 + r^3 (1/3 - r/4 + ...)
    V q = all(1.0 / 17);
    for (int k = 16; k >= 3; k--) q = fused(-r, q, all(1.0 / k));
    V square = r * r;
    V table_high = lookup(t.log + 16, index), table_low = lookup(t.log + 32, index);
    if constexpr (!exact) {
        V rest = fused(square * r, q, -0.5 * square) + tail + fused(power, all(LN2_LOW), table_low);
        return {fused(power, all(LN2_HIGH), table_high) + (r + rest), V{}};
    }
    Two half = product(r, r);
    half.high *= -0.5;
    half.low = fused(half.low, all(-0.5), -r * tail);
    Two a = sum(r, half.high);
    V rest = a.low + half.low + tail + square * r * q;
    Two b = sum(power * LN2_HIGH, table_high);
    Two c = sum(b.high, a.high);
    rest = rest + c.low + b.low + fused(power, all(LN2_LOW), table_low);
    return sum(c.high, rest);
}

inline V log_of(const Tables& t, V x) { return logarithm<false>(t, x, V{}, V{}).high; }

inline V log_1p(const Tables& t, V x) {  // x > -1
    Two s = sum(all(1.0), x);
    return logarithm<false>(t, s.high, s.low, V{}).high;
}

inline V exponential(V x) {
    x = pick(x < -708.0, all(-708.0), pick(x > 708.0, all(708.0), x));
    V shifted = fused(x, all(1.4426950408889634), all(0x1.8p52));
    V n = shifted - 0x1.8p52;
    V r = fused(n, all(-LN2_LOW), fused(n, all(-LN2_HIGH), x));
    static const double c[] = {1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320,
                               1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800.0};
    V p = all(c[13]);
    for (int k = 12; k >= 0; k--) p = fused(p, r, all(c[k]));
    I scale = (__builtin_convertvector(n, I) + 1023) << 52;
    return p * (V)scale;
}

// ---- large order or argument: Olver's expansions, in powers of 1 / s with s = sqrt(v^2 + x^2)

struct Sums { V value, slope; };

inline Sums debye_sums(const Tables& t, V s, V square, int terms, double sign, bool slopes) {
    V inverse = sign / s;
    Sums made = {V{}, V{}};
    for (int k = terms; k >= 1; k--) {
        const double* c = t.debye + (k - 1) * (k + 2) / 2;
        V p = all(c[k]);
        for (int m = k - 1; m >= 0; m--) p = fused(p, square, all(c[m]));
        made.value = fused(made.value, inverse, p);
        if (slopes) {
            const double* d = t.slope + (k - 1) * k / 2;
            V w = all(d[k - 1]);
            for (int m = k - 2; m >= 0; m--) w = fused(w, square, all(d[m]));
            made.slope = fused(made.slope, inverse, w);
        }
    }
    made.value *= inverse;
    return made;
}

template <bool first>
inline V debye(const Tables& t, V v, V x, int terms, int wanted) {
    // Numbers so large or small that squares leave the range are brought back by powers of two.
    I large = larger(v, x) > 0x1p400;
    V down = pick(large, all(0x1p-600), all(1.0));
    V vd = v * down, xd = x * down;
    Two vv = product(vd, vd), xx = product(xd, xd);
    Two both = sum(vv.high, xx.high);
    both.low += vv.low + xx.low;
    V s = root(both.high);
    V s_low = (fused(-s, s, both.high) + both.low) / (2.0 * s);
    V up = pick(large, all(0x1p600), all(1.0));
    V square = vv.high / both.high;
    s *= up;
    s_low *= up;
    Sums sums = debye_sums(t, s, square, terms, first ? 1.0 : -1.0, wanted != VALUE);
    V u = 1.0 + sums.value;
    V correction = (x / s) * (sums.slope / u) / s;
    if (wanted == RATIO)
        return first ? x / (s + v) - correction : (v + s) / x + correction;
    if (wanted == GAP)  // 1 - ratio
        return (v + v * (v / (s + x))) / (s + v) + correction;
    // v asinh(v / x) = v log((v + s) / x); everything that is large is kept twice as long.
    Two top = sum(v, s);
    top.low += s_low;
    I tiny = x < 0x1p-500;
    V lift = pick(tiny, all(0x1p512), all(1.0));
    V raised = x * lift;
    V drop = pick(top.high > 0x1p500, all(0x1p-512), all(1.0));
    V high = top.high * drop / raised;
    V low = (fused(-high, raised, top.high * drop) + top.low * drop) / raised;
    V shift = pick(tiny, all(512.0), V{}) + pick(top.high > 0x1p500, all(512.0), V{});
    Two log = logarithm<true>(t, high, low, shift);
    Two turn = product(v, log.high);
    turn.low = fused(v, log.low, turn.low);
    Two a = sum(s, -turn.high);
    V exponent_low = a.low + (s_low - turn.low);
    // log |..| of the factor: -(log 2 pi) / 2 or (log pi / 2) / 2, and s^(-1/2)
    V half = -0.5 * log_of(t, s) + (first ? -0.918938533204672741780329736406 : 0.225791352644727432363097614947);
    V rest = half + log_1p(t, sums.value);
    return first ? a.high + (exponent_low + rest) : -a.high + (rest - exponent_low);
}

// ---- small order and argument

inline V power_series(V v, V y, int terms) {  // sum over k >= 1 of y^k / (k! (v + 1)_k)
    V nested = V{};
    for (int k = terms; k >= 1; k--) {
        V q = y / (double(k) * (v + double(k)));
        nested = fused(nested, q, q);
    }
    return nested;
}

// v = n + m with whole n and |m| <= 1/2
inline V nearest(V v) { return fused(v, all(1.0), all(0x1.8p52)) - 0x1.8p52; }

// 1 / Gamma(1 + m) = even + m odd
inline V even_part(const Tables& t, V mm) {
    V even = all(t.even[t.gammas - 1]);
    for (int k = t.gammas - 2; k >= 0; k--) even = fused(even, mm, all(t.even[k]));
    return even;
}

inline V odd_part(const Tables& t, V mm) {
    V odd = all(t.odd[t.gammas - 1]);
    for (int k = t.gammas - 2; k >= 0; k--) odd = fused(odd, mm, all(t.odd[k]));
    return odd;
}

inline double largest(V x) {
    double most = x[0];
    for (int i = 1; i < LANES; i++) most = most > x[i] ? most : x[i];
    return most;
}

inline V log_gamma_1p(const Tables& t, V v) {  // log Gamma(1 + v), 0 <= v <= 20: (m + 1) ... (m + n) Gamma(1 + m)
    V n = nearest(v), m = v - n, made = 1.0 / (even_part(t, m * m) + m * odd_part(t, m * m));
    int steps = int(largest(n));
    for (int j = 1; j <= steps; j++) made *= pick(n >= double(j), m + double(j), all(1.0));
    return log_of(t, made);
}

inline V small_first(const Tables& t, V v, V x, int wanted) {
    int terms = 10 + int(1.45 * largest(x));
    V y = 0.25 * x * x, own = power_series(v, y, terms);
    if (wanted == VALUE) {
        I tiny = x < 0x1p-500;
        V raised = pick(tiny, x * 0x1p512, x);
        V log_half = logarithm<false>(t, raised, V{}, pick(tiny, all(-513.0), all(-1.0))).high;
        return pick(v == 0.0, V{}, v * log_half) - log_gamma_1p(t, v) + log_1p(t, own);
    }
    V ratio = 0.5 * x / (v + 1.0) * (1.0 + power_series(v + 1.0, y, terms)) / (1.0 + own);
    return wanted == RATIO ? ratio : 1.0 - ratio;
}

// K for x >= 2: the trapezoidal rule for the integral of exp(-x (cosh t - 1)) cosh(v t)
inline V trapezoid(const Tables& t, V v, V x, int wanted) {
    V grow = exponential(v * t.step), shrink = 1.0 / grow;
    V next = wanted == VALUE ? V{} : exponential((v + 1.0) * t.step);
    V next_shrink = wanted == VALUE ? V{} : 1.0 / next;
    V up = all(0.5), down = all(0.5), up_next = up, down_next = down;
    V total = all(0.5), total_next = all(0.5);
    for (int j = 1; j < t.nodes; j++) {
        up *= grow;
        down *= shrink;
        V weight = exponential(-x * t.cosh[j]);
        total = fused(weight, up + down, total);
        if (wanted != VALUE) {
            up_next *= next;
            down_next *= next_shrink;
            total_next = fused(weight, up_next + down_next, total_next);
        }
    }
    return wanted == VALUE ? log_of(t, total * t.step) - x : total_next / total;
}

// K for x < 2: Temme's series at the fractional order, then upwards
inline V temme(const Tables& t, V v, V x, int wanted) {
    V n = nearest(v), m = v - n, mm = m * m, even = even_part(t, mm), odd = odd_part(t, mm);
    V plus = even + m * odd, minus = even - m * odd;  // 1 / Gamma(1 + m), 1 / Gamma(1 - m)
    I tiny = x < 0x1p-500;
    V raised = pick(tiny, x * 0x1p512, x);
    V sigma = -logarithm<false>(t, raised, V{}, pick(tiny, all(-513.0), all(-1.0))).high;  // log(2 / x)
    V a = sigma * m, e = exponential(a), f = 1.0 / e, aa = a * a;
    V sinhc = all(1.0);
    for (int k = 9; k >= 1; k--) sinhc = fused(sinhc, aa / double(2 * k * (2 * k + 1)), all(1.0));
    sinhc = pick(aa > 1.0, 0.5 * (e - f) / a, sinhc);
    V term = (even * sigma * sinhc - odd * 0.5 * (e + f)) / (plus * minus);
    V p = 0.5 * e / plus, q = 0.5 * f / minus, y = 0.25 * x * x, c = all(1.0);
    V low = term, high = p;
    for (int k = 1; k <= 16; k++) {
        V inverse = 1.0 / (double(k) * double(k) - mm);
        term = (double(k) * term + p + q) * inverse;
        p = p * (double(k) + m) * inverse;
        q = q * (double(k) - m) * inverse;
        c = c * y * (1.0 / k);
        low = fused(c, term, low);
        high = fused(c, p - double(k) * term, high);
    }
    // K at m + j is k_j (2 / x)^j
    int steps = int(largest(n));
    for (int j = 1; j <= steps; j++) {
        I on = n >= double(j);
        V following = fused(m + double(j), high, y * low);
        low = pick(on, high, low);
        high = pick(on, following, high);
    }
    return wanted == VALUE ? log_of(t, low) + n * sigma : (2.0 / x) * (high / low);
}

enum Branch { FAR, NEAR, MIDDLE, SMALL, ODD, BRANCHES };

template <bool first>
inline V compute(const Tables& t, int branch, V v, V x, int wanted) {
    switch (branch) {
        case FAR: return debye<first>(t, v, x, t.few, wanted);
        case NEAR: return debye<first>(t, v, x, t.terms, wanted);
        case MIDDLE: return first ? small_first(t, v, x, wanted) : trapezoid(t, v, x, wanted);
        default: return first ? small_first(t, v, x, wanted) : temme(t, v, x, wanted);
    }
}

// Where v or x are at or beyond the ends of their ranges.
template <bool first>
double odd_one(double v, double x, int wanted) {
    const double none = NAN, infinite = INFINITY;
    if (!(v >= 0) || !(x >= 0) || v == infinite) return none;
    if (x == 0) {
        if (wanted == VALUE) return first ? (v == 0 ? 0.0 : -infinite) : infinite;
        return first ? (wanted == GAP ? 1.0 : 0.0) : infinite;
    }
    if (wanted == VALUE) return first ? infinite : -infinite;
    return wanted == GAP ? 0.0 : 1.0;
}

template <bool first>
void run(const Tables& t, const double* v, const double* x, double* out, int64_t count, int wanted) {
    int32_t lists[BRANCHES][BLOCK + LANES];
    for (int64_t start = 0; start < count; start += BLOCK) {
        int size = int(count - start < BLOCK ? count - start : BLOCK), lengths[BRANCHES] = {};
        for (int i = 0; i < size; i++) {
            double a = v[start + i], b = x[start + i], reach = a * a + b * b;
            if (!first && a < 0) a = -a;
            bool usual = a >= 0 && b > 0 && a < INFINITY && b < INFINITY;
            int branch = reach > t.far * t.far ? FAR : reach > t.near * t.near ? NEAR : b >= t.middle ? MIDDLE : SMALL;
            branch = usual ? branch : ODD;
            lists[branch][lengths[branch]++] = i;
        }
        for (int branch = 0; branch < ODD; branch++) {
            const int32_t* list = lists[branch];
            for (int at = 0; at < lengths[branch]; at += LANES) {
                int left = lengths[branch] - at < LANES ? lengths[branch] - at : LANES;
                V a, b;
                for (int i = 0; i < LANES; i++) {
                    int from = list[at + (i < left ? i : 0)];
                    a[i] = first ? v[start + from] : std::fabs(v[start + from]);
                    b[i] = x[start + from];
                }
                V made = compute<first>(t, branch, a, b, wanted);
                for (int i = 0; i < left; i++) out[start + list[at + i]] = made[i];
            }
        }
        for (int at = 0; at < lengths[ODD]; at++) {
            int64_t i = start + lists[ODD][at];
            out[i] = odd_one<first>(first ? v[i] : std::fabs(v[i]), x[i], wanted);
        }
    }
}

}  // namespace

extern "C" void pomona_bessel(const Tables* tables, const double* v, const double* x, double* out, int64_t count,
                              int32_t first, int32_t wanted, int32_t threads) {
    int64_t blocks = (count + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(dynamic, 4) num_threads(threads) if (blocks > 8)
    for (int64_t block = 0; block < blocks; block++) {
        int64_t start = block * BLOCK, size = count - start < BLOCK ? count - start : BLOCK;
        if (first)
            run<true>(*tables, v + start, x + start, out + start, size, wanted);
        else
            run<false>(*tables, v + start, x + start, out + start, size, wanted);
    }
}

extern "C" int32_t pomona_layout() { return int32_t(sizeof(Tables)); }
