"""Which errors mean that no memory is left, and what to lower then.

Each library says it in its own way. They are recognized by their texts, so that none of them is
imported here:

    Python, NumPy         MemoryError
    torch on the CPU      RuntimeError: DefaultCPUAllocator: can't allocate memory: ...
    torch on the GPU      torch.OutOfMemoryError: CUDA out of memory. ...
    cuDNN, cuBLAS         RuntimeError: ... CUDNN_STATUS_ALLOC_FAILED
    OpenCV                cv2.error: (-4:Insufficient memory) ...
    onnxruntime           Fail: ... Failed to allocate memory for requested buffer ...
    C++                   RuntimeError: std::bad_alloc
    a loader's process    RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed.

A loader's process that was killed, or is gone without a word, was almost always killed by the
kernel, which had no memory left. What its Python code raises comes with an error of its own.
"""

import enum
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from detreg.errors import DetregError, MemoryExhaustedError


class Shortage(enum.Enum):
    """Where memory is missing."""

    GPU = "the GPU has no memory left"
    MACHINE = "the machine has no memory left"
    LOADER = (
        "a process that loads images was killed, most likely by the kernel, because the machine "
        "has no memory left"
    )


_PATTERNS = {
    Shortage.GPU: re.compile(
        r"CUDA out of memory|CUDA error: out of memory"
        r"|CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_ALLOC_FAILED"
    ),
    # A bus error says that there is no shared memory left.
    Shortage.LOADER: re.compile(
        r"DataLoader worker \(pid.*\) (is killed by signal: (Killed|Bus error)|exited unexpectedly)"
    ),
    Shortage.MACHINE: re.compile(
        r"DefaultCPUAllocator: (can't allocate|not enough) memory|\(-4:Insufficient memory\)"
        r"|Failed to allocate memory for requested buffer|std::bad_alloc|bad allocation"
        r"|\[Errno 12\]"  # of a fork, or of shared memory
    ),
}
# torch adds a second error that a process "exited unexpectedly" to one that names its signal.
_CRASH = re.compile(r"is killed by signal: (?!Killed|Bus error)")

_TO_LOWER = {
    Shortage.GPU: ("batch_size", "image_size"),
    Shortage.LOADER: ("num_workers", "batch_size", "image_size"),
    Shortage.MACHINE: ("batch_size", "image_size", "num_workers"),
}
_FURTHER_ADVICE = {
    Shortage.GPU: "set precision=bf16, or end what else uses the GPU",
    Shortage.LOADER: "in a sweep lower workers, or use smaller images",
    Shortage.MACHINE: "in a sweep lower workers, use smaller images, or end what else uses memory",
}

OOM_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))
"""Files in which Linux counts, as `oom_kill`, those of a container and those of the machine."""


def find_shortage(error: BaseException) -> Shortage | None:
    """Return what an error, or one that caused it, says of missing memory; None if nothing."""
    link: BaseException | None = error
    while link is not None:
        shortage = _classify(link)
        if shortage is not None:
            return shortage
        link = link.__cause__ or link.__context__
    return None


def _classify(error: BaseException) -> Shortage | None:
    # Errors of our own were judged by whoever raised them, from the error that caused them.
    if isinstance(error, DetregError):
        return None

    cause = error.__cause__ or error.__context__
    if cause is not None and _CRASH.search(str(cause)):
        return None

    for shortage, pattern in _PATTERNS.items():
        if pattern.search(str(error)):
            return shortage
    # torch may word its message differently one day; the class stays.
    if type(error).__name__ == "OutOfMemoryError":
        return Shortage.GPU
    return Shortage.MACHINE if isinstance(error, MemoryError) else None


def find_memory_error(
    error: BaseException, values: Mapping[str, str] | None = None
) -> MemoryExhaustedError | None:
    """Return the error to report where memory is missing, None for any other error.

    `values` holds the present values of what can be lowered, as far as they are known.
    """
    if isinstance(error, DetregError):
        return None
    shortage = find_shortage(error)
    if shortage is None:
        return None

    names = []
    for name in _TO_LOWER[shortage]:
        names.append(f"{name}={values[name]}" if values and name in values else name)
    lower = f"lower {', '.join(names[:-1])} or {names[-1]}"
    return MemoryExhaustedError(f"{shortage.value}: {lower}, {_FURTHER_ADVICE[shortage]}")


@contextmanager
def translate_memory_errors() -> Iterator[None]:
    """Turn what the libraries raise inside the block, where memory is missing, into our error."""
    try:
        yield
    except Exception as error:
        known = find_memory_error(error)
        if known is None:
            raise
        raise known from error


def count_oom_kills() -> int:
    """Return how many processes the kernel has killed for want of memory, as far as it tells.

    In a container these are the container's own, elsewhere the machine's. Where the system does not
    count them, as outside of Linux, this is always 0.
    """
    for path in OOM_COUNTERS:
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0
