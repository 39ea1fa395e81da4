/* sample.c: chooses a token by the logits of a position, in time that is proportional to V.
 *
 * Sorting 50257 tokens takes some milliseconds, as long as a small model takes for a token. But the
 * rules only ask for a prefix of the sorted order: its first k, or as many as reach a sum. find_cut
 * finds where such a prefix ends without sorting: it counts the tokens, or adds up their weights,
 * in bins of equal width between the largest and the smallest logit, finds the bin in which the
 * prefix ends, and goes on with the tokens of that bin alone, in smaller bins.
 *
 * Bins add weights up in another order than the sorted one. Weights are therefore rounded to
 * multiples of a unit so large that every sum of them has at most 52 bits: sums in double precision
 * are exact, and no order changes them. So the loops of pygpt/backend/reference/sample.py, which
 * sort, choose the same token from the same logits, always.
 *
 * That also takes an exp of which every operation is rounded alike everywhere: that of vexp,
 * without fused multiply-adds. Each weight is computed by itself, so vectors may have any width. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off", "no-trapping-math") /* the latter makes vectors of ?: */
#endif
#include <float.h>

#include "internal.h"

#define VW 4
#include "simd.h"

typedef int64_t vl __attribute__((vector_size(4 * VW))); /* to test all bits at once */

#define BINS 512
#define TABLES 4 /* so that neighbours in one bin do not wait for each other's sum */
#define FEW 24   /* sorted by insertion */

/* -------------------------------------------------------------------- penalties and biases --- */

/* Returns whether each of n floats is below the bound in size; not so a NaN. */
static int all_below(const float *x, int64_t n, float bound) {
    vi within = ~(vi){0};
    int64_t i = 0;
    for (; i + VW <= n; i += VW) {
        vf v = vload(x + i);
        within &= (v < bound) & (v > -bound);
    }
    int result = 1;
    for (int lane = 0; lane < VW; lane++) result &= within[lane] != 0;
    for (; i < n; i++) result &= x[i] < bound && x[i] > -bound;
    return result;
}

static int all_in_range(const int32_t *ids, int64_t n, int64_t V) {
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= V) return 0;
    return 1;
}

static float to_float(double x) {
    const double LARGEST = 0x1.fffffep127;
    if (x == -INFINITY) return -INFINITY;
    return (float)(x > LARGEST ? LARGEST : x < -LARGEST ? -LARGEST : x);
}

int sample_adjust(float *out, const float *logits, const int32_t *bias_ids, const double *biases,
                  const int32_t *seen, const int32_t *counts, int64_t V, int64_t NB, int64_t NS,
                  double repetition_penalty, double presence_penalty, double frequency_penalty) {
    if (!all_below(logits, V, INFINITY)) return PYGPT_ENOTFINITE;
    if (!all_in_range(bias_ids, NB, V) || !all_in_range(seen, NS, V)) return PYGPT_ERANGE;
    if (out != logits) memcpy(out, logits, (size_t)V * sizeof *out);
    for (int64_t i = 0; i < NB; i++) out[bias_ids[i]] = to_float(out[bias_ids[i]] + biases[i]);
    for (int64_t i = 0; i < NS; i++) {
        double x = out[seen[i]];
        x = x > 0.0 ? x / repetition_penalty : x * repetition_penalty;
        x -= counts[i] * frequency_penalty;
        out[seen[i]] = to_float(x - (counts[i] > 0) * presence_penalty);
    }
    return PYGPT_OK;
}

/* --------------------------------------------------------------------------------- weights --- */

/* The largest and the smallest of some logits; those at -inf do not count as the smallest. */
typedef struct range {
    float high, low;
} range;

