"""Drives a headless Chromium, for tests of the pages that the project makes.

The DevTools protocol is spoken over two pipes: each message is JSON and ends with a zero byte, so
that no WebSocket is needed. Chromium reads file descriptor 3 and writes descriptor 4.

Source: https://chromedevtools.github.io/devtools-protocol/, --remote-debugging-pipe.
"""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

NAMES = "chromium", "chromium-browser", "google-chrome", "chrome"
# None of its own connections, no first-run page; root has no sandbox.
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--hide-scrollbars", "--remote-debugging-pipe")
PATIENCE = 60  # seconds for one answer, on a busy machine

# The lowest contrast of the texts that a selector finds (the second %s) before the background of an
# element (the first) and their own: [contrast, the text's element]. WCAG asks for 4.5.
LOWEST_CONTRAST = """(() => {
  const canvas = document.createElement("canvas").getContext("2d");
  const rgb = (...colors) => {
    for (const c of colors) { canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3); };
  const light = c => c.map(x => x / 255)
    .map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
    .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  const card = getComputedStyle(document.querySelector("%s")).backgroundColor;
  let worst = [99];
  for (const e of document.querySelectorAll("%s")) {
    const style = getComputedStyle(e), ink = light(rgb(style.color));
    const back = light(rgb(card, style.backgroundColor));
    const contrast = (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05);
    if (contrast < worst[0]) worst = [contrast, e.outerHTML.slice(0, 99)];
  }
  return worst; })()"""


def found():
    """Return the path of a Chromium, or None."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A Chromium with one page, a context manager.

    Attributes:
        errors: what the page threw or logged as an error, and each address but its own that it
            asked for.
    """

    def __init__(self):
        self.errors, self._events, self._rest, self._number = [], [], b"", 0
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        profile = self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        read_end, self._write = os.pipe()
        self._read, write_end = os.pipe()

        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (read_end, write_end)]

        def place():
            for number, end in enumerate(ends, 3):
                os.dup2(end, number)

        self._process = subprocess.Popen(
            [found(), *FLAGS, f"--user-data-dir={profile}", "about:blank"], preexec_fn=place,
            pass_fds=(3, 4), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        for end in ends:
            os.close(end)
        os.close(read_end)
        os.close(write_end)
        self._stack.callback(self._end)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target,
                                  flatten=True)["sessionId"]
        for domain in "Page", "Runtime", "Log", "Network":
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *error):
        self._stack.close()

    def _end(self):
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def call(self, method, **parameters):
        """Call a method of the protocol; return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if not method.startswith("Target."):
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer)

    def _message(self):
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0, end - time.monotonic()))
            assert ready, f"Chromium gave no answer within {PATIENCE} s"
            part = os.read(self._read, 1 << 20)
            assert part, "Chromium has ended"
            self._rest += part
        first, _, self._rest = self._rest.partition(b"\0")
        return json.loads(first)

    def _note(self, event):
        method, values = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = values["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded" and values["entry"]["level"] == "error":
            self.errors.append(values["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self._events.append(values["request"]["url"])

    @property
    def requests(self):
        """The addresses that were asked for, in order."""
        return list(self._events)

    def size(self, width, height, dark=False, touch=False):
        """Set the size of the page in CSS pixels, the color scheme, and whether it is a phone."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=touch)
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def open(self, address):
        """Open an address, and wait until it is loaded."""
        self.errors.clear()
        self._events.clear()
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script):
        """Return the value of a JavaScript expression, of which promises are awaited."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True,
                           awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, script, seconds=PATIENCE):
        """Wait until an expression is true; return its value."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"not true within {seconds} s: {script}"
            time.sleep(0.02)
        return value

    def _middle(self, selector):
        return self.run(f"""(() => {{ const e = document.querySelector({json.dumps(selector)});
            e.scrollIntoView({{block: "center", behavior: "instant"}});
            const b = e.getBoundingClientRect();
            return [b.left + b.width / 2, b.top + b.height / 2]; }})()""")

    def point(self, selector):
        """Move the mouse over an element."""
        x, y = self._middle(selector)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector):
        """Click an element with the mouse."""
        x, y = self._middle(selector)
        for kind in "mousePressed", "mouseReleased":
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, name):
        """Press and release a key, such as ArrowRight, Enter or a character."""
        text = {"Enter": "\r"}.get(name, name if len(name) == 1 else "")
        code = {"Enter": 13, "Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39,
                "ArrowDown": 40, "End": 35, "Home": 36, "Escape": 27}.get(name, 0)
        self.call("Input.dispatchKeyEvent", type="keyDown", key=name, text=text, code=name,
                  windowsVirtualKeyCode=code)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=name, code=name,
                  windowsVirtualKeyCode=code)

    def type(self, text):
        """Type a text into what has the focus."""
        self.call("Input.insertText", text=text)

    def screenshot(self, path, whole=True):
        """Write a picture of the page as PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))
