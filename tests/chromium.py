"""Drives Chromium by its DevTools protocol, through a pipe, so that it needs no library."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

EXECUTABLE = shutil.which("chromium") or shutil.which("google-chrome")
DEADLINE_SECONDS = 300
"""For a page or a browser that hangs, not for a slow machine."""

_FLAGS = (
    "--headless=new",
    # It refuses to run as root with its sandbox, and loads only what the test serves.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--remote-debugging-pipe",
)


class Chromium:
    """One page in a browser of its own. `complaints` are what its console and its policy say."""

    def __init__(self, folder: Path, width: int = 1280, height: int = 900) -> None:
        assert EXECUTABLE is not None
        # Chromium reads commands from descriptor 3 and answers on 4, each ended by a zero.
        to_browser, self._commands = os.pipe()
        self._answers, from_browser = os.pipe()
        script = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
        words = [EXECUTABLE, *_FLAGS, f"--user-data-dir={folder}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", script, *words],
            pass_fds=(to_browser, from_browser),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)

        self.complaints: list[str] = []
        self._received = b""
        self._number = 0
        self._session: str | None = None
        targets = self.command("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        attached = self.command("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.command(f"{domain}.enable")
        self.command("Emulation.setFocusEmulationEnabled", enabled=True)
        self.resize(width, height)

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait(DEADLINE_SECONDS)
        os.close(self._commands)
        os.close(self._answers)

    def command(self, method: str, **params: object) -> dict[str, Any]:
        """Send a command and return its answer."""
        self._number += 1
        message: dict[str, object] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data) :]

        while True:
            answer = self._read_message()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self._note(answer)

    def resize(self, width: int, height: int) -> None:
        """Show the page in a window of this size; a narrow one is a phone's."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self.command(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Wait until an expression in the page is true."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not self.run(condition):
            assert time.monotonic() < deadline, f"{condition}: {self.complaints}"
            time.sleep(0.05)

    def drop(self, file: Path, x: int = 300, y: int = 300) -> None:
        """Drag a file from the desktop onto the page."""
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.command("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file in a file input."""
        root = self.command("DOM.getDocument")["root"]["nodeId"]
        node = self.command("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.command("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def press(self, key: str) -> None:
        """Press a key that is named as in DOM events, such as ArrowRight."""
        for kind in ("rawKeyDown", "keyUp"):
            codes = {"Tab": 9, "ArrowRight": 39, "Enter": 13, " ": 32}
            self.command(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code="Space" if key == " " else key,
                windowsVirtualKeyCode=codes[key],
            )

    def save_screenshot(self, path: Path) -> None:
        """Write what the window shows as a PNG file."""
        answer = self.command("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(answer["data"]))

    def _read_message(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            data = os.read(self._answers, 1 << 20)
            assert data, "Chromium has ended"
            self._received += data
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Log.entryAdded":
            self.complaints.append(event["params"]["entry"]["text"])
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(event["params"]["exceptionDetails"]))
