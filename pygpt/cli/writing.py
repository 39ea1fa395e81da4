"""Prints what a pygpt.Pipeline writes: warnings, and how fast it was."""

import sys


def warn(message):
    """Print a warning, one line on standard error."""
    print("pygpt: warning:", " ".join(message.split()), file=sys.stderr)


def describe(text, is_alone=True):
    """Return a line about the number of tokens of a Continuation and, if it is computed alone,
    their speed."""
    prompt, answer = text.speeds() if is_alone else (None, None)
    return (_part("prompt: ", len(text.prompt_ids), prompt) + "; "
            + _part("answer: ", text.drawn, answer))


def describe_together(texts):
    """Return a line about all texts of a stream."""
    return _part("all answers: ", sum(text.drawn for text in texts), texts[0].speeds()[1])


def _part(name, count, speed):
    return (f"{name}{count:,} token{'s' * (count != 1)}"
            + (f" at {speed:,.0f} tokens/s" if speed is not None else ""))
