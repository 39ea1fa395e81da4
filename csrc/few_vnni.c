/* few_vnni.c: few rows by a weight in int8 on AVX-512 with VNNI, of Cascade Lake, Zen 4 and later.
 *
 * vpdpwssd multiplies 16 pairs of int16 and adds both products of a pair to a sum of 32 bits. That
 * is what AVX-512 alone does in two instructions, to the bit, so it is no set of its own:
 * dispatch.c puts it into the table of AVX-512 where the CPU has it. */
#if defined(__x86_64__)
#define ISA_TARGET "avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"
#define SIMD_AVX512
#define SIMD_VNNI
#define VW 16
#define REGISTERS 32
#define ISA_LOOPS "few_vnni.inl"
#include "isa.inl"
#endif
