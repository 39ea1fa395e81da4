/* simd.h: defines one vector type and its few operations, for one instruction set.
 *
 * An isa_*.c defines VW (floats in a vector) and includes this file; every *.inl is written in
 * these terms only. Arithmetic uses the vector extensions of GCC and Clang: a + b and a * b work on
 * vectors directly, and a * b + c becomes one fused multiply-add under -ffp-contract=fast.
 * Intrinsics are used only where the extensions lack an operation (max, select by mask) and the
 * generic form was slow.
 */
#ifndef SIMD_H
#define SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

typedef float vf __attribute__((vector_size(4 * VW)));
typedef int32_t vi __attribute__((vector_size(4 * VW)));
typedef uint32_t vu __attribute__((vector_size(4 * VW)));
typedef float half_vf __attribute__((vector_size(2 * VW), may_alias, aligned(4)));
typedef double vd __attribute__((vector_size(4 * VW)));
typedef float vf_unaligned __attribute__((vector_size(4 * VW), may_alias, aligned(4)));
typedef float vf_bytes __attribute__((vector_size(4 * VW), may_alias, aligned(1)));

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))

/* Unrolls a short loop with a constant bound completely, which keeps a tile in registers. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

INLINE vf vload(const float *p) { return *(const vf_unaligned *)p; }
INLINE void vstore(float *p, vf x) { *(vf_unaligned *)p = x; }
/* Loads 4 VW bytes from any address, such as the pairs of bfloat16 numbers of an odd row. */
INLINE vf vload_bytes(const void *p) { return *(const vf_bytes *)p; }
/* Loads VW / 2 floats as doubles. */
INLINE vd vload_double(const float *p) { return __builtin_convertvector(*(const half_vf *)p, vd); }
INLINE vf vset1(float x) { return x - (vf){0}; }
INLINE vi vset1i(int32_t x) { return x - (vi){0}; }
INLINE vf vzero(void) { return (vf){0}; }

/* Returns x, which the compiler then holds in a register: it no longer knows where x comes from. */
INLINE vf vkeep(vf x) {
#if defined(SIMD_AVX512)
    __asm__("" : "+v"(x));
#elif defined(__x86_64__)
    __asm__("" : "+x"(x));
#elif defined(__aarch64__)
    __asm__("" : "+w"(x));
#endif
    return x;
}

