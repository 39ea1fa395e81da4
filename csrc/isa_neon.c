/* isa_neon.c: NEON, 32 registers of 4 floats: a tile of 6 x 16.
 * Only the width and the tile are set here; the code is in the *.inl, the same for every set. */
#if defined(__aarch64__)

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "internal.h"

#define VW 4
#define MR 6
#define NV 4
#define REGISTERS 32

#define ISA_NAME "neon"
#define ISA_TABLE isa_neon
#include "isa.inl"

#endif
