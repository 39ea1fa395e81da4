/* few_int8.inl: the tile of weights in int8. Frame: few_rows.inl. */

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
                    total = vadd_pair_sums(total, wide[s], vload_int16(row + s * PAIRS));
                sums[i][j] = __builtin_convertvector(total, vf) * scale + sums[i][j];
            }
        }
    }
    keep_sums(rows, outs, sums, kept, at);
}

FEW_PART(int8_part, int8_tile, 2, 1)
