/* pygpt.h: declares the ABI, with one written contract per kernel.
 *
 * cffi reads only this C file, so it holds plain C declarations and numeric #defines
 * (build_ffi.py drops the other lines that start with '#'). For the numeric kernels,
 * pygpt/backend/reference/ defines the same names, with the same arguments in the same order, as
 * Python loops: they show the formula, the C code has the speed. pygpt/tokenizer/bpe_python.py does
 * the same work as the bpe_* functions. The pygpt_* functions manage memory, threads and
 * instruction sets, and exist in C only.
 *
 * Glossary (Python name -> C name)
 *   batch size -> B      sequence length -> T     n_embd -> C        n_head -> NH
 *   n_embd / n_head -> HS                         vocab_size -> V    n_positions -> P
 *   rows -> R   (R = B*T wherever a row is a token)
 *   a linear layer's widths -> IN, OUT            any number of elements -> n
 *   the gradient of x -> dx
 *
 * Rules that hold for every kernel
 *   - Tensors are float32, row-major and dense; ids are int32. A void * is float32 or bfloat16
 *     (operand types). No alignment is required beyond that of one element.
 *   - Outputs come first, then inputs, then sizes, then flags. Outputs do not overlap inputs or one
 *     another unless the contract says "may alias".
 *   - Kernels that take ids or targets return PYGPT_ERANGE when one is not in 0..V-1.
 *   - Any size but NH may be 0: an output of that size has no elements, a sum over it is 0.
 *   - A plain output is overwritten. A gradient with an `accumulate` flag is overwritten when the
 *     flag is 0 and added to when it is 1.
 *   - Each output element is computed by one thread in a fixed order: the bits do not depend on the
 *     number of threads.
 *   - A NaN reaches every output that depends on it, except through a dropped element; in attention
 *     it may also reach other positions of the same block of 64, and so may an infinity.
 *   - A denormal number, one below 2^-126 in size, may count as 0 where a kernel computes with it,
 *     and on x86 and AArch64 no parallel part of a kernel makes one (parallel.h says why). Copies
 *     and conversions keep it.
 *   - No result depends on an earlier call. Between calls the library keeps the number of threads,
 *     the switch of pygpt_share_all, the numbers that pygpt_sharing reports, the instruction set,
 *     the sizes of the caches, the NUMA nodes, the number of bytes refused, whether a SIGBUS is
 *     explained (bus_error.c), and up to eight scratch buffers, whose contents are never read again
 *     (runtime.c).
 *   - No kernel prints or exits. It returns PYGPT_OK or one of the codes below; after an error the
 *     contents of the outputs are undefined.
 */
#ifndef PYGPT_H
#define PYGPT_H

#include "supported.h"

#include <stdint.h>

#define PYGPT_OK 0
#define PYGPT_ENOMEM 1  /* there is no memory for a scratch buffer */
#define PYGPT_ERANGE 2  /* an id in ids or targets is not in 0..V-1 */
#define PYGPT_EOVERFLOW 3  /* a finite number is too large for a smaller type */
#define PYGPT_ENOTFINITE 4  /* a logit is infinite or NaN */
#define PYGPT_ENOTOKEN 5  /* there is no token to choose from */

/* ------------------------------------------------------------------ the runtime (runtime.c) --- */

/* Returns memory aligned to 64 bytes, with huge pages advised for large blocks; NULL when there is
 * none. */
void *pygpt_alloc(int64_t bytes);
void pygpt_free(void *memory);
/* The bytes of the calling thread's last refused allocation. Reading it resets it to 0. */
int64_t pygpt_refused_bytes(void);

/* The number of threads that kernels may use (1..PYGPT_MAX_THREADS), for the whole process. Threads
 * start when a kernel first needs them. If the system refuses to start one (a limit on processes,
 * such as ulimit -u or a control group's pids.max), the OpenMP runtime prints a line and ends the
 * process. This is the only exception to the last rule above; the library cannot prevent it. */
#define PYGPT_MAX_THREADS 256
void pygpt_set_num_threads(int n);
int pygpt_get_num_threads(void);

/* For tests, which otherwise could not tell that several threads computed a result. A job is the
 * work that a kernel shares out among threads at once, for example over the rows of an output; a
 * kernel has one job or more. pygpt_share_all(1) shares out even jobs that are too small to repay
 * it; pygpt_share_all(0) ends that. */
void pygpt_share_all(int on);
/* Sets the fewest and the most threads that shared one job, over the jobs of all kernels since the
 * last call of this function; 0 and 0 when there was no job. A thread counts when it has a part of
 * the job. */
void pygpt_sharing(int *least, int *greatest);

