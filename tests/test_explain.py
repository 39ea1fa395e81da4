"""Tests `pygpt explain`: what the page holds, how bad input is refused, and, in a headless Chromium,
how it looks and answers."""

import base64
import json
import re

import browser
import pytest
from commands import here
from commands import pygpt as command

import pygpt
from pygpt.study.explanation import MOST_TOKENS, explanation, page, token_text
from pygpt.study.trace import trace

TEXT = "To be,\nor </script><b>not</b> & to be"
VOCABULARY = TEXT + "abcdefghijklmnopqrstuvwxyzé"
needs_chromium = pytest.mark.skipif(browser.found() is None, reason="no Chromium (Debian: "
                                    "apt-get install chromium)")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model with random weights, and its tokenizer."""
    path = tmp_path_factory.mktemp("explained") / "model"
    tokenizer = pygpt.CharTokenizer.train(VOCABULARY)
    config = pygpt.GPTConfig(vocab_size=tokenizer.vocab_size + 2, n_positions=64, n_embd=24,
                             n_layer=2, n_head=3)
    pygpt.GPT(config, seed=2).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def explained(directory, tmp_path_factory):
    """The path of a page."""
    target = tmp_path_factory.mktemp("page") / "explain.html"
    done = here("explain", directory, TEXT, "--output", target)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{target}\n", "")
    return target


def data_of(path):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>',
                         path.read_text(encoding="utf-8"), re.DOTALL)
    return json.loads(text)


def test_the_page_holds_the_trace(directory, explained):
    pipeline = pygpt.Pipeline.from_pretrained(directory)
    data, ids = data_of(explained), pipeline.tokenizer.encode(TEXT)
    found = trace(pipeline.model, ids)
    T = len(ids)
    assert data["ids"] == ids and "".join(data["tokens"]) == TEXT
    losses = pygpt.evaluate(pipeline.model, ids, stride=64)
    assert -sum(data["logprobs"]) / (T - 1) == pytest.approx(losses, rel=1e-4)
    for pattern, text in zip(found.blocks[1].patterns, data["patterns"][1]):
        weights = list(base64.b64decode(text))
        assert len(weights) == T * (T + 1) // 2
        for t in range(T):
            row = weights[t * (t + 1) // 2:][:t + 1]
            assert row == pytest.approx([255 * p for p in pattern[t * T:t * T + t + 1]], abs=0.51)


def test_a_text_with_html_in_it_is_a_text(explained):
    source = explained.read_text(encoding="utf-8")
    assert "<b>not" not in source
    assert source.count("</script>") == 2  # of the data and of the script


def test_the_page_loads_nothing(explained):
    source = explained.read_text(encoding="utf-8")
    assert not re.search(r"https?:|\bsrc=|\bimport\b|url\(|@import", source)


def test_a_title_that_looks_like_a_place_of_the_page_stays_a_title():
    assert "<title>@DATA@ &lt;x&gt;</title>" in page("@DATA@ <x>", None)


def test_bytes_that_are_no_character_and_ids_without_a_token_have_names():
    tokenizer = pygpt.ByteTokenizer()
    assert token_text(tokenizer, 0xE2) == "\\xe2"
    assert token_text(tokenizer, 999) == "<999>"


def test_of_a_long_text_the_end_is_shown(tmp_path):
    tokenizer = pygpt.CharTokenizer.train("ab")
    model = pygpt.GPT(pygpt.GPTConfig(vocab_size=2, n_positions=300, n_embd=8, n_layer=1, n_head=1))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    done = here("explain", tmp_path, "ab" * 140, "--output", tmp_path / "x.html")
    data = data_of(tmp_path / "x.html")
    assert done.returncode == 0 and len(data["ids"]) == MOST_TOKENS
    assert "280" in data["note"]
    done = here("explain", tmp_path, "ab" * 160, "--output", tmp_path / "x.html")
    assert "320 tokens" in done.stderr and done.returncode == 0


def test_a_text_may_come_from_standard_input(directory, tmp_path):
    done = command("explain", directory, "-", "--output", tmp_path / "x.html", input="to be")
    assert done.returncode == 0 and data_of(tmp_path / "x.html")["tokens"] == list("to be")


@pytest.mark.parametrize(("words", "status", "message"), [
    (["none", "to"], 1, "none"), (["DIR"], 2, "TEXT"), (["DIR", "to", "--threads", "999"], 2, "999"),
    (["DIR", "to", "--output", "none/x.html"], 1, "none/x.html"),
    (["DIR", "to", "--outpt", "x"], 2, "--output")])
def test_what_cannot_be_explained_is_refused_in_one_line(directory, tmp_path, words, status,
                                                         message):
    done = here("explain", *(directory if word == "DIR" else word for word in words), cwd=tmp_path)
    assert done.returncode == status and message in done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_explanation_of_one_token():
    tokenizer = pygpt.CharTokenizer.train("ab")
    model = pygpt.GPT(pygpt.GPTConfig(vocab_size=2, n_positions=4, n_embd=8, n_layer=1, n_head=1))
    data = explanation(model.eval(), tokenizer, [1])
    assert data["logprobs"] == [0.0] and len(data["lens"]) == 2


# ----------------------------------------------------------------------------- in a browser ---

@pytest.fixture(scope="module")
def chromium():
    with browser.Browser() as opened:
        yield opened


@needs_chromium
@pytest.mark.parametrize(("width", "height", "dark"), [(1280, 900, False), (1280, 900, True),
                                                      (768, 1024, False), (360, 740, True)])
def test_the_page_fits_every_screen_and_asks_for_nothing(chromium, explained, width, height, dark):
    chromium.size(width, height, dark, touch=width < 500)
    chromium.open(explained.as_uri())
    assert chromium.errors == [] and chromium.requests == [explained.as_uri()]
    assert chromium.run("document.documentElement.scrollWidth") <= width
    back = chromium.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", back)[:3])) < 200) == dark
    assert chromium.run("document.querySelector('#text').textContent.replaceAll('↵', '')") == TEXT


@needs_chromium
def test_every_colour_of_a_text_can_be_read(chromium, explained):
    """WCAG asks for a contrast of 4.5 between a text and its background."""
    for dark in False, True:
        chromium.size(1280, 900, dark)
        chromium.open(explained.as_uri())
        chromium.run("choose(0)")  # which looks at itself alone, in the strongest colour
        worst = chromium.run("""(() => {
          const canvas = document.createElement("canvas").getContext("2d");
          const rgb = (...colors) => { for (const c of colors) { canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1); }
            return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3); };
          const light = c => c.map(x => x / 255).map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
            .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
          const card = getComputedStyle(document.querySelector("section")).backgroundColor;
          let worst = [99];
          for (const e of document.querySelectorAll("#scale span, .token, p, h2, .soft, code, td, th")) {
            const style = getComputedStyle(e), back = light(rgb(card, style.backgroundColor)), ink = light(rgb(style.color));
            if (e.classList.contains("later")) continue;
            const contrast = (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05);
            if (contrast < worst[0]) worst = [contrast, e.outerHTML.slice(0, 99)];
          }
          return worst; })()""")
        assert worst[0] >= 4.5, f"dark={dark}: {worst}"


@needs_chromium
def test_a_token_is_chosen_by_pointing_by_keys_and_by_a_click(chromium, explained):
    chromium.size(1280, 900)
    chromium.open(explained.as_uri())
    data = data_of(explained)

    def chosen():
        return int(chromium.run("document.querySelector('#chosen b').textContent"))

    chromium.point("#text .token[data-t='3']")
    assert chosen() == 3
    chromium.click("#text .token[data-t='5']")
    chromium.key("ArrowRight")
    chromium.key("ArrowRight")
    assert chosen() == 7
    assert chromium.run("document.activeElement.dataset.t") == "7"
    chromium.key("Home")
    assert chosen() == 0 and "no loss" in chromium.run("document.querySelector('#chosen').textContent")
    chromium.key("End")
    assert chosen() == len(data["ids"]) - 1
    chromium.click("#looked .token[data-t='4']")
    assert chosen() == 4
    likeliest = data["names"][str(data["lens"][-1][4]["best"][0][0])]
    assert chromium.run("document.querySelector('#next code').textContent") == (
        likeliest.replace(" ", "·").replace("\n", "↵"))
    assert chromium.run("document.querySelectorAll('#lens tr').length") == 4  # with its head
    assert chromium.errors == []


@needs_chromium
def test_a_head_is_chosen_by_a_click_and_shows_where_it_looks(chromium, explained):
    chromium.size(1280, 900)
    chromium.open(explained.as_uri())
    data = data_of(explained)
    chromium.click("#text .token[data-t='6']")
    for block, head in (1, 2), (0, 1):
        chromium.click(f"#heads [data-head='{block},{head}']")
        weights = list(base64.b64decode(data["patterns"][block][head]))[21:28]
        most = weights.index(max(weights))
        said = chromium.run("document.querySelector('#looks').textContent")
        assert f"block {block}, head {head}" in said
        assert ("itself" in said) if most == 6 else (f"({6 - most} token" in said)
        pressed = chromium.run("[...document.querySelectorAll('#heads [aria-pressed=true]')]"
                               ".map(e => e.dataset.head)")
        assert pressed == [f"{block},{head}"]
