/* few_rows.inl: computes a few rows by a weight (OUT,IN), whose rows are its outputs, in float32,
 * bfloat16 or int8. Formats, and why: few_rows.c.
 *
 * A tile is `rows` rows of x by `outs` outputs. Each of its sums is a vector, whose lanes take
 * different places along IN and are added up at the end. The products at BLOCK places are summed
 * first and then added to the sum: so a sum waits once in a block only, and the blocks of a single
 * row are computed several at a time. A weight is widened once for all rows of a tile. The
 * operations of one sum, and so its bits, are the same in every tile. */

#define BLOCK PYGPT_INT8_GROUP
#define FEW_ROWS 4               /* the most rows of a tile */
#define FEW_OUTS (REGISTERS / 8) /* its outputs, where it has several rows */
/* A tile of one row has one output. Memory is read fastest from one end to the other: with two
 * outputs, from two places at once, one row took 1.3 times as long (bfloat16, 2 threads of a
 * Zen 3). */
#define X_BYTES 16384   /* of x, half of L1, in which a tile's rows should stay */
/* The weights of one row are prefetched so far ahead, if they have 16 or 8 bits: with 512 or 2048
 * instead one row took 4 to 14 % longer, and one of float32 is faster without (Zen 3). */
#define NEAR_BYTES 1024
_Static_assert(FEW_ROWS * FEW_OUTS + 2 * FEW_OUTS + 2 <= REGISTERS, "the tile fits the registers");
_Static_assert(FEW_PART_OUTS % FEW_OUTS == 0 && FEW_PART_OUTS % VW == 0, "whole tiles and vectors");

/* A tile's place: row r of x; the outputs o, whose sums lie from column n on; the places k0..k1 of
 * IN; and how far ahead of a weight to prefetch, in bytes, 0: not at all. */
typedef struct few_tile {
    int64_t r, n, o[FEW_OUTS], k0, k1, ahead;
} few_tile;

/* Sets the sums of a tile to those of the places before k0; they lie in memory meanwhile. */
INLINE void resume_sums(const int rows, const int outs, vf sums[FEW_ROWS][FEW_OUTS],
                        vf kept[FEW_ROWS][FEW_PART_OUTS], const few_tile *at) {
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < outs; j++) sums[i][j] = at->k0 ? kept[i][at->n + j] : vzero();
}

INLINE void keep_sums(const int rows, const int outs, vf sums[FEW_ROWS][FEW_OUTS],
                      vf kept[FEW_ROWS][FEW_PART_OUTS], const few_tile *at) {
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < outs; j++) kept[i][at->n + j] = sums[i][j];
}

/* ------------------------------------------------------------------------ float32, bfloat16 --- */

/* Adds the products at BLOCK places to the sums. w[j] is the block of output j; x that of the first
 * row, rows x_row floats apart. */
typedef void block_function(const int rows, const int outs, vf sums[FEW_ROWS][FEW_OUTS],
                            const float *x, int64_t x_row, const char *const *w, int64_t ahead);

/* total [+]= a row's VW numbers times those of each output. Without vkeep, the compiler would load
 * the row again for each output. */
INLINE void add_products(const int rows, const int outs, vf total[FEW_ROWS][FEW_OUTS],
                         const float *x, int64_t x_row, const vf *w, const int first) {
    UNROLL for (int i = 0; i < rows; i++) {
        const vf row = outs > 1 ? vkeep(vload(x + i * x_row)) : vload(x + i * x_row);
        UNROLL for (int j = 0; j < outs; j++)
            total[i][j] = first ? row * w[j] : row * w[j] + total[i][j];
    }
}

INLINE void add_total(const int rows, const int outs, vf sums[FEW_ROWS][FEW_OUTS],
                      vf total[FEW_ROWS][FEW_OUTS]) {
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < outs; j++) sums[i][j] += total[i][j];
}

/* Prefetches the BLOCK numbers of `size` bytes that are `ahead` bytes after a block. */
INLINE void prefetch_block(const char *w, int64_t ahead, const int size) {
    if (ahead)
        UNROLL for (int line = 0; line < BLOCK * size; line += 64)
            __builtin_prefetch(w + ahead + line);
}

/* For weights as they are, or rounded to bfloat16, or stored like that with `half`. */
INLINE void plain_block(const int rows, const int outs, vf sums[FEW_ROWS][FEW_OUTS],
                        const float *x, int64_t x_row, const char *const *w, int64_t ahead,
                        const int rounded, const int half) {
    vf total[FEW_ROWS][FEW_OUTS], wide[FEW_OUTS];
    UNROLL for (int j = 0; j < outs; j++) prefetch_block(w[j], ahead, half ? 2 : 4);
    UNROLL for (int k = 0; k < BLOCK; k += VW) {
        UNROLL for (int j = 0; j < outs; j++) {
            wide[j] = vload_as(w[j], k, half);
            if (rounded && !half) wide[j] = vbfloat16(wide[j]);
        }
        add_products(rows, outs, total, x + k, x_row, wide, k == 0);
    }
    add_total(rows, outs, sums, total);
}

