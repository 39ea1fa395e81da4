/* embedding.c: adds a row of the token table and a row of the position table, for each token.
 *
 * Backward. The gradient of a table's row is the sum of dout over the places where the row was
 * used. A thread owns channels of the token table (it cannot own rows, because any id may occur
 * anywhere) and rows of the position table; it walks the tokens in order. Only rows that occur are
 * added to.
 */
#include <string.h>

#include "internal.h"

static int ids_in_range(const int32_t *ids, int64_t n, int64_t V) {
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= V) return 0;
    return 1;
}

/* A table of token vectors in one of three forms; the other pointers are NULL. */
typedef struct table {
    const float *floats;
    const uint16_t *halves;
    const int8_t *q;
    const float *scales;
} table;

/* out (C) = the vector of a token. */
static void read_row(float *out, const table *t, int64_t token, int64_t C) {
    if (t->floats) {
        memcpy(out, t->floats + token * C, sizeof(float) * (size_t)C);
    } else if (t->halves) {
        for (int64_t c = 0; c < C; c++) out[c] = widened(t->halves[token * C + c]);
    } else {
        const int64_t groups = (C + PYGPT_INT8_GROUP - 1) / PYGPT_INT8_GROUP;
        isa_in_use->dequantize(out, t->q + token * groups * PYGPT_INT8_GROUP,
                               t->scales + token * groups, 0, 1, C);
    }
}

static int embed(float *out, const int32_t *ids, const table *t, const float *wpe,
                 const int32_t *past, int64_t B, int64_t T, int64_t C, int64_t V, int64_t P) {
    if (!ids_in_range(ids, B * T, V)) return PYGPT_ERANGE;
    for (int64_t b = 0; wpe && b < B; b++) {
        const int64_t first = past ? past[b] : 0;
        if (first < 0 || first + T > P) return PYGPT_ERANGE;
    }
    int threads = threads_for((double)(B * T) * (double)C, B * T);
    int64_t chunk = chunk_for(B * T, 1, threads);
    PARALLEL(threads)
#pragma omp for schedule(dynamic)
    for (int64_t r0 = 0; r0 < B * T; r0 += chunk)
        for (int64_t r = r0; r < min64(r0 + chunk, B * T); r++) {
            float *row = out + r * C;
            read_row(row, t, ids[r], C);
            if (wpe)
                isa_in_use->add(row, row, wpe + ((past ? past[r / T] : 0) + r % T) * C, C);
        }
    return PYGPT_OK;
}

int embedding_forward(float *out, const int32_t *ids, const float *wte, const float *wpe,
                      const int32_t *past, int64_t B, int64_t T, int64_t C, int64_t V, int64_t P) {
    return embed(out, ids, &(table){.floats = wte}, wpe, past, B, T, C, V, P);
}

int embedding_bfloat16(float *out, const int32_t *ids, const uint16_t *wte, const float *wpe,
                       const int32_t *past, int64_t B, int64_t T, int64_t C, int64_t V, int64_t P) {
    return embed(out, ids, &(table){.halves = wte}, wpe, past, B, T, C, V, P);
}

int embedding_int8(float *out, const int32_t *ids, const int8_t *q, const float *scales,
                   const float *wpe, const int32_t *past, int64_t B, int64_t T, int64_t C,
                   int64_t V, int64_t P) {
    return embed(out, ids, &(table){.q = q, .scales = scales}, wpe, past, B, T, C, V, P);
}

int64_t pygpt_embedding_chunk(int64_t C, int threads) {
    return max64(16, (C / threads + 15) / 16 * 16);
}

/* dwte_v = the sum of dout over the places with id v;  dwpe_t = sum_b dout_bt. */
int embedding_backward(float *dwte, float *dwpe, const float *dout, const int32_t *ids, int64_t B,
                       int64_t T, int64_t C, int64_t V, int64_t P, int accumulate_wte,
                       int accumulate_wpe) {
    if (!ids_in_range(ids, B * T, V)) return PYGPT_ERANGE;
    if (dwte && !accumulate_wte) memset(dwte, 0, sizeof(float) * (size_t)(V * C));
    if (dwte) {
        int threads = C > 16 ? worth_threads((double)(B * T) * (double)C) : 1;
        int64_t chunk = pygpt_embedding_chunk(C, threads);
        note_sharing(threads, (C + chunk - 1) / chunk);
        PARALLEL(threads)
#pragma omp for schedule(dynamic)
        for (int64_t c = 0; c < C; c += chunk)
            for (int64_t r = 0; r < B * T; r++) {
                float *row = dwte + ids[r] * C + c;
                isa_in_use->add(row, row, dout + r * C + c, min64(chunk, C - c));
            }
    }
    if (dwpe) {
        int threads = threads_for((double)(B * T) * (double)C, P);
        PARALLEL(threads)
#pragma omp for schedule(static)
        for (int64_t t = 0; t < P; t++) {
            if (!accumulate_wpe) memset(dwpe + t * C, 0, sizeof(float) * (size_t)C);
            for (int64_t b = 0; b < B && t < T; b++)
                isa_in_use->add(dwpe + t * C, dwpe + t * C, dout + (b * T + t) * C, C);
        }
    }
    return PYGPT_OK;
}
