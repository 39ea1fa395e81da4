/* isa_avx512.c: AVX-512, 32 registers of 16 floats: a tile of 6 x 64. Settings: isa.inl. */
#if defined(__x86_64__)
#define ISA_NAME "avx512"
#define ISA_TABLE isa_avx512
#define ISA_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"
#define SIMD_AVX512
#define VW 16
#define MR 6
#define NV 4
#define REGISTERS 32
#include "isa.inl"
#endif
