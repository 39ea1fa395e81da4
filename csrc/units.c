/* units.c: tells whether this CPU has a bfloat16 unit and the operating system lets us use it.
 *
 * A unit needs instructions of the CPU (CPUID) and registers that the operating system saves when
 * it switches threads (XCR0, which XGETBV reads). A virtual machine may show the first without the
 * second. AMX needs Linux's permission besides, once per process, because its registers take 8 KB
 * of a signal's frame: arch_prctl(ARCH_REQ_XCOMP_PERM, 18). Linux gives it to all threads of the
 * process, and a forked child inherits it. Linux refuses where a thread has an alternative signal
 * stack that is too small for such a frame; kernels before 5.16 and some sandboxes do not know the
 * call. Asking twice is harmless, so nothing is remembered here. The question is asked when the
 * library looks for its best set, so a later signal stack must have room for that frame too: a size
 * from sysconf(_SC_SIGSTKSZ) has. */
#include <errno.h>

#include "internal.h"

#define AMX_STATE (3u << 17) /* of XCR0: the shapes and the contents of the tiles */

const char *pygpt_amx_refusal(int in_cpu, uint64_t saved, int error) {
    if (!in_cpu) return LACKING;
    if ((saved & AMX_STATE) != AMX_STATE) return "the operating system does not save its registers";
    if (error == ENOSPC) return "a signal stack of this process is too small for its registers";
    if (error) return "the operating system does not permit it (arch_prctl)";
    return NULL;
}

#ifdef X86_UNITS
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define AMX_BF16 (1u << 22)    /* leaf 7, EDX */
#define AMX_TILE (1u << 24)
#define AVX512_BF16 (1u << 5)  /* leaf 7, part 1, EAX */
#define OSXSAVE (1u << 27)     /* leaf 1, ECX: XGETBV may be used */

typedef struct cpuid_leaf {
    unsigned eax, ebx, ecx, edx;
} cpuid_leaf;

static cpuid_leaf leaf(unsigned number, unsigned part) {
    cpuid_leaf x = {0, 0, 0, 0};
    if (!__get_cpuid_count(number, part, &x.eax, &x.ebx, &x.ecx, &x.edx))
        x = (cpuid_leaf){0, 0, 0, 0};
    return x;
}

static uint64_t saved_registers(void) {
    if (!(leaf(1, 0).ecx & OSXSAVE)) return 0;
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static int has_avx512_bf16(void) {
    return leaf(7, 0).eax >= 1 && (leaf(7, 1).eax & AVX512_BF16);
}

/* Asks for permission to use AMX. Returns 0, or the error. */
static int ask_for_amx(void) {
#if defined(__linux__) && defined(SYS_arch_prctl)
    const long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) ? errno : 0;
#else
    return ENOSYS;
#endif
}

/* The operands are converted by AVX512_BF16, which every CPU with AMX has. */
const char *amx_refused(void) {
    const unsigned bits = leaf(7, 0).edx;
    const int in_cpu = (bits & AMX_BF16) && (bits & AMX_TILE) && has_avx512_bf16();
    const uint64_t saved = in_cpu ? saved_registers() : 0;
    const int ask = (saved & AMX_STATE) == AMX_STATE;
    return pygpt_amx_refusal(in_cpu, saved, ask ? ask_for_amx() : 0);
}

const char *avx512_bf16_refused(void) { return has_avx512_bf16() ? NULL : LACKING; }
#endif