INLINE void float32_block(const int rows, const int outs, vf sums[FEW_ROWS][FEW_OUTS],
                          const float *x, int64_t x_row, const char *const *w, int64_t ahead) {
    plain_block(rows, outs, sums, x, x_row, w, ahead, 0, 0);
}
INLINE void rounded_block(const int rows, const int outs, vf sums[FEW_ROWS][FEW_OUTS],
                          const float *x, int64_t x_row, const char *const *w, int64_t ahead) {
    plain_block(rows, outs, sums, x, x_row, w, ahead, 1, 0);
}
INLINE void half_block(const int rows, const int outs, vf sums[FEW_ROWS][FEW_OUTS],
                       const float *x, int64_t x_row, const char *const *w, int64_t ahead) {
    plain_block(rows, outs, sums, x, x_row, w, ahead, 1, 1);
}

/* bfloat16 at rest: PAIRS weights are loaded at once, as VW pairs: the lower half of a pair is the
 * weight of an even place, the upper half that of the next. x is arranged to match: the VW even
 * places of each PAIRS, then the VW odd ones. */
#define PAIRS (2 * VW)
INLINE void pairs_block(const int rows, const int outs, vf sums[FEW_ROWS][FEW_OUTS],
                        const float *x, int64_t x_row, const char *const *w, int64_t ahead) {
    vf total[FEW_ROWS][FEW_OUTS], even[FEW_OUTS], odd[FEW_OUTS];
    UNROLL for (int j = 0; j < outs; j++) prefetch_block(w[j], ahead, 2);
    UNROLL for (int k = 0; k < BLOCK; k += PAIRS) {
        UNROLL for (int j = 0; j < outs; j++) {
            const vu bits = (vu)vload_bytes(w[j] + 2 * k);
            even[j] = (vf)(bits << 16);
            odd[j] = (vf)(bits & 0xFFFF0000u);
        }
        add_products(rows, outs, total, x + k, x_row, even, k == 0);
        add_products(rows, outs, total, x + k + VW, x_row, odd, 0);
    }
    add_total(rows, outs, sums, total);
}
_Static_assert(BLOCK % PAIRS == 0, "a block is whole pairs");

/* Computes a tile, block by block. The weights, of `size` bytes each, begin at `all`. */
INLINE void tile_of_blocks(block_function *block, const void *all, const int size, const int rows,
                           const int outs, vf kept[FEW_ROWS][FEW_PART_OUTS],
                           const few_product *p, const few_tile *at) {
    const float *x = (const float *)p->x + at->r * p->x_row;
    const char *w[FEW_OUTS];
    vf sums[FEW_ROWS][FEW_OUTS];
    UNROLL for (int j = 0; j < outs; j++)
        w[j] = (const char *)all + (at->o[j] * p->w_row + at->k0) * size;
    resume_sums(rows, outs, sums, kept, at);
    int64_t k = at->k0;
#define BLOCKS(ahead)                                                  \
    for (; k + BLOCK <= at->k1; k += BLOCK) {                          \
        block(rows, outs, sums, x + k, p->x_row, w, ahead);            \
        UNROLL for (int j = 0; j < outs; j++) w[j] += BLOCK * size;    \
    }
    if (at->ahead) BLOCKS(at->ahead)
    BLOCKS(0)
    if (k < at->k1) {
        char rest[FEW_OUTS][BLOCK * sizeof(float)] = {{0}};
        for (int j = 0; j < outs; j++) {
            memcpy(rest[j], w[j], (size_t)((at->k1 - k) * size));
            w[j] = rest[j];
        }
        block(rows, outs, sums, x + k, p->x_row, w, 0);
    }
    keep_sums(rows, outs, sums, kept, at);
}

typedef void tile_function(const int rows, const int outs, vf kept[FEW_ROWS][FEW_PART_OUTS],
                           const few_product *p, const few_tile *at);
#define TILE(name, block, all, size)                                                           \
    INLINE void name(const int rows, const int outs, vf kept[FEW_ROWS][FEW_PART_OUTS],           \
                     const few_product *p, const few_tile *at) {                               \
        tile_of_blocks(block, all, size, rows, outs, kept, p, at);                             \
    }
TILE(float32_tile, float32_block, p->floats, 4)
TILE(rounded_tile, rounded_block, p->floats, 4)
TILE(half_tile, half_block, p->halves, 2)
TILE(pairs_tile, pairs_block, p->halves, 2)

