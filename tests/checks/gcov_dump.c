/* gcov_dump.c: writes the counts of a process of `make coverage` that will not end by exit().
 *
 * Linked into each module of the counting copy. GCC writes its counts when a process exits; one that
 * os._exit or a signal ends would lose them. coverage_hook.py calls write_counts before os._exit.
 * The linker sends calls of sigaction here (--wrap), since bus_error.c takes back its handler just
 * before SIGBUS ends the process. */
#include <signal.h>

void __gcov_dump(void);
void __gcov_reset(void);
int __real_sigaction(int number, const struct sigaction *action, struct sigaction *former);
int __wrap_sigaction(int number, const struct sigaction *action, struct sigaction *former);

__attribute__((visibility("default"))) void write_counts(void) {
    __gcov_dump();
    __gcov_reset(); /* what follows is counted from 0, and added at the next dump */
}

int __wrap_sigaction(int number, const struct sigaction *action, struct sigaction *former) {
    const int status = __real_sigaction(number, action, former);
    if (number == SIGBUS) write_counts();
    return status;
}
