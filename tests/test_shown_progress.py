"""The line that a terminal shows while a dataset is checked, or images are predicted."""

import io
import threading
from pathlib import Path

import pytest

from detreg import progress
from detreg.cli import run
from detreg.data import check
from detreg.data.sample import write_sample
from detreg.progress import Progress, show_progress

PATIENCE = 300
"""Seconds that a thread may take at most, on a machine that is busy."""


class Terminal(io.StringIO):
    """A terminal that notes when a bar appears on it."""

    def __init__(self) -> None:
        super().__init__()
        self.has_bar = threading.Event()

    def isatty(self) -> bool:
        return True

    def flush(self) -> None:
        if "[" in self.getvalue():
            self.has_bar.set()


def test_a_phase_is_shown_once_it_lasts_a_second() -> None:
    seconds = [0.0]
    shown = Progress(lambda: seconds[0])
    seconds[0] = 5.0
    assert shown.describe() == ""

    shown.begin("reading images", 2000)
    seconds[0] = 5.9
    assert shown.describe() == ""
    seconds[0] = 6.0
    assert shown.describe() == "reading images  [--------------------] 0 of 2,000"

    seconds[0] = 7.0
    shown.add(450)
    shown.add(50)
    assert shown.describe() == "reading images  [#####---------------] 500 of 2,000, 6 s left"
    shown.add(1500)
    assert shown.describe() == "reading images  [####################] 2,000 of 2,000, 0 s left"

    shown.begin("reading annotations")
    assert shown.describe() == ""
    seconds[0] = 19.0
    assert shown.describe() == "reading annotations  12 s"


def test_line_appears_on_a_terminal_and_is_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_DELAY", 0)
    terminal = Terminal()
    with show_progress(stream=terminal) as shown:
        shown.begin("reading images", 10)
        shown.add(5)
        assert terminal.has_bar.wait(PATIENCE)

    *_, line, erased, rest = terminal.getvalue().split("\r")
    assert "of 10" in line
    assert erased.strip() == "" and len(erased) == len(line)
    assert rest == ""


@pytest.mark.parametrize(("is_wanted", "stream"), [(False, Terminal()), (True, io.StringIO())])
def test_nothing_is_drawn_unless_wanted_on_a_terminal(
    is_wanted: bool, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_DELAY", 0)
    before = threading.active_count()
    with show_progress(is_wanted, stream) as shown:
        shown.begin("reading images", 10)
        assert threading.active_count() == before
    assert stream.getvalue() == ""


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_check_shows_progress_but_not_with_json(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETREG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(progress, "_DELAY", 0)
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    write_sample(tmp_path / "data", format="coco", images=6, seed=0, size=(64, 64))

    check_name = check._check_name

    is_drawing = []

    def look_for_thread(name: str) -> None:
        is_drawing.append("progress" in [thread.name for thread in threading.enumerate()])
        if is_drawing[-1]:
            assert terminal.has_bar.wait(PATIENCE)
        check_name(name)

    monkeypatch.setattr(check, "_check_name", look_for_thread)
    assert run(["check", str(tmp_path / "data"), *flags]) == 0
    assert is_drawing == [not flags] * 6
    assert ("of 6" in terminal.getvalue()) == (not flags)


def test_a_notebook_shows_the_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_DELAY", 0)

    class OutStream(Terminal):
        """The standard error of a notebook, which says that it is no terminal."""

        __module__ = "ipykernel.iostream"

        def isatty(self) -> bool:
            return False

    cell = OutStream()
    with show_progress(stream=cell) as shown:
        shown.begin("reading images", 10)
        shown.add(5)
        assert cell.has_bar.wait(PATIENCE)
    assert "of 10" in cell.getvalue()
