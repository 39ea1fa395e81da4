/* unit_amx.c: AMX, the tile unit of Xeons since 2023. Operations: unit_tiles.inl.
 *
 * Eight tile registers, tmm0 to tmm7, hold 16 rows of 64 bytes each. Their state is large (8 KB)
 * and belongs to the thread. A block of a product, or a part of attention, loads it at its start
 * and releases it at its end, within one function: no other code of the thread, no thread of
 * another library and no forked process meets it. A signal handler may interrupt that function; the
 * system then saves the tiles on the signal's stack and loads them again. That is why the process
 * must first ask for permission (units.c). */
#include "internal.h"
#ifdef X86_UNITS
#include <stdint.h>

/* What ldtilecfg reads: palette 1, and for each of the eight tiles the bytes of a row and rows. */
static const struct tile_shapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} shapes = {
    .palette = 1,
    .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16},
};
_Static_assert(sizeof(struct tile_shapes) == 64, "ldtilecfg reads 64 bytes");

#define UNIT_NAME "amx"
#define UNIT_TABLE unit_amx
/* In half a cycle AMX computes 256 products at its peak, of which 128 are likely. Estimated, not
 * measured. */
#define UNIT_PACKING 128
#define TILES_BEGIN _tile_loadconfig(&shapes)
#define TILES_END _tile_release()
/* The registers need no declaration. But GCC's intrinsics do not say that they read memory, so the
 * packed operands must be there before the first load; the shapes are constants for that reason.
 * The parentheses around `words` are missing in the macros of some compilers. */
#define TILES __asm__ volatile("" ::: "memory")
#define TILE_ZERO(t) _tile_zero(t)
#define TILE_LOAD(t, words, ld) _tile_loadd(t, (words), 4 * (ld))
#define TILE_MULTIPLY(c, a, b) _tile_dpbf16ps(c, a, b)
#define TILE_STORE(t, words, ld) _tile_stored(t, (words), 4 * (ld))

#define ISA_TARGET "amx-tile,amx-bf16,avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"
#define SIMD_AVX512
#define SIMD_AVX512_BF16
#define VW 16
#define REGISTERS 32
#define ISA_LOOPS "unit.inl"
#include "isa.inl"
#endif
