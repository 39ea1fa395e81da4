"""Tests `pygpt play`: as visitors with good and bad intentions send requests, and as a person uses
the page in a headless Chromium."""

import contextlib
import http.client
import json
import math
import select
import signal
import socket
import subprocess
import threading
import time

import browser
import pytest
from commands import COMMAND, ENVIRONMENT, here

import pygpt
from pygpt.study import server as server_module
from pygpt.study.ablation import heads_off
from pygpt.study.play import Play, live_page
from pygpt.study.server import MOST_BYTES, MOST_CONNECTIONS, Server

needs_chromium = pytest.mark.skipif(browser.found() is None, reason="no Chromium (Debian: "
                                    "apt-get install chromium)")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model with random weights that never ends a text, and its tokenizer."""
    path = tmp_path_factory.mktemp("played") / "model"
    tokenizer = pygpt.CharTokenizer.train("abcdefghijklmnopqrstuvwxyz <>/\n")
    config = pygpt.GPTConfig(vocab_size=tokenizer.vocab_size, n_positions=64, n_embd=24, n_layer=2,
                             n_head=3)
    model = pygpt.GPT(config, seed=2)
    for _, p in model.named_parameters():  # so that its heads matter
        values = p.flat()
        for i in range(p.size):
            values[i] *= 6
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@contextlib.contextmanager
def served(play, page="the page"):
    server = Server(play, page)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server(directory):
    with served(Play(pygpt.Pipeline.from_pretrained(directory))) as server:
        yield server


def asked(server, name, body=None, method="POST", key=None, **headers):
    """Send a request; return (status, headers, body as bytes)."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    if isinstance(body, dict):
        body = json.dumps(body).encode()
    given = {"Content-Type": "application/json"} | {
        word.replace("_", "-"): value for word, value in headers.items()}
    connection.request(method, f"/{server.key if key is None else key}/{name}", body,
                       {word: value for word, value in given.items() if value is not None})
    answer = connection.getresponse()
    result = answer.status, answer.headers, answer.read()
    connection.close()
    return result


def lines_of(body):
    return [json.loads(line) for line in body.decode().splitlines()]


def test_the_page_comes_at_its_address_and_may_load_nothing(server):
    status, headers, body = asked(server, "", method="GET")
    assert (status, body) == (200, b"the page")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert server.address == f"http://127.0.0.1:{server.server_port}/{server.key}/"
    assert len(server.key) >= 22  # 128 bits


