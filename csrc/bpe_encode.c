/* bpe_encode.c: turns a text's pieces into token ids.
 *
 *   text --bpe_piece_end--> piece --+-- it is a token ------------------------------> one id
 *                                   +-- short: merge in two small arrays -----------> ids
 *                                   +-- long: merge in a linked list with a heap ---> ids
 *
 * The rank of a merge is its place in the list of merges. Merging replaces the pair of neighbours
 * that has the lowest rank (the leftmost of equal pairs) by the token that it makes, and repeats
 * this until no pair of neighbours is in the list. Nine pieces of ten are a token as they stand, so
 * they are first looked up in a hash table. The table holds only short tokens that merging would
 * also arrive at, so it changes no result.
 *
 * Scanning a short piece for its lowest rank takes quadratic time, but its ranks lie in one or two
 * cache lines. A long piece keeps its ranks in a heap, which takes n log n, even for a megabyte of
 * one letter.
 *
 * The tables are one block without pointers:  header | tokens | pairs | starts | bytes
 */
#include <stdlib.h>
#include <string.h>

#include "bpe.h"

#define SHORT 64 /* bytes of the longest piece that is merged by scanning */

typedef struct token_slot { /* free when length is 0 */
    uint64_t key;           /* the bytes themselves when length <= 8, else their hash */
    int32_t length, id;
} token_slot;

typedef struct pair_slot { /* free when rank is -1 */
    int32_t left, right;
    int32_t rank, id; /* merges[rank] = (left, right, id) */
} pair_slot;

typedef struct table {
    int64_t V, bytes;
    int64_t token_mask, pair_mask; /* the number of slots, a power of two, less 1 */
    int32_t byte_id[256];
} table;

static int64_t slots_for(int64_t n) {
    int64_t slots = 16;
    while (slots < 2 * n) slots *= 2;
    return slots;
}

static token_slot *token_slots(const table *t) { return (token_slot *)(t + 1); }
static pair_slot *pair_slots(const table *t) {
    return (pair_slot *)(token_slots(t) + t->token_mask + 1);
}
static int64_t *token_starts(const table *t) {
    return (int64_t *)(pair_slots(t) + t->pair_mask + 1);
}
static uint8_t *token_bytes(const table *t) { return (uint8_t *)(token_starts(t) + t->V + 1); }

/* --------------------------------------------------------------------------------- look-ups --- */

/* Returns the slot that holds a token, or the free slot where it belongs. */
static inline token_slot *token_find(const table *t, const uint8_t *p, int64_t n, uint64_t key) {
    const int64_t *starts = token_starts(t);
    for (uint64_t i = bpe_mix(key + (uint64_t)n);; i++) {
        token_slot *slot = token_slots(t) + (i & (uint64_t)t->token_mask);
        if (slot->length == 0) return slot;
        if (slot->key != key || slot->length != n) continue;
        if (n <= 8 || memcmp(token_bytes(t) + starts[slot->id], p, (size_t)n) == 0) return slot;
    }
}

/* Returns the slot that holds a pair, or the free slot where it belongs. */
static inline pair_slot *pair_find(const table *t, int32_t left, int32_t right) {
    for (uint64_t i = bpe_mix((uint64_t)(uint32_t)left << 32 | (uint32_t)right);; i++) {
        pair_slot *slot = pair_slots(t) + (i & (uint64_t)t->pair_mask);
        if (slot->rank < 0 || (slot->left == left && slot->right == right)) return slot;
    }
}

/* ---------------------------------------------------------------------------------- merging --- */

#define NONE INT32_MAX /* the rank of neighbours that do not merge: higher than any other */

static inline int32_t rank_of(const pair_slot *slot) { return slot->rank < 0 ? NONE : slot->rank; }

