"""Tests `pygpt explain`: what the page holds, how bad input is refused, and, in a headless
Chromium, how it looks and answers."""

import base64
import importlib
import json
import math
import random
import re
from importlib import resources

import browser
import pytest
from commands import ROOT, here
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
    """A model with random weights, large enough for sharp attention, and its tokenizer."""
    path = tmp_path_factory.mktemp("explained") / "model"
    tokenizer = pygpt.CharTokenizer.train(VOCABULARY)
    config = pygpt.GPTConfig(vocab_size=tokenizer.vocab_size + 2, n_positions=64, n_embd=24,
                             n_layer=2, n_head=3)
    model = pygpt.GPT(config, seed=2)
    for _, p in model.named_parameters():
        values = p.flat()
        for i in range(p.size):
            values[i] *= 6
    model.save_pretrained(path)
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
    (["none", "to"], 1, "none"), (["DIR"], 2, "TEXT"),
    (["DIR", "to", "--threads", "999"], 2, "999"),
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
    assert chromium.run("document.querySelector('#text').textContent") == TEXT


@needs_chromium
def test_every_colour_of_a_text_can_be_read(chromium, explained):
    """WCAG asks for a contrast of 4.5 between a text and its background."""
    for dark in False, True:
        chromium.size(1280, 900, dark)
        chromium.open(explained.as_uri())
        chromium.run("choose(0)")  # which looks at itself alone, in the strongest colour
        worst = chromium.run(browser.LOWEST_CONTRAST % (
            "section", "#scale span, .token:not(.later), p, h2, .soft, code, td, th"))
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
    assert chosen() == 0
    assert "no loss" in chromium.run("document.querySelector('#chosen').textContent")
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
        pressed = chromium.run("[...document.querySelectorAll('#heads [aria-checked=true]')]"
                               ".map(e => e.dataset.head)")
        assert pressed == [f"{block},{head}"]


def test_every_line_of_the_pages_fits_100_columns():
    for path in resources.files("pygpt.study").joinpath("pages").iterdir():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert len(line) <= 100, f"{path}:{number}"


def test_nothing_moves_by_itself():
    """So a reader who asked the system for reduced motion gets it."""
    assert not re.search(r"transition|animation|@keyframes|smooth", page("", None))


@needs_chromium
def test_a_text_keeps_its_line_breaks_and_its_signs_can_be_seen(chromium, tmp_path):
    """The text is copied as it is: the marks are CSS."""
    text = "a\tb\n\n\x01 é😀 مرحبا"
    tokenizer = pygpt.CharTokenizer.train(text)
    model = pygpt.GPT(pygpt.GPTConfig(vocab_size=tokenizer.vocab_size, n_positions=32, n_embd=8,
                                      n_layer=1, n_head=1))
    path = tmp_path / "signs.html"
    path.write_text(page("signs", explanation(model, tokenizer, tokenizer.encode(text))), "utf-8")
    chromium.size(1280, 900)
    chromium.open(path.as_uri())
    assert chromium.run("document.querySelector('#text').textContent") == text
    assert chromium.run("[...document.querySelectorAll('#text .sign')].map(e => e.dataset.sign)"
                        ) == ["⇥", "↵", "↵", "\\u1"]
    tops = chromium.run("[...document.querySelectorAll('#text .token')]"
                        ".map(e => Math.round(e.getClientRects()[0].top))")
    assert tops[0] == tops[2] < tops[4] < tops[6] == tops[7], "the second line is empty"
    assert chromium.run("document.querySelector(\"[data-t='6']\").ariaLabel") == "·"
    assert chromium.errors == []


def number_chosen(page):
    return int(page.run("document.querySelector('#chosen b').textContent"))


@needs_chromium
def test_a_click_holds_a_token_until_it_is_let_go(chromium, explained):
    chromium.size(1280, 900)
    chromium.open(explained.as_uri())
    chromium.click("#text [data-t='3']")
    chromium.point("#text [data-t='5']")
    assert number_chosen(chromium) == 3
    chromium.key("Escape")
    chromium.point("#looked [data-t='6']")
    assert number_chosen(chromium) == 6
    chromium.click("#looked [data-t='6']")
    chromium.point("#text [data-t='1']")
    assert number_chosen(chromium) == 6
    chromium.click("#looked [data-t='6']")
    chromium.point("#text [data-t='1']")
    assert number_chosen(chromium) == 1
    chromium.click("#text [data-t='2']")
    chromium.click("#text [data-t='4']")  # another one, which is then held
    chromium.point("#text [data-t='1']")
    assert number_chosen(chromium) == 4