/* Returns the range of n floats, which are below +inf; high is NaN if one is not. */
static range range_of(const float *x, int64_t n) {
    vf highs[2] = {vset1(-INFINITY), vset1(-INFINITY)};
    vf lows[2] = {vset1(INFINITY), vset1(INFINITY)};
    vi within[2] = {~(vi){0}, ~(vi){0}};
    int64_t i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) {
        UNROLL
        for (int t = 0; t < 2; t++) { /* which need not wait for one another */
            const vf v = vload(x + i + t * VW);
            within[t] &= v < INFINITY;
            highs[t] = vmax(highs[t], v);
            /* -inf becomes a NaN, all bits 1, of which vmin takes the other */
            lows[t] = vmin((vf)((vi)v | (v == -INFINITY)), lows[t]);
        }
    }
    within[0] &= within[1];
    range r = {vmax_lanes(vmax(highs[0], highs[1])), -vmax_lanes(-vmin(lows[0], lows[1]))};
    int is_valid = 1;
    for (int lane = 0; lane < VW; lane++) is_valid &= within[0][lane] != 0;
    for (; i < n; i++) {
        is_valid &= x[i] < INFINITY;
        r.high = x[i] > r.high ? x[i] : r.high;
        r.low = x[i] < r.low && x[i] != -INFINITY ? x[i] : r.low;
    }
    if (!is_valid) r.high = NAN;
    return r;
}

/* Returns exp(d), d <= 0, with the bits of vexp down to d = -64. Below, it returns less than 2^-92
 * instead, which rounds to the weight 0. So no operation is needed for what vexp does at the ends
 * of its range. */
INLINE float exp_of_at_most_0(float d) {
    const float LOG2E = 1.44269504088896341f, LN2_HI = 0.693359375f, LN2_LO = -2.12194440e-4f;
    const float SHIFT = 12582912.0f; /* 1.5 2^23: its lowest 9 bits are 0 */
    d = d > -64.0f ? d : -64.0f;
    const float shifted = d * LOG2E + SHIFT, n = shifted - SHIFT;
    const float r = d - n * LN2_HI - n * LN2_LO;
    float p = 1.381459633e-3f;
    p = p * r + 8.368717091e-3f;
    p = p * r + 4.166838809e-2f;
    p = p * r + 1.666652063e-1f;
    p = p * r + 4.999999345e-1f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    uint32_t bits, n_bits;
    memcpy(&bits, &p, sizeof bits);
    memcpy(&n_bits, &shifted, sizeof n_bits);
    bits += n_bits << 23; /* adds n to the exponent */
    memcpy(&p, &bits, sizeof p);
    return p;
}

/* Floats of the size of `rounding` are a unit apart, so adding and subtracting it rounds the small
 * ones to units; in a larger one it may change the last bit, but not in 1 (rounding is less than
 * 2^-12 for V up to 2^16, and L is at least 16). */
INLINE void weigh_all(float *restrict w, const float *restrict x, int64_t n, float top,
                      float factor, float rounding) {
    for (int64_t i = 0; i < n; i++)
        w[i] = exp_of_at_most_0((x[i] - top) * factor) + rounding - rounding;
}

/* Compilers make vectors of the loop, of four floats, or of eight where the CPU has AVX2. */
typedef void weigh_function(float *, const float *, int64_t, float, float, float);
static void weigh_by_4(float *w, const float *x, int64_t n, float top, float factor,
                       float rounding) {
    weigh_all(w, x, n, top, factor, rounding);
}
#if defined(__x86_64__)
__attribute__((target("avx2"))) static void weigh_by_8(float *w, const float *x, int64_t n,
                                                       float top, float factor, float rounding) {
    weigh_all(w, x, n, top, factor, rounding);
}
extern const isa isa_baseline;
static weigh_function *fastest_weigh(void) {
    const int has_avx2 = isa_in_use != &isa_baseline && __builtin_cpu_supports("avx2");
    return has_avx2 ? weigh_by_8 : weigh_by_4;
}
#else
static weigh_function *fastest_weigh(void) { return weigh_by_4; }
#endif

