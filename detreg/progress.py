"""Shows on a terminal what is being done, where that takes longer than a second."""

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

_DELAY = 1.0
"""Seconds that a phase lasts before it is shown."""

_INTERVAL = 0.2
"""Seconds between two looks at what is done."""

_BAR_WIDTH = 20


class Progress:
    """What is being done now, and how much of it is done.

    Whoever does the work calls `begin` and `add`, which cost nothing; `show_progress` draws it.
    """

    def __init__(self, get_time: Callable[[], float] = time.monotonic) -> None:
        self._get_time = get_time
        self._started_at = get_time()
        self._title = ""
        self._total = 0
        self._done = 0

    def begin(self, title: str, total: int = 0) -> None:
        """Begin a phase of `total` steps, 0 where their number is not known."""
        self._started_at = self._get_time()
        self._title, self._total, self._done = title, total, 0

    def add(self, count: int = 1) -> None:
        """Note that so many steps more are done."""
        self._done += count

    def describe(self) -> str:
        """Return a line on the present phase, an empty one while it is younger than a second."""
        seconds = self._get_time() - self._started_at
        if not self._title or seconds < _DELAY:
            return ""
        if self._total == 0:
            return f"{self._title}  {seconds:.0f} s"

        share = min(self._done / self._total, 1.0)
        filled = round(share * _BAR_WIDTH)
        bar = "#" * filled + "-" * (_BAR_WIDTH - filled)
        left = f", {seconds * (1 - share) / share:.0f} s left" if share > 0 else ""
        return f"{self._title}  [{bar}] {self._done:,} of {self._total:,}{left}"


def can_redraw(stream: TextIO) -> bool:
    """Whether a stream redraws its last line: that of a terminal, or of a notebook's cell."""
    is_of_notebook = type(stream).__module__.startswith("ipykernel.")
    return is_of_notebook or stream.isatty()


@contextmanager
def show_progress(is_wanted: bool = True, stream: TextIO | None = None) -> Iterator[Progress]:
    """Draw the progress of what the block does in one line of a terminal, and erase it at the end.

    is_wanted: nothing is drawn where it is False, nor where the stream is neither a terminal nor
        that of a notebook.
    stream: by default the standard error output, so that what a command prints stays clean.
    """
    progress = Progress()
    terminal = stream or sys.stderr
    if not is_wanted or not can_redraw(terminal):
        yield progress
        return

    has_ended = threading.Event()
    drawing = threading.Thread(
        target=_draw, args=(progress, terminal, has_ended), name="progress", daemon=True
    )
    drawing.start()
    try:
        yield progress
    finally:
        has_ended.set()
        drawing.join()


def _draw(progress: Progress, terminal: TextIO, has_ended: threading.Event) -> None:
    """Draw the progress now and then, until it has ended; then erase it."""
    shown = ""
    while not has_ended.wait(_INTERVAL):
        # One column less than there are: some terminals break a full line.
        line = progress.describe()[: shutil.get_terminal_size().columns - 1]
        if line or shown:
            # Spaces cover what the line before has more, on any terminal.
            terminal.write(f"\r{line.ljust(len(shown))}")
            terminal.flush()
        shown = line
    if shown:
        terminal.write(f"\r{' ' * len(shown)}\r")
        terminal.flush()
