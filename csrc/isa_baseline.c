/* isa_baseline.c: any CPU that the compiler serves. On x86-64 these are 16 registers of 4 floats: a
 * tile of 6 x 8. Settings: isa.inl. */
#define ISA_NAME "baseline"
#define ISA_TABLE isa_baseline
#define VW 4
#define MR 6
#define NV 2
#define REGISTERS 16
#include "isa.inl"
