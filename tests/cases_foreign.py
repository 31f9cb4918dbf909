"""Cases of files that are no detection dataset: refused, with the tool's name and how to export."""

from collections.abc import Callable
from functools import partial

from dataset_builders import (
    HEIGHT,
    PHOTOS,
    TRAIN,
    VAL,
    WIDTH,
    Document,
    Files,
    Photo,
    Thing,
    at,
    build_coco,
    build_yolo,
    draw,
    encode,
    make_coco,
    put_images,
    to_json,
)
from dataset_cases import Case
from dataset_readings import expect
from PIL import Image

_IMAGES = put_images(PHOTOS, at("{name}"))


def _for_each(make: Callable[[Photo], object], path: str = "{stem}.json") -> Files:
    """Return the images with a JSON document for each."""
    files = dict(_IMAGES)
    for photo in PHOTOS:
        files[at(path)(photo)] = to_json(make(photo))
    return files


def _with(path: str, content: object) -> Files:
    """Return the images with one file, JSON unless it is bytes."""
    return {**_IMAGES, path: content if isinstance(content, bytes) else to_json(content)}


def _make_labelme(photo: Photo) -> object:
    shapes: list[Document] = []
    for thing in photo.things:
        x1, y1, x2, y2 = thing.corners
        shape = {"label": thing.label, "points": [[x1, y1], [x2, y2]], "shape_type": "rectangle"}
        shapes.append({**shape, "group_id": None, "flags": {}})
    head = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": photo.name}
    return {**head, "imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH}


def _make_via(photo: Photo) -> dict[str, object]:
    regions = []
    for thing in photo.things:
        x1, y1, x2, y2 = thing.corners
        shape = {"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
        regions.append({"shape_attributes": shape, "region_attributes": {"class": thing.label}})
    return {"filename": photo.name, "size": 1234, "regions": regions, "file_attributes": {}}


def _make_via_project() -> object:
    images = {f"{photo.name}1234": _make_via(photo) for photo in PHOTOS}
    return {
        "_via_settings": {"project": {"name": "boats"}},
        "_via_img_metadata": images,
        "_via_attributes": {},
    }


def _make_label_studio(photo: Photo) -> object:
    results = []
    for thing in photo.things:
        x1, y1, x2, y2 = thing.corners
        value: Document = {
            "x": x1 / 1.2,
            "y": y1 / 0.8,
            "width": (x2 - x1) / 1.2,
            "height": (y2 - y1) / 0.8,
        }
        value = {**value, "rotation": 0, "rectanglelabels": [thing.label]}
        results.append({"type": "rectanglelabels", "original_width": WIDTH, "value": value})
    return {
        "id": photo.number,
        "data": {"image": f"/data/upload/1/{photo.name}"},
        "annotations": [{"result": results}],
    }


def _make_datumaro(photos: tuple[Photo, ...]) -> object:
    items = []
    for photo in photos:
        boxes = [
            {"id": 0, "type": "bbox", "label_id": number, "bbox": [*thing.corners]}
            for number, thing in enumerate(photo.things)
        ]
        items.append({"id": photo.stem, "annotations": boxes, "image": {"path": photo.name}})
    labels: list[Document] = [
        {"name": name, "parent": "", "attributes": []} for name in ("cat", "dog")
    ]
    return {
        "dm_format_version": "1.0",
        "info": {},
        "categories": {"label": {"labels": labels}},
        "items": items,
    }


def _make_supervisely(photo: Photo) -> object:
    objects = []
    for thing in photo.things:
        x1, y1, x2, y2 = thing.corners
        points = {"exterior": [[x1, y1], [x2, y2]], "interior": []}
        objects.append({"classTitle": thing.label, "geometryType": "rectangle", "points": points})
    return {
        "description": "",
        "tags": [],
        "size": {"height": HEIGHT, "width": WIDTH},
        "objects": objects,
    }


def _make_create_ml() -> object:
    entries = []
    for photo in PHOTOS:
        boxes = []
        for thing in photo.things:
            x1, y1, x2, y2 = thing.corners
            place = {"x": (x1 + x2) / 2, "y": (y1 + y2) / 2, "width": x2 - x1, "height": y2 - y1}
            boxes.append({"label": thing.label, "coordinates": place})
        entries.append({"image": photo.name, "annotations": boxes})
    return entries


def _make_cvat() -> bytes:
    lines = ["<?xml version='1.0' encoding='utf-8'?>", "<annotations><version>1.1</version>"]
    for photo in PHOTOS:
        lines.append(f'<image id="{photo.number}" name="{photo.name}" width="120" height="80">')
        for thing in photo.things:
            x1, y1, x2, y2 = thing.corners
            lines.append(
                f'<box label="{thing.label}" xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}"/>'
            )
        lines.append("</image>")
    return "\n".join([*lines, "</annotations>"]).encode()


def _make_table(head: str, row: Callable[[Photo, Thing], str]) -> bytes:
    rows = [row(photo, thing) for photo in PHOTOS for thing in photo.things]
    return "\n".join([head, *rows, ""]).encode()


def _corners(thing: Thing) -> str:
    return ",".join(f"{value:g}" for value in thing.corners)


_OPEN_IMAGES = _make_table(
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf",
    lambda photo, thing: f"{photo.stem},xclick,/m/0{thing.label},1,0.1,0.3,0.1,0.4,0,0,0",
)
_TENSORFLOW = _make_table(
    "filename,width,height,class,xmin,ymin,xmax,ymax",
    lambda photo, thing: f"{photo.name},120,80,{thing.label},{_corners(thing)}",
)
_RETINANET = _make_table("", lambda photo, thing: f"{photo.name},{_corners(thing)},{thing.label}")
_PANOPTIC = {
    "images": make_coco(PHOTOS)["images"],
    "annotations": [
        {
            "image_id": photo.number + 1,
            "file_name": f"{photo.stem}.png",
            "segments_info": [{"id": 1, "category_id": 1}],
        }
        for photo in PHOTOS
    ],
    "categories": [{"id": 1, "name": "cat", "isthing": 1}],
}
_CAPTIONS = {
    "images": make_coco(PHOTOS)["images"],
    "annotations": [
        {"id": photo.number, "image_id": photo.number + 1, "caption": "a cat"} for photo in PHOTOS
    ],
}
_RESULTS = [
    {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.9},
    {"image_id": 2, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.8},
]


def _make_kitti() -> Files:
    files = put_images(PHOTOS, at("image_2/{name}"))
    for photo in PHOTOS:
        files[f"label_2/{photo.stem}.txt"] = (
            b"Car 0.00 0 -1.57 614.24 181.78 727.31 284.77 1 1 1 1 1 1 1\n"
        )
    return files


def _make_mot() -> Files:
    files = put_images(PHOTOS, at("boats/img1/{name}"))
    return {
        **files,
        "boats/gt/gt.txt": b"1,1,10,10,30,30,1,1,1\n",
        "boats/seqinfo.ini": b"[Sequence]\n",
    }


def _make_classification() -> Files:
    return put_images(
        PHOTOS, lambda photo: f"{photo.split}/{'cat' if photo.number % 2 else 'dog'}/{photo.name}"
    )


def _make_masks() -> Files:
    files = put_images(PHOTOS, at("images/{name}"))
    for photo in PHOTOS:
        files[f"masks/{photo.stem}.png"] = encode(Image.new("L", (WIDTH, HEIGHT), 1), "PNG")
    return files


def _make_table_of(head: str) -> Callable[[], Files]:
    return partial(_with, "train.csv", f"{head}\n".encode())


# Files by their words: the folder or file that is named, what is in it, and the tool.
_MORE: dict[str, tuple[str, object, str]] = {
    "VoTT": (
        "vott/1-asset.json",
        {"asset": {"name": "p0.jpg"}, "regions": [{"boundingBox": {"left": 1}}]},
        "VoTT",
    ),
    "BDD100K": ("det_train.json", [{"name": "p0.jpg", "labels": [{"box2d": {"x1": 1}}]}], "BDD"),
    "Labelbox": ("export.json", [{"ID": "a", "Labeled Data": "p0.jpg", "Label": {}}], "Labelbox"),
    "Labelbox's lines": ("export.ndjson", {"data_row": {"id": "a"}}, "Labelbox"),
    "V7": ("p0.json", {"item": {}, "annotations": [{"bounding_box": {"h": 1}}]}, "V7"),
    "Hugging Face": ("metadata.jsonl", {"file_name": "p0.jpg", "objects": {}}, "Hugging Face"),
    "Ground Truth": ("output.manifest", {"source-ref": "s3://b/p0.jpg"}, "Ground Truth"),
    "DOTA": ("labelTxt/p0.txt", b"10 10 50 10 50 60 10 60 plane 0\n", "DOTA"),
    "KITTI by its folder": ("label_2/p0.txt", b"Car 0.00 0 -1.57 614 181 727 284\n", "KITTI"),
    "VIA's table": ("via.csv", b"filename,region_shape_attributes\np0.jpg,{}\n", "VIA"),
    "tabs": ("labels.tsv", b"filename\txmin\tymin\txmax\tymax\n", "table"),
}
_TABLES = (
    "image_id,width,height,bbox,source",
    "filename,x_min,y_min,x_max,y_max,label",
    "image,x1,y1,x2,y2,class",
    "image_name,x,y,w,h,label",
)


# What the message must say: the tool or format, and what to do.
_EXPORT = "export|convert"
_FOREIGN: dict[str, tuple[Callable[[], Files], tuple[str, ...]]] = {
    "labelme": (partial(_for_each, _make_labelme), ("labelme", _EXPORT)),
    "labelme in a folder": (
        partial(_for_each, _make_labelme, "labels/{stem}.json"),
        ("labelme", _EXPORT),
    ),
    "labelme per split": (
        partial(_for_each, _make_labelme, "{split}/{stem}.json"),
        ("labelme", _EXPORT),
    ),
    "one labelme file": (partial(_with, "p0.json", _make_labelme(PHOTOS[0])), ("labelme", _EXPORT)),
    "VIA's project": (
        partial(_with, "via_project.json", _make_via_project()),
        ("VIA|VGG", _EXPORT),
    ),
    "VIA's regions": (
        partial(
            _with,
            "via_region_data.json",
            {f"{photo.name}1234": _make_via(photo) for photo in PHOTOS},
        ),
        ("VIA|VGG", _EXPORT),
    ),
    "Label Studio's JSON": (
        partial(_with, "project-1.json", [_make_label_studio(photo) for photo in PHOTOS]),
        ("Label Studio", _EXPORT),
    ),
    "Datumaro": (
        partial(_with, "annotations/default.json", _make_datumaro(PHOTOS)),
        ("Datumaro", _EXPORT),
    ),
    "Datumaro in splits": (
        lambda: {
            **_IMAGES,
            "annotations/train.json": to_json(_make_datumaro(TRAIN)),
            "annotations/val.json": to_json(_make_datumaro(VAL)),
        },
        ("Datumaro", _EXPORT),
    ),
    "Supervisely": (
        lambda: {
            **{f"ds0/img/{path}": content for path, content in _IMAGES.items()},
            **{f"ds0/ann/{photo.name}.json": to_json(_make_supervisely(photo)) for photo in PHOTOS},
            "meta.json": to_json({"classes": [{"title": "cat", "shape": "rectangle"}], "tags": []}),
        },
        ("Supervisely", _EXPORT),
    ),
    "CreateML": (
        partial(_with, "_annotations.createml.json", _make_create_ml()),
        ("CreateML", _EXPORT),
    ),
    "CVAT for images": (partial(_with, "annotations.xml", _make_cvat()), ("CVAT", _EXPORT)),
    "Open Images": (partial(_with, "train-annotations-bbox.csv", _OPEN_IMAGES), ("CSV", _EXPORT)),
    "TensorFlow's table": (partial(_with, "_annotations.csv", _TENSORFLOW), ("CSV", _EXPORT)),
    "RetinaNet's table": (partial(_with, "annotations.csv", _RETINANET), ("CSV", _EXPORT)),
    "TFRecord": (partial(_with, "cats.tfrecord", b"\x18\0\0\0"), ("TFRecord", _EXPORT)),
    "panoptic": (partial(_with, "panoptic_train.json", _PANOPTIC), ("panoptic",)),
    "captions": (
        partial(_with, "annotations/captions_train.json", _CAPTIONS),
        ("captions_train.json",),
    ),
    "COCO's results": (partial(_with, "predictions.json", _RESULTS), ("predictions.json",)),
    "KITTI": (_make_kitti, ("YOLO|label",)),
    "MOT": (_make_mot, ("no dataset|MOT",)),
    "classification": (_make_classification, ("classification|no annotation|no dataset",)),
    "masks only": (_make_masks, ("mask|no annotation|no dataset",)),
    "images only": (lambda: dict(_IMAGES), ("no annotation|no dataset",)),
    "an empty folder": (lambda: {"README.md": b"soon"}, ("no dataset",)),
    "annotations only": (lambda: {"train.json": to_json(make_coco(TRAIN))}, ("missing|no image",)),
    "an XML of another kind": (
        partial(_with, "pom.xml", b"<project/>"),
        ("no dataset|annotation",),
    ),
    "a LICENSE and text": (
        partial(_with, "notes.txt", b"0.5 1 2\n"),
        ("no dataset|no annotation",),
    ),
}


def _make_two() -> list[Case]:
    """Return datasets that have their annotations in two formats: both tell the same."""
    both = {**build_coco(), **build_yolo()}
    voc_words = ("YOLO", "COCO")
    other = {
        **build_yolo(),
        "annotations/train.json": to_json(make_coco(TRAIN[:1])),
        "p9.jpg": draw(9),
    }
    return [
        Case("two formats that agree", lambda: both, expect(), voc_words),
        Case("two formats that differ", lambda: other, expect(), voc_words),
    ]


FOREIGN_CASES = [
    *(Case(f"foreign {name}", build, refused=words) for name, (build, words) in _FOREIGN.items()),
    *_make_two(),
    *(
        Case(f"foreign {name}", partial(_with, path, content), refused=(word, _EXPORT))
        for name, (path, content, word) in _MORE.items()
    ),
    *(
        Case(f"foreign table {head}", _make_table_of(head), refused=("table", _EXPORT))
        for head in _TABLES
    ),
]