/* Copies rows of A to x, rounded to bfloat16 if the product is; 0 beyond IN. */
static void arrange_plain(const few_product *p, int64_t r0, int64_t r1) {
    const int half = p->out.a_half != NULL, rounded = p->out.dtype == PYGPT_BFLOAT16 && !half;
    const void *all = half ? (const void *)p->out.a_half : p->out.a;
    for (int64_t r = r0; r < r1; r++) {
        float *to = (float *)p->x + r * p->x_row;
        for (int64_t k = 0; k < p->x_row; k += VW) {
            const int64_t n = max64(0, min64(VW, p->IN - k));
            const vf x = vload_as_n(all, r * p->out.a_row + k, half, n);
            vstore(to + k, rounded ? vbfloat16(x) : x);
        }
    }
}

/* The same in the order that pairs_block reads. */
static void arrange_pairs(const few_product *p, int64_t r0, int64_t r1) {
    for (int64_t r = r0; r < r1; r++) {
        const float *from = p->out.a + r * p->out.a_row;
        float *to = (float *)p->x + r * p->x_row;
        int64_t k = 0;
        for (; k + PAIRS <= p->IN; k += PAIRS)
            for (int64_t i = 0; i < VW; i++) {
                to[k + i] = from[k + 2 * i];
                to[k + VW + i] = from[k + 2 * i + 1];
            }
        for (; k < p->x_row; k += PAIRS)
            for (int64_t i = 0; i < PAIRS; i++)
                to[k + i % 2 * VW + i / 2] = k + i < p->IN ? from[k + i] : 0.0f;
    }
}

/* ----------------------------------------------------------------------------------- int8 --- */

/* Each row of A becomes 16-bit whole numbers and a factor, see few_rows.c; 0 beyond IN. */
static void arrange_int8(const few_product *p, int64_t r0, int64_t r1) {
    for (int64_t r = r0; r < r1; r++) {
        const float *from = p->out.a + r * p->out.a_row;
        int16_t *to = (int16_t *)p->x + r * p->x_row;
        const int32_t largest = largest_bits(from, p->IN);
        int32_t power = (largest >> 23) - (126 + 15); /* largest / 2^power is in [2^14, 2^15) */
        const int is_small = largest < (127 - 100) << 23, is_finite = largest < 0x7F800000;
        memset(to, 0, sizeof(int16_t) * (size_t)p->x_row);
        p->factors[r] = is_finite ? 1.0f : NAN;
        if (is_small || !is_finite) continue;
        /* 32767.5 would be rounded to 32768, which does not fit */
        power += (largest & 0x7FFFFF) >= 0x7FFF00;
        p->factors[r] = float_of((uint32_t)(127 + power) << 23);
        const vf inverse = vset1(float_of((uint32_t)(127 - power) << 23));
        for (int64_t k = 0; k < p->IN; k += VW) {
            const int64_t n = min64(VW, p->IN - k);
            const half_vs whole =
                __builtin_convertvector(vnearest(vload_n(from + k, n) * inverse), half_vs);
            memcpy(to + k, &whole, sizeof(int16_t) * (size_t)n);
        }
    }
}

#define STEPS (BLOCK / PAIRS) /* vectors of int16 in a group */

INLINE void int8_tile(const int rows, const int outs, vf kept[FEW_ROWS][FEW_PART_OUTS],
                      const few_product *p, const few_tile *at) {
    const int16_t *x = (const int16_t *)p->x + at->r * p->x_row;
    const int8_t *w[FEW_OUTS];
    const float *scales[FEW_OUTS];
    vf sums[FEW_ROWS][FEW_OUTS];
    UNROLL for (int j = 0; j < outs; j++) {
        w[j] = p->q + at->o[j] * p->w_row;
        scales[j] = p->scales + at->o[j] * (p->w_row / BLOCK);
    }
    resume_sums(rows, outs, sums, kept, at);
    for (int64_t k = at->k0; k < at->k1; k += BLOCK) {
        UNROLL for (int j = 0; j < outs; j++) {
            vs wide[STEPS];
            __builtin_prefetch(w[j] + k + at->ahead);
            UNROLL for (int s = 0; s < STEPS; s++) wide[s] = vload_int8(w[j] + k + s * PAIRS);
            const vf scale = vset1(scales[j][k / BLOCK]);
            UNROLL for (int i = 0; i < rows; i++) {
                const int16_t *row = x + i * p->x_row + k;
                vi total = vpair_sums(wide[0], vload_int16(row));
                UNROLL for (int s = 1; s < STEPS; s++)
                    total += vpair_sums(wide[s], vload_int16(row + s * PAIRS));
                sums[i][j] = __builtin_convertvector(total, vf) * scale + sums[i][j];
            }
        }
    }
    keep_sums(rows, outs, sums, kept, at);
}

/* ------------------------------------------------------------------------- a thread's part --- */

