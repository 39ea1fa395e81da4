/* spin.c: measures one round of the loop in which a thread of GCC's OpenMP waits.
 *
 * The runtime lets a waiting thread spin for a number of rounds before it sleeps. A round reads
 * the awaited place and, on x86, executes PAUSE, which takes from 10 to some 140 cycles by
 * processor. So a number of rounds is not a time. The runtime reads the number once, when it is
 * loaded. A time can therefore be turned into rounds only before that, by a module that is apart
 * from the kernels and does not use OpenMP. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <time.h>

#define ROUNDS 500
#define MOST_ROUNDS 1000000
#define ENOUGH 10e-6 /* seconds */
#define TRIES 5 /* the shortest counts, because an interrupt can only lengthen one */

static void wait_a_little(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    __asm__ volatile("" ::: "memory");
#endif
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static PyObject *round_seconds(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    volatile int awaited = 0;
    double least = 1.0;
    for (int i = 0, rounds = ROUNDS; i < TRIES && rounds < MOST_ROUNDS; i++) {
        const double start = now();
        for (int k = 0; k < rounds && !awaited; k++) wait_a_little();
        const double taken = now() - start;
        if (taken >= ENOUGH && taken / rounds < least) least = taken / rounds;
        if (taken < ENOUGH) rounds *= 2, i = -1; /* too short for a coarse clock */
    }
    return PyFloat_FromDouble(least);
}

static PyMethodDef methods[] = {
    {"round_seconds", round_seconds, METH_NOARGS, "Measure the seconds of one round of waiting."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "pygpt._spin", .m_size = 0, .m_methods = methods,
};

PyMODINIT_FUNC PyInit__spin(void) { return PyModule_Create(&module); }
