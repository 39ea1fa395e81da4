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

int embedding_forward(float *out, const int32_t *ids, const float *wte, const float *wpe,
                      const int32_t *past, int64_t B, int64_t T, int64_t C, int64_t V, int64_t P) {
    if (!ids_in_range(ids, B * T, V)) return PYGPT_ERANGE;
    for (int64_t b = 0; wpe && b < B; b++) {
        const int64_t first = past ? past[b] : 0;
        if (first < 0 || first + T > P) return PYGPT_ERANGE;
    }
    int threads = threads_for((double)B * T * C, B * T);
    int64_t chunk = chunk_for(B * T, 1, threads);
    PARALLEL(threads)
#pragma omp for schedule(dynamic)
    for (int64_t r0 = 0; r0 < B * T; r0 += chunk)
        for (int64_t r = r0; r < min64(r0 + chunk, B * T); r++) {
            const float *token = wte + ids[r] * C;
            if (wpe)
                isa_in_use->add(out + r * C, token,
                                wpe + ((past ? past[r / T] : 0) + r % T) * C, C);
            else
                memcpy(out + r * C, token, sizeof(float) * (size_t)C);
        }
    return PYGPT_OK;
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
        int threads = C > 16 ? worth_threads((double)B * T * C) : 1;
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
        int threads = threads_for((double)B * T * C, P);
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
