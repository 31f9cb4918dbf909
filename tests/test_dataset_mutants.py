"""Mutants of good datasets: nothing is read otherwise than it is written, and nothing crashes.

The mutants are the same in each run. Where one fails, its seed is in the message.
"""

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from dataset_builders import (
    Files,
    Photo,
    at,
    build_coco,
    build_voc,
    build_yolo,
    make_labels,
    make_list,
    select,
    write_zip,
)
from dataset_mutations import LABELS, MUTATIONS, make_photos
from dataset_readings import ANY, ReadBox, Reading, merge_splits, read_dataset
from dataset_resaves import HARMLESS
from reference_coco import read_coco
from reference_darknet import read_darknet
from reference_readers import BadDatasetError, Reference, UnclearError
from reference_voc import read_voc
from reference_yolo import read_yolo

MUTANTS = 182
"""Mutants of each base in CI, 2,000 in all; `soak` makes 50 times as many."""

MUTANTS_PER_DATASET = 20
TOLERANCE = 0.02  # pixels


@dataclass(frozen=True)
class Base:
    """A way to write photos, and the reader that knows it by the letter.

    is_zipped: whether detreg gets the files in an archive.
    """

    build: Callable[[Sequence[Photo]], Files]
    read: Callable[[Files], Reference]
    has_crowds: bool
    is_zipped: bool = False


_write_coco = partial(build_coco, classes=LABELS)
_write_one_coco = partial(_write_coco, annotations="annotations.json", place=at("images/{name}"))
_NAMES = "names: [cat, dog, sea lion]\n"
_write_labels = partial(make_labels, classes=LABELS)


def _write_yolo(photos: Sequence[Photo]) -> Files:
    places = "".join(
        f"{split}: images/{split}\n" for split in sorted({photo.split for photo in photos})
    )
    return build_yolo(photos, settings=places + _NAMES, text=_write_labels)


def _write_roboflow(photos: Sequence[Photo]) -> Files:
    return build_yolo(
        photos, at("{split}/images/{name}"), at("{split}/labels/{stem}.txt"), _NAMES, _write_labels
    )


def _read_flat_voc(files: Files) -> Reference:
    """Read XML files beside their images, as if each were in a folder of its own."""
    moved = {}
    for path, content in files.items():
        folder = {"xml": "Annotations/", "jpg": "JPEGImages/"}.get(path.rpartition(".")[2], "")
        moved[folder + path] = content
    return read_voc(moved, has_lists=False)


def _write_darknet(photos: Sequence[Photo]) -> Files:
    lists = {"train": "train", "val": "valid", "test": "test"}
    names = [lists[split] for split in lists if select(photos, split)]
    data = f"classes = {len(LABELS)}\nnames = obj.names\n"
    settings = {"obj.names": "".join(f"{label}\n" for label in LABELS)}
    settings["obj.data"] = data + "".join(f"{name} = {name}.txt\n" for name in names)
    files = build_yolo(
        photos, at("frames/{name}"), at("frames/{stem}.txt"), settings, _write_labels
    )
    for split, name in lists.items():
        if name in names:
            files[f"{name}.txt"] = make_list(select(photos, split), at("frames/{name}")).encode()
    return files


def _read_voc_per_split(files: Files) -> Reference:
    """Read XML files and images in a folder for each split, as if lists said which is in which."""
    moved = {}
    lists: dict[str, str] = {}
    for path, content in files.items():
        split, _, name = path.partition("/")
        folder = {"xml": "Annotations/", "jpg": "JPEGImages/"}.get(path.rpartition(".")[2], "")
        moved[folder + name] = content
        if folder == "Annotations/":
            lists[split] = lists.get(split, "") + f"{Path(name).stem}\n"
    for split, text in lists.items():
        moved[f"ImageSets/Main/{split}.txt"] = text.encode()
    return read_voc(moved)


BASES = {
    "coco": Base(_write_coco, read_coco, True),
    "coco of one file": Base(_write_one_coco, partial(read_coco, one_file=True), True),
    "coco of another machine": Base(
        partial(_write_coco, name=at("/content/boats/images/{split}/{name}")), read_coco, True
    ),
    "voc": Base(build_voc, read_voc, True),
    "voc in one folder": Base(
        partial(build_voc, annotations=at("{stem}.xml"), place=at("{name}"), lists=None),
        _read_flat_voc,
        True,
    ),
    "voc without lists": Base(
        partial(build_voc, lists=None), partial(read_voc, has_lists=False), True
    ),
    "voc per split": Base(
        partial(
            build_voc, annotations=at("{split}/{stem}.xml"), place=at("{split}/{name}"), lists=None
        ),
        _read_voc_per_split,
        True,
    ),
    "coco in a zip": Base(_write_coco, read_coco, True, is_zipped=True),
    "darknet": Base(_write_darknet, read_darknet, False),
    "yolo": Base(_write_yolo, read_yolo, False),
    "yolo of Roboflow": Base(
        _write_roboflow, partial(read_yolo, images="{split}/images", labels="{split}/labels"), False
    ),
}