/* The bytes of L1 data cache and of L2 that one thread has for itself; before the first call 32 KB
 * and 512 KB. The blocks of a matrix product follow L2, and with them its speed, but no bit of a
 * result. (No block follows L1 so far: what has to fit there also decides how a sum is split.) It
 * must not be called while a kernel runs. */
void pygpt_set_caches(int64_t l1, int64_t l2);

/* Names the NUMA nodes, one bit each, over which the pages of large blocks are spread from now on.
 * Returns whether they will be: not with fewer than two nodes (the default), and not where the
 * system forbids it or the user has set a policy; a page then lies where the system puts it. No
 * result changes. It must not be called while another thread takes memory. */
int pygpt_set_nodes(uint64_t mask);

/* For tests and models: how kernels share out their work, without computing anything. Each of these
 * functions gives the very rule that a kernel follows, so that a model of a machine with more cores
 * (tests/bench/schedule.py) need not state it a second time. `threads` is the number that a job
 * uses, and a tile is the tile of an instruction set (pygpt_tile). */

/* The tile of the i-th instruction set that is built in, even if this CPU cannot run it. */
void pygpt_tile(int64_t *rows, int64_t *columns, int isa);
/* The number of threads that a job uses when `threads` are set: 1 where it is too small. */
int pygpt_threads_for(double operations, int64_t parts, int threads);
/* The length of the chunks of a job that is shared out by rows or by elements. */
int64_t pygpt_chunk(int64_t total, int64_t least, int threads);
/* The rows and columns of the blocks of a matrix product. */
void pygpt_product_blocks(int64_t *rows, int64_t *columns, int64_t M, int64_t N, int64_t K,
                          int transpose_a, int transpose_b, int threads, int64_t tile_rows,
                          int64_t tile_columns);
/* part (4) = the first row of block i, the end of its rows, and the same of its columns. Blocks are
 * computed in this order. */
void pygpt_product_block(int64_t *part, int64_t i, int64_t rows, int64_t columns, int64_t M,
                         int64_t N);
/* The cost of such a block in multiply-adds, packing and reading its operands included. */
double pygpt_block_cost(int64_t rows, int64_t columns, int64_t N, int64_t K, int transpose_b,
                        int64_t tile_rows);
/* The number of parts of an attention kernel, forward or backward. */
int64_t pygpt_attention_parts(int64_t B, int64_t T, int64_t NH, int backward, int threads,
                              int64_t tile_columns);
/* part (6) = of part i of these: the first query and the end of the queries, the same of the keys,
 * and whether a backward part computes dQ, and dK and dV. */
void pygpt_attention_part(int64_t *part, int64_t i, int64_t parts, int64_t B, int64_t T, int64_t NH,
                          int backward, int64_t tile_columns);
/* The rows of the groups in which layernorm_backward sums dweight and dbias. */
int64_t pygpt_layernorm_group(int64_t R);
/* linear_cross_entropy: the rows of R that are computed at a time, and the rows of V in one part of
 * their softmax. A part is tile_columns rows of R wide. */
void pygpt_head_chunk(int64_t *rows, int64_t *part, int64_t R, int64_t V, int64_t tile_columns);
/* The channels of dwte that one thread adds up. */
int64_t pygpt_embedding_chunk(int64_t C, int threads);
/* The elements in one part of adamw_step and of sum_squares. */
int64_t pygpt_adamw_span(void);

const char *pygpt_compiler(void);  /* e.g. "gcc 12.2.0" */
int pygpt_openmp(void);            /* the OpenMP version date, 0 when built without */

/* on 1: from now on a SIGBUS, which reading a mapped file raises when the file has become shorter,
 * first writes one line with the file's path on standard error, and then takes its former course.
 * on 0: no longer. Returns 1 if this call has changed it. Not for two threads at once. */
int pygpt_explain_bus_errors(int on);

/* The machine's limits (machine.c). Every thread makes n rounds of independent multiply-adds: of
 * float32 in registers, or of bfloat16 in macro tiles on the unit in use, with operands in L1;
 * without a unit both types are float32 in registers. Returns the number of floating-point
 * operations done, two for a multiply-add. */
double pygpt_measure_peak(int64_t n, int dtype);
/* Every thread reads its share of x (n). out (1) is a sum, so that the compiler cannot drop the
 * reads. */
int pygpt_measure_read(float *out, const float *x, int64_t n);

/* ------------------------------------------------------------ instruction sets (dispatch.c) --- */

