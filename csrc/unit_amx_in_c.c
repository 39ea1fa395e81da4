/* unit_amx_in_c.c: AMX's operations in C, for any CPU. Operations: unit_tiles.inl.
 *
 * It serves tests, on machines without AMX, and readers. It is slow, and no CPU chooses it by
 * itself. tile_multiply defines TDPBF16PS as Intel's manual does ("Intel 64 and IA-32 Architectures
 * Software Developer's Manual", volume 2, TDPBF16PS, Operation):
 *
 *   - For each sum c[m][n], the products of the lower halves of the 16 pairs are added up in the
 *     order of k, starting at 0, and those of the upper halves likewise.
 *   - Each addition of a product is a fused multiply-add: the product is not rounded, the sum is,
 *     to the nearest float32, ties to even.
 *   - The two sums are added and rounded, and then that is added to c[m][n] and rounded.
 *   - Operands that are denormal count as 0, and results that are denormal become 0, whatever
 *     MXCSR says. Here MXCSR says so too, as PARALLEL sets it (parallel.h). Where it can't, or
 *     where a result that rounds up to 2^-126 counts as denormal (AArch64), they may differ.
 *
 * The fused multiply-add is computed in double precision. A bfloat16 has 8 significant bits, so the
 * product has 16 and is exact. The sum of it and a float32, of 24 bits, is rounded to the 53 bits
 * of a double only if the last bits of the smaller term lie more than 53 bits below the first bit
 * of the larger. All of the smaller term is then at least 53 - 24 = 29 bits below that bit, and the
 * larger term is itself a float32. So both the exact sum and the double are next to a float32 and
 * not next to the middle between two, and round to the same. */
#include "internal.h"

typedef struct tile {
    uint32_t row[16][16]; /* sums or pairs */
} tile;

/* The halves of a pair. */
static inline float lower(uint32_t pair) { return float_of(pair << 16); }
static inline float upper(uint32_t pair) { return float_of(pair & 0xFFFF0000u); }

static inline float multiply_add(float x, float y, float sum) {
    return (float)((double)x * (double)y + (double)sum);
}

static void tile_zero(tile *t) { *t = (tile){0}; }

static void tile_load(tile *t, const void *words, int64_t ld) {
    for (int i = 0; i < 16; i++)
        __builtin_memcpy(t->row[i], (const uint32_t *)words + i * ld, sizeof t->row[i]);
}

static void tile_store(const tile *t, void *words, int64_t ld) {
    for (int i = 0; i < 16; i++)
        __builtin_memcpy((uint32_t *)words + i * ld, t->row[i], sizeof t->row[i]);
}

static void tile_multiply(tile *c, const tile *a, const tile *b) {
    for (int m = 0; m < 16; m++) {
        float of_lower[16] = {0}, of_upper[16] = {0};
        for (int k = 0; k < 16; k++) {
            const float x = lower(a->row[m][k]), x_upper = upper(a->row[m][k]);
            for (int n = 0; n < 16; n++) {
                of_lower[n] = multiply_add(x, lower(b->row[k][n]), of_lower[n]);
                of_upper[n] = multiply_add(x_upper, upper(b->row[k][n]), of_upper[n]);
            }
        }
        for (int n = 0; n < 16; n++)
            c->row[m][n] = bits_of(float_of(c->row[m][n]) + (of_lower[n] + of_upper[n]));
    }
}

#define UNIT_NAME "amx_in_c"
#define UNIT_TABLE unit_amx_in_c
#define UNIT_PACKING 128 /* AMX's, in order to have its blocks */
#define TILES_BEGIN
#define TILES_END
#define TILES tile tiles[8]
#define TILE_ZERO(t) tile_zero(&tiles[t])
#define TILE_LOAD(t, words, ld) tile_load(&tiles[t], words, ld)
#define TILE_MULTIPLY(c, a, b) tile_multiply(&tiles[c], &tiles[a], &tiles[b])
#define TILE_STORE(t, words, ld) tile_store(&tiles[t], words, ld)

/* For packing, the vectors of any CPU. */
#define VW 4
#define REGISTERS 16
#define ISA_LOOPS "unit.inl"
#include "isa.inl"
