/* faults.c: makes chosen calls of the C library fail, for `make faults` and tests/test_faults.py.
 *
 * It is loaded before the C library (LD_PRELOAD), counts the calls that a plan chooses, and lets
 * some of them fail. A plan is a text of words NAME=VALUE, in the variable FAULTS or given to
 * faults_plan():
 *
 *     call=write,fsync   the functions; "memory" stands for all that allocate
 *     first=3 last=5     the third to the fifth of their calls fail; without last, all later ones
 *     error=28           errno; 0: a read or a write moves a part of its bytes
 *     room=5000          this many bytes can be written before a write fails
 *     path=/out          count only calls on files whose path contains this text
 *     caller=_kernels    count only calls from the library whose name contains this text
 *
 * faults_met() returns how many calls were counted and how many of these failed. Built for glibc,
 * whose malloc has a second name; a function that looked for it would allocate memory itself. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <link.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST 400 /* characters of a value */

static struct plan {
    char call[MOST], path[MOST], caller[MOST];
    long first, last, error, room;
    uintptr_t caller_begin, caller_end;
} plan;
static atomic_long counted, failed, is_on;

/* ---------------------------------------------------------------------------------- the plan --- */

static int find_caller(struct dl_phdr_info *info, size_t size, void *unused) {
    (void)size, (void)unused;
    const char *slash = strrchr(info->dlpi_name, '/');
    if (!strstr(slash ? slash : info->dlpi_name, plan.caller)) return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type != PT_LOAD || !(part->p_flags & PF_X)) continue;
        plan.caller_begin = info->dlpi_addr + part->p_vaddr;
        plan.caller_end = plan.caller_begin + part->p_memsz;
    }
    return 1;
}

static void set_word(const char *word) {
    const char *value = strchr(word, '=');
    if (!value++) return;
    static const struct { const char *name; char *text; long *number; } words[] = {
        {"call=", plan.call, NULL}, {"path=", plan.path, NULL}, {"caller=", plan.caller, NULL},
        {"first=", NULL, &plan.first}, {"last=", NULL, &plan.last},
        {"error=", NULL, &plan.error}, {"room=", NULL, &plan.room}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strncmp(word, words[i].name, strlen(words[i].name)) != 0) continue;
        if (words[i].number) *words[i].number = atol(value);
        else snprintf(words[i].text, MOST, "%s", value);
    }
}

/* Follows another plan from now on. An empty text ends the faults, and keeps the counts. */
__attribute__((visibility("default"))) void faults_plan(const char *text) {
    char words[4 * MOST], *rest = words;
    is_on = 0;
    if (!text[0]) return;
    plan = (struct plan){.first = 1, .last = LONG_MAX, .room = -1};
    counted = failed = 0;
    snprintf(words, sizeof words, "%s", text);
    for (char *word; (word = strtok_r(rest, " ", &rest));) set_word(word);
    if (plan.caller[0]) dl_iterate_phdr(find_caller, NULL);
    is_on = plan.call[0] != 0;
}

__attribute__((visibility("default"))) void faults_met(long *calls, long *failures) {
    *calls = counted;
    *failures = failed;
}

__attribute__((constructor)) static void begin(void) {
    const char *text = getenv("FAULTS");
    if (text) faults_plan(text);
}

/* ------------------------------------------------------------------- whether this call fails --- */

static int is_listed(const char *name) {
    const size_t length = strlen(name);
    for (const char *at = plan.call; (at = strstr(at, name)); at += length)
        if ((at == plan.call || at[-1] == ',') && (at[length] == ',' || at[length] == 0)) return 1;
    return 0;
}

static int comes_from_caller(const void *address) {
    if (!plan.caller[0]) return 1;
    return (uintptr_t)address >= plan.caller_begin && (uintptr_t)address < plan.caller_end;
}

/* Returns the path of an open file in `path`, or "". */
static const char *path_of(int descriptor, char path[PATH_MAX]) {
    char link[40];
    const int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    const long length = syscall(SYS_readlink, link, path, PATH_MAX - 1L);
    path[length < 0 ? 0 : length] = 0;
    errno = before;
    return path;
}