/* Returns the name of the i-th instruction set that is built in, best first; NULL past the last.
 * Some are another set and a unit that multiplies bfloat16: "amx" and "avx512_bf16" are avx512 and
 * such a unit. The last, "amx_in_c", is the best other set and AMX's operations written in C: it
 * runs on every CPU, for tests, and is never the best. */
const char *pygpt_isa_name(int i);
/* Returns 1 when this CPU can run the i-th instruction set and the system lets it, else 0. */
int pygpt_isa_supported(int i);
/* Returns why it is not supported, in words that follow its name and a colon; NULL if it is, or if
 * there is no such set. On Linux, this and the other functions ask for permission to use AMX. */
const char *pygpt_isa_refused(int i);
/* Returns the name of the set whose loops the i-th one uses for all but the products and attention
 * on its unit: its own, if it has none. */
const char *pygpt_isa_loops(int i);
/* Returns 1 when the i-th instruction set has a unit that multiplies bfloat16, else 0. */
int pygpt_isa_has_unit(int i);
/* For tests: the reason not to use AMX, or NULL, by what the CPU says (1: it has it), the registers
 * that the system saves (XCR0), and the error number with which it refused permission, 0: none. */
const char *pygpt_amx_refusal(int in_cpu, uint64_t saved, int error);
/* Switches every kernel to the i-th set; -1 chooses the best that this CPU has. Returns the index
 * in use. It must not be called while a kernel runs. */
int pygpt_isa_select(int i);

/* ---------------------------------------------------------------------------- operand types --- */

/* The type to which a kernel rounds the operands of its matrix products, its argument `dtype`.
 *
 * With PYGPT_BFLOAT16 each operand is rounded to the nearest number of 8 bits (ties to even; from
 * 2^128 (1 - 2^-9) on to infinity) before it is multiplied. All else is as with PYGPT_FLOAT32:
 * products are added up in float32, in an order that depends on the instruction set, and tensors
 * are float32 in memory unless a flag below says otherwise. The operands are
 *   matmul, linear_*   inp, weight and dout; not a bias, its gradient or a residual
 *   attention_*        q, k, v and dout; 2^n exp(s) times dropout's factor in the sum over v, with
 *                      any whole number n; p times that factor in dv; ds. The scale 1 / sqrt(HS)
 *                      multiplies the sums. D uses the rounded dout and the rounded out, which is
 *                      the operand of the layer that follows.
 *   linear_cross_*     inp, weight and dlogits */
enum { PYGPT_FLOAT32, PYGPT_BFLOAT16 };

/* To PYGPT_BFLOAT16 these may be added. They say that a tensor which is only an
 * operand, a void * in its contract, lies in memory as bfloat16, the upper 16 bits of a float32,
 * rounded when it is written instead of when it is read. This halves its memory and changes no bit
 * of any other result.
 *   PYGPT_INP_BFLOAT16     inp of linear_forward and linear_backward_weight; qkv
 *   PYGPT_OUT_BFLOAT16     out of linear_forward and layernorm_forward; act of
 *                          linear_backward_input; out of attention_forward and attention_backward
 *   PYGPT_WEIGHT_BFLOAT16  weight of linear_forward, linear_backward_input and linear_cross_*; that
 *                          of linear_forward also with PYGPT_FLOAT32: then inp is not rounded */
#define PYGPT_INP_BFLOAT16 2
#define PYGPT_OUT_BFLOAT16 4
#define PYGPT_WEIGHT_BFLOAT16 8
/* And one for the order of linear_forward's weight: (OUT,IN), as the weights at rest have it. */
#define PYGPT_WEIGHT_TRANSPOSED 16

/* ------------------------------------------------------------------- matmul (matmul.c/.inl) --- */

/* out (M,N) = A @ B, A (M,K), B (K,N). a holds A as (M,K), or as (K,M) when transpose_a; b holds B
 * as (K,N), or as (N,K) when transpose_b. */
int matmul(float *out, const float *a, const float *b, int64_t M, int64_t N, int64_t K,
           int transpose_a, int transpose_b, int accumulate, int dtype);

/* The order of the sizes that pygpt_block_sizes gives; BLOCK_SIZES is their number. A tile of the
 * output is computed in registers. A panel is the part of B that a thread packs at a time. The last
 * two sizes are those of a panel where A is transposed. */
enum {
    BLOCK_TILE_ROWS, BLOCK_TILE_COLUMNS, BLOCK_PANEL_ROWS, BLOCK_PANEL_COLUMNS,
    BLOCK_PANEL_ROWS_ACROSS, BLOCK_PANEL_COLUMNS_ACROSS, BLOCK_SIZES
};

