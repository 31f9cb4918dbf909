"""Cases that are well-formed and would still spoil what is learned: refused, or told."""

import io
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from dataset_builders import (
    PHOTOS,
    TEST,
    TRAIN,
    VAL,
    Document,
    Files,
    Photo,
    Thing,
    at,
    build_coco,
    build_voc,
    build_yolo,
    draw,
    encode,
    make_coco,
    make_labels,
    rename,
    to_json,
)
from dataset_cases import Case
from dataset_readings import ReadSplits, expect, expect_any
from PIL import ExifTags, Image

GIVEN = expect()
_THREE = ("cat", "dog", "eel")
_NAMES = "names: [cat, dog, eel]\n"

Corners = tuple[float, float, float, float]
Builder = Callable[[tuple[Photo, ...]], Files]
_FORMATS: dict[str, Builder] = {
    "coco": partial(build_coco, classes=_THREE),
    "voc": build_voc,
    "yolo": partial(build_yolo, settings=_NAMES, text=partial(make_labels, classes=_THREE)),
    "yolo of Roboflow": partial(
        build_yolo,
        place=at("{split}/images/{name}"),
        labels=at("{split}/labels/{stem}.txt"),
        settings=_NAMES,
        text=partial(make_labels, classes=_THREE),
    ),
}


def _relabel(photos: tuple[Photo, ...], numbers: tuple[int, ...], label: str) -> tuple[Photo, ...]:
    """Return the photos with the dog on some of them called otherwise."""
    changed = []
    for photo in photos:
        if photo.number in numbers:
            cat, dog = photo.things
            photo = replace(photo, things=(cat, replace(dog, label=label)))
        changed.append(photo)
    return tuple(changed)


def _clear(photos: tuple[Photo, ...], *numbers: int) -> tuple[Photo, ...]:
    """Return the photos, some of them without things."""
    return tuple(
        replace(photo, things=()) if photo.number in numbers else photo for photo in photos
    )


def _move(
    photos: tuple[Photo, ...], change: Callable[[float, float, float, float], Corners]
) -> tuple[Photo, ...]:
    """Return the photos with other corners of their things."""
    return tuple(
        replace(
            photo,
            things=tuple(Thing(thing.label, change(*thing.corners)) for thing in photo.things),
        )
        for photo in photos
    )


def _make_classes(format: str, build: Builder) -> list[Case]:
    has_list = format != "voc"
    classes = _THREE if has_list else ("cat", "dog")
    only_val = _relabel(PHOTOS, (4, 5), "eel")
    only_train = _relabel(PHOTOS, (0, 1), "eel")
    only_test = _relabel((*PHOTOS, *TEST), (6,), "eel")
    no_val = _clear(PHOTOS, 4, 5)
    crowds = tuple(
        replace(photo, things=tuple(replace(thing, crowd=True) for thing in photo.things))
        for photo in PHOTOS
    )
    cases = [
        Case(f"{format} class only in val", lambda: build(only_val), refused=("eel", "val")),
        Case(
            f"{format} class only in train",
            lambda: build(only_train),
            expect(only_train),
            classes=_THREE,
        ),
        Case(
            f"{format} class only in test",
            lambda: build(only_test),
            expect(only_test),
            ("eel", "test"),
            ("eel|test",),
            _THREE,
        ),
        Case(
            f"{format} val without boxes",
            lambda: build(no_val),
            expect(no_val),
            ("val",),
            ("val",),
            classes,
        ),
        Case(
            f"{format} train without boxes",
            lambda: build(_clear(PHOTOS, 0, 1, 2, 3)),
            refused=("train|eel|cat",),
        ),
        Case(
            f"{format} no boxes at all",
            lambda: build(_clear(PHOTOS, *range(6))),
            refused=("no box|nothing to learn|label",),
        ),
        Case(
            f"{format} one background image",
            lambda: build(_clear(PHOTOS, 2)),
            expect(_clear(PHOTOS, 2)),
            classes=classes,
        ),
    ]
    if format in ("coco", "voc"):
        cases.append(
            Case(
                f"{format} regions to ignore only",
                lambda: build(crowds),
                refused=("nothing to learn|no box",),
            )
        )
    if has_list:
        cases.append(
            Case(f"{format} class that nobody has", lambda: build(PHOTOS), GIVEN, classes=_THREE)
        )
    typo = {"coco": ("cat", "dog", "dogg"), "voc": ("cat", "dog")}.get(format)
    if typo:
        wrong = _relabel(PHOTOS, (4, 5), "dogg")
        writer = partial(build_coco, classes=typo) if format == "coco" else build
        cases.append(
            Case(f"{format} a typo only in val", lambda: writer(wrong), refused=("dogg", "dog"))
        )
    return cases


