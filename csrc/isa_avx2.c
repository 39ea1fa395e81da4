/* isa_avx2.c: AVX2 with FMA, 16 registers of 8 floats: a tile of 6 x 16. Settings: isa.inl. */
#if defined(__x86_64__)
#define ISA_NAME "avx2"
#define ISA_TABLE isa_avx2
#define ISA_TARGET "avx2,fma"
#define SIMD_AVX2
#define VW 8
#define MR 6
#define NV 2
#define REGISTERS 16
#include "isa.inl"
#endif
