"""Signals are noted where a block asks for it, and raised where it ends."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from detreg.signals import (
    STOP_SIGNALS,
    SignalExit,
    Stopped,
    UrgentInterrupt,
    defer_signals,
    ignore_signals,
    raise_on_signals,
)


@pytest.fixture(autouse=True)
def _restore_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    # Whoever starts the tests may ignore them: a shell in the background, `nohup`.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    raise_on_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_raised_at_once_with_a_shells_exit_code(number: int) -> None:
    with pytest.raises(SignalExit) as raised:
        send(number)
    assert raised.value.code == raised.value.exit_code == 128 + number
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_deferred_signal_is_raised_when_the_block_ends(number: int) -> None:
    done: list[str] = []
    with pytest.raises((SignalExit, KeyboardInterrupt)) as raised, defer_signals() as signals:
        assert not signals.is_pending
        send(number)
        assert signals.is_pending
        done.append("step")
        raise Stopped
    assert done == ["step"]
    assert isinstance(raised.value, KeyboardInterrupt) == (number == signal.SIGINT)


def test_a_failure_while_stopping_is_told_with_the_signal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SignalExit), defer_signals():
        send(signal.SIGTERM)
        raise OSError("the disk is full")
    assert "detreg: while it stopped: OSError: the disk is full" in capsys.readouterr().err


def test_without_a_signal_a_block_ends_as_it_would() -> None:
    with defer_signals():
        pass
    with pytest.raises(OSError, match="full"), defer_signals():
        raise OSError("the disk is full")
    with pytest.raises(SignalExit):
        send(signal.SIGTERM)  # the handlers are back


def test_a_second_ctrl_c_ends_the_block_at_once() -> None:
    done: list[str] = []
    with pytest.raises(UrgentInterrupt), defer_signals() as signals:
        send(signal.SIGINT)
        send(signal.SIGTERM)  # `mlflow run` adds this to a Ctrl-C
        send(signal.SIGTERM)
        done.append("step")
        send(signal.SIGINT)
        done.append("not reached")
    assert done == ["step"]
    assert signals.is_urgent


def test_a_handler_with_rules_of_its_own_gets_the_signal_once() -> None:
    received: list[int] = []

    def handle(number: int, frame: object) -> None:
        received.append(number)
        ignore_signals()
        raise KeyboardInterrupt("give the trial back")

    signal.signal(signal.SIGINT, handle)
    with pytest.raises(KeyboardInterrupt, match="give the trial back"), defer_signals():
        send(signal.SIGINT)
        send(signal.SIGINT)
        assert received == []
    assert received == [signal.SIGINT]


def test_a_signal_is_raised_at_once_where_it_is_let_through() -> None:
    with pytest.raises(SignalExit), defer_signals() as signals, signals.let_through():
        send(signal.SIGTERM)
    with pytest.raises(SignalExit), defer_signals() as signals:
        with signals.let_through():
            pass
        send(signal.SIGTERM)
        assert signals.is_pending


def test_a_signal_without_a_handler_is_raised_too() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with pytest.raises(SignalExit), defer_signals():
        send(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_is_ignored_stays_ignored() -> None:
    """`nohup` ignores SIGHUP, a shell SIGINT for what it starts in the background."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise_on_signals()
    with defer_signals() as signals:
        send(signal.SIGHUP)
        send(signal.SIGINT)
        assert not signals.is_pending


def test_another_thread_defers_nothing() -> None:
    handlers: list[object] = []

    def run() -> None:
        with defer_signals():
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [before]


LOSE_TERMINAL = """
import os, signal, sys
from detreg.signals import Stopped, defer_signals, raise_on_signals

raise_on_signals()
try:
    with defer_signals():
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGHUP)
        print("saved", file=sys.stderr, flush=True)
        print("saved", flush=True)
        raise Stopped
finally:
    print("uploaded", flush=True)
"""


def test_a_terminal_that_is_gone_breaks_nothing(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(LOSE_TERMINAL)
    terminal, inside = os.openpty()
    command = [sys.executable, str(tmp_path / "script.py")]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    os.close(inside)
    os.close(terminal)
    process.communicate(b"x")
    assert process.returncode == 128 + signal.SIGHUP


WATCH_PARENT = """
import sys, time
from pathlib import Path
from detreg.signals import SignalExit, end_with_parent, raise_on_signals

raise_on_signals()
try:
    end_with_parent()
    print("ready", flush=True)
    while True:
        time.sleep(0.05)
except SignalExit as signal_exit:
    print(signal_exit.exit_code, flush=True)
"""


@pytest.mark.parametrize("command", ["exec {child}", "{child}; true"], ids=["direct", "in a shell"])
def test_a_process_ends_with_its_parent(command: str, tmp_path: Path) -> None:
    """As `mlflow run` starts it: through a shell, which may or may not become the process."""
    (tmp_path / "child.py").write_text(WATCH_PARENT)
    child = command.format(child=f"{sys.executable} {tmp_path / 'child.py'}")
    start = f"import subprocess; subprocess.run(['bash', '-c', {child!r}])"
    parent = subprocess.Popen(
        [sys.executable, "-c", start],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    parent.kill()
    parent.wait()
    # The child has the pipe too, which ends when the child does.
    assert parent.stdout.read() == "143\n"


RUN_AND_TIDY_UP = """
import atexit, multiprocessing, os, signal, sys
from detreg.__main__ import main

def load_images():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()

multiprocessing.get_context("fork").Process(target=load_images, daemon=True).start()
atexit.register(print, "tidied up")
atexit.register(os.kill, os.getpid(), signal.SIGTERM)
sys.argv[1:] = ["weights", "list", "nobody"]
main()
"""


def test_a_signal_after_the_command_disturbs_nothing() -> None:
    """`mlflow run` sends SIGTERM after Ctrl-C, often while Python ends the process already.

    A process that was left behind, and ignores SIGTERM, is not waited for either.
    """
    done = subprocess.run(
        [sys.executable, "-c", RUN_AND_TIDY_UP],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        timeout=600,
    )
    assert "Traceback" not in done.stderr
    assert done.stdout == "tidied up\n"
    assert done.returncode == 2, done.stderr
