/* amx_in_c.c: compiles amx_rung.inl for AMX's operations in plain C (unit_amx_in_c.c), which every
 * CPU can run. */
#include "ladder/amx.h"
#include "unit_amx_in_c.c"

#define TILES_PRODUCT amx_in_c_product
#undef ISA_LOOPS
#define ISA_LOOPS "ladder/amx_rung.inl"
#include "isa.inl"
