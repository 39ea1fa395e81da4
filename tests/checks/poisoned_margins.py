"""Lets AddressSanitizer guard the arrays of the kernel tests; a plugin of pytest for `make asan`.

pygpt/check/calls.py puts each array into a larger block, between margins whose bytes it compares
afterwards. That finds what a kernel writes there, but not what it reads. Here the margins are
poisoned while a kernel may run, so reading a byte of them ends the process with a report.
"""

import ctypes


def pytest_configure():
    """Replace Guarded of pygpt/check/calls.py; conftest.py has set the state that pygpt needs."""
    from pygpt.check import calls
    calls.Guarded = poisoned(calls.Guarded)


def poisoned(Guarded):
    """Return a subclass whose margins only its own methods may read."""
    library = ctypes.CDLL(None)
    poison, unpoison = (getattr(library, f"__asan_{name}_memory_region")
                        for name in ("poison", "unpoison"))
    for function in poison, unpoison:
        function.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

    class Poisoned(Guarded):
        def __init__(self, ffi, *arguments, **options):
            super().__init__(ffi, *arguments, **options)
            self._address = int(ffi.cast("uintptr_t", self.memory))
            self._guard()

        def _guard(self):
            end = self.start + self.bytes
            poison(self._address, self.start)
            poison(self._address + end, len(self.view) - end)

        def _open(self, method):
            unpoison(self._address, len(self.view))
            try:
                return method()
            finally:
                self._guard()

        def margins_intact(self):
            return self._open(super().margins_intact)

        def untouched(self):
            return self._open(super().untouched)

        def __del__(self):
            unpoison(self._address, len(self.view))

    return Poisoned
