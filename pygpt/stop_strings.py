"""Ends a text at the first stop string, and never hands out a part of one."""


class StopStrings:
    """Passes a text on piece by piece, until one of the stop strings is complete.

    The text ends before the string that is complete first; of several that end at the same
    character, before the longest. Where the pieces begin and end, such as at the
    borders of tokens, does not matter.

        stop = StopStrings(["User:"])
        for text in stop.until(tokenizer.decode_iterable(ids)):
            print(text, end="", flush=True)

    Args:
        strings: the stop strings, a collection of str, none of them empty.

    Attributes:
        found: the stop string that ended the text, or None.
    """

    def __init__(self, strings):
        self.found, self._strings, self._held = None, tuple(strings), ""

    def feed(self, text):
        """Take the next piece of the text; return the text that can be handed out by now. The rest
        may be the beginning of a stop string and is held back."""
        if self.found is not None:
            return ""
        text = self._held + text
        ends = [(text.index(string) + len(string), -len(string)) for string in self._strings
                if string in text]
        if ends:
            end, length = min(ends)
            self.found, self._held = text[end + length:end], ""
            return text[:end + length]
        held = max((self._beginning_at_end(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - held:]
        return text[:len(text) - held]

    def finish(self):
        """Return the text that is still held back, once the text has ended."""
        text, self._held = self._held, ""
        return text

    def until(self, pieces):
        """Yield the text of an iterable of pieces, up to the first stop string; after it, take no
        further piece."""
        for piece in pieces:
            text = self.feed(piece)
            if text:
                yield text
            if self.found is not None:
                return
        if text := self.finish():
            yield text

    @staticmethod
    def _beginning_at_end(text, string):
        """Return the length of the longest end of a text that a string begins with, without being
        all of it."""
        lengths = range(min(len(string) - 1, len(text)), 0, -1)
        return next((n for n in lengths if text.endswith(string[:n])), 0)