class Folder:
    """A folder whose files are exchanged, with a time of change of its own for each content.

    A file system's clock may be too coarse to tell two contents of a size apart.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: Files = {}
        self.time = 10**18

    def hold(self, files: Files) -> None:
        """Write what differs from what the folder holds."""
        for name in self.content.keys() - files.keys():
            (self.path / name).unlink()
            self._drop_empty_folders(Path(name).parent)
        for name, content in files.items():
            if self.content.get(name) == content:
                continue
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            self.time += 10**9
            os.utime(path, ns=(self.time, self.time))
        self.content = dict(files)

    def _drop_empty_folders(self, folder: Path) -> None:
        while folder != Path() and not any((self.path / folder).iterdir()):
            (self.path / folder).rmdir()
            folder = folder.parent


def find_faults(base: Base, first: int, count: int, folder: Path) -> list[str]:
    """Return what is wrong with mutants of random datasets, each with the seed that makes it."""
    faults = []
    for start in range(first, first + count, MUTANTS_PER_DATASET):
        photos = make_photos(random.Random(start), base.has_crowds)
        good = base.build(photos)
        data = Folder(folder / f"data{start}" / "boats")
        for seed in range(start, min(start + MUTANTS_PER_DATASET, first + count)):
            rng = random.Random(seed)
            name = rng.choice(list(MUTATIONS))
            mutant = MUTATIONS[name](good, rng)
            path = _store(base, mutant, data)
            fault = find_fault(base, good, mutant, path, folder / "cache")
            if fault:
                changed = [
                    path for path in {**good, **mutant} if good.get(path) != mutant.get(path)
                ]
                faults.append(f"seed {seed}, {name} in {changed}: {fault}")
    return faults


def _store(base: Base, files: Files, folder: Folder) -> Path:
    """Write files and return what a user would give detreg."""
    if base.is_zipped:
        folder.path.parent.mkdir(parents=True, exist_ok=True)
        return write_zip(folder.path.with_suffix(".zip"), files)
    folder.hold(files)
    return folder.path


def find_fault(base: Base, good: Files, mutant: Files, path: Path, cache: Path) -> str:
    """Return what is wrong with how a mutant is read, empty where nothing is."""
    try:
        reading = read_dataset(path, cache)
    except Exception as error:
        return f"raised {error!r}"
    if reading.refusal:
        return ""
    original = base.read(good)
    if is_same(reading, original) or is_told(reading, original):
        return ""
    try:
        wanted = base.read(mutant)
    except UnclearError:
        return ""
    except BadDatasetError as reason:
        return f"accepted although {reason}"
    return "" if is_same(reading, wanted) else describe_difference(reading, wanted)


def is_told(reading: Reading, original: Reference) -> bool:
    """Whether only splits differ from the original, as images were left out or shared, and told."""
    assert reading.splits is not None
    got = merge_splits(reading.splits)[ANY]
    boxes = merge_splits(original.splits)[ANY]
    if not any(words in reading.told for words in ("left out", "another split")):
        return False
    return all(image in boxes and _has_same_boxes(got[image], boxes[image]) for image in got)


def describe_difference(reading: Reading, wanted: Reference) -> str:
    """Return the first thing that was read otherwise."""
    assert reading.splits is not None
    got = merge_splits(reading.splits) if ANY in wanted.splits else reading.splits
    for split, images in wanted.splits.items():
        for image, boxes in images.items():
            found = got.get(split, {}).get(image)
            if found is None or not _has_same_boxes(found, boxes):
                return f"in {split} {found} instead of {boxes}"
    return f"classes {reading.classes} for {wanted.classes}, or images that are not listed"


def is_same(reading: Reading, wanted: Reference) -> bool:
    """Whether a reading has the classes, images and boxes of a reference."""
    assert reading.splits is not None
    got = reading.splits
    if ANY in wanted.splits:
        got = merge_splits(got)
    if reading.classes != wanted.classes or got.keys() != wanted.splits.keys():
        return False
    for split, images in wanted.splits.items():
        if images.keys() != got[split].keys():
            return False
        if not all(_has_same_boxes(got[split][image], boxes) for image, boxes in images.items()):
            return False
    return True


def _has_same_boxes(got: Sequence[ReadBox], wanted: Sequence[ReadBox]) -> bool:
    if len(got) != len(wanted):
        return False
    for first, second in zip(got, wanted, strict=True):
        if (first[0], first[5]) != (second[0], second[5]):
            return False
        if any(abs(a - b) > TOLERANCE for a, b in zip(first[1:5], second[1:5], strict=True)):
            return False
    return True


@pytest.mark.parametrize("name", BASES)
def test_mutants_are_refused_or_read_as_they_are_written(tmp_path: Path, name: str) -> None:
    faults = find_faults(BASES[name], 0, MUTANTS, tmp_path)
    assert not faults, "\n".join(faults)


@pytest.mark.soak
@pytest.mark.parametrize("name", BASES)
def test_many_mutants_are_refused_or_read_as_they_are_written(tmp_path: Path, name: str) -> None:
    faults = find_faults(BASES[name], MUTANTS, 50 * MUTANTS, tmp_path)
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("name", BASES)
def test_order_and_ids_change_neither_labels_nor_the_digest(tmp_path: Path, name: str) -> None:
    base = BASES[name]
    for seed in range(8):
        photos = make_photos(random.Random(f"photos {seed}"), base.has_crowds)
        files = base.build(photos)
        for number, (change, mutate) in enumerate([("", None), *HARMLESS.items()]):
            folder = Folder(tmp_path / f"{seed}-{number}" / "boats")
            path = _store(base, mutate(files, random.Random(seed)) if mutate else files, folder)
            reading = read_dataset(path, tmp_path / "cache")
            assert not reading.refusal, f"seed {seed} {change}: {reading.refusal}"
            assert is_same(reading, base.read(files)), f"seed {seed} {change}"
            if not change:
                digest, told = reading.digest, reading.told
            assert (reading.digest, reading.told) == (digest, told), f"seed {seed} {change}"
