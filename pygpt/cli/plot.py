"""Draws the curves of runs as one HTML page: `pygpt plot`."""

import os


def add_command(add):
    """Add the command."""
    command = add("plot", run, "draw the curves of one or more runs, as one HTML page")
    command.add_argument("directories", metavar="OUT", nargs="+",
                         help="a training run's output directory")
    command.add_argument("--output", metavar="FILE",
                         help="file of the page (unset: plot.html in the first OUT)")


def run(arguments):
    from pygpt.training.plot import plot

    target = arguments.output or os.path.join(arguments.directories[0], "plot.html")
    plot(arguments.directories, target)
    print(target)
    return 0
