/* quantized.inl: computes a few rows by a weight that is stored in 16 or 8 bits. Formats, and why
 * the rows of a weight are its outputs: quantized.c.
 *
 * A tile is `rows` rows of x by `outs` outputs. Each of its sums is a vector, whose lanes take
 * different places along IN and are added up at the end. A weight is widened once for all rows of a
 * tile. The operations of one sum, and so its bits, are the same in every tile. */

#define FEW_ROWS 4               /* the most rows of a tile */
#define FEW_OUTS (REGISTERS / 8) /* its outputs, where it has several rows */
/* The outputs of a tile of one row. Memory is read fastest from one end to the other, so a tile
 * reads few rows of the weight at once: with int8 one, as its sum waits only once in a group; with
 * bfloat16 two, as a sum waits twice for each vector of weights. Reasoned, not measured. */
#define ONE_ROW_OUTS_INT8 1
#define ONE_ROW_OUTS_BFLOAT16 2
#define X_BYTES 16384   /* of x, half of L1, in which a tile's rows should stay */
#define NEAR_BYTES 3072 /* see tiles_ahead. Chosen, not measured */
_Static_assert(FEW_ROWS * FEW_OUTS + 2 * FEW_OUTS + 2 <= REGISTERS, "the tile fits the registers");
_Static_assert(STORED_OUTS % FEW_OUTS == 0 && STORED_OUTS % VW == 0, "whole tiles and vectors");

/* A tile's place: row r of x; the outputs o, whose sums lie from column n on; the places k0..k1 of
 * IN; and how far ahead of a weight to prefetch, 0: not at all. */
typedef struct few_tile {
    int64_t r, n, o[FEW_OUTS], k0, k1, ahead;
} few_tile;

/* Sets the sums of a tile to those of the places before k0; they lie in memory meanwhile. */
INLINE void resume_sums(const int rows, const int outs, vf sums[FEW_ROWS][FEW_OUTS],
                        vf kept[FEW_ROWS][STORED_OUTS], const few_tile *at) {
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < outs; j++) sums[i][j] = at->k0 ? kept[i][at->n + j] : vzero();
}

INLINE void keep_sums(const int rows, const int outs, vf sums[FEW_ROWS][FEW_OUTS],
                      vf kept[FEW_ROWS][STORED_OUTS], const few_tile *at) {
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < outs; j++) kept[i][at->n + j] = sums[i][j];
}

/* ------------------------------------------------------------------------------- bfloat16 --- */

/* PAIRS weights are loaded at once, as VW pairs: the lower half of a pair is the weight of an even
 * place, the upper half that of the next. x is arranged to match: the VW even places of each PAIRS,
 * then the VW odd ones; 0 beyond IN. */
#define PAIRS (2 * VW)

static void arrange_bfloat16(const stored_product *p, int64_t r0, int64_t r1) {
    for (int64_t r = r0; r < r1; r++) {
        const float *from = p->inp + r * p->IN;
        float *to = (float *)p->x + r * p->x_row;
        int64_t k = 0;
        for (; k + PAIRS <= p->IN; k += PAIRS)
            for (int64_t i = 0; i < VW; i++) {
                to[k + i] = from[k + 2 * i];
                to[k + VW + i] = from[k + 2 * i + 1];
            }
        if (k == p->IN) continue;
        for (int64_t i = 0; i < PAIRS; i++)
            to[k + i % 2 * VW + i / 2] = k + i < p->IN ? from[k + i] : 0.0f;
    }
}

/* Adds the products at PAIRS places to the sums. */
INLINE void add_pairs(const int rows, const int outs, vf sums[FEW_ROWS][FEW_OUTS], const float *x,
                      int64_t x_row, const uint16_t *const *w, int64_t k, int64_t ahead) {
    vf even[FEW_OUTS], odd[FEW_OUTS];
    UNROLL for (int j = 0; j < outs; j++) {
        const vu bits = (vu)vload((const float *)(w[j] + k));
        if (ahead) __builtin_prefetch(w[j] + k + ahead);
        even[j] = (vf)(bits << 16);
        odd[j] = (vf)(bits & 0xFFFF0000u);
    }
    UNROLL for (int i = 0; i < rows; i++) {
        const vf x0 = vload(x + i * x_row), x1 = vload(x + i * x_row + VW);
        UNROLL for (int j = 0; j < outs; j++) sums[i][j] = x0 * even[j] + sums[i][j];
        UNROLL for (int j = 0; j < outs; j++) sums[i][j] = x1 * odd[j] + sums[i][j];
    }
}

