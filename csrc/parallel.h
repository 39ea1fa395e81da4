/* parallel.h: opens parallel regions and shares out their work.
 *
 *     int threads = threads_for(operations, rows);
 *     PARALLEL(threads)
 *     #pragma omp for schedule(dynamic)
 *     for (int64_t r = 0; r < rows; r++) ...
 */
#ifndef PARALLEL_H
#define PARALLEL_H

#include <stdint.h>
#if defined(__x86_64__)
#define HAS_MXCSR
#include <xmmintrin.h>
#endif

/* Returns the number of threads for a job of about `operations` vector-friendly multiply-adds in at
 * most `parts` parts. It is 1 for small jobs, where starting more threads would cost more than they
 * save, and for a single part. Every parallel region takes its number of threads from here, so that
 * pygpt_sharing can report it. */
int threads_for(double operations, int64_t parts);

/* Do the same in two steps, for a job whose number of parts depends on the number of threads. */
int worth_threads(double operations);
void note_sharing(int threads, int64_t parts);

/* The calling thread's place in its team, 0 first. */
int thread_number(void);

/* Returns a length for the chunks of `total` units: each of `threads` threads gets several chunks,
 * but no chunk is shorter than `least` units. */
int64_t chunk_for(int64_t total, int64_t least, int threads);

/* PARALLEL(threads) STATEMENT runs STATEMENT in each of `threads` threads, with denormal numbers
 * flushed to 0.
 *
 * A denormal is a float below 2^-126 in size. Many CPUs take a hundred times as long for an
 * instruction that reads or makes one. They arise where numbers vanish: in the tails of a softmax
 * and of GELU, in the moments of embedding rows that no batch uses any more, in all gradients of a
 * batch that the model has memorised. Clamps would have to stand at each of these places. The
 * processor has a mode instead in which a denormal operand counts as 0 and a denormal result
 * becomes 0. Setting it takes some 20 cycles. It is set inside the region alone, so the caller's
 * own arithmetic, and the threads when other libraries use them, compute as before. STATEMENT must
 * not leave the block early. Arithmetic in it goes through isa_in_use, because a compiler may move
 * its own past the setting of the mode. */
#define PARALLEL(threads)                                                                   \
    PARALLEL_PRAGMA(omp parallel num_threads(threads))                                      \
    for (flushing mode_ = flush_denormals(); mode_.is_on; mode_ = restore_denormals(mode_))
#define PARALLEL_PRAGMA(text) _Pragma(#text)

typedef struct flushing {
    uint64_t before; /* the floating-point control register, to be restored */
    int is_on;
} flushing;

#ifdef HAS_MXCSR
#define FLUSH 0x8040u /* MXCSR: denormal results are 0, denormal operands are 0 */
static inline uint64_t control_register(void) { return _mm_getcsr(); }
static inline void set_control_register(uint64_t bits) { _mm_setcsr((unsigned)bits); }
#elif defined(__aarch64__)
#define FLUSH (1u << 24) /* FPCR.FZ: both */
static inline uint64_t control_register(void) {
    uint64_t bits;
    __asm__ volatile("mrs %0, fpcr" : "=r"(bits) : : "memory");
    return bits;
}
static inline void set_control_register(uint64_t bits) {
    __asm__ volatile("msr fpcr, %0" : : "r"(bits) : "memory");
}
#else
#define FLUSH 0u
static inline uint64_t control_register(void) { return 0; }
static inline void set_control_register(uint64_t bits) { (void)bits; }
#endif

static inline flushing flush_denormals(void) {
    flushing f = {control_register(), 1};
    set_control_register(f.before | FLUSH);
    return f;
}

static inline flushing restore_denormals(flushing f) {
    set_control_register(f.before);
    f.is_on = 0;
    return f;
}

#endif
