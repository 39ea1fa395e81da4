"""Tests the page of `pygpt study gradient`: it holds the Journey's numbers, how it is refused, and,
in a headless Chromium, how it looks."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import browser
import pytest
from commands import assert_refused, here
from test_study import broken_layernorm

import pygpt
from pygpt.autograd import ops
from pygpt.study.chain_rule import Term, sum_of
from pygpt.study.gradient import journey, tiny_model
from pygpt.study.journey_page import MOST_DECADES, Decades, page
from pygpt.study.journey_text import FORMULAS, MOST_TERMS
from pygpt.tokenizer import CharTokenizer

HOSTILE = "</script><b>@STYLE@'\"&\n\\"
needs_chromium = pytest.mark.skipif(browser.found() is None, reason="no Chromium (Debian: "
                                    "apt-get install chromium)")


class Parts(HTMLParser):
    """Collects the list items, the rows of tables and the ways to compute the gradient of a page:
    each is a list of texts, and of (class, width) for its bars."""

    def __init__(self, source):
        super().__init__()
        self.items, self.rows, self.ways = [], [], []
        self._now = []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        lists = {"li": self.items, "tr": self.rows}
        found = self.ways if attributes.get("class") == "way" else lists.get(tag)
        if found is not None:
            self._now = []
            found.append(self._now)
        if "width" in attributes.get("style", ""):
            (width,) = re.findall(r"[\d.]+", attributes["style"])
            self._now.append((attributes["class"], float(width)))

    def handle_endtag(self, tag):
        if tag in ("li", "tr"):
            self._now = []

    def handle_data(self, data):
        self._now.append(data)


def joined(parts):
    return " ".join("".join(part if isinstance(part, str) else " " for part in parts).split())


@pytest.fixture(scope="module")
def followed():
    """A Journey whose weight stands in two lines of the model, its tokenizer and its page."""
    model, tokenizer = tiny_model()
    ids = tokenizer.encode("to be, or not")
    found = journey(model, f"wte.weight[{ids[1]},2]", ids)
    return found, tokenizer, page(found, tokenizer)


def test_the_page_holds_every_kernel_with_its_sizes_norm_and_formula(followed):
    found, _, source = followed
    items = Parts(source).items
    forward, head, backward = (items[:len(found.forward)], items[len(found.forward)],
                               items[len(found.forward) + 1:])
    for calls, shown, does in (found.forward, forward, "reads the weight"), (
            found.backward, backward, "writes its gradient"):
        assert len(shown) == len(calls)
        for number, ((call, is_own), item) in enumerate(zip(calls, shown), 1):
            sizes = " ".join(f"{name}={n}" for name, n in call.sizes.items())
            text = joined(item)
            assert text.startswith(f"{number} {call.kernel} {sizes}"), text
            assert (does in text) == is_own
    low, high = (10 ** int(part[2:]) for part in head if part.startswith("1e"))
    widths = []
    for (call, _), item in zip(found.backward, backward):
        assert joined(item).endswith(FORMULAS[call.kernel])
        bars = [part for part in item if not isinstance(part, str)]
        assert bool(bars) == (call.norm is not None)
        if bars:
            assert f"{call.norm:.4g}" in item
            (_, width), = bars
            assert low * (high / low) ** (width / 100) == pytest.approx(call.norm, rel=0.01)
            widths.append(width)
    assert len(widths) > 10 and min(widths) < 50 < max(widths)


def test_the_page_holds_the_chain_rule_with_a_bar_for_each_token(followed):
    found, tokenizer, source = followed
    rows = Parts(source).rows
    longest = max(abs(t.product) for *_, terms in found.rule.sums for t in terms)
    for _, _, terms in found.rule.sums:
        assert rows.pop(0)[:2] == ["t", "token"]
        assert terms
        for term in terms:
            row, token = rows.pop(0), repr(tokenizer.decode([found.ids[term.row]]))
            numbers = [f"{x:+.6e}" for x in (term.factor, term.dy, term.product)]
            assert row[:5] == [str(term.row), token, *numbers]
            (name, width), = row[5:]
            assert name == ("bar minus" if term.product < 0 else "bar plus")
            assert width == pytest.approx(50 * abs(term.product) / longest, abs=0.01)
        total = rows.pop(0)
        assert total[0] == "sum" and float(total[1]) == pytest.approx(
            sum(t.product for t in terms), rel=1e-6)
    assert not rows and len(found.rule.sums) == 2
    assert f"the sums add up to {found.rule.total:.6e}" in source


def test_the_page_holds_the_three_gradients(followed):
    found, _, source = followed
    tape, rule, differences = map(joined, Parts(source).ways)
    assert tape == f"tapegradient{found.tape:.8e}"
    for name, way, value, bound in (
            ("chain rule", rule, found.rule.total, found.chain_bound),
            ("finite differences", differences, found.difference, found.tape_bound)):
        assert way.startswith(f"{name}gradient{value:.8e}minus the tape{value - found.tape:.1e}"
                              f"bound{bound:.1e}agrees")
    assert "All three agree." in source and "DISAGREES" not in source
    assert not re.search(r"https?:|\bsrc=|\bhref=|\bimport\b|url\(|@import|@[A-Z]+@", source)


def test_a_sum_is_shown_whole_and_an_empty_one_says_so():
    tokenizer = CharTokenizer.train("abc ")
    model = pygpt.GPT(pygpt.GPTConfig(vocab_size=4, n_positions=40, n_embd=8, n_layer=1, n_head=1))
    ids = tokenizer.encode("ab a" * 9)
    source = page(journey(model, f"wte.weight[{tokenizer.encode('c')[0]},1]", ids), tokenizer)
    assert len(Parts(source).rows) == 2 * 2 + len(ids) - 1 > MOST_TERMS + 4
    assert "so the sum is empty" in source


def test_tokens_with_html_in_them_are_texts():
    tokenizer = CharTokenizer.train(HOSTILE)
    model = pygpt.GPT(pygpt.GPTConfig(vocab_size=tokenizer.vocab_size, n_positions=40, n_embd=8,
                                      n_layer=1, n_head=1))
    found = journey(model, "ln_f.bias[0]", tokenizer.encode(HOSTILE))
    pieces = ["</script><b>", "@STYLE@", "'\"", "<!--", "\u202e\n"]

    class Pieces:
        vocab_size = tokenizer.vocab_size

        def decode_bytes(self, ids):
            return pieces[ids[0] % len(pieces)].encode()

    source = page(found, Pieces())
    assert "</script>" not in source and "<b>" not in source and "<!--" not in source
    rows = Parts(source).rows[1:-1]
    assert [row[1] for row in rows] == [repr(pieces[id % len(pieces)]) for id in found.ids]
    assert "@STYLE@" in source and source.count("box-sizing") == 1  # the style stands there once
    assert "\u202e" not in source  # repr writes it as an escape


def test_numbers_that_are_no_numbers_have_no_bars(followed):
    found, tokenizer, _ = followed
    nan, inf = float("nan"), float("inf")
    calls = [(replace(call, norm=norm), own)
             for (call, own), norm in zip(found.backward, [None, nan, inf, 0.0, 1.0] * 9)]
    terms = [replace(term, dy=dy) for term, dy in zip(found.rule.sums[0][2], [nan, inf, 0.0])]
    rule = replace(found.rule, sums=[(*found.rule.sums[0][:2], terms)])
    source = page(replace(found, backward=calls, rule=rule, tape=nan), tokenizer)
    assert "DISAGREES" in source and "They do not agree" in source
    assert not re.search("width: (nan|inf)", source)
    for values, total in ([inf, -inf], nan), ([1.7e308, 1.7e308], inf), ([1e16, 1.0, -1e16], 1.0):
        assert repr(sum_of([Term(0, 1.0, dy) for dy in values])) == repr(total)
    for norms in [], [0.0], [nan], [1.0], [1e-300, 1e300]:
        scale = Decades(norms)
        assert 1 <= scale.decades <= MOST_DECADES
        assert all(0 <= p <= 100 for n in norms if (p := scale.percent(n)) is not None)


# --------------------------------------------------------------------------------- the command ---

def test_the_command_writes_the_page_and_prints_what_it_prints_without(tmp_path):
    target = tmp_path / "x.html"
    alone, both = here("study", "gradient"), here("study", "gradient", "--output", target)
    assert (both.returncode, both.stderr) == (0, "")
    assert both.stdout == f"{alone.stdout}{target}\n"
    assert "All three agree." in target.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [target]


def test_gradients_that_disagree_are_named_on_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(ops, "layernorm", broken_layernorm)
    done = here("study", "gradient", "--output", tmp_path / "x.html")
    assert done.returncode == 1 and "DISAGREES" in done.stdout
    source = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert 'verdict bad">DISAGREES' in source and "They do not agree" in source


@pytest.mark.parametrize(("words", "parts"), [
    (["--output", "none/x.html"], ["none/x.html"]), (["--output", ""], []),
    (["--output", "x.html", "--text", "T"], ["1 token"]),
    (["--output", "x.html", "--weight", "ln_g.weight[0]"], ["ln_g"])])
def test_a_page_that_cannot_be_made_is_refused_in_one_line_and_leaves_nothing(
        tmp_path, monkeypatch, words, parts):
    monkeypatch.setattr("pygpt.study.gradient.journey", None if "none/x.html" in words else journey)
    assert_refused(here("study", "gradient", *words, cwd=tmp_path), 1, *parts)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_no_page(tmp_path, monkeypatch):
    def interrupted(*_):
        assert list(tmp_path.iterdir())  # the file is open before the slow part
        raise KeyboardInterrupt

    monkeypatch.setattr("pygpt.study.gradient.journey", interrupted)
    done = here("study", "gradient", "--output", tmp_path / "x.html")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------- in a browser ---

@pytest.fixture(scope="module")
def chromium():
    with browser.Browser() as opened:
        yield opened


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_fits_every_screen_asks_for_nothing_and_can_be_read(
        chromium, followed, tmp_path, width, dark):
    (tmp_path / "x.html").write_text(followed[2], encoding="utf-8")
    address = (tmp_path / "x.html").as_uri()
    chromium.size(width, 800, dark, touch=width < 500)
    chromium.open(address)
    assert chromium.errors == [] and chromium.requests == [address]
    assert chromium.run("document.documentElement.scrollWidth") <= width
    assert chromium.run("[...document.querySelectorAll('main *')].filter(e => e.clientWidth && "
                        "e.scrollWidth > e.clientWidth + 1).map(e => e.outerHTML)") == []
    worst = chromium.run(browser.LOWEST_CONTRAST % ("section", "h1, p, h2, h3, .soft, code, td, "
                                                    "th, dt, dd, .own, .formula"))
    assert worst[0] >= 4.5, worst


@needs_chromium
def test_bars_of_products_lie_on_the_side_of_their_sign(chromium, followed, tmp_path):
    (tmp_path / "x.html").write_text(followed[2], encoding="utf-8")
    for width in 360, 1280:
        chromium.size(width, 800)
        chromium.open((tmp_path / "x.html").as_uri())
        sides = chromium.run("""[...document.querySelectorAll(".signed .bar")].map(bar => {
          const [b, all] = [bar, bar.parentNode].map(e => e.getBoundingClientRect());
          return [b.left + b.width / 2 > all.left + all.width / 2, b.width / all.width]; })""")
        terms = [term for *_, terms in followed[0].rule.sums for term in terms]
        assert [side for side, _ in sides] == [term.product >= 0 for term in terms]
        assert max(share for _, share in sides) == pytest.approx(0.5, abs=0.01)


@needs_chromium
def test_the_tables_can_be_scrolled_with_keys(chromium, followed, tmp_path):
    (tmp_path / "x.html").write_text(followed[2], encoding="utf-8")
    chromium.size(1280, 800)
    chromium.open((tmp_path / "x.html").as_uri())
    chromium.key("Tab")
    assert chromium.run("document.activeElement.matches('.scroll[tabindex][aria-label]')")