INLINE void bfloat16_tile(const int rows, const int outs, vf kept[FEW_ROWS][STORED_OUTS],
                          const stored_product *p, const few_tile *at) {
    const float *x = (const float *)p->x + at->r * p->x_row;
    const uint16_t *w[FEW_OUTS];
    vf sums[FEW_ROWS][FEW_OUTS];
    UNROLL for (int j = 0; j < outs; j++) w[j] = p->halves + at->o[j] * p->IN;
    resume_sums(rows, outs, sums, kept, at);
    int64_t k = at->k0;
    if (at->ahead)
        for (; k + PAIRS <= at->k1; k += PAIRS)
            add_pairs(rows, outs, sums, x + k, p->x_row, w, k, at->ahead);
    for (; k + PAIRS <= at->k1; k += PAIRS)
        add_pairs(rows, outs, sums, x + k, p->x_row, w, k, 0);
    if (k < at->k1) {
        uint16_t rest[FEW_OUTS][PAIRS] = {{0}};
        for (int j = 0; j < outs; j++) {
            memcpy(rest[j], w[j] + k, sizeof(uint16_t) * (size_t)(at->k1 - k));
            w[j] = rest[j];
        }
        add_pairs(rows, outs, sums, x + k, p->x_row, w, 0, 0);
    }
    keep_sums(rows, outs, sums, kept, at);
}

/* ----------------------------------------------------------------------------------- int8 --- */

/* Returns the largest |x| over n floats as the bits of a float. In this order, an infinity comes
 * after every number and a NaN after it. */
INLINE int32_t largest_bits(const float *x, int64_t n) {
    vi most = {0};
    for (int64_t i = 0; i < n; i += VW) {
        const vi bits = (vi)vload_n(x + i, min64(VW, n - i)) & 0x7FFFFFFF;
        const vi is_more = bits > most;
        most = (bits & is_more) | (most & ~is_more);
    }
    int32_t lanes[VW], best = 0;
    memcpy(lanes, &most, sizeof most);
    for (int i = 0; i < VW; i++) best = lanes[i] > best ? lanes[i] : best;
    return best;
}

/* Returns the nearest whole numbers, ties to even, for |x| < 2^22. */
INLINE vi vnearest(vf x) {
    const vf SHIFT = vset1(12582912.0f); /* 1.5 * 2^23 leaves no bits for a fraction */
    return (vi)(x + SHIFT) - (vi)SHIFT;
}

