"""Cases of YOLO: layouts, settings, lists, and what label files say."""

from collections.abc import Mapping
from functools import partial

from dataset_builders import (
    DATA_YAML,
    PHOTOS,
    TEST,
    TRAIN,
    Files,
    Naming,
    at,
    build_yolo,
    draw,
    rename,
    wrap,
)
from dataset_cases import Case
from dataset_readings import ReadSplits, expect, expect_any

GIVEN = expect()
POOL = expect_any()
THREE = (*PHOTOS, *TEST)

NAMES = "names: [cat, dog]\n"
_STANDARD = ("images/{split}/{name}", "labels/{split}/{stem}.txt")
_ROBOFLOW = ("{split}/images/{name}", "{split}/labels/{stem}.txt")

# Where images and labels go, and what data.yaml says; it is above them all.
_LAYOUTS: tuple[tuple[str, str, str, ReadSplits], ...] = (
    (*_STANDARD, NAMES, GIVEN),
    (*_ROBOFLOW, NAMES, GIVEN),
    ("{split}/{name}", "{split}/{stem}.txt", NAMES, GIVEN),
    ("{split}/{name}", "{split}/labels/{stem}.txt", NAMES, GIVEN),
    ("{split}/images/{name}", "{split}/{stem}.txt", NAMES, GIVEN),
    ("images/{split}/{name}", "images/{split}/{stem}.txt", NAMES, GIVEN),
    ("images/{split}/{name}", "labels/{stem}.txt", NAMES, GIVEN),
    ("images/{split}/{name}", "txt/{stem}.txt", NAMES, GIVEN),
    ("{split}/{name}", "labels/{stem}.txt", NAMES, GIVEN),
    ("data/images/{split}/{name}", "data/labels/{stem}.txt", NAMES, GIVEN),
    ("images/{split}/{name}", "annotations/{split}/{stem}.txt", NAMES, GIVEN),
    ("data/images/{split}/{name}", "data/labels/{split}/{stem}.txt", NAMES, GIVEN),
    ("images/{split}2017/{name}", "labels/{split}2017/{stem}.txt", NAMES, GIVEN),
    ("images/{split}/day {number}/{name}", "labels/{split}/day {number}/{stem}.txt", NAMES, GIVEN),
    ("Images/{split}/{name}", "Labels/{split}/{stem}.txt", NAMES, GIVEN),
    ("img/{split}/{name}", "txt/{split}/{stem}.txt", NAMES, GIVEN),
    ("images/{name}", "labels/{stem}.txt", NAMES, POOL),
    ("{name}", "{stem}.txt", NAMES, POOL),
    ("data/{name}", "data/{stem}.txt", NAMES, POOL),
    ("JPEGImages/{name}", "labels/{stem}.txt", NAMES, POOL),
    ("images/{name}", "annotations/{stem}.txt", NAMES, POOL),
    ("images/{name}", "yolo labels/{stem}.txt", NAMES, POOL),
    (*_STANDARD, NAMES + "train: images/train\nval: images/val\n", GIVEN),
    (*_ROBOFLOW, NAMES + "train: train/images\nval: val/images\n", GIVEN),
    (*_ROBOFLOW, NAMES + "train: ../train/images\nval: ../val/images\n", GIVEN),
    (*_ROBOFLOW, NAMES + "train: train\nval: val\n", GIVEN),
)