/* w (n) = exp((x - top) / temperature) as a multiple of 2^(L-52) with V <= 2^L. */
static void weigh(float *w, const float *x, int64_t n, float top, double temperature, int64_t V) {
    const double inverse = 1.0 / temperature;
    const float factor = inverse > FLT_MAX ? FLT_MAX : inverse < FLT_MIN ? FLT_MIN : (float)inverse;
    float rounding = 0x1.8p-13f;
    for (int64_t size = 1 << 16; size < V; size *= 2) rounding *= 2.0f;
    fastest_weigh()(w, x, n, top, factor, rounding);
}

/* Returns the sum of n weights. */
NOINLINE double sum_of(const float *w, int64_t n) {
    vd sums[4] = {{0}};
    int64_t i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW)
        UNROLL for (int t = 0; t < 4; t++) sums[t] += vload_double(w + i + t * (VW / 2));
    sums[0] = sums[0] + sums[1] + (sums[2] + sums[3]);
    double sum = 0.0;
    for (int lane = 0; lane < VW / 2; lane++) sum += sums[0][lane];
    for (; i < n; i++) sum += w[i];
    return sum;
}

/* -------------------------------------------------------------------------------- prefixes --- */

/* The end of a prefix of the sorted order: it holds the places whose x is above `value`, and of
 * those at it, the places up to `last`. They weigh `sum`. */
typedef struct cut {
    float value;
    int64_t last;
    double sum;
} cut;

/* Adds up the weights w of n places (1 each if w is NULL) by their bins. Returns the bin in which
 * the sum, which is *before before the first bin, reaches target, and adds the bins above it to
 * *before; BINS if the sum does not reach it. */
static int end_bin(double *before, const uint16_t *bins, const float *w, int64_t n, double target) {
    double tables[TABLES][BINS + 1] = {{0}};
    int64_t i = 0;
    for (; i + TABLES <= n; i += TABLES)
        for (int t = 0; t < TABLES; t++) tables[t][bins[i + t]] += w ? w[i + t] : 1.0f;
    for (; i < n; i++) tables[0][bins[i]] += w ? w[i] : 1.0f;
    for (int bin = 0; bin < BINS; bin++) {
        double sum = *before;
        for (int t = 0; t < TABLES; t++) sum += tables[t][bin];
        if (sum >= target) return bin;
        *before = sum;
    }
    return BINS;
}

/* list (returned length) = the places whose bin is the given one, in their order. Few are, so eight
 * places are passed over at a time. */
static int64_t places_in_bin(int32_t *list, const uint16_t *bins, int64_t n, int bin) {
    typedef uint16_t vh __attribute__((vector_size(16)));
    int64_t count = 0, i = 0;
    while (i < n) {
        if (i + 8 <= n) {
            vh eight;
            memcpy(&eight, bins + i, sizeof eight);
            vl found = (vl)(eight == (uint16_t)bin);
            if (!(found[0] | found[1])) {
                i += 8;
                continue;
            }
        }
        for (int64_t end = min64(i + 8, n); i < end; i++) {
            list[count] = (int32_t)i;
            count += bins[i] == bin;
        }
    }
    return count;
}

/* bins (n) = 0 for the largest x, up to BINS - 1 for the smallest; BINS for -inf. Halves keep the
 * range finite. Where it is very small, all may get bin 0. */
static void choose_bins(uint16_t *bins, const float *x, int64_t n, range r) {
    const float top = 0.5f * r.high, most = BINS;
    const float ideal = (BINS - 1) / (top - 0.5f * r.low);
    const float scale = ideal < FLT_MAX ? ideal : FLT_MAX;
    for (int64_t i = 0; i < n; i++) {
        float bin = (top - 0.5f * x[i]) * scale;
        bins[i] = (uint16_t)(int32_t)(bin < most ? bin : most);
    }
}

/* Does the same in double precision: the smallest gets BINS - 2 at least, so they get several. */
static void choose_bins_exactly(uint16_t *bins, const float *x, int64_t n, range r) {
    const double top = r.high, scale = (BINS - 1) / (top - r.low);
    for (int64_t i = 0; i < n; i++) {
        double bin = (top - x[i]) * scale;
        bins[i] = (uint16_t)(int32_t)(bin < BINS ? bin : BINS);
    }
}

