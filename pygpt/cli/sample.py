"""Lets a trained model write: `pygpt sample`."""

import sys

from pygpt.cli.bus_errors import bus_errors_explained
from pygpt.cli.flags import UsageError, add_settings, settings_of, text, whole_number
from pygpt.cli.loading import add_weights_flag
from pygpt.config import ConfigError, SampleConfig

STDIN = "-"


def add_command(add):
    """Add the command."""
    command = add("sample", run, "let a trained model write")
    command.add_argument("directory", metavar="DIR",
                         help="a training run's output directory, or one of its checkpoints")
    command.add_argument("--prompt", metavar="TEXT", type=text,
                         help="text to continue (unset: a new line)")
    command.add_argument("--prompt-file", metavar="FILE",
                         help="read the prompt from this UTF-8 file, less one newline at its end; "
                         "- is standard input, also as a word of its own: sample DIR -")
    command.set_defaults(dash=False)
    command.add_argument("--strict", action="store_true",
                         help="refuse a prompt that is too long or holds characters that the "
                         "vocabulary lacks (unset: keep its end, leave them out, and warn)")
    command.add_argument("--num-samples", type=whole_number, default=1, metavar="N",
                         help="texts to write, all together; the seed of each is one more than "
                         "that of the one before (at least 1; default 1)")
    command.add_argument("--json", action="store_true",
                         help="print a JSON object for each text, on a line of its own: prompt, "
                         "text, prompt_tokens, tokens (the ids of text), stop (length, end, stop "
                         "string, or null after Ctrl-C), seed")
    command.add_argument("--verbose", action="store_true",
                         help="end with tokens/s for prompt and answer, on standard error")
    command.add_argument("--interactive", action="store_true",
                         help="continue one prompt after another, read from standard input; /help "
                         "lists what can be typed")
    add_weights_flag(command)
    add_settings(command, SampleConfig)


@bus_errors_explained()
def run(arguments):
    settings = settings_of(arguments, SampleConfig)
    threads = SampleConfig(**settings).threads  # checks all settings before a model is read
    settings.pop("threads", None)
    _check(arguments)
    from pygpt.backend import kernels
    from pygpt.cli.echo import without_echo_of_ctrl_c
    from pygpt.cli.writing import warn
    from pygpt.pipeline import Pipeline

    prompt = _prompt(arguments)
    pipeline = Pipeline.from_pretrained(arguments.directory, arguments.dtype, arguments.strict,
                                        warn)
    if threads:
        kernels.set_num_threads(threads)
    if arguments.interactive:
        from pygpt.cli.interactive import Conversation

        Conversation(pipeline, settings, arguments.verbose).run(prompt)
    else:
        with without_echo_of_ctrl_c():
            _write_all(pipeline, prompt or "", settings, arguments)
    return 0


def _write_all(pipeline, prompt, settings, arguments):
    """Write all texts, the first that is not complete while it is made. Ctrl-C ends all of them,
    and what there is of each is written."""
    from pygpt.cli.writing import describe, describe_together
    from pygpt.pipeline import any_seed
    from pygpt.progress import ProgressLine

    n, first, interrupt = arguments.num_samples, settings.pop("seed", None), None
    first = any_seed() if first is None else first
    is_unseen = arguments.json or not sys.stdout.isatty()  # no text shows how far it is
    with ProgressLine(is_unseen and sys.stderr.isatty()) as line:
        texts = pipeline.stream([pipeline.read(prompt)] * n, on_step=line.update,
                                seed=list(range(first, first + n)), **settings)
        for number, text in enumerate(texts):
            if not arguments.json:
                print(("-" * 72 + "\n" if number else "") + prompt, end="", flush=True)
            try:
                _complete(prompt, text, arguments.json, line)
            except KeyboardInterrupt as error:
                interrupt = error
                for other in texts:  # Ctrl-C may have come between two steps
                    other.close()
                _complete(prompt, text, arguments.json, line)
            if arguments.verbose:
                line.clear()
                print(describe(text, is_alone=n == 1), file=sys.stderr)
        if arguments.verbose and n > 1:
            print(describe_together(texts), file=sys.stderr)
    if interrupt is not None:
        raise interrupt


def _complete(prompt, text, is_json, line):
    """Write the rest of a Continuation, or a JSON object with all of it."""
    if is_json:
        import json

        text.finish()
        line.clear()
        print(json.dumps({"prompt": prompt, "text": text.text,
                          "prompt_tokens": len(text.prompt_ids), "tokens": text.ids,
                          "stop": text.stop, "seed": text.seed}), flush=True)
        return
    for piece in text:
        print(piece, end="", flush=True)
    print(flush=True)


def _check(arguments):
    """Refuse what cannot be combined."""
    given = [arguments.prompt is not None, arguments.prompt_file is not None, arguments.dash]
    if sum(given) > 1:
        raise UsageError("--prompt, --prompt-file and - each give the prompt: leave out all but "
                         "one")
    if arguments.num_samples < 1:
        raise ConfigError(f"num_samples={arguments.num_samples} must be at least 1")
    if not arguments.interactive:
        return
    if arguments.json:
        raise UsageError("--interactive prints no JSON: leave out --json")
    if arguments.num_samples > 1:
        raise UsageError("--interactive writes one text at a time: leave out --num-samples")
    if arguments.dash or arguments.prompt_file == STDIN:
        raise UsageError("--interactive reads standard input, which then holds no prompt of its "
                         "own: leave out -")


def _prompt(arguments):
    """Return the prompt, or None.

    Raises:
        OSError: its file cannot be read.
        DataError: its file is not UTF-8 text.
    """
    path = STDIN if arguments.dash else arguments.prompt_file
    if path is None:
        return arguments.prompt
    from pygpt.tokenizer.reading import STDIN_NAME, decode_text, read_text, standard_input

    parts = decode_text(standard_input(), STDIN_NAME) if path == STDIN else read_text(path)
    prompt = "".join(parts)
    return prompt[: -(2 if prompt.endswith("\r\n") else 1)] if prompt.endswith("\n") else prompt