# What may stand around the names in data.yaml of a standard layout.
_SETTINGS = (
    "names: [cat, dog]\n",
    "names: ['cat', \"dog\"]\nnc: 2\n",
    "nc: 2\nnames:\n- cat\n- dog\n",
    "names:\n  0: cat\n  1: dog\n",
    "names: {1: dog, 0: cat}\n",
    "names:\n  '0': cat\n  '1': dog\n",
    "names: {0: cat, 1: dog}\nnc: '2'\n",
    "names: [cat, dog]\nnc: 2.0\n",
    "# boats\n\nnames: [cat, dog]  # two\ndownload: |\n  import x\n",
    "names: [cat, dog]\nroboflow:\n  workspace: a\n  url: https://universe.roboflow.com/a\n",
    "%YAML 1.2\n---\nnames: [cat, dog]\n",
    "NAMES: [cat, dog]\nnames: [cat, dog]\n",
)
_PLACES = (
    "train: images/train\nval: images/val\n",
    "train: images/train/\nval: images/val/\n",
    "train: ./images/train\nval: ./images/val\n",
    "train: ../images/train\nval: ../images/val\n",
    "train: ../boats/images/train\nval: ../boats/images/val\n",
    "train: boats/images/train\nval: boats/images/val\n",
    "train: /content/boats/images/train\nval: /content/boats/images/val\n",
    "train: C:\\Users\\me\\boats\\images\\train\nval: C:\\Users\\me\\boats\\images\\val\n",
    'train: "D:/boats/images/train"\nval: "D:/boats/images/val"\n',
    "train: images\\train\nval: images\\val\n",
    "path: .\ntrain: images/train\nval: images/val\n",
    "path: ..\ntrain: images/train\nval: images/val\n",
    "path: ''\ntrain: images/train\nval: images/val\n",
    "path: ../datasets/boats\ntrain: images/train\nval: images/val\n",
    "path: /home/me/boats\ntrain: images/train\nval: images/val\n",
    "path: C:\\data\\boats\ntrain: images/train\nval: images/val\n",
    "path: boats\ntrain: images/train\nval: images/val\n",
    "path: images\ntrain: train\nval: val\n",
    "train: [images/train]\nval: [images/val]\n",
    "train: images/train\nvalid: images/val\n",
    "train: images/train\nvalidation: images/val\n",
    "train: images/train\nval: images/val\ntest:\n",
    "train: images/train\nval: images/val\ntest: images/test\n",
    "train: images/train/*.jpg\nval: images/val/*.jpg\n",
    "Train: images/train\nVal: images/val\n",
)
_DOUBTFUL_PLACES = ("*.jpg",)


def _make_layouts() -> list[Case]:
    cases = []
    for place, labels, settings, splits in _LAYOUTS:
        build = partial(build_yolo, PHOTOS, at(place), at(labels), settings)
        cases.append(Case(f"yolo {place} {labels} {settings!r}", build, splits))
    for settings in _SETTINGS:
        build = partial(build_yolo, settings=settings)
        cases.append(Case(f"yolo settings {settings!r}", build, GIVEN))
    for places in _PLACES:
        build = partial(build_yolo, settings=NAMES + places)
        refused = ("data.yaml",) if any(part in places for part in _DOUBTFUL_PLACES) else None
        cases.append(Case(f"yolo places {places!r}", build, GIVEN, refused))
    for name in (
        "data.yml",
        "dataset.yaml",
        "dataset.yml",
        "boats.yaml",
        "Boats.YAML",
        "custom_data.yaml",
    ):
        for layout in (_STANDARD, _ROBOFLOW):
            build = partial(build_yolo, PHOTOS, at(layout[0]), at(layout[1]), {name: NAMES})
            cases.append(Case(f"yolo {name} of {layout[0]}", build, GIVEN))
    return cases


