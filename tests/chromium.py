"""A Chromium for tests: installs Debian's where it is missing and may be, and speaks its DevTools protocol by pipes.

python -m tests.chromium PAGE FOLDER      puts screenshots of a page into a folder: narrow, middle, wide, light and dark
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
PACKAGES = ("chromium", "fonts-dejavu-core")
WIDTHS = (400, 900, 1400)


@cache
def program() -> str | None:
    """Where Chromium is, installed now where apt-get may; None where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and shutil.which("apt-get") and os.geteuid() == 0:
        command = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
        if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
            found = shutil.which(NAMES[0])
    return found


class Chromium:
    """One window: `open` a page, `evaluate` JavaScript in it, take a `screenshot`; used in a `with` statement."""

    def __init__(self) -> None:
        self._home = tempfile.mkdtemp(prefix="groklab-chromium-")
        (read_here, write_there), (read_there, self._in) = os.pipe(), os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
                 "--remote-debugging-pipe", f"--user-data-dir={self._home}"]  # fmt: skip
        # The protocol is spoken at file descriptors 3 and 4.
        shell = ["bash", "-c", f'exec "$@" 3<&{read_there} 4>&{write_there}', "bash", str(program()), *flags]
        self._process = subprocess.Popen(
            shell, pass_fds=(read_there, write_there), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(read_there)
        os.close(write_there)
        self._out = os.fdopen(read_here, "rb")
        self._number, self._session, self._rest = 0, "", b""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Page.enable")

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._out.close()
        os.close(self._in)
        shutil.rmtree(self._home, ignore_errors=True)

    def open(self, page: Path, width: int, dark: bool = False, height: int = 900) -> None:
        """Show a page in a window so wide, in light or dark colours, until its scripts have run."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url=page.resolve().as_uri())
        while self._message().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, script: str) -> Any:
        """What an expression of JavaScript comes to, as JSON can say it."""
        found = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise ValueError(json.dumps(found["exceptionDetails"])[:2000])
        return found["result"].get("value")

    def screenshot(self) -> bytes:
        """The whole page as PNG."""
        found = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(found["data"])

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        said = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            said["sessionId"] = self._session
        os.write(self._in, json.dumps(said).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise ValueError(f"{method}: {answer['error']}")
                return answer["result"]

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._out.fileno(), 1 << 16)
            if not part:
                raise EOFError("Chromium has ended")
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        return json.loads(text)


if __name__ == "__main__":
    with Chromium() as browser:
        for width in WIDTHS:
            for dark in (False, True):
                browser.open(Path(sys.argv[1]), width, dark)
                file = Path(sys.argv[2]) / f"{width}-{'dark' if dark else 'light'}.png"
                file.write_bytes(browser.screenshot())
                print(file)
