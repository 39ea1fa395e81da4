/* attention.c: computes causal multi-head attention without ever holding a T x T matrix.
 *
 *   s_ij = scale q_i . k_j  (j <= i),   p_ij = exp(s_ij) / sum_j exp(s_ij),   o_i = sum_j p_ij v_j
 *
 * Forward. Queries are taken a block at a time, with one query in each vector lane. For each block
 * of queries, keys are taken block after block, up to the diagonal; a block of scores stays in L1,
 * and the next one overwrites it. The softmax is computed on the way. With m the largest score so
 * far, l = sum exp(s - m) and o = sum exp(s - m) v, a block with a larger score rescales l and o by
 * exp(m_old - m_new). At the end o / l is the output. Only lse = m + log l is kept, with which the
 * backward pass computes the probabilities again: p_ij = exp(s_ij - lse_i).
 *
 * One query in each lane means that maxima, sums and rescaling are one instruction for a vector of
 * queries, that nothing has to be added across lanes, and that heads of 8 channels fill the
 * registers as well as heads of 64. Scores are stored key by key: row j, lane i.
 *
 *   S^T (keys x queries) = K Q^T        rows of K broadcast, in place; Q^T packed once per block
 *   O^T (HS x queries)   = V^T P^T      columns of V broadcast, in place; P^T is already a strip
 *
 * Backward. With dO given, and D_i = sum_c dO_ic O_ic,
 *   dV_j  = sum_i p_ij dO_i                                    from o_i = sum_j p_ij v_j
 *   dp_ij = dO_i . v_j
 *   ds_ij = p_ij (dp_ij - sum_j p_ij dp_ij) = p_ij (dp_ij - D_i)   softmax's backward; the sum is
 *           sum_j p_ij dO_i . v_j = dO_i . O_i = D_i, known before any block is visited
 *   dQ_i  = scale sum_j ds_ij k_j,     dK_j = scale sum_i ds_ij q_i
 * Dropout multiplies p by a mask z after the softmax: z_ij is 1/(1-dropout) or 0. So dV uses z p,
 * dp becomes z dp, and D is still dO . O, because O was computed with z p.
 *
 * With operands rounded to bfloat16, q, k, v, dO and O (in D) are rounded first, and the weights
 * and ds where they arise: by a unit that multiplies bfloat16 as it packs them
 * (attention_bf16.inl), else in a copy of the head that a thread is at. Then m is not the largest
 * score itself but a whole multiple of ln 2 above it: exp(s - m) is exp(s) times a power of two,
 * which moves no bit that rounding drops, so a weight is rounded alike whatever scores came before.
 * The scale is applied to the sums, because q times the scale would be another number to round.
 *
 * Threads own heads. Where there are too few heads for the threads, they own blocks of queries of
 * the output and of dQ, and blocks of keys of dK and dV. Each sum is one thread's, in the same
 * order either way: O_i and dQ_i over the blocks of keys, dK_j and dV_j over the blocks of queries.
 */
#include <math.h>

#include "internal.h"

/* Heads are divided into blocks of queries where a thread would get fewer parts than this. */
#define PARTS_PER_THREAD 4

/* Returns the number of parts of an attention kernel. `tile_columns` queries are a block.
 *
 * Backward, a whole head takes 5 products; its dQ alone takes 3 and its dK and dV 4, because both
 * need p and dp. So heads are divided where whole heads would leave more than 2/7 of the time
 * idle. */
int64_t pygpt_attention_parts(int64_t B, int64_t T, int64_t NH, int backward, int threads,
                              int64_t tile_columns) {
    const int64_t heads = B * NH, blocks = (T + tile_columns - 1) / tile_columns;
    if (!backward)
        return heads < PARTS_PER_THREAD * threads && threads > 1 ? heads * blocks : heads;
    const int64_t rounds = (heads + threads - 1) / threads;
    return blocks > 1 && 7 * heads < 5 * rounds * threads ? 2 * heads * blocks : heads;
}