/* out (BLOCK_SIZES) = the sizes for the instruction set and the caches in use, where K is large. */
void pygpt_block_sizes(int64_t *out);
/* Returns the most columns of a panel of `rows` rows, for any L2 and any tile: the largest multiple
 * of tile_columns with which the panel takes at most three quarters of l2 bytes; but at least two
 * tiles, and at most 512 columns. */
int64_t pygpt_panel_columns(int64_t l2, int64_t rows, int64_t tile_columns);

/* ------------------------------------------------------------------------ linear (linear.c) --- */

/* z = inp @ weight + bias;  out = z [+ residual], or with pre: pre = z, out = gelu(z) [+ residual].
 * inp (R,IN), weight (IN,OUT), bias (OUT) or NULL, residual (R,OUT) or NULL, pre (R,OUT) or NULL,
 * out (R,OUT). out may alias residual unless it is bfloat16. pre is float32, or it is out itself,
 * in either form: then only the GELU is stored. */
int linear_forward(void *out, void *pre, const void *inp, const void *weight, const float *bias,
                   const float *residual, int64_t R, int64_t IN, int64_t OUT, int dtype);

/* dinp (R,IN) [+]= dout @ weight^T, and when pre (R,IN) is given, times gelu'(pre): the gradient
 * at pre where inp was gelu(pre). act (R,IN), unless NULL, takes that inp; it must be NULL without
 * pre. dout (R,OUT). dinp may alias pre when accumulate is 0. */
int linear_backward_input(float *dinp, void *act, const float *dout, const void *weight,
                          const float *pre, int64_t R, int64_t IN, int64_t OUT, int accumulate,
                          int dtype);

/* dweight (IN,OUT) [+]= inp^T @ dout;
 * dbias (OUT) [+]= sum over rows of dout, skipped when NULL. */
int linear_backward_weight(float *dweight, float *dbias, const void *inp, const float *dout,
                           int64_t R, int64_t IN, int64_t OUT, int accumulate, int dtype);

/* --------------------------------------------------------- few rows (few_rows.*, int8.*) --- */

/* A product of at most PYGPT_FEW_ROWS rows gives a row the same bits, however many rows there are:
 * linear_forward, and matmul unless A is transposed. */
#define PYGPT_FEW_ROWS 16

/* Weights at rest in fewer bits, for generation. Such a weight has its outputs as rows, (OUT,IN),
 * as the token embedding has them: linear_forward's weight (IN,OUT) transposed.
 *
 * In int8 a row is G = ceil(IN / 64) groups of 64 places: q (OUT,G,64), scales (OUT,G). Weight
 * i = 64 g + k of output o is q[o][g][k] * scales[o][g]; q is 0 at places from IN on. */
#define PYGPT_INT8_GROUP 64

/* scales = max |w| / 127 of each group, rounded to float32; q = w / scale, the quotient rounded to
 * float32 and then to the nearest whole number, ties to even: -127..127. So q * scale is off by at
 * most scale / 2 and a rounding. In a group without a number of 2^-100 or more in size, q and scale
 * are 0; in one that holds a NaN or an infinity, q is 0 and scale is NaN.
 * weight (OUT,IN), or (IN,OUT) when transpose. For bfloat16: `transpose`, then to_bfloat16. */
int quantize_int8(int8_t *q, float *scales, const float *weight, int64_t IN, int64_t OUT,
                  int transpose);
/* out (OUT,IN) = q * scale: the rows of an embedding, for example. */
int dequantize_int8(float *out, const int8_t *q, const float *scales, int64_t IN, int64_t OUT);

/* These are linear_forward, with the same arguments and aliasing, on a weight at rest. A row of out
 * has the same bits whatever R is.
 *
 * linear_bfloat16 widens weight (OUT,IN), bits of bfloat16, and computes in float32. */
int linear_bfloat16(float *out, float *pre, const float *inp, const uint16_t *weight,
                    const float *bias, const float *residual, int64_t R, int64_t IN, int64_t OUT);
/* linear_int8 rounds inp too, each row of it to n * 2^e with whole numbers n, ties to even, and the
 * smallest e with which every |n| <= 32767. So inp is off by at most max |inp| / 2^15. A group's
 * sum of q * n is exact; the rest is float32. A row without a number of 2^-100 or more in size
 * counts as 0; one that holds a NaN or an infinity gives NaN. The sum before the factor 2^e must be
 * finite: weights below 2^96 are safe. */
int linear_int8(float *out, float *pre, const float *inp, const int8_t *q, const float *scales,
                const float *bias, const float *residual, int64_t R, int64_t IN, int64_t OUT);

/* ------------------------------------------------------------------ attention (attention.*) --- */

