/* bpe_rungs.inl: the rungs of BPE's ladder. Each turns one piece of text, the n > 0 bytes at p,
 * into ids, and returns how many. ids has room for n.
 *
 * Tokens 0..255 are the bytes. Merge number `rank` of the list replaces its pair of neighbours by
 * token 256 + rank. Of all pairs in the piece, the one of the lowest rank is merged first, of equal
 * ones the leftmost, until no pair is in the list.
 */
#include "bpe.h"

#define SLOTS 16384 /* of a hash table, a power of two */

typedef struct pair_slot { /* free when rank is -1 */
    int32_t left, right, rank;
} pair_slot;

typedef struct word_slot { /* of a token of up to 8 bytes; free when length is 0 */
    uint64_t bytes;
    int32_t length, id;
} word_slot;

typedef struct vocabulary {
    int32_t *merges; /* (M,2) */
    int64_t M;
    pair_slot *pairs; /* hash tables of SLOTS slots */
    word_slot *words;
    void *scratch; /* scratch_for(n) bytes, n the longest piece */
} vocabulary;

static void bytes_to_ids(int32_t *ids, const uint8_t *p, int64_t n) {
    for (int64_t i = 0; i < n; i++) ids[i] = p[i];
}

/* Rung 1: the definition as a list of commands: every merge, in the order of the list, is applied
 * wherever it fits. A merge makes a token that only later merges take, so none has to be tried
 * twice. A piece of a few letters pays for the thousands of merges that it does not need. */
static int64_t every_merge(const vocabulary *v, int32_t *ids, const uint8_t *p, int64_t n) {
    bytes_to_ids(ids, p, n);
    for (int64_t rank = 0; rank < v->M && n > 1; rank++) {
        const int32_t left = v->merges[2 * rank], right = v->merges[2 * rank + 1];
        int64_t kept = 0;
        for (int64_t i = 0; i < n; i++) {
            const int fits = i + 1 < n && ids[i] == left && ids[i + 1] == right;
            ids[kept++] = fits ? (int32_t)(256 + rank) : ids[i];
            i += fits;
        }
        n = kept;
    }
    return n;
}

#define NONE INT32_MAX /* the rank of neighbours that do not merge */

/* Returns the slot that holds a pair, or the free slot where it belongs. */
static pair_slot *pair_slot_of(const vocabulary *v, int32_t left, int32_t right) {
    for (uint64_t i = bpe_mix((uint64_t)(uint32_t)left << 32 | (uint32_t)right);; i++) {
        pair_slot *slot = v->pairs + i % SLOTS;
        if (slot->rank < 0 || (slot->left == left && slot->right == right)) return slot;
    }
}

static int32_t rank_of(const vocabulary *v, int32_t left, int32_t right) {
    const int32_t rank = pair_slot_of(v, left, right)->rank;
    return rank < 0 ? NONE : rank;
}

/* Removes element `at` of n. */
static void remove_at(int32_t *x, int64_t at, int64_t n) {
    for (int64_t i = at; i + 1 < n; i++) x[i] = x[i + 1];
}

/* Rung 2: the piece asks, not the list: each pair of neighbours is looked up in a hash table, and
 * the lowest rank is merged. The list may now be as long as it likes. But every merge looks up
 * every pair again, which is n^2 / 2 look-ups for a piece of n bytes: for a long one, that is worse
 * than going through the list. */
static int64_t lowest_rank(const vocabulary *v, int32_t *ids, const uint8_t *p, int64_t n) {
    bytes_to_ids(ids, p, n);
    for (;;) {
        int32_t best = NONE;
        int64_t at = 0;
        for (int64_t i = 0; i + 1 < n; i++) {
            const int32_t rank = rank_of(v, ids[i], ids[i + 1]);
            if (rank < best) best = rank, at = i;
        }
        if (best == NONE) return n;
        ids[at] = 256 + best;
        remove_at(ids, at + 1, n--);
    }
}

/* Rung 3: ranks are kept. A merge changes only the pair on each side of it, so two look-ups are
 * enough. Finding the lowest rank and closing the gap still take n steps for each merge, n^2 / 2 in
 * all, but these are steps along an array. */
static int64_t ranks_kept(const vocabulary *v, int32_t *ids, const uint8_t *p, int64_t n) {
    int32_t *rank = v->scratch; /* rank[i] is that of the pair i, i + 1 */
    bytes_to_ids(ids, p, n);
    for (int64_t i = 0; i + 1 < n; i++) rank[i] = rank_of(v, ids[i], ids[i + 1]);
    while (n > 1) {
        int32_t least = NONE;
        int64_t at = 0;
        for (int64_t i = 0; i + 1 < n; i++)
            if (rank[i] < least) least = rank[i], at = i;
        if (least == NONE) break;
        ids[at] = 256 + least;
        remove_at(ids, at + 1, n);
        remove_at(rank, at, n - 1);
        n--;
        if (at > 0) rank[at - 1] = rank_of(v, ids[at - 1], ids[at]);
        if (at + 1 < n) rank[at] = rank_of(v, ids[at], ids[at + 1]);
    }
    return n;
}