/* Counts the call if the plan chooses it. Returns whether it is to fail. */
static int count(void) {
    const long number = atomic_fetch_add(&counted, 1) + 1;
    if (plan.room >= 0) return 1;
    if (number < plan.first || number > plan.last) return 0;
    failed++;
    errno = (int)plan.error;
    return 1;
}

static int fails(const char *name, const char *path, const void *caller) {
    if (!is_on || !is_listed(name) || !comes_from_caller(caller)) return 0;
    return (!plan.path[0] || (path && strstr(path, plan.path))) && count();
}

static int fails_on(const char *name, int descriptor, const void *caller) {
    char path[PATH_MAX];
    if (!is_on || !is_listed(name) || !comes_from_caller(caller)) return 0;
    return (!plan.path[0] || strstr(path_of(descriptor, path), plan.path)) && count();
}

/* Returns how many of n bytes a chosen read or write moves, or -1 for an error. */
static ssize_t moved(size_t n, int is_write) {
    if (is_write && plan.room >= 0) {
        const ssize_t fit = (ssize_t)n < plan.room ? (ssize_t)n : plan.room;
        plan.room -= fit;
        if (fit < (ssize_t)n) failed++;
        if (fit > 0 || n == 0) return fit;
        errno = (int)plan.error;
        return -1;
    }
    return plan.error ? -1 : (ssize_t)((n + 2) / 3);
}

#define CALLER __builtin_return_address(0)
#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name)
#define PUBLIC __attribute__((visibility("default")))

/* ------------------------------------------------------------------------------------ memory --- */

void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

PUBLIC void *malloc(size_t size) {
    return fails("memory", NULL, CALLER) ? NULL : __libc_malloc(size);
}

PUBLIC void *calloc(size_t n, size_t size) {
    return fails("memory", NULL, CALLER) ? NULL : __libc_calloc(n, size);
}

PUBLIC void *realloc(void *old, size_t size) {
    return fails("memory", NULL, CALLER) ? NULL : __libc_realloc(old, size);
}

PUBLIC void *aligned_alloc(size_t align, size_t size) {
    return fails("memory", NULL, CALLER) ? NULL : __libc_memalign(align, size);
}

PUBLIC int posix_memalign(void **block, size_t align, size_t size) {
    if (fails("memory", NULL, CALLER)) return ENOMEM;
    *block = __libc_memalign(align, size);
    return *block ? 0 : ENOMEM;
}

PUBLIC void *mmap(void *at, size_t n, int access, int flags, int descriptor, off_t from) {
    REAL(void *, mmap, void *, size_t, int, int, int, off_t);
    if (flags & MAP_ANONYMOUS ? fails("memory", NULL, CALLER)
                              : fails_on("mmap", descriptor, CALLER)) return MAP_FAILED;
    return real(at, n, access, flags, descriptor, from);
}

PUBLIC void *mmap64(void *at, size_t n, int access, int flags, int descriptor, off_t from)
    __attribute__((alias("mmap")));

/* ----------------------------------------------------------------------------- reads, writes --- */

#define MOVES(name, type, is_write, parameters, arguments, ...) \
    PUBLIC ssize_t name parameters { \
        REAL(ssize_t, name, __VA_ARGS__); \
        if (fails_on(type, descriptor, CALLER)) { \
            const ssize_t some = moved(n, is_write); \
            if (some < 0) return -1; \
            n = (size_t)some; \
        } \
        return real arguments; \
    }
MOVES(read, "read", 0, (int descriptor, void *to, size_t n), (descriptor, to, n), int, void *, size_t)
MOVES(write, "write", 1, (int descriptor, const void *from, size_t n), (descriptor, from, n),
      int, const void *, size_t)
MOVES(pread64, "read", 0, (int descriptor, void *to, size_t n, off_t at), (descriptor, to, n, at),
      int, void *, size_t, off_t)
