/* bpe.c: measures each step from BPE's definition to the library's encoder.
 *
 *   make ladder KERNEL=bpe                  normal words, then long ones
 *   make ladder KERNEL=bpe SHAPE="W L"      W words of L random letters; L = 0: normal words
 *
 * The rungs are in bpe_rungs.inl. The program makes up a language: words of one to four syllables,
 * a few of which are frequent. It learns merges from one text in it and encodes another. Random
 * letters are of ten kinds, so that some come three times in a row, where it matters that the
 * leftmost of equal pairs is merged. The ids of every rung must be those of the first. Rungs 1 to 5
 * are given the pieces; the library finds them itself.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bpe_rungs.inl"
#include "ladder.h"

#define MERGES 4000
#define TRAINING_WORDS 100000 /* of the text from which they are learned */
#define WORDS 4000            /* of the language */
#define LONGEST 18            /* bytes of a word: a space, four syllables of up to 4, a zero */
_Static_assert(2 * (256 + MERGES) <= SLOTS, "half of the slots stay free");
#define CODE_POINTS 0x110000

typedef struct operands {
    const uint8_t *text;
    int64_t n, P;         /* bytes and pieces */
    const int64_t *ends;  /* (P): where each piece ends */
    int32_t *ids, *wanted;
    int64_t *count, wanted_count;
    const vocabulary *v;
    const uint8_t *classes;
    const void *table; /* the library's */
} operands;

typedef int64_t encode(const vocabulary *v, int32_t *ids, const uint8_t *p, int64_t n);

static void each_piece(const operands *o, encode *step) {
    int64_t count = 0, start = 0;
    for (int64_t i = 0; i < o->P; start = o->ends[i], i++)
        count += step(o->v, o->ids + count, o->text + start, o->ends[i] - start);
    *o->count = count;
}

#define RUN(step) \
    static void run_##step(const void *job) { each_piece(job, step); }
RUN(every_merge)
RUN(lowest_rank)
RUN(ranks_kept)
RUN(heap_and_list)
RUN(words_first)
/* Rung 6: the library's encoder. It has rung 5's ways, finds the pieces, looks up tokens of up to
 * 64 bytes, and takes any vocabulary. */
static void run_library(const void *job) {
    const operands *o = job;
    if (bpe_encode(o->ids, o->count, o->text, o->classes, o->table, o->n)) *o->count = -1;
}

static const rung rungs[] = {
    {.name = "every merge", .run = run_every_merge},
    {.name = "the lowest rank, looked up", .run = run_lowest_rank},
    {.name = "ranks kept", .run = run_ranks_kept},
    {.name = "a heap and a list", .run = run_heap_and_list},
    {.name = "whole words first", .run = run_words_first},
    {.name = "the library", .run = run_library},
};

static void spoil(const void *job) {
    const operands *o = job;
    memset(o->ids, 0xff, (size_t)o->n * sizeof *o->ids);
    *o->count = -1;
}

/* The ids must be the very same. "Column" is the place of an id; a wrong number of ids is reported
 * as the id after the last. */
static worst check(const void *job) {
    const operands *o = job;
    for (int64_t i = 0; i < o->wanted_count; i++)
        if (i >= *o->count || o->ids[i] != o->wanted[i])
            return (worst){1.0, INFINITY, 0, i, i < *o->count ? o->ids[i] : -1, o->wanted[i]};
    if (*o->count > o->wanted_count)
        return (worst){1.0, INFINITY, 0, o->wanted_count, o->ids[o->wanted_count], -1.0};
    return (worst){0};
}

/* ------------------------------------------------------------------ a language and its texts -- */

static char pick(const char *letters, uint64_t *state) {
    return letters[(int64_t)(next_random(state) * (double)strlen(letters))];
}

/* Makes up the language: words (WORDS, LONGEST), each a space, then letters, then zeros. */
static void make_words(char *words, uint64_t *state) {
    for (int64_t i = 0; i < WORDS; i++) {
        char *p = words + i * LONGEST;
        *p++ = ' ';
        for (int s = 0; s <= (int)(4 * next_random(state)); s++) {
            *p++ = pick("bdfghklmnprstvwz", state);
            const char vowel = pick("aeiou", state);
            *p++ = vowel;
            if (next_random(state) < 0.1) *p++ = vowel;
            if (next_random(state) < 0.3) *p++ = pick("lnrst", state);
        }
    }
}

/* Writes a text of W words of the language, or with L > 0, of L random letters each, and returns
 * its bytes. Word number u^4 WORDS is taken, u random, so that the first ones are frequent. */
static int64_t write_text(uint8_t *text, const char *words, int64_t W, int64_t L,
                          uint64_t *state) {
    int64_t n = 0;
    for (int64_t i = 0; i < W; i++) {
        if (L == 0) {
            const double u = next_random(state);
            const char *word = words + (int64_t)(u * u * u * u * WORDS) * LONGEST;
            while (*word) text[n++] = (uint8_t)*word++;
        } else {
            text[n++] = ' ';
            for (int64_t j = 0; j < L; j++)
                text[n++] = (uint8_t)pick("aeilnorstu", state);
        }
    }
    return n;
}

/* ---------------------------------------------------------------------------- the vocabulary -- */