@needs_chromium
def test_attention_is_shown_for_a_head_a_block_and_all_heads(chromium, explained):
    chromium.size(1280, 900)
    chromium.open(explained.as_uri())
    data, t = data_of(explained), 6
    rows = [[list(base64.b64decode(text))[21:28] for text in block] for block in data["patterns"]]
    chromium.click(f"#text [data-t='{t}']")
    chromium.click("#heads [data-head='1,2']")
    views = {"head": [rows[1][2]], "block": rows[1], "all": rows[0] + rows[1]}
    for view, chosen in views.items():
        chromium.click(f"input[value={view}]")
        means = [sum(column) / len(chosen) / 255 for column in zip(*chosen)]
        titles = chromium.run("[...document.querySelector('#looked').children].map(e => e.title)")
        shown = [float(title.rstrip("\u00a0%").lstrip("< ")) / 100 for title in titles[:t + 1]]
        assert shown == pytest.approx(means, abs=0.006)
        assert set(titles[t + 1:]) == {"later: it cannot be seen"}
        share = f"{100 * max(means):.0f}"
        assert share in chromium.run("document.querySelector('#looks').textContent")
    for block, head in ((0, 0), (0, 2), (1, 1)):
        row = rows[block][head]
        most = row.index(max(row))
        token, share = chromium.run(f"""[...document.querySelector(
            "#most [data-head='{block},{head}']").children].map(e => e.textContent)""")
        assert token == data["tokens"][most].replace(" ", "·").replace("\n", "↵")
        place, share = share.split(", ")
        assert place == ("itself" if most == t else f"\u2212{t - most}")
        assert float(share.rstrip("\u00a0%")) == pytest.approx(max(row) / 2.55, abs=0.6)


@needs_chromium
def test_each_token_shows_the_bits_of_its_own_loss(chromium, explained):
    chromium.size(1280, 900)
    chromium.open(explained.as_uri())
    data = data_of(explained)
    bits = [-logprob / math.log(2) for logprob in data["logprobs"]]
    shown = chromium.run("""[...document.querySelector("#text").children].map(e =>
        [e.title, e.style.backgroundColor])""")
    assert [title for title, _ in shown] == [
        "the first token", *(f"{number:.1f} bits" for number in bits[1:])]
    shares = [int(re.search(r"(\d+)%", color)[1]) for _, color in shown[1:]]
    assert shares == pytest.approx([72 * min(number / 10, 1) for number in bits[1:]], abs=0.51)
    for t in range(1, 9):
        chromium.run(f"choose({t})")
        said = chromium.run("document.querySelector('#chosen').textContent")
        assert f"{-data['logprobs'][t]:.2f} nats ({bits[t]:.1f} bits)" in said
        guess = data["lens"][-1][t - 1]["best"][0][0]
        assert ("It was the likeliest" in said) == (guess == data["ids"][t])
        if guess != data["ids"][t]:
            name = data["names"][str(guess)].replace(" ", "·").replace("\n", "↵")
            assert f"The likeliest was {name} (" in said


@needs_chromium
def test_the_token_that_follows_has_a_frame_and_a_rank_at_each_depth(chromium, explained):
    chromium.size(1280, 900)
    chromium.open(explained.as_uri())
    data = data_of(explained)
    for t in range(6):
        chromium.run(f"choose({t})")
        follower, places = data["ids"][t + 1], []
        for choices in data["lens"]:
            best = [id for id, _ in choices[t]["best"]]
            places.append(str(best.index(follower) + 1) if follower in best else "over 10")
        assert chromium.run("""[...document.querySelectorAll("#lens tr")].slice(1).map(row =>
            row.lastChild.textContent)""") == places
        wanted = [data["names"][str(id)] for id in best] + (
            [] if follower in best else [data["tokens"][t + 1]])
        names, framed = chromium.run("""["code", "code.target"].map(name =>
            [...document.querySelectorAll(`#next ${name}`)].map(e => e.textContent))""")
        assert [framed, names] == [[text.replace(" ", "·").replace("\n", "↵") for text in texts]
                                   for texts in ([data["tokens"][t + 1]], wanted)]


