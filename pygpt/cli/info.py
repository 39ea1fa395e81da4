"""Shows the version, the compiler, the instruction sets and the threads: `pygpt info`."""


def add_command(add):
    """Add the command."""
    add("info", run, "show the version, the compiler, the instruction sets and the threads")


def run(arguments):
    import pygpt

    for name, value in pygpt.info().items():
        text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        print(f"{name + ':':<10} {text}")
    return 0
