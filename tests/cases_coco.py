"""Cases of COCO: layouts, names, and what entries hold."""

from collections.abc import Sequence
from functools import partial

from dataset_builders import (
    TEST,
    TRAIN,
    VAL,
    Files,
    at,
    build_coco,
    draw,
    make_coco,
    select,
    to_json,
)
from dataset_cases import Case
from dataset_readings import ReadSplits, expect, expect_any

GIVEN = expect()
POOL = expect_any()

_PER_SPLIT = (
    "annotations/instances_{split}.json",
    "annotations/{split}.json",
    "annotations/{split}.JSON",
    "annotations/{split}2017.json",
    "annotations/{split}/instances.json",
    "annotations/instances_{split}/labels.json",
    "annots/{split}.json",
    "Annotation/{split}.json",
    "labels/{split}.json",
    "json/coco_{split}.json",
    "data/annotations/{split}.json",
    "{split}.json",
    "{split}/{split}.json",
    "{split}/_annotations.coco.json",
    "{split}/annotations.json",
    "{split}/annotations.coco.json",
    "{split}/labels.json",
    "{split}/annotations/instances.json",
    "{split}/annotations/instances_default.json",
    "{split}/result.json",
)
_OF_ALL = (
    "annotations.json",
    "result.json",
    "labels.json",
    "instances_default.json",
    "_annotations.coco.json",
    "annotations/instances_default.json",
    "annotations/instances.json",
    "annots/boats.json",
    "coco/coco_annotations.json",
    "Boats.JSON",
)
_IMAGES_PER_SPLIT = (
    "images/{split}/{name}",
    "{split}/{name}",
    "{split}2017/{name}",
    "images/{split}2017/{name}",
    "{split}/images/{name}",
    "{split}/data/{name}",
    "images/{split}/2024/may/{name}",
    "{split}_images/{name}",
)
_IMAGES_OF_ALL = (
    "{name}",
    "images/{name}",
    "Images/{name}",
    "data/{name}",
    "img/{name}",
    "JPEGImages/{name}",
    "photos/camera {number}/{name}",
    "images/default/{name}",
)


def _combine(paths: Sequence[str], places: Sequence[str]) -> list[tuple[str, str]]:
    """Return each path with the first place, and each place with the first path."""
    pairs = [(path, places[0]) for path in paths] + [(paths[0], place) for place in places]
    return list(dict.fromkeys(pairs))


def _make_layouts() -> list[Case]:
    cases = []
    for path, place in _combine(_PER_SPLIT, (*_IMAGES_PER_SPLIT, *_IMAGES_OF_ALL)):
        build = partial(build_coco, annotations=path, place=at(place))
        cases.append(Case(f"coco {path} with {place}", build, GIVEN))
    for path, place in _combine(_OF_ALL, ("images/{name}", *_IMAGES_PER_SPLIT, *_IMAGES_OF_ALL)):
        build = partial(build_coco, annotations=path, place=at(place))
        cases.append(Case(f"coco {path} for all with {place}", build, POOL))
    return cases


# How file_name may be written where images lie in images/<split>/.
_NAMES = (
    "{name}",
    "./{name}",
    "{split}/{name}",
    "./{split}/{name}",
    "images/{split}/{name}",
    "./images/{split}/{name}",
    "../images/{split}/{name}",
    "../../boats/images/{split}/{name}",
    "boats/images/{split}/{name}",
    "/content/boats/images/{split}/{name}",
    "/home/someone/data/{split}/{name}",
    "/kaggle/input/boats/{name}",
    "C:\\Users\\me\\boats\\images\\{split}\\{name}",
    "D:/boats/{split}/{name}",
    "\\\\server\\share\\boats\\{split}\\{name}",
    "images\\{split}\\{name}",
    "/data/upload/4/{name}",
    "..\\..\\label-studio\\media\\upload\\4\\{name}",
    "file:///home/me/{split}/{name}",
    "s3://bucket/boats/images/{split}/{name}",
    "http://localhost:8080/data/upload/4/{name}",
    "{stem}.JPG",
    "{stem}.jpeg",
    "{stem}.png",
    "{stem}",
)
# Another extension, or none, may be meant or not; what must not happen is another image.
_DOUBTFUL_NAMES = ("{stem}.png", "{stem}.jpeg", "{stem}", "file:///home/me/{split}/{name}")