@needs_chromium
def test_a_token_that_looks_like_html_is_a_text_on_the_page(chromium, explained, tmp_path):
    data, bad = data_of(explained), "<b>x</b><img/src=x:>"
    data["tokens"] = [bad] * len(data["tokens"])
    data["names"] = dict.fromkeys(data["names"], bad)
    path = tmp_path / "html.html"
    path.write_text(page(bad, data), "utf-8")
    chromium.size(1280, 900)
    chromium.open(path.as_uri())
    assert chromium.run("document.querySelectorAll('main img, code *').length") == 0
    for place in "#text .token", "#looked .token", "#chosen code", "#next code", "#lens code":
        assert chromium.run(f"document.querySelector('{place}').textContent") == bad
    assert chromium.errors == []


@needs_chromium
def test_the_chart_of_the_stream_shows_the_lengths_of_the_chosen_token(chromium, explained):
    chromium.size(1280, 900)
    chromium.open(explained.as_uri())
    data, t = data_of(explained), 7
    chromium.run(f"choose({t})")
    for part, name in ("attn", "attn_norms"), ("mlp", "mlp_norms"), ("dot", "stream_norms"):
        norms = [row[t] for row in data[name]]
        shown, ends = chromium.run(f"""(() => {{
            const parts = [...document.querySelectorAll("#stream .{part}")];
            return [parts.map(e => +e.querySelector("title").textContent.split(": ")[1]),
                parts.map(e => 216 - +(e.getAttribute("cy") ?? e.getAttribute("y")))]; }})()""")
        assert shown == pytest.approx(norms, rel=0.006)
        scale = ends[0] / norms[0]
        assert scale > 0 and ends == pytest.approx([scale * norm for norm in norms])


def alphas_of(chromium, selector):
    """Return the opacity of each pixel of a canvas, row by row."""
    return chromium.run(f"""(() => {{ const c = document.querySelector("{selector} canvas");
        return [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data]
            .filter((_, i) => i % 4 === 3); }})()""")


@needs_chromium
def test_a_picture_shows_who_looks_in_its_rows_and_at_what_in_its_columns(chromium, explained,
                                                                          tmp_path):
    chromium.size(1280, 900)
    chromium.open(page_of_heads(explained, tmp_path / "picture.html",
                                lambda t, j: 255 * (j == 0), lambda t, j: 64 * (j == t - 2), T=20))
    assert alphas_of(chromium, "#heads [data-head='0,0']") == [
        255 * (j == 0) for t in range(20) for j in range(20)]
    assert alphas_of(chromium, "#heads [data-head='0,1']") == [
        pytest.approx(128, abs=1) if j == t - 2 else 0 for t in range(20) for j in range(20)]


@needs_chromium
def test_a_pixel_of_a_small_picture_is_as_dark_as_the_largest_weight_in_it(chromium, explained,
                                                                           tmp_path):
    chromium.size(1280, 900)
    chromium.open(page_of_heads(explained, tmp_path / "picture.html",
                                lambda t, j: 255 * (t % 4 == j % 4 == 1), T=256))
    assert alphas_of(chromium, "#heads [data-head='0,0']") == [
        255 * (column <= row) for row in range(64) for column in range(64)]


def move_over(chromium, row, column, T):
    """Move the mouse over a cell of the enlarged picture; return its place."""
    left, top, size = chromium.run("""(() => { const e = document.querySelector(".square");
        e.scrollIntoView({block: "center", behavior: "instant"});
        const { left, top, width } = e.getBoundingClientRect(); return [left, top, width]; })()""")
    place = {"x": left + (column + 0.5) * size / T, "y": top + (row + 0.5) * size / T}
    chromium.call("Input.dispatchMouseEvent", type="mouseMoved", **place)
    return place


