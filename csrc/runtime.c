/* runtime.c: allocates memory, counts threads, holds the sizes of the caches, and tells how the
 * library was built. */
#include <stdatomic.h>
#include <stdlib.h>
#ifdef __linux__
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

#include "internal.h"

/* Blocks of this size and more are aligned to it, and the operating system is asked to back them
 * with huge pages: one entry of the TLB then covers as much memory as 512 entries did. */
#define HUGE_PAGE ((int64_t)2 << 20)

/* The NUMA nodes over which large blocks are spread, one bit each; 0: none are. */
static unsigned long nodes;

/* Spreads the pages of a block over the nodes in turn; returns 0 if the system does so. Without
 * this a page lies on the node of the thread that writes to it first: weights are filled in by one
 * thread, so one node's memory would serve all others. A thread takes any part of any tensor, so no
 * node is the right one for a page. */
static long spread(void *memory, int64_t bytes) {
#ifdef SYS_mbind
    const unsigned long MPOL_INTERLEAVE = 3;
    return syscall(SYS_mbind, memory, (unsigned long)bytes, MPOL_INTERLEAVE, &nodes,
                   8 * sizeof nodes + 1, 0UL);
#else
    (void)memory, (void)bytes;
    return -1;
#endif
}

/* The size of this thread's last allocation, if it failed and was not reported yet; else 0. */
static _Thread_local int64_t refused;

void *pygpt_alloc(int64_t bytes) {
    refused = bytes;
    if (bytes < 0 || bytes > INT64_MAX - HUGE_PAGE) return NULL;
    int64_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
    int64_t size = max64((bytes + align - 1) / align * align, align);
    /* Huge pages are advised only as far as they are full: of the last page, which may be partly
     * used, only the used part becomes resident. */
    void *memory = aligned_alloc((size_t)align, (size_t)size);
#ifdef MADV_HUGEPAGE
    int64_t huge_bytes = bytes / HUGE_PAGE * HUGE_PAGE;
    if (memory && align == HUGE_PAGE) madvise(memory, (size_t)huge_bytes, MADV_HUGEPAGE);
#endif
    if (memory && align == HUGE_PAGE && nodes) spread(memory, size);
    if (memory) refused = 0;
    return memory;
}

int64_t pygpt_refused_bytes(void) {
    int64_t bytes = refused;
    refused = 0;
    return bytes;
}

void pygpt_free(void *memory) { free(memory); }

int pygpt_set_nodes(uint64_t mask) {
    /* With fewer than two nodes the system isn't asked: Android ends a process that asks. */
    nodes = 0;
    if ((mask & (mask - 1)) == 0) return 0;
    int policy = -1; /* whoever has set one for this process (numactl) keeps it */
#ifdef SYS_get_mempolicy
    if (syscall(SYS_get_mempolicy, &policy, NULL, 0UL, NULL, 0UL) != 0) policy = -1;
#endif
    if (policy != 0) return 0;
    nodes = (unsigned long)mask;
    /* Try it: a container may forbid the call. */
    void *block = pygpt_alloc(HUGE_PAGE);
    if (block && spread(block, HUGE_PAGE) != 0) nodes = 0;
    pygpt_free(block);
    return nodes != 0;
}

/* ---------------------------------------------------------------------------------- scratch --- */

/* The free list of scratch buffers is the only memory that the library keeps between calls. A
 * returned block waits in a slot, with its size in front; its contents are never read again. The
 * list has at most SLOTS blocks, none larger than the largest that a call asked for. When one
 * Python thread calls kernels, two blocks are in use at once. No call frees them, because the next
 * training step or token needs them.
 *
 * A caller takes a block out of its slot with an atomic exchange and then owns it alone, so any
 * number of callers may take and give at once. A block is put only into an empty slot (compare and
 * exchange); a caller that finds the slot filled in the meantime frees the block. */
#define SLOTS 8
#define HEADER 16 /* floats in front of a block: its size, and the alignment */
static _Atomic(float *) slots[SLOTS];

static int64_t block_size(const float *block) { return *(const int64_t *)block; }

float *scratch_take(int64_t floats) {
    for (int i = 0; i < SLOTS; i++) {
        float *block = atomic_exchange(&slots[i], NULL);
        if (!block) continue;
        if (block_size(block) >= floats) return block + HEADER;
        float *expected = NULL;
        if (!atomic_compare_exchange_strong(&slots[i], &expected, block)) pygpt_free(block);
    }
    if (floats > (INT64_MAX >> 3)) {
        refused = INT64_MAX;
        return NULL;
    }
    float *block = pygpt_alloc((floats + HEADER) * (int64_t)sizeof(float));
    if (!block) return NULL;
    *(int64_t *)block = floats;
    return block + HEADER;
}

