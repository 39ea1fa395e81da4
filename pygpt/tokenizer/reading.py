"""Decodes text files: UTF-8, read in parts of a megabyte.

This is the only place that decodes a text file. A file in another encoding, or one that is not text
at all, is refused, and the message says which it seems to be.
"""

import codecs
import sys

PART_BYTES = 1 << 20
STDIN_NAME = "standard input"
MARK = "\ufeff"  # the byte order mark, which some editors write in front of UTF-8
_MARKS = ((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"),  # the longer ones first
          (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"))
_SAMPLE = 1 << 12  # bytes near a bad byte, which show the kind of file that it is in
# the control characters that texts do not hold and most pictures do
_CONTROLS = bytes({*range(32), 127} - {*b"\a\b\t\n\v\f\r\x1b"})


class DataError(ValueError):
    """Says that a text cannot be used; the message names the file or the number that is wrong."""


def standard_input():
    """Return the binary file of standard input.

    Raises:
        DataError: it was closed before the program began.
    """
    if sys.stdin is None:
        raise DataError(f"{STDIN_NAME}: is closed")
    return sys.stdin.buffer


def read_text(path, name=None, **options):
    """Read a file of UTF-8 text.

    Args:
        path: the path of a file or a pipe.
        name: the name that messages use; None stands for the path.
        options: the keyword arguments of decode_text.
    Yields:
        The text, in parts, as decode_text does.
    Raises:
        OSError: the file cannot be read.
        DataError: the file is not UTF-8 text, as for decode_text.
    """
    with open(path, "rb") as file:
        yield from decode_text(file, path if name is None else name, **options)


def decode_text(file, name, errors="strict", *, is_exact=False, may_suggest_replace=False,
                on_bytes=lambda data: None, part_bytes=PART_BYTES):
    """Decode an open binary file of UTF-8 text.

    Args:
        file: the file, which is read to its end.
        name: the name that messages use.
        errors: "strict" refuses bytes that are not UTF-8; "replace" reads them as U+FFFD.
        is_exact: if True, a byte order mark at the beginning stays and zero bytes are text, so that
            encoding the parts gives the file back. If False, the mark is removed and a zero byte is
            refused.
        may_suggest_replace: whether a message may suggest errors=replace to the user.
        on_bytes: called with the bytes of each part before they are decoded.
        part_bytes: the number of bytes read at once.
    Yields:
        The text, in parts; line ends are kept as they are.
    Raises:
        OSError: the file cannot be read.
        DataError: the file is not UTF-8 text; the message has the byte's offset, or the encoding.
    """
    decoder, taken, is_begun = codecs.getincrementaldecoder("utf-8")(errors), 0, False
    before = b""  # the end of the previous part
    while True:
        data = file.read(part_bytes)
        on_bytes(data)
        if not taken:
            _refuse_other_encoding(name, data)
        if not is_exact:
            _refuse_binary(name, data, taken, errors)
        taken += len(data)
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            # error.object is the incomplete character of the previous part, then this part
            near = before + data
            raise _refusal(name, near, len(near) - len(error.object) + error.start,
                           taken - len(near), may_suggest_replace) from None
        before = data[-_SAMPLE:]
        if text and not is_begun:
            is_begun = True
            text = text if is_exact else text.removeprefix(MARK)
        if text:
            yield text
        if not data:
            return


def _refuse_other_encoding(name, data):
    """Refuse a file that begins with the byte order mark of UTF-16 or UTF-32."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            raise DataError(f"{name}: is {encoding} text; convert it to UTF-8 first "
                            f"(iconv -f {encoding} -t UTF-8)")


def _refuse_binary(name, data, before, errors):
    """Refuse a part that holds a zero byte, or noise that "replace" would turn into text."""
    place = data.find(0)
    if place >= 0:
        if not before and (encoding := _utf16_without_mark(data)):
            raise DataError(f"{name}: seems to be {encoding} text without a byte order mark; "
                            f"convert it to UTF-8 first (iconv -f {encoding} -t UTF-8)")
        is_stray = not _is_noise(_around(data, place))
        raise DataError(f"{name}: is not text: byte 0x00 at offset {before + place}"
                        + (" (tr -d '\\000' takes such bytes out)" if is_stray else ""))
    if errors == "replace" and not before and _is_noise(data[:_SAMPLE]):
        try:
            data[:_SAMPLE].decode("utf-8")
        except UnicodeDecodeError as error:
            if error.end < len(data[:_SAMPLE]):  # else the sample ends within a character
                raise _refusal(name, data, error.start, before, False) from None


def _refusal(name, data, start, before, may_suggest_replace):
    """Return the error for data[start], which is not UTF-8; data begins at offset `before`."""
    sample = _around(data, start)
    where = f"byte 0x{data[start]:02x} at offset {before + start}"
    if _is_noise(sample):
        return DataError(f"{name}: is not text: {where}")
    text = sample.decode("utf-8", "replace")
    if may_suggest_replace and 2 * text.count("\ufffd") <= len(text):
        return DataError(f"{name}: is not UTF-8 text: {where} (errors=replace goes on)")
    return DataError(f"{name}: is not UTF-8 text: {where} (if it is text in another encoding, "
                     "convert it: iconv -f ENCODING -t UTF-8)")


def _around(data, place):
    """Return the bytes of a part that are near a place."""
    start = max(0, min(place - _SAMPLE // 2, len(data) - _SAMPLE))
    return data[start : start + _SAMPLE]


def _is_noise(sample):
    """Tell whether over 2% of the bytes are control characters, too many for encoded text."""
    return 50 * (len(sample) - len(sample.translate(None, _CONTROLS))) > len(sample)


def _utf16_without_mark(data):
    """Return "UTF-16LE" or "UTF-16BE" if data seems to be text in it, else None."""
    for encoding in "UTF-16LE", "UTF-16BE":
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(data[: _SAMPLE])
        except UnicodeDecodeError:
            continue
        plain = sum(character.isprintable() or character.isspace() for character in text)
        common = sum(character.isascii() or character in "\u3000\u3001\u3002" for character in text)
        if text and plain > 0.98 * len(text) and 20 * common > len(text):
            return encoding
    return None