/* Each row of x becomes 16-bit whole numbers and a factor, see quantized.c; 0 beyond IN. */
static void arrange_int8(const stored_product *p, int64_t r0, int64_t r1) {
    for (int64_t r = r0; r < r1; r++) {
        const float *from = p->inp + r * p->IN;
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

#define STEPS (PYGPT_INT8_GROUP / PAIRS) /* vectors of int16 in a group */
_Static_assert(STEPS * PAIRS == PYGPT_INT8_GROUP, "a group is whole vectors");

INLINE void int8_tile(const int rows, const int outs, vf kept[FEW_ROWS][STORED_OUTS],
                      const stored_product *p, const few_tile *at) {
    const int16_t *x = (const int16_t *)p->x + at->r * p->x_row;
    const int8_t *w[FEW_OUTS];
    const float *scales[FEW_OUTS];
    vf sums[FEW_ROWS][FEW_OUTS];
    UNROLL for (int j = 0; j < outs; j++) {
        w[j] = p->q + at->o[j] * p->x_row;
        scales[j] = p->scales + at->o[j] * (p->x_row / PYGPT_INT8_GROUP);
    }
    resume_sums(rows, outs, sums, kept, at);
    for (int64_t k = at->k0; k < at->k1; k += PYGPT_INT8_GROUP) {
        UNROLL for (int j = 0; j < outs; j++) {
            vs wide[STEPS];
            __builtin_prefetch(w[j] + k + at->ahead);
            UNROLL for (int s = 0; s < STEPS; s++) wide[s] = vload_int8(w[j] + k + s * PAIRS);
            const vf scale = vset1(scales[j][k / PYGPT_INT8_GROUP]);
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

/* t (rows, STORED_OUTS) = the sums of the lanes, as vsum adds them, VW outputs at a time; times the
 * row's factor, unless NULL. */
static void join_lanes(float *t, vf kept[FEW_ROWS][STORED_OUTS], int64_t rows, int64_t outs,
                       const float *factors) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < outs; j += VW) {
            vf lanes[VW];
            UNROLL for (int l = 0; l < VW; l++) lanes[l] = kept[i][j + l];
            vtranspose(lanes);
            UNROLL for (int step = VW / 2; step > 0; step /= 2)
                UNROLL for (int l = 0; l < step; l++) lanes[l] += lanes[l + step];
            vstore(t + i * STORED_OUTS + j, factors ? lanes[0] * factors[i] : lanes[0]);
        }
}

typedef void tile_function(const int rows, const int outs, vf kept[FEW_ROWS][STORED_OUTS],
                           const stored_product *p, const few_tile *at);

/* Computes the outputs o0..o1 of `rows` rows, tile by tile. The last tile may lack outputs: it
 * computes the last one several times, in places that are not read. */
INLINE void tiles(tile_function *tile, const int rows, const int outs,
                  vf kept[FEW_ROWS][STORED_OUTS], const stored_product *p, few_tile at, int64_t o0,
                  int64_t o1) {
    for (int64_t n = o0; n < o1; n += outs) {
        at.n = n - o0;
        UNROLL for (int j = 0; j < outs; j++) at.o[j] = min64(n + j, o1 - 1);
        tile(rows, outs, kept, p, &at);
    }
}

/* Returns how far ahead of a weight to prefetch, in weights of `size` bytes: a whole number of
 * tiles, so that each cache line is prefetched once, and at least NEAR_BYTES. */
INLINE int64_t tiles_ahead(const stored_product *p, int64_t outs, int64_t size) {
    const int64_t tile = max64(1, outs * p->w_row);
    return (NEAR_BYTES / size + tile - 1) / tile * tile;
}

/* Computes the outputs o0..o1, at most STORED_OUTS, of all rows. With several tiles of rows, IN is
 * cut into parts short enough for the x of a tile to stay in L1, and the weights of the next
 * STORED_OUTS outputs are prefetched while the second tile of rows computes. `one_row_outs` is the
 * number of outputs in a tile of one row; x and weights are numbers of x_size and w_size bytes. */
INLINE void stored_part(tile_function *tile, const int one_row_outs, const int64_t x_size,
                        const int64_t w_size, const stored_product *p, int64_t o0, int64_t o1) {
    const int64_t R = p->out.M, IN = p->IN;
    const int64_t part = R > FEW_ROWS ? X_BYTES / (FEW_ROWS * x_size) : IN;
    vf kept[FEW_ROWS][STORED_OUTS];
    float t[FEW_ROWS * STORED_OUTS];
    /* for IN = 0, and for places that no output has */
    memset(kept, 0, sizeof kept[0] * (size_t)min64(R, FEW_ROWS));
    for (int64_t r = 0; r < R; r += FEW_ROWS) {
        const int64_t rows = min64(FEW_ROWS, R - r), outs = rows == 1 ? one_row_outs : FEW_OUTS;
        few_tile at = {.r = r};
        if (r == 0) at.ahead = tiles_ahead(p, outs, w_size);
        if (r == FEW_ROWS) at.ahead = STORED_OUTS * p->w_row;
        for (int64_t k0 = 0; k0 < IN; k0 += part) {
            at.k0 = k0, at.k1 = min64(k0 + part, IN);
            switch (rows) {
                case 1: tiles(tile, 1, one_row_outs, kept, p, at, o0, o1); break;
                case 2: tiles(tile, 2, FEW_OUTS, kept, p, at, o0, o1); break;
                case 3: tiles(tile, 3, FEW_OUTS, kept, p, at, o0, o1); break;
                default: tiles(tile, 4, FEW_OUTS, kept, p, at, o0, o1);
            }
        }
        join_lanes(t, kept, rows, o1 - o0, p->q ? p->factors + r : NULL);
        tile_finish(&p->out, t, STORED_OUTS, p->out.c + r * p->out.ldc + o0, rows, o1 - o0, r, o0,
                    1, 1);
    }
}
_Static_assert(FEW_ROWS == 4, "stored_part lists the tiles of 1 to 4 rows");

static void bfloat16_part(const stored_product *p, int64_t o0, int64_t o1) {
    stored_part(bfloat16_tile, ONE_ROW_OUTS_BFLOAT16, sizeof(float), sizeof(uint16_t), p, o0,
                o1);
}
static void int8_part(const stored_product *p, int64_t o0, int64_t o1) {
    stored_part(int8_tile, ONE_ROW_OUTS_INT8, sizeof(int16_t), sizeof(int8_t), p, o0, o1);
}

/* ------------------------------------------------------------------- to int8 and from int8 --- */

/* Quantizes one group: q = w / scale, rounded to the nearest, with scale = max |w| / 127. */
static void quantize_group(int8_t *q, float *scale, const float *w) {
    const int32_t largest = largest_bits(w, PYGPT_INT8_GROUP);
    memset(q, 0, PYGPT_INT8_GROUP);
    *scale = largest < 0x7F800000 ? 0.0f : NAN;
    if (largest < (127 - 100) << 23 || largest >= 0x7F800000) return;
    *scale = float_of((uint32_t)largest) / 127.0f;
    const vf divisor = vset1(*scale);
    for (int64_t k = 0; k < PYGPT_INT8_GROUP; k += VW) {
        int32_t lanes[VW];
        const vi whole = vnearest(vload(w + k) / divisor);
        memcpy(lanes, &whole, sizeof lanes);
        for (int i = 0; i < VW; i++) q[k + i] = (int8_t)lanes[i];
    }
}

/* Quantizes the rows o0..o1 of a weight (OUT,IN), at most QUANTIZED_OUTS, of which places along IN
 * are `along` floats apart and rows `across`. */
static void quantize_part(int8_t *q, float *scales, const float *weight, int64_t o0, int64_t o1,
                          int64_t IN, int64_t across, int64_t along) {
    const int64_t groups = (IN + PYGPT_INT8_GROUP - 1) / PYGPT_INT8_GROUP;
    float group[QUANTIZED_OUTS][PYGPT_INT8_GROUP];
    for (int64_t g = 0; g < groups; g++) {
        const int64_t k0 = g * PYGPT_INT8_GROUP, n = min64(PYGPT_INT8_GROUP, IN - k0);
        memset(group, 0, sizeof group);
        if (along == 1)
            for (int64_t o = o0; o < o1; o++)
                memcpy(group[o - o0], weight + o * across + k0, sizeof(float) * (size_t)n);
        else
            for (int64_t k = 0; k < n; k++)
                for (int64_t o = o0; o < o1; o++)
                    group[o - o0][k] = weight[o * across + (k0 + k) * along];
        for (int64_t o = o0; o < o1; o++)
            quantize_group(q + (o * groups + g) * PYGPT_INT8_GROUP, scales + o * groups + g,
                           group[o - o0]);
    }
}

/* out (o0..o1, IN) = q * scale. */
static void dequantize_part(float *out, const int8_t *q, const float *scales, int64_t o0,
                            int64_t o1, int64_t IN) {
    const int64_t groups = (IN + PYGPT_INT8_GROUP - 1) / PYGPT_INT8_GROUP;
    for (int64_t o = o0; o < o1; o++)
        for (int64_t k = 0; k < IN; k++)
            out[o * IN + k] = (float)q[o * groups * PYGPT_INT8_GROUP + k] *
                              scales[o * groups + k / PYGPT_INT8_GROUP];
}
