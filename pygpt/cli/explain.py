"""Shows how a model reads a text, as one HTML page: `pygpt explain`."""

from pygpt.cli.loading import add_threads_flag, set_threads


def add_command(add):
    """Add the command."""
    command = add("explain", run, "show how a model reads a text, as one HTML page")
    command.add_argument("directory", metavar="DIR",
                         help="a GPT-2 directory, a training run's output directory, or one of its "
                         "checkpoints")
    command.add_argument("text", metavar="TEXT", help="the text; - for standard input")
    command.add_argument("--output", metavar="FILE", default="explain.html",
                         help="file of the page (default explain.html)")
    add_threads_flag(command)


def run(arguments):
    from pygpt.cli.writing import warn
    from pygpt.files import replacing
    from pygpt.pipeline import Pipeline
    from pygpt.study.explanation import explanation, name_of, page, shortened

    set_threads(arguments.threads)
    pipeline = Pipeline.from_pretrained(arguments.directory, "float32", on_warning=warn)
    text = _standard_input() if arguments.text == "-" else arguments.text
    ids, note = shortened(pipeline.read(text))
    data = explanation(pipeline.model, pipeline.tokenizer, ids, note)
    with replacing(arguments.output) as file:
        title = f"How the model {name_of(arguments.directory)!r} reads this text"
        file.write(page(title, data).encode())
    print(arguments.output)
    return 0


def _standard_input():
    from pygpt.tokenizer.reading import decode_text, standard_input

    return "".join(decode_text(standard_input(), "standard input"))
