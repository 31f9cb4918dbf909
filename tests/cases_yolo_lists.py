"""Cases of YOLO's lists of images, and of what CVAT and darknet make of them."""

from collections.abc import Sequence
from functools import partial

from dataset_builders import (
    PHOTOS,
    TRAIN,
    VAL,
    Files,
    Naming,
    Photo,
    add_bom,
    at,
    build_yolo,
    drop,
    make_list,
    rename,
    rewrite,
    select,
)
from dataset_cases import Case
from dataset_readings import expect, expect_any

GIVEN = expect()
POOL = expect_any()
NAMES = "names: [cat, dog]\n"


# Lists of images. They lie beside data.yaml, images in images/<split>/.
_LINES = (
    "images/{split}/{name}",
    "./images/{split}/{name}",
    "../images/{split}/{name}",
    "/images/{split}/{name}",
    "data/images/{split}/{name}",
    "boats/images/{split}/{name}",
    "/content/drive/MyDrive/boats/images/{split}/{name}",
    "/kaggle/input/boats/images/{split}/{name}",
    "C:\\Users\\me\\boats\\images\\{split}\\{name}",
    "C:/Users/me/boats/images/{split}/{name}",
    "images\\{split}\\{name}",
    ".\\images\\{split}\\{name}",
    '"images/{split}/{name}"',
    "'images/{split}/{name}'",
    "images/{split}/{name}   ",
    "  images/{split}/{name}",
    "\nimages/{split}/{name}\n",
    "# comment\nimages/{split}/{name}",
    "#images/{split}/p0.jpg\nimages/{split}/{name}",
    "# ../../none.jpg\nimages/{split}/{name}",
    "images/{split}/{name}\nimages/{split}/{name}",
    "{name}",
    "{split}/{name}",
    "images/{split}/{stem}.JPG",
    "/other/set/{name}",
)


_LISTED = NAMES + "train: train.txt\nval: val.txt\n"


def _build_listed(
    line: Naming, settings: str = _LISTED, end: str = "\n", photos: Sequence[Photo] = PHOTOS
) -> Files:
    files = build_yolo(photos, settings=settings)
    for split in ("train", "val"):
        files[f"{split}.txt"] = make_list(select(photos, split), line, end).encode()
    return files


def _make_lists() -> list[Case]:
    cases = []
    for line in _LINES:
        told = ("list|path",) if line.startswith(("/content", "C:")) else ()
        told = ("comment",) if line.startswith("#") else told
        build = partial(_build_listed, at(line))
        cases.append(Case(f"yolo list line {line!r}", build, GIVEN, told=told))
    plain = at("images/{split}/{name}")
    cases.append(Case("yolo lists with CRLF", partial(_build_listed, plain, end="\r\n"), GIVEN))
    cases.append(
        Case(
            "yolo lists with a BOM", lambda: rewrite(_build_listed(plain), "n.txt", add_bom), GIVEN
        )
    )
    cases.append(Case("yolo lists of other images of one stem", _build_same_stems, GIVEN))
    nested = {
        "data.yaml": NAMES + "train: lists/train.txt\nval: lists/val.txt\n",
        "lists/train.txt": make_list(TRAIN, at("../images/train/{name}")),
        "lists/val.txt": make_list(VAL, at("../images/val/{name}")),
    }
    cases.append(Case("yolo lists in a folder", partial(build_yolo, settings=nested), GIVEN))
    pool = {
        "data.yaml": _LISTED,
        "train.txt": make_list(TRAIN, at("images/{name}")),
        "val.txt": make_list(VAL, at("images/{name}")),
    }
    build = partial(build_yolo, PHOTOS, at("images/{name}"), at("labels/{stem}.txt"), pool)
    cases.append(Case("yolo lists of one folder", build, GIVEN))
    foreign = _LISTED.replace("train.txt", "/content/x/train.txt").replace(
        "val.txt", "/content/x/val.txt"
    )
    cases.append(
        Case("yolo lists by another machine's paths", partial(_build_listed, plain, foreign), GIVEN)
    )
    missing = partial(_build_listed, at("images/{split}/gone-{name}"))
    cases.append(
        Case("yolo list of missing images", missing, refused=("train.txt|gone-p0", "missing"))
    )
    return cases


def _build_same_stems() -> Files:
    """Return images of one stem in two folders, each with other labels."""
    files = _build_listed(at("images/{split}/img{number}.jpg"))
    moved: Files = {}
    for path, content in files.items():
        for photo in PHOTOS:
            if path.endswith((f"/{photo.name}", f"/{photo.stem}.txt")):
                path = path.replace(photo.stem, f"img{photo.number % 4}")
        moved[path] = content
    for split, photos in (("train", TRAIN), ("val", VAL)):
        lines = [f"C:\\x\\images\\{split}\\img{photo.number % 4}.jpg\n" for photo in photos]
        moved[f"{split}.txt"] = "".join(lines).encode()
    return moved


def _build_darknet(
    data: str = "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
    line: str = "data/obj_train_data/{name}",
    split_folders: bool = False,
) -> Files:
    """Return files as CVAT writes YOLO 1.1, or as darknet wants them."""
    folder = "obj_{split}_data" if split_folders else "obj_train_data"
    files = build_yolo(
        PHOTOS,
        at(folder + "/{name}"),
        at(folder + "/{stem}.txt"),
        {"obj.names": "cat\ndog\n", "obj.data": data},
    )
    if split_folders:
        files = rename(files, "val_data", "valid_data")
        lines = line.replace("obj_train_data", folder)
        files["valid.txt"] = make_list(VAL, at(lines)).replace("val_data", "valid_data").encode()
        files["train.txt"] = make_list(TRAIN, at(lines)).encode()
    else:
        files["train.txt"] = make_list(PHOTOS, at(line)).encode()
    return files


def _make_darknet() -> list[Case]:
    both = "classes=2\ntrain=train.txt\nvalid=valid.txt\nnames=obj.names\n"
    return [
        Case("yolo CVAT 1.1", _build_darknet, POOL),
        Case("yolo CVAT 1.1 relative", partial(_build_darknet, line="obj_train_data/{name}"), POOL),
        Case(
            "yolo CVAT 1.1 without spaces",
            partial(_build_darknet, both.replace("valid=valid.txt\n", "")),
            POOL,
        ),
        Case(
            "yolo CVAT 1.1 train and valid",
            partial(_build_darknet, both, split_folders=True),
            GIVEN,
        ),
        Case(
            "yolo darknet absolute",
            partial(_build_darknet, line="/home/me/darknet/data/obj_train_data/{name}"),
            POOL,
        ),
        Case("yolo darknet x64", partial(_build_darknet, line="x64/Release/data/obj/{name}"), POOL),
        Case("yolo CVAT without obj.data", lambda: drop(_build_darknet(), "obj.data"), POOL),
        Case(
            "yolo CVAT without images",
            lambda: {path: text for path, text in _build_darknet().items() if ".jpg" not in path},
            refused=("image",),
        ),
    ]


YOLO_LIST_CASES = [*_make_lists(), *_make_darknet()]
