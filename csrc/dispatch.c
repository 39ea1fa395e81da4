/* dispatch.c: chooses the instruction set whose table of inner loops the kernels use.
 *
 * The sets are listed best first. The default is the first that this CPU and the operating system
 * support, as the system must save the wider registers. Tests force each of the others.
 *
 * A set with a bfloat16 unit is a copy of the table of a set without one, to which the loops on the
 * unit are added. */
#include <stddef.h>

#include "internal.h"

#if defined(__x86_64__)
extern const isa isa_avx512, isa_avx2;
extern const few_rows_loops few_rows_vnni;
static const char *avx512_refused(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
               ? NULL : LACKING;
}
static const char *avx2_refused(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? NULL : LACKING;
}
#endif
#if defined(__aarch64__)
extern const isa isa_neon;
#endif
extern const isa isa_baseline;
static const char *never_refused(void) { return NULL; }

static const struct {
    const isa *table; /* NULL: that of the best set without a unit */
    const char *(*refused)(void);
    const bfloat16_unit *unit; /* or NULL; it gives the set its name */
} built[] = {
#ifdef X86_UNITS
    {&isa_avx512, amx_refused, &unit_amx},
    {&isa_avx512, avx512_bf16_refused, &unit_avx512_bf16},
#endif
#if defined(__x86_64__)
    {&isa_avx512, avx512_refused, NULL},
    {&isa_avx2, avx2_refused, NULL},
#endif
#if defined(__aarch64__)
    {&isa_neon, never_refused, NULL},
#endif
    {&isa_baseline, never_refused, NULL},
    {NULL, never_refused, &unit_amx_in_c},
};
#define BUILT ((int)(sizeof built / sizeof *built))

/* The number of the set in use. Before the first choice it is the baseline, the last but one. */
static int chosen = BUILT - 2;
const isa *isa_in_use = &isa_baseline;
/* The table in use, if parts were added to that of a set. */
static isa completed;

const char *pygpt_isa_name(int i) {
    if (i < 0 || i >= BUILT) return NULL;
    return built[i].unit ? built[i].unit->name : built[i].table->name;
}

const char *pygpt_isa_refused(int i) {
    if (i < 0 || i >= BUILT) return NULL;
#ifdef X86_UNITS
    /* A unit needs the rest of its set, too. */
    if (built[i].table == &isa_avx512 && avx512_refused()) return avx512_refused();
#endif
    return built[i].refused();
}

int pygpt_isa_has_unit(int i) { return i >= 0 && i < BUILT && built[i].unit; }

int pygpt_isa_supported(int i) { return i >= 0 && i < BUILT && !pygpt_isa_refused(i); }

/* Returns the table of the i-th set, still without a unit. */
static const isa *table_of(int i) {
    if (built[i].table) return built[i].table;
    for (i = 0; built[i].unit || !pygpt_isa_supported(i); i++) {}
    return built[i].table;
}

const char *pygpt_isa_loops(int i) {
    return i >= 0 && i < BUILT ? table_of(i)->name : NULL;
}

void pygpt_tile(int64_t *rows, int64_t *columns, int i) {
    const isa *set = i >= 0 && i < BUILT ? table_of(i) : isa_in_use;
    *rows = set->tile_rows;
    *columns = set->tile_columns;
}

/* Whether the products of int8 weights on this set may use VNNI (few_vnni.c). */
static int has_vnni(const isa *table) {
#if defined(__x86_64__)
    return table == &isa_avx512 && __builtin_cpu_supports("avx512vnni");
#else
    return table == NULL;
#endif
}

static void add_vnni(isa *table) {
#if defined(__x86_64__)
    table->few_rows[FEW_INT8] = few_rows_vnni;
#else
    (void)table;
#endif
}

static void add_unit(isa *table, const bfloat16_unit *unit) {
    table->name = unit->name;
    table->gemm_block_bf16 = unit->gemm_block;
    table->unit_packing = unit->packing;
    table->attention_bf16 = unit->attention;
    table->multiply_chain_bf16 = unit->chain;
}

int pygpt_isa_select(int i) {
    if (i < 0) {
        for (i = 0; !pygpt_isa_supported(i); i++) {}
    } else if (!pygpt_isa_supported(i)) {
        return chosen;
    }
    const isa *const table = table_of(i);
    const bfloat16_unit *const unit = built[i].unit;
    const int vnni = has_vnni(table);
    isa_in_use = table;
    if (unit || vnni) {
        completed = *table;
        if (vnni) add_vnni(&completed);
        if (unit) add_unit(&completed, unit);
        isa_in_use = &completed;
    }
    chosen = i;
    return i;
}
