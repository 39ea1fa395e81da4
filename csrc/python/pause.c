/* pause.c: measures how long the processor's spin-wait instruction takes.
 *
 * GCC's OpenMP lets a waiting thread spin a given number of rounds before it sleeps. A round is one
 * such instruction, PAUSE on x86: some 10 to 140 cycles, by processor. The runtime reads the number
 * once, when it is loaded, so the time must be known before: this module is apart from the kernels
 * and does not use OpenMP. */
#define Py_LIMITED_API 0x030A0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <time.h>

#define ROUNDS 500
#define TRIES 5 /* the shortest counts: an interrupt can only add */

static void spin_wait(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#else
    __asm__ volatile("" ::: "memory");
#endif
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static PyObject *seconds(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    double least = 1.0;
    for (int i = 0; i < TRIES; i++) {
        const double start = now();
        for (int k = 0; k < ROUNDS; k++) spin_wait();
        const double taken = (now() - start) / ROUNDS;
        if (taken < least) least = taken;
    }
    return PyFloat_FromDouble(least);
}

static PyMethodDef methods[] = {
    {"seconds", seconds, METH_NOARGS, "Measure the seconds that one spin-wait instruction takes."},
    {NULL, NULL, 0, NULL},
};
static PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "pygpt._pause", .m_size = 0, .m_methods = methods,
};
PyMODINIT_FUNC PyInit__pause(void) { return PyModule_Create(&module); }
