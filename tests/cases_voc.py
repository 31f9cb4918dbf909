"""Cases of Pascal VOC: layouts, lists, and what XML files say."""

from collections.abc import Callable, Sequence
from functools import partial

from dataset_builders import (
    PHOTOS,
    TEST,
    TRAIN,
    VAL,
    Files,
    Naming,
    Photo,
    add_bom,
    at,
    build_voc,
    encode,
    make_list,
    make_photo,
    make_voc,
    rename,
    rewrite,
    to_crlf,
    wrap,
)
from dataset_cases import Case
from dataset_readings import ReadSplits, expect, expect_any
from PIL import Image

GIVEN = expect()
POOL = expect_any()

# Without lists, splits are those of the folders.
_POOL_PLACES = (
    ("Annotations/{stem}.xml", "JPEGImages/{name}"),
    ("annotations/{stem}.xml", "images/{name}"),
    ("Annotation/{stem}.xml", "Images/{name}"),
    ("annots/{stem}.xml", "images/{name}"),
    ("xmls/{stem}.xml", "images/{name}"),
    ("annotations/xmls/{stem}.xml", "images/{name}"),
    ("labels/{stem}.xml", "images/{name}"),
    ("xml/{stem}.xml", "{name}"),
    ("{stem}.xml", "{name}"),
    ("images/{stem}.xml", "images/{name}"),
    ("data/{stem}.xml", "data/{name}"),
    ("dataset/annotations/{stem}.xml", "dataset/images/{name}"),
    ("bounding boxes/{stem}.XML", "photos/{name}"),
    ("VOCdevkit/VOC2007/Annotations/{stem}.xml", "VOCdevkit/VOC2007/JPEGImages/{name}"),
    ("Annotations/{stem}.xml", "images/camera {number}/{name}"),
    ("Annotations/camera {number}/{stem}.xml", "JPEGImages/camera {number}/{name}"),
)
_SPLIT_PLACES = (
    ("{split}/{stem}.xml", "{split}/{name}"),
    ("{split}/annotations/{stem}.xml", "{split}/images/{name}"),
    ("{split}/Annotations/{stem}.xml", "{split}/JPEGImages/{name}"),
    ("{split}/Annotations/{stem}.xml", "{split}/{name}"),
    ("{split}/annots/{stem}.xml", "{split}/images/{name}"),
    ("{split}/xml/{stem}.xml", "{split}/img/{name}"),
    ("Annotations/{split}/{stem}.xml", "images/{split}/{name}"),
    ("annotations/{split}/{stem}.xml", "JPEGImages/{split}/{name}"),
    ("annots/{split}/{stem}.xml", "images/{name}"),
    ("images/{split}/{stem}.xml", "images/{split}/{name}"),
    ("data/{split}/{stem}.xml", "data/{split}/{name}"),
    ("{split}_annotations/{stem}.xml", "{split}_images/{name}"),
    ("boats/{split}/annotations/{stem}.xml", "boats/{split}/images/{name}"),
)


def _make_layouts() -> list[Case]:
    cases = []
    for annotations, place in _POOL_PLACES:
        build = partial(build_voc, PHOTOS, at(annotations), at(place), None)
        cases.append(Case(f"voc {annotations} with {place}", build, POOL))
    for annotations, place in _SPLIT_PLACES:
        build = partial(build_voc, PHOTOS, at(annotations), at(place), None)
        cases.append(Case(f"voc {annotations} with {place}", build, GIVEN))
    # The same file names in each split, of different images.
    same = partial(
        build_voc,
        PHOTOS[:1] + PHOTOS[4:5],
        at("{split}/annotations/image.xml"),
        at("{split}/images/image.jpg"),
        None,
        xml=partial(make_voc, filename="image.jpg"),
    )
    cases.append(Case("voc same names in two splits", same, expect((PHOTOS[0], PHOTOS[4]))))
    return cases


_LISTS = (
    "ImageSets/Main/{split}.txt",
    "ImageSets/{split}.txt",
    "imagesets/main/{split}.txt",
    "ImageSets/Main/boats_{split}.txt",
    "ImageSets/Main/{split}2024.txt",
    "ImageSets/Main/{split}_list.txt",
    "ImageSets/Main/first/{split}.txt",
    "{split}.txt",
    "lists/{split}.txt",
    "annotations/{split}.txt",
    "VOC/ImageSets/Main/{split}.txt",
)
_LINES = (
    "{stem}",
    "{name}",
    "{stem} 1",
    "{stem}  1",
    "{stem} -1",
    "{stem} 1 1 2",
    "JPEGImages/{name}",
    "./JPEGImages/{name}",
    "Annotations/{stem}.xml",
    "JPEGImages/{name} Annotations/{stem}.xml",
    "/home/me/VOCdevkit/VOC2007/JPEGImages/{name}",
    "C:\\data\\VOC2007\\JPEGImages\\{name}",
    '"{stem}"',
    "{stem}   ",
    "{stem}\t",
    "\n{stem}\n",
    "# a comment\n{stem}",
)
_SPELLINGS = (
    ("train", "valid", "test"),
    ("train", "validation", "test"),
    ("Train", "Val", "Test"),
    ("TRAIN", "VAL", "TEST"),
    ("training", "validation", "testing"),
    ("Training", "Valid", "Testing"),
    ("trainset", "valset", "testset"),
)


