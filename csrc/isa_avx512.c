/* isa_avx512.c: AVX-512, 32 registers of 16 floats: a tile of 6 x 64.
 * Only the width and the tile are set here; the code is in the *.inl, the same for every set. */
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "internal.h"

/* Headers come first: what they define inline must not get this target. */
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif

#define VW 16
#define MR 6
#define NV 4
#define REGISTERS 32
#define SIMD_AVX512
#define ISA_NAME "avx512"
#define ISA_TABLE isa_avx512
#include "isa.inl"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