/* One token of a piece, at the position of its first byte. */
typedef struct link {
    int32_t id, rank;      /* rank: that of the pair of this token and the next */
    int32_t before, after; /* the neighbours' positions; -1: none */
} link;

/* Returns the bytes of scratch that a heap for a piece of n bytes takes: n links and 2n keys. */
static int64_t scratch_for(int64_t n) { return n * (int64_t)(sizeof(link) + 2 * sizeof(uint64_t)); }

/* A binary heap of keys rank << 32 | position: the least is the leftmost pair of the lowest rank.
 * keys[0] is unused, so the children of i are 2i and 2i + 1. */
typedef struct heap {
    uint64_t *keys;
    int64_t n;
} heap;

static void push(heap *h, uint64_t key) {
    int64_t i = ++h->n;
    for (; i > 1 && h->keys[i / 2] > key; i /= 2) h->keys[i] = h->keys[i / 2];
    h->keys[i] = key;
}

static uint64_t pop(heap *h) {
    const uint64_t least = h->keys[1], key = h->keys[h->n--];
    int64_t i = 1;
    for (int64_t child; (child = 2 * i) <= h->n; i = child) {
        if (child < h->n && h->keys[child + 1] < h->keys[child]) child++;
        if (h->keys[child] >= key) break;
        h->keys[i] = h->keys[child];
    }
    h->keys[i] = key;
    return least;
}

/* Stores the rank of the pair that begins at a position, and puts it on the heap if it merges. */
static void note_pair(const vocabulary *v, link *list, heap *h, int32_t at) {
    const int32_t after = list[at].after;
    list[at].rank = after < 0 ? NONE : rank_of(v, list[at].id, list[after].id);
    if (list[at].rank != NONE) push(h, (uint64_t)list[at].rank << 32 | (uint32_t)at);
}

/* Rung 4: a heap gives the lowest rank in log n steps, and in a linked list a merge leaves no gap
 * to close: n log n in all. A pair that a merge has changed stays in the heap, and is recognised,
 * when it comes to the top, by the rank that its position has now. But for a word of seven letters,
 * making a list and a heap costs more than stepping along an array. */
static int64_t heap_and_list(const vocabulary *v, int32_t *ids, const uint8_t *p, int64_t n) {
    link *list = v->scratch;
    heap h = {.keys = (uint64_t *)(list + n) - 1, .n = 0};
    for (int32_t i = 0; i < n; i++)
        list[i] = (link){.id = p[i], .before = i - 1, .after = i + 1 < n ? i + 1 : -1};
    for (int32_t i = 0; i < n; i++) note_pair(v, list, &h, i);
    while (h.n > 0) {
        const uint64_t key = pop(&h);
        const int32_t at = (int32_t)(uint32_t)key, rank = (int32_t)(key >> 32);
        if (list[at].rank != rank) continue; /* stale */
        const int32_t gone = list[at].after;
        list[at].id = 256 + rank;
        list[at].after = list[gone].after;
        list[gone].rank = NONE;
        if (list[at].after >= 0) list[list[at].after].before = at;
        note_pair(v, list, &h, at);
        if (list[at].before >= 0) note_pair(v, list, &h, list[at].before);
    }
    int64_t count = 0;
    for (int32_t i = 0; i >= 0; i = list[i].after) ids[count++] = list[i].id;
    return count;
}

#define SHORT 64 /* bytes of the longest piece that rung 3 merges faster than rung 4 */

/* Returns the slot that holds a word of n <= 8 bytes, or the free slot where it belongs. */
static word_slot *word_slot_of(const vocabulary *v, uint64_t bytes, int64_t n) {
    for (uint64_t i = bpe_mix(bytes + (uint64_t)n);; i++) {
        word_slot *slot = v->words + i % SLOTS;
        if (slot->length == 0 || (slot->bytes == bytes && slot->length == n)) return slot;
    }
}

/* Rung 5: each piece in the way that suits it. Most are a token as they stand, and take one
 * look-up; of the others the short ones take rung 3 and the long ones rung 4. The hash table holds
 * only tokens that merging would also arrive at, so it changes no result. */
static int64_t words_first(const vocabulary *v, int32_t *ids, const uint8_t *p, int64_t n) {
    if (n <= 8) {
        const word_slot *slot = word_slot_of(v, bpe_key(p, n, p + n), n);
        if (slot->length) {
            ids[0] = slot->id;
            return 1;
        }
    }
    return n <= SHORT ? ranks_kept(v, ids, p, n) : heap_and_list(v, ids, p, n);
}
