"""Runs `detreg show` as a user does."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ShownModel:
    """A process of `detreg show`, and the link that it has printed."""

    process: subprocess.Popen[str]
    url: str

    def interrupt(self) -> tuple[int, str]:
        """Press Ctrl-C, and return the exit code and what was printed since the link."""
        self.process.send_signal(signal.SIGINT)
        output, _ = self.process.communicate(timeout=600)
        return self.process.returncode, output


@contextlib.contextmanager
def show(model: Path, **environment: str) -> Iterator[ShownModel]:
    """Start `detreg show` on any port, wait for its link, and end it."""
    # It is told where to put what it writes, and must leave nothing there.
    folder = model.parent / "temporary"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "detreg", "show", str(model), "--port", "0"],
        env={**os.environ, "TMPDIR": str(folder), **environment},
        cwd=model.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        printed = ""
        for line in process.stdout:
            printed += line
            if link := re.search(r"http://127\.0\.0\.1:\d+/", line):
                break
        else:
            raise AssertionError(printed)
        yield ShownModel(process, link.group())
    finally:
        process.terminate()
        process.communicate(timeout=600)
