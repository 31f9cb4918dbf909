"""Parts of a train split: the same classes and val split with fewer training images."""

import hashlib
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from detreg.data.canonical import read_canonical_copy, write_canonical_copy
from detreg.data.check import count_boxes
from detreg.data.dataset import Dataset, Split
from detreg.data.mask_check import count_masks
from detreg.data.traits import measure_traits


def take_part(dataset: Dataset, num_images: int, seed: int) -> Dataset:
    """Return the dataset with so many images of its train split.

    They are drawn by `seed`; a smaller part is contained in a larger one of the same seed. The
    digest is another one, so that no run mistakes a part for the whole. All images are the dataset
    itself.
    """
    split = dataset.splits["train"]
    if num_images >= split.images:
        return dataset

    images = read_canonical_copy(split.annotations)
    order = np.random.default_rng(seed).permutation(len(images))
    chosen = [images[position] for position in sorted(order[:num_images])]
    folder = dataset.folder / "parts" / f"{num_images}-{seed}"
    paths = write_canonical_copy(folder, dataset.classes, {"train": chosen})

    counts = count_boxes(chosen, dataset.classes)
    part = Split("train", paths["train"], num_images, sum(counts), counts, count_masks(chosen))
    digest = hashlib.sha256(f"{dataset.digest} {num_images} {seed}".encode()).hexdigest()[:16]
    masks_digest = ""
    if dataset.masks_digest:
        text = f"{dataset.masks_digest} {num_images} {seed}"
        masks_digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return replace(
        dataset,
        splits=MappingProxyType({**dataset.splits, "train": part}),
        traits=measure_traits(chosen, len(dataset.classes)),
        digest=digest,
        looks=None,
        masks_digest=masks_digest,
    )
