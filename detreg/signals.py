"""SIGINT, SIGTERM and SIGHUP: how they end a command, and how a training postpones them.

A signal raises an exception in the main thread, so that the MLflow run ends as KILLED and says why:
KeyboardInterrupt for SIGINT (Ctrl-C), SignalExit for the others. Inside `defer_signals` it is only
noted. The block looks for it where it can stop without losing anything, and the exception is raised
when the block has ended.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

Handler = Callable[[int, FrameType | None], object]

PARENT_CHECK_SECONDS = 1.0

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

ANNOUNCEMENT = "stops after the step under way; a second Ctrl-C ends it at once"

_NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
SHELLS = ("sh", "bash", "dash")


class SignalExit(SystemExit):
    """A signal that ends the process with the exit code of a shell: 128 and the signal's number."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.exit_code = 128 + number
        super().__init__(self.exit_code)

    def __reduce__(self) -> tuple[type["SignalExit"], tuple[int]]:
        """Let a process of torchrun send it to another one."""
        return SignalExit, (self.number,)

    def __str__(self) -> str:
        return _NAMES[signal.Signals(self.number)]


class UrgentInterrupt(KeyboardInterrupt):
    """A second Ctrl-C: nothing is saved or waited for any more."""


class Stopped(BaseException):
    """Leaves a block of `defer_signals`, which then raises the exception of the signal."""


class DeferredSignals:
    """The signals that have come in a block of `defer_signals`.

    `announcement` is printed when the first one comes; nothing is where it is empty.
    """

    def __init__(self, announcement: str = "") -> None:
        self.announcement = announcement
        self.first: int | None = None
        # The user does not want to wait for what the block does to stop.
        self.is_urgent = False
        self._interrupts = 0
        self._pid = os.getpid()
        self._handlers: dict[int, Handler | int] = {}

    @property
    def is_pending(self) -> bool:
        """Whether the block has to stop."""
        return self.first is not None

    def install(self) -> None:
        """Note the signals from here on; those that are ignored stay so."""
        self._handlers = {}
        for number in STOP_SIGNALS:
            handler = signal.getsignal(number)
            if handler is not None and handler is not signal.SIG_IGN:
                self._handlers[number] = handler
                signal.signal(number, self._note)

    def uninstall(self) -> None:
        """Bring the former handlers back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def let_through(self) -> Iterator[None]:
        """Raise signals at once inside the block, which may wait for somebody else."""
        if not self._handlers:
            yield
            return
        self.uninstall()
        try:
            yield
        finally:
            self.install()

    def deliver(self) -> None:
        """Give the first signal to its former handler, which raises; nothing if none has come."""
        if self.first is None:
            return
        # A signal that another process has got may be one that this process ignores.
        handler = self._handlers.get(self.first)
        if callable(handler):
            handler(self.first, None)
        # It would have ended the process, without a word in the MLflow run.
        raise SignalExit(self.first)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        # A process of a data loader has these handlers too until it sets its own.
        if os.getpid() != self._pid:
            return

        self._interrupts += number == signal.SIGINT
        # `mlflow run` answers Ctrl-C with a SIGTERM, so only a second Ctrl-C is one by the user. A
        # handler that is not Python's own decides for itself what a second signal does.
        has_default_handler = self._handlers.get(signal.SIGINT) is signal.default_int_handler
        if number == signal.SIGINT and self._interrupts > 1 and has_default_handler:
            self.is_urgent = True
            raise UrgentInterrupt

        if self.first is None:
            self.first = number
            if self.announcement:
                name = _NAMES[signal.Signals(number)]
                _write_to_terminal(f"\ndetreg: {name}: {self.announcement}\n")


@contextlib.contextmanager
def defer_signals(
    announcement: str = ANNOUNCEMENT, is_expected: Callable[[Exception], bool] | None = None
) -> Iterator[DeferredSignals]:
    """Note a first signal inside the block, and raise its exception at the end of the block.

    The block may end early by raising `Stopped`. Another exception is printed, unless `is_expected`
    says that it only follows from the signal, and the signal's is raised in its place. In another
    thread than the main one, which has no signals, nothing is deferred.
    """
    deferred = DeferredSignals(announcement)
    if threading.current_thread() is not threading.main_thread():
        yield deferred
        return

    deferred.install()
    try:
        yield deferred
    except Stopped:
        pass
    except Exception as error:
        if not deferred.is_pending:
            raise
        if is_expected is None or not is_expected(error):
            print_problems([f"while it stopped: {type(error).__name__}: {error}"])
    finally:
        deferred.uninstall()
    deferred.deliver()


def raise_on_signals() -> None:
    """Let SIGTERM and SIGHUP raise SignalExit; SIGHUP stays ignored where `nohup` ignores it."""
    signal.signal(signal.SIGTERM, _raise_exit)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _raise_exit)


@contextlib.contextmanager
def explain_interruption(describe: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Print what is left by the block where a signal's exception ends it.

    At once, because the run that ends then may wait a while for its tracking server.
    """
    try:
        yield
    except (KeyboardInterrupt, SignalExit):
        print_problems(describe())
        raise


def print_problems(problems: Sequence[str]) -> None:
    """Print each problem as a line on stderr."""
    for problem in problems:
        print(f"detreg: {problem}", file=sys.stderr, flush=True)


def ignore_signals() -> None:
    """Ignore the signals in this process: one that it works for decides when it ends."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_without_signals() -> None:
    """Let Python end this process undisturbed, after its command has ended.

    `mlflow run` sends SIGTERM right after Ctrl-C, which would raise in whatever Python tidies up
    then, with a traceback. Only another Ctrl-C ends the process at once. Processes that load images
    ignore the SIGTERM with which Python would end them, and it would wait for them for ever.
    """
    for process in multiprocessing.active_children():
        process.kill()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def end_with_parent() -> None:
    """Send this process SIGTERM when the process that has started it, or its shell, is gone.

    `mlflow run` that is killed leaves the process of its project behind, and nobody would know.
    """
    import psutil  # noqa: PLC0415 (only a process of `mlflow run` needs it)

    # `mlflow run` starts a shell, which most often becomes this process, but not always. Whoever
    # loses its parent gets another one.
    parents = {os.getpid(): os.getppid()}
    shell = psutil.Process().parent()
    if shell is not None and shell.name() in SHELLS:
        parents[shell.pid] = shell.ppid()

    def has_lost_parent() -> bool:
        try:
            return any(psutil.Process(pid).ppid() != parent for pid, parent in parents.items())
        except psutil.NoSuchProcess:
            return True

    def watch() -> None:
        while not has_lost_parent():
            time.sleep(PARENT_CHECK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _raise_exit(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    if number == signal.SIGHUP:
        _write_to_terminal("\n")
    raise SignalExit(number)


def _write_to_terminal(text: str) -> None:
    """Write to stderr, as a signal handler may; leave a terminal that is gone.

    Nothing else that is printed may then fail, since what was trained is still to be saved.
    """
    try:
        os.write(2, text.encode())
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                os.dup2(null, stream.fileno())
        os.close(null)
