/* fuzz_bpe.c: fuzzes the functions of pygpt.h that read bytes from outside, byte-level BPE, with
 * libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer: `make fuzz` builds it with clang.
 *
 * The input is a vocabulary, then a text: first how many merges there are, then two bytes for each.
 * Every buffer has exactly the size that pygpt.h asks for, so that a byte too far is found.
 * What must hold: pieces cover the text in order; the ids of a text, spelled out, are the text.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pygpt.h"

#define CHECK(condition)                                                         \
    do {                                                                         \
        if (!(condition)) {                                                      \
            fprintf(stderr, "fuzz_bpe.c:%d: %s is false\n", __LINE__, #condition); \
            abort();                                                             \
        }                                                                        \
    } while (0)
#define CODE_POINTS 0x110000
#define MOST_MERGES 32
#define MOST_TOKEN 4096 /* bytes; a pair that makes a longer token is left out */

/* Stands in for the table of Unicode's classes: every code point has one of the four. */
static const uint8_t *classes(void) {
    static uint8_t *table;
    if (table) return table;
    table = malloc(CODE_POINTS);
    for (int i = 0; i < CODE_POINTS; i++) table[i] = (uint8_t)(i % 7 % 4);
    for (int i = 0; i < 128; i++)
        table[i] = i == ' ' || (i >= 9 && i <= 13)                ? 3
                   : (i >= '0' && i <= '9')                       ? 2
                   : ((i | 32) >= 'a' && (i | 32) <= 'z')         ? 1
                                                                  : 0;
    return table;
}

static void *room(int64_t bytes) { return malloc((size_t)(bytes > 0 ? bytes : 1)); }

static void check_pieces(const uint8_t *text, int64_t n) {
    int64_t *ends = room(8 * n), *starts = room(8 * n), *counts = room(8 * n), found, distinct;
    CHECK(bpe_split(ends, &found, text, classes(), n) == PYGPT_OK);
    CHECK(found <= n && (found == 0 ? n == 0 : ends[found - 1] == n));
    for (int64_t i = 0; i < found; i++) CHECK(ends[i] > (i ? ends[i - 1] : 0));
    CHECK(bpe_count(starts, ends, counts, &distinct, text, classes(), n) == PYGPT_OK);
    int64_t sum = 0;
    for (int64_t i = 0; i < distinct; i++) {
        CHECK(0 <= starts[i] && starts[i] < ends[i] && ends[i] <= n && counts[i] > 0);
        sum += counts[i];
    }
    CHECK(sum == found);
    int64_t boundary;
    CHECK(bpe_last_boundary(&boundary, text, classes(), n) == PYGPT_OK);
    CHECK(0 <= boundary && boundary <= n);
    free(ends), free(starts), free(counts);
}

/* A vocabulary of the 256 bytes and of up to MOST_MERGES tokens made of two earlier ones. */
typedef struct vocabulary {
    uint8_t *bytes;
    int64_t ends[256 + MOST_MERGES], V, M;
    int32_t merges[3 * MOST_MERGES];
} vocabulary;

static int64_t start_of(const vocabulary *v, int64_t id) { return id ? v->ends[id - 1] : 0; }

static void add_token(vocabulary *v, int32_t left, int32_t right) {
    int64_t nl = v->ends[left] - start_of(v, left), nr = v->ends[right] - start_of(v, right);
    int64_t end = v->ends[v->V - 1];
    if (nl + nr > MOST_TOKEN) return;
    v->bytes = realloc(v->bytes, (size_t)(end + nl + nr));
    memcpy(v->bytes + end, v->bytes + start_of(v, left), (size_t)nl);
    memcpy(v->bytes + end + nl, v->bytes + start_of(v, right), (size_t)nr);
    int32_t *merge = v->merges + 3 * v->M++;
    merge[0] = left, merge[1] = right, merge[2] = (int32_t)v->V;
    v->ends[v->V++] = end + nl + nr;
}

static void check_codec(const vocabulary *v, const uint8_t *text, int64_t n) {
    int64_t size = bpe_table_size(v->V, v->M, v->ends[v->V - 1]), count;
    CHECK(size > 0);
    void *table = room(size);
    int32_t *merges = room(12 * v->M), *ids = room(4 * n);
    memcpy(merges, v->merges, (size_t)(12 * v->M));
    CHECK(bpe_table_init(table, v->bytes, v->ends, merges, v->V, v->M) == PYGPT_OK);
    CHECK(bpe_encode(ids, &count, text, classes(), table, n) == PYGPT_OK);
    int64_t at = 0;
    for (int64_t i = 0; i < count; i++) {
        CHECK(0 <= ids[i] && ids[i] < v->V);
        int64_t start = start_of(v, ids[i]), length = v->ends[ids[i]] - start;
        CHECK(length <= n - at && memcmp(text + at, v->bytes + start, (size_t)length) == 0);
        at += length;
    }
    CHECK(at == n);
    if (v->M > 0) { /* an id that does not exist is refused */
        merges[0] = (int32_t)v->V;
        CHECK(bpe_table_init(table, v->bytes, v->ends, merges, v->V, v->M) == PYGPT_ERANGE);
    }
    free(table), free(merges), free(ids);
}

static void check_training(const uint8_t *text, int64_t n, int64_t M) {
    int64_t *ends = room(8 * n), *counts = room(8 * n), P, done;
    CHECK(bpe_split(ends, &P, text, classes(), n) == PYGPT_OK);
    for (int64_t i = 0; i < P; i++) counts[i] = i % 3; /* 0 as well */
    int32_t *merges = room(8 * M);
    CHECK(bpe_train(merges, &done, text, ends, counts, P, M) == PYGPT_OK);
    CHECK(0 <= done && done <= M);
    for (int64_t i = 0; i < done; i++)
        for (int side = 0; side < 2; side++)
            CHECK(0 <= merges[2 * i + side] && merges[2 * i + side] < 256 + i);
    free(ends), free(counts), free(merges);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    int64_t M = size ? data[0] % (MOST_MERGES + 1) : 0, taken = size ? 1 : 0;
    vocabulary v = {.bytes = malloc(256), .V = 256};
    for (int i = 0; i < 256; i++) v.bytes[i] = (uint8_t)i, v.ends[i] = i + 1;
    for (int64_t i = 0; i < M && (int64_t)size - taken >= 2; i++, taken += 2)
        add_token(&v, data[taken] < v.V ? data[taken] : 0,
                  (int32_t)((data[taken + 1] * (data[taken] & 1 ? 1 : 2)) % v.V));
    /* The text in a block of its own: reading beyond it is found. */
    const int64_t n = (int64_t)size - taken;
    uint8_t *text = room(n);
    if (n) memcpy(text, data + taken, (size_t)n);
    check_pieces(text, n);
    check_codec(&v, text, n);
    check_training(text, n, M);
    free(text), free(v.bytes);
    return 0;
}
