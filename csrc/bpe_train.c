/* bpe_train.c: counts pieces, and learns merges from them.
 *
 * The pieces lie end to end. At first each byte is a symbol, linked to its neighbours in the piece:
 *
 *     position   0  1  2  3 | 4  5 ...        pair (t,h): count 7, occurrences 0 -> 4 -> ...
 *     symbol     t  h  e  n | t  h
 *
 * Every pair of neighbours has a count and a list of the positions where it begins. A round takes
 * the best pair off a heap and walks only its list: a merge changes the counts of the pairs on both
 * sides of it, and no others. So all rounds together take about as many steps as there are symbols,
 * however many rounds and pieces there are.
 *
 * Two facts keep this simple. The count of a pair grows only in the round that makes one of its
 * tokens; after that it only falls. So a pair has one entry in the heap, and the count in a stale
 * entry can only be too high: the entry goes back with the true count when it comes to the top. And
 * an occurrence that a merge has removed from the text stays in its list, but is recognised by its
 * symbols, because a position never gets an earlier symbol back.
 */
#include <stdlib.h>

#include "bpe.h"

typedef struct pair {
    int64_t count;
    int32_t left, right;
    int32_t first, last; /* its occurrences, a list in ascending order of position; -1: none */
} pair;

typedef struct occurrence {
    int32_t position, next;
} occurrence;

typedef struct entry {
    int64_t count;
    int32_t pair;
} entry;

typedef struct trainer {
    const uint8_t *bytes;
    const int64_t *weight;          /* of each piece */
    int32_t *symbol, *piece;        /* at each position; symbol -1: inside a token */
    int32_t *before, *after;        /* the neighbours' positions; -1: none in this piece */
    int32_t *token_at, *token_size; /* where each token's bytes stand in `bytes` */
    occurrence *occurrences;
    int64_t n_occurrences;
    pair *pairs;
    entry *heap;
    int32_t *slots; /* hash table of indices of pairs; -1: free */
    int64_t n_pairs, room, n_heap, mask;
} trainer;

/* -------------------------------------------------------------------------------- the pairs --- */

/* Returns the slot of a pair, or the free slot where it belongs. */
static int32_t *slot_of(const trainer *t, int32_t left, int32_t right) {
    for (uint64_t i = bpe_mix((uint64_t)(uint32_t)left << 32 | (uint32_t)right);; i++) {
        int32_t *slot = t->slots + (i & (uint64_t)t->mask);
        if (*slot < 0) return slot;
        if (t->pairs[*slot].left == left && t->pairs[*slot].right == right) return slot;
    }
}

/* Doubles the room for pairs, heap and hash table. Returns 0 when there is no memory. */
static int grow(trainer *t) {
    int64_t room = t->room ? 2 * t->room : 1 << 12;
    pair *pairs = realloc(t->pairs, (size_t)room * sizeof(pair));
    if (pairs) t->pairs = pairs;
    entry *heap = realloc(t->heap, (size_t)room * sizeof(entry));
    if (heap) t->heap = heap;
    int32_t *slots = malloc((size_t)(2 * room) * sizeof(int32_t));
    if (!pairs || !heap || !slots) {
        free(slots);
        return 0;
    }
    free(t->slots);
    t->slots = slots;
    t->room = room;
    t->mask = 2 * room - 1;
    for (int64_t i = 0; i < 2 * room; i++) slots[i] = -1;
    for (int32_t i = 0; i < t->n_pairs; i++)
        *slot_of(t, t->pairs[i].left, t->pairs[i].right) = i;
    return 1;
}

/* Counts an occurrence of (left, right) at a position. Returns 0 when there is no memory. */
static int add(trainer *t, int32_t left, int32_t right, int32_t position) {
    int32_t *slot = slot_of(t, left, right);
    if (*slot < 0) {
        if (t->n_pairs == t->room) {
            if (!grow(t)) return 0;
            slot = slot_of(t, left, right);
        }
        *slot = (int32_t)t->n_pairs++;
        t->pairs[*slot] = (pair){.left = left, .right = right, .first = -1, .last = -1};
    }
    pair *p = t->pairs + *slot;
    int32_t new = (int32_t)t->n_occurrences++;
    t->occurrences[new] = (occurrence){position, -1};
    if (p->last < 0) p->first = new;
    else t->occurrences[p->last].next = new;
    p->last = new;
    p->count += t->weight[t->piece[position]];
    return 1;
}

