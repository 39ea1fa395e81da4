/* internal.h: declares all that the C files share: the table of one instruction set's inner loops,
 * the split of work over threads, and scratch buffers. It is not part of the ABI.
 *
 * A kernel family is two files. The .c holds the contract's function: it derives the formula, takes
 * scratch, and splits the output over threads. The .inl holds the inner loops over a range of rows
 * or one block; isa_*.c compile every .inl once per instruction set and list the results in an
 * `isa`.
 */
#ifndef INTERNAL_H
#define INTERNAL_H

#include <stddef.h>
#include <string.h>

#include "parallel.h"
#include "pygpt.h"

/* C (M,N) = [C or addend or 0] + bias + A B is the one matrix product behind every layer.
 * A and B are given by strides, so a transposed operand is only another pair of numbers:
 * A[i][k] = a[i*a_row + k*a_col], B[k][j] = b[k*b_row + j*b_col]; one of b_row, b_col is 1,
 * and so is one of a_row, a_col. */
typedef struct gemm {
    int64_t M, N, K;
    const float *a;
    const uint16_t *a_half; /* A as bfloat16; then a is NULL */
    int64_t a_row, a_col;
    const float *b;
    const uint16_t *b_half; /* B as bfloat16; then b and column_sum are NULL */
    int64_t b_row, b_col;
    float *c;
    uint16_t *c_half;       /* C as bfloat16; then c is NULL */
    int64_t ldc;
    int accumulate;         /* add to the values in c */
    const float *addend;    /* (M,N) with row stride ldc, added once, or NULL; may be c */
    const float *bias;      /* (N), added to each row, or NULL */
    int gelu;               /* c = gelu(the sum) */
    float *pre;             /* (M,N): takes the sum before the GELU; or NULL */
    const float *slope_of;  /* (M,N): c [+]= (A B) * gelu'(slope_of), or NULL; may be c */
    float *act;             /* (M,N): act = gelu(slope_of), or NULL */
    uint16_t *act_half;     /* the same as bfloat16, or NULL */
    float *column_sum;      /* (N): [+]= sum over k of B[k][j], or NULL; then b_col is 1 */
    int accumulate_sum;
    int dtype;              /* A and B are rounded to it */
    /* set by gemm_run */
    int64_t kc;             /* rows of B packed at a time */
    int64_t sums, ld_sums;  /* where in a thread's scratch the sums of a block lie until they are
                             * complete and become a bfloat16 C, and the length of a row of them */
} gemm;

/* Whether the sums of a block must wait in scratch, because C can't hold them. */
static inline int sums_wait(const gemm *g) { return g->c_half && g->kc < g->K; }

/* Returns where the sums so far of a block from row m0 and column n0 on are kept, from its row m
 * and column n on: in C, their rows ldc apart, or if they wait in the thread's scratch, ld_sums
 * apart; NULL if a bfloat16 C needs none. */
static inline float *sums_so_far(const gemm *g, float *scratch, int64_t m0, int64_t n0, int64_t m,
                                 int64_t n) {
    if (sums_wait(g)) return scratch + g->sums + (m - m0) * g->ld_sums + n - n0;
    return g->c ? g->c + m * g->ldc + n : NULL;
}

/* Computes rows m0..m1, columns n0..n1 of a product, with scratch of gemm_run's size. */
typedef void gemm_block_function(const gemm *g, int64_t m0, int64_t m1, int64_t n0, int64_t n1,
                                 float *panel);

/* A block that is at most this many tiles high uses B too rarely to repay packing it. */
#define FEW_TILES 4

/* Whether a block of this many rows reads B where it lies, instead of packing it first. */
static inline int reads_b_in_place(const gemm *g, int64_t rows, int64_t tile_rows) {
    return rows <= FEW_TILES * tile_rows && !g->b_half && g->b_col == 1 &&
           g->dtype == PYGPT_FLOAT32;
}

/* This many rows of a transposed A are packed at a time: 8 tiles of 6, three cache lines wide. */
#define A_ROWS 48
/* This many floats lie between its packed tiles, a cache line. */
#define APART 16

/* The same of a unit that multiplies bfloat16 (unit_tiles.inl): the rows and the columns of its
 * macro tile, and the values of k that it takes at a time. */
#define UNIT_TILE 32
#define UNIT_K 32

/* Computes g. Returns PYGPT_OK or PYGPT_ENOMEM. */
int gemm_run(gemm g);

/* A product of few rows by a weight W (OUT,IN): C = [C or addend or 0] + bias + A W^T
 * (few_rows.c). */
