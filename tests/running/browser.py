"""A real browser without a head, spoken to over two pipes in Chromium's own protocol. Skips where there is none.

with browser(folder) as page:
page.open("http://127.0.0.1:8081/independence/view")
assert page.run("document.title") == "Independence"
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT_S = 60.0
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
_QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-extensions", "--disable-sync")


class Page:
    """One page."""

    def __init__(self, read: int, write: int) -> None:
        self._read = read
        self._write = write
        self._rest = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []
        """What the browser told without being asked."""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session: str | None = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.ask(f"{domain}.enable")

    def open(self, url: str) -> None:
        """Go there; returns when the page was loaded."""
        self.ask("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:  # whatever the script gives
        """What an expression of the page's own language gives."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until the expression is true."""
        by = time.monotonic() + WAIT_S
        while not self.run(script):
            assert time.monotonic() < by, f"never true: {script}"
            time.sleep(0.02)  # between two looks at another process

    def shot(self, path: Path, *, width: int = 1240, height: int = 1500) -> None:
        """Keep what is seen as a PNG."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))

    def requests(self) -> list[str]:
        """The addresses that the page asked for anything."""
        asked = (each for each in self.events if each["method"] == "Network.requestWillBeSent")
        return [each["params"]["request"]["url"] for each in asked]

    def complaints(self) -> list[str]:
        """Errors that the browser logged, of what it would not run or load too."""
        entries = (each["params"]["entry"] for each in self.events if each["method"] == "Log.entryAdded")
        return [f"{entry['text']} {entry.get('url', '')}" for entry in entries if entry["level"] == "error"]

    def ask(self, method: str, **params: object) -> dict[str, Any]:
        """Ask this page."""
        return self._ask(method, session=self._session, **params)

    def _ask(self, method: str, *, session: str | None = None, **params: object) -> dict[str, Any]:
        self._number += 1
        asked: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session is not None:
            asked["sessionId"] = session
        os.write(self._write, json.dumps(asked).encode() + b"\0")
        while True:
            told = self._next(method)
            if told.get("id") == self._number:
                assert "error" not in told, told
                result: dict[str, Any] = told["result"]
                return result
            if "method" in told:
                self.events.append(told)

    def _next(self, method: str) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._read], [], [], WAIT_S)[0], f"the browser did not answer {method}"
            data = os.read(self._read, 1 << 20)
            assert data, "the browser has ended"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(message)
        return told


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A browser with a profile of its own in that folder; ends with the block."""
    if CHROMIUM is None:
        pytest.skip("needs chromium, on the path")
    theirs, mine = os.pipe()
    my_ears, their_mouth = os.pipe()

    # The browser listens at 3 and talks at 4. A shell puts them there: a process with threads must not run anything
    # between fork and exec.
    profile = folder / "profile"
    put = f'exec "$0" "$@" 3</dev/fd/{theirs} 4>/dev/fd/{their_mouth}'
    process = subprocess.Popen(
        ["/bin/sh", "-c", put, CHROMIUM, *_FLAGS, *_QUIET, "--remote-debugging-pipe", f"--user-data-dir={profile}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(theirs, their_mouth),
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
    )
    os.close(theirs)
    os.close(their_mouth)
    try:
        yield Page(my_ears, mine)
    finally:
        process.kill()
        process.wait()
        os.close(mine)
        os.close(my_ears)