/* Subtracts an occurrence from the count of (left, right). It stays in the pair's list. */
static void take_away(trainer *t, int32_t left, int32_t right, int32_t position) {
    t->pairs[*slot_of(t, left, right)].count -= t->weight[t->piece[position]];
}

/* --------------------------------------------------------------------------------- the heap --- */

static int compare_tokens(const trainer *t, int32_t a, int32_t b) {
    int32_t na = t->token_size[a], nb = t->token_size[b];
    int order = memcmp(t->bytes + t->token_at[a], t->bytes + t->token_at[b],
                       (size_t)(na < nb ? na : nb));
    return order ? order : (na > nb) - (na < nb);
}

/* Whether a is merged before b: it comes more often, or as often and its bytes, the left token's
 * first, are lexicographically greater. */
static int better(const trainer *t, entry a, entry b) {
    if (a.count != b.count) return a.count > b.count;
    const pair *p = t->pairs + a.pair, *q = t->pairs + b.pair;
    int order = p->left == q->left ? 0 : compare_tokens(t, p->left, q->left);
    return (order ? order : compare_tokens(t, p->right, q->right)) > 0;
}

static void push(trainer *t, int32_t index) {
    entry new = {t->pairs[index].count, index};
    int64_t i = t->n_heap++;
    for (; i > 0 && better(t, new, t->heap[(i - 1) / 2]); i = (i - 1) / 2)
        t->heap[i] = t->heap[(i - 1) / 2];
    t->heap[i] = new;
}

/* Puts an entry in the root's place, and sifts it down. */
static void replace_root(trainer *t, entry new) {
    int64_t i = 0;
    for (int64_t child; (child = 2 * i + 1) < t->n_heap; i = child) {
        if (child + 1 < t->n_heap && better(t, t->heap[child + 1], t->heap[child])) child++;
        if (!better(t, t->heap[child], new)) break;
        t->heap[i] = t->heap[child];
    }
    t->heap[i] = new;
}

/* Takes the best pair off the heap and returns its index; -1 when no pair is left. */
static int32_t best(trainer *t) {
    while (t->n_heap > 0) {
        entry root = t->heap[0];
        int64_t count = t->pairs[root.pair].count;
        if (count == root.count || count == 0) {
            t->n_heap--;
            if (t->n_heap > 0) replace_root(t, t->heap[t->n_heap]);
            if (count > 0) return root.pair;
        } else {
            replace_root(t, (entry){count, root.pair});
        }
    }
    return -1;
}

/* ---------------------------------------------------------------------------------- a round --- */

/* Merges a pair into `token` wherever it occurs. Returns 0 when there is no memory. */
static int merge_everywhere(trainer *t, int32_t index, int32_t token) {
    const int32_t left = t->pairs[index].left, right = t->pairs[index].right;
    const int64_t first_new = t->n_pairs;
    for (int32_t o = t->pairs[index].first; o >= 0; o = t->occurrences[o].next) {
        int32_t at = t->occurrences[o].position, second = t->after[at];
        if (t->symbol[at] != left || second < 0 || t->symbol[second] != right) continue;
        int32_t before = t->before[at], after = t->after[second];
        if (before >= 0) take_away(t, t->symbol[before], left, at);
        if (after >= 0) take_away(t, right, t->symbol[after], at);
        t->symbol[at] = token;
        t->symbol[second] = -1;
        t->after[at] = after;
        if (after >= 0) t->before[after] = at;
        t->token_at[token] = at;
        if (before >= 0 && !add(t, t->symbol[before], token, before)) return 0;
        if (after >= 0 && !add(t, token, t->symbol[after], at)) return 0;
    }
    t->token_size[token] = t->token_size[left] + t->token_size[right];
    t->pairs[index].count = 0;
    for (int32_t i = (int32_t)first_new; i < t->n_pairs; i++)
        if (t->pairs[i].count > 0) push(t, i);
    return 1;
}

