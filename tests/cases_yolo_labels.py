"""Cases of what YOLO's label files and settings say."""

from collections.abc import Callable
from functools import partial

from dataset_builders import (
    CLASSES,
    DATA_YAML,
    HEIGHT,
    PHOTOS,
    WIDTH,
    Files,
    Naming,
    Photo,
    Thing,
    add_bom,
    at,
    build_yolo,
    drop,
    find_center,
    make_labels,
    rename,
    to_crlf,
)
from dataset_cases import Case
from dataset_readings import expect, expect_any

GIVEN = expect()
POOL = expect_any()
NAMES = "names: [cat, dog]\n"
_STANDARD = ("images/{split}/{name}", "labels/{split}/{stem}.txt")
_ROBOFLOW = ("{split}/images/{name}", "{split}/labels/{stem}.txt")


# What a label file says. None of these may change what is read.
def _change(change: Callable[[str], str]) -> Callable[[Photo], bytes]:
    return lambda photo: change(make_labels(photo).decode()).encode()


def _make_polygon(photo: Photo, only_cat: bool = False) -> bytes:
    lines = []
    for thing in photo.things:
        x1, y1, x2, y2 = (
            value / size for value, size in zip(thing.corners, (WIDTH, HEIGHT) * 2, strict=True)
        )
        points = (x1, y1, (x1 + x2) / 2, y1, x2, y1, x2, y2, x1, y2)
        if only_cat and thing.label == "dog":
            points = find_center(thing)  # type: ignore[assignment]
        lines.append(
            " ".join([str(CLASSES.index(thing.label)), *(f"{value:.6f}" for value in points)])
        )
    return "\n".join(lines).encode()


def _make_four_points(photo: Photo) -> bytes:
    """Write each box by its four corners, as YOLO's oriented boxes have them."""
    lines = []
    for thing in photo.things:
        x1, y1, x2, y2 = (
            value / size for value, size in zip(thing.corners, (WIDTH, HEIGHT) * 2, strict=True)
        )
        points = ((x1 + x2) / 2, y1, x2, (y1 + y2) / 2, (x1 + x2) / 2, y2, x1, (y1 + y2) / 2)
        lines.append(
            " ".join([str(CLASSES.index(thing.label)), *(f"{value:.6f}" for value in points)])
        )
    return "\n".join(lines).encode()


_HARMLESS: dict[str, Callable[[Photo], bytes]] = {
    "CRLF": lambda photo: to_crlf(make_labels(photo)),
    "a BOM": lambda photo: add_bom(make_labels(photo)),
    "tabs": _change(lambda text: text.replace(" ", "\t")),
    "several spaces": _change(lambda text: text.replace(" ", "   ")),
    "spaces at the ends": _change(lambda text: text.replace("\n", "  \n")),
    "empty lines": _change(lambda text: text.replace("\n", "\n\n")),
    "no last line end": _change(str.rstrip),
    "class as float": _change(lambda text: text.replace("0 0.", "0.0 0.", 1)),
    "exponents": _change(lambda text: text.replace(" 0.250000", " 2.5e-01")),
    "lines reversed": _change(lambda text: "\n".join(reversed(text.splitlines()))),
    "a class with zeros": _change(lambda text: text.replace("1 0.6", "01 0.6")),
    "polygons": _make_polygon,
    "polygons and boxes": partial(_make_polygon, only_cat=True),
}


def _make_detections(photo: Photo, tail: str) -> bytes:
    return make_labels(photo).replace(b"\n", f" {tail}\n".encode())


def _make_pose(photo: Photo, dimensions: int, points: int = 4) -> bytes:
    """Write each box and, behind it, points inside it."""
    lines = []
    for thing, line in zip(photo.things, make_labels(photo).decode().splitlines(), strict=True):
        x, y, width, height = find_center(thing)
        for number in range(points):
            line += f" {x + width * (number - 1.5) / 5:.6f} {y + height * (1.5 - number) / 5:.6f}"
            line += " 2" if dimensions == 3 else ""
        lines.append(line)
    return "\n".join(lines).encode()


def _use_corners(photo: Photo) -> bytes:
    lines = []
    for thing in photo.things:
        x1, y1, x2, y2 = thing.corners
        numbers = (x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT)
        lines.append(
            " ".join([str(CLASSES.index(thing.label)), *(f"{value:.6f}" for value in numbers)])
        )
    return "\n".join(lines).encode()


