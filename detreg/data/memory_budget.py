"""Bounds the memory of threads that work side by side."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ALWAYS_FREE = 4 << 20
"""Bytes that nobody waits for, because even many threads together fill no memory with them."""


class MemoryBudget:
    """So many bytes for all threads together.

    What does not fit waits until others are done. What is larger than the whole budget waits until
    it is alone.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, count: int) -> Iterator[None]:
        """Hold `count` bytes while the block runs."""
        if count <= _ALWAYS_FREE:
            yield
            return

        needed = min(count, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._used + needed <= self._size)
            self._used += needed
        try:
            yield
        finally:
            with self._changed:
                self._used -= needed
                self._changed.notify_all()
