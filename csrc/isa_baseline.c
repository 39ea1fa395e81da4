/* isa_baseline.c: any CPU the compiler can serve; on x86-64 its 16 registers of 4 floats: a tile
 * of 6 x 8.
 * Only the width and the tile are set here; the code is in the *.inl, the same for every set. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "internal.h"

#define VW 4
#define MR 6
#define NV 2
#define REGISTERS 16

#define ISA_NAME "baseline"
#define ISA_TABLE isa_baseline
#include "isa.inl"