_BY_STEM = at("{stem}")


def _write_lists(names: dict[str, Sequence[Photo]], line: Naming = _BY_STEM) -> Files:
    """Return the photos with the lists that names say."""
    files = build_voc((*PHOTOS, *TEST), lists=None)
    for name, photos in names.items():
        files[f"ImageSets/Main/{name}.txt"] = make_list(photos, line).encode()
    return files


def _make_lists() -> list[Case]:
    cases = []
    for path in _LISTS:
        folder = "VOC/" if path.startswith("VOC/") else ""
        places = (at(folder + "Annotations/{stem}.xml"), at(folder + "JPEGImages/{name}"))
        cases.append(Case(f"voc {path}", partial(build_voc, PHOTOS, *places, path), GIVEN))
    for line in _LINES:
        build = partial(build_voc, line=at(line))
        # A comment is nothing that lists have; a reader may say so.
        refused = ("comment", "train") if "comment" in line else None
        cases.append(Case(f"voc list line {line!r}", build, GIVEN, refused))
    for change in (to_crlf, add_bom, lambda text: text.rstrip(), lambda text: text * 2):
        name = getattr(change, "__name__", "")
        files = partial(_rewrite_lists, change)
        cases.append(Case(f"voc lists after {name} {len(cases)}", files, GIVEN))
    for spelling in _SPELLINGS:
        names: dict[str, Sequence[Photo]] = dict(zip(spelling, (TRAIN, VAL, TEST), strict=True))
        splits = expect((*PHOTOS, *TEST))
        cases.append(Case(f"voc lists {spelling}", partial(_write_lists, names), splits))

    derived: dict[str, tuple[dict[str, Sequence[Photo]], ReadSplits]] = {
        "trainval and val": ({"trainval": PHOTOS, "val": VAL}, GIVEN),
        "trainval and train": ({"trainval": PHOTOS, "train": TRAIN}, GIVEN),
        "trainval": ({"trainval": PHOTOS}, POOL),
        "train_val and test": (
            {"trainval": PHOTOS, "test": TEST},
            {"any": {**POOL["any"], **expect(TEST)["test"]}},
        ),
        "default": ({"default": (*PHOTOS, *TEST)}, expect_any((*PHOTOS, *TEST))),
        "all": ({"trainval": PHOTOS, "train": TRAIN, "val": VAL}, GIVEN),
        "class lists": (
            {
                "train": TRAIN,
                "val": VAL,
                "cat_train": PHOTOS,
                "cat_val": TRAIN,
                "dog_trainval": VAL,
            },
            GIVEN,
        ),
    }
    for name, (lists, splits) in derived.items():
        cases.append(Case(f"voc lists of {name}", partial(_write_lists, lists), splits))

    other = build_voc()
    other["ImageSets/Segmentation/train.txt"] = b"p5\n"
    other["ImageSets/Layout/val.txt"] = b"p0 1\n"
    cases.append(Case("voc lists of other tasks beside", lambda: other, GIVEN))
    unlisted = partial(_write_lists, {"train": TRAIN[:2], "val": VAL})
    few = expect((*TRAIN[:2], *VAL))
    cases.append(Case("voc xml that no list names", unlisted, few, told=("list",)))
    unknown = partial(_write_lists, {"train": TRAIN, "val": (*VAL, make_photo(40, "val"))})
    cases.append(Case("voc list names what is not there", unknown, refused=("val.txt", "p40")))
    twice = partial(_write_lists, {"train": PHOTOS, "val": VAL})
    cases.append(Case("voc image in two lists", twice, _share(TRAIN, VAL), told=("train|split",)))
    return cases


def _share(train: Sequence[Photo], val: Sequence[Photo]) -> ReadSplits:
    """Return the splits where the images of val are also in train."""
    boxes = expect(val)["val"]
    return {"train": {**expect(train)["train"], **boxes}, "val": boxes}


def _rewrite_lists(change: Callable[[bytes], bytes]) -> Files:
    return rewrite(build_voc(), ".txt", change)


# What an XML file says. None of these may change what is read.


# Names, and images of the same name.


def _make_mask(photo: Photo) -> bytes:
    return encode(Image.new("L", (120, 80), photo.number % 3 + 1), "PNG")


def _add_masks(template: str, **options: object) -> Files:
    files = build_voc(**options)  # type: ignore[arg-type]
    for photo in PHOTOS:
        files[template.format(stem=photo.stem)] = _make_mask(photo)
    return files