/* Causal multi-head self-attention. qkv (B,T,3C): q, k, v side by side, each NH heads of HS = C/NH.
 *   s_ij = q_i . k_j / sqrt(HS) for j <= i;  p_i = softmax(s_i);  out_i = sum_j drop(p_ij) v_j
 * out (B,T,C): the heads side by side again. lse (B,NH,T) = log sum_j exp(s_ij), for the backward.
 * drop(p) = p * keep/(1-dropout) with the mask of dropout_forward over rows r = (b*NH + h)*T + i
 * and columns j, where seed[1] counts as NH rows; dropout in [0,1), seed may be NULL when it is 0.
 * C is a multiple of NH. */
int attention_forward(void *out, float *lse, const void *qkv, int64_t B, int64_t T, int64_t C,
                      int64_t NH, float dropout, const uint64_t *seed, uint64_t stream, int dtype);

/* dqkv (B,T,3C) is overwritten. dout (B,T,C); qkv, out and lse as in the forward pass. */
int attention_backward(float *dqkv, const float *dout, const void *qkv, const void *out,
                       const float *lse, int64_t B, int64_t T, int64_t C, int64_t NH,
                       float dropout, const uint64_t *seed, uint64_t stream, int dtype);

/* The same attention for T new positions of B texts, for generation. Text b has past[b] old ones.
 * keys, values (B,P,C) hold the old positions in rows 0..past[b]-1 of a text; the new ones are
 * written to rows past[b]..past[b]+T-1. qkv (B,T,3C), out (B,T,C). PYGPT_ERANGE when past[b] + T is
 * more than P, or past[b] is negative. A text's results do not depend on the others, except that
 * products are added up as in attention_forward where all texts begin: T > 1 and past is all 0. */
int attention_cached(float *out, float *keys, float *values, const float *qkv, const int32_t *past,
                     int64_t B, int64_t T, int64_t C, int64_t NH, int64_t P, int dtype);

/* ---------------------------------------------------------------------- softmax (softmax.*) --- */

/* Each row of out (R,C) = exp(inp - max) / sum. May alias. */
int softmax_forward(float *out, const float *inp, int64_t R, int64_t C);

/* dinp (R,C) [+]= out * (dout - sum_j dout_j out_j), out being the forward's result.
 * dinp may alias dout when accumulate is 0. */
int softmax_backward(float *dinp, const float *dout, const float *out, int64_t R, int64_t C,
                     int accumulate);

/* ------------------------------------------------------------------ layernorm (layernorm.*) --- */

/* xhat = (inp - mean) * rstd, out = xhat * weight + bias, over each row of inp (R,C).
 * mean (R), rstd (R) = 1/sqrt(variance + eps), the variance divided by C; weight (C), bias (C).
 * form is 0, or PYGPT_OUT_BFLOAT16 alone: there are no products here. */
int layernorm_forward(void *out, float *mean, float *rstd, const float *inp, const float *weight,
                      const float *bias, int64_t R, int64_t C, float eps, int form);

/* dxhat = dout * weight;  dinp (R,C) [+]= rstd * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat));
 * dweight (C) [+]= sum over rows of dout * xhat;  dbias (C) [+]= sum over rows of dout. */
int layernorm_backward(float *dinp, float *dweight, float *dbias, const float *dout,
                       const float *inp, const float *weight, const float *mean, const float *rstd,
                       int64_t R, int64_t C, int accumulate_input, int accumulate_params);

/* ---------------------------------------------------------------------------- gelu (gelu.*) --- */

/* GPT-2's GELU: out = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))). May alias. */
int gelu_forward(float *out, const float *inp, int64_t n);

/* dinp (n) [+]= dout * gelu'(inp). dinp may alias dout when accumulate is 0. */
int gelu_backward(float *dinp, const float *dout, const float *inp, int64_t n, int accumulate);

/* ------------------------------------------------------------------ embedding (embedding.c) --- */

/* out (B,T,C) = wte[ids] + wpe[past[b]..past[b]+T-1]. ids (B,T), wte (V,C), wpe (P,C) or NULL for
 * no positions, past (B) or NULL for zeros. PYGPT_ERANGE when an id is outside 0..V-1, or one of
 * these positions outside 0..P-1. */
int embedding_forward(float *out, const int32_t *ids, const float *wte, const float *wpe,
                      const int32_t *past, int64_t B, int64_t T, int64_t C, int64_t V, int64_t P);

/* The same with a table of tokens at rest: wte (V,C), bits of bfloat16; or q and scales, as
 * quantize_int8 makes them with IN = C and OUT = V. */