/* Merges the n <= SHORT bytes at p; returns the number of ids written. */
static int64_t merge_short(const table *t, int32_t *ids, const uint8_t *p, int n) {
    int32_t rank[SHORT], made[SHORT]; /* of the pair (i, i+1): its rank, the token it makes */
    pair_slot *slot;
    for (int i = 0; i < n; i++) ids[i] = t->byte_id[p[i]];
    for (int i = 0; i + 1 < n; i++) {
        slot = pair_find(t, ids[i], ids[i + 1]);
        rank[i] = rank_of(slot), made[i] = slot->id;
    }
    while (n > 1) {
        int at = 0;
        for (int i = 1; i + 1 < n; i++)
            if (rank[i] < rank[at]) at = i;
        if (rank[at] == NONE) break;
        ids[at] = made[at];
        n--;
        for (int i = at + 1; i < n; i++) ids[i] = ids[i + 1];
        for (int i = at + 1; i + 1 < n; i++) rank[i] = rank[i + 1], made[i] = made[i + 1];
        if (at > 0) {
            slot = pair_find(t, ids[at - 1], ids[at]);
            rank[at - 1] = rank_of(slot), made[at - 1] = slot->id;
        }
        if (at + 1 < n) {
            slot = pair_find(t, ids[at], ids[at + 1]);
            rank[at] = rank_of(slot), made[at] = slot->id;
        }
    }
    return n;
}

/* A binary heap of keys rank << 32 | position. The least key is the leftmost of the lowest rank. */
typedef struct heap {
    uint64_t *keys;
    int64_t n;
} heap;

static void sift_down(heap *h, int64_t i, uint64_t key) {
    for (int64_t child; (child = 2 * i + 1) < h->n; i = child) {
        if (child + 1 < h->n && h->keys[child + 1] < h->keys[child]) child++;
        if (h->keys[child] >= key) break;
        h->keys[i] = h->keys[child];
    }
    h->keys[i] = key;
}

static void push(heap *h, uint64_t key) {
    int64_t i = h->n++;
    for (; i > 0 && h->keys[(i - 1) / 2] > key; i = (i - 1) / 2) h->keys[i] = h->keys[(i - 1) / 2];
    h->keys[i] = key;
}

static uint64_t pop(heap *h) {
    uint64_t least = h->keys[0];
    h->n--;
    if (h->n > 0) sift_down(h, 0, h->keys[h->n]);
    return least;
}

/* One token of a long piece. It stands in the list at the position of its first byte. */
typedef struct link {
    int32_t id, rank;      /* rank: that of the pair of this token and the next */
    int32_t before, after; /* the neighbours' positions; -1: none */
} link;

/* Stores the rank of the pair that begins at a position, and puts it on the heap if it merges. */
static void note_pair(const table *t, link *list, heap *h, int32_t at) {
    int32_t after = list[at].after;
    list[at].rank = after < 0 ? NONE : rank_of(pair_find(t, list[at].id, list[after].id));
    if (list[at].rank != NONE) push(h, (uint64_t)list[at].rank << 32 | (uint32_t)at);
}

/* Returns the bytes of scratch that merge_long needs: n links and 2n keys. Each merge takes one key
 * off the heap and puts at most two on it, so the heap never holds more than 2n. */
static int64_t scratch_for(int64_t n) { return n * (int64_t)(sizeof(link) + 2 * sizeof(uint64_t)); }

/* Merges the n bytes at p, 0 < n < INT32_MAX; returns the number of ids written. */
static int64_t merge_long(const table *t, int32_t *ids, const uint8_t *p, int64_t n,
                          void *scratch) {
    heap h = {.keys = scratch, .n = 0};
    link *list = (link *)(h.keys + 2 * n);
    for (int32_t i = 0; i < n; i++)
        list[i] = (link){.id = t->byte_id[p[i]], .before = i - 1, .after = i + 1 < n ? i + 1 : -1};
    for (int32_t i = 0; i < n; i++) note_pair(t, list, &h, i);
    while (h.n > 0) {
        uint64_t key = pop(&h);
        int32_t at = (int32_t)(uint32_t)key, rank = (int32_t)(key >> 32);
        if (list[at].rank != rank) continue; /* stale: one of the two tokens was merged */
        int32_t gone = list[at].after;
        list[at].id = pair_find(t, list[at].id, list[gone].id)->id;
        list[at].after = list[gone].after;
        list[gone].rank = NONE;
        if (list[at].after >= 0) list[list[at].after].before = at;
        note_pair(t, list, &h, at);
        if (list[at].before >= 0) note_pair(t, list, &h, list[at].before);
    }
    int64_t count = 0;
    for (int32_t i = 0; i >= 0; i = list[i].after) ids[count++] = list[i].id;
    return count;
}