/* Multiply-adds of one head: two products of T^2/2 x HS, and an exponential for each score. */
static double head_cost(int64_t T, int64_t HS) { return (double)T * (double)T * (double)(HS + 8); }

static attention_shape shape_of(int64_t T, int64_t C, int64_t NH, float dropout,
                                const uint64_t *seed, uint64_t stream, int dtype) {
    int64_t HS = NH ? C / NH : 0;
    return (attention_shape){
        .T = T, .C = C, .NH = NH, .HS = HS,
        .scale = HS ? 1.0f / sqrtf((float)HS) : 1.0f,
        .drop = dropout_threshold(dropout),
        .keep_scale = 1.0f / (1.0f - dropout),
        .key = random_mask_key(seed, stream, NH),
        .rounded = dtype & PYGPT_BFLOAT16,
        .half_qkv = dtype & PYGPT_INP_BFLOAT16,
        .half_out = dtype & PYGPT_OUT_BFLOAT16,
    };
}

/* Part i of `parts` of the forward pass: a head, or where there are more parts than heads, a block
 * of queries of a head. Blocks with many keys come first, so that the last parts are short. */
static attention_part forward_part(const attention_shape *s, int64_t heads, int64_t parts,
                                   int64_t i, int64_t QB) {
    const int64_t head = i % heads;
    attention_part part = {.b = head / s->NH, .h = head % s->NH, .i1 = s->T, .j1 = s->T};
    if (parts == heads) return part;
    part.i0 = (parts - 1 - i) / heads * QB;
    part.i1 = min64(part.i0 + QB, s->T);
    return part;
}

/* Returns the loops for operands of this shape's type: on the unit if there is one for it. */
static const attention_loops *loops_for(const attention_shape *s) {
    const int on_unit = s->rounded && isa_in_use->attention_bf16.forward;
    return on_unit ? &isa_in_use->attention_bf16 : &isa_in_use->attention;
}

int attention_forward(void *out, float *lse, const void *qkv, int64_t B, int64_t T, int64_t C,
                      int64_t NH, float dropout, const uint64_t *seed, uint64_t stream, int dtype) {
    const attention_shape s = shape_of(T, C, NH, dropout, seed, stream, dtype);
    const attention_loops *loops = loops_for(&s);
    const int64_t heads = B * NH, QB = loops->block;
    int threads = worth_threads((double)heads * head_cost(T, s.HS));
    const int64_t parts = pygpt_attention_parts(B, T, NH, 0, threads, QB);
    if (parts < 2) threads = 1;
    note_sharing(threads, parts);
    const int64_t each = loops->scratch(&s);
    float *scratch = scratch_take(each * threads);
    if (!scratch) return PYGPT_ENOMEM;
    PARALLEL(threads)
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < parts; i++)
        loops->forward(&s, out, lse, qkv, forward_part(&s, heads, parts, i, QB),
                       scratch + each * thread_number());
    scratch_give(scratch);
    return PYGPT_OK;
}

/* Part i of `parts` of the backward pass: a head; or, where there are more parts than heads, dK and
 * dV of a block of keys, or dQ of a block of queries, of a head. Long parts come first. */
static attention_part backward_part(const attention_shape *s, int64_t heads, int64_t parts,
                                    int64_t i, int64_t QB) {
    const int64_t T = s->T, head = i % heads;
    attention_part part = {.b = head / s->NH, .h = head % s->NH, .i1 = T, .j1 = T};
    if (parts == heads) {
        part.of_queries = part.of_keys = 1;
        return part;
    }
    const int64_t rank = i / heads / 2, blocks = (T + QB - 1) / QB;
    if (i / heads % 2 == 0) {
        part.of_keys = 1; /* keys from j0 on are seen by queries from j0 on */
        part.i0 = part.j0 = rank * QB;
        part.j1 = min64(part.j0 + QB, T);
    } else {
        part.of_queries = 1;
        part.i0 = (blocks - 1 - rank) * QB;
        part.i1 = min64(part.i0 + QB, T);
    }
    return part;
}

