"""Knows the files of tools that detreg does not read, to say which export it does read."""

from dataclasses import dataclass

from detreg.data.formats.tree import FileTree

_HEAD = 64 << 10  # bytes
_MAX_FILES = 20


@dataclass(frozen=True)
class _ForeignFormat:
    """A format of a tool: all of the words, in capitals or not, are near the start of its files."""

    name: str
    suffix: str
    words: tuple[bytes, ...]
    advice: str


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
        "a table of boxes",
        ".csv",
        (b"xmin", b"ymin", b"xmax", b"ymax"),
        "convert it to COCO or Pascal VOC",
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
    for entry in _FORMATS:
        is_of_kind = path.lower().endswith(entry.suffix)
        if is_of_kind and all(word.lower() in head for word in entry.words):
            return f"{path} is {entry.name}, which is not read; {entry.advice}"
    return None
