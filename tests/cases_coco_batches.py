"""Cases of several COCO files for one split, as tools export one for each job or annotator."""

from collections.abc import Sequence
from functools import partial

from dataset_builders import (
    CLASSES,
    PHOTOS,
    TRAIN,
    VAL,
    Document,
    Files,
    Photo,
    at,
    build_coco,
    make_coco,
    put_images,
    to_json,
)
from dataset_cases import Case
from dataset_readings import expect, expect_any

GIVEN = expect()
POOL = expect_any()
_JOBS = (PHOTOS[:3], PHOTOS[3:])


def _build(
    first: Sequence[Photo],
    second: Sequence[Photo],
    change: Document | None = None,
    classes: Sequence[str] = CLASSES,
) -> Files:
    """Return a dataset whose train split is in two files.

    change: keys of the first annotation of the second file.
    classes: the categories of the second file, in the order of their ids.
    """
    files = build_coco()
    del files["annotations/instances_train.json"]
    document = make_coco(second, classes=classes)
    document["annotations"][0].update(change or {})
    return {
        **files,
        "annotations/instances_train_a.json": to_json(make_coco(first)),
        "annotations/instances_train_b.json": to_json(document),
    }


def _build_pool(template: str) -> Files:
    """Return a pool of images whose annotations are in a file for each job."""
    files = put_images(PHOTOS, at("images/{name}"))
    for number, photos in enumerate(_JOBS, start=1):
        files[template.format(number)] = to_json(make_coco(photos))
    return files


def _build_jobs(images: str) -> Files:
    """Return folders of jobs with frames of the same names, as CVAT exports them."""
    files: Files = {}
    for number, photos in enumerate(_JOBS, start=1):
        first = photos[0].number

        def name(photo: Photo, first: int = first) -> str:
            return f"frame_{photo.number - first:06}.jpg"

        for photo in photos:
            files[f"job_{number}/{images}/{name(photo)}"] = photo.content
        document = to_json(make_coco(photos, name))
        files[f"job_{number}/annotations/instances_default.json"] = document
    return files


def _build_together() -> Files:
    files = build_coco()
    return {**files, "annotations/instances_trainval.json": to_json(make_coco(PHOTOS))}


_BOTH = ("instances_train_a.json", "instances_train_b.json")
_ONLY_CATS = Photo(0, "train", PHOTOS[0].things[:1])


def _build_of_one_class() -> Files:
    files = _build(TRAIN[:2], TRAIN[2:])
    document = make_coco([_ONLY_CATS, TRAIN[1]], classes=("dog", "cat"))
    document["categories"] = document["categories"][:1]
    document["annotations"] = [
        entry for entry in document["annotations"] if entry["category_id"] == 1
    ]
    return {**files, "annotations/instances_train_a.json": to_json(document)}


COCO_BATCH_CASES = [
    Case("coco of two files for train", partial(_build, TRAIN[:2], TRAIN[2:]), GIVEN, None,
         ("merged",)),
    Case("coco of two files with other ids",
         partial(_build, TRAIN[:2], TRAIN[2:], classes=("dog", "cat")), GIVEN, None, ("merged",)),
    Case("coco of two files that share an image", partial(_build, TRAIN[:3], TRAIN[2:]), GIVEN,
         None, ("once",)),
    Case("coco of two files that are the same", partial(_build, TRAIN, TRAIN), GIVEN, None,
         ("once",)),
    Case("coco of two files with other boxes",
         partial(_build, TRAIN[:3], TRAIN[2:], {"bbox": [1, 1, 20, 20]}), None, (*_BOTH, "p2.jpg")),
    Case("coco of two files with other classes of a box",
         partial(_build, TRAIN[:3], TRAIN[2:], {"category_id": 2}), None, (*_BOTH, "p2.jpg")),
    Case("coco of two files with an empty image",
         partial(_build, TRAIN, [Photo(0, "train", ()), *VAL[:1]]), None, (*_BOTH, "p0.jpg")),
    Case("coco of two files of which one lacks a class", _build_of_one_class, None,
         (*_BOTH, "cat")),
    Case("coco trainval beside train", _build_together, None, ("instances_trainval.json",)),
    *(Case(f"coco of jobs as {template}", partial(_build_pool, template), POOL, None, ("merged",))
      for template in ("job_{}.json", "annotations/task_{}.json", "instances_default-{}.json")),
    *(Case(f"coco of folders of jobs with {images}", partial(_build_jobs, images), POOL, None,
           ("merged",))
      for images in ("images", "images/default", "data")),
]  # fmt: skip