# Where data.yaml lies, and what other files tell the names.
_FILES: dict[str, tuple[Mapping[str, str], ReadSplits]] = {
    "data.yaml in a folder beside": ({"config/data.yaml": NAMES}, GIVEN),
    "data.yaml in images": ({"images/data.yaml": NAMES}, GIVEN),
    "data.yaml in labels": (
        {"labels/data.yaml": NAMES + "train: ../images/train\nval: ../images/val"},
        GIVEN,
    ),
    "another yaml before it": ({"args.yaml": "epochs: 3\nlr: 0.1\n", "boats.yaml": NAMES}, GIVEN),
    "hyperparameters beside": ({"hyp.yaml": "lr0: 0.01\n", "zoo.yaml": NAMES}, GIVEN),
    "a compose file beside": (
        {"docker-compose.yml": "services: {a: {image: b}}\n", "data.yaml": NAMES},
        GIVEN,
    ),
    "a yaml that is broken beside": ({".config.yaml": "a: [", "data.yaml": NAMES}, GIVEN),
    "classes.txt": ({"classes.txt": "cat\ndog\n"}, GIVEN),
    "classes.txt in labels": ({"labels/classes.txt": "cat\ndog\n"}, GIVEN),
    "classes.txt in each folder of labels": (
        {"labels/train/classes.txt": "cat\ndog\n", "labels/val/classes.txt": "cat\ndog\n"},
        GIVEN,
    ),
    "classes.txt with CRLF": ({"classes.txt": "cat\r\ndog\r\n"}, GIVEN),
    "classes.txt with a BOM": ({"classes.txt": "\ufeffcat\ndog\n"}, GIVEN),
    "classes.txt with blank lines at the end": ({"classes.txt": "cat \ndog\n\n\n"}, GIVEN),
    "Classes.txt": ({"Classes.txt": "cat\ndog\n"}, GIVEN),
    "obj.names": ({"obj.names": "cat\ndog\n"}, GIVEN),
    "boats.names": ({"boats.names": "cat\ndog\n"}, GIVEN),
    "_darknet.labels": (
        {"train/_darknet.labels": "cat\ndog\n", "val/_darknet.labels": "cat\ndog\n"},
        GIVEN,
    ),
    "classes.names": ({"classes.names": "cat\ndog"}, GIVEN),
    "classes.txt and data.yaml": ({"classes.txt": "cat\ndog\n", "data.yaml": DATA_YAML}, GIVEN),
    "classes.txt and notes.json": (
        {
            "classes.txt": "cat\ndog\n",
            "notes.json": '{"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],'
            ' "info": {"contributor": "Label Studio"}}',
        },
        GIVEN,
    ),
}


def _make_files() -> list[Case]:
    cases = []
    for name, (settings, splits) in _FILES.items():
        cases.append(Case(f"yolo with {name}", partial(build_yolo, settings=settings), splits))
    notes = {"notes.json": _FILES["classes.txt and notes.json"][0]["notes.json"]}
    cases.append(
        Case("yolo with notes.json only", partial(build_yolo, settings=notes), GIVEN, ("names",))
    )

    flat = partial(
        build_yolo, PHOTOS, at("{name}"), at("{stem}.txt"), {"classes.txt": "cat\ndog\n"}
    )
    cases.append(Case("yolo flat as labelImg writes it", flat, POOL))
    beside = {"labels/classes.txt": "cat\ndog\n"}
    build = partial(build_yolo, PHOTOS, at("images/{name}"), at("labels/{stem}.txt"), beside)
    cases.append(Case("yolo labelImg with two folders", build, POOL))

    above = {"boats.yaml": "path: boats\ntrain: images/train\nval: images/val\n" + NAMES}
    for path in ("boats", "../boats", "./boats", "/data/boats", "datasets/boats"):
        settings = {"boats.yaml": above["boats.yaml"].replace("path: boats", f"path: {path}")}
        build = partial(
            build_yolo,
            PHOTOS,
            at("boats/images/{split}/{name}"),
            at("boats/labels/{split}/{stem}.txt"),
            settings,
        )
        cases.append(Case(f"yolo yaml above its folder, path {path}", build, GIVEN))
    below = wrap(build_yolo(), "boats")
    cases.append(
        Case("yolo in a folder with a readme beside", lambda: {**below, "README.md": b"#"}, GIVEN)
    )
    return cases


