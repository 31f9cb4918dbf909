"""The processes that train one model together, as torchrun starts them, and how all of them end.

    torchrun --nproc_per_node=2 -m detreg train yolox --data /data/boats

The first process (rank 0) checks, prepares, writes and prints. The others wait until it is ready to
train, then load images and train with it. They talk through the key-value store of torchrun's
launcher, both before the process group exists and after it is gone. The keys, in the order in which
they are set:

    detreg/prepared    rank 0 is ready to train, or has ended without training
    detreg/pid/RANK    the process id of each process
    detreg/failed      the pickled error of the process that failed first
    detreg/ending      rank 0 has noticed that the training failed
    detreg/ended       the exit code of rank 0
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
from typing import TYPE_CHECKING

from detreg.environment import find_program
from detreg.errors import DetregError, UsageError
from detreg.signals import ignore_signals

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

NO_LIMIT = timedelta(days=7)
"""Timeout where none is needed: when a process dies, the launcher ends the others."""
GRACE = timedelta(seconds=10)
"""How long a failed process waits until rank 0, which may be waiting for its gradients, notices."""

_PREPARED = "detreg/prepared"
_PID = "detreg/pid"
_FAILED = "detreg/failed"
_ENDING = "detreg/ending"
_ENDED = "detreg/ended"

_INTERNAL_ERROR = 70


def get_rank() -> int:
    """Return the number of this process among all; 0 alone writes and prints."""
    return int(os.environ.get("RANK", "0"))


def get_local_rank() -> int:
    """Return the number of this process among those of its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def get_local_world_size() -> int:
    """Return how many of the processes run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def get_world_size() -> int:
    """Return how many processes train together, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def format_program() -> str:
    """Return the words that start detreg with as many processes; `detreg` for one.

    Where the machines of several find each other is left out, since no process knows it.
    """
    world_size = get_world_size()
    if world_size == 1:
        return find_program("detreg")
    machines = world_size // get_local_world_size()
    nnodes = f" --nnodes={machines}" if machines > 1 else ""
    return f"torchrun{nnodes} --nproc_per_node={get_local_world_size()} -m detreg"


def check_batch_size(batch_size: int) -> None:
    """Raise UsageError where the processes cannot share a step's images equally."""
    world_size = get_world_size()
    if batch_size % world_size == 0:
        return

    next_multiple = (batch_size // world_size + 1) * world_size
    raise UsageError(
        f"batch_size={batch_size} must be a multiple of the {world_size} processes, which share "
        f"a step's images: take {next_multiple}, or start another number of processes"
    )


def run_in_step(run: Callable[[], int]) -> int:
    """Run a command together with the other processes and return its exit code.

    Only a training needs the others. They print nothing unless they know more than rank 0.
    """
    if get_world_size() == 1:
        return run()
    if get_rank() == 0:
        return _run_as_first(run)
    return _run_as_other(run)


def signal_ready() -> None:
    """Let the other processes begin to train; called by rank 0.

    What can be refused has been checked by then, and what the others need lies in the cache.
    """
    if get_world_size() > 1:
        get_store().set(_PREPARED, "")


@functools.cache
def get_store() -> "Store":
    """Return the launcher's key-value store, to which this process connects once."""
    # A command that does not train needs no torch.
    from torch.distributed.rendezvous import rendezvous  # noqa: PLC0415

    store, _, _ = next(rendezvous("env://", timeout=NO_LIMIT))
    return store


def publish_pid() -> None:
    """Let the other processes of this machine check whether this one is alive."""
    get_store().set(f"{_PID}/{get_rank()}", str(os.getpid()))


def has_lost_process() -> bool:
    """Return whether another process of this machine is gone.

    If so, that is why the launcher ends this process; if not, the user does.
    """
    # Help and other light commands import this module, and psutil would make them slower.
    import psutil  # noqa: PLC0415

    store = get_store()
    first_rank = get_rank() - get_local_rank()
    for rank in range(first_rank, first_rank + get_local_world_size()):
        pid = int(store.get(f"{_PID}/{rank}"))
        if not psutil.pid_exists(pid):
            return True
    return False


def agree_on_failure(error: BaseException) -> BaseException:
    """Return the first error of any process, which may have caused this process's `error`.

    That is `error` itself, with what this process knows about it, where it is the same as the
    first, such as a loss that is NaN in every process. Signals are ignored from here on.
    """
    # The launcher stops all processes as soon as one ends with an error. The others must still
    # upload their checkpoints and agree on the error that is reported.
    ignore_signals()
    store = get_store()
    if get_rank() == 0:
        store.set(_ENDING, "")

    # compare_set writes only where nothing is there yet, and returns what is there then.
    content = store.compare_set(_FAILED, "", _pickle_error(error))  # type: ignore[arg-type]
    first: BaseException = pickle.loads(content)

    if type(first) is not type(error):
        return first
    # The processes' messages of one detreg error differ, as only rank 0 knows the run.
    is_same = isinstance(error, DetregError) or str(first) == str(error)
    return error if is_same else first


def _pickle_error(error: BaseException) -> bytes:
    try:
        content = pickle.dumps(error)
        pickle.loads(content)
    except Exception:  # a library's error whose constructor takes more than a message
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return content


def _run_as_first(run: Callable[[], int]) -> int:
    exit_code = _INTERNAL_ERROR
    try:
        exit_code = _get_exit_code(run)
    finally:
        ignore_signals()
        # _ENDED first: a process that wakes up for _PREPARED looks for it at once.
        store = get_store()
        store.set(_ENDED, str(exit_code))
        store.set(_PREPARED, "")
    return exit_code


def _run_as_other(run: Callable[[], int]) -> int:
    # Until rank 0 is ready this process waits, and ends when rank 0 does.
    ignore_signals()
    os.environ.pop("MLFLOW_RUN_ID", None)  # the run belongs to rank 0
    store = get_store()
    store.wait([_PREPARED], NO_LIMIT)
    if store.check([_ENDED]):
        return int(store.get(_ENDED))

    signal.signal(signal.SIGINT, signal.default_int_handler)
    errors = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(errors):
        exit_code = _get_exit_code(run)
    if exit_code == 0:
        return 0

    ignore_signals()
    first_exit_code = _wait_for_first_exit_code()
    # With the same exit code rank 0 has printed the same error.
    if first_exit_code != exit_code:
        print(errors.getvalue(), file=sys.stderr, end="", flush=True)
    return first_exit_code or exit_code


def _get_exit_code(run: Callable[[], int]) -> int:
    try:
        return run()
    except SystemExit as end:  # --help, or the end of a process that has trained with rank 0
        return int(end.code or 0)


def _wait_for_first_exit_code() -> int | None:
    """Wait for rank 0 to end; return its exit code, None if it notices no failure."""
    store = get_store()
    try:
        store.wait([_ENDING], GRACE)
        store.wait([_ENDED], NO_LIMIT)
    except RuntimeError:
        return None
    return int(store.get(_ENDED))
