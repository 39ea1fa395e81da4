"""Shows the version, how the library was built and what the machine offers: `pygpt info`."""


def add_command(add):
    """Add the command."""
    add("info", run, "show the version, how the library was built and what the machine offers")


def run(arguments):
    import pygpt

    for name, value in pygpt.info().items():
        text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        print(f"{name + ':':<10} {text}")
    return 0
