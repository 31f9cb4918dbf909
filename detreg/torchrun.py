"""The processes that train one model together, as torchrun starts them: who comes first, and how all of them end.

    torchrun --nproc_per_node=2 -m detreg train yolox --data /data/boats

The first process checks, prepares, writes and tells; the others wait until it has prepared a training, then load pictures and train
with it. They talk through torchrun's key-value store before there is a process group, and after it.
"""

import functools
import io
import os
import pickle
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from datetime import timedelta
from typing import Any

from detreg.errors import DetregError, UsageError

LONG = timedelta(days=7)
"""Waiting has no limit of its own: where a process dies, the launcher ends the others."""
GRACE = timedelta(seconds=10)
"""How long a process that has failed lets the first one notice; one that waits for its share of a step may not."""
# Keys of the store.
_PREPARED, _FAILED, _ENDING, _ENDED, _PID = (
    f"detreg/{key}" for key in ("prepared", "failed", "ending", "ended", "pid")
)


def rank() -> int:
    """The number of this process; 0 is the first, which alone writes and tells."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """The number of this process among those of its machine, and of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_count() -> int:
    """How many of the processes are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def count() -> int:
    """How many processes train together, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check(batch_size: int) -> None:
    """Raises UsageError where the processes cannot share a step's images equally."""
    if batch_size % count():
        raise UsageError(
            f"batch_size={batch_size} must be a multiple of the {count()} processes, which share a step's images: "
            f"take {-(-batch_size // count()) * count()}, or start another number of processes"
        )


def together(run: Callable[[], int]) -> int:
    """Runs a command in step with the other processes; its exit code. Only a training needs the others, and they are silent."""
    if count() == 1:
        return run()
    return _lead(run) if rank() == 0 else _follow(run)


def prepared() -> None:
    """The first process says that a training can begin: what can be refused is not, and what the others need lies in the cache."""
    if count() > 1:
        store().set(_PREPARED, "")


@functools.cache
def store() -> Any:
    """The launcher's key-value store."""
    from torch.distributed.rendezvous import rendezvous

    return next(rendezvous("env://", timeout=LONG))[0]


def tell_pid() -> None:
    """Lets the others of this machine see whether this process lives."""
    store().set(f"{_PID}/{rank()}", str(os.getpid()))


def one_has_died() -> bool:
    """Whether another process of this machine is gone, which is then why the launcher ends this one."""
    import psutil

    first = rank() - local_rank()
    pids = [int(store().get(f"{_PID}/{number}")) for number in range(first, first + local_count())]
    return not all(map(psutil.pid_exists, pids))


def first_failure(error: BaseException) -> BaseException:
    """The error that came first in any process, which may have brought about this process's `error`.

    That is `error` itself where it is the same as the first, such as a loss that is NaN, with what this process knows about it.
    Signals are ignored from here on.
    """
    listen_to_no_signal()
    if rank() == 0:
        store().set(_ENDING, "")
    try:
        text = pickle.dumps(error)
        pickle.loads(text)
    except Exception:  # a library's error with more than a text
        text = pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    first: BaseException = pickle.loads(store().compare_set(_FAILED, "", text))
    same = type(first) is type(error) and (
        isinstance(error, DetregError) or str(first) == str(error)
    )
    return error if same else first


def _code(run: Callable[[], int]) -> int:
    try:
        return run()
    except SystemExit as end:  # --help, or the end of a process that has helped
        return int(end.code or 0)


def _lead(run: Callable[[], int]) -> int:
    code = 70
    try:
        code = _code(run)
    finally:
        listen_to_no_signal()
        store().set(_ENDED, str(code))
        store().set(_PREPARED, "")
    return code


def _follow(run: Callable[[], int]) -> int:
    listen_to_no_signal()
    os.environ.pop("MLFLOW_RUN_ID", None)  # the first process's
    store().wait([_PREPARED], LONG)
    if store().check([_ENDED]):
        return int(store().get(_ENDED))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    said = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(said):
        code = _code(run)
    if code == 0:
        return 0
    listen_to_no_signal()
    first = _end_of_first()
    if first != code:  # else the first process has told the same
        print(said.getvalue(), file=sys.stderr, end="", flush=True)
    return first or code


def _end_of_first() -> int | None:
    """The first process's exit code, after it has uploaded what is kept; None where it has not noticed that the training has failed."""
    try:
        store().wait([_ENDING], GRACE)
        store().wait([_ENDED], LONG)
    except RuntimeError:
        return None
    return int(store().get(_ENDED))


def listen_to_no_signal() -> None:
    """The launcher stops all processes when it sees one end with an error; the end of the others, which they write, is decided then."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
