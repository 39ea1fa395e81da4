/* matmul.c: computes the matrix product of every layer, C (M,N) = A (M,K) B (K,N).
 *
 * Each element is a sum of K products. The naive triple loop loads two floats for each
 * multiply-add, and these loads limit its speed. A tile of MR x NR elements in registers loads
 * MR + NR floats for MR * NR multiply-adds. The load units keep up with that, so the multiply-add
 * units limit the speed.
 *
 *           n0       n1                   one task: rows m0..m1, columns n0..n1 of C
 *            |  B  |                        for k0 in 0, kc, 2 kc ..:
 *            | kc  | -> panel, packed         pack kc rows of B as strips of NR columns   (in L2)
 *            +-----+                          for each row tile, MR rows of A, in place   (in L1)
 *   +-----+  +-----+ m0                         for each strip:
 *   |  A  |  |  C  |                              tile: MR x NR sums over kc        (registers)
 *   +-----+  +-----+ m1
 *
 * A is read in place, because a tile broadcasts single floats of it. A transposed A is packed,
 * A_ROWS rows at a time, if its block is at least FEW_STRIPS strips wide: in place, each k of a
 * tile would be on another cache line and often on another page, of which the tile uses MR floats.
 * B is read a row of the tile at a time, so it is packed: copied into one piece, and transposed
 * back if it is stored transposed. Each thread has its own panel, so that it needs no barrier and
 * keeps the panel in its own L2.
 *
 * A layer needs three products, which differ only in their strides (weight is (IN,OUT)):
 *   y  = x W       A = x,    B = W          (R,IN)(IN,OUT)
 *   dx = dy W^T    A = dy,   B = W^T        dL/dx_i = sum_j dL/dy_j W_ij
 *   dW = x^T dy    A = x^T,  B = dy         dL/dW_ij = sum_r x_ri dL/dy_rj
 *
 * Where the operands are bfloat16 and the CPU has a unit for them, matmul_bf16.inl computes the
 * blocks, in tiles of its own.
 *
 * Threads share out blocks of C. One thread computes the whole sum over k of an element, in the
 * order of k, split at the same multiples of kc. The limits of the blocks do not change a bit.
 *
 * These were tried on a Zen 5 (AVX-512) and dropped: prefetching the next tile's rows of A, or the
 * next panel of B (no gain); packing a transposed A one tile at a time (4 to 18 % slower, as each
 * cache line is then fetched for every tile that lies on it); prefetching the lines of C that a
 * tile will store to (1 to 11 % slower); finishing a tile with a GELU four vectors at a time (no
 * gain); KC 384 (a tenth slower at K = 1152) and KC 1536 (no faster). On a Zen 3 (AVX2): computing
 * dx and dW of a layer in one parallel region (no gain beyond the noise, 1 to 2 %).
 */
#include <math.h>

#include "internal.h"

/* The most rows of a panel. Longer parts of K mean fewer passes over C: KC = 384 lost a tenth of
 * the speed at K = 1152 (Zen 5, AVX-512). A transposed A takes shorter parts, because its packed
 * rows lie beside the panel in L2.
 *
 * These two must not follow the caches. They decide where the sum over k is split, and with that
 * its rounding, and two CPUs of one instruction set should give the same bits. */
#define KC 768
#define KC_ACROSS 256
/* On a bfloat16 unit: 32 rows of A, packed, then fill 32 KB of L1. Chosen, not measured. */
#define KC_UNIT 512
/* The columns of a panel do follow the caches: see pygpt_panel_columns. The limits are chosen, not
 * measured: more columns than the upper one save little, since A is then read only once for every
 * 512 columns, and with one strip no row of A would be used twice while it is in L1. */
#define MOST_COLUMNS 512
#define LEAST_STRIPS 2
/* The costs of a block besides its rows * columns of sums. Packing its panel costs as much as
 * PACKING rows (IN_PLACE where B is read in place), and reading its part of A as much as READING
 * columns. Waiting for the last block costs the part WAITING of a block, because no thread is as
 * fast as the others all the time. All were found by trial on shapes of widths 64 to 768, on
 * AVX-512 and AVX2 with two threads. */
#define PACKING 16
#define IN_PLACE 8
#define READING 16
#define WAITING 0.25
/* On a unit, isa.unit_packing takes the place of PACKING and of READING: to convert and pack an
 * element takes about half a cycle, in which a unit computes that many products. */
/* A row of A is converted again for each panel, so a panel should be wide. Chosen, not measured. */
#define UNIT_MOST_COLUMNS 1024
/* With this many blocks for each thread, smaller blocks gain nothing. */
#define BLOCKS_PER_THREAD 8
/* A block of this part of the full size takes a round of its own, as a full one does. */
#define NEARLY_FULL 0.75
/* The floats of B that should stay in L2 while the rows of A pass. A quarter of L2 is left to those
 * rows and to C. */