typedef struct few_product {
    gemm out;               /* M = R rows, N = OUT, K = IN; A, and the outputs */
    int64_t IN;
    void *x;                /* A as the loops read it, rows x_row numbers apart */
    int64_t x_row;
    float *factors;         /* (R): of the numbers in x (int8) */
    const float *floats;    /* W (OUT,w_row) in float32, or NULL */
    const uint16_t *halves; /* in bfloat16, or NULL */
    const int8_t *q;        /* in int8, or NULL */
    const float *scales;    /* (OUT, w_row / PYGPT_INT8_GROUP) */
    int64_t w_row;          /* numbers from a row of W to the next */
} few_product;

/* Computes g, of few rows, whose A is stored as it is and whose B is transposed: W = B^T. */
int few_rows_run(const gemm *g);

/* How one instruction set computes such a product. */
typedef struct few_rows_loops {
    void (*arrange)(const few_product *p, int64_t r0, int64_t r1); /* rows of A to x */
    void (*part)(const few_product *p, int64_t o0, int64_t o1); /* at most FEW_PART_OUTS outputs */
} few_rows_loops;
/* By the weights: float32; float32 that both operands are rounded from; bfloat16; bfloat16 whose
 * pairs are summed in another order, and A is not rounded; int8. */
enum { FEW_FLOAT32, FEW_ROUNDED, FEW_HALVES, FEW_PAIRS, FEW_INT8, FEW_FORMS };
#define FEW_PART_OUTS 48
/* The outputs whose groups are quantized together: a cache line of a weight (IN,OUT). */
#define QUANTIZED_OUTS 16

/* In a kernel with an argument dtype: a void * of pygpt.h as one of two pointers, to floats or,
 * where dtype has this flag, to bfloat16; the other is NULL. And dtype without its flags. */
#define FLOATS(x, flag) (dtype & (flag) ? NULL : (x))
#define HALVES(x, flag) (dtype & (flag) ? (x) : NULL)
#define OPERANDS (dtype & PYGPT_BFLOAT16)

/* The sizes and constants of one attention call, the same for every (batch, head). */
typedef struct attention_shape {
    int64_t T, C, NH, HS;
    float scale;       /* 1 / sqrt(HS) */
    uint32_t drop;     /* dropout * 2^24: 24-bit random numbers below this mean dropped weights */
    float keep_scale;  /* 1 / (1 - dropout) */
    uint64_t key;      /* the mask's key, see random.c */
    int rounded;       /* the operands of products are rounded to bfloat16 */
    int half_qkv, half_out; /* and lie in memory like that */
} attention_shape;

/* One thread's share of an attention call: of head h in batch element b, the queries i0..i1 and the
 * keys j0..j1. Both begin at multiples of attention_loops.block and end at one or at T. */
typedef struct attention_part {
    int64_t b, h, i0, i1, j0, j1;
    int of_queries, of_keys; /* backward: whether to compute dQ, whether to compute dK and dV */
} attention_part;

/* How one instruction set, or one unit, computes a part. */
typedef struct attention_loops {
    int64_t block; /* queries or keys */
    int64_t (*scratch)(const attention_shape *shape); /* the floats that a part needs */
    void (*forward)(const attention_shape *shape, void *out, float *lse, const void *qkv,
                    attention_part part, float *scratch);
    void (*backward)(const attention_shape *shape, float *dqkv, const float *dout,
                     const void *qkv, const void *out, const float *lse, attention_part part,
                     float *scratch);
} attention_loops;

/* Rounds of multiply-adds that wait for nothing (machine.c). */
typedef struct multiply_chain {
    float (*run)(int64_t n); /* n rounds */
    int64_t width;           /* multiply-adds of a round */
} multiply_chain;

/* The hash behind random numbers (random.c): a key, and from it the key of a row. */
uint64_t random_key(const uint64_t *seed, uint64_t stream);
/* The key of a dropout mask that has this many rows for each token. */
uint64_t random_mask_key(const uint64_t *seed, uint64_t stream, int64_t rows);
uint32_t random_row(uint64_t key, uint64_t row);
/* An element is dropped when its random 24-bit number is below this (dropout.c). */
uint32_t dropout_threshold(float dropout);

