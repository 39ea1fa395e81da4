/* isa_avx2.c: AVX2 with FMA, 16 registers of 8 floats: a tile of 6 x 16.
 * Only the width and the tile are set here; the code is in the *.inl, the same for every set. */
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "internal.h"

/* Headers come first: what they define inline must not get this target. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define VW 8
#define MR 6
#define NV 2
#define REGISTERS 16
#define SIMD_AVX2
#define ISA_NAME "avx2"
#define ISA_TABLE isa_avx2
#include "isa.inl"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