static int64_t floats_in_l2(int64_t l2) { return l2 / 4 * 3 / (int64_t)sizeof(float); }

int64_t pygpt_panel_columns(int64_t l2, int64_t rows, int64_t tile_columns) {
    /* Each thread reads its whole panel again for every MR rows of A. With 256 columns on every CPU
     * instead, eight products of the presets' widths were up to 3 % slower or faster, on one core
     * of a Zen 3 (AVX2, 512 KB of L2). */
    const int64_t fit = floats_in_l2(l2) / max64(1, rows);
    const int64_t strips = max64(LEAST_STRIPS, min64(fit, MOST_COLUMNS) / tile_columns);
    return strips * tile_columns;
}

/* Whether the instruction set in use has a unit for the type of g's operands. */
static int on_unit(const gemm *g) {
    return g->dtype == PYGPT_BFLOAT16 && isa_in_use->gemm_block_bf16;
}

/* The most columns of a panel for g. The numbers in a unit's panel have half the size. */
static int64_t panel_columns(const gemm *g, int64_t NR) {
    if (!on_unit(g)) return pygpt_panel_columns(caches_in_use.l2, g->kc, NR);
    const int64_t fit = floats_in_l2(caches_in_use.l2) / (g->kc / 2);
    return max64(LEAST_STRIPS, min64(fit, UNIT_MOST_COLUMNS) / NR) * NR;
}

void pygpt_block_sizes(int64_t *out) {
    const int64_t NR = isa_in_use->tile_columns, l2 = caches_in_use.l2;
    out[BLOCK_TILE_ROWS] = isa_in_use->tile_rows;
    out[BLOCK_TILE_COLUMNS] = NR;
    out[BLOCK_PANEL_ROWS] = KC;
    out[BLOCK_PANEL_COLUMNS] = pygpt_panel_columns(l2, KC, NR);
    out[BLOCK_PANEL_ROWS_ACROSS] = KC_ACROSS;
    out[BLOCK_PANEL_COLUMNS_ACROSS] = pygpt_panel_columns(l2, KC_ACROSS, NR);
}

/* Whether the rows of A are packed, where a block is wide enough. */
static int packs_a(const gemm *g) { return g->a_col != 1 || g->dtype != PYGPT_FLOAT32; }

/* Returns the length of the equal parts into which K is split, at most KC, KC_ACROSS or KC_UNIT. */
static int64_t k_block(const gemm *g) {
    const int64_t longest = on_unit(g) ? KC_UNIT : packs_a(g) ? KC_ACROSS : KC;
    int64_t parts = max64(1, (g->K + longest - 1) / longest);
    /* gelu' multiplies the complete sum: if that is added to other values, K must be one part. */
    if (g->slope_of && (g->accumulate || g->addend)) parts = 1;
    if (g->slope_of && g->slope_of == g->c) parts = 1; /* no partial sum may overwrite it */
    /* the addend in c is added last, after the GELU */
    if (g->gelu && g->addend && g->addend == g->c) parts = 1;
    const int64_t length = max64(1, (g->K + parts - 1) / parts);
    return on_unit(g) ? (length + UNIT_K - 1) / UNIT_K * UNIT_K : length;
}

/* The floats that gemm_block needs for blocks of `columns`: a panel, and packed rows of A. Sums
 * that wait come after them. */
static int64_t panel_floats(const gemm *g, int64_t columns) {
    if (on_unit(g)) return g->kc / 2 * (columns + UNIT_TILE);
    const int64_t tiles = A_ROWS / isa_in_use->tile_rows;
    return g->kc * columns + (packs_a(g) ? g->kc * A_ROWS + tiles * APART : 0);
}

/* Returns the cost of packing B for a block of `rows`. A block of few rows reads B in place, which
 * is cheap if all of B stays in L2; otherwise each block fetches it again. */
static int64_t packing_cost(const gemm *g, int64_t rows, int64_t MR) {
    const int is_cached = g->K * g->N <= floats_in_l2(caches_in_use.l2);
    if (on_unit(g)) return isa_in_use->unit_packing;
    return reads_b_in_place(g, rows, MR) && is_cached ? IN_PLACE : PACKING;
}

/* Returns the cost of reading A for a block, in columns. */
static int64_t reading_cost(const gemm *g) {
    return on_unit(g) ? isa_in_use->unit_packing : READING;
}

