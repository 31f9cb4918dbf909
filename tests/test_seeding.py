"""Seeds of images do not depend on processes or interruptions, and an epoch has every image."""

import copy
import itertools
import pickle
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import BatchSampler

from detreg.data.dataset import load_dataset
from detreg.pipeline import parse_settings
from detreg.templates import find_template
from detreg.training import seeding
from detreg.training.compose import compose
from detreg.training.loader_processes import end_processes
from detreg.training.seeding import EpochSampler, SeededIndex, SeedImage, derive_seeds


def draw_epoch(sampler: EpochSampler, epoch: int) -> list[int]:
    sampler.set_epoch(epoch)
    return list(sampler)


def sort_step(step: list[SeededIndex]) -> list[tuple[int, int]]:
    """Return the sorted indices and seeds of a step."""
    return sorted((int(index), index.seed) for index in step)


# the sampler


@pytest.mark.parametrize(
    ("images", "minimum"), [(10, 1), (10, 10), (10, 11), (7, 40), (1, 5), (7, 42)]
)
def test_an_epoch_has_every_image_equally_often(images: int, minimum: int) -> None:
    sampler = EpochSampler(range(images), minimum, batch_size=4, seed=3)
    drawn = draw_epoch(sampler, 0)
    assert len(drawn) == len(sampler) == max(images, minimum)

    times_by_image = Counter(drawn)
    assert set(times_by_image) == set(range(images))
    fewest, most = len(drawn) // images, -(-len(drawn) // images)
    assert set(times_by_image.values()) <= {fewest, most}


def test_the_order_is_fresh_every_epoch_and_the_same_for_a_seed() -> None:
    one = EpochSampler(range(50), 120, 8, seed=3)
    same = EpochSampler(range(50), 120, 8, seed=3)
    other_seed = EpochSampler(range(50), 120, 8, seed=4)

    assert draw_epoch(one, 0) != draw_epoch(one, 1)
    assert draw_epoch(one, 4) == draw_epoch(same, 4)
    assert draw_epoch(other_seed, 0) != draw_epoch(one, 0)


def test_the_order_of_an_epoch_never_changes() -> None:
    """Runs that were started with an earlier detreg must resume exactly."""
    drawn: list[Any] = draw_epoch(EpochSampler(range(3), 4, 2, seed=1), 2)
    assert drawn == [1, 0, 2, 0]
    assert [index.seed for index in drawn] == [3615836353, 2321460393, 2364082729, 832878418]


def test_a_repetition_has_an_order_of_its_own() -> None:
    drawn = draw_epoch(EpochSampler(range(50), 100, 8, seed=0), 0)
    first, second = drawn[:50], drawn[50:]
    assert first != second
    assert sorted(first) == sorted(second) == list(range(50))


@pytest.mark.parametrize(("images", "extra"), [(12, 0), (13, 2), (14, 1), (15, 0), (18, 0)])
def test_processes_share_each_step(
    monkeypatch: pytest.MonkeyPatch, images: int, extra: int
) -> None:
    """A step has six images; each of three processes needs one in the last step too."""
    steps = -(-images // 6)
    alone: list[Any] = draw_epoch(EpochSampler(range(images), 1, 6, seed=0), 0)

    batches_by_process = []
    for rank in range(3):
        monkeypatch.setattr(seeding, "get_dist_info", lambda rank=rank: (rank, 3))
        sampler = EpochSampler(range(images), 1, 6, seed=0)
        batches: list[list[Any]] = list(BatchSampler(sampler, 2, drop_last=False))
        batches_by_process.append(batches)
        assert len(batches) == -(-len(sampler) // 2) == steps

    together = []
    for batches_of_step in zip(*batches_by_process, strict=True):
        step = list(itertools.chain(*batches_of_step))
        together.append(sort_step(step))

    full_steps = images // 6
    for number in range(full_steps):
        assert together[number] == sort_step(alone[6 * number : 6 * number + 6])
    assert sum(len(step) for step in together) == images + extra
    assert set(sort_step(alone)) <= set().union(*together)


# seeds


def test_seeds_differ_by_what_they_are_for() -> None:
    seeds = {derive_seeds(seed, epoch)[0] for seed in range(20) for epoch in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**32 for seed in seeds)

    assert derive_seeds(2**31 - 1, 199, count=3) == derive_seeds(2**31 - 1, 199, count=3)
    assert len(set(derive_seeds(0, 0, count=300))) == 300


def test_an_index_keeps_its_seed_on_the_way_to_a_loader_process() -> None:
    index = SeededIndex(7, 5, ("Mosaic",))
    for copied in (copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
        assert copied == 7
        assert type(copied) is SeededIndex
        assert copied.seed == 5
        assert copied.skip == ("Mosaic",)


def test_a_drawn_image_is_seeded_and_one_that_is_mixed_in_is_not() -> None:
    def draw_numbers(index: int) -> tuple[float, float, float]:
        SeedImage()({"sample_idx": index})
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    seeded = draw_numbers(SeededIndex(7, 5))
    assert draw_numbers(7) != seeded
    assert draw_numbers(SeededIndex(8, 5)) == seeded

    other_seed = draw_numbers(SeededIndex(7, 6))
    assert all(one != other for one, other in zip(seeded, other_seed, strict=True))


MIXING = ("FastMosaic", "FastMixUp", "RandomMixedSize")


def load_epochs(
    template_name: str, data: Path, values: dict[str, Any]
) -> list[tuple[Tensor, Tensor]]:
    """Load the images and boxes of the second to fourth epoch, in order; the third is plain."""
    template = find_template(template_name)
    params, options = parse_settings(template, values)
    config = compose(template, template.resolve(params), load_dataset(data), options)

    batches = Runner.build_dataloader(config.train_dataloader, seed=0)
    loaded = []
    for epoch in (1, 2, 3):
        batches.sampler.set_epoch(epoch)
        batches.sampler.skip = MIXING if epoch == 2 else ()
        for batch in batches:
            for image, sample in zip(batch["inputs"], batch["data_samples"], strict=True):
                loaded.append((image, sample.gt_instances.bboxes))
    end_processes(batches)
    return loaded


@pytest.mark.parametrize(
    ("template", "base_model"), [("yolox", "yolox_s"), ("ssd", "ssdlite_mobilenetv2")]
)
def test_images_do_not_depend_on_the_processes_that_load_them(
    tiny: Path, mmdet_scope: None, template: str, base_model: str
) -> None:
    """Nor on whether these live longer than an epoch.

    yolox_s mixes by Mosaic and MixUp, with random sizes; SSD cuts and distorts.
    """
    values = SMALL[template] | {"base_model": base_model}
    if template == "yolox":
        values["random_resize_upper"] = 96

    random.seed(0)
    np.random.seed(0)
    here = load_epochs(template, tiny, values | {"num_workers": 0, "batch_size": 4})
    random.seed(3)
    np.random.seed(3)
    in_three = load_epochs(template, tiny, values | {"num_workers": 3, "batch_size": 1})

    assert len(here) == 3 * 20  # a third of the thirty is for scoring
    for (image, boxes), (other_image, other_boxes) in zip(here, in_three, strict=True):
        assert torch.equal(image, other_image)
        assert torch.equal(boxes, other_boxes)
