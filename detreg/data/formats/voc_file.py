"""Parses and writes the XML file of one image of Pascal VOC.

VOC's own images count pixels from 1 and include the last one; most tools that write VOC files
today count from 0, and nothing in a file says which. The four numbers are therefore taken as they
are, as MMDetection's XMLDataset does, and at worst a box is off by one pixel.
"""

import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

from detreg.data.boxes import Box, Corners
from detreg.data.findings import BadEntryError, FindingKind, ProblemCollector
from detreg.data.formats.flags import UNSPECIFIED_MESSAGE, parse_flag
from detreg.data.formats.lookup import MISSING_SIZE_MESSAGE, ImageLocator
from detreg.data.formats.rotation import ROTATION_KEY, warn_of_rotation
from detreg.data.images import AnnotatedImage
from detreg.data.raw import ImageRecord
from detreg.documents import MAX_XML_BYTES, parse_xml
from detreg.errors import quote, shorten
from detreg.files import IMAGE_SUFFIXES, read_regular

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_MIN_POINTS = 3


def read_annotation_file(
    path: Path, source: str, locator: ImageLocator, problems: ProblemCollector
) -> ImageRecord:
    """Return the record of one XML file.

    source: the path of the file relative to the dataset's folder.

    Raises BadEntryError where the file as a whole cannot be used.
    """
    root = parse_document(path)

    boxes = []
    for number, element in enumerate(root.iter("object"), start=1):
        name = f"object {number}"
        where = f"{source} {name}"
        with problems.catch_bad_entry(where):
            box = parse_box(element, name, where, problems)
            is_difficult = parse_flag(
                element.findtext("difficult"), f"(class {box.label}) difficult"
            )
            if is_difficult is None:
                problems.add_repair(
                    FindingKind.UNSPECIFIED_FLAG, f"{source} {box.where}", UNSPECIFIED_MESSAGE
                )
            boxes.append(replace(box, crowd=bool(is_difficult)))
            warn_of_rotation(_find_rotation(element), f"{source} {box.where}", problems)

    width = parse_size(root, "width")
    height = parse_size(root, "height")
    if width is None or height is None:
        problems.add_repair(FindingKind.MISSING_SIZE, source, MISSING_SIZE_MESSAGE)

    # The XML file's own name comes first: <filename> is often that of an image renamed since.
    stated_name = (root.findtext("filename") or "").strip() or _guess_image_name(path.stem)
    image = locator.locate_stem(path.stem, stated_name, source)
    if image is None:
        image = locator.locate(stated_name)
    return ImageRecord(image, source, tuple(boxes), width, height)


def write_annotation_file(path: Path, image: AnnotatedImage) -> None:
    """Write the XML file of an image; crowd regions become difficult objects."""
    root = ET.Element("annotation")
    ET.SubElement(root, "filename").text = image.file_name

    size = ET.SubElement(root, "size")
    ET.SubElement(size, "width").text = str(image.width)
    ET.SubElement(size, "height").text = str(image.height)
    ET.SubElement(size, "depth").text = "3"

    for box in image.boxes:
        element = ET.SubElement(root, "object")
        ET.SubElement(element, "name").text = box.label
        ET.SubElement(element, "difficult").text = str(int(box.crowd))
        corners = ET.SubElement(element, "bndbox")
        for key, value in zip(_CORNERS, box.corners, strict=True):
            ET.SubElement(corners, key).text = f"{value:.10g}"

    tree = ET.ElementTree(root)
    ET.indent(tree)
    tree.write(path, encoding="utf-8")


def parse_document(path: Path) -> ET.Element:
    """Return the root element of the file."""
    root = parse_xml(read_regular(path, MAX_XML_BYTES))
    if root.tag != "annotation":
        raise BadEntryError(
            FindingKind.MALFORMED_FILE,
            f"the file holds <{shorten(root.tag)}> and no <annotation>; export it as Pascal VOC",
        )
    return root


def _guess_image_name(stem: str) -> str:
    """Return the name of the image of an XML file that states none: p0.jpg for p0 and p0.jpg."""
    return stem if stem.lower().endswith(IMAGE_SUFFIXES) else f"{stem}.jpg"


def parse_size(root: ET.Element, key: str) -> int | None:
    """Return the stated width or height in pixels, None where it is missing or zero."""
    text = (root.findtext(f"size/{key}") or "0").strip()
    try:
        return round(float(text)) or None
    except (ValueError, OverflowError) as error:
        raise BadEntryError(
            FindingKind.MALFORMED_ENTRY,
            f"{key} {quote(text)} is not a number; correct or remove it",
        ) from error


def parse_box(element: ET.Element, name: str, where: str, problems: ProblemCollector) -> Box:
    """Return the box of an object, in pixels, without its flags; around its polygon without one."""
    # Blanks and line breaks around it come from how the file was indented.
    label = (element.findtext("name") or "").strip()
    box_where = f"{name} (class {label})"
    if element.find("bndbox") is None:
        corners = _bound_polygon(element)
        if corners is None:
            others = [child.tag for child in element if len(child)]
            found = f", but <{shorten(others[0])}>" if others else ""
            raise BadEntryError(
                FindingKind.INVALID_BOX,
                f"(class {label}) has no <bndbox>{found}; export upright boxes, with xmin, ymin, "
                "xmax and ymax in pixels",
            )
        problems.add_repair(
            FindingKind.MISSING_BOX, where, "missing bndbox computed from the polygon"
        )
        return Box(corners, label, where=box_where)

    texts = [element.findtext(f"bndbox/{key}") for key in _CORNERS]
    try:
        x1, y1, x2, y2 = (float(text or "") for text in texts)
    except ValueError as error:
        raise BadEntryError(
            FindingKind.INVALID_BOX,
            f"(class {label}) bndbox {quote(texts)} is not four numbers; "
            "write xmin, ymin, xmax and ymax in pixels",
        ) from error
    return Box((x1, y1, x2, y2), label, where=box_where)


def _bound_polygon(element: ET.Element) -> Corners | None:
    """Return the corners of the box around `<polygon>`, None without one."""
    points = parse_points(element)
    if points is None:
        return None
    xs, ys = points[::2], points[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def parse_points(element: ET.Element) -> list[float] | None:
    """Return the points x1, y1, x2, ... of the `<polygon>` of an object, None without one."""
    values: dict[str, list[float]] = {"x": [], "y": []}
    for point in element.iterfind("polygon/*"):
        axis = point.tag[:1]
        if axis not in values or not point.tag[1:].isdecimal():
            return None
        try:
            values[axis].append(float(point.text or ""))
        except ValueError:
            return None

    xs, ys = values["x"], values["y"]
    if len(xs) != len(ys) or len(xs) < _MIN_POINTS or not all(map(math.isfinite, [*xs, *ys])):
        return None
    points = zip(xs, ys, strict=True)
    return [value for point in points for value in point]


def _find_rotation(element: ET.Element) -> str | None:
    """Return the rotation that CVAT writes among the attributes of an object, None without one."""
    for attribute in element.iterfind("attributes/attribute"):
        if (attribute.findtext("name") or "").strip() == ROTATION_KEY:
            return attribute.findtext("value")
    return None
