"""Measures how soon the page of `pygpt explain` shows another token: `make hover`.

The page is the largest that `explain` writes: 256 tokens and GPT-2's 12 layers of 12 heads, of a
narrow model with random weights. A headless Chromium chooses tokens, one after another; the time
goes from the choice to the end of the frame that shows it. The goal is 100 ms, at which an answer
still seems to come at once.
"""

import statistics
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent)]

import browser  # noqa: E402

import pygpt  # noqa: E402
from pygpt.cli.main import main as command  # noqa: E402

CHOICES = 60
TAKE = """(async choices => { const took = [];
    for (let k = 0; k < choices; k++) { const start = performance.now(); choose(k * 37 % 256);
      await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
      took.push(performance.now() - start); }
    return took; })"""


def main():
    if not browser.found():
        sys.exit("hover: there is no Chromium (Debian: apt-get install chromium)")
    text = "".join(chr(97 + 7 * i * i % 23) for i in range(256))
    tokenizer = pygpt.CharTokenizer.train(text)
    config = pygpt.GPTConfig(vocab_size=tokenizer.vocab_size, n_positions=256, n_embd=48,
                             n_layer=12, n_head=12)
    with tempfile.TemporaryDirectory() as folder, browser.Browser() as page:
        for each in pygpt.GPT(config, seed=1), tokenizer:
            each.save_pretrained(folder)
        path = Path(folder) / "page.html"
        if status := command(["explain", folder, text, "--output", str(path)]):
            return status
        page.size(1280, 900)
        page.open(path.as_uri())
        took = sorted(page.run(f"{TAKE}({CHOICES})"))
    print(f"hover: {CHOICES} choices of a token, to the end of the frame: median "
          f"{statistics.median(took):.0f} ms, fastest {took[0]:.0f}, slowest {took[-1]:.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