void scratch_give(float *scratch) {
    if (!scratch) return;
    float *block = scratch - HEADER;
    /* Put the block into an empty slot; if all are full, let it replace a smaller one. */
    for (int i = 0; i < SLOTS; i++) {
        float *expected = NULL;
        if (atomic_compare_exchange_strong(&slots[i], &expected, block)) return;
    }
    for (int i = 0; i < SLOTS; i++) {
        float *other = atomic_exchange(&slots[i], NULL);
        if (other && block_size(other) < block_size(block)) {
            float *swap = other;
            other = block;
            block = swap;
        }
        float *expected = NULL;
        if (other && !atomic_compare_exchange_strong(&slots[i], &expected, other))
            pygpt_free(other);
    }
    pygpt_free(block);
}

/* ---------------------------------------------------------------------------------- threads --- */

static atomic_int num_threads = 1;

void pygpt_set_num_threads(int n) {
    if (n < 1) n = 1;
    if (n > PYGPT_MAX_THREADS) n = PYGPT_MAX_THREADS;
    atomic_store(&num_threads, n);
}

int pygpt_get_num_threads(void) {
#ifdef _OPENMP
    return atomic_load(&num_threads);
#else
    return 1;
#endif
}

/* A parallel region costs a few microseconds to enter and leave; from this many operations on, two
 * threads repay that. A job then uses all threads, even if some have no work, because GCC's OpenMP
 * keeps the team of the last region: for a smaller region it ends threads, which the next larger
 * region starts again. On two cores, empty regions of alternately 2 and 3 threads took 54 to
 * 102 us each; regions that all had 3 threads took 21 to 38 us. */
#define WORTH_THREADS 4e5

static atomic_int share_all;
/* The fewest and the most threads that shared a job since the last call of pygpt_sharing; 0: there
 * was no job. */
static atomic_int fewest, most;

void pygpt_share_all(int on) { atomic_store(&share_all, on); }

void pygpt_sharing(int *least, int *greatest) {
    *least = atomic_exchange(&fewest, 0);
    *greatest = atomic_exchange(&most, 0);
}

static int worth(double operations, int threads) {
    return operations < WORTH_THREADS && !atomic_load(&share_all) ? 1 : threads;
}

int worth_threads(double operations) { return worth(operations, pygpt_get_num_threads()); }

int pygpt_threads_for(double operations, int64_t parts, int threads) {
    return parts < 2 ? 1 : worth(operations, threads);
}

void note_sharing(int threads, int64_t parts) {
    const int sharing = (int)max64(1, min64(threads, parts));
    int seen = atomic_load(&fewest);
    while ((seen == 0 || sharing < seen) && !atomic_compare_exchange_weak(&fewest, &seen, sharing));
    seen = atomic_load(&most);
    while (sharing > seen && !atomic_compare_exchange_weak(&most, &seen, sharing));
}

int threads_for(double operations, int64_t parts) {
    const int threads = pygpt_threads_for(operations, parts, pygpt_get_num_threads());
    note_sharing(threads, parts);
    return threads;
}

int thread_number(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

int64_t chunk_for(int64_t total, int64_t least, int threads) {
    int64_t chunk = threads == 1 ? total : (total + 4 * threads - 1) / (4 * threads);
    return max64(max64(chunk, least), 1);
}

int64_t pygpt_chunk(int64_t total, int64_t least, int threads) {
    return chunk_for(total, least, threads);
}

/* ------------------------------------------------------------------------------- the caches --- */

/* Until Python has asked the system (pygpt/backend/cpu.py), sizes that nearly every CPU has. */
caches caches_in_use = {32 << 10, 512 << 10};

void pygpt_set_caches(int64_t l1, int64_t l2) { caches_in_use = (caches){l1, l2}; }

/* -------------------------------------------------------------------------------- the build --- */

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

const char *pygpt_compiler(void) {
#if defined(__clang__)
    return "clang " TEXT(__clang_major__) "." TEXT(__clang_minor__) "." TEXT(__clang_patchlevel__);
#elif defined(__GNUC__)
    return "gcc " TEXT(__GNUC__) "." TEXT(__GNUC_MINOR__) "." TEXT(__GNUC_PATCHLEVEL__);
#else
    return "unknown";
#endif
}

int pygpt_openmp(void) {
#ifdef _OPENMP
    return _OPENMP;
#else
    return 0;
#endif
}
