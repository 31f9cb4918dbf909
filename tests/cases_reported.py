"""The kinds that exports and bug reports were handed in as, each built here in a small way.

E: must be refused. W: must be read. O: must be read, and mentioned.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from cases_coco import COCO_CASES
from cases_coco_values import COCO_VALUE_CASES
from cases_foreign import FOREIGN_CASES
from cases_images import IMAGE_CASES
from cases_voc import VOC_CASES
from cases_voc_values import VOC_VALUE_CASES
from cases_yolo import YOLO_CASES
from cases_yolo_labels import YOLO_LABEL_CASES
from cases_yolo_lists import YOLO_LIST_CASES
from dataset_builders import (
    PHOTOS,
    TRAIN,
    Document,
    Files,
    Photo,
    at,
    build_coco,
    build_voc,
    build_yolo,
    make_labels,
    make_voc,
    rename,
)
from dataset_cases import Case
from dataset_readings import expect, expect_any

GIVEN = expect()
POOL = expect_any()

_GROUPS = (
    COCO_CASES,
    COCO_VALUE_CASES,
    VOC_CASES,
    VOC_VALUE_CASES,
    YOLO_CASES,
    YOLO_LIST_CASES,
    YOLO_LABEL_CASES,
    FOREIGN_CASES,
    IMAGE_CASES,
)
_BUILT = {case.id: case for cases in _GROUPS for case in cases}
_MEDIA = "..\\..\\label-studio\\media\\upload\\4\\{name}"
_NESTED = "voc {split}/annotations/{stem}.xml with {split}/images/{name}"
_IN_SPLITS = "images/{split}/{name}"

# The kind, and the case that is one of it.
_SAME_AS = {
    "E_coco_5000_digits": "coco of 5000 digits",
    "E_coco_class_only_in_val": "coco a class only in val",
    "E_coco_corners_as_bbox": "coco corners as bbox",
    "E_coco_empty_bbox": "coco empty bbox",
    "E_coco_lvis_no_file_name": "coco LVIS's coco_url",
    "E_exif_unturned_frame": "image unturned JPEG",
    "E_labelme_json_per_picture": "foreign labelme",
    "E_makesense_yolo_no_names": "yolo makesense without names",
    "E_picture_float_tiff": "image float TIFF",
    "E_via_project_json": "foreign VIA's regions",
    "E_yaml_deep": "yolo deep YAML",
    "E_yaml_two_documents": "yolo two documents",
    "E_yolo_commas": "yolo commas",
    "E_yolo_conf_6_columns": "yolo confidences",
    "E_yolo_decimal_commas": "yolo decimal commas",
    "E_yolo_one_based": "yolo classes from one",
    "E_yolo_orphan_labels_roboflow_layout": "yolo label without image {split}/labels/{stem}.txt",
    "E_yolo_pose_2d": "yolo pose of two",
    "E_yolo_track_7_columns": "yolo tracks",
    "E_yolo_utf16_labels": "yolo UTF-16",
    "O_gradual_duplicates_told": "told saved again in val",
    "O_voc_unlisted_xml_told": "voc xml that no list names",
    "O_yolo_obb_told": "yolo oriented boxes",
    "W_coco_category_order_differs": "coco sparse categories",
    "W_coco_crowd_rle": "coco crowd region as RLE",
    "W_coco_extension_case": "coco with upper extensions",
    "W_coco_float_ids": "coco ids as whole floats",
    "W_coco_iscrowd_float": "coco iscrowd 1.0",
    "W_coco_one_json_images_in_split_folders": f"coco annotations.json for all with {_IN_SPLITS}",
    "W_coco_segmentation_only": "coco segmentation only",
    "W_coco_val_JSON_upper_case": f"coco annotations/{{split}}.JSON with {_IN_SPLITS}",
    "W_cvat_coco10": "coco annotations/instances_default.json for all with images/{name}",
    "W_cvat_voc11_default": "voc lists of default",
    "W_cvat_yolo11": "yolo CVAT 1.1",
    "W_exif_turned_frame": "image turned JPEG",
    "W_exif_turned_png": "image turned PNG",
    "W_fiftyone_coco": "coco labels.json for all with images/{name}",
    "W_labelimg_voc_flat": "voc {stem}.xml with {name}",
    "W_labelstudio_coco": "coco result.json for all with images/{name}",
    "W_labelstudio_coco_media_path": f"coco file_name {_MEDIA} for all",
    "W_leak_exact": "told the same in train and val",
    "W_ultralytics_absolute_txt": f"yolo list line '/content/drive/MyDrive/boats/{_IN_SPLITS}'",
    "W_voc_folder_per_split_nested": _NESTED,
    "W_voc_mask_beside_images": "voc masks in SegmentationClass",
    "W_voc_names_with_spaces": "voc names 'photo (1) {stem}'",
    "W_voc_train_valid_lists": "voc lists ('train', 'valid', 'test')",
    "W_yolo_polygons_mixed": "yolo polygons and boxes",
    "W_zip_with_readme_beside_folder": "coco in a zip with a readme around",
}


def _refer(kind: str, name: str) -> Case:
    return replace(_BUILT[name], id=kind)


def _text_ids(document: Document) -> None:
    """Write ids of images in annotations as text, as VIA does."""
    for entry in document["annotations"]:
        entry["image_id"] = str(entry["image_id"])


def _add_project(document: Document) -> None:
    """Add what Roboflow's COCO has: a category for the project, counted from 0."""
    document["categories"].insert(0, {"id": 0, "name": "boats", "supercategory": "none"})
    for category in document["categories"][1:]:
        category["supercategory"] = "boats"
    for entry in document["images"]:
        entry["extra"] = {"name": "x"}