int embedding_bfloat16(float *out, const int32_t *ids, const uint16_t *wte, const float *wpe,
                       const int32_t *past, int64_t B, int64_t T, int64_t C, int64_t V, int64_t P);
int embedding_int8(float *out, const int32_t *ids, const int8_t *q, const float *scales,
                   const float *wpe, const int32_t *past, int64_t B, int64_t T, int64_t C,
                   int64_t V, int64_t P);

/* dwte (V,C) [+]= the rows of dout (B,T,C) at their ids; dwpe (P,C) [+]= the sum of dout over the
 * batch, which is 0 in rows from T on. Either may be NULL. Positions start at 0. */
int embedding_backward(float *dwte, float *dwpe, const float *dout, const int32_t *ids, int64_t B,
                       int64_t T, int64_t C, int64_t V, int64_t P, int accumulate_wte,
                       int accumulate_wpe);

/* ----------------------------------------------------------- cross-entropy (crossentropy.*) --- */

/* losses (R) = logsumexp(logits_r) - logits_r[targets_r], and 0 in a row whose target is
 * ignore_index;  loss (1) = the sum of losses / N, N the number of other rows (0 when N is 0).
 * logits (R,V), targets (R). PYGPT_ERANGE when another target is outside 0..V-1. */
int cross_entropy_forward(float *loss, float *losses, const float *logits, const int32_t *targets,
                          int64_t R, int64_t V, int64_t ignore_index);

/* dlogits (R,V) [+]= dloss * (p - y) / N with p = softmax(logits), y the one-hot target; 0 in an
 * ignored row. dloss (1). dlogits may alias logits when accumulate is 0. */
int cross_entropy_backward(float *dlogits, const float *dloss, const float *logits,
                           const int32_t *targets, int64_t R, int64_t V, int64_t ignore_index,
                           int accumulate);

/* Computes the head and the loss together: logits = inp @ weight^T, weight (V,C), then
 * cross_entropy_forward. Only a few rows of logits exist at a time. inp (R,C). */
int linear_cross_entropy_forward(float *loss, float *losses, const float *inp, const void *weight,
                                 const int32_t *targets, int64_t R, int64_t C, int64_t V,
                                 int64_t ignore_index, int dtype);

/* Computes the logits again, and with dlogits as in cross_entropy_backward:
 * dinp (R,C) [+]= dlogits @ weight;  dweight (V,C) [+]= dlogits^T @ inp. Either may be NULL.
 * Also computes loss and losses, so a training step need not call the forward kernel. */
int linear_cross_entropy_backward(float *loss, float *losses, float *dinp, float *dweight,
                                  const float *dloss, const float *inp, const void *weight,
                                  const int32_t *targets, int64_t R, int64_t C, int64_t V,
                                  int64_t ignore_index, int accumulate_input,
                                  int accumulate_weight, int dtype);

/* ---------------------------------------------------------------------- dropout (dropout.*) --- */

/* out (R,C) = keep * inp / (1-dropout) [+ residual]; keep is 0 or 1, and 0 with probability
 * dropout. residual (R,C) or NULL (may alias out). dropout in [0,1). The mask is a pure function:
 *   key   = splitmix64(splitmix64(*seed) + stream)
 *   row   = splitmix64(key + r), its upper 32 bits
 *   keep  = (mix32(row + c * 0x9E3779B9) >> 8) >= dropout * 2^24
 * with 32-bit wrap-around, splitmix64(x): x += 0x9E3779B97F4A7C15; x = (x ^ x>>30) *
 * 0xBF58476D1CE4E5B9; x = (x ^ x>>27) * 0x94D049BB133111EB; x ^ x>>31; and mix32(x): x ^= x>>16;
 * x *= 0x7FEB352D; x ^= x>>15; x *= 0x846CA68B; x ^ x>>16. seed points to two numbers. The second
 * is the number of rows before these in a batch that is shared among processes, otherwise 0; it is
 * added to r. So the mask of a row does not depend on how the batch is shared. */
int dropout_forward(float *out, const float *inp, const float *residual, int64_t R, int64_t C,
                    float dropout, const uint64_t *seed, uint64_t stream);

/* dinp (R,C) [+]= keep * dout / (1-dropout), with the forward's mask. May alias dout. */
int dropout_backward(float *dinp, const float *dout, int64_t R, int64_t C, float dropout,
                     const uint64_t *seed, uint64_t stream, int accumulate);

/* ------------------------------------------------------------------------ random (random.c) --- */

/* out (n) = normal numbers of mean 0. With dropout's key, elements 2k and 2k+1 are
 * std sqrt(-2 ln u) times the cosine and the sine of 2 pi w, where bits = splitmix64(key + k),
 * u = (upper 32 bits + 1) / 2^32, w = lower 32 bits / 2^32, in double precision. */