/* Merges n bytes in the faster of the two ways. *scratch, of *room bytes, grows as needed. */
static int merge(const table *t, int32_t *ids, int64_t *count, const uint8_t *p, int64_t n,
                 void **scratch, int64_t *room) {
    if (n <= SHORT) {
        *count = merge_short(t, ids, p, (int)n);
        return PYGPT_OK;
    }
    if (n >= INT32_MAX) return PYGPT_ENOMEM;
    if (!*scratch || scratch_for(n) > *room) {
        free(*scratch);
        *room = scratch_for(n);
        *scratch = malloc((size_t)*room);
        if (!*scratch) return PYGPT_ENOMEM;
    }
    *count = merge_long(t, ids, p, n, *scratch);
    return PYGPT_OK;
}

/* ---------------------------------------------------------------- the functions of pygpt.h --- */

int64_t bpe_table_size(int64_t V, int64_t M, int64_t bytes) {
    const int64_t most = INT32_MAX;
    if (V < 0 || M < 0 || bytes < 0 || V > most || M > most || bytes > INT64_MAX / 2) return -1;
    return (int64_t)sizeof(table) + slots_for(V) * (int64_t)sizeof(token_slot) +
           slots_for(M) * (int64_t)sizeof(pair_slot) + (V + 1) * (int64_t)sizeof(int64_t) + bytes;
}

int bpe_table_init(void *memory, const uint8_t *tokens, const int64_t *ends, const int32_t *merges,
                   int64_t V, int64_t M) {
    table *t = memory;
    t->V = V;
    t->bytes = V > 0 ? ends[V - 1] : 0;
    t->token_mask = slots_for(V) - 1;
    t->pair_mask = slots_for(M) - 1;
    memset(token_slots(t), 0, (size_t)(t->token_mask + 1) * sizeof(token_slot));
    for (int64_t i = 0; i <= t->pair_mask; i++) pair_slots(t)[i].rank = -1;
    int64_t *starts = token_starts(t);
    uint8_t *bytes = token_bytes(t);
    if (t->bytes > 0) memcpy(bytes, tokens, (size_t)t->bytes);
    starts[0] = 0;
    for (int i = 0; i < 256; i++) t->byte_id[i] = -1;
    for (int64_t id = 0; id < V; id++) {
        starts[id + 1] = ends[id];
        if (ends[id] - starts[id] == 1) t->byte_id[bytes[starts[id]]] = (int32_t)id;
    }
    for (int i = 0; i < 256; i++)
        if (t->byte_id[i] < 0) return PYGPT_ERANGE;

    for (int64_t rank = 0; rank < M; rank++) {
        const int32_t *m = merges + 3 * rank;
        for (int i = 0; i < 3; i++)
            if (m[i] < 0 || m[i] >= V) return PYGPT_ERANGE;
        pair_slot *slot = pair_find(t, m[0], m[1]);
        if (slot->rank < 0) *slot = (pair_slot){m[0], m[1], (int32_t)rank, m[2]};
    }

    for (int64_t id = 0; id < V; id++) {
        const uint8_t *p = bytes + starts[id];
        int64_t n = starts[id + 1] - starts[id];
        int32_t ids[SHORT];
        if (n == 0 || n > SHORT || merge_short(t, ids, p, (int)n) != 1) continue;
        uint64_t key = bpe_key(p, n, bytes + t->bytes);
        *token_find(t, p, n, key) = (token_slot){key, (int32_t)n, ids[0]};
    }
    return PYGPT_OK;
}

int bpe_encode(int32_t *ids, int64_t *count, const uint8_t *text, const uint8_t *classes,
               const void *memory, int64_t n) {
    const table *t = memory;
    const uint8_t *p = text, *end = text + n;
    int32_t *out = ids;
    void *scratch = NULL;
    int64_t room = 0;
    int status = PYGPT_OK;
    while (p < end && status == PYGPT_OK) {
        const uint8_t *q = bpe_piece_end(p, end, classes);
        const token_slot *slot = token_find(t, p, q - p, bpe_key(p, q - p, end));
        if (slot->length) {
            *out++ = slot->id;
        } else {
            int64_t made;
            status = merge(t, out, &made, p, q - p, &scratch, &room);
            if (status == PYGPT_OK) out += made;
        }
        p = q;
    }
    free(scratch);
    *count = out - ids;
    return status;
}