/* Sorts a list of places: larger x first. Equal ones keep their order. */
static void sort_few(int32_t *list, int64_t n, const float *x) {
    for (int64_t i = 1; i < n; i++) {
        int32_t place = list[i];
        int64_t j = i;
        for (; j > 0 && x[list[j - 1]] < x[place]; j--) list[j] = list[j - 1];
        list[j] = place;
    }
}

/* Sorts a list of places by merging; `other` has room for it. */
static void sort(int32_t *list, int64_t n, const float *x, int32_t *other) {
    for (int64_t i = 0; i < n; i += FEW) sort_few(list + i, min64(FEW, n - i), x);
    for (int64_t run = FEW; run < n; run *= 2) {
        for (int64_t i = 0; i < n; i += 2 * run) {
            int64_t a = i, middle = min64(i + run, n), b = middle, end = min64(i + 2 * run, n);
            for (int64_t to = i; to < end; to++)
                other[to] = a < middle && (b == end || x[list[a]] >= x[list[b]]) ? list[a++]
                                                                                 : list[b++];
        }
        memcpy(list, other, (size_t)n * sizeof *list);
    }
}

/* The memory of a choice among V tokens. */
typedef struct memory {
    float *scratch;          /* holds all the others */
    uint16_t *bins;          /* of each place */
    int32_t *list;           /* of places in one bin */
    float *x, *w;            /* of these places, which come from `places` */
    int32_t *places;
    float *weights, *left;   /* of all candidates; the logits of those that top_k leaves, */
    int32_t *ids;            /* which are these tokens */
} memory;

static int take_memory(memory *m, int64_t V) {
    float *s = scratch_take(8 * V);
    if (!s) return 0;
    *m = (memory){.scratch = s, .bins = (uint16_t *)s, .list = (int32_t *)(s + V), .x = s + 2 * V,
                  .w = s + 3 * V, .places = (int32_t *)(s + 4 * V), .weights = s + 5 * V,
                  .left = s + 6 * V, .ids = (int32_t *)(s + 7 * V)};
    return 1;
}

/* Finds the end of the shortest prefix of the sorted order of x (n), whose range is r, with weights
 * w (1 each if w is NULL) that reach `target`; if not even all reach it, the end of all above -inf.
 */
static cut find_cut(const float *x, range r, const float *w, int64_t n, double target, memory *m) {
    const cut all = {-INFINITY, -1, 0.0};
    const int32_t *places = NULL; /* of x in the x that was given, if it is another by now */
    double before = 0.0;
    while (n > FEW) {
        if (places) r = range_of(x, n);
        if (r.high == r.low) break;
        (places ? choose_bins_exactly : choose_bins)(m->bins, x, n, r);
        int bin = end_bin(&before, m->bins, w, n, target);
        if (bin == BINS) return all;
        n = places_in_bin(m->list, m->bins, n, bin);
        for (int64_t i = 0; i < n; i++) { /* never behind the places that are read */
            int32_t place = m->list[i];
            m->x[i] = x[place];
            if (w) m->w[i] = w[place];
            m->places[i] = places ? places[place] : place;
        }
        x = m->x;
        w = w ? m->w : NULL;
        places = m->places;
    }
    if (n <= FEW) {
        for (int32_t i = 0; i < n; i++) m->list[i] = i;
        sort_few(m->list, n, x);
    }
    for (int64_t i = 0; i < n; i++) {
        int32_t place = n <= FEW ? m->list[i] : (int32_t)i;
        if (x[place] == -INFINITY) continue;
        before += w ? w[place] : 1.0f;
        if (before >= target) return (cut){x[place], places ? places[place] : place, before};
    }
    return all;
}

/* ------------------------------------------------------------------------------ the choice --- */

/* Keeps the logits x of V tokens up to a cut in m->left, and the tokens in m->ids; returns how many
 * these are. VW tokens below it are passed over at a time. */
