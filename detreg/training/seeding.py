"""Seeds for everything random in a training, and the sampler that hands each image its own.

A seed depends only on the training's seed and on the epoch or the step, never on what was drawn
before. So an epoch is the same whether or not the training was interrupted before it.
"""

import random
from collections.abc import Iterator, Sized

import numpy as np
import torch
from mmdet.registry import DATA_SAMPLERS, TRANSFORMS
from mmengine.dist import get_dist_info
from torch.utils.data import Sampler


def derive_seeds(*numbers: int, count: int = 1) -> list[int]:
    """Return `count` seeds, each from 0 to 2**32 - 1, that depend on nothing but `numbers`.

    `numbers` name what is random: the training's seed, then an epoch or a step.
    """
    return np.random.SeedSequence(numbers).generate_state(count).tolist()


def seed_everything(seed: int) -> None:
    """Seed the global random numbers of Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class SeededIndex(int):
    """The index of an image that the sampler has drawn, with the seed of its augmentation.

    `skip` names the transforms that are left out. All that an epoch decides about an image comes
    with its index, so a process that loads images need not know the epoch.

    It is an int, so that a dataset takes it like any other index.
    """

    seed: int
    skip: tuple[str, ...]

    def __new__(cls, index: int, seed: int = 0, skip: tuple[str, ...] = ()) -> "SeededIndex":
        """Make an index; pickle leaves the rest out and restores it from `__dict__` afterwards."""
        seeded = super().__new__(cls, index)
        seeded.seed = seed
        seeded.skip = skip
        return seeded


@TRANSFORMS.register_module()
class SeedImage:
    """The first transform of a drawn image: it seeds all transforms that follow.

    The image is then the same whichever process of the loader makes it, and however many there are.
    """

    def __call__(self, results: dict[str, object]) -> dict[str, object]:
        """Seed the random numbers and return `results` unchanged."""
        index = results["sample_idx"]  # MMEngine puts here what the sampler gave

        # Images that Mosaic and MixUp add come under plain ints. They must not seed anything: what
        # happens to them is part of what the drawn image's seed decides.
        if isinstance(index, SeededIndex):
            random.seed(index.seed)
            np.random.seed(index.seed)
            # Not torch.manual_seed, which spends a third of a millisecond on devices as well.
            torch.default_generator.manual_seed(index.seed)
        return results


@DATA_SAMPLERS.register_module()
class EpochSampler(Sampler[int]):
    """Draws all images in a fresh order every epoch, and at least `minimum` of them.

    A dataset with fewer images is repeated, shuffled anew each time. `batch_size` is the number of
    images of a step over all processes, which share the images of each step equally. `skip`
    names the transforms that the epoch leaves out; PlainEpochsHook sets it.
    """

    def __init__(self, dataset: Sized, minimum: int, batch_size: int, seed: int) -> None:
        self.rank, self.world_size = get_dist_info()
        self.images = len(dataset)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.skip: tuple[str, ...] = ()
        self._resumed_epoch = 0
        self._resumed_step = 0

        self.total = max(self.images, minimum)
        images_of_last_step = self.total % batch_size or batch_size
        # A process without an image could not take part in the last step of the epoch.
        self.total += max(self.world_size - images_of_last_step, 0)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch to draw; MMEngine calls this before each one."""
        self.epoch = epoch

    def resume(self, epoch: int, step: int) -> None:
        """Leave out the images of the first `step` steps of `epoch`; they are not even loaded.

        All that follow keep their order and their seeds.
        """
        self._resumed_epoch = epoch
        self._resumed_step = step

    def __iter__(self) -> Iterator[int]:
        order_seed, *image_seeds = derive_seeds(self.seed, self.epoch, count=self.total + 1)
        generator = torch.Generator().manual_seed(order_seed)

        order: list[int] = []
        while len(order) < self.total:
            order += torch.randperm(self.images, generator=generator).tolist()

        pairs = zip(order[: self.total], image_seeds, strict=True)
        drawn = [SeededIndex(index, seed, self.skip) for index, seed in pairs]

        # The images of a step are a multiple of the processes.
        is_resumed = self.epoch == self._resumed_epoch
        first = self._resumed_step * self.batch_size if is_resumed else 0
        return iter(drawn[first + self.rank :: self.world_size])

    def __len__(self) -> int:
        """Return the images of a whole epoch, of which a resumed one has fewer."""
        return len(range(self.rank, self.total, self.world_size))