def _write_bom(photo: Photo) -> bytes:
    text = make_labels(photo).replace(b"0 0.", b"0.0 0.", 1)
    return b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n")


def _write_floats(photo: Photo) -> bytes:
    return make_voc(photo).replace(b"</xmin>", b".00</xmin>").replace(b".jpg", b".PNG")


def _write_difficult(photo: Photo) -> bytes:
    words = ("Unspecified", "no", "0.0")
    return make_voc(photo, difficult=words[photo.number % 3])


def _bomb() -> str:
    """Return YAML whose names are made of aliases of aliases."""
    lines = ["a: &a [x,x,x,x,x,x,x,x,x,x]"]
    for old, new in zip("abcdef", "bcdefg", strict=True):
        lines.append(f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]")
    return "\n".join([*lines, "names: [*g, dog]", "train: images/train", "val: images/val"])


_KINDS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_EACH_KIND = tuple(replace(photo, kind=_KINDS[photo.number % 5]) for photo in PHOTOS)
_PNG = tuple(replace(photo, kind="PNG") for photo in PHOTOS)

_VOC_YAML = """path: /content/datasets/VOC
train:
  - images/train2012
  - images/train2007
val:
  - images/test2007
test:
  - images/test2007
names:
  0: cat
  1: dog
"""


def _build_yaml_lists() -> Files:
    def folder(photo: Photo) -> str:
        return "test2007" if photo.split == "val" else f"train{2007 + photo.number % 2 * 5}"

    return build_yolo(
        PHOTOS,
        lambda photo: f"images/{folder(photo)}/{photo.name}",
        lambda photo: f"labels/{folder(photo)}/{photo.stem}.txt",
        {"VOC.yaml": _VOC_YAML},
    )


def _build_label_studio() -> Files:
    notes = {
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
        "info": {"year": 2024},
    }
    settings = {"classes.txt": "cat\ndog\n", "notes.json": json.dumps(notes)}
    return build_yolo(PHOTOS, at("images/{name}"), at("labels/{stem}.txt"), settings)


def _build_cvat(prefix: str) -> Files:
    settings = {
        "data.yaml": "names:\n  0: cat\n  1: dog\npath: .\ntrain: train.txt\nval: val.txt\n"
    }
    files = build_yolo(settings=settings)
    for split in ("train", "val"):
        lines = [
            f"{prefix}images/{split}/{photo.name}\n" for photo in PHOTOS if photo.split == split
        ]
        files[f"{split}.txt"] = "".join(lines).encode()
    return files