/* Load and store the first n lanes, 0 <= n <= VW. The other lanes load as 0 and are not stored. */
#if defined(SIMD_AVX512)
INLINE vf vload_n(const float *p, int64_t n) {
    return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
INLINE void vstore_n(float *p, vf x, int64_t n) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)x);
}
/* Return b where a or b is NaN, as x86 does, so that vmax(constant, x) keeps a NaN in x. */
INLINE vf vmax(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vf vmin(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
/* Selects a < b ? x : y lane by lane. The comparison is false where a or b is NaN. */
INLINE vf vselect_lt(vf a, vf b, vf x, vf y) {
    return (vf)_mm512_mask_blend_ps(_mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ),
                                    (__m512)y, (__m512)x);
}
INLINE vf vselect_lt_u32(vu a, vu b, vf x, vf y) {
    return (vf)_mm512_mask_blend_ps(_mm512_cmplt_epu32_mask((__m512i)a, (__m512i)b), (__m512)y,
                                    (__m512)x);
}
INLINE vf vsqrt(vf x) { return (vf)_mm512_sqrt_ps((__m512)x); }
#else
INLINE vf vload_n(const float *p, int64_t n) {
    if (n == VW) return vload(p);
    float lanes[VW] = {0};
    for (int64_t i = 0; i < n; i++) lanes[i] = p[i];
    return vload(lanes);
}
INLINE void vstore_n(float *p, vf x, int64_t n) {
    if (n == VW) {
        vstore(p, x);
        return;
    }
    float lanes[VW];
    vstore(lanes, x);
    for (int64_t i = 0; i < n; i++) p[i] = lanes[i];
}
INLINE vf vblend(vi mask, vf x, vf y) { return (vf)((mask & (vi)x) | (~mask & (vi)y)); }
INLINE vf vselect_lt(vf a, vf b, vf x, vf y) { return vblend((vi)(a < b), x, y); }
INLINE vf vselect_lt_u32(vu a, vu b, vf x, vf y) { return vblend((vi)(a < b), x, y); }
#if defined(SIMD_AVX2)
INLINE vf vmax(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vf vmin(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE vf vsqrt(vf x) { return (vf)_mm256_sqrt_ps((__m256)x); }
#else
#if defined(__SSE__) && VW == 4
INLINE vf vmax(vf a, vf b) { return (vf)_mm_max_ps((__m128)a, (__m128)b); }
INLINE vf vmin(vf a, vf b) { return (vf)_mm_min_ps((__m128)a, (__m128)b); }
#else
INLINE vf vmax(vf a, vf b) { return vblend((vi)(a > b), a, b); }
INLINE vf vmin(vf a, vf b) { return vblend((vi)(a < b), a, b); }
#endif
INLINE vf vsqrt(vf x) {
    float lanes[VW];
    vstore(lanes, x);
    for (int i = 0; i < VW; i++) lanes[i] = sqrtf(lanes[i]);
    return vload(lanes);
}
#endif
#endif

/* Rounds to bfloat16, the upper half of a float, to the nearest, ties to even. Just under half of
 * the last bit that stays is added, and one more when that bit is 1: this carries into the bit
 * exactly when it must grow, and the carry may run on up to infinity. A NaN keeps its upper half,
 * with the bit set that makes it quiet. */
INLINE vf vbfloat16(vf x) {
    const vu bits = (vu)x;
    const vf rounded = (vf)((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000u);
    const vf nan = (vf)((bits & 0xFFFF0000u) | 0x00400000u);
    const vi is_number = x == x;
    return (vf)((is_number & (vi)rounded) | (~is_number & (vi)nan));
}

/* Load bfloat16 numbers, which are the upper halves of floats, and store floats rounded to them; _n
 * as of vload_n and vstore_n. */
typedef uint16_t vh __attribute__((vector_size(2 * VW)));
typedef uint16_t vh_unaligned __attribute__((vector_size(2 * VW), may_alias, aligned(2)));
INLINE vf vload_half(const uint16_t *p) {
    return (vf)(__builtin_convertvector(*(const vh_unaligned *)p, vu) << 16);
}
INLINE void vstore_half(uint16_t *p, vf x) {
    *(vh_unaligned *)p = __builtin_convertvector((vu)vbfloat16(x) >> 16, vh);
}
INLINE vf vload_half_n(const uint16_t *p, int64_t n) {
    if (n == VW) return vload_half(p);
    uint16_t lanes[VW] = {0};
    for (int64_t i = 0; i < n; i++) lanes[i] = p[i];
    return vload_half(lanes);
}
INLINE void vstore_half_n(uint16_t *p, vf x, int64_t n) {
    if (n == VW) {
        vstore_half(p, x);
        return;
    }
    uint16_t lanes[VW];
    vstore_half(lanes, x);
    for (int64_t i = 0; i < n; i++) p[i] = lanes[i];
}

/* The same by the form in memory: bfloat16 with `half`, else float32. `at` counts numbers from x.
 */
INLINE vf vload_as(const void *x, int64_t at, int half) {
    return half ? vload_half((const uint16_t *)x + at) : vload((const float *)x + at);
}
INLINE vf vload_as_n(const void *x, int64_t at, int half, int64_t n) {
    return half ? vload_half_n((const uint16_t *)x + at, n) : vload_n((const float *)x + at, n);
}
INLINE void vstore_as(void *x, int64_t at, int half, vf v) {
    if (half)
        vstore_half((uint16_t *)x + at, v);
    else
        vstore((float *)x + at, v);
}
INLINE void vstore_as_n(void *x, int64_t at, int half, vf v, int64_t n) {
    if (half)
        vstore_half_n((uint16_t *)x + at, v, n);
    else
        vstore_n((float *)x + at, v, n);
}

/* vsum adds the lanes pairwise by halves, in a fixed order; vmax_lanes finds the largest lane. */
#if defined(SIMD_AVX512)
INLINE float vsum(vf x) { return _mm512_reduce_add_ps((__m512)x); }
INLINE float vmax_lanes(vf x) { return _mm512_reduce_max_ps((__m512)x); }
#else
INLINE float vsum(vf x) {
    float lanes[VW];
    vstore(lanes, x);
    for (int step = VW / 2; step > 0; step /= 2)
        for (int i = 0; i < step; i++) lanes[i] += lanes[i + step];
    return lanes[0];
}
INLINE float vmax_lanes(vf x) {
    float lanes[VW];
    vstore(lanes, x);
    float best = lanes[0];
    for (int i = 1; i < VW; i++) best = lanes[i] > best ? lanes[i] : best;
    return best;
}
#endif

/* Transposes a VW x VW square in log2(VW) rounds. Round d exchanges elements that are `d` rows and
 * `d` lanes apart: lane l of the upper row stays as it is when bit d of l is clear, and takes lane
 * l - d of the lower row when it is set. Lane l of the lower row stays as it is when bit d of l is
 * set, and takes lane l + d of the upper row when it is clear. */
#if VW == 16
#define LANES(f, d) f(0, d), f(1, d), f(2, d), f(3, d), f(4, d), f(5, d), f(6, d), f(7, d), \
                    f(8, d), f(9, d), f(10, d), f(11, d), f(12, d), f(13, d), f(14, d), f(15, d)
#elif VW == 8
#define LANES(f, d) f(0, d), f(1, d), f(2, d), f(3, d), f(4, d), f(5, d), f(6, d), f(7, d)
#else
#define LANES(f, d) f(0, d), f(1, d), f(2, d), f(3, d)
#endif
#define UPPER(l, d) ((l) & (d) ? VW + (l) - (d) : (l))
#define LOWER(l, d) ((l) & (d) ? VW + (l) : (l) + (d))
#if defined(__clang__)
#define SHUFFLE(a, b, f, d) __builtin_shufflevector(a, b, LANES(f, d))
#else
#define SHUFFLE(a, b, f, d) __builtin_shuffle(a, b, (vi){LANES(f, d)})
#endif
/* clang-format off */
#define TRANSPOSE_ROUND(d)                                              \
    UNROLL for (int i = 0; i < VW; i++) if (!(i & (d))) {               \
        vf upper = rows[i], lower = rows[i + (d)];                      \
        rows[i] = SHUFFLE(upper, lower, UPPER, d);                      \
        rows[i + (d)] = SHUFFLE(upper, lower, LOWER, d);                \
    }
INLINE void vtranspose(vf rows[VW]) {
    TRANSPOSE_ROUND(1)
    TRANSPOSE_ROUND(2)
#if VW > 4
    TRANSPOSE_ROUND(4)
#endif
#if VW > 8
    TRANSPOSE_ROUND(8)
#endif
}
/* clang-format on */

/* Returns p * 2^n. n is given twice: as floats, and as the integers `bits`. */
#if defined(SIMD_AVX512)
INLINE vf vscale(vf p, vf n, vi bits) {
    (void)bits;
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)n);
}
#else
INLINE vf vscale(vf p, vf n, vi bits) {
    (void)n;
    vi half = bits >> 1;
    return p * (vf)((half + 127) << 23) * (vf)((bits - half + 127) << 23);
}
#endif

/* Returns exp(x), at most 2 ulp off for x in [-87, 88]; 0 below -87, inf above 88.72; a NaN stays.
 *
 * x = n ln 2 + r with n the nearest integer, so |r| <= ln 2 / 2, and exp(x) = 2^n exp(r).
 *   - n: adding 1.5 * 2^23 pushes the fraction out of the mantissa and leaves n in its low bits.
 *   - r: ln 2 is split in two so that n * LN2_HI is exact.
 *   - exp(r): 1 + r + c2 r^2 + .. + c6 r^6, fitted to the least relative error over the
 *     interval, 3e-9.
 *   - 2^n: AVX-512 has an instruction for it; others multiply by two halves, because 2^128 is not
 *     a float. */
INLINE vf vexp(vf x) {
    const float LOG2E = 1.44269504088896341f, LN2_HI = 0.693359375f, LN2_LO = -2.12194440e-4f;
    const float SHIFT = 12582912.0f;
    vf clamped = vmin(vset1(89.0f), vmax(vset1(-87.0f), x)); /* no denormal arises */
    vf shifted = clamped * LOG2E + SHIFT;
    vf n = shifted - SHIFT;
    vf r = clamped - n * LN2_HI;
    r = r - n * LN2_LO;
    vf p = vset1(1.381459633e-3f);
    p = p * r + 8.368717091e-3f;
    p = p * r + 4.166838809e-2f;
    p = p * r + 1.666652063e-1f;
    p = p * r + 4.999999345e-1f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    p = vscale(p, n, (vi)shifted - (vi)vset1(SHIFT));
    return vselect_lt(x, vset1(-87.0f), vzero(), p);
}

/* Returns log(x) for normal x > 0, within 2 ulp or 2^-24. x = 2^n m, with m in
 * [sqrt(1/2), sqrt(2)), and log m = 2 atanh f with f = (m - 1)/(m + 1), |f| < 0.172:
 * 2 (f + f^3/3 + f^5/5 + f^7/7 + f^9/9). */
INLINE vf vlog(vf x) {
    const int32_t SQRT_HALF = 0x3f3504f3;
    vi n = ((vi)x - SQRT_HALF) >> 23;
    vf m = (vf)((vi)x - (n << 23));
    vf f = (m - 1.0f) / (m + 1.0f), f2 = f * f;
    vf p = f2 * (2.0f / 9) + 2.0f / 7;
    p = p * f2 + 2.0f / 5;
    p = p * f2 + 2.0f / 3;
    vf shifted = (vf)(n + (vi)vset1(12582912.0f)); /* the float 1.5 * 2^23 + n */
    vf exponent = shifted - 12582912.0f;           /* the float n */
    return exponent * 0.69314718055994531f + (f * 2.0f + f * f2 * p) + (x - x); /* NaN stays NaN */
}

/* GPT-2's GELU needs no tanh: 0.5 (1 + tanh(u)) = 1 / (1 + exp(-2u)) =: s(x), so that
 *   gelu(x)  = x s,                           u(x) = sqrt(2/pi) (x + 0.044715 x^3)
 *   gelu'(x) = s + x s (1 - s) 2 u'(x),       u'(x) = sqrt(2/pi) (1 + 3 * 0.044715 x^2)
 *
 * Far below 0 both shrink as exp(2u) does, and the argument 2u is off by a few roundings: that is a
 * relative error in proportion to |u|, of a result that has almost vanished. These bounds on the
 * error are asserted in tests/test_simd.py:
 *
 *   x in     below -9.5   [-9.5, -6]   [-6, -3]   [-3, -1]   [-1, 1]   above 1
 *   gelu     1e-30        200 ulp      70 ulp     16 ulp     3 ulp     3 ulp
 *   gelu'    1e-30        200 ulp      70 ulp     16 ulp     2^-23     40 * 2^-24
 *
 * Besides, the error of gelu below 0 is nowhere more than 2^-24. (Below -9.5, 1e-30 is larger than
 * the results themselves. Above 1, the rounding of s is a large part of 1 - s, which 2 x u'
 * multiplies by up to 35 at x = 5.) */
#define GELU_K 0.7978845608028654f
#define GELU_C 0.044715f
INLINE vf gelu_gate(vf x) {
    vf u2 = x * (2 * GELU_K + (2 * GELU_K * GELU_C) * (x * x));
    return 1.0f / (1.0f + vexp(-u2));
}
/* Returns gelu(x), within the bounds above. */
INLINE vf vgelu(vf x) { return x * gelu_gate(x); }
/* Returns gelu'(x) and sets gelu(x), both within the bounds above. */
INLINE vf vgelu_slope(vf x, vf *gelu) {
    vf c = vmin(vset1(16.0f), vmax(vset1(-16.0f), x)); /* 1 or 0 beyond; c^2 stays finite */
    vf s = gelu_gate(c);
    *gelu = x * s;
    return s + c * s * (1.0f - s) * (2 * GELU_K + (6 * GELU_K * GELU_C) * (c * c));
}

/* Vectors of 2 VW and of VW int16. */
typedef int16_t vs __attribute__((vector_size(4 * VW)));
typedef int16_t vs_unaligned __attribute__((vector_size(4 * VW), may_alias, aligned(2)));
typedef int16_t half_vs __attribute__((vector_size(2 * VW)));
typedef int8_t vb_unaligned __attribute__((vector_size(2 * VW), may_alias, aligned(1)));

INLINE vs vload_int16(const int16_t *p) { return *(const vs_unaligned *)p; }
/* Loads 2 VW int8 as int16. */
INLINE vs vload_int8(const int8_t *p) {
#if defined(SIMD_AVX512)
    return (vs)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const void *)p));
#elif defined(SIMD_AVX2)
    return (vs)_mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)p));
#else
    return __builtin_convertvector(*(const vb_unaligned *)p, vs);
#endif
}
/* Returns in lane l a[2l] b[2l] + a[2l+1] b[2l+1], which must fit in 32 bits. */
INLINE vi vpair_sums(vs a, vs b) {
#if defined(SIMD_AVX512)
    return (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(SIMD_AVX2)
    return (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
    const vi x = (vi)a, y = (vi)b; /* pairs: one number in the lower half, one in the upper */
    const vi lower = ((vi)((vu)x << 16) >> 16) * ((vi)((vu)y << 16) >> 16);
    return lower + (x >> 16) * (y >> 16);
#endif
}

/* Returns total + vpair_sums(a, b). VNNI does both at once, with the same result, as both are of
 * whole numbers. */
INLINE vi vadd_pair_sums(vi total, vs a, vs b) {
#if defined(SIMD_VNNI)
    return (vi)_mm512_dpwssd_epi32((__m512i)total, (__m512i)a, (__m512i)b);
#else
    return total + vpair_sums(a, b);
#endif
}

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

#endif
