"""Shows a model at work in the browser, live: `pygpt play`."""

import threading

from pygpt.cli.flags import whole_number
from pygpt.cli.loading import add_threads_flag, set_threads

EXPLANATION = """The page is served to this machine alone, at an address with a random word, until
Ctrl-C. Nothing is loaded from elsewhere and nothing is written. With --open the address is among
the browser's arguments, which other users of this machine may see.""".replace("\n", " ")


def add_command(add):
    """Add the command."""
    command = add("play", run, "write with a model in the browser, and see inside it",
                  epilog=EXPLANATION)
    command.add_argument("directory", metavar="DIR",
                         help="a GPT-2 directory, a training run's output directory, or one of its "
                         "checkpoints")
    command.add_argument("--prompt", default="\n", metavar="TEXT",
                         help="the text to begin with (default a new line)")
    command.add_argument("--port", type=whole_number, default=0, metavar="N",
                         help="port of 127.0.0.1; 0: any that is free (default 0)")
    command.add_argument("--open", action="store_true", help="open the page in a browser")
    add_threads_flag(command)


def run(arguments):
    from pygpt.cli.writing import warn
    from pygpt.pipeline import Pipeline
    from pygpt.study.play import Play, live_page
    from pygpt.study.server import Server, checked_port

    port = checked_port(arguments.port)
    set_threads(arguments.threads)
    pipeline = Pipeline.from_pretrained(arguments.directory, "float32", on_warning=warn)
    page = live_page(arguments.directory, arguments.prompt)
    with Server(Play(pipeline), page, port) as server:
        try:
            print(server.address, flush=True)
            if arguments.open:  # some browsers end only when they are closed
                threading.Thread(target=_open, args=(server.address,), daemon=True).start()
            server.serve_forever()
        except KeyboardInterrupt:
            return 0


def _open(address):
    import webbrowser

    from pygpt.cli.writing import warn

    if not webbrowser.open(address):
        warn("no browser could be started: open the address by hand")