/* t (rows, FEW_PART_OUTS) = the sums of the lanes, as vsum adds them, VW outputs at a time; times the
 * row's factor, unless NULL. */
static void join_lanes(float *t, vf kept[FEW_ROWS][FEW_PART_OUTS], int64_t rows, int64_t outs,
                       const float *factors) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < outs; j += VW) {
            vf lanes[VW];
            UNROLL for (int l = 0; l < VW; l++) lanes[l] = kept[i][j + l];
            vtranspose(lanes);
            UNROLL for (int step = VW / 2; step > 0; step /= 2)
                UNROLL for (int l = 0; l < step; l++) lanes[l] += lanes[l + step];
            vstore(t + i * FEW_PART_OUTS + j, factors ? lanes[0] * factors[i] : lanes[0]);
        }
}

/* Computes the outputs o0..o1 of `rows` rows, tile by tile. The last tile may lack outputs: it
 * computes the last one several times, in places that are not read. */
INLINE void tiles(tile_function *tile, const int rows, const int outs,
                  vf kept[FEW_ROWS][FEW_PART_OUTS], const few_product *p, few_tile at, int64_t o0,
                  int64_t o1) {
    for (int64_t n = o0; n < o1; n += outs) {
        at.n = n - o0;
        UNROLL for (int j = 0; j < outs; j++) at.o[j] = min64(n + j, o1 - 1);
        tile(rows, outs, kept, p, &at);
    }
}

/* Returns how far ahead of a weight to prefetch in the first tile of `rows` rows. Several outputs
 * are read at once, so a tile prefetches whole tiles ahead: then each cache line is prefetched
 * once. */
INLINE int64_t first_ahead(int64_t rows, int64_t row_bytes, int64_t w_size) {
    if (rows == 1) return w_size == sizeof(float) ? 0 : NEAR_BYTES;
    const int64_t tile = max64(1, FEW_OUTS * row_bytes);
    return (NEAR_BYTES + tile - 1) / tile * tile;
}

/* Computes the outputs o0..o1, at most FEW_PART_OUTS, of all rows. With several tiles of rows, IN is
 * cut into parts short enough for the x of a tile to stay in L1, and the weights of the next
 * FEW_PART_OUTS outputs are prefetched while the second tile of rows computes. x and weights are
 * numbers of x_size and w_size bytes. */
INLINE void few_part(tile_function *tile, const int64_t x_size, const int64_t w_size,
                     const few_product *p, int64_t o0, int64_t o1) {
    const int64_t R = p->out.M, IN = p->IN, row_bytes = p->w_row * w_size;
    const int64_t part = R > FEW_ROWS ? X_BYTES / (FEW_ROWS * x_size) : IN;
    vf kept[FEW_ROWS][FEW_PART_OUTS];
    float t[FEW_ROWS * FEW_PART_OUTS];
    /* for IN = 0, and for places that no output has */
    memset(kept, 0, sizeof kept[0] * (size_t)min64(R, FEW_ROWS));
    for (int64_t r = 0; r < R; r += FEW_ROWS) {
        const int64_t rows = min64(FEW_ROWS, R - r);
        few_tile at = {.r = r};
        if (r == 0) at.ahead = first_ahead(rows, row_bytes, w_size);
        if (r == FEW_ROWS) at.ahead = FEW_PART_OUTS * row_bytes;
        for (int64_t k0 = 0; k0 < IN; k0 += part) {
            at.k0 = k0, at.k1 = min64(k0 + part, IN);
            switch (rows) {
                case 1: tiles(tile, 1, 1, kept, p, at, o0, o1); break;
                case 2: tiles(tile, 2, FEW_OUTS, kept, p, at, o0, o1); break;
                case 3: tiles(tile, 3, FEW_OUTS, kept, p, at, o0, o1); break;
                default: tiles(tile, 4, FEW_OUTS, kept, p, at, o0, o1);
            }
        }
        join_lanes(t, kept, rows, o1 - o0, p->q ? p->factors + r : NULL);
        tile_finish(&p->out, t, FEW_PART_OUTS, p->out.c + r * p->out.ldc + o0, rows, o1 - o0, r, o0,
                    1, 1);
    }
}
_Static_assert(FEW_ROWS == 4, "few_part lists the tiles of 1 to 4 rows");

#define FEW_PART(name, tile, x_size, w_size)                                \
    static void name(const few_product *p, int64_t o0, int64_t o1) {        \
        few_part(tile, x_size, w_size, p, o0, o1);                          \
    }
FEW_PART(float32_part, float32_tile, 4, 4)
FEW_PART(rounded_part, rounded_tile, 4, 4)
FEW_PART(half_part, half_tile, 4, 2)
FEW_PART(pairs_part, pairs_tile, 4, 2)
FEW_PART(int8_part, int8_tile, 2, 1)
