"""Memory through which the processes of a loader hand their images to the training.

Left to itself, torch makes shared memory for each tensor that a process sends, and a connection to
hand it over: for an image and its boxes that takes longer than all changes of the image. Here the
memory is made once, before the processes are forked, and divided into places for one image each.

Every process has places of its own, and every place has a flag: 1 while it is in use. Only the
process that loads sets it, before it writes; only the training clears it, when no tensor refers to
the image any more. So nobody waits, and no lock is needed. An image that finds no place is sent
through the pipe, as boxes are.
"""

import itertools
import mmap
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from detreg.templates.config import Config
from detreg.training.image_cache import Pixels

BATCHES = 4
"""Batches of a process at a time: two wait, one is trained on, one is made."""

_numbers = itertools.count()
_memories: "weakref.WeakValueDictionary[int, ImageMemory]" = weakref.WeakValueDictionary()
"""All that this process has made, or the one that it was forked from, by their numbers."""


@dataclass(frozen=True)
class SharedImage:
    """An image in shared memory, planes (3, height, width). Where it arrives it is a tensor."""

    memory: int
    place: int
    planes: Pixels

    def __reduce__(self) -> tuple[Callable[..., torch.Tensor], tuple[Any, ...]]:
        return _open_image, (self.memory, self.place, self.planes.shape)


class ImageMemory:
    """The shared memory of one loader.

    processes: that load, as long as the loader lives.
    images: of a batch.
    image_bytes: of the largest image.
    """

    def __init__(self, processes: int, images: int, image_bytes: int) -> None:
        self.image_bytes = image_bytes
        self.places = BATCHES * images
        self._number = next(_numbers)
        _memories[self._number] = self

        count = processes * self.places
        # Pages that nobody has written to take no memory.
        memory = mmap.mmap(-1, count * (1 + image_bytes))
        levels = np.frombuffer(memory, np.uint8)
        self._is_used = levels[:count]
        self._pixels = levels[count:].reshape(count, image_bytes)

    def find_room(self, height: int, width: int) -> SharedImage | None:
        """Return an image to write to.

        None where all places are in use, and in a process that has nobody to send it to.
        """
        worker = get_worker_info()
        size = 3 * height * width
        if worker is None or size > self.image_bytes:
            return None

        first = worker.id * self.places
        free = np.flatnonzero(self._is_used[first : first + self.places] == 0)
        if not free.size:
            return None

        # The first, so that places beyond what is needed take no memory.
        place = first + int(free[0])
        self._is_used[place] = 1
        planes = self._pixels[place, :size].reshape(3, height, width)
        return SharedImage(self._number, place, planes)

    def open_image(self, place: int, shape: tuple[int, ...]) -> torch.Tensor:
        """Return the image of a place, which is free when nothing refers to the tensor."""
        pixels = self._pixels[place]
        # What is torn down at the end of a process, or in one that is forked, frees nothing.
        weakref.finalize(pixels, self._free, place, os.getpid()).atexit = False
        image = torch.from_numpy(pixels)
        return image[: np.prod(shape)].view(shape)

    def _free(self, place: int, owner: int) -> None:
        if os.getpid() == owner:
            self._is_used[place] = 0

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[None]]:
        """Become None in a process that is not forked, and shares no memory."""
        return make_image_memory, (None,)


def make_image_memory(config: Config | None) -> ImageMemory | None:
    """Return the memory of a configuration, None where nobody shares it or there is none."""
    if config is None or not config["processes"]:
        return None
    try:
        return ImageMemory(**config)
    except OSError:
        return None


def send_tensors_by_value() -> None:
    """Let this process send tensors through the pipe, without shared memory for each."""
    ForkingPickler.register(torch.Tensor, _reduce_to_array)


def _reduce_to_array(tensor: torch.Tensor) -> tuple[Callable[..., torch.Tensor], tuple[Any, ...]]:
    return torch.from_numpy, (tensor.numpy(),)


def _open_image(memory: int, place: int, shape: tuple[int, ...]) -> torch.Tensor:
    return _memories[memory].open_image(place, shape)