def _make_pets() -> Files:
    """Return files as the Oxford-IIIT Pet dataset has them."""
    files = build_voc(PHOTOS, at("annotations/xmls/{stem}.xml"), at("images/{name}"), None)
    for photo in PHOTOS:
        files[f"annotations/trimaps/{photo.stem}.png"] = _make_mask(photo)
        files[f"annotations/trimaps/._{photo.stem}.png"] = b"\0\5\26\7"
    head = b"#Image CLASS-ID SPECIES BREED ID\n"
    files["annotations/list.txt"] = head + make_list(PHOTOS, at("{stem} 1 1 1")).encode()
    files["annotations/trainval.txt"] = make_list(PHOTOS, at("{stem} 1 1 1")).encode()
    files["annotations/test.txt"] = b""
    files["annotations/README"] = b"OXFORD-IIIT PET Dataset"
    return files


def _make_names() -> list[Case]:
    cases = [
        Case(
            "voc masks in SegmentationClass",
            partial(_add_masks, "SegmentationClass/{stem}.png"),
            GIVEN,
        ),
        Case("voc masks in masks", partial(_add_masks, "masks/{stem}.png"), GIVEN),
        Case(
            "voc masks in a folder that comes first",
            partial(_add_masks, "A masks/{stem}.png"),
            GIVEN,
        ),
        Case("voc masks beside images", partial(_add_masks, "JPEGImages/{stem}.png"), GIVEN),
        Case("voc masks beside by name", partial(_add_masks, "JPEGImages/{stem}_mask.png"), GIVEN),
        Case(
            "voc masks in a flat folder",
            partial(
                _add_masks,
                "{stem}.png",
                annotations=at("{stem}.xml"),
                place=at("{name}"),
                lists=None,
            ),
            POOL,
        ),
        Case("voc Oxford Pets", _make_pets, POOL),
        Case("voc images in upper case", lambda: rename(build_voc(), ".jpg", ".JPG"), GIVEN),
        Case("voc images and lists as jpeg", lambda: rename(build_voc(), ".jpg", ".JPEG"), GIVEN),
    ]
    for stem in (
        "photo (1) {stem}",
        "a.b.{stem}",
        "été {stem} 图",
        "{stem} ",
        " {stem}",
        "#{stem}",
        "100%{stem}",
        "{stem}-copy",
        "{stem}.jpg",
    ):
        build = partial(
            build_voc,
            PHOTOS,
            at(f"Annotations/{stem}.xml"),
            at(f"JPEGImages/{stem}.jpg"),
            line=at(stem),
            xml=partial(_name_by, stem),
        )
        # A list cannot say whether a space at an end belongs to a name.
        refused = ("txt", "p0") if stem.strip() != stem else None
        cases.append(Case(f"voc names {stem!r}", build, GIVEN, refused))
    return cases


def _make_full_names() -> list[Case]:
    """Return XML files that carry the whole name of their image, as p0.jpg.xml."""
    cases = []
    for line in ("{stem}", "{stem}.jpg", "JPEGImages/{stem}.jpg", "# boats\n{stem}.jpg"):
        build = partial(build_voc, annotations=at("Annotations/{name}.xml"), line=at(line))
        told = ("comment",) if "#" in line else ()
        if line == "{stem}":
            # p0 is p0.xml, of which there is none.
            cases.append(Case("voc p0.jpg.xml listed as p0", build, None, ("p0",)))
            continue
        cases.append(Case(f"voc p0.jpg.xml listed as {line!r}", build, GIVEN, told=told))
    silent = partial(
        build_voc,
        annotations=at("Annotations/{name}.xml"),
        lists=None,
        xml=partial(make_voc, filename=""),
    )
    cases.append(Case("voc p0.jpg.xml that names no image", silent, POOL))
    commented = partial(build_voc, line=at("# {stem} is sharp\n{stem}"))
    cases.append(Case("voc comments in lists", commented, GIVEN, told=("comment",)))
    return cases


def _name_by(stem: str, photo: Photo) -> bytes:
    return make_voc(photo, at(f"{stem}.jpg")(photo))


def _make_others() -> list[Case]:
    base = build_voc()
    extra: dict[str, Files] = {
        "an XML that is no annotation": {"pom.xml": b"<project/>", ".idea/workspace.xml": b"<x/>"},
        "CVAT's labelmap": {"labelmap.txt": b"# label:color_rgb:parts:actions\ncat:::\ndog:::\n"},
        "notes": {"notes.txt": b"taken in May", "README.md": b"# boats"},
        "a table": {"labels.csv": b"filename,width\np0.jpg,120\n"},
        "macOS's files": {"Annotations/._p0.xml": b"\0\5\26\7", "JPEGImages/.DS_Store": b"\0"},
        "a class list": {"classes.txt": b"cat\ndog\n", "label_map.pbtxt": b"item { id: 1 }"},
    }
    cases = [
        Case(f"voc beside {name}", partial(dict, {**base, **files}), GIVEN)
        for name, files in extra.items()
    ]
    two = {
        **wrap(build_voc(TRAIN, lists=None), "VOCdevkit/VOC2007"),
        **wrap(build_voc(VAL, lists=None), "VOCdevkit/VOC2012"),
    }
    cases.append(Case("voc of two years", lambda: two, POOL, ("VOC2007",)))
    return cases


VOC_CASES = [
    *_make_layouts(),
    *_make_lists(),
    *_make_names(),
    *_make_full_names(),
    *_make_others(),
]
