/* this_isa.h: compiles the file ISA_LOOPS for the instruction set that the Makefile chose with
 * choose.c: it defines ISA_avx512, ISA_avx2 or ISA_any. An isa_*.c sets the vector width and the
 * tile, and compiles the rungs instead of the library's loops. */
#if defined(ISA_avx512)
#include "isa_avx512.c"
#elif defined(ISA_avx2)
#include "isa_avx2.c"
#elif defined(__aarch64__)
#include "isa_neon.c"
#else
#include "isa_baseline.c"
#endif