/* Returns the cost of a block in sums over K. */
static double block_cost(int64_t rows, int64_t packing, int64_t columns, int64_t reading) {
    return (double)((rows + packing) * (columns + reading));
}

/* Returns the time, in full blocks, until the last of `threads` threads is done with down * across
 * blocks, of which the last row's have `low` of the full size and the last column's `narrow`. Nine
 * full blocks take two threads as long as ten. In the last round, a thread that gets no full block
 * takes as many small ones as fit; those that are left take more time at the end. */
static double rounds_of(int64_t down, int64_t across, double low, double narrow, int threads) {
    const double size = low > narrow ? low : narrow; /* of the largest small block */
    const int64_t blocks = down * across;
    const int64_t full = size < NEARLY_FULL
                             ? (down - (low > 0)) * (across - (narrow > 0)) : blocks;
    const int64_t rounds = (full + threads - 1) / threads;
    if (full == blocks) return (double)rounds;
    const int64_t fit = (rounds * threads - full) * (int64_t)(1.0 / size);
    const int64_t left = max64(0, blocks - full - fit);
    const int64_t more = (left + threads - 1) / threads;
    return (double)rounds + size * (double)more;
}

/* Chooses the rows and columns of a block, multiples of the tile, that should take the least time.
 * One bound of the time is the work of all blocks, shared out evenly. The other is the time of the
 * thread that is done last. */
static void choose_blocks(const gemm *g, int64_t MR, int64_t NR, int threads, int64_t *rows,
                          int64_t *columns) {
    const int64_t tiles = max64(1, (g->M + MR - 1) / MR);
    const int64_t strips = max64(1, (g->N + NR - 1) / NR), most = panel_columns(g, NR) / NR;
    const int64_t reading = reading_cost(g);
    *rows = tiles * MR;
    *columns = min64(most, strips) * NR;
    if (threads == 1) return;
    double least = INFINITY;
    int64_t width_before = 0;
    for (int64_t most_strips = most; most_strips > 0;
         most_strips -= max64(1, most_strips / 4)) {
        int64_t across = (strips + most_strips - 1) / most_strips;
        const int64_t width = (strips + across - 1) / across * NR;
        if (width == width_before) continue;
        width_before = width;
        across = (strips * NR + width - 1) / width;
        for (int64_t parts = 1; parts <= tiles; parts += 1 + parts / 16) {
            const int64_t height = (tiles + parts - 1) / parts * MR;
            const int64_t down = (tiles * MR + height - 1) / height;
            const int64_t packing = packing_cost(g, height, MR);
            const double block = block_cost(height, packing, width, reading);
            const double all = (double)(g->M + down * packing) * (double)(g->N + across * reading);
            const int64_t last_rows = g->M % height, last_columns = g->N % width;
            const double low =
                last_rows ? (double)(last_rows + packing) / (double)(height + packing) : 0;
            const double narrow =
                last_columns ? (double)(last_columns + reading) / (double)(width + reading) : 0;
            const double uneven = block * rounds_of(down, across, low, narrow, threads);
            const double even = all / threads;
            const double cost = (even > uneven ? even : uneven) + WAITING * block;
            if (cost < least) {
                least = cost;
                *rows = height;
                *columns = width;
            }
            if (down * across >= BLOCKS_PER_THREAD * threads) break;
        }
    }
}

/* Sets `part` to the rows m0..m1 and columns n0..n1 of block i. The blocks are numbered column by
 * column, but the last row of blocks comes at the end if it is lower than the others: short blocks
 * then fill the time of threads that are done before the others. */
void pygpt_product_block(int64_t *part, int64_t i, int64_t rows, int64_t columns, int64_t M,
                         int64_t N) {
    const int64_t across = (N + columns - 1) / columns, full = M / rows;
    const int is_last = i >= full * across;
    const int64_t m = is_last ? full : i % full, n = is_last ? i - full * across : i / full;
    part[0] = m * rows;
    part[1] = min64((m + 1) * rows, M);
    part[2] = n * columns;
    part[3] = min64((n + 1) * columns, N);
}

/* The part of a gemm that the choice of blocks depends on. */
static gemm shape_of(int64_t M, int64_t N, int64_t K, int transpose_a, int transpose_b) {
    return (gemm){
        .M = M, .N = N, .K = K,
        .a_row = transpose_a ? 1 : K, .a_col = transpose_a ? M : 1,
        .b_row = transpose_b ? 1 : N, .b_col = transpose_b ? K : 1,
    };
}

void pygpt_product_blocks(int64_t *rows, int64_t *columns, int64_t M, int64_t N, int64_t K,
                          int transpose_a, int transpose_b, int threads, int64_t tile_rows,
                          int64_t tile_columns) {
    gemm g = shape_of(M, N, K, transpose_a, transpose_b);
    g.kc = k_block(&g);
    choose_blocks(&g, tile_rows, tile_columns, threads, rows, columns);
}

