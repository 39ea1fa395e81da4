/* amx.c: compiles amx_rung.inl for AMX. The operations are those of unit_amx.c, whose tables of the
 * library's loops come along unused. */
#include "ladder/amx.h"
#include "unit_amx.c"

#ifdef X86_UNITS
#define TILES_PRODUCT amx_product
#undef ISA_LOOPS
#define ISA_LOOPS "ladder/amx_rung.inl"
#include "isa.inl"
#endif
