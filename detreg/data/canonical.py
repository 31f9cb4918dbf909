"""The canonical copy of a dataset: one COCO file per split, which training and scoring read.

Canonical means: image ids 1, 2, ... in the order of the images' paths; category ids 1, 2, ... in
the order of the classes, the same in every split; boxes that lie inside their image; and
`file_name` the absolute path of the image where the user keeps it. Images are not copied.

With masks, an annotation has a `segmentation` in pixels inside its image, polygons or a compressed
run-length code, unless its object has no mask. The area is that of the same copy without masks.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from detreg.data.boxes import Box
from detreg.data.formats.coco_entries import (
    CocoEntry,
    make_annotation,
    make_categories,
    make_image_entry,
    make_segmentation,
)
from detreg.data.formats.coco_segmentation import parse_segmentation
from detreg.data.images import DatasetImage
from detreg.data.outlines import Outline
from detreg.files import write_atomically


def write_canonical_copy(
    folder: Path, classes: Sequence[str], splits: Mapping[str, Sequence[DatasetImage]]
) -> dict[str, Path]:
    """Write the file of each split into `folder` and return their paths by split.

    Each file appears whole: another training on the same dataset never reads half of it.
    """
    paths = {}
    # The folder is named by the digest and the paths, so a file that is there already has the same
    # content; it is written again because a user may have changed or removed it.
    for name, images in splits.items():
        path = folder / f"{name}.json"
        document = _make_document(images, classes)
        with write_atomically(path) as file:
            file.write(json.dumps(document).encode())
        paths[name] = path
    return paths


def read_canonical_copy(path: Path) -> tuple[DatasetImage, ...]:
    """Return the images of a split's file with their boxes; it holds no hashes, so those are empty.

    Raises OSError where the file is gone.
    """
    document = json.loads(path.read_text())
    names = {category["id"]: category["name"] for category in document["categories"]}
    boxes: dict[int, list[Box]] = {image["id"]: [] for image in document["images"]}
    masks: dict[int, list[Outline | None]] = {image["id"]: [] for image in document["images"]}
    has_masks = any("segmentation" in annotation for annotation in document["annotations"])
    for annotation in document["annotations"]:
        x, y, width, height = annotation["bbox"]
        box = Box(
            corners=(x, y, x + width, y + height),
            label=names[annotation["category_id"]],
            crowd=bool(annotation["iscrowd"]),
            area=annotation["area"],
        )
        boxes[annotation["image_id"]].append(box)
        masks[annotation["image_id"]].append(parse_segmentation(annotation.get("segmentation")))

    images = []
    for entry in document["images"]:
        path = Path(entry["file_name"])
        found = tuple(boxes[entry["id"]])
        found_masks = tuple(masks[entry["id"]]) if has_masks else ()
        images.append(DatasetImage(path, entry["width"], entry["height"], "", found, found_masks))
    return tuple(images)


def _make_document(
    images: Sequence[DatasetImage], classes: Sequence[str]
) -> dict[str, list[CocoEntry]]:
    """Return the content of one split's file."""
    category_ids = {label: number for number, label in enumerate(classes, start=1)}
    image_entries: list[CocoEntry] = []
    annotations: list[CocoEntry] = []

    # Images arrive sorted by path, so ids do not depend on how a file or a folder lists them.
    for image_id, image in enumerate(images, start=1):
        entry = make_image_entry(image_id, str(image.path), image.width, image.height)
        image_entries.append(entry)
        masks = image.masks or (None,) * len(image.boxes)
        for box, mask in zip(image.boxes, masks, strict=True):
            annotation_id = len(annotations) + 1
            category_id = category_ids[box.label]
            annotation = make_annotation(annotation_id, image_id, category_id, box)
            if mask is not None:
                annotation["segmentation"] = make_segmentation(mask)
            annotations.append(annotation)

    return {
        "images": image_entries,
        "annotations": annotations,
        "categories": make_categories(classes),
    }