/* Sets up the positions and the pairs, and then merges the best pair in each round. */
static int learn_merges(trainer *t, int32_t *merges, int64_t *done, const int64_t *ends, int64_t P,
                        int64_t M) {
    if (!grow(t)) return PYGPT_ENOMEM;
    for (int32_t i = 0, at = 0; i < P; i++) {
        for (int32_t start = at; at < ends[i]; at++) {
            int32_t byte = t->bytes[at];
            t->symbol[at] = byte;
            t->piece[at] = i;
            t->before[at] = at > start ? at - 1 : -1;
            t->after[at] = at + 1 < ends[i] ? at + 1 : -1;
            t->token_at[byte] = at;
            t->token_size[byte] = 1;
            if (at > start && !add(t, t->symbol[at - 1], byte, at - 1)) return PYGPT_ENOMEM;
        }
    }
    for (int32_t i = 0; i < t->n_pairs; i++)
        if (t->pairs[i].count > 0) push(t, i);
    for (int32_t index; *done < M && (index = best(t)) >= 0; ++*done) {
        merges[2 * *done] = t->pairs[index].left;
        merges[2 * *done + 1] = t->pairs[index].right;
        if (!merge_everywhere(t, index, (int32_t)(256 + *done))) return PYGPT_ENOMEM;
    }
    return PYGPT_OK;
}

int bpe_train(int32_t *merges, int64_t *done, const uint8_t *pieces, const int64_t *ends,
              const int64_t *counts, int64_t P, int64_t M) {
    const int64_t n = P > 0 ? ends[P - 1] : 0;
    *done = 0;
    if (n >= 1 << 29) return PYGPT_ERANGE;
    if (M > n) M = n; /* each merge leaves at least one symbol fewer */
    if (M < 0) M = 0;
    /* Fewer than n pairs at first, and two new ones at most for each of fewer than n merges. */
    int32_t *numbers = malloc((size_t)(4 * n + 2 * (256 + M)) * sizeof(int32_t));
    occurrence *occurrences = malloc((size_t)(3 * n + 1) * sizeof(occurrence));
    trainer t = {.bytes = pieces, .weight = counts, .occurrences = occurrences};
    int status = PYGPT_ENOMEM;
    if (numbers && occurrences) {
        t.symbol = numbers, t.piece = numbers + n;
        t.before = numbers + 2 * n, t.after = numbers + 3 * n;
        t.token_at = numbers + 4 * n, t.token_size = t.token_at + 256 + M;
        status = learn_merges(&t, merges, done, ends, P, M);
    }
    free(numbers);
    free(occurrences);
    free(t.pairs);
    free(t.heap);
    free(t.slots);
    return status;
}

/* -------------------------------------------------------------------------- counting pieces --- */

int bpe_count(int64_t *starts, int64_t *ends, int64_t *counts, int64_t *distinct,
              const uint8_t *text, const uint8_t *classes, int64_t n) {
    const uint8_t *p = text, *end = text + n;
    int64_t found = 0, mask = -1;
    int64_t *slots = NULL; /* hash table of indices of pieces; -1: free */
    *distinct = 0;
    while (p < end) {
        if (2 * found > mask) { /* more than half full: make it four times as large */
            mask = mask < 0 ? (1 << 12) - 1 : 4 * mask + 3;
            free(slots);
            slots = malloc((size_t)(mask + 1) * sizeof(int64_t));
            if (!slots) return PYGPT_ENOMEM;
            for (int64_t i = 0; i <= mask; i++) slots[i] = -1;
            for (int64_t k = 0; k < found; k++) {
                const int64_t size = ends[k] - starts[k];
                uint64_t i = bpe_mix(bpe_key(text + starts[k], size, end) + (uint64_t)size);
                while (slots[i & (uint64_t)mask] >= 0) i++;
                slots[i & (uint64_t)mask] = k;
            }
        }
        const uint8_t *q = bpe_piece_end(p, end, classes);
        const int64_t size = q - p;
        uint64_t i = bpe_mix(bpe_key(p, size, end) + (uint64_t)size);
        int64_t k;
        for (; (k = slots[i & (uint64_t)mask]) >= 0; i++)
            if (ends[k] - starts[k] == size && !memcmp(text + starts[k], p, (size_t)size)) break;
        if (k < 0) {
            k = slots[i & (uint64_t)mask] = found++;
            starts[k] = p - text, ends[k] = q - text, counts[k] = 0;
        }
        counts[k]++;
        p = q;
    }
    free(slots);
    *distinct = found;
    return PYGPT_OK;
}