static int64_t keep_up_to(cut end, const float *x, int64_t V, memory *m) {
    int64_t n = 0, i = 0;
    while (i < V) {
        if (i + VW <= V) {
            vf v = vload(x + i);
            vl found = i > end.last ? (vl)(v > end.value) : (vl)(v >= end.value);
            if (!(found[0] | found[1])) {
                i += VW;
                continue;
            }
        }
        for (int64_t stop = min64(i + VW, V); i < stop; i++) {
            m->left[n] = x[i];
            m->ids[n] = (int32_t)i;
            n += (x[i] > end.value) | ((x[i] == end.value) & (i <= end.last));
        }
    }
    return n;
}

/* Sets weights past a cut, and those below min_p, to 0. */
static void clear_past(cut end, float *w, const float *x, int64_t n, double min_p) {
    float least = (float)min_p;
    if (least < min_p) least = nextafterf(least, INFINITY); /* no float lies between the two */
    const float value = end.value;
    const int64_t middle = end.last + 1;
    for (int64_t i = 0; i < middle; i++) w[i] = ((x[i] >= value) & (w[i] >= least)) ? w[i] : 0.0f;
    for (int64_t i = middle; i < n; i++) w[i] = ((x[i] > value) & (w[i] >= least)) ? w[i] : 0.0f;
}

/* Returns the first place with which the sum of w (n) exceeds `before`, which is below the sum of
 * all. */
static int64_t place_drawn(const float *w, int64_t n, double before) {
    int64_t i = 0;
    double passed = 0.0;
    for (int64_t step = 512; step >= 32; step /= 4) {
        while (i + step < n) {
            double next = passed + sum_of(w + i, step);
            if (next > before) break;
            passed = next;
            i += step;
        }
    }
    for (; i < n - 1; i++)
        if ((passed += w[i]) > before) break;
    return i;
}

int sample_token(int32_t *token, const float *logits, int64_t V, double temperature, int64_t top_k,
                 double top_p, double min_p, double u) {
    range r = range_of(logits, V);
    const float top = r.high;
    if (top != top) return PYGPT_ENOTFINITE;
    if (top == -INFINITY) return PYGPT_ENOTOKEN;
    if (temperature == 0.0 || top_k == 1) {
        int32_t v = 0;
        while (logits[v] != top) v++;
        *token = v;
        return PYGPT_OK;
    }
    memory m;
    if (!take_memory(&m, V)) return PYGPT_ENOMEM;
    const float *x = logits;
    int64_t n = V;
    if (top_k > 0) {
        n = keep_up_to(find_cut(x, r, NULL, V, (double)top_k, &m), x, V, &m);
        x = m.left;
        r = range_of(x, n);
    }
    float *w = m.weights;
    weigh(w, x, n, top, temperature, V);
    cut end = {-INFINITY, -1, sum_of(w, n)};
    if (top_p < 1.0) end = find_cut(x, r, w, n, top_p * end.sum, &m);
    if (top_p < 1.0 || min_p > 0.0) clear_past(end, w, x, n, min_p);
    const double sum = min_p > 0.0 ? sum_of(w, n) : end.sum;
    int64_t place = place_drawn(w, n, u * sum);
    *token = top_k > 0 ? m.ids[place] : (int32_t)place;
    scratch_give(m.scratch);
    return PYGPT_OK;
}

int sample_best(int32_t *best, double *lse, const float *logits, int64_t V, int64_t N) {
    if (!all_below(logits, V, INFINITY)) return PYGPT_ENOTFINITE;
    memory m;
    if (!take_memory(&m, V)) return PYGPT_ENOMEM;
    const range r = range_of(logits, V);
    weigh(m.weights, logits, V, r.high, 1.0, V);
    *lse = r.high + log(sum_of(m.weights, V));
    if (N > 0) {
        int64_t n = keep_up_to(find_cut(logits, r, NULL, V, (double)N, &m), logits, V, &m);
        sort(m.ids, n, logits, m.list);
        memcpy(best, m.ids, (size_t)n * sizeof *best);
    }
    scratch_give(m.scratch);
    return PYGPT_OK;
}
