"""Turns a trace into what the page shows: a dict of plain values, and the page itself.

The dict has
    ids, tokens       the tokens and their texts; "\\xe2" stands for a byte that is no character
    names             {id: text} of all tokens that occur below
    logprobs          for each token ln of its probability from the tokens before it; the first: 0
    lens              n_layer + 1 lists with, for each token, {"logprob": of the token that follows,
                      "best": [[id, logprob], ...]}: after the embeddings and after each block
    stream_norms      n_layer + 1 lists of the residual stream's norm at each token
    attn_norms, mlp_norms    n_layer lists of the norm of what the block adds at each token
    patterns          n_layer lists of n_head texts: base64 of the attention weights in 255ths, row
                      t with its t + 1 weights after row t - 1
    n_layer, n_head, n_embd, vocab_size, note
"""

import base64
import html
import json
import os
from importlib import resources

from pygpt.study.trace import trace
from pygpt.training.plot import filled

MOST_TOKENS = 256  # of a page: the patterns of GPT-2's 144 heads then take 6 MB
SCRIPTS = "base.js", "stream.js", "attention.js", "enlarged.js", "kinds.js", "explain.js"


def shortened(ids):
    """Return the last MOST_TOKENS of ids, and the sentence for the reader if some are left out."""
    if len(ids) <= MOST_TOKENS:
        return ids, ""
    return ids[-MOST_TOKENS:], (f"Of {len(ids)} tokens these are the last {MOST_TOKENS}, read as "
                                "if nothing stood before them")


def explanation(model, tokenizer, ids, note=""):
    """Return the dict that the page shows.

    Args:
        model, tokenizer: a GPT and its Tokenizer.
        ids: 1..n_positions tokens.
        note: a sentence for the reader, which ends the line under the title.
    Raises:
        ValueError: as trace().
    """
    found = trace(model, ids)
    T, config = len(ids), model.config
    best = {id for choices in found.lens for choice in choices for id, _ in choice.best}
    return {
        "ids": list(ids), "tokens": [token_text(tokenizer, id) for id in ids],
        "names": {id: token_text(tokenizer, id) for id in sorted(best)},
        "logprobs": [0.0, *(rounded(choice.logprob) for choice in found.lens[-1][:-1])],
        "lens": [[{"logprob": rounded(choice.logprob),
                   "best": [[id, rounded(value)] for id, value in choice.best]}
                  for choice in choices] for choices in found.lens],
        "stream_norms": [[rounded(norm) for norm in norms] for norms in found.stream_norms],
        "attn_norms": [[rounded(norm) for norm in block.attn_norms] for block in found.blocks],
        "mlp_norms": [[rounded(norm) for norm in block.mlp_norms] for block in found.blocks],
        "patterns": [[_in_base64(pattern, T) for pattern in block.patterns]
                     for block in found.blocks],
        "n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd,
        "vocab_size": config.vocab_size, "note": note}


def token_text(tokenizer, id):
    """Return the text of one token; bytes that are no character appear as \\xe2."""
    if id >= tokenizer.vocab_size:
        return f"<{id}>"  # the model has more ids than the tokenizer has tokens
    return tokenizer.decode_bytes([id]).decode("utf-8", "backslashreplace")


def rounded(number):
    """Return a number with five significant digits."""
    return float(f"{number:.5g}")


def _in_base64(pattern, T):
    triangle = (pattern[t * T + j] for t in range(T) for j in range(t + 1))
    return base64.b64encode(bytes(min(255, round(255 * p)) for p in triangle)).decode()


def page(title, data, controls="", script=""):
    """Return the HTML text of a page, which loads nothing.

    Args:
        title: its title.
        data: the dict of explanation(), or None for a page that gets one later.
        controls, script: HTML above the text and JavaScript after the page's own.
    """
    text = "" if data is None else json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return filled(part("explain.html"), {
        "@TITLE@": html.escape(title), "@STYLE@": part("style.css"), "@CONTROLS@": controls,
        "@SCRIPT@": "".join(map(part, SCRIPTS)) + script, "@DATA@": text})


def name_of(directory):
    """Return the last part of a directory's path, for a title."""
    return os.path.basename(os.path.abspath(directory)) or directory


def part(name):
    """Return the text of a file of pages/."""
    return resources.files("pygpt.study").joinpath("pages", name).read_text(encoding="utf-8")