def _make_splits() -> list[Case]:
    cases = []
    spellings = (
        ("Train", "Val", "Test"),
        ("TRAIN", "VALID", "TEST"),
        ("training", "validation", "testing"),
        ("train_set", "val_set", "test_set"),
        ("trainset", "valset", "testset"),
        ("01_train", "02_valid", "03_test"),
    )
    for spelling in spellings:
        names = dict(zip(("train", "val", "test"), spelling, strict=True))

        def name(template: str, names: dict[str, str] = names) -> Naming:
            return lambda photo: template.format(
                split=names[photo.split], name=photo.name, stem=photo.stem
            )

        for place, labels in (_STANDARD, _ROBOFLOW):
            build = partial(build_yolo, THREE, name(place), name(labels), NAMES)
            cases.append(Case(f"yolo splits {spelling} in {place}", build, expect(THREE)))

    lacking = NAMES + "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    build = partial(build_yolo, TRAIN, at(_ROBOFLOW[0]), at(_ROBOFLOW[1]), lacking)
    cases.append(Case("yolo Roboflow without valid", build, expect_any(TRAIN), told=("val|split",)))
    build = partial(build_yolo, [*TRAIN, *TEST], at(_ROBOFLOW[0]), at(_ROBOFLOW[1]), lacking)
    cases.append(
        Case(
            "yolo Roboflow with train and test",
            build,
            expect_any([*TRAIN, *TEST]),
            told=("val|split",),
        )
    )
    same = NAMES + "train: images/train\nval: images/train\n"
    build = partial(build_yolo, TRAIN, settings=same)
    shared = {split: expect(TRAIN)["train"] for split in ("train", "val")}
    cases.append(Case("yolo val is train", build, shared, ("val",), ("train",)))
    return cases


def _make_flat_labels_of_namesakes() -> Files:
    """Return one label file for two images of a name, in train and in val."""
    files = build_yolo(TRAIN, labels=at("labels/{stem}.txt"), settings=NAMES)
    return {**files, "images/val/p0.jpg": draw(50)}


def _make_others() -> list[Case]:
    base = build_yolo()
    extra: dict[str, Files] = {
        "caches": {"labels/train.cache": b"\x80\4", "labels/val.cache": b"\x80\4"},
        "Roboflow's readme": {
            "README.roboflow.txt": b"boats - v1",
            "README.dataset.txt": b"# boats\n",
        },
        "a requirements file": {"requirements.txt": b"ultralytics==8.2\n"},
        "macOS's files": {
            "labels/train/._p0.txt": b"\0\5",
            "images/train/._p0.jpg": b"\0\5",
            "labels/.DS_Store": b"\0",
        },
        "weights and runs": {
            "yolov8n.pt": b"PK",
            "runs/detect/train/results.csv": b"epoch\n",
            "runs/detect/train/args.yaml": b"epochs: 3\n",
        },
        "plots of a run": {"runs/detect/train/val_batch0_labels.jpg": draw(60)},
        "a COCO file of the same": {"instances.json": b'{"info": {}}'},
    }
    cases = [
        Case(f"yolo beside {name}", partial(dict, {**base, **files}), GIVEN)
        for name, files in extra.items()
    ]
    guess = {**base, "runs/detect/predict/labels/p0.txt": b"0 0.5 0.5 0.1 0.1 0.9\n"}
    cases.append(Case("yolo beside predictions of a run", lambda: guess, GIVEN, ("runs/detect",)))
    for stem in (
        "photo (1) {stem}",
        "a.b.{stem}",
        "été {stem} 图",
        "#{stem}",
        "100%{stem}",
        "{stem}_jpg.rf.0a1b2c",
        "images {stem}",
        "{stem}.jpg",
    ):
        build = partial(
            build_yolo,
            PHOTOS,
            at(f"images/{{split}}/{stem}.jpg"),
            at(f"labels/{{split}}/{stem}.txt"),
        )
        cases.append(Case(f"yolo names {stem!r}", build, GIVEN))
    cases.append(
        Case("yolo flat labels of namesakes", _make_flat_labels_of_namesakes, None, ("labels/p0",))
    )
    for suffix in (".JPG", ".jpeg", ".JPEG"):
        build = partial(_rename_suffix, suffix)
        cases.append(Case(f"yolo images {suffix}", build, GIVEN))
    return cases


def _rename_suffix(suffix: str) -> Files:
    return rename(build_yolo(), ".jpg", suffix)


YOLO_CASES = [
    *_make_layouts(),
    *_make_files(),
    *_make_splits(),
    *_make_others(),
]
