/* choose.c: prints the first of the named instruction sets (avx512, avx2, any) that this CPU has,
 * or says that it has none of them. The Makefile then compiles a ladder for that set alone. */
#include <stdio.h>
#include <string.h>

static int cpu_has(const char *set) {
#if defined(__x86_64__)
    if (strcmp(set, "avx512") == 0)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (strcmp(set, "avx2") == 0)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return strcmp(set, "any") == 0;
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        if (cpu_has(argv[i])) {
            puts(argv[i]);
            return 0;
        }
    fprintf(stderr, "ladder: this CPU has none of:");
    for (int i = 1; i < argc; i++) fprintf(stderr, " %s", argv[i]);
    fprintf(stderr, "\n");
    return 1;
}
