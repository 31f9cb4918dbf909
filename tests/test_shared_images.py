"""Images that processes of a loader send are those that they made, whoever keeps them how long."""

import mmap
import os
import pickle
from typing import Any

import pytest
import torch
from drawn_results import Images
from torch.utils.data import DataLoader, Dataset

from detreg.training.loader_processes import end_processes, prepare_processes
from detreg.training.packing import PackImage
from detreg.training.shared_images import BATCHES, make_image_memory

BATCH_SIZE = 3
LARGE_ENOUGH = 3 * 200 * 150


class PackedImages(Dataset[Any]):
    """Drawn images of many sizes, packed."""

    def __init__(self, processes: int, image_bytes: int = LARGE_ENOUGH) -> None:
        memory = {"processes": processes, "images": BATCH_SIZE, "image_bytes": image_bytes}
        self.pack = PackImage(memory)

    def __len__(self) -> int:
        return 90

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.pack.transform(Images(index)[index % 12])


def open_loader(images: PackedImages, processes: int) -> "DataLoader[Any]":
    loader = DataLoader(
        images,
        batch_size=BATCH_SIZE,
        num_workers=processes,
        persistent_workers=True,
        collate_fn=list,
    )
    prepare_processes(loader)
    return loader


def count_used(images: PackedImages) -> int:
    assert images.pack.memory is not None
    return int(images.pack.memory._is_used.sum())


def assert_equal(items: list[dict[str, Any]], images: PackedImages) -> None:
    """Compare items with those that this process makes."""
    assert len(items) == len(images)
    for index, item in enumerate(items):
        expected = images[index]
        assert torch.equal(item["inputs"], expected["inputs"])
        sample, expected_sample = item["data_samples"], expected["data_samples"]
        assert torch.equal(sample.gt_instances.bboxes, expected_sample.gt_instances.bboxes)
        assert torch.equal(sample.gt_instances.labels, expected_sample.gt_instances.labels)
        assert sample.metainfo == expected_sample.metainfo


@pytest.mark.parametrize("processes", [1, 2])
def test_images_that_are_kept_stay_as_they_are(processes: int) -> None:
    """Those that find no place are sent in another way."""
    images = PackedImages(processes)
    loader = open_loader(images, processes)
    for _ in range(2):
        batches = list(loader)
        assert_equal([item for batch in batches for item in batch], images)
        assert count_used(images) == processes * BATCHES * BATCH_SIZE

        del batches
        assert count_used(images) == 0
    end_processes(loader)


def test_places_are_used_again() -> None:
    images = PackedImages(processes=1)
    loader = open_loader(images, processes=1)
    items = []
    for batch in loader:
        # A part of an image keeps all of it.
        rows = [item["inputs"][:, 1:] for item in batch]
        items += [item | {"inputs": item["inputs"].clone()} for item in batch]
        del batch
        assert count_used(images) >= len(rows)
    del rows
    assert_equal(items, images)
    assert count_used(images) == 0
    end_processes(loader)


def test_an_image_that_is_too_large_is_sent_in_another_way() -> None:
    images = PackedImages(processes=1, image_bytes=3 * 64 * 64)
    loader = open_loader(images, processes=1)
    assert_equal([item for batch in loader for item in batch], images)
    end_processes(loader)


def test_a_forked_process_frees_nothing() -> None:
    images = PackedImages(processes=1)
    loader = open_loader(images, processes=1)
    batches = [next(iter(loader))]
    used = count_used(images)
    child = os.fork()
    if child == 0:
        batches.clear()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert used >= BATCH_SIZE
    assert images.pack.memory is not None
    assert images.pack.memory._is_used[:BATCH_SIZE].all()
    end_processes(loader)


def test_without_processes_or_memory_none_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"processes": 0, "images": 1, "image_bytes": 3}
    assert make_image_memory(config) is None
    assert make_image_memory(None) is None

    memory = make_image_memory(config | {"processes": 1})
    assert memory is not None
    assert memory.find_room(1, 1) is None  # this process has nobody to send it to
    assert pickle.loads(pickle.dumps(memory)) is None

    def fail(number: int, length: int) -> mmap.mmap:
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", fail)
    assert make_image_memory(config | {"processes": 1}) is None
