/* isa_neon.c: NEON, 32 registers of 4 floats: a tile of 6 x 16. Settings: isa.inl. */
#if defined(__aarch64__)
#define ISA_NAME "neon"
#define ISA_TABLE isa_neon
#define VW 4
#define MR 6
#define NV 4
#define REGISTERS 32
#include "isa.inl"
#endif
