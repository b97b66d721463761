"""A headless Chromium under test, spoken to through a pipe in its own protocol."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
EXECUTABLE = next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page; `messages` are the errors and warnings of its console."""

    def __init__(self, folder: Path) -> None:
        read, self._write = os.pipe()
        self._read, write = os.pipe()
        # Chromium reads its third descriptor and writes its fourth.
        command = f'exec 3<&{read} 4>&{write}; exec "$@"'
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe")
        words = [EXECUTABLE, *options, f"--user-data-dir={folder}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", command, "bash", *words],
            pass_fds=(read, write),
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        self._count, self._rest, self._session = 0, b"", None
        self.messages: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for part in ("Page", "Runtime", "Log"):
            self.ask(f"{part}.enable")

    def ask(self, method: str, **values: Any) -> dict:
        """The answer to a command of the protocol."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": values}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._count:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, url: str, width: int, *, dark: bool = False, height: int = 900) -> None:
        """Show a page in a window of so many pixels."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self.ask("Page.navigate", url=url)
        while (answer := self._next()).get("method") != "Page.loadEventFired":
            self._note(answer)

    def run(self, script: str) -> Any:
        """The value of an expression of the page's."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, *, whole: bool = True) -> bytes:
        """The page as PNG bytes."""
        answer = self.ask("Page.captureScreenshot", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)
        for end in (self._read, self._write):
            os.close(end)

    def _next(self) -> dict:
        while b"\0" not in self._rest:
            piece = os.read(self._read, 2**16)
            assert piece, "the browser has ended"
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict) -> None:
        method, values = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.messages.append(values["exceptionDetails"]["text"])
        if method == "Runtime.consoleAPICalled":
            self.messages.append(str(values["args"]))
        if method == "Log.entryAdded":
            self.messages.append(values["entry"]["text"])


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile, for the block."""
    found = Browser(folder)
    try:
        yield found
    finally:
        found.close()