def _make_boxes(format: str, build: Builder) -> list[Case]:
    has_list = format != "voc"
    classes = _THREE if has_list else ("cat", "dog")
    # A little over the edge is clipped; all boxes far over it are no accident.
    over = _move(PHOTOS, lambda x1, y1, x2, y2: (x1 - 12 if x1 < 30 else x1, y1, x2, y2))
    clipped = _move(PHOTOS, lambda x1, y1, x2, y2: (max(0, x1 - 12) if x1 < 30 else x1, y1, x2, y2))
    doubled = tuple(replace(photo, things=photo.things * 2) for photo in PHOTOS)
    far = _move(PHOTOS, lambda x1, y1, x2, y2: (x1, y1, x2 + 100, y2 + 100))
    larger = _move(PHOTOS, lambda x1, y1, x2, y2: (x1 * 3, y1 * 3, x2 * 3, y2 * 3))
    return [
        Case(
            f"{format} boxes a little over the edge",
            lambda: build(over),
            expect(clipped),
            told=("clipped",),
            classes=classes,
        ),
        Case(
            f"{format} boxes twice",
            lambda: build(doubled),
            GIVEN,
            told=("duplicate",),
            classes=classes,
        ),
        Case(
            f"{format} boxes far over the edge",
            lambda: build(far),
            refused=("edge|over|width|corner|outside|clip|beyond",),
        ),
        Case(
            f"{format} boxes of a larger image",
            lambda: build(larger),
            refused=("outside|width|edge|size|fraction|beyond|corner",),
        ),
    ]


def _drop_sizes(document: Document) -> None:
    for entry in document["images"]:
        del entry["width"], entry["height"]


def _make_turned() -> bytes:
    """Return the first photo, stored on its side, with the orientation that puts it upright."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image = Image.open(io.BytesIO(draw(0))).transpose(Image.Transpose.ROTATE_90)
    return encode(image, "JPEG", exif=exif)


def _make_told() -> list[Case]:
    turned = _make_turned()
    splits: ReadSplits = expect((replace(PHOTOS[0], data=turned), *PHOTOS[1:]))
    yolo = lambda: {**build_yolo(), "images/train/p0.jpg": turned}  # noqa: E731
    only_test = tuple(replace(photo, split="test") for photo in PHOTOS)
    only_val = tuple(replace(photo, split="val") for photo in PHOTOS)
    cases = [
        Case("told EXIF turn in YOLO", yolo, splits, told=("EXIF|turn|orient",)),
        Case("yolo labels .TXT", lambda: rename(build_yolo(), ".txt", ".TXT"), GIVEN),
        Case(
            "yolo classes in upper case",
            partial(build_yolo, settings={"CLASSES.TXT": "cat\ndog\n"}),
            GIVEN,
        ),
        Case("voc xml .XML", lambda: rename(build_voc(), ".xml", ".XML"), GIVEN),
        Case("voc lists .TXT", lambda: rename(build_voc(), ".txt", ".TXT"), GIVEN),
        Case(
            "yolo data.YML",
            partial(build_yolo, settings={"data.YML": "names: [cat, dog]\n"}),
            GIVEN,
        ),
        Case(
            "coco zipped JSON",
            lambda: rename(build_coco(), ".json", ".json.gz"),
            refused=("no dataset",),
        ),
        Case("coco test only", partial(build_coco, only_test), expect_any(PHOTOS), ("train",)),
        Case(
            "yolo val only",
            partial(build_yolo, only_val, settings="names: [cat, dog]\n"),
            expect_any(PHOTOS),
            ("train",),
        ),
        Case("voc test only", partial(build_voc, only_test), expect_any(PHOTOS), ("train",)),
    ]
    for format, build in (("coco", build_coco), ("voc", build_voc), ("yolo", build_yolo)):
        again = encode(_open(draw(0)), "JPEG", quality=75)
        files = partial(_replace_image, build, "p4.jpg", again)
        copied = replace(PHOTOS[4], data=again)
        cases.append(
            Case(
                f"told {format} saved again in val",
                files,
                expect((*TRAIN, copied, VAL[1])),
                told=("train",),
            )
        )
    return cases


def _replace_image(build: Callable[[], Files], name: str, content: bytes) -> Files:
    return {path: content if path.endswith(name) else old for path, old in build().items()}


def _open(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def _make_empty() -> list[Case]:
    background = partial(build_coco, change=_add_background)
    return [
        Case(
            "coco no images in it",
            partial(build_coco, PHOTOS, change=_clear_document),
            refused=("image",),
        ),
        Case(
            "coco background category", background, GIVEN, classes=("__background__", "cat", "dog")
        ),
        Case(
            "coco sizes missing, boxes of a larger image",
            partial(build_coco, _larger(), change=_drop_sizes),
            refused=("outside|edge|size|beyond",),
        ),
        Case("coco one image", partial(build_coco, PHOTOS[:1]), refused=("image",)),
        Case("coco the same image twice", _build_twice, refused=("image",)),
        Case("coco val lists nothing", _empty_val, expect_any(TRAIN), ("val",), ("val",)),
    ]


def _larger() -> tuple[Photo, ...]:
    return _move(PHOTOS, lambda x1, y1, x2, y2: (x1 * 2, y1 * 2, x2 * 2, y2 * 2))


def _clear_document(document: Document) -> None:
    document.update(images=[], annotations=[])


def _add_background(document: Document) -> None:
    document["categories"].insert(0, {"id": 0, "name": "__background__", "supercategory": "none"})


def _build_twice() -> Files:
    twins = (TRAIN[0], replace(TRAIN[1], data=TRAIN[0].content))
    return build_coco(twins, "annotations.json", at("images/{name}"))


def _empty_val() -> Files:
    files = build_coco(TRAIN)
    files["annotations/instances_val.json"] = to_json(make_coco([]))
    return files


def _make_all() -> list[Case]:
    cases = []
    for format, build in _FORMATS.items():
        cases += _make_classes(format, build)
        cases += _make_boxes(format, build)
    return [*cases, *_make_told(), *_make_empty()]


LEARNING_CASES = _make_all()