def _make_names() -> list[Case]:
    cases = []
    for name in _NAMES:
        refused = ("images/",) if name in _DOUBTFUL_NAMES else None
        build = partial(build_coco, name=at(name))
        cases.append(Case(f"coco file_name {name}", build, GIVEN, refused))
        build = partial(
            build_coco, annotations="result.json", place=at("images/{name}"), name=at(name)
        )
        refused = ("p0",) if name in _DOUBTFUL_NAMES else None
        cases.append(Case(f"coco file_name {name} for all", build, POOL, refused))
    return cases


# What entries hold. None of these may change what is read.


# What must be refused: the change, and the words that matter.


def _make_splits() -> list[Case]:
    cases = []
    photos = (*TRAIN, *VAL, *TEST)
    spellings = (
        ("Train", "Val", "Test"),
        ("TRAIN", "VAL", "TEST"),
        ("training", "validation", "testing"),
        ("train", "valid", "test"),
        ("trainset", "valset", "testset"),
        ("01_train", "02_val", "03_test"),
        ("boats-train", "boats-valid", "boats-test"),
        ("train2024", "val2024", "test2024"),
    )
    for spelling in spellings:
        names = dict(zip(("train", "val", "test"), spelling, strict=True))

        def build(names: dict[str, str] = names, per_folder: bool = False) -> Files:
            files: Files = {}
            for split, name in names.items():
                path = (
                    f"{name}/_annotations.coco.json" if per_folder else f"annotations/{name}.json"
                )
                place = f"{name}/{{name}}" if per_folder else f"images/{name}/{{name}}"
                files.update(build_coco(select(photos, split), path, at(place)))
            return files

        cases.append(Case(f"coco splits {spelling}", build, expect(photos)))
        cases.append(
            Case(f"coco folders {spelling}", partial(build, per_folder=True), expect(photos))
        )

    only_test = expect([*TRAIN, *TEST])
    train_and_test = partial(build_coco, [*TRAIN, *TEST])
    cases.append(Case("coco train and test", train_and_test, _merge_train_and_val(only_test)))
    cases.append(Case("coco train only", partial(build_coco, TRAIN), expect_any(TRAIN)))
    cases.append(
        Case("coco default only", partial(build_coco, annotations="annotations/default.json"), POOL)
    )
    return cases


def _merge_train_and_val(splits: ReadSplits) -> ReadSplits:
    """Return all images in one, where val is cut from train."""
    merged = {image: boxes for images in splits.values() for image, boxes in images.items()}
    return {"any": merged}


def _add(extra: Files) -> Files:
    return {**build_coco(), **extra}


_KEYPOINTS = to_json({**make_coco(VAL), "categories": [{"id": 1, "name": "person"}]})
_OTHER_FILES: dict[str, Files] = {
    "captions": {
        "annotations/captions_train.json": to_json({"images": [], "annotations": [], "info": {}})
    },
    "keypoints": {"annotations/person_keypoints_val.json": _KEYPOINTS},
    "notebook checkpoints": {
        "annotations/.ipynb_checkpoints/instances_train-checkpoint.json": to_json(make_coco(TRAIN))
    },
    "macOS's files": {
        "__MACOSX/annotations/._instances_train.json": b"\0\5\26\7",
        "annotations/._instances_train.json": b"\0\5\26\7",
        "images/train/._p0.jpg": b"\0\5\26\7",
        "images/.DS_Store": b"\0\0\0\1Bud1",
    },
    "Windows' files": {"images/train/Thumbs.db": b"\xd0\xcf", "desktop.ini": b"[x]"},
    "a package.json": {"package.json": to_json({"name": "boats", "version": "1.0"})},
    "a list of classes": {"classes.json": to_json(["cat", "dog"])},
    "statistics": {"annotations/stats.json": to_json({"train": 4, "val": 2})},
    "a readme and a license": {"README.md": b"# boats", "LICENSE": b"CC BY 4.0"},
    "a table of the same boxes": {"train.csv": b"image,label\np0.jpg,cat\n"},
    "images nobody annotated": {"unlabeled/p50.jpg": draw(50)},
    "predictions": {
        "results/predictions.json": to_json(
            [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]
        )
    },
}


def _make_others() -> list[Case]:
    return [
        Case(f"coco beside {name}", partial(_add, extra), GIVEN)
        for name, extra in _OTHER_FILES.items()
    ]


COCO_CASES = [
    *_make_layouts(),
    *_make_names(),
    *_make_splits(),
    *_make_others(),
]