def _use_pixels(photo: Photo) -> bytes:
    lines = []
    for thing in photo.things:
        x1, y1, x2, y2 = thing.corners
        numbers = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
        lines.append(
            " ".join([str(CLASSES.index(thing.label)), *(f"{value:g}" for value in numbers)])
        )
    return "\n".join(lines).encode()


_POSE = DATA_YAML + "kpt_shape: [4, {}]\n"


_REFUSED: dict[str, tuple[str, Callable[[Photo], bytes], tuple[str, ...]]] = {
    "pose of two": (
        _POSE.format(2),
        partial(_make_pose, dimensions=2),
        ("pose|keypoint|kpt_shape",),
    ),
    "pose of three": (
        _POSE.format(3),
        partial(_make_pose, dimensions=3),
        ("pose|keypoint|kpt_shape",),
    ),
    "pose without kpt_shape": (DATA_YAML, partial(_make_pose, dimensions=3), ("txt",)),
    "pose of two without kpt_shape": (
        DATA_YAML,
        partial(_make_pose, dimensions=2),
        ("txt", "pose|keypoint|polygon"),
    ),
    "tracks": (DATA_YAML, partial(_make_detections, tail="0.87 3"), ("txt", "track|column|7")),
    "tracks with whole ids": (
        DATA_YAML,
        partial(_make_detections, tail="0.9 117"),
        ("txt", "track|column|fraction"),
    ),
    "confidences": (DATA_YAML, partial(_make_detections, tail="0.87"), ("txt", "6")),
    "commas": (DATA_YAML, _change(lambda text: text.replace(" ", ",")), ("txt", "number|comma")),
    "decimal commas": (
        DATA_YAML,
        _change(lambda text: text.replace(".", ",")),
        ("txt", "number|comma"),
    ),
    "semicolons": (DATA_YAML, _change(lambda text: text.replace(" ", ";")), ("txt", "number")),
    "classes from one": (
        DATA_YAML,
        _change(lambda text: text.replace("1 0.6", "2 0.6").replace("0 0.", "1 0.", 1)),
        ("txt", "class 2"),
    ),
    "class names": (
        DATA_YAML,
        _change(lambda text: text.replace("0 0.", "cat 0.", 1)),
        ("txt", "number"),
    ),
    "negative classes": (
        DATA_YAML,
        _change(lambda text: text.replace("1 0.6", "-1 0.6")),
        ("txt", "class"),
    ),
    "half classes": (
        DATA_YAML,
        _change(lambda text: text.replace("0 0.", "0.5 0.", 1)),
        ("txt", "class"),
    ),
    "UTF-16": (
        DATA_YAML,
        lambda photo: make_labels(photo).decode().encode("utf-16"),
        ("txt", "UTF-16|number"),
    ),
    "pixels": (DATA_YAML, _use_pixels, ("txt", "fraction")),
    "corners": (DATA_YAML, _use_corners, ("corner|width|center",)),
    "four columns": (DATA_YAML, _change(lambda text: text.replace("0 0.", "0.", 1)), ("txt",)),
    "negative widths": (
        DATA_YAML,
        _change(lambda text: text.replace(" 0.25", " -0.25")),
        ("txt", "width|ends before|negative"),
    ),
    "NaN": (DATA_YAML, _change(lambda text: text.replace("0.25", "nan")), ("txt", "NaN|finite")),
    "VOC's XML": (DATA_YAML, lambda _: b"<annotation/>", ("txt", "number")),
    "nc too large": (DATA_YAML + "nc: 3\n", make_labels, ("data.yaml", "nc")),
    "nc too small": (DATA_YAML + "nc: 1\n", make_labels, ("data.yaml", "nc")),
    "no names": (
        "train: images/train\nval: images/val\nnc: 2\n",
        make_labels,
        ("data.yaml", "names"),
    ),
    "empty names": (
        "train: images/train\nval: images/val\nnames: []\n",
        make_labels,
        ("names|class",),
    ),
    "names as a text": (
        NAMES.replace("[cat, dog]", "cat dog"),
        make_labels,
        ("data.yaml", "names"),
    ),
    "names of a file": (
        NAMES.replace("[cat, dog]", "data/coco.names"),
        make_labels,
        ("data.yaml", "names"),
    ),
    "names that are no text": (
        NAMES.replace("[cat, dog]", "[yes, no]"),
        make_labels,
        ("data.yaml", "quotes"),
    ),
    "one name twice": (
        NAMES.replace("[cat, dog]", "[cat, cat]"),
        make_labels,
        ("cat", "merge|rename"),
    ),
    "names of two cases": (NAMES.replace("[cat, dog]", "[cat, Cat]"), make_labels, ("Cat",)),
    "two documents": (DATA_YAML + "---\n" + DATA_YAML, make_labels, ("data.yaml", "YAML|document")),
    "tabs in YAML": (DATA_YAML + "x:\n\ty: 1\n", make_labels, ("data.yaml", "YAML")),
    "deep YAML": (DATA_YAML + "x: " + "[" * 3000 + "]" * 3000, make_labels, ("data.yaml", "deep")),
    "aliases": (
        DATA_YAML + "a: &a [x]\nb: &b [*a,*a]\nnames: [*b, *b]\n",
        make_labels,
        ("data.yaml",),
    ),
    "a split elsewhere": (
        NAMES + "train: /data/cars/train\nval: images/val\n",
        make_labels,
        ("data.yaml", "train"),
    ),
    "COCO's file as labels": (DATA_YAML, lambda _: b'{"images": []}', ("txt", "number")),
}