/* Learns the merges from a text; v->M is their number. */
static void learn(vocabulary *v, const char *words, const uint8_t *classes, uint64_t *state) {
    uint8_t *text = room_for(TRAINING_WORDS * LONGEST), *pieces = room_for(WORDS * LONGEST * 2);
    const int64_t n = write_text(text, words, TRAINING_WORDS, 0, state);
    int64_t *starts = room_for(n * 8), *ends = room_for(n * 8), *counts = room_for(n * 8);
    int64_t distinct, bytes = 0;
    bpe_count(starts, ends, counts, &distinct, text, classes, n);
    for (int64_t i = 0; i < distinct; i++) {
        memcpy(pieces + bytes, text + starts[i], (size_t)(ends[i] - starts[i]));
        bytes += ends[i] - starts[i];
        ends[i] = bytes;
    }
    v->merges = room_for(MERGES * 2 * 4);
    bpe_train(v->merges, &v->M, pieces, ends, counts, distinct, MERGES);
    pygpt_free(text), pygpt_free(pieces);
    pygpt_free(starts), pygpt_free(ends), pygpt_free(counts);
}

/* Makes the hash tables of the rungs, and the library's table, from the merges. */
static void *make_tables(vocabulary *v) {
    const int64_t V = 256 + v->M;
    uint8_t *tokens = room_for(V * 64);
    int64_t *ends = room_for(V * 8), bytes = 0;
    int32_t *triples = room_for(v->M * 12), ids[64];
    v->pairs = room_for(SLOTS * (int64_t)sizeof *v->pairs);
    v->words = room_for(SLOTS * (int64_t)sizeof *v->words);
    for (int64_t i = 0; i < SLOTS; i++) v->pairs[i].rank = -1;
    for (int32_t id = 0; id < V; id++) {
        if (id < 256) {
            tokens[bytes++] = (uint8_t)id;
        } else {
            const int32_t rank = id - 256, *pair = v->merges + 2 * rank;
            *pair_slot_of(v, pair[0], pair[1]) = (pair_slot){pair[0], pair[1], rank};
            memcpy(triples + 3 * rank, (int32_t[]){pair[0], pair[1], id}, 12);
            for (int side = 0; side < 2; side++) {
                const int64_t start = pair[side] ? ends[pair[side] - 1] : 0;
                memcpy(tokens + bytes, tokens + start, (size_t)(ends[pair[side]] - start));
                bytes += ends[pair[side]] - start;
            }
        }
        ends[id] = bytes;
    }
    for (int32_t id = 0; id < V; id++) { /* all pairs are known by now */
        const int64_t start = id ? ends[id - 1] : 0, n = ends[id] - start;
        if (n > 8 || ranks_kept(v, ids, tokens + start, n) != 1) continue;
        const uint64_t key = bpe_key(tokens + start, n, tokens + start + n);
        *word_slot_of(v, key, n) = (word_slot){key, (int32_t)n, id};
    }
    void *table = room_for(bpe_table_size(V, v->M, bytes));
    bpe_table_init(table, tokens, ends, triples, V, v->M);
    pygpt_free(tokens), pygpt_free(ends), pygpt_free(triples);
    return table;
}

/* ---------------------------------------------------------------------------------- climbing -- */

static int climb_at(const int64_t *shape) {
    const int64_t W = shape[0], L = shape[1], room = W * (L ? L + 1 : LONGEST);
    uint64_t state = 1;
    char *words = room_for(WORDS * LONGEST);
    uint8_t *classes = room_for(CODE_POINTS), *text = room_for(room);
    for (int c = 'a'; c <= 'z'; c++) classes[c] = BPE_LETTER;
    classes[' '] = BPE_SPACE;
    vocabulary v = {.scratch = room_for(scratch_for(room))};
    make_words(words, &state);
    learn(&v, words, classes, &state);
    void *table = make_tables(&v);
    int64_t *ends = room_for(room * 8), count;
    operands o = {.text = text, .n = write_text(text, words, W, L, &state), .ends = ends,
                  .ids = room_for(room * 4), .wanted = room_for(room * 4), .count = &count,
                  .v = &v, .classes = classes, .table = table};
    bpe_split(ends, &o.P, text, classes, o.n);
    run_every_merge(&o);
    o.wanted_count = count;
    memcpy(o.wanted, o.ids, (size_t)count * 4);
    const ladder l = {
        .rungs = rungs, .count = sizeof rungs / sizeof *rungs,
        .unit = "MB/s", .work = 1e-6 * (double)o.n, .spoil = spoil, .check = check,
    };
    printf("\n%" PRId64 " words of %.1f bytes, %" PRId64 " merges, %.2f bytes a token", W,
           (double)o.n / (double)W, v.M, (double)o.n / (double)count);
    const int failed = climb(&l, &o);
    pygpt_free(words), pygpt_free(classes), pygpt_free(text), pygpt_free(ends), pygpt_free(o.ids);
    pygpt_free(o.wanted), pygpt_free(v.merges), pygpt_free(v.pairs), pygpt_free(v.words);
    pygpt_free(v.scratch), pygpt_free(table);
    return failed;
}

/* Normal words are what the encoder meets; long ones are what it must not choke on. */
static const int64_t shapes[][2] = {{20000, 0}, {10, 2000}};
static const size sizes[] = {{"W", 1, 1, 1 << 20}, {"L", 1, 0, 1 << 16}};

int main(int argc, char **argv) {
    printf("BPE, %s, one thread\n", pygpt_compiler());
    return at_each_shape(argc, argv, sizes, 2, &shapes[0][0], 2, climb_at);
}
