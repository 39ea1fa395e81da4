/* few_floats.inl: the tiles of weights in float32 and in bfloat16. Frame: few_rows.inl. */

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

FEW_PART(float32_part, float32_tile, 4, 4)
FEW_PART(rounded_part, rounded_tile, 4, 4)
FEW_PART(half_part, half_tile, 4, 2)
FEW_PART(pairs_part, pairs_tile, 4, 2)
