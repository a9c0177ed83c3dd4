"""A real browser, asked over its debugging pipe: JSON that ends in a zero byte, both ways."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE_S = 100.0
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking"),
    "--remote-debugging-pipe",
)
# The browser reads what it is asked from descriptor 3 and answers on 4.
AS_3_AND_4 = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
    "os.execv(sys.argv[3], sys.argv[3:])"
)


def browser() -> str | None:
    """Return the path of a Chromium, if there is one."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class NoBrowser(Exception):
    """It is installed, and does not run here."""


class Page:
    """One page; `faults` are its scripts' exceptions and what its policy refused."""

    def __init__(self, into: int, out: int) -> None:
        self._into, self._out = into, out
        self._number, self._left = 0, b""
        self._session: str | None = None
        self.faults: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask for one thing and return what comes back."""
        self._number += 1
        asked: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            asked["sessionId"] = self._session
        os.write(self._into, json.dumps(asked).encode() + b"\0")
        while True:
            told = self._read()
            if told.get("id") == self._number:
                assert "error" not in told, told
                return dict(told["result"])
            self._note(told)

    def _read(self) -> dict[str, Any]:
        give_up = time.monotonic() + PATIENCE_S
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._out], [], [], max(0, give_up - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self._out, 1 << 16)
            assert data, "the browser ended"
            self._left += data
        line, self._left = self._left.split(b"\0", 1)
        return dict(json.loads(line))

    def _note(self, told: dict[str, Any]) -> None:
        if told.get("method") == "Runtime.exceptionThrown":
            self.faults.append(str(told["params"]["exceptionDetails"]))
        elif told.get("method") == "Log.entryAdded":
            entry = told["params"]["entry"]
            if entry["source"] in ("security", "javascript"):
                self.faults.append(entry["text"])

    def open(self, url: str) -> None:
        """Go to a page, and return when it has been read."""
        self.evaluate("window.isBefore = true")
        self.send("Page.navigate", url=url)
        self.until("!window.isBefore && document.readyState === 'complete'")

    def size(self, width: int, height: int) -> None:
        """Make the window so large."""
        metrics = {"deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, **metrics)

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression."""
        given = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in given, given
        return given["result"].get("value")

    def until(self, script: str) -> Any:
        """Wait until an expression is true, and return its value.

        While a page is being replaced, there may be nothing to ask yet.
        """
        give_up = time.monotonic() + PATIENCE_S
        while True:
            told: object = "not true"
            try:
                if value := self.evaluate(script):
                    return value
            except AssertionError as error:
                told = error
            assert time.monotonic() < give_up, (script, told)
            time.sleep(0.05)

    def choose_file(self, selector: str, path: Path) -> None:
        """Put a file into a field, as a person would."""
        script = f"document.querySelector({json.dumps(selector)})"
        found = self.send("Runtime.evaluate", expression=script)["result"]["objectId"]
        self.send("DOM.setFileInputFiles", files=[str(path)], objectId=found)

    def key(self, name: str, code: int) -> None:
        """Press a key."""
        for kind in ("rawKeyDown", "keyUp"):
            which = {"key": name, "code": name, "windowsVirtualKeyCode": code}
            self.send("Input.dispatchKeyEvent", type=kind, **which)


@contextmanager
def opened(path: str, folder: Path) -> Iterator[Page]:
    """Start a browser whose files lie in a folder, and end it."""
    its_in, into = os.pipe()
    out, its_out = os.pipe()
    # Both ends are moved out of the way of the numbers that they get in the child.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (its_in, its_out)]
    command = [sys.executable, "-c", AS_3_AND_4, *map(str, ends), path, *FLAGS]
    child = subprocess.Popen(
        [*command, f"--user-data-dir={folder}"],
        pass_fds=ends,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in (its_in, its_out, *ends):
        os.close(end)
    try:
        try:
            page = Page(into, out)
        except (AssertionError, OSError) as error:
            raise NoBrowser(f"{path} does not start: {error}") from error
        yield page
    finally:
        child.kill()
        child.wait(PATIENCE_S)
        os.close(into)
        os.close(out)