MOVES(pwrite64, "write", 1, (int descriptor, const void *from, size_t n, off_t at),
      (descriptor, from, n, at), int, const void *, size_t, off_t)

PUBLIC ssize_t writev(int descriptor, const struct iovec *parts, int n) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    if (n == 0 || !fails_on("write", descriptor, CALLER)) return real(descriptor, parts, n);
    const ssize_t some = moved(parts[0].iov_len, 1);
    const struct iovec part = {parts[0].iov_base, some < 0 ? 0 : (size_t)some};
    return some < 0 ? -1 : real(descriptor, &part, 1);
}

/* ------------------------------------------------------------------- files by their descriptor --- */

/* What is written here need not outlast a power cut: nothing waits for the disk. */
PUBLIC int fsync(int descriptor) {
    if (fails_on("fsync", descriptor, CALLER)) return -1;
    return (int)syscall(SYS_fcntl, descriptor, 1 /* F_GETFD */) < 0 ? -1 : 0;
}

PUBLIC int close(int descriptor) { /* a disk of the network may report a failed write this late */
    REAL(int, close, int);
    const int fault = fails_on("close", descriptor, CALLER), number = errno;
    const int result = real(descriptor);
    if (!fault) return result;
    errno = number;
    return -1;
}

PUBLIC int flock(int descriptor, int operation) {
    REAL(int, flock, int, int);
    return fails_on("flock", descriptor, CALLER) ? -1 : real(descriptor, operation);
}

PUBLIC DIR *fdopendir(int descriptor) {
    REAL(DIR *, fdopendir, int);
    return fails_on("opendir", descriptor, CALLER) ? NULL : real(descriptor);
}

/* ------------------------------------------------------------------------- files by their path --- */

static mode_t mode_of(int flags, va_list rest) {
    return flags & 0100 /* O_CREAT */ || (flags & 020000000) ? va_arg(rest, mode_t) : 0;
}

PUBLIC int open(const char *path, int flags, ...) {
    REAL(int, open, const char *, int, ...);
    va_list rest;
    va_start(rest, flags);
    const mode_t mode = mode_of(flags, rest);
    va_end(rest);
    return fails("open", path, CALLER) ? -1 : real(path, flags, mode);
}

PUBLIC int open64(const char *path, int flags, ...) __attribute__((alias("open")));

PUBLIC int openat(int directory, const char *path, int flags, ...) {
    REAL(int, openat, int, const char *, int, ...);
    va_list rest;
    va_start(rest, flags);
    const mode_t mode = mode_of(flags, rest);
    va_end(rest);
    char whole[PATH_MAX];
    const char *beside = path[0] == '/' || directory < 0 ? path : path_of(directory, whole);
    return fails("open", beside, CALLER) ? -1 : real(directory, path, flags, mode);
}

PUBLIC int openat64(int directory, const char *path, int flags, ...)
    __attribute__((alias("openat")));

PUBLIC DIR *opendir(const char *path) {
    REAL(DIR *, opendir, const char *);
    return fails("opendir", path, CALLER) ? NULL : real(path);
}

#define ON_PATH(name, parameters, arguments, ...) \
    PUBLIC int name parameters { \
        REAL(int, name, __VA_ARGS__); \
        return fails(#name, path, CALLER) ? -1 : real arguments; \
    }
ON_PATH(unlink, (const char *path), (path), const char *)

PUBLIC int unlinkat(int directory, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    char whole[PATH_MAX];
    const char *beside = path[0] == '/' || directory < 0 ? path : path_of(directory, whole);
    return fails("unlink", beside, CALLER) ? -1 : real(directory, path, flags);
}

ON_PATH(rmdir, (const char *path), (path), const char *)
ON_PATH(mkdir, (const char *path, mode_t mode), (path, mode), const char *, mode_t)
ON_PATH(rename, (const char *path, const char *to), (path, to), const char *, const char *)
ON_PATH(symlink, (const char *to, const char *path), (to, path), const char *, const char *)
ON_PATH(link, (const char *path, const char *to), (path, to), const char *, const char *)