def test_it_listens_to_this_machine_alone(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"


def test_a_written_text_is_the_pipelines(server, directory):
    settings = {"temperature": 0.9, "top_k": 7, "top_p": 0.9, "seed": 5, "max_new_tokens": 20}
    status, _, body = asked(server, "write", {"text": "abc", **settings})
    first, *steps, last = lines_of(body)
    found = pygpt.Pipeline.from_pretrained(directory)("abc", **settings)
    assert status == 200
    assert last["ids"] == found.prompt_ids + found.ids and last["stop"] == found.stop
    assert first["ids"] == found.prompt_ids
    assert "".join(step["text"] for step in steps) == str(found)
    drawn = [step for step in steps if "id" in step]
    assert [step["id"] for step in drawn] == found.ids
    for step in drawn:
        assert 0 < step["p"] <= 1 and len(step["best"]) == 12


def test_a_candidate_that_is_drawn_alone_has_probability_one(server):
    _, _, body = asked(server, "candidates", {"text": "ab", "temperature": 0})
    found = json.loads(body)
    assert found["count"] == 1 and found["drawn"][0][1] == 1.0
    assert found["drawn"][0][0] == found["model"][0][0]
    _, _, body = asked(server, "candidates", {"text": "ab", "temperature": 1, "top_k": 0,
                                              "top_p": 1})
    found = json.loads(body)
    assert found["drawn"] == found["model"] and found["count"] == 31


def test_a_low_temperature_sharpens_and_a_high_one_flattens(server):
    def entropy(temperature):
        _, _, body = asked(server, "candidates", {"text": "ab", "temperature": temperature,
                                                  "top_k": 12, "top_p": 1})
        return -sum(p * math.log(p) for _, p in json.loads(body)["drawn"])
    assert entropy(0.2) < entropy(1) < entropy(2)


def test_heads_are_off_for_one_request_alone(server):
    request = {"text": "abc", "off": []}
    all_on = asked(server, "explain", request)[2]
    off = asked(server, "explain", {**request, "off": [[0, 0], [0, 1], [0, 2]]})[2]
    assert off != all_on
    assert asked(server, "explain", request)[2] == all_on


@pytest.mark.parametrize(("name", "request_", "words"), [
    ("write", {}, "text=None"), ("write", {"text": 3}, "text=3"),
    ("write", {"text": "a", "temperature": -1}, "temperature=-1"),
    ("write", {"text": "a", "temperature": "hot"}, "temperature='hot'"),
    ("write", {"text": "a", "max_new_tokens": 10 ** 30}, "max_new_tokens"),
    ("write", {"text": "a", "seed": [1]}, "seed"), ("write", {"text": "a", "off": 3}, "off=3"),
    ("write", {"text": "a", "off": [[9, 0]]}, "no head 0 in block 9"),
    ("explain", {"text": ["a"]}, "text=['a']"),
    ("explain", {"text": "a", "off": [[0, True]]}, "off="),
    ("candidates", {"text": "a", "top_p": 0}, "top_p=0"), ("candidates", {}, "text=None")])
def test_a_request_that_makes_no_sense_is_refused_in_one_line(server, name, request_, words):
    status, _, body = asked(server, name, request_)
    message = json.loads(body)["error"]
    assert status == 400 and words in message and "\n" not in message


@pytest.mark.parametrize(("status", "name", "body", "options"), [
    (404, "", None, {"method": "GET", "key": "wrong"}),
    (404, "", None, {"method": "GET", "key": ""}),
    (404, "more", None, {"method": "GET"}), (404, "play", {}, {}), (404, "__class__", {}, {}),
    (404, "_named", {}, {}), (403, "explain", {"text": "a"}, {"Origin": "http://example.com"}),
    (403, "explain", {"text": "a"}, {"Origin": "null"}),
    (403, "", None, {"method": "GET", "Host": "example.com"}),
    (415, "explain", {"text": "a"}, {"Content_Type": "text/plain"}),
    (415, "explain", {"text": "a"}, {"Content_Type": "application/x-www-form-urlencoded"}),
    (400, "explain", b"[" * 100_000, {}), (400, "explain", b"\xff", {}),
    (400, "explain", b"[]", {}),
    (400, "explain", b'{"text": 1e999}', {}), (501, "", None, {"method": "PUT"}),
    (413, "explain", b"", {"Content_Length": str(MOST_BYTES + 1)}),
    (413, "explain", b"", {"Content_Length": "9" * 5000}),
    (411, "explain", b"", {"Content_Length": "-1"})])
def test_bad_visitors_are_refused(server, status, name, body, options):
    got, _, answer = asked(server, name, body, **options)
    assert got == status
    assert server.key.encode() not in answer
    assert asked(server, "explain", {"text": "a"})[0] == 200  # the next one is served


@pytest.mark.parametrize("data", [b"", b"\r\n\r\n", b"GET\r\n\r\n", b"\xff\xfe\r\n\r\n",
                                  b"POST / HTTP/1.1\r\n\r\n", b"GET " + b"/" * 70_000,
                                  b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nHost: \r\n\r\n"])
def test_bytes_that_are_no_request_do_not_end_the_server(server, data):
    with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(1 << 16):
                pass
    assert asked(server, "explain", {"text": "a"})[0] == 200


class Slow:
    """Writes without an end, and counts."""

    def __init__(self):
        self.written, self.is_over = 0, threading.Event()

    def write(self, request):
        try:
            while True:
                self.written += 1
                yield {"text": "x" * 10_000}
                time.sleep(0.001)
        finally:
            self.is_over.set()

    def explain(self, request):
        return {}


def test_one_text_at_a_time_and_a_visitor_who_leaves_ends_it():
    slow = Slow()
    with served(slow) as server:
        connection = socket.create_connection(("127.0.0.1", server.server_port))
        connection.sendall(f"POST /{server.key}/write HTTP/1.1\r\nHost: 127.0.0.1:"
                           f"{server.server_port}\r\nContent-Type: application/json\r\n"
                           "Content-Length: 2\r\n\r\n{}".encode())
        assert connection.recv(100).startswith(b"HTTP/1.0 200")
        status, _, body = asked(server, "write", {})
        assert status == 409 and "another text" in json.loads(body)["error"]
        connection.close()
        assert slow.is_over.wait(20)
        assert asked(server, "explain", {})[0] == 200


def test_an_error_amid_a_text_ends_it_with_a_line():
    class Broken(Slow):
        def write(self, request):
            yield {"text": "x"}
            raise ValueError("the model's logits are not finite")

    with served(Broken()) as server:
        status, _, body = asked(server, "write", {})
        assert status == 200
        assert lines_of(body)[-1] == {"error": "the model's logits are not finite"}


def test_the_command_serves_until_ctrl_c(directory):
    process = subprocess.Popen([*COMMAND, "play", directory], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    address = process.stdout.readline().strip()
    host, key = address.removeprefix("http://").removesuffix("/").split("/")
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.request("GET", f"/{key}/")
    assert b"Write with it" in connection.getresponse().read()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0 and process.stderr.read() == ""


@pytest.mark.parametrize(("words", "message"), [
    (["--port", "99999"], "99999"), (["--threads", "999"], "999"), (["--port", "x"], "--port")])
def test_wrong_settings_are_refused_in_one_line(directory, words, message):
    done = here("play", directory, *words)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_refused_in_one_line(directory):
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = here("play", directory, "--port", str(other.getsockname()[1]))
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "use" in done.stderr


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not true within {seconds} s"
        time.sleep(0.01)


def talk(server, data):
    """Send bytes; return all that comes back."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as connection:
        connection.sendall(data)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_the_losses_are_those_of_the_model_whole_and_with_heads_off(server, directory):
    pipeline = pygpt.Pipeline.from_pretrained(directory)
    ids = pipeline.tokenizer.encode("once upon")
    found = json.loads(asked(server, "explain", {"text": "once upon", "off": [[0, 0], [1, 2]]})[2])
    assert found["loss_all_on"] == pytest.approx(pygpt.evaluate(pipeline.model, ids), rel=1e-4)
    with heads_off(pipeline.model, [(0, 0), (1, 2)]):
        assert found["loss"] == pytest.approx(pygpt.evaluate(pipeline.model, ids), rel=1e-4)
    assert found["loss"] != found["loss_all_on"]
    assert found["loss"] == pytest.approx(-sum(found["logprobs"]) / 8, rel=1e-4)
    assert "loss" not in json.loads(asked(server, "explain", {"text": "a"})[2])


@pytest.mark.parametrize(("request_", "words"), [
    ({"temperature": 10 ** 400}, "is not a number"), ({"temperature": math.nan}, "temperature=nan"),
    ({"temperature": math.inf}, "temperature=inf"), ({"top_k": 2.5}, "top_k=2.5"),
    ({"max_new_tokens": math.nan}, "max_new_tokens=nan")])
def test_numbers_that_are_none_are_refused_in_one_line(server, request_, words):
    status, _, body = asked(server, "write", {"text": "a", **request_})
    message = json.loads(body)["error"]
    assert status == 400 and words in message and "\n" not in message


@pytest.mark.parametrize(("headers", "status"), [
    ({"Sec_Fetch_Site": "cross-site"}, 403), ({"Sec_Fetch_Site": "same-site"}, 403),
    ({"Sec_Fetch_Site": "none"}, 200), ({"Sec_Fetch_Site": "same-origin"}, 200),
    ({"Host": "127.0.0.1.example.com"}, 403), ({"Host": "127.0.0.1"}, 403),
    ({"Origin": "http://127.0.0.1"}, 403), ({"Origin": "https://localhost"}, 403)])
def test_a_page_of_another_site_gets_nothing(server, headers, status):
    got, _, body = asked(server, "", method="GET", **headers)
    assert got == status and (status == 200 or b"the page" not in body)


def test_no_answer_lets_the_key_out(server):
    """The address is no Referrer, and a page of another site may not embed an answer."""
    for name, body, method in ("", None, "GET"), ("explain", {"text": "a"}, "POST"):
        _, headers, _ = asked(server, name, body, method)
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Access-Control-Allow-Origin"] is None
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


@pytest.mark.parametrize(("line", "status"), [
    ("GET x HTTP/1.1", b"404"), ("GET /{key} HTTP/1.1", b"404"), ("GET /{key}/ HTTP/1.0", b"200"),
    ("GET http://{host}/{key}/ HTTP/1.1", b"404"), ("GET /{key}/\u00ff HTTP/1.1", b"404")])
def test_strange_addresses_are_refused(server, line, status):
    host = f"127.0.0.1:{server.server_port}"
    line = line.format(key=server.key, host=host)
    answer = talk(server, f"{line}\r\nHost: {host}\r\n\r\n".encode("latin-1"))
    assert answer.startswith(b"HTTP/1.0 " + status) and b"unpack" not in answer


def test_quirks_of_http(server):
    host = f"Host: 127.0.0.1:{server.server_port}\r\n"
    # HTTP/0.9 has no headers and so says nothing of where it comes from
    assert b"the page" not in talk(server, f"GET /{server.key}/\r\n{host}\r\n".encode())
    # of two Hosts only one would be checked
    get = f"GET /{server.key}/ HTTP/1.1\r\n{host}"
    assert b" 403 " in talk(server, f"{get}Host: x\r\n\r\n".encode())
    # a visitor who waits to be told to go on is answered when the body comes
    body = b'{"text": "a"}'
    post = f"POST /{server.key}/explain HTTP/1.1\r\n{host}Content-Type: application/json\r\n"
    answer = talk(server, f"{post}Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
                  .encode() + body)
    assert answer.startswith(b"HTTP/1.0 200")
    # a body in chunks does not say how long it is
    assert b" 411 " in talk(server, f"{post}Transfer-Encoding: chunked\r\n\r\n".encode())
    # a second request on one connection is not read
    twice = f"{get}Connection: keep-alive\r\n\r\n".encode() * 2
    assert talk(server, twice).count(b"HTTP/1.0 200") == 1


@pytest.mark.parametrize("begun", [
    b"", b"GET / HT", b"POST /KEY/explain HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n"
    b"Content-Type: application/json\r\nContent-Length: 999\r\n\r\n{"])
def test_a_slow_request_is_ended_though_bytes_keep_coming(server, monkeypatch, begun):
    monkeypatch.setattr(server_module, "SECONDS", 0.3)
    begun = begun.replace(b"KEY", server.key.encode()).replace(b"PORT", b"%d" % server.server_port)
    with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
        connection.sendall(begun)
        end = time.monotonic() + 20
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() < end:
                connection.sendall(b" ")
                time.sleep(0.02)
        assert time.monotonic() < end
    assert asked(server, "", method="GET")[0] == 200


def test_more_connections_than_allowed_are_refused_until_some_end(server):
    with contextlib.ExitStack() as stack:
        for _ in range(MOST_CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.server_port)))
        end = time.monotonic() + 20
        while len(server.unread) < MOST_CONNECTIONS and time.monotonic() < end:
            time.sleep(0.01)
        with socket.create_connection(("127.0.0.1", server.server_port)) as one_more:
            assert one_more.recv(100).startswith(b"HTTP/1.0 503")
    while server.unread and time.monotonic() < end:
        time.sleep(0.01)
    assert asked(server, "", method="GET")[0] == 200


def test_no_work_is_done_for_a_visitor_who_has_left(server):
    called = []
    server.play.explain = lambda request: called.append(request["text"]) or {}
    with server.model_is_free:
        with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
            connection.sendall(f"POST /{server.key}/explain HTTP/1.1\r\nHost: 127.0.0.1:"
                               f"{server.server_port}\r\nContent-Type: application/json\r\n"
                               "Content-Length: 16\r\n\r\n".encode() + b'{"text": "gone"}')
            until(lambda: server._places._value == MOST_CONNECTIONS - 1 and not server.unread)
    until(lambda: server._places._value == MOST_CONNECTIONS)
    assert asked(server, "explain", {"text": "here"})[0] == 200
    assert called == ["here"]


def test_a_fault_of_pygpt_is_told_to_the_page_and_shown_in_the_terminal(server, capfd):
    def broken(request):
        raise KeyError("x")

    server.play.explain = broken
    status, _, body = asked(server, "explain", {"text": "a"})
    assert status == 500 and json.loads(body)["error"] == "pygpt failed: KeyError: 'x'"
    assert "in broken" in capfd.readouterr().err


def started(directory, *words, **environment):
    """Start `pygpt play`; return (process, host, key)."""
    process = subprocess.Popen([*COMMAND, "play", str(directory), *words], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, env=ENVIRONMENT | environment)
    _, _, host, key, _ = process.stdout.readline().split("/")
    return process, host, key


def test_ctrl_c_ends_a_text_at_once(directory):
    process, host, key = started(directory)
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.request("POST", f"/{key}/write", json.dumps({"text": "a", "max_new_tokens": 10_000}),
                       {"Content-Type": "application/json"})
    answer = connection.getresponse()
    for _ in range(5):
        answer.readline()
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "") and time.monotonic() - start < 5
    assert b'"stop"' not in answer.read()


def test_open_shows_the_address_to_a_browser(directory, tmp_path):
    script = tmp_path / "browser"
    script.write_text(f"#!/bin/sh\necho \"$1\" > {tmp_path}/opened.new\n"
                      f"mv {tmp_path}/opened.new {tmp_path}/opened\n")
    script.chmod(0o755)
    process, host, key = started(directory, "--open", BROWSER=str(script))
    end = time.monotonic() + 60
    while not (tmp_path / "opened").exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert (tmp_path / "opened").read_text() == f"http://{host}/{key}/\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "" and process.returncode == 0


def test_open_says_when_there_is_no_browser(directory, tmp_path):
    process, host, key = started(directory, "--open", PATH=str(tmp_path), BROWSER="", DISPLAY="")
    select.select([process.stderr], [], [], 60)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and errors.count("\n") == 1 and "no browser" in errors


# ------------------------------------------------------------------------------ in a browser ---

@pytest.fixture(scope="module")
def chromium():
    with browser.Browser() as opened:
        yield opened


@pytest.fixture
def opened(chromium, directory):
    """The page in the browser, with a text to begin with."""
    pipeline = pygpt.Pipeline.from_pretrained(directory)
    with served(Play(pipeline), live_page(directory, "once </script>")) as server:
        chromium.size(1280, 900)
        chromium.open(server.address)
        chromium.wait("document.querySelectorAll('#switches input').length === 6")
        yield chromium
        chromium.open("about:blank#")


def text_of(page, selector):
    return page.run(f"document.querySelector('{selector}').textContent")


@needs_chromium
def test_a_person_writes_looks_and_stops(opened):
    assert opened.run("document.querySelector('#prompt').value") == "once </script>"
    opened.run("document.querySelector('#max_new_tokens').value = 30")
    opened.run("document.querySelector('#prompt').focus()")
    opened.key("End")
    opened.type(" abc")
    opened.click("#go")
    opened.wait("document.querySelector('#state').textContent === '30 tokens written'")
    written = opened.run("document.querySelector('#prompt').value")
    assert written.startswith("once </script> abc") and len(written) == 18 + 30
    assert opened.run("document.querySelectorAll('#written .token').length") == 30
    opened.wait("document.querySelectorAll('#text .token').length === 48")
    opened.point("#written .token:nth-of-type(3)")
    assert "might have come" in text_of(opened, "#instead")
    opened.run("document.querySelector('#max_new_tokens').value = 2000")
    opened.click("#go")
    opened.wait("document.querySelectorAll('#written .token').length > 5")
    opened.click("#halt")
    opened.wait("document.querySelector('#state').textContent.includes('tokens written')")
    assert opened.run("document.querySelector('#halt').disabled")
    assert opened.errors == []


@needs_chromium
def test_the_distribution_follows_the_temperature(opened):
    def first_share():
        return opened.run("parseFloat(document.querySelector('#drawn .bar').style.width)")

    def set_to(value):
        opened.run(f"{{ const slider = document.querySelector('#temperature'); "
                   f"slider.value = {value}; slider.dispatchEvent(new Event('input')); }}")

    opened.wait("!!document.querySelector('#drawn .bar')")
    before = first_share()
    set_to(0)
    opened.wait("document.querySelector('#drawn-note').textContent.startsWith('1 token can')")
    assert first_share() == 100
    set_to(2)
    opened.wait("document.querySelectorAll('#drawn .bar').length > 1")
    assert first_share() < before


@needs_chromium
def test_a_head_is_switched_off_and_on_again(opened):
    before = opened.run("JSON.stringify(data.lens)")
    opened.click("#switches [data-head='0,1']")
    opened.wait(f"JSON.stringify(data.lens) !== {json.dumps(before)}")
    opened.click("#all-on")
    opened.wait(f"JSON.stringify(data.lens) === {json.dumps(before)}")
    opened.click("#all-off")
    opened.wait(f"JSON.stringify(data.lens) !== {json.dumps(before)}")
    assert opened.errors == []


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(1280, True), (360, False)])
def test_the_live_page_fits_every_screen_and_asks_the_server_alone(opened, width, dark):
    opened.size(width, 800, dark, touch=width < 500)
    time.sleep(0.1)
    assert opened.run("document.documentElement.scrollWidth") <= width
    assert all(address.startswith("http://127.0.0.1:") for address in opened.requests)


@needs_chromium
def test_the_page_shows_what_heads_off_cost(opened):
    before = opened.run("data.loss.toFixed(3)")
    assert before in text_of(opened, "#broken")
    opened.click("#switches [data-head='0,1']")
    opened.click("#switches [data-block='1']")
    opened.wait("document.querySelector('#broken').textContent.includes('4 heads off')")
    said, after = text_of(opened, "#broken"), opened.run("data.loss.toFixed(3)")
    difference = opened.run("(data.loss - data.loss_all_on).toFixed(3)")
    assert f"{before} nats" in said and f"{after} with 4" in said
    assert f"({'' if difference.startswith('-') else '+'}{difference})" in said
    worst = opened.run("""(() => { const worse = data.logprobs.map((p, t) => whole.logprobs[t] - p);
        return worse.indexOf(Math.max(...worse)); })()""")
    assert said.index(f"(token {worst})") == said.index("(token")
    opened.click("#switches [data-block='1']")
    opened.wait("document.querySelector('#broken').textContent.includes('1 head off')")
    assert opened.errors == []


@needs_chromium
def test_the_table_of_kinds_follows_the_heads_that_are_off_and_keeps_its_order(opened):
    rows = "[...document.querySelector('#kinds').children].map(row => row.textContent)"
    before = opened.run(rows)
    opened.click("#kinds-by [data-by='0']")
    opened.click("#switches [data-block='0']")
    opened.wait(f"{rows}.join().includes('off')")
    after = opened.run(rows)
    assert {row.split(", off")[0] for row in after if ", off" in row} == {
        f"block 0, head {head}" for head in range(3)}
    shares = [int(row.split("head ")[1].replace(", off", "")[1:].split("\u00a0")[0])
              for row in after]
    assert shares == sorted(shares, reverse=True)
    of_last = [{row for row in found if row.startswith("block 1")} for found in (before, after)]
    assert of_last[0] != of_last[1], "what block 0 adds changes where block 1 looks"
    opened.click("#all-on")
    opened.wait(f"!{rows}.join().includes('off')")
    assert sorted(opened.run(rows)) == sorted(before)


@needs_chromium
def test_each_request_holds_the_sliders_the_seed_and_the_heads_that_are_off(opened):
    opened.wait("!!document.querySelector('#drawn .bar')", 20)
    opened.run("""{ globalThis.sent = []; const real = fetch;
        globalThis.fetch = (name, options) => {
          sent.push([name, JSON.parse(options.body)]); return real(name, options); }; }""")
    settings = {"temperature": 0.5, "top_k": 7, "top_p": 0.75}
    for name, value in settings.items():
        opened.run(f"document.querySelector('#{name}').value = {value}")
    opened.run("document.querySelector('#top_p').dispatchEvent(new Event('input'))")
    opened.wait("sent.length > 0", 20)
    assert opened.run("sent[0]") == ["candidates", {"text": "once </script>", "off": [],
                                                    **settings}]
    opened.click("#switches [data-head='0,1']")
    opened.click("#switches [data-head='1,2']")
    opened.wait("sent.some(([name, { off }]) => name === 'explain' && off.length === 2)", 20)
    assert opened.run("sent.findLast(([name]) => name === 'explain')[1]") == {
        "text": "once </script>", "off": [[0, 1], [1, 2]]}
    opened.run("document.querySelector('#max_new_tokens').value = 4")
    opened.run("document.querySelector('#seed').value = 5")
    opened.click("#go")
    opened.wait("document.querySelector('#state').textContent === '4 tokens written'")
    assert opened.run("sent.find(([name]) => name === 'write')[1]") == {
        "text": "once </script>", "off": [[0, 1], [1, 2]], **settings, "max_new_tokens": 4,
        "seed": 5}
    assert opened.errors == []


@needs_chromium
def test_what_it_wrote_shows_its_surprise_and_what_might_have_come_instead(opened):
    opened.run("document.querySelector('#max_new_tokens').value = 12")
    opened.run("document.querySelector('#temperature').value = 2")
    opened.click("#go")
    opened.wait("document.querySelector('#state').textContent === '12 tokens written'")
    written = opened.run("""[...document.querySelectorAll("#written .token")].map(e =>
        [e.textContent, e.title, e.choices[0].p])""")
    for place, (text, title, p) in enumerate(written, 1):
        assert title == f"{-math.log2(p):.1f} bits"
        opened.run(f"document.querySelectorAll('#written .token')[{place - 1}].focus()")
        own, *others = opened.run("[...document.querySelectorAll('#instead code')]"
                                  ".map(e => e.textContent)")
        assert own == text.replace(" ", "·").replace("\n", "↵")
        assert len(others) == 8 and own not in others


@needs_chromium
def test_switches_and_written_characters_answer_the_arrow_keys(opened):
    opened.run("document.querySelector('#switches [tabindex=\"0\"]').focus()")
    for key in "ArrowRight", "ArrowRight", "ArrowDown", " ":
        opened.key(key)
    opened.wait("off.has('1,1')")
    opened.run("document.querySelector('#max_new_tokens').value = 5")
    opened.click("#go")
    opened.wait("document.querySelector('#state').textContent === '5 tokens written'")
    opened.run("document.querySelector('#written [tabindex=\"0\"]').focus()")
    opened.key("ArrowRight")
    assert opened.run("document.activeElement === document.querySelectorAll('#written .token')[1]")
    assert visible_of(opened, "document.activeElement.textContent") in text_of(opened, "#instead")
    assert opened.errors == []


def visible_of(page, script):
    return page.run(f"visible({script})")


@needs_chromium
def test_a_page_whose_server_has_ended_says_so(chromium):
    """Also in the middle of a text, though the connection then ends as if the text had."""
    slow = Slow()
    with served(slow, live_page("model", "a")) as server:
        chromium.size(1280, 900)
        chromium.open(server.address)
        chromium.click("#go")
        chromium.wait("document.querySelectorAll('#written .token').length > 1")
        server.is_ending = True
        chromium.wait("!document.querySelector('#trouble').hidden")
        assert "server has ended" in text_of(chromium, "#trouble")
        assert chromium.run("document.querySelector('#halt').disabled")
    chromium.run("complain('')")
    chromium.run("document.querySelector('#temperature').dispatchEvent(new Event('input'))")
    chromium.wait("!document.querySelector('#trouble').hidden")
    assert "server has ended" in text_of(chromium, "#trouble")
    chromium.open("about:blank#")


@needs_chromium
def test_a_second_tab_hears_that_another_text_is_being_written(opened, directory):
    with served(Slow(), live_page("model", "a")) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        connection.request("POST", f"/{server.key}/write", "{}",
                           {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.readline()
        opened.open(server.address)
        opened.click("#go")
        opened.wait("document.querySelector('#trouble').textContent.includes('another text')")
        answer.close()