def _make_values() -> list[Case]:
    cases = []
    for name, text in _HARMLESS.items():
        cases.append(Case(f"yolo {name}", partial(build_yolo, text=text), GIVEN))
    # An image without objects has an empty file, or none.
    bare = tuple(
        Photo(photo.number, photo.split, () if photo.number in (2, 3) else photo.things)
        for photo in PHOTOS
    )
    cases.append(Case("yolo empty label files", partial(build_yolo, bare), expect(bare)))
    told = ("without a label|without label|no label",)
    most = tuple(
        Photo(photo.number, photo.split, () if photo.number == 3 else photo.things)
        for photo in PHOTOS
    )
    build = partial(_drop_from_yolo, "labels/train/p3.txt")
    cases.append(Case("yolo one label file is missing", build, expect(most), told=told))
    cases.append(
        Case(
            "yolo oriented boxes",
            partial(build_yolo, text=_make_four_points),
            GIVEN,
            told=("orient|upright|rotat",),
        )
    )
    for name, (settings, text, words) in _REFUSED.items():
        build = partial(build_yolo, settings=settings, text=text)
        cases.append(Case(f"yolo {name}", build, refused=words))

    for layout in (
        _STANDARD,
        _ROBOFLOW,
        ("{split}/{name}", "{split}/{stem}.txt"),
        ("images/{name}", "labels/{stem}.txt"),
    ):
        orphan = partial(_rename_image, at(layout[0]), at(layout[1]))
        cases.append(
            Case(f"yolo label without image {layout[1]}", orphan, refused=("p1.txt", "image"))
        )
    folder = partial(_make_label_folder, "labels/train/p1.txt")
    cases.append(Case("yolo label that is a folder", folder, refused=("p1.txt", "folder")))
    none = partial(build_yolo, [Photo(photo.number, photo.split, ()) for photo in PHOTOS])
    cases.append(Case("yolo without any box", none, refused=("no box|nothing to learn|label",)))
    bare_folder = {path: data for path, data in build_yolo().items() if "labels" not in path}
    cases.append(Case("yolo without labels", lambda: bare_folder, refused=("label",)))
    unnamed = partial(build_yolo, PHOTOS, at("images/{name}"), at("labels/{stem}.txt"), None)
    cases.append(Case("yolo makesense without names", unnamed, refused=("names|classes.txt",)))
    return cases


def _drop_from_yolo(path: str) -> Files:
    return drop(build_yolo(), path)


def _rename_image(place: Naming, labels: Naming) -> Files:
    files = build_yolo(PHOTOS, place, labels, NAMES)
    return rename(files, "p1.jpg", "p1-renamed.jpg")


def _make_label_folder(path: str) -> Files:
    files = drop(build_yolo(), path)
    return {**files, f"{path}/p1.txt": b"0 0.5 0.5 0.1 0.1\n"}


def _make_single() -> list[Case]:
    cats = tuple(Photo(photo.number, photo.split, photo.things[:1]) for photo in PHOTOS)
    build = partial(build_yolo, cats, settings="names: [cat]\nnc: 1\n")
    single = partial(build_yolo, cats, settings="names: {0: cat}\n")
    thing = Thing("cat", (0, 0, WIDTH, HEIGHT))
    whole = tuple(Photo(photo.number, photo.split, (thing,)) for photo in PHOTOS)
    return [
        Case("yolo single class", build, expect(cats), classes=("cat",)),
        Case("yolo single class by number", single, expect(cats), classes=("cat",)),
        Case("yolo boxes of whole images", partial(build_yolo, whole), expect(whole)),
    ]


YOLO_LABEL_CASES = [*_make_values(), *_make_single()]