double pygpt_block_cost(int64_t rows, int64_t columns, int64_t N, int64_t K, int transpose_b,
                        int64_t tile_rows) {
    const gemm g = shape_of(rows, N, K, 0, transpose_b);
    return (double)K * block_cost(rows, packing_cost(&g, rows, tile_rows), columns, READING);
}

/* Returns the number of floats to ask for so that all of them lie on huge pages, if there are many:
 * half the speed of AMX was lost on small pages (two cores of a Xeon of 2023, panels of 256
 * columns). */
static int64_t on_huge_pages(int64_t floats) {
    const int64_t huge = (2 << 20) / (int64_t)sizeof(float);
    return floats < huge / 8 ? floats : (floats + huge - 1) / huge * huge;
}

/* Computes few rows of A by a B that is read once, in place, and is too large for L2. Each thread
 * takes a stretch of columns. */
static int run_across(const gemm *g) {
    const int64_t tile = isa_in_use->across, tiles = (g->N + tile - 1) / tile;
    const int threads = threads_for((double)g->M * (double)g->N * (double)g->K, tiles);
    const int64_t columns = (tiles + threads - 1) / threads * tile, sums = g->M * columns;
    float *scratch = scratch_take(sums * threads);
    if (!scratch) return PYGPT_ENOMEM;
    PARALLEL(threads)
#pragma omp for schedule(static)
    for (int64_t n = 0; n < g->N; n += columns)
        isa_in_use->gemm_across(g, n, min64(n + columns, g->N), scratch + n / columns * sums,
                                columns);
    scratch_give(scratch);
    return PYGPT_OK;
}

/* Whether g has few rows of an A that is stored as it is. Then B is read once, in place, if it is
 * transposed (few_rows.c) or large (few_across.inl). Generation needs it. */
static int has_few_rows(const gemm *g) {
    return g->M <= PYGPT_FEW_ROWS && g->a_col == 1 && !g->slope_of && !g->column_sum && !g->c_half;
}

int gemm_run(gemm g) {
    g.kc = k_block(&g);
    if (has_few_rows(&g)) {
        if (g.b_row == 1 && g.b_col != 1) return few_rows_run(&g);
        if (!g.b_half && g.b_col == 1 && g.dtype == PYGPT_FLOAT32 &&
            g.K * g.N > caches_in_use.l2 / (int64_t)sizeof(float))
            return run_across(&g);
    }

    int threads = worth_threads((double)g.M * (double)g.N * (double)max64(g.K, 1));
    const int unit = on_unit(&g);
    gemm_block_function *const compute =
        unit ? isa_in_use->gemm_block_bf16 : isa_in_use->gemm_block;
    const int64_t MR = unit ? UNIT_TILE : isa_in_use->tile_rows;
    const int64_t NR = unit ? UNIT_TILE : isa_in_use->tile_columns;
    int64_t rows, columns;
    choose_blocks(&g, MR, NR, threads, &rows, &columns);
    const int64_t down = max64(1, (g.M + rows - 1) / rows);
    const int64_t blocks = down * ((g.N + columns - 1) / columns);
    g.sums = (panel_floats(&g, columns) + 15) / 16 * 16;
    g.ld_sums = columns;
    const int64_t panel = g.sums + (sums_wait(&g) ? rows * columns : 0);

    if (blocks < 2) threads = 1;
    note_sharing(threads, blocks);
    float *panels = scratch_take(unit ? on_huge_pages(panel * threads) : panel * threads);
    if (!panels) return PYGPT_ENOMEM;
    PARALLEL(threads) {
        float *mine = panels + panel * thread_number();
#pragma omp for schedule(dynamic)
        for (int64_t block = 0; block < blocks; block++) {
            int64_t part[4];
            pygpt_product_block(part, block, rows, columns, g.M, g.N);
            compute(&g, part[0], part[1], part[2], part[3], mine);
        }
    }
    scratch_give(panels);
    return PYGPT_OK;
}

int matmul(float *out, const float *a, const float *b, int64_t M, int64_t N, int64_t K,
           int transpose_a, int transpose_b, int accumulate, int dtype) {
    return gemm_run((gemm){
        .M = M, .N = N, .K = K,
        .a = a, .a_row = transpose_a ? 1 : K, .a_col = transpose_a ? M : 1,
        .b = b, .b_row = transpose_b ? 1 : N, .b_col = transpose_b ? K : 1,
        .c = out, .ldc = N, .accumulate = accumulate, .dtype = dtype,
    });
}
