/* unit_avx512_bf16.c: AVX512_BF16, of Zen 4 and later, Cooper Lake, and Xeons with AMX. Operations:
 * unit_tiles.inl.
 *
 * vdpbf16ps adds the products of 16 pairs to 16 sums, first those of the upper halves and then
 * those of the lower halves, each as a fused multiply-add. It rounds to nearest even, takes
 * denormals as 0 and makes none, whatever MXCSR says (Intel's manual, volume 2, VDPBF16PS). */
#include "internal.h"
#ifdef X86_UNITS
#define UNIT_NAME "avx512_bf16"
#define UNIT_TABLE unit_avx512_bf16
#define UNIT_PACKING 32 /* products in half a cycle (Zen 5). Estimated, not measured */
#define TILES_BEGIN
#define TILES_END
#define PAIR_MULTIPLY(sums, x, y) \
    ((vf)_mm512_dpbf16_ps((__m512)(sums), (__m512bh)(x), (__m512bh)(y)))

#define ISA_TARGET "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"
#define SIMD_AVX512
#define SIMD_AVX512_BF16
#define VW 16
#define REGISTERS 32
#define ISA_LOOPS "unit.inl"
#include "isa.inl"
#endif