void pygpt_attention_part(int64_t *part, int64_t i, int64_t parts, int64_t B, int64_t T, int64_t NH,
                          int backward, int64_t tile_columns) {
    const attention_shape s = {.T = T, .NH = NH};
    const attention_part p = backward ? backward_part(&s, B * NH, parts, i, tile_columns)
                                      : forward_part(&s, B * NH, parts, i, tile_columns);
    const int64_t all[6] = {p.i0, p.i1, p.j0, p.j1, p.of_queries, p.of_keys};
    for (int k = 0; k < 6; k++) part[k] = all[k];
}

/* ds_ij = p_ij (dp_ij - D_i) with dp_ij = dO_i . v_j and D_i = dO_i . O_i; from it dQ and dK. */
int attention_backward(float *dqkv, const float *dout, const void *qkv, const void *out,
                       const float *lse, int64_t B, int64_t T, int64_t C, int64_t NH,
                       float dropout, const uint64_t *seed, uint64_t stream, int dtype) {
    const attention_shape s = shape_of(T, C, NH, dropout, seed, stream, dtype);
    const attention_loops *loops = loops_for(&s);
    const int64_t heads = B * NH, QB = loops->block;
    int threads = worth_threads(2.5 * (double)heads * head_cost(T, s.HS));
    const int64_t parts = pygpt_attention_parts(B, T, NH, 1, threads, QB);
    if (parts < 2) threads = 1;
    note_sharing(threads, parts);
    const int64_t each = loops->scratch(&s);
    float *scratch = scratch_take(each * threads);
    if (!scratch) return PYGPT_ENOMEM;
    PARALLEL(threads)
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < parts; i++)
        loops->backward(&s, dqkv, dout, qkv, out, lse, backward_part(&s, heads, parts, i, QB),
                        scratch + each * thread_number());
    scratch_give(scratch);
    return PYGPT_OK;
}

/* out = the attention of T new positions to the old ones and themselves. */
int attention_cached(float *out, float *keys, float *values, const float *qkv, const int32_t *past,
                     int64_t B, int64_t T, int64_t C, int64_t NH, int64_t P, int dtype) {
    const int64_t HS = NH ? C / NH : 0;
    int64_t longest = 0;
    for (int64_t b = 0; b < B; b++) {
        if (past[b] < 0 || past[b] + T > P) return PYGPT_ERANGE;
        longest = max64(longest, past[b]);
    }
    for (int64_t i = 0; i < B * T; i++) {
        const float *new = qkv + i * 3 * C;
        const int64_t row = (i / T * P + past[i / T] + i % T) * C;
        memcpy(keys + row, new + C, sizeof(float) * (size_t)C);
        memcpy(values + row, new + 2 * C, sizeof(float) * (size_t)C);
    }
    if (longest == 0 && T > 1) { /* a prompt: the blocks of training */
        float *lse = scratch_take(B * NH * T);
        if (!lse) return PYGPT_ENOMEM;
        const int status = attention_forward(out, lse, qkv, B, T, C, NH, 0.0f, NULL, 0, dtype);
        scratch_give(lse);
        return status;
    }
    longest += T;
    int threads = threads_for(2.0 * (double)(B * T * C) * (double)longest, B * T * NH);
    float *scores = scratch_take(longest * threads);
    if (!scores) return PYGPT_ENOMEM;
    PARALLEL(threads)
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < B * T * NH; i++) {
        const int64_t b = i / (T * NH), t = i / NH % T, c = i % NH * HS;
        isa_in_use->attention_cached(out + (b * T + t) * C + c, qkv + (b * T + t) * 3 * C + c,
                                     keys + b * P * C + c, values + b * P * C + c, past[b] + t + 1,
                                     C, HS, dtype == PYGPT_BFLOAT16,
                                     scores + longest * thread_number());
    }
    scratch_give(scores);
    return PYGPT_OK;
}
