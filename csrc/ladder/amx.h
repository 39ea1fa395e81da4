/* amx.h: declares rung 8 of the matrix product's ladder, as amx_rung.inl is compiled by amx.c, if
 * the compiler knows AMX (X86_UNITS of internal.h), and by amx_in_c.c. C (M,N) = A (M,K) B (K,N),
 * row-major, A and B rounded to bfloat16. c is overwritten. */
#ifndef AMX_H
#define AMX_H

#include "internal.h"

void amx_product(float *c, const float *a, const float *b, int64_t M, int64_t N, int64_t K);
void amx_in_c_product(float *c, const float *a, const float *b, int64_t M, int64_t N, int64_t K);

#endif
