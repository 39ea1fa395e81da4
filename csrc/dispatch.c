/* dispatch.c: chooses the instruction set whose table of inner loops the kernels use.
 *
 * The tables are listed best first. The default is the first that this CPU and the operating system
 * support, as the system must save the wider registers. Tests force each of the others. */
#include <stddef.h>

#include "internal.h"

#if defined(__x86_64__) || defined(__i386__)
extern const isa isa_avx512, isa_avx2;
static int has_avx512(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
static int has_avx2(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif
#if defined(__aarch64__)
extern const isa isa_neon;
#endif
extern const isa isa_baseline;
static int always(void) { return 1; }

static const struct {
    const isa *table;
    int (*supported)(void);
} built[] = {
#if defined(__x86_64__) || defined(__i386__)
    {&isa_avx512, has_avx512},
    {&isa_avx2, has_avx2},
#endif
#if defined(__aarch64__)
    {&isa_neon, always},
#endif
    {&isa_baseline, always},
};
#define BUILT ((int)(sizeof built / sizeof *built))

const isa *isa_in_use = &isa_baseline;

const char *pygpt_isa_name(int i) { return i >= 0 && i < BUILT ? built[i].table->name : NULL; }

int pygpt_isa_supported(int i) { return i >= 0 && i < BUILT && built[i].supported(); }

void pygpt_tile(int64_t *rows, int64_t *columns, int i) {
    const isa *set = i >= 0 && i < BUILT ? built[i].table : isa_in_use;
    *rows = set->tile_rows;
    *columns = set->tile_columns;
}

int pygpt_isa_select(int i) {
    if (i < 0) {
        for (i = 0; !built[i].supported(); i++) {}
    } else if (!pygpt_isa_supported(i)) {
        for (i = 0; built[i].table != isa_in_use; i++) {}
        return i;
    }
    isa_in_use = built[i].table;
    return i;
}
