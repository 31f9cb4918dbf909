"""Parses and writes the XML file of one image of Pascal VOC.

VOC's own images count pixels from 1 and include the last one; most tools that write VOC files
today count from 0, and nothing in a file says which. The four numbers are therefore taken as they
are, as MMDetection's XMLDataset does, and at worst a box is off by one pixel.
"""

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

from detreg.data.boxes import Box
from detreg.data.findings import BadEntryError, FindingKind, ProblemCollector
from detreg.data.formats.flags import UNSPECIFIED_MESSAGE, parse_flag
from detreg.data.formats.lookup import MISSING_SIZE_MESSAGE, ImageLocator
from detreg.data.images import AnnotatedImage
from detreg.data.raw import ImageRecord
from detreg.documents import MAX_XML_BYTES, parse_xml
from detreg.errors import quote, shorten
from detreg.files import IMAGE_SUFFIXES, read_regular

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_annotation_file(
    path: Path, source: str, locator: ImageLocator, problems: ProblemCollector
) -> ImageRecord:
    """Return the record of one XML file.

    source: the path of the file relative to the dataset's folder.

    Raises BadEntryError where the file as a whole cannot be used.
    """
    root = _parse_document(path)

    boxes = []
    for number, element in enumerate(root.iter("object"), start=1):
        name = f"object {number}"
        with problems.catch_bad_entry(f"{source} {name}"):
            box = _parse_box(element, name)
            is_difficult = parse_flag(
                element.findtext("difficult"), f"(class {box.label}) difficult"
            )
            if is_difficult is None:
                problems.add_repair(
                    FindingKind.UNSPECIFIED_FLAG, f"{source} {box.where}", UNSPECIFIED_MESSAGE
                )
            boxes.append(replace(box, crowd=bool(is_difficult)))

    width = _parse_size(root, "width")
    height = _parse_size(root, "height")
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


def _parse_document(path: Path) -> ET.Element:
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


def _parse_size(root: ET.Element, key: str) -> int | None:
    """Return the stated width or height in pixels, None where it is missing or zero."""
    text = (root.findtext(f"size/{key}") or "0").strip()
    try:
        return round(float(text)) or None
    except (ValueError, OverflowError) as error:
        raise BadEntryError(
            FindingKind.MALFORMED_ENTRY,
            f"{key} {quote(text)} is not a number; correct or remove it",
        ) from error


def _parse_box(element: ET.Element, name: str) -> Box:
    """Return the box of an object, in pixels, without its flags."""
    # Blanks and line breaks around it come from how the file was indented.
    label = (element.findtext("name") or "").strip()
    texts = [element.findtext(f"bndbox/{key}") for key in _CORNERS]
    try:
        x1, y1, x2, y2 = (float(text or "") for text in texts)
    except ValueError as error:
        raise BadEntryError(
            FindingKind.INVALID_BOX,
            f"(class {label}) bndbox {quote(texts)} is not four numbers; "
            "write xmin, ymin, xmax and ymax in pixels",
        ) from error
    return Box((x1, y1, x2, y2), label, where=f"{name} (class {label})")
