/* few_vnni.inl: compiles the loops of few_vnni.c, and lists them. */
#include "few_rows.inl"
#include "few_int8.inl"

extern const few_rows_loops few_rows_vnni;
const few_rows_loops few_rows_vnni = {.arrange = arrange_int8, .part = int8_part};
