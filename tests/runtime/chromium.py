"""Drives a headless Chromium through its debugging pipe: no driver program and no package needed.

The DevTools protocol is JSON messages that end in a zero byte, read by the browser on file descriptor 3 and
written on 4 (`--remote-debugging-pipe`).
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)
PATIENCE_S = 120
"""A busy machine takes long to start a browser; a wait ends as soon as what it waits for is there."""
NAVIGATING = ("Inspected target navigated", "Execution context was destroyed", "Cannot find")
"""What the browser answers to an expression that was under way when the page left."""
LAUNCH = """
import os, sys
reads, writes = (os.dup(os.dup(os.dup(int(number)))) for number in sys.argv[1:3])  # copies, past 3 and 4
os.dup2(reads, 3)
os.dup2(writes, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
MODIFIERS = {"alt": 1, "ctrl": 2, "shift": 8}
BUTTONS = {"left": 1, "right": 2, "middle": 4}
KEY_CODES = {"ArrowLeft": 37, "ArrowRight": 39, "Enter": 13, "Delete": 46, "Escape": 27, "Tab": 9, " ": 32}


def find_chromium() -> str | None:
    """The browser's program, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Chromium:
    """A browser with a profile of its own; `page` opens tabs."""

    def __init__(self, profile: Path) -> None:
        program = find_chromium()
        assert program is not None
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        flags = [*FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(to_browser), str(from_browser), program, *flags],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer = b""
        self._count = 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Chromium:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.call("Browser.close")
            self._process.wait(10)
        except (OSError, AssertionError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """One command and its answer."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == message["id"]:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self._in, 1 << 16)
            assert data, "the browser has ended"
            self._buffer += data
        raw, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(raw)
        return message

    def page(self, url: str, width: int = 1280, height: int = 800, dark: bool = False) -> Page:
        """Open a window on an address and wait until it has loaded."""
        target = self.call("Target.createTarget", url="about:blank", newWindow=True)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log"):
            page.call(f"{domain}.enable")
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        page.call("Emulation.setEmulatedMedia", features=features)
        page.call("Emulation.setFocusEmulationEnabled", enabled=True)
        page.call("Page.navigate", url=url)
        return page


class Page:
    """One window."""

    def __init__(self, browser: Chromium, session: str, target: str) -> None:
        self._browser, self._session, self._target = browser, session, target

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol."""
        return self._browser.call(method, self._session, **parameters)

    def close(self) -> None:
        """Close this window."""
        self._browser.call("Target.closeTarget", targetId=self._target)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = PATIENCE_S) -> Any:
        """Wait until an expression is true, and return it; a page that is being replaced by the next is waited out."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                value = self.run(f"(() => {{ try {{ return {expression} }} catch {{ return null }} }})()")
            except AssertionError as error:
                if not any(sign in str(error) for sign in NAVIGATING):
                    raise
                value = None
            if value:
                return value
            assert time.monotonic() < deadline, f"not so within {seconds} s: {expression}; errors: {self.errors()}"
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        """The visible text of an element."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def mouse(self, kind: str, x: float, y: float, button: str = "none", held: str = "none", keys: str = "") -> None:
        """One mouse event at page coordinates: mousePressed, mouseReleased, mouseMoved."""
        self.call(
            "Input.dispatchMouseEvent",
            type=kind,
            x=x,
            y=y,
            button=button,
            buttons=BUTTONS.get(held, 0),
            clickCount=0 if kind == "mouseMoved" else 1,
            modifiers=MODIFIERS.get(keys, 0),
        )

    def click(self, x: float, y: float, button: str = "left", keys: str = "") -> None:
        """Press and release."""
        self.mouse("mouseMoved", x, y)
        self.mouse("mousePressed", x, y, button, button, keys)
        self.mouse("mouseReleased", x, y, button, "none", keys)

    def drag(self, start: tuple[float, float], end: tuple[float, float], button: str = "left", keys: str = "") -> None:
        """Press at one place, release at another."""
        self.mouse("mouseMoved", *start)
        self.mouse("mousePressed", *start, button, button, keys)
        for part in (0.3, 0.7, 1.0):
            at = [a + (b - a) * part for a, b in zip(start, end)]
            self.mouse("mouseMoved", at[0], at[1], button, button, keys)
        self.mouse("mouseReleased", *end, button, "none", keys)

    def wheel(self, x: float, y: float, delta: float) -> None:
        """Turn the wheel by pixels, upwards if negative."""
        self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=delta)

    def key(self, key: str, keys: str = "", shift: bool = False) -> None:
        """Press and release a key, named as in KeyboardEvent.key."""
        modifiers = MODIFIERS.get(keys, 0) | (MODIFIERS["shift"] if shift else 0)
        code = KEY_CODES.get(key, ord(key[0].upper()))
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, modifiers=modifiers, windowsVirtualKeyCode=code)

    def write(self, text: str) -> None:
        """Type a text into the field that has the focus."""
        self.call("Input.insertText", text=text)

    def errors(self) -> list[str]:
        """Uncaught exceptions and console errors so far."""
        found = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            if event["method"] == "Runtime.exceptionThrown":
                details = event["params"]["exceptionDetails"]
                found.append(str(details.get("exception", {}).get("description") or details["text"]))
            if event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                found.append(str(event["params"]["entry"]["text"]))
        return found

    def screenshot(self, path: Path) -> None:
        """Save what is seen as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