int random_normal(float *out, float std, const uint64_t *seed, uint64_t stream, int64_t n);

/* -------------------------------------------------------------- elementwise (elementwise.*) --- */

/* out (n) = a + b. out may alias a or b. */
int add_forward(float *out, const float *a, const float *b, int64_t n);
/* out (n) = a * b. */
int mul_forward(float *out, const float *a, const float *b, int64_t n);
/* da (n) [+]= dout * b. (db is the same call with a in place of b.) da may alias dout. */
int mul_backward(float *da, const float *dout, const float *b, int64_t n, int accumulate);
/* out (n) [+]= inp * *factor. May alias. */
int scale_forward(float *out, const float *inp, const float *factor, int64_t n, int accumulate);
/* out (1) = the sum of inp (n). */
int sum_forward(float *out, const float *inp, int64_t n);
/* dinp (n) [+]= dout (1). */
int sum_backward(float *dinp, const float *dout, int64_t n, int accumulate);

/* -------------------------------------------------------------------- convert (convert.c) --- */

/* out (n) = inp (n), the bits of float16 or of bfloat16 numbers, exactly. A NaN stays a NaN. */
int from_float16(float *out, const uint16_t *inp, int64_t n);
int from_bfloat16(float *out, const uint16_t *inp, int64_t n);
/* out (n), bits, = inp (n) rounded to nearest, ties to even; a NaN becomes the quiet NaN of its
 * sign. PYGPT_EOVERFLOW when a finite number became infinite; even then all of out is written. */
int to_float16(uint16_t *out, const float *inp, int64_t n);
int to_bfloat16(uint16_t *out, const float *inp, int64_t n);
/* out (C,R) = inp (R,C) with rows and columns exchanged. */
int transpose(float *out, const float *inp, int64_t R, int64_t C);

/* -------------------------------------------------------------------------- AdamW (adamw.*) --- */

/* The order of adamw_step's settings. ADAMW_UNBIAS_M is 1 - beta1^t and ADAMW_UNBIAS_V is
 * 1 - beta2^t, in step t = 1, 2, ... ADAMW_SETTINGS is their number. */
enum {
    ADAMW_LR, ADAMW_BETA1, ADAMW_BETA2, ADAMW_EPS, ADAMW_WEIGHT_DECAY,
    ADAMW_UNBIAS_M, ADAMW_UNBIAS_V, ADAMW_GRAD_SCALE, ADAMW_SETTINGS
};

/* One step over flat buffers of n elements, of which the first n_decay are decayed. With the
 * settings (8) in the order above:
 *   g = grad * grad_scale;  m = beta1 m + (1-beta1) g;  v = beta2 v + (1-beta2) g^2
 *   param -= lr * (m / unbias_m) / (sqrt(v / unbias_v) + eps) + lr * weight_decay * param
 * half, unless NULL, takes the new param as bfloat16, rounded as by to_bfloat16. */
int adamw_step(float *param, uint16_t *half, float *m, float *v, const float *grad,
               const float *settings, int64_t n, int64_t n_decay);

/* out (1) = the sum of squares of x (n), in double precision, in an order fixed by n alone. */
int sum_squares(double *out, const float *x, int64_t n);

/* ------------------------------------------------------------- choosing a token (sample.c) --- */

/* These kernels use one thread. logits (V) are of one position, V at least 1. Of two tokens the
 * likelier is the one with the larger logit, of equal logits the lower id. They return
 * PYGPT_ENOTFINITE when a logit is NaN or +inf, and sample_adjust and sample_best also when one is
 * -inf, which only a bias makes. */

/* out (V) = logits, some of them changed in double precision. First biases (NB) are added to those
 * of the tokens bias_ids (NB), all different; -inf bans a token. Then those of the tokens seen
 * (NS), all different, which occur counts (NS) times in the new text, change by the penalties:
 *   x = x > 0 ? x / repetition_penalty : x * repetition_penalty
 *   x = x - count * frequency_penalty - (count > 0) * presence_penalty
 * After each of the two they are rounded; a finite number that is too large becomes the largest
 * float of its sign. out may alias logits. PYGPT_ERANGE when an id is not in 0..V-1. */
int sample_adjust(float *out, const float *logits, const int32_t *bias_ids, const double *biases,
                  const int32_t *seen, const int32_t *counts, int64_t V, int64_t NB, int64_t NS,
                  double repetition_penalty, double presence_penalty, double frequency_penalty);