_ROBOFLOW = """train: ../train/images
val: ../valid/images
test: ../test/images

nc: 2
names: ['cat', 'dog']
"""


def _build_roboflow(photos: tuple[Photo, ...] = PHOTOS) -> Files:
    names = (
        at("{split}/images/{stem}_jpg.rf.0a1b.jpg"),
        at("{split}/labels/{stem}_jpg.rf.0a1b.txt"),
    )
    files = rename(build_yolo(photos, *names, _ROBOFLOW), "val/", "valid/")
    return {**files, "README.roboflow.txt": b"boats\n", "README.dataset.txt": b"# boats\n"}


_SPACED = "{stem} \u00e9t\u00e9 \u56fe"
_WITH_PATH = partial(
    make_voc, extra="<folder>x</folder><source><database>Unknown</database></source>"
)
_FIFTYONE = """names:
  0: cat
  1: dog
path: /home/someone/export
train: ./images/train/
val: ./images/val/
"""
_both = {**GIVEN, "test": GIVEN["val"]}

_OWN: dict[str, tuple[Callable[[], Files], object]] = {
    "W_coco_subfolder_names": (
        partial(build_coco, place=at("{split}/cam1/{name}"), name=at("cam1/{name}")),
        GIVEN,
    ),
    "W_cvat_ultralytics_yolo": (partial(_build_cvat, ""), GIVEN),
    "W_cvat_ultralytics_yolo_dataprefix": (partial(_build_cvat, "data/"), GIVEN),
    "W_fiftyone_yolov5": (partial(build_yolo, settings={"dataset.yaml": _FIFTYONE}), GIVEN),
    "W_labelstudio_voc": (
        partial(build_voc, place=at("images/{name}"), lists=None, xml=_WITH_PATH),
        POOL,
    ),
    "W_labelstudio_yolo": (_build_label_studio, POOL),
    "W_pictures_of_all_kinds": (
        partial(build_coco, _EACH_KIND, "annotations.json", at("images/{name}")),
        expect_any(_EACH_KIND),
    ),
    "W_roboflow_coco": (
        lambda: rename(
            build_coco(
                PHOTOS, "{split}/_annotations.coco.json", at("{split}/{name}"), change=_add_project
            ),
            "val/",
            "valid/",
        ),
        GIVEN,
    ),
    "W_roboflow_yolov8": (_build_roboflow, GIVEN),
    "W_roboflow_yolov8_only_train": (partial(_build_roboflow, TRAIN), expect_any(TRAIN)),
    "W_ultralytics_yaml_lists": (_build_yaml_lists, _both),
    "W_via_coco_string_ids": (
        partial(build_coco, PHOTOS, "via_export_coco.json", at("{name}"), change=_text_ids),
        POOL,
    ),
    "W_voc_difficult_words": (partial(build_voc, lists=None, xml=_write_difficult), POOL),
    "W_voc_floats_png_uppercase": (
        lambda: rename(build_voc(_PNG, xml=_write_floats), ".png", ".PNG"),
        expect(_PNG),
    ),
    "W_yolo_bom_crlf_float_class": (partial(build_yolo, text=_write_bom), GIVEN),
    "W_yolo_uppercase_JPG_unicode_space": (
        partial(
            build_yolo,
            PHOTOS,
            at(f"images/{{split}}/{_SPACED}.JPG"),
            at(f"labels/{{split}}/{_SPACED}.txt"),
        ),
        GIVEN,
    ),
}

REPORTED_CASES = [
    *(_refer(kind, name) for kind, name in _SAME_AS.items()),
    *(Case(kind, build, splits) for kind, (build, splits) in _OWN.items()),  # type: ignore[arg-type]
    Case(
        "E_yaml_alias_bomb", partial(build_yolo, settings=_bomb()), refused=("data.yaml", "names")
    ),
]
assert len(REPORTED_CASES) == 65
