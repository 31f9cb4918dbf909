"""Keeps Python from searching a dataset for garbage while it is built."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Search for no cycles of garbage while the block runs; also a decorator.

    Python searches each time that many objects have been made, all that there are: with the
    millions of a large dataset, none of which is garbage, that takes more time than parsing it.
    What is no cycle is freed at once, as ever. Blocks may lie in each other, and in threads side by
    side: then the search is on again when the one that turned it off ends.
    """
    if not gc.isenabled():
        yield
        return

    gc.disable()
    try:
        yield
    finally:
        gc.enable()
