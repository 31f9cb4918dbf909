"""Knows the files of tools that detreg does not read, to say which export it does read."""

from dataclasses import dataclass

from detreg.data.formats.tree import FileTree

_HEAD = 64 << 10  # bytes
_MAX_FILES = 20


@dataclass(frozen=True)
class _ForeignFormat:
    """A format of a tool.

    words: all of them, in capitals or not, are near the start of its files.
    folders: one of them, in lower case, is in the paths of its files, where nothing else tells.
    """

    name: str
    suffix: str
    words: tuple[bytes, ...]
    advice: str
    folders: tuple[str, ...] = ()


_FORMATS = (
    _ForeignFormat(
        "labelme's own JSON",
        ".json",
        (b'"shapes"', b'"imagePath"'),
        "convert it with labelme's examples/bbox_detection/labelme2voc.py or labelme2coco.py",
    ),
    _ForeignFormat(
        "VIA's own project",
        ".json",
        (b'"regions"', b'"shape_attributes"'),
        "export it from VIA by Annotation > Export Annotations (COCO format)",
    ),
    _ForeignFormat(
        "Label Studio's own JSON",
        ".json",
        (b'"annotations"', b'"result"'),
        "export it from Label Studio as COCO or YOLO with images",
    ),
    _ForeignFormat(
        "Create ML's JSON",
        ".json",
        (b'"annotations"', b'"coordinates"'),
        "export it as COCO",
    ),
    _ForeignFormat(
        "Datumaro's own JSON",
        ".json",
        (b'"categories"', b'"labels"', b'"items"'),
        "export it as COCO: datum convert -i . -if datumaro -f coco_instances -- --save-media",
    ),
    _ForeignFormat(
        "Supervisely's own JSON",
        ".json",
        (b'"classTitle"', b'"objects"'),
        "export it from Supervisely as COCO or Pascal VOC",
    ),
    _ForeignFormat(
        "CVAT's own XML",
        ".xml",
        (b"<annotations>", b"<image "),
        "export it from CVAT as COCO 1.0, with images",
    ),
    _ForeignFormat(
        "CVAT's XML of tracks in a video",
        ".xml",
        (b"<annotations>", b"<track "),
        "export it from CVAT as COCO 1.0, with images",
    ),
    _ForeignFormat(
        "MOTChallenge's description of tracks",
        ".ini",
        (b"[Sequence]", b"seqLength"),
        "convert the boxes to COCO",
    ),
    _ForeignFormat(
        "VoTT's own JSON",
        ".json",
        (b'"asset"', b'"regions"', b'"boundingBox"'),
        "export it from VoTT as Pascal VOC",
    ),
    _ForeignFormat(
        "BDD100K's (Scalabel's) JSON",
        ".json",
        (b'"labels"', b'"box2d"'),
        "convert it with bdd100k.label.to_coco",
    ),
    _ForeignFormat(
        "Labelbox's own JSON",
        ".json",
        (b'"Labeled Data"',),
        "export it as COCO, by the Labelbox SDK",
    ),
    _ForeignFormat(
        "Labelbox's own JSON",
        ".ndjson",
        (b'"data_row"',),
        "export it as COCO, by the Labelbox SDK",
    ),
    _ForeignFormat(
        "V7 Darwin's own JSON",
        ".json",
        (b'"bounding_box"', b'"annotations"'),
        "export it from V7 as COCO or Pascal VOC",
    ),
    _ForeignFormat(
        "Hugging Face's table of objects",
        ".jsonl",
        (b'"file_name"', b'"objects"'),
        "convert it to COCO",
    ),
    _ForeignFormat(
        "a manifest of SageMaker Ground Truth",
        ".manifest",
        (b'"source-ref"',),
        "convert it to COCO",
    ),
    _ForeignFormat(
        "VIA's own table",
        ".csv",
        (b"region_shape_attributes",),
        "export it from VIA by Annotation > Export Annotations (COCO format)",
    ),
    *(
        _ForeignFormat("a table of boxes", suffix, words, "convert it to COCO or Pascal VOC")
        for suffix in (".csv", ".tsv")
        for words in (
            (b"xmin", b"ymin", b"xmax", b"ymax"),
            (b"x_min", b"y_min", b"x_max", b"y_max"),
            (b"x1", b"y1", b"x2", b"y2"),
            (b"image", b"bbox"),
            (b"image", b"width", b"height", b"x,", b"y,"),
            (b"image", b",x,y,w,h"),
        )
    ),
    _ForeignFormat(
        "a label file of DOTA's oriented boxes, by its folder",
        ".txt",
        (),
        "convert it to YOLO's oriented boxes, by convert_dota_to_yolo_obb of Ultralytics",
        folders=("labeltxt", "labeltxt-v1.0", "labeltxt-v1.5"),
    ),
    _ForeignFormat(
        "a label file of KITTI, by its folder",
        ".txt",
        (),
        "convert it to YOLO or COCO",
        folders=("label_2",),
    ),
)


def find_foreign_format(tree: FileTree) -> str | None:
    """Return what files of another tool are and how to export them, None where there are none."""
    for suffix in {entry.suffix: None for entry in _FORMATS}:
        for path in tree.select(suffix)[:_MAX_FILES]:
            description = describe_foreign_file(tree, path)
            if description is not None:
                return description
    return None


def describe_foreign_file(tree: FileTree, path: str) -> str | None:
    """Return what a file of another tool is and how to export it, None for any other file."""
    head = tree.read_head(path, _HEAD).lower()
    parts = set(path.lower().split("/"))
    for entry in _FORMATS:
        is_of_kind = path.lower().endswith(entry.suffix)
        is_there = not entry.folders or not parts.isdisjoint(entry.folders)
        if is_of_kind and is_there and all(word.lower() in head for word in entry.words):
            return f"{path} is {entry.name}, which is not read; {entry.advice}"
    return None
