/* bus_error.c: names the mapped file that became shorter, before the process ends by SIGBUS.
 *
 * A mapped file is read by loads, which return no status. If another program cuts the file, or its
 * disk fails, the load raises SIGBUS, in whichever thread it is. A handler cannot go on from there:
 * the value does not exist, and a jump out of a thread of OpenMP would leave the others waiting for
 * it. So the handler writes one line and returns under the former action. The load runs again, and
 * the signal ends the process as it would have done without this file, or goes to the handler that
 * was there before, such as that of Python's faulthandler. All calls in it are async-signal-safe.
 *
 * The library installs nothing by itself: the command line asks for it (cli/bus_errors.py). */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "pygpt.h"

#define LINE_BYTES 4200 /* of /proc/self/maps: numbers and a path of at most 4096 bytes */

static struct sigaction before;
static int is_installed;
static atomic_int progress; /* of the explanation, since the handler was installed */
enum { NONE, WRITING, WRITTEN };

static const char *read_hexadecimal(const char *text, uintptr_t *number) {
    for (*number = 0;; text++) {
        const char c = *text;
        if (c >= '0' && c <= '9') *number = *number * 16 + (uintptr_t)(c - '0');
        else if (c >= 'a' && c <= 'f') *number = *number * 16 + (uintptr_t)(c - 'a' + 10);
        else return text;
    }
}

/* Returns the path in a line of /proc/self/maps, "begin-end rwxp offset device inode   path", if
 * the address is in its range and it has a path; else NULL. */
static const char *path_of(const char *line, uintptr_t address) {
    uintptr_t begin, end;
    line = read_hexadecimal(line, &begin);
    if (*line++ != '-') return NULL;
    line = read_hexadecimal(line, &end);
    return address >= begin && address < end ? strchr(line, '/') : NULL;
}

/* Returns the path of the file that is mapped at an address, or NULL. `line` gets it. */
static const char *mapped_file(uintptr_t address, char line[LINE_BYTES]) {
    const int maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    const char *path = NULL;
    char part[512];
    int64_t length = 0;
    for (ssize_t n; !path && maps >= 0 && (n = read(maps, part, sizeof part)) > 0;)
        for (ssize_t i = 0; !path && i < n; i++) {
            if (part[i] != '\n') {
                if (length < LINE_BYTES - 1) line[length++] = part[i];
                continue;
            }
            line[length] = 0;
            length = 0;
            path = path_of(line, address);
        }
    if (maps >= 0) close(maps);
    return path;
}

static void put(const char *text) {
    const ssize_t ignored = write(STDERR_FILENO, text, strlen(text));
    (void)ignored;
}

/* The first thread writes the line and brings back the former action; others wait for that. Then
 * all of them go on under the former action, which may be to ignore the signal or to resume. */
static void explain(int number, siginfo_t *info, void *context) {
    const int former_errno = errno;
    int expected = NONE;
    (void)context;
    if (atomic_compare_exchange_strong(&progress, &expected, WRITING)) {
        if (info->si_code == BUS_ADRERR) {
            char line[LINE_BYTES];
            const char *path = mapped_file((uintptr_t)info->si_addr, line);
            put("pygpt: error: ");
            put(path ? path : "a mapped file");
            put(": became shorter while it was read, or its disk failed (SIGBUS)\n");
        }
        sigaction(SIGBUS, &before, NULL);
        atomic_store(&progress, WRITTEN);
    }
    while (atomic_load(&progress) == WRITING) poll(NULL, 0, 1); /* for a millisecond */
    if (info->si_code <= 0) raise(number); /* sent by kill: no load will raise it again */
    errno = former_errno;
}

int pygpt_explain_bus_errors(int on) {
    struct sigaction action = {.sa_sigaction = explain, .sa_flags = SA_SIGINFO};
    if (on == is_installed) return 0;
    sigemptyset(&action.sa_mask);
    if (on) atomic_store(&progress, NONE);
    if (on ? sigaction(SIGBUS, &action, &before) : sigaction(SIGBUS, &before, NULL)) return 0;
    is_installed = on;
    return 1;
}
