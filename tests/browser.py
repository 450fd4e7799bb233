"""Chromium without a window, driven over a pipe by its DevTools protocol."""

import base64
import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Commands that are looked for."""

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
    "--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage",
    "--disable-extensions", "--hide-scrollbars", "--mute-audio",
)  # fmt: skip
"""What it is started with."""

# Puts the pipes where Chromium looks for them: 3 to read, 4 to write.
_LAUNCH = """
import os, sys
read, write = os.dup2(int(sys.argv[1]), 103), os.dup2(int(sys.argv[2]), 104)
os.dup2(read, 3), os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_chromium() -> str | None:
    """The path of a Chromium, or None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab.

    Attributes:
      log: errors and warnings of the console, exceptions, violations of policies.
    """

    def __init__(self, command: str, profile: str) -> None:
        read, self._write = os.pipe()
        self._read, write = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, str(read), str(write), command, *FLAGS,
             f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(read, write), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read)
        os.close(write)
        self._count, self._session = 0, None
        self._messages: queue.SimpleQueue = queue.SimpleQueue()
        self.log: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()
        tab = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=tab, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _listen(self) -> None:
        rest = b""
        while chunk := os.read(self._read, 1 << 16):
            *whole, rest = (rest + chunk).split(b"\0")
            for text in whole:
                self._messages.put(json.loads(text))
        self._messages.put(None)

    def _heard(self, message: dict) -> None:
        given = message.get("params", {})
        if message["method"] == "Runtime.exceptionThrown":
            self.log.append(json.dumps(given["exceptionDetails"])[:400])
        elif message["method"] == "Log.entryAdded":
            entry = given["entry"]
            self.log.append(f"{entry['source']}: {entry['text']}")
        elif message["method"] == "Runtime.consoleAPICalled":
            self.log.append(f"console: {json.dumps(given['args'])[:400]}")

    def call(self, method: str, *, seconds: float = 30.0, **params: Any) -> dict:
        """One command of the protocol and its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + seconds
        while True:
            heard = self._messages.get(timeout=max(end - time.monotonic(), 0.001))
            if heard is None:
                raise RuntimeError("Chromium ended")
            if "method" in heard:
                self._heard(heard)
            elif heard["id"] == self._count:
                if "error" in heard:
                    raise RuntimeError(f"{method}: {heard['error']['message']}")
                return heard["result"]

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript, promises awaited."""
        found = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True,
            returnByValue=True, userGesture=True,
        )  # fmt: skip
        if "exceptionDetails" in found:
            raise RuntimeError(json.dumps(found["exceptionDetails"])[:600])
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 20.0) -> None:
        """Returns as soon as an expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({expression})"):
            if time.monotonic() > end:
                body = self.evaluate("document.body.innerText")
                raise TimeoutError(f"{expression} stays false; the page says: {body}")
            time.sleep(0.02)

    def open(self, url: str) -> None:
        """Goes to an address, through an empty page, so that it always loads."""
        for address in ("about:blank", url):
            self.call("Page.navigate", url=address)
            self.wait(
                f"location.href.split('#')[0] === {json.dumps(address.split('#')[0])} "
                "&& document.readyState === 'complete'"
            )

    def window(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """The size of the window and its colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.call("Emulation.setEmulatedMedia", features=[scheme, still])

    def press(self, key: str, code: int = 0, text: str = "") -> None:
        """A key, as a person presses it: ``press("ArrowDown", 40)``."""
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key,
                windowsVirtualKeyCode=code, **typed,
            )  # fmt: skip

    def type(self, text: str) -> None:
        """Text into what has the focus."""
        self.call("Input.insertText", text=text)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """The page as PNG."""
        shot = self.call(
            "Page.captureScreenshot", format="png", captureBeyondViewport=whole
        )
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """Ends the browser and what it started."""
        self._session = None
        with contextlib.suppress(Exception):
            self.call("Browser.close", seconds=5)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._write)


@contextlib.contextmanager
def open_browser(command: str) -> Iterator[Browser]:
    """A browser with a profile of its own, gone at the end."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(command, profile)
        try:
            yield browser
        finally:
            browser.close()
