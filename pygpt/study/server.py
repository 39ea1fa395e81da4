"""Serves the live page of `pygpt play` to the browser of this machine, and to nobody else.

    GET  /KEY/             the page
    POST /KEY/write        {"text", settings ..., "off"} -> lines of JSON, one for each token drawn
    POST /KEY/explain      {"text", "off"} -> the dict of explanation()
    POST /KEY/candidates   {"text", temperature ..., "off"} -> what may follow

KEY is a random word: another program of this machine cannot guess the address, and neither can a
page of another site. Such a page is moreover refused by its Origin or Sec-Fetch-Site, or by its
Host if its name was made to point here (DNS rebinding). The page has no links, and sends no
Referrer. Each connection brings one request, within SECONDS, and there are at most
MOST_CONNECTIONS. A request works with the model alone, one after another, unless its visitor has
left; while a text is being written, a second one is refused.
"""

import contextlib
import hmac
import json
import secrets
import select
import socket
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pygpt.config import ConfigError

MOST_BYTES = 1 << 20   # of a request's body
SECONDS = 30           # to send a request, or to take a part of an answer
MOST_CONNECTIONS = 32  # at once
POLICY = ("default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
          "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


class Refused(Exception):
    """Says why a request is refused: (status, sentence)."""


class Server(ThreadingHTTPServer):
    """Serves a page and the answers of a Play.

    Args:
        play: an object with a method for each name of `answers`, which takes the dict of the
            request, and `write`, a generator of dicts. They raise ValueError or TypeError for what
            they refuse.
        page: the HTML text.
        port: a free port of 127.0.0.1; 0: any.
    Raises:
        OSError: the port is taken, or not allowed.

    Attributes:
        address: where the page is.
    """

    daemon_threads, request_queue_size = True, MOST_CONNECTIONS
    answers = "explain", "candidates"

    def __init__(self, play, page, port=0):
        self.play, self.page, self.key = play, page.encode(), secrets.token_urlsafe(16)
        self.model_is_free, self.writes = threading.Lock(), threading.Lock()
        self.is_ending = False
        self.unread = {}  # the connections whose request is not complete, with their deadlines
        self._places = threading.Semaphore(MOST_CONNECTIONS)
        super().__init__(("127.0.0.1", port), _Handler)
        self.address = f"http://127.0.0.1:{self.server_port}/{self.key}/"

    def process_request(self, request, client_address):
        """Serve a connection in a thread of its own, unless there are too many."""
        if not self._places.acquire(blocking=False):
            with contextlib.suppress(OSError):
                request.sendall(b"HTTP/1.0 503 too many connections\r\n\r\n")
            self.shutdown_request(request)
            return
        self.unread[request] = time.monotonic() + SECONDS
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._forget(request)
            raise

    def process_request_thread(self, request, client_address):
        """Serve a connection, then give its place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def _forget(self, request):
        self.unread.pop(request, None)
        self._places.release()

    def service_actions(self):
        """End, every half second, the connections that take too long to send their request."""
        for connection, deadline in list(self.unread.items()):
            if time.monotonic() > deadline:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def server_close(self):
        """Stop listening; a text that is being written ends with its next token."""
        self.is_ending = True
        super().server_close()
        if self.model_is_free.acquire(timeout=1):
            self.model_is_free.release()

    def handle_error(self, request, client_address):
        """Say nothing of a connection that broke: the visitor closed the page."""


class _Handler(BaseHTTPRequestHandler):
    timeout = SECONDS
    server_version, sys_version = "pygpt", ""

    def do_GET(self):
        self._answer(self._page)

    def do_POST(self):
        self._answer(self._called)

    def log_message(self, *arguments):
        """Say nothing: the terminal shows the address."""

    def _answer(self, work):
        try:
            name = self._checked_name()
            work(name)
        except Refused as refused:
            self._send_error(*refused.args)
        except OSError:
            raise  # the visitor has gone
        except Exception as error:
            self._send_error(*told(error))

    def _checked_name(self):
        """Return what the path names after the key; refuse visitors from elsewhere."""
        own = f"127.0.0.1:{self.server.server_port}", f"localhost:{self.server.server_port}"
        if self.request_version == "HTTP/0.9":
            raise Refused(400, "this server speaks HTTP/1.0 and later")
        if self.headers.get_all("Host", []) not in [[host] for host in own]:
            raise Refused(403, "this server answers to 127.0.0.1 only")
        origin = self.headers.get("Origin")
        if origin is not None and origin not in [f"http://{host}" for host in own]:
            raise Refused(403, f"a page of {origin[:80]!r} has no business here")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise Refused(403, "a page of another site has no business here")
        parts = self.path.split("/", 2)  # "", KEY, name
        if len(parts) < 3 or not hmac.compare_digest(parts[1].encode(), self.server.key.encode()):
            raise Refused(404, "there is no such page; the terminal shows the whole address")
        return parts[2]

    def _page(self, name):
        self._is_read()
        if name:
            raise Refused(404, "there is no such page")
        self._send(200, "text/html; charset=utf-8", self.server.page)

    def _called(self, name):
        if name not in (*self.server.answers, "write"):
            raise Refused(404, "there is no such page")
        request = self._read()
        if name == "write":
            if not self.server.writes.acquire(blocking=False):
                raise Refused(409, "another text is being written: wait for its end, or stop it")
            try:
                self._write(request)
            finally:
                self.server.writes.release()
            return
        with self.server.model_is_free:
            if self._has_left() or self.server.is_ending:
                return
            answer = getattr(self.server.play, name)(request)
        self._send_json(200, answer)

    def _is_read(self):
        """Note that the request is complete."""
        self.server.unread.pop(self.connection, None)

    def _has_left(self):
        """Whether the visitor has closed the connection: nothing else follows a request."""
        poll = select.poll()
        poll.register(self.connection, select.POLLIN)
        try:
            return bool(poll.poll(0)) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def _read(self):
        """Return the dict in the request's body."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise Refused(411, "the request does not say how long it is")
        if len(length) > 9 or int(length) > MOST_BYTES:
            raise Refused(413, f"the request is longer than {MOST_BYTES} bytes")
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "the request is no application/json")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise Refused(400, "the request is shorter than it says")
        self._is_read()
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            raise Refused(400, "the request is no JSON") from None
        if not isinstance(request, dict):
            raise Refused(400, "the request is no JSON object")
        return request

    def _write(self, request):
        """Send a line for each dict that the play yields; stop when the visitor goes away."""
        with self.server.model_is_free:
            lines = self.server.play.write(request)
            try:
                first = next(lines)  # what is wrong with the request shows here
                self._begin(200, "application/x-ndjson")
                self._line(first)
                try:
                    for line in lines:
                        if self.server.is_ending or self._has_left():
                            break
                        self._line(line)
                except OSError:
                    raise
                except Exception as error:
                    self._line({"error": told(error)[1]})
            except (BrokenPipeError, ConnectionResetError, TimeoutError):
                self.close_connection = True
            finally:
                lines.close()

    def _line(self, value):
        self.wfile.write(json.dumps(value).encode() + b"\n")
        self.wfile.flush()

    def _begin(self, status, content_type, length=None):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()
        self.close_connection = True

    def _send(self, status, content_type, body):
        self._begin(status, content_type, len(body))
        self.wfile.write(body)

    def _send_json(self, status, value):
        self._send(status, "application/json", json.dumps(value).encode())

    def _send_error(self, status, sentence):
        self._send_json(status, {"error": sentence})


def told(error):
    """Return what a visitor hears of an exception: (status, sentence)."""
    if isinstance(error, (ValueError, TypeError)):
        return 400, str(error)
    if isinstance(error, MemoryError):
        return 500, "there is not enough memory"
    traceback.print_exception(error)  # a fault of pygpt: the terminal shows where
    return 500, f"pygpt failed: {type(error).__name__}: {error}"


def checked_port(port):
    """Return a port number; raise ConfigError for a number that is none."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"port={port} must be in [0, 65535]; 0 takes any that is free")
    return port
