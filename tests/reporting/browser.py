"""Chromium without a screen, over its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

FOUND = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--remote-debugging-port=0", "--window-size=1280,1000",
)  # fmt: skip
DIGITS = {f"Digit{i}": 48 + i for i in range(1, 10)}
KEYS = {
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
    "Space": 32,
    "Period": 190,
    "KeyR": 82,
    **DIGITS,
}
"""Keys by their code, with the numbers that Windows gave them."""
_TYPED = {"Space": " ", "Period": ".", "KeyR": "r", **{code: code[-1] for code in DIGITS}}


class Tab:
    """One page: what it is asked, what it said on its console, what it asked of the network."""

    def __init__(self, address: str) -> None:
        self._socket = connect(address, max_size=None)
        self._count = 0
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """A command, and its answer; what happens in between is noted."""
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": params}))
        while True:
            said = json.loads(self._socket.recv(timeout=60))
            if said.get("id") == self._count:
                assert "error" not in said, said
                return dict(said["result"])
            self._note(said)

    def _note(self, said: dict[str, Any]) -> None:
        method, params = said.get("method"), said.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(str(params["entry"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def open(self, page: Path) -> None:
        """A file, as from the file system."""
        for domain in ("Runtime", "Log", "Network", "Page"):
            self.ask(f"{domain}.enable")
        self.ask("Page.navigate", url=page.resolve().as_uri())
        self.wait("document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """Of an expression in the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition: str, seconds: float = 30.0) -> None:
        """Until an expression is true."""
        end = time.monotonic() + seconds
        while not self.value(condition):
            assert time.monotonic() < end, f"still not: {condition}"
            time.sleep(0.05)

    def press(self, code: str) -> None:
        """Hold a key down."""
        self._key("keyDown" if code in _TYPED else "rawKeyDown", code)

    def release(self, code: str) -> None:
        self._key("keyUp", code)

    def tap(self, code: str) -> None:
        self.press(code)
        self.release(code)

    def _key(self, kind: str, code: str) -> None:
        typed = {"text": _TYPED[code]} if kind == "keyDown" else {}
        key = _TYPED.get(code, code)
        self.ask("Input.dispatchKeyEvent", type=kind, code=code, key=key, windowsVirtualKeyCode=KEYS[code], **typed)

    def screenshot(self, path: Path) -> None:
        """Of the whole page, PNG."""
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Tab]:
    """A browser of its own with one tab. folder: for its profile, empty."""
    assert FOUND is not None
    command = [FOUND, *_QUIET, f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        port = folder / "DevToolsActivePort"
        end = time.monotonic() + 60
        while not port.exists() or not port.read_text().strip():
            assert time.monotonic() < end, "Chromium does not start"
            time.sleep(0.1)
        address = f"http://127.0.0.1:{port.read_text().split()[0]}/json/list"
        with urllib.request.urlopen(address, timeout=30) as answer:
            pages = [tab for tab in json.load(answer) if tab["type"] == "page"]
        tab = Tab(pages[0]["webSocketDebuggerUrl"])
        try:
            yield tab
        finally:
            tab.close()
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