/* The inner loops of one instruction set. Ranges are half open: rows r0 <= r < r1. */
typedef struct isa {
    const char *name;
    int64_t tile_rows, tile_columns;
    gemm_block_function *gemm_block;
    gemm_block_function *gemm_block_bf16; /* on a bfloat16 unit; NULL without one */
    int64_t unit_packing; /* the cost there of packing an element, in products (matmul.c) */
    void (*tile_finish)(const gemm *g, const float *t, int64_t ldt, float *so_far, int64_t mr,
                        int64_t nr, int64_t m, int64_t n, int first, int last);
    void (*gemm_across)(const gemm *g, int64_t n0, int64_t n1, float *sums, int64_t ld);
    int64_t across; /* columns of its tile */
    attention_loops attention;
    attention_loops attention_bf16; /* on the unit; all 0 without one */
    void (*attention_cached)(float *out, const float *q, const float *keys, const float *values,
                             int64_t n, int64_t C, int64_t HS, int rounded, float *scores);
    few_rows_loops few_rows[FEW_FORMS];
    void (*quantize)(int8_t *q, float *scales, const float *weight, int64_t o0, int64_t o1,
                     int64_t IN, int64_t across, int64_t along);
    void (*dequantize)(float *out, const int8_t *q, const float *scales, int64_t o0, int64_t o1,
                       int64_t IN);
    void (*softmax_forward)(float *out, const float *inp, int64_t r0, int64_t r1, int64_t C);
    void (*softmax_backward)(float *dinp, const float *dout, const float *out, int64_t r0,
                             int64_t r1, int64_t C, int accumulate);
    void (*layernorm_forward)(void *out, int half, float *mean, float *rstd, const float *inp,
                              const float *weight, const float *bias, int64_t r0, int64_t r1,
                              int64_t C, float eps);
    void (*layernorm_backward)(float *dinp, float *dweight, float *dbias, const float *dout,
                               const float *inp, const float *weight, const float *mean,
                               const float *rstd, int64_t r0, int64_t r1, int64_t C,
                               int accumulate);
    void (*gelu_forward)(float *out, const float *inp, int64_t n);
    void (*gelu_backward)(float *dinp, const float *dout, const float *inp, int64_t n,
                          int accumulate);
    void (*cross_entropy_rows)(float *losses, float *dlogits, const float *logits,
                               const int32_t *targets, float factor, int64_t r0, int64_t r1,
                               int64_t V, int64_t ignore_index, int accumulate);
    void (*cross_entropy_part)(float *top, float *sum, float *logits, int64_t n, int64_t J,
                               int64_t ld, int keep);
    void (*cross_entropy_join)(float *losses, float *top, const float *sum, float factor, int64_t n,
                               int64_t parts, int64_t rows);
    void (*cross_entropy_scale)(float *logits, const float *scale, const int32_t *targets,
                                float factor, int64_t n, int64_t j0, int64_t j1, int64_t ld,
                                int64_t ignore_index);
    void (*dropout_rows)(float *out, const float *inp, const float *residual, uint64_t key,
                         float dropout, int64_t r0, int64_t r1, int64_t C);
    void (*add)(float *out, const float *a, const float *b, int64_t n);
    void (*mul)(float *out, const float *a, const float *b, int64_t n, int accumulate);
    void (*scale)(float *out, const float *inp, float factor, int64_t n, int accumulate);
    void (*adamw)(float *param, uint16_t *half, float *m, float *v, const float *grad,
                  const float *settings, float weight_decay, int64_t n);
    double (*sum_squares)(const float *x, int64_t n);
    multiply_chain multiply_chain;
    multiply_chain multiply_chain_bf16; /* on the unit; all 0 without one */
    float (*read_span)(const float *x, int64_t n);
} isa;

/* The table in use (dispatch.c). */
extern const isa *isa_in_use;

#define LACKING "this CPU lacks it" /* the reason why most sets and units are refused */

/* The bfloat16 units (unit_*.c), and why one cannot be used, or NULL (units.c). */
typedef struct bfloat16_unit {
    const char *name;
    gemm_block_function *gemm_block;
    int64_t packing; /* the cost of packing an element, in products (matmul.c) */
    attention_loops attention;
    multiply_chain chain;
} bfloat16_unit;
extern const bfloat16_unit unit_amx_in_c;
#if defined(__x86_64__) && !defined(PYGPT_NO_UNITS) && \
    ((defined(__clang__) && __clang_major__ >= 13) || (!defined(__clang__) && __GNUC__ >= 11))
#define X86_UNITS /* the compiler knows their instructions (and the assembler: build_ffi.py) */
extern const bfloat16_unit unit_amx, unit_avx512_bf16;
const char *amx_refused(void);
const char *avx512_bf16_refused(void);
#endif

/* The bytes of L1 and L2 that a thread has for itself, see pygpt_set_caches (runtime.c). */
typedef struct caches {
    int64_t l1, l2;
} caches;
extern caches caches_in_use;

/* Take and give back scratch for one call. It is aligned to 64 bytes, its contents are undefined,
 * and it is NULL when there is no memory. A block that is given back is kept for a later call,
 * because fresh memory costs a page fault every 4 KB. */
float *scratch_take(int64_t floats);
void scratch_give(float *scratch);

/* The bits of a float, and the float of these bits. */
static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The number whose bfloat16 bits are these, the upper half of a float. */
static inline float widened(uint16_t half) { return float_of((uint32_t)half << 16); }

/* The place of the number `at` of x, in memory bfloat16 with `half`, else float32. */
static inline const void *place_of(const void *x, int64_t at, int half) {
    return (const char *)x + at * (int64_t)(half ? sizeof(uint16_t) : sizeof(float));
}

static inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

#endif