@needs_chromium
def test_the_chosen_head_is_enlarged_with_its_tokens_and_the_row_of_the_chosen_one(
        chromium, explained, tmp_path):
    T = 20
    chromium.size(1280, 900)
    chromium.open(page_of_heads(explained, tmp_path / "enlarged.html",
                                lambda t, j: 255 * (j == 0), lambda t, j: 51 * (j >= t - 4), T=T))
    names = [text.replace(" ", "·").replace("\n", "↵") for text in data_of(explained)["tokens"][:T]]
    chromium.click("#heads [data-head='0,1']")
    assert alphas_of(chromium, ".square") == [
        pytest.approx(114, abs=1) if t - 4 <= j <= t else 0 for t in range(T) for j in range(T)]
    for part in "across", "down":
        assert chromium.run(f"[...document.querySelector('.{part}').children]"
                            ".map(e => e.textContent)") == names
    place = move_over(chromium, 9, 6, T)
    assert number_chosen(chromium) == 9
    assert chromium.run("document.querySelector('.square').title") == (
        f"token 9 {names[9]} looks at token 6 {names[6]}: 20\u00a0%")
    frame = chromium.run("""(() => { const e = document.querySelector(".square");
        const { top, height, width } = getComputedStyle(e, "::after");
        return [top, height, width].map(text => parseFloat(text) / e.clientWidth); })()""")
    assert frame == pytest.approx([9 / T, 1 / T, 10 / T], abs=0.002)
    for kind in "mousePressed", "mouseReleased":
        chromium.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)
    move_over(chromium, 3, 8, T)
    assert number_chosen(chromium) == 9, "the click holds it"
    assert "cannot see token 8" in chromium.run("document.querySelector('.square').title")
    said = chromium.run("document.querySelector('#enlarged').ariaLabel")
    assert said.startswith("Block 0, head 1: on average 20\u00a0% on the token itself, ")
    assert f"Token 9, {names[9]}, looks most at token 5, {names[5]}: 20\u00a0%." in said
    chromium.run("document.querySelector('#heads [tabindex=\"0\"]').focus()")
    chromium.key("ArrowLeft")
    assert chromium.run("document.querySelector('#enlarged-name').textContent") == "Block 0, head 0"
    assert alphas_of(chromium, ".square")[T:2 * T] == [255] + [0] * (T - 1)
    said = chromium.run("document.querySelector('#enlarged').ariaLabel").replace("\u00a0", " ")
    assert "0 % on the token itself, 5 % on the one before, 100 % on the first" in said  # 1 / 19
    assert chromium.errors == []


