"""Cases in which several files could be meant: the right one is read, or none by guessing."""

from collections.abc import Sequence
from functools import partial

from dataset_builders import (
    PHOTOS,
    TRAIN,
    VAL,
    Files,
    Naming,
    Photo,
    at,
    build_coco,
    build_voc,
    build_yolo,
    draw,
    drop,
    make_coco,
    make_labels,
    make_list,
    make_voc,
    to_json,
    wrap,
)
from dataset_cases import Case
from dataset_readings import expect, expect_any

GIVEN = expect()
POOL = expect_any()
NAMES = "names: [cat, dog]\n"


def _number_in_split(photo: Photo) -> int:
    """Return 0 and 1 in each split, such that splits use the same names."""
    return photo.number % 4


def _same(template: str) -> Naming:
    """Return a naming that repeats in each split; {n} is the number within the split."""
    return lambda photo: template.format(split=photo.split, n=_number_in_split(photo))


def _camera(template: str) -> Naming:
    """Return a naming by two cameras, which use the same names; {n} is the number of the photo."""
    return lambda photo: template.format(camera="ab"[photo.number % 2], n=photo.number // 2)


def _make_same_names() -> list[Case]:
    coco = {
        "coco {split}.json, names alone": (
            "annotations/{split}.json",
            "images/{split}/{n}.jpg",
            "{n}.jpg",
        ),
        "coco per folder": ("{split}/_annotations.coco.json", "{split}/{n}.jpg", "{n}.jpg"),
        "coco per folder with images": ("{split}/labels.json", "{split}/data/{n}.jpg", "{n}.jpg"),
        "coco names with the split": (
            "annotations/{split}.json",
            "photos/{split}/{n}.jpg",
            "{split}/{n}.jpg",
        ),
        "coco foreign paths": (
            "{split}.json",
            "images/{split}/{n}.jpg",
            "/content/x/{split}/{n}.jpg",
        ),
        "coco foreign paths of Windows": (
            "{split}.json",
            "{split}/{n}.jpg",
            "D:\\x\\{split}\\{n}.jpg",
        ),
        "coco all, names with the split": ("all.json", "images/{split}/{n}.jpg", "{split}/{n}.jpg"),
        "coco all, foreign paths": (
            "all.json",
            "images/{split}/{n}.jpg",
            "/x/images/{split}/{n}.jpg",
        ),
    }
    cases = []
    for name, (annotations, place, stated) in coco.items():
        build = partial(build_coco, PHOTOS, annotations, _same(place), _same(stated))
        cases.append(
            Case(f"same names: {name}", build, POOL if "all.json" in annotations else GIVEN)
        )

    voc = {
        "voc per folder": ("{split}/{n}.xml", "{split}/{n}.jpg"),
        "voc nested": ("{split}/annotations/{n}.xml", "{split}/images/{n}.jpg"),
        "voc parallel": ("Annotations/{split}/{n}.xml", "JPEGImages/{split}/{n}.jpg"),
        "voc parallel, deeper": ("data/ann/{split}/x/{n}.xml", "data/img/{split}/x/{n}.jpg"),
    }
    for name, (annotations, place) in voc.items():
        xml = lambda photo: make_voc(photo, f"{_number_in_split(photo)}.jpg")  # noqa: E731
        build = partial(build_voc, PHOTOS, _same(annotations), _same(place), None, xml=xml)
        cases.append(Case(f"same names: {name}", build, GIVEN))

    yolo = {
        "yolo standard": ("images/{split}/{n}.jpg", "labels/{split}/{n}.txt"),
        "yolo Roboflow": ("{split}/images/{n}.jpg", "{split}/labels/{n}.txt"),
        "yolo beside": ("{split}/{n}.jpg", "{split}/{n}.txt"),
        "yolo other words": ("photos/{split}/{n}.jpg", "txt/{split}/{n}.txt"),
        "yolo nested": ("{split}/img/x/{n}.jpg", "{split}/ann/x/{n}.txt"),
    }
    for name, (place, labels) in yolo.items():
        build = partial(build_yolo, PHOTOS, _same(place), _same(labels), NAMES)
        cases.append(Case(f"same names: {name}", build, GIVEN))

    cameras = {
        "yolo cameras": partial(
            build_yolo,
            PHOTOS,
            _camera("images/{camera}/{n}.jpg"),
            _camera("labels/{camera}/{n}.txt"),
            NAMES,
        ),
        "voc cameras": partial(
            build_voc,
            PHOTOS,
            _camera("Annotations/{camera}/{n}.xml"),
            _camera("JPEGImages/{camera}/{n}.jpg"),
            None,
            xml=lambda photo: make_voc(photo, f"{photo.number // 2}.jpg"),
        ),
        "coco cameras": partial(
            build_coco,
            PHOTOS,
            "all.json",
            _camera("images/{camera}/{n}.jpg"),
            _camera("{camera}/{n}.jpg"),
        ),
    }
    cases += [Case(f"same names: {name}", build, POOL) for name, build in cameras.items()]
    guess = partial(
        build_coco, PHOTOS, "all.json", _camera("images/{camera}/{n}.jpg"), _camera("{n}.jpg")
    )
    cases.append(Case("same names: coco cameras, names alone", guess, refused=("0.jpg",)))
    return cases


def _make_others() -> list[Case]:
    coco, voc, yolo = build_coco(), build_voc(), build_yolo()
    first = to_json(make_coco(TRAIN[:2]))
    return [
        # A stated path is right even where another file has that name.
        Case(
            "another image of a name nobody states", lambda: {**coco, "old/p0.jpg": draw(90)}, GIVEN
        ),
        Case(
            "another image of a name nobody states, voc",
            lambda: {**voc, "old/p0.jpg": draw(90)},
            GIVEN,
        ),
        Case(
            "another image of a name nobody states, yolo",
            lambda: {**yolo, "old/p0.jpg": draw(90)},
            GIVEN,
            ("p0",),
        ),
        Case(
            "two names that differ by case",
            lambda: _build_pair("{stem}.jpg", {"p1": "P0"}),
            expect_any(PHOTOS),
        ),
        Case(
            "two names of two Unicode forms",
            lambda: _build_pair("{stem}.jpg", {"p0": "\u00e9", "p1": "e\u0301"}),
            expect_any(PHOTOS),
        ),
        # Only val/p0.jpg is there, and train's annotations name p0.jpg too.
        Case(
            "an image that only another split has",
            lambda: drop(
                build_coco(
                    PHOTOS[:5],
                    "annotations/{split}.json",
                    _same("images/{split}/{n}.jpg"),
                    _same("{n}.jpg"),
                ),
                "images/train/0.jpg",
            ),
            refused=("0.jpg",),
        ),
        Case(
            "an image that only another split has, voc",
            lambda: drop(
                build_voc(PHOTOS[:5], _same("{split}/{n}.xml"), _same("{split}/{n}.jpg"), None),
                "train/0.jpg",
            ),
            refused=("0",),
        ),
        Case(
            "an image that only another split has, yolo",
            lambda: drop(
                build_yolo(
                    PHOTOS[:5],
                    _same("images/{split}/{n}.jpg"),
                    _same("labels/{split}/{n}.txt"),
                    NAMES,
                ),
                "images/train/0.jpg",
            ),
            refused=("0",),
        ),
        Case(
            "annotations twice",
            lambda: {**coco, "old/instances_train.json": first},
            GIVEN,
            ("instances_train",),
        ),
        Case(
            "annotations twice in a folder",
            lambda: {**coco, "annotations/train_v1.json": first},
            GIVEN,
            ("train",),
        ),
        Case(
            "a backup of all",
            lambda: {**coco, **wrap(coco, "backup")},
            GIVEN,
            ("backup|instances_train",),
        ),
        Case("a backup of all, voc", lambda: {**voc, **wrap(voc, "backup")}, GIVEN, ("backup|p0",)),
        Case(
            "a backup of all, yolo", lambda: {**yolo, **wrap(yolo, "backup")}, GIVEN, ("backup|p0",)
        ),
        Case("captions beside images", partial(_add_captions, coco), GIVEN),
        Case(
            "labelme's file beside one image",
            lambda: {**coco, "images/train/p0.json": _LABELME},
            GIVEN,
            ("p0.json",),
        ),
        Case(
            "detections of a model beside labels",
            partial(_add_detections, "predictions"),
            GIVEN,
            ("predictions",),
        ),
        Case("labels of two tasks", partial(_add_detections, "labels-seg"), GIVEN, ("label",)),
        Case(
            "a classes.txt that differs",
            lambda: {**yolo, "classes.txt": b"dog\ncat\n"},
            GIVEN,
            ("classes.txt",),
            ("classes.txt",),
        ),
        Case(
            "classes of two splits differ",
            lambda: {
                **drop(yolo, "data.yaml"),
                "labels/train/classes.txt": b"cat\ndog\n",
                "labels/val/classes.txt": b"dog\ncat\n",
            },
            refused=("classes.txt",),
        ),
        Case(
            "a readme among labels",
            lambda: {**yolo, "labels/README.txt": b"made by hand\n"},
            GIVEN,
            ("README",),
        ),
        Case(
            "two data.yaml",
            lambda: {**yolo, "old/data.yaml": b"names: [dog, cat]\n"},
            GIVEN,
            ("data.yaml",),
        ),
        Case(
            "two yaml with names",
            lambda: {
                **drop(yolo, "data.yaml"),
                "a.yaml": NAMES.encode(),
                "b.yaml": b"names: [dog, cat]\n",
            },
            None,
            ("a.yaml|b.yaml",),
        ),
        Case("darknet's lists beside VOC", partial(_add_darknet, voc), GIVEN, ("YOLO|label",)),
        Case("an empty val folder", _empty_val, expect_any(TRAIN), ("val",), ("val",)),
        Case(
            "one label for two images",
            lambda: {**yolo, "images/train/p0.png": draw(91, "PNG")},
            None,
            ("p0",),
        ),
        Case(
            "two xml of one image",
            lambda: {**voc, "Annotations/p0 (1).xml": make_voc(PHOTOS[0])},
            GIVEN,
            ("p0",),
        ),
        Case("names that begin alike", _rename_alike, GIVEN),
        Case(
            "names that begin alike, coco",
            partial(build_coco, PHOTOS, place=_alike("images/{split}/"), name=_alike("")),
            GIVEN,
        ),
        Case("val lists images of train", _list_val_in_train, GIVEN),
    ]


_LABELME = to_json({"version": "5.0.1", "shapes": [], "imagePath": "p0.jpg"})


def _build_pair(place: str, names: dict[str, str]) -> Files:
    """Return a COCO dataset in which some photos have other names."""

    def name(photo: Photo) -> str:
        return place.format(stem=names.get(photo.stem, photo.stem))

    return build_coco(PHOTOS, "all.json", lambda photo: f"images/{name(photo)}", name)


def _add_captions(files: Files) -> Files:
    captions = {f"images/{photo.split}/{photo.stem}.txt": b"a photo of a cat\n" for photo in PHOTOS}
    return {**files, **captions}


def _add_detections(folder: str) -> Files:
    files = build_yolo()
    for photo in PHOTOS:
        files[f"{folder}/{photo.split}/{photo.stem}.txt"] = b"0 0.5 0.5 0.2 0.2\n"
    return files


def _add_darknet(files: Files) -> Files:
    """Return what darknet's voc_label.py makes of VOC: labels and lists beside the XML files."""
    labels = {f"labels/{photo.stem}.txt": make_labels(photo) for photo in PHOTOS}
    line = at("/home/me/VOCdevkit/VOC2007/JPEGImages/{name}")
    lists = {
        "2007_train.txt": make_list(TRAIN, line).encode(),
        "2007_val.txt": make_list(VAL, line).encode(),
    }
    return {**files, **labels, **lists}


def _empty_val() -> Files:
    files = build_yolo(TRAIN, at("{split}/images/{name}"), at("{split}/labels/{stem}.txt"), NAMES)
    return {**files, "valid/images/.gitkeep": b"", "valid/labels/.gitkeep": b""}


def _alike(folder: str) -> Naming:
    """Return names each of which begins as the one before does."""
    return lambda photo: f"{folder.format(split=photo.split)}a{'.b' * photo.number}.jpg"


def _rename_alike() -> Files:
    labels = lambda photo: f"labels/{photo.split}/a{'.b' * photo.number}.txt"  # noqa: E731
    return build_yolo(PHOTOS, _alike("images/{split}/"), labels)


def _list_val_in_train() -> Files:
    """Return a dataset whose lists cut the one folder called train."""
    files = build_yolo(
        PHOTOS,
        at("images/train/{name}"),
        at("labels/train/{stem}.txt"),
        NAMES + "train: train.txt\nval: val.txt\n",
    )
    lists: Sequence[tuple[str, tuple[Photo, ...]]] = (("train", TRAIN), ("val", VAL))
    for split, photos in lists:
        files[f"{split}.txt"] = make_list(photos, at("./images/train/{name}")).encode()
    return files


MATCHING_CASES = [*_make_same_names(), *_make_others()]


# Label Studio puts eight digits before the name of an upload, which the images themselves lack.
_UPLOAD = "1a2b3c4d-"
_UPLOAD_NAMES = ("/data/upload/1/{name}", "images/{name}", "{name}")


def _make_uploads() -> list[Case]:
    cases = []
    for name in _UPLOAD_NAMES:
        stated = name.replace("{name}", _UPLOAD + "{name}")
        build = partial(build_coco, name=at(stated))
        cases.append(Case(f"uploads of Label Studio as {stated}", build, GIVEN, told=("found",)))
    labels = partial(
        build_yolo,
        PHOTOS,
        at("images/{name}"),
        at(f"labels/{_UPLOAD}{{stem}}.txt"),
        {"classes.txt": "cat\ndog\n"},
    )
    cases.append(Case("uploads of Label Studio in YOLO", labels, expect_any()))
    xml = partial(
        build_voc,
        PHOTOS,
        at(f"Annotations/{_UPLOAD}{{stem}}.xml"),
        at("images/{name}"),
        None,
        xml=lambda photo: make_voc(photo, _UPLOAD + photo.name),
    )
    cases.append(Case("uploads of Label Studio in VOC", xml, expect_any()))
    twice = build_coco(name=lambda photo: f"{photo.number % 2:08}-p0.jpg")
    cases.append(Case("uploads of two images of a name", lambda: twice, None, ("p0.jpg",)))
    return cases


MATCHING_CASES += _make_uploads()
