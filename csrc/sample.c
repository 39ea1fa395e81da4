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
 * That also takes an exp of which every operation is rounded alike everywhere: vexp without fused
 * multiply-adds, on vectors of four floats, which every CPU with vectors has. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
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

/* Returns the largest of n floats, which are below +inf; NaN if one is not. */
static float largest(const float *x, int64_t n) {
    vf best = vset1(-INFINITY);
    vi within = ~(vi){0};
    int64_t i = 0;
    for (; i + VW <= n; i += VW) {
        vf v = vload(x + i);
        within &= v < INFINITY;
        best = vmax(best, v);
    }
    float top = vmax_lanes(best);
    int is_valid = 1;
    for (int lane = 0; lane < VW; lane++) is_valid &= within[lane] != 0;
    for (; i < n; i++) {
        is_valid &= x[i] < INFINITY;
        top = x[i] > top ? x[i] : top;
    }
    return is_valid ? top : NAN;
}

/* w (n) = exp((x - top) / temperature) as a multiple of 2^(L-52) with V <= 2^L. Floats of the size
 * of `rounding` are this far apart, so adding and subtracting it rounds the small ones; in a larger
 * one it may change the last bit, but not in 1 (hence L is at least 16). */
static void weigh(float *w, const float *x, int64_t n, float top, double temperature, int64_t V) {
    const double inverse = 1.0 / temperature;
    const float factor = inverse > FLT_MAX ? FLT_MAX : inverse < FLT_MIN ? FLT_MIN : (float)inverse;
    float rounding = 0x1.8p-13f;
    for (int64_t size = 1 << 16; size < V; size *= 2) rounding *= 2.0f;
    int64_t i = 0;
    for (; i + VW <= n; i += VW) {
        vf e = vexp((vload(x + i) - top) * factor);
        vstore(w + i, e + rounding - rounding);
    }
    if (i < n) {
        vf e = vexp((vload_n(x + i, n - i) - top) * factor);
        vstore_n(w + i, e + rounding - rounding, n - i);
    }
}

/* Returns the sum of n weights. */
NOINLINE double sum_of(const float *w, int64_t n) {
    vd low = {0}, high = {0};
    int64_t i = 0;
    for (; i + VW <= n; i += VW) {
        low += vload_double(w + i);
        high += vload_double(w + i + VW / 2);
    }
    low += high;
    double sum = 0.0;
    for (int lane = 0; lane < VW / 2; lane++) sum += low[lane];
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

/* Sets the largest and the smallest of n floats; those at -inf do not count as the smallest. */
static void range_of(float *high, float *low, const float *x, int64_t n) {
    vf highs = vset1(-INFINITY), lows = vset1(INFINITY);
    for (int64_t i = 0; i < n; i += VW) {
        vf v = i + VW <= n ? vload(x + i) : vset1(x[n - 1]);
        if (i + VW > n)
            for (int64_t j = i; j < n; j++) v[j - i] = x[j];
        highs = vmax(highs, v);
        lows = vmin(lows, vselect_lt(vset1(-INFINITY), v, v, vset1(INFINITY)));
    }
    *high = vmax_lanes(highs);
    *low = -vmax_lanes(-lows);
}

/* bins (n) = 0 for the largest x, up to BINS - 1 for the smallest; BINS for -inf. Halves keep the
 * range finite. Where it is very small, all may get bin 0. */
static void choose_bins(uint16_t *bins, const float *x, int64_t n, float high, float low) {
    const float top = 0.5f * high, most = BINS;
    const float ideal = (BINS - 1) / (top - 0.5f * low), scale = ideal < FLT_MAX ? ideal : FLT_MAX;
    for (int64_t i = 0; i < n; i++) {
        float bin = (top - 0.5f * x[i]) * scale;
        bins[i] = (uint16_t)(int32_t)(bin < most ? bin : most);
    }
}

/* Does the same in double precision: the smallest gets BINS - 2 at least, so they get several. */
static void choose_bins_exactly(uint16_t *bins, const float *x, int64_t n, float high, float low) {
    const double top = high, scale = (BINS - 1) / (top - low);
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

/* Finds the end of the shortest prefix of the sorted order of x (n) whose weights w (1 each if w is
 * NULL) reach `target`; if not even all reach it, the end of all above -inf. */
static cut find_cut(const float *x, const float *w, int64_t n, double target, memory *m) {
    const cut all = {-INFINITY, -1, 0.0};
    const int32_t *places = NULL; /* of x in the x that was given, if it is another by now */
    double before = 0.0;
    while (n > FEW) {
        float high, low;
        range_of(&high, &low, x, n);
        if (high == low) break;
        (places ? choose_bins_exactly : choose_bins)(m->bins, x, n, high, low);
        int bin = end_bin(&before, m->bins, w, n, target);
        if (bin == BINS) return all;
        n = places_in_bin(m->list, m->bins, n, bin);
        for (int64_t i = 0; i < n; i++) { /* never behind the places that are read */
            int32_t place = m->list[i];
            m->x[i] = x[place];
            m->w[i] = w ? w[place] : 1.0f;
            m->places[i] = places ? places[place] : place;
        }
        x = m->x;
        w = w ? m->w : NULL;
        places = m->places;
    }
    for (int64_t i = 0; i < n; i++) m->list[i] = (int32_t)i;
    if (n <= FEW) sort_few(m->list, n, x);
    for (int64_t i = 0; i < n; i++) {
        int32_t place = m->list[i];
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
            vl found = (vl)(vload(x + i) >= end.value);
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
    for (int64_t i = 0; i < middle; i++) w[i] = (x[i] >= value) & (w[i] >= least) ? w[i] : 0.0f;
    for (int64_t i = middle; i < n; i++) w[i] = (x[i] > value) & (w[i] >= least) ? w[i] : 0.0f;
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
    const float top = largest(logits, V);
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
        n = keep_up_to(find_cut(x, NULL, V, (double)top_k, &m), x, V, &m);
        x = m.left;
    }
    float *w = m.weights;
    weigh(w, x, n, top, temperature, V);
    cut end = {-INFINITY, -1, sum_of(w, n)};
    if (top_p < 1.0) end = find_cut(x, w, n, top_p * end.sum, &m);
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
    const float top = largest(logits, V);
    weigh(m.weights, logits, V, top, 1.0, V);
    *lse = top + log(sum_of(m.weights, V));
    if (N > 0) {
        int64_t n = keep_up_to(find_cut(logits, NULL, V, (double)N, &m), logits, V, &m);
        sort(m.ids, n, logits, m.list);
        memcpy(best, m.ids, (size_t)n * sizeof *best);
    }
    scratch_give(m.scratch);
    return PYGPT_OK;
}
