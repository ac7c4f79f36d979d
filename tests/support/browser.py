"""Debian's Chromium without a window, driven over the Chrome DevTools protocol: JSON messages, each ended by a zero
byte, through two pipes. The standard library is all it needs."""
from __future__ import annotations

import argparse
import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")
PATIENCE = 30.0                  # seconds for one answer of a browser that shares its machine


def above_nine(end: int) -> int:
    """The end of a pipe under a number that is not among those that the browser wants: 3 and 4."""
    moved = fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(end)
    return moved


class Browser:
    """One tab. `problems`: what the page logged as an error, threw, or asked of a network."""

    def __init__(self):
        ours_in, theirs_out = map(above_nine, os.pipe())
        theirs_in, ours_out = map(above_nine, os.pipe())
        self._profile = tempfile.TemporaryDirectory(prefix="chromium_", ignore_cleanup_errors=True)
        switches = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                    "--disable-extensions", "--disable-background-networking", "--disable-component-update",
                    "--remote-debugging-pipe", f"--user-data-dir={self._profile.name}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}', CHROMIUM, *switches],
            pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out, self._left, self._number = ours_in, ours_out, b"", 0
        self._session, self._events, self.problems = None, [], []
        tab = next(target for target in self.call("Target.getTargets")["targetInfos"] if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=tab["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_) -> None:
        os.close(self._out)                          # the browser ends with its pipe
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        self._profile.cleanup()

    def call(self, method: str, **parameters) -> dict[str, Any]:
        """The result of a command."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        os.write(self._out, json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode()
                 + b"\0")
        while True:
            found = self._receive()
            if found.get("id") == self._number:
                assert "error" not in found, (method, found["error"])
                return found["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._in], [], [], PATIENCE)
            part = os.read(self._in, 1 << 16) if ready else b""
            assert part, "the browser ended, or does not answer"
            self._left += part
        line, _, self._left = self._left.partition(b"\0")
        found = json.loads(line)
        self._note(found.get("method"), found.get("params", {}))
        return found

    def _note(self, method: str | None, event: dict) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(event["exceptionDetails"])
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning", "assert"):
            self.problems.append(event["args"])
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.problems.append(event["entry"])
        elif method == "Network.requestWillBeSent" and not event["request"]["url"].startswith(("file:", "about:")):
            self.problems.append(event["request"]["url"])

    def open(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """The file, laid out for a window of this size, once `data-ready` stands on its root element."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 600)
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.until("document.documentElement?.hasAttribute('data-ready')")

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression (promises are waited for)."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until the expression is true."""
        deadline = time.monotonic() + PATIENCE
        while not self.run(expression):
            assert time.monotonic() < deadline, f"never true: {expression}; {self.problems}"
            time.sleep(0.02)

    def press(self, key: str) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                      windowsVirtualKeyCode={"Tab": 9, "ArrowLeft": 37, "ArrowRight": 39, "Enter": 13}[key])

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


def main() -> None:
    """How long a page of `nft_jax.report` takes to open and to search; and a picture of it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--picture", type=Path, help="a PNG file to write")
    parser.add_argument("--width", type=int, default=1100)
    parser.add_argument("--height", type=int, default=1500)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--hide", default="nothing", help="CSS selector of what is left out of the picture")
    given = parser.parse_args()
    with Browser() as browser:
        browser.open(given.page, given.width, given.height, given.dark)
        first = "performance.getEntriesByName('first-contentful-paint')[0]"
        browser.until(f"{first} && document.readyState === 'complete'")
        painted = browser.run(f"{first}.startTime")
        opened = browser.run("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
        searched = browser.run("(() => { const from = performance.now(); byId('search').value = 'a'; filter(); "
                               "const took = performance.now() - from; byId('search').value = ''; filter(); "
                               "return took })()")
        print(f"painted after {painted:.0f} ms, all charts and the first answers there after {opened:.0f} ms, first "
              f"search {searched:.0f} ms; {browser.run('data.rollouts.rows.length')} answers, "
              f"{given.page.stat().st_size / 1e6:.1f} MB")
        if given.picture:
            browser.run(f"document.querySelectorAll({json.dumps(given.hide)}).forEach(node => node.remove())")
            browser.screenshot(given.picture)


if __name__ == "__main__":
    main()
