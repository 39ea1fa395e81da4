/* few_rows.inl: computes a few rows by a weight (OUT,IN), whose rows are its outputs, tile by tile.
 * The tiles of each type of weight are in few_floats.inl and few_int8.inl. Why: few_rows.c.
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
#define PAIRS (2 * VW)   /* places that are loaded together in 16 bits each */
_Static_assert(BLOCK % PAIRS == 0, "a block is whole pairs");
_Static_assert(2 * FEW_OUTS + FEW_ROWS * FEW_OUTS + 2 <= REGISTERS, "the tile fits the registers");
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

typedef void tile_function(const int rows, const int outs, vf kept[FEW_ROWS][FEW_PART_OUTS],
                           const few_product *p, const few_tile *at);

/* ------------------------------------------------------------------------- a thread's part --- */

/* t (rows, FEW_PART_OUTS) = the sums of the lanes, as vsum adds them, VW outputs at a time; times
 * the row's factor, unless NULL. */
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

/* Computes the outputs o0..o1, at most FEW_PART_OUTS, of all rows. With several tiles of rows, IN
 * is cut into parts short enough for the x of a tile to stay in L1, and the weights of the next
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
        isa_in_use->tile_finish(&p->out, t, FEW_PART_OUTS, p->out.c + r * p->out.ldc + o0, rows,
                                o1 - o0, r, o0, 1, 1);
    }
}
_Static_assert(FEW_ROWS == 4, "few_part lists the tiles of 1 to 4 rows");

#define FEW_PART(name, tile, x_size, w_size)                                \
    static void name(const few_product *p, int64_t o0, int64_t o1) {        \
        few_part(tile, x_size, w_size, p, o0, o1);                          \
    }