@needs_chromium
@pytest.mark.parametrize(("T", "labels"), [(1, 1), (24, 24), (25, 0), (256, 0)])
def test_the_enlarged_head_has_a_pixel_for_each_weight_on_every_screen(chromium, explained,
                                                                       tmp_path, T, labels):
    address = page_of_heads(explained, tmp_path / "enlarged.html", lambda t, j: 255 // (t + 1), T=T)
    for width in 360, 1280:
        chromium.size(width, 800, touch=width < 500)
        chromium.open(address)
        size, pixels, names = chromium.run("""[document.querySelector(".square").clientWidth,
            document.querySelector(".square canvas").width,
            document.querySelector(".across").children.length]""")
        assert 256 <= size <= 320 and (pixels, names) == (T, labels)
        assert chromium.run("document.documentElement.scrollWidth") <= width
        assert chromium.errors == []


def kinds_of(chromium):
    """Return the rows of the table of kinds: [the head, itself, previous, first, kind]."""
    return chromium.run("""[...document.querySelector("#kinds").children].map(row =>
        [row.dataset.head, ...[...row.children].slice(1).map(e => e.textContent)])""")


@needs_chromium
def test_the_table_of_kinds_shows_the_mean_weights_of_each_head(chromium, directory, explained):
    """On the token itself, the one before and the first, from the weights of the trace."""
    chromium.size(1280, 900)
    chromium.open(explained.as_uri())
    pipeline = pygpt.Pipeline.from_pretrained(directory)
    ids = pipeline.tokenizer.encode(TEXT)
    blocks, T = trace(pipeline.model, ids).blocks, len(ids)
    rows = kinds_of(chromium)
    assert [row[0] for row in rows] == [f"{block},{head}" for block in (0, 1) for head in range(3)]
    for name, *shown, _ in rows:
        block, head = map(int, name.split(","))
        pattern = blocks[block].patterns[head]
        means = [sum(pattern[t * T + j] for t, j in enumerate(places, 1)) / (T - 1)
                 for places in (range(1, T), range(T - 1), [0] * (T - 1))]
        # a half of a percent by rounding, and a half of 1/255 in each weight
        assert [float(text.rstrip("\u00a0%")) / 100 for text in shown] == pytest.approx(
            means, abs=0.005 + 0.5 / 255)


def resized(data, T, patterns):
    """Return data for T tokens, which repeat those of `data`, and patterns for each block."""
    L, times = len(patterns), -(-T // len(data["ids"]))
    lists = {name: (data[name] * times)[:T] for name in ("ids", "tokens", "logprobs")}
    for name, count in (("lens", L + 1), ("stream_norms", L + 1), ("attn_norms", L),
                        ("mlp_norms", L)):
        lists[name] = [(data[name][0] * times)[:T]] * count
    return {**data, **lists, "patterns": patterns, "n_layer": L, "n_head": len(patterns[0])}


def page_of_heads(explained, path, *rules, T=34):
    """Write a page of one block whose head h gives the weight rules[h](t, j), in 255ths."""
    patterns = [base64.b64encode(bytes(rule(t, j) for t in range(T) for j in range(t + 1))).decode()
                for rule in rules]
    path.write_text(page("heads", resized(data_of(explained), T, [patterns])), "utf-8")
    return path.as_uri()


@needs_chromium
def test_the_kinds_of_heads_are_named_and_sorted(chromium, explained, tmp_path):
    address = page_of_heads(
        explained, tmp_path / "kinds.html",
        lambda t, j: 255 // (t + 1),               # even
        lambda t, j: 255 * (j == 0),               # first
        lambda t, j: 255 * (j == max(t - 1, 0)),   # previous
        lambda t, j: 255 * (j == t),               # itself
        lambda t, j: 153 * (j == t - 1) + 102 * (j == t),
        lambda t, j: 115 * (j == t - 1) + 140 * (j == t - 2))
    chromium.size(1280, 900)
    chromium.open(address)
    assert [row[-1] for row in kinds_of(chromium)] == ["-", "first", "previous", "itself",
                                                       "previous", "-"]
    assert kinds_of(chromium)[4][1:3] == ["40\u00a0%", "60\u00a0%"]
    for by, order, sort in ((1, "245", "descending"), (0, "34", "descending"),
                            (2, "1", "descending"), (-1, "012345", "ascending")):
        chromium.click(f"#kinds-by [data-by='{by}']")
        assert "".join(row[0][2:] for row in kinds_of(chromium)).startswith(order)
        assert chromium.run("""[...document.querySelectorAll("#kinds-by [aria-sort]")].map(e =>
            [+e.firstChild.dataset.by, e.ariaSort])""") == [[by, sort]]
    chromium.click("#kinds-by [data-by='1']")
    chromium.click("#kinds [data-head='0,3']")
    assert "block 0, head 3" in chromium.run("document.querySelector('#looks').textContent")
    chromium.click("#heads [data-head='0,2']")
    assert chromium.run("document.querySelector('#kinds [aria-current]').dataset.head") == "0,2"
    assert chromium.errors == []


@needs_chromium
def test_one_token_has_no_kinds(chromium, tmp_path):
    tokenizer = pygpt.CharTokenizer.train("ab")
    model = pygpt.GPT(pygpt.GPTConfig(vocab_size=2, n_positions=4, n_embd=8, n_layer=1, n_head=1))
    path = tmp_path / "one.html"
    path.write_text(page("one", explanation(model, tokenizer, [1])), "utf-8")
    chromium.size(1280, 900)
    chromium.open(path.as_uri())
    assert kinds_of(chromium) == [["0,0", "-", "-", "-", "-"]] and chromium.errors == []


@needs_chromium
def test_the_maps_show_what_each_block_adds_to_each_token(chromium, explained):
    chromium.size(1280, 900)
    chromium.open(explained.as_uri())
    data = data_of(explained)
    maps = chromium.run("""[...document.querySelectorAll(".map")].map(map =>
        [...map.querySelectorAll("tr")].slice(1).map(row => +row.lastChild.textContent))""")
    wanted = [[sum(row) / len(row) for row in data[name]]
              for name in ("attn_norms", "mlp_norms", "stream_norms")]
    assert maps == [pytest.approx(rows, rel=0.006) for rows in wanted]
    chromium.click(".map:nth-of-type(2) .strip")  # its middle
    middle = len(data["ids"]) // 2
    assert number_chosen(chromium) == middle
    chromium.point(".map:nth-of-type(2) .strip")
    title = chromium.run("document.querySelector('.map:nth-of-type(2) .strip').title")
    assert f"token {middle}" in title and f"{data['mlp_norms'][0][middle]:.3g}" in title
    alphas = chromium.run("""(() => {
        const c = document.querySelector(".map:nth-of-type(2) canvas");
        return [...c.getContext("2d").getImageData(0, 0, c.width, 1).data]
            .filter((_, i) => i % 4 === 3); })()""")
    norms = sorted(zip(data["mlp_norms"][0], alphas))
    assert [alpha for _, alpha in norms] == sorted(alphas), "a longer vector is darker"


@needs_chromium
def test_every_control_is_reached_by_tab_and_shows_that_it_has_the_focus(chromium, explained):
    chromium.size(1280, 900)
    chromium.open(explained.as_uri())
    reached = []
    for _ in range(16):
        chromium.key("Tab")
        name, outline = chromium.run("""(() => { const e = document.activeElement;
            return [e.closest("#text, #heads, #view, #looked, summary, .scroll, body").id
                || e.className || e.localName, getComputedStyle(e).outlineStyle]; })()""")
        if name == "body":
            break
        reached.append(name)
        assert outline != "none", name
    assert reached == ["text", "heads", "view", "looked", "scroll", *["button"] * 4, "summary",
                       "scroll", "scroll"]


@needs_chromium
def test_arrow_keys_move_among_the_heads(chromium, explained):
    chromium.size(1280, 900)
    chromium.open(explained.as_uri())
    chromium.click("#heads [data-head='0,0']")
    for key, place in (("ArrowRight", "0,1"), ("ArrowDown", "1,1"), ("ArrowLeft", "1,0"),
                       ("ArrowLeft", "0,2"), ("ArrowUp", "0,2"), ("End", "1,2"), ("Home", "0,0")):
        chromium.key(key)
        assert chromium.run("document.activeElement.dataset.head") == place
        assert f"block {place[0]}, head {place[2]}" in chromium.run(
            "document.querySelector('#looks').textContent")


@needs_chromium
def test_each_control_has_a_name_for_a_screen_reader(chromium, explained):
    chromium.open(explained.as_uri())
    nodes = [node for node in chromium.call("Accessibility.getFullAXTree")["nodes"]
             if node.get("role", {}).get("value") in ("option", "radio", "listbox", "radiogroup",
                                                      "image", "img")]
    assert len(nodes) > 2 * len(TEXT)
    assert [node for node in nodes if not node.get("name", {}).get("value")] == []


@needs_chromium
def test_it_is_printed_on_white(chromium, explained):
    chromium.size(1280, 900, dark=True)
    chromium.open(explained.as_uri())
    chromium.call("Emulation.setEmulatedMedia", media="print", features=[
        {"name": "prefers-color-scheme", "value": "dark"}])
    try:
        back, ink = chromium.run("""["backgroundColor", "color"].map(name =>
            getComputedStyle(document.body)[name])""")
    finally:
        chromium.call("Emulation.setEmulatedMedia", media="")
    assert sum(map(int, re.findall(r"\d+", back))) > 700 > 300 > sum(
        map(int, re.findall(r"\d+", ink)))


@needs_chromium
def test_make_hover_measures_how_soon_a_page_answers(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "bench"))
    hover = importlib.import_module("hover")
    monkeypatch.setattr(hover, "CHOICES", 3)
    assert hover.main() == 0
    assert re.search(r"^hover: 3 choices of a token, .*: median \d+ ms, fastest \d+, slowest \d+$",
                     capsys.readouterr().out, re.MULTILINE)


@needs_chromium
def test_the_largest_page_shows_what_is_chosen(chromium, explained, tmp_path):
    """`make hover` measures how soon."""
    T = MOST_TOKENS
    pattern = base64.b64encode(random.Random(1).randbytes(T * (T + 1) // 2)).decode()
    path = tmp_path / "large.html"
    path.write_text(page("large", resized(data_of(explained), T, [[pattern] * 12] * 12)), "utf-8")
    chromium.size(1280, 900)
    chromium.open(path.as_uri())
    chosen = "document.querySelectorAll('#text [role=option]')[%d].ariaSelected"
    for t in (37, 255, 0):
        chromium.run(f"choose({t})")
        assert chromium.run(chosen % t) == "true" and chromium.errors == []