/* token (1) = a token drawn with the random number u, 0 <= u < 1. Tokens of -inf are no candidates;
 * PYGPT_ENOTOKEN when no other is left. At temperature 0, the likeliest is taken. Otherwise a token
 * weighs exp((its logit - the largest) / temperature), in float32, with 1/temperature kept within
 * normal floats. Weights are multiples of 2^-36 (of 2^(L-52) if V is above 2^16, with 2^L the next
 * power of two), so that all sums of them are exact in double precision, in any order. Of the
 * candidates, these stay, one rule after another:
 *   top_k > 0   the top_k likeliest
 *   top_p < 1   the fewest likeliest whose sum is at least top_p times the sum of all
 *   min_p       those whose weight is at least min_p
 * Of these, in the order of their ids, the first is taken with which the sum of weights exceeds
 * u times the sum of all. */
int sample_token(int32_t *token, const float *logits, int64_t V, double temperature, int64_t top_k,
                 double top_p, double min_p, double u);

/* best (N) = the N likeliest tokens, 0 <= N <= V, likeliest first; lse (1) = log sum_v exp(x_v), so
 * that x_v - lse is the logarithm of the probability of v. The sum is that of sample_token's
 * weights at temperature 1: for V up to 2^16, lse is off by less than 2^-19 and the rounding of the
 * larger numbers. */
int sample_best(int32_t *best, double *lse, const float *logits, int64_t V, int64_t N);

/* ----------------------------------------------------------------- byte-level BPE (bpe_*.c) --- */

/* pygpt/tokenizer/bpe_python.py defines these functions in Python. A text may hold any bytes: valid
 * UTF-8 becomes characters, and each byte that is not part of one is a character of class 0.
 * `classes` (0x110000) holds each code point's class: 0 other, 1 letter, 2 number, 3 space. GPT-2's
 * rule splits a text into pieces (see bpe_split.c), and no token reaches across pieces. */

/* ends[i] is the byte at which the i-th piece of text (n) ends, i < *count. ends has room for n. */
int bpe_split(int64_t *ends, int64_t *count, const uint8_t *text, const uint8_t *classes,
              int64_t n);

/* *boundary, 0..n, is a place where text (n) may be cut: the pieces of text[:boundary] and the
 * pieces of the rest are together the pieces of the whole text, also when more text follows. It is
 * the last such place that the classes of the characters on its two sides prove; 0 when there is
 * none. */
int bpe_last_boundary(int64_t *boundary, const uint8_t *text, const uint8_t *classes, int64_t n);

/* Returns the size of a table for V tokens of `bytes` bytes in all and M merges; -1: too large. */
int64_t bpe_table_size(int64_t V, int64_t M, int64_t bytes);

/* Makes a vocabulary ready for bpe_encode. table has room for bpe_table_size bytes and is aligned
 * to 8; encoding only reads it, from any number of threads. Token i is
 * tokens[ends[i-1]..ends[i]-1], in ascending order, empty if no text may become it. merges (M,3)
 * are (left, right, result), in the order of their ranks; a pair that is listed again is ignored.
 * PYGPT_ERANGE when a merge names an id outside 0..V-1, or a byte has no token of its own. */
int bpe_table_init(void *table, const uint8_t *tokens, const int64_t *ends, const int32_t *merges,
                   int64_t V, int64_t M);

/* ids (*count) are those of text (n), merged within each piece. ids has room for n.
 * PYGPT_ENOMEM also for a piece of 2^31 - 1 bytes or more. */
int bpe_encode(int32_t *ids, int64_t *count, const uint8_t *text, const uint8_t *classes,
               const void *table, int64_t n);

/* Counts the different pieces of text (n), in the order of their first appearance. The i-th,
 * i < *distinct, is the bytes starts[i]..ends[i]-1 and comes counts[i] times. All three have room
 * for n. */
int bpe_count(int64_t *starts, int64_t *ends, int64_t *counts, int64_t *distinct,
              const uint8_t *text, const uint8_t *classes, int64_t n);

/* Learns up to M merges. Piece i of P is pieces[ends[i-1]..ends[i]-1] and counts counts[i] >= 0
 * times. Tokens 0..255 are the bytes. Each round takes the pair of neighbours that comes most often
 * (of equal pairs, the one whose bytes, left then right, are lexicographically greatest) and merges
 * it, wherever it occurs, from the left, into token 256 + round. merges (M,2) are the pairs, *done
 * is their number, less than M when nothing is left to merge. PYGPT_ERANGE when the pieces have
 * 2^29 bytes or more. */
int bpe_train(int32_t *merges, int64_t *done, const uint8_t *pieces, const int64_t *ends,
              const int64_t *counts, int64_t P, int64_t M);

#endif
