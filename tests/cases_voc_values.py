"""Cases of what the XML files of Pascal VOC say."""

from collections.abc import Callable
from functools import partial

from dataset_builders import (
    PHOTOS,
    Files,
    Photo,
    Thing,
    add_bom,
    build_voc,
    drop,
    make_voc,
    to_crlf,
)
from dataset_cases import Case
from dataset_readings import expect, expect_any

GIVEN = expect()
POOL = expect_any()


def _replace(old: str, new: str) -> Callable[[Photo], bytes]:
    def write(photo: Photo) -> bytes:
        text = make_voc(photo).decode()
        assert old in text, old
        return text.replace(old, new).encode()

    return write


def _reorder_corners(photo: Photo) -> bytes:
    """Write ymin first."""
    text = make_voc(photo).decode()
    parts = text.split("<bndbox>")
    done = [parts[0]]
    for part in parts[1:]:
        inner, rest = part.split("</bndbox>")
        elements = inner.replace("><", ">\n<").split("\n")
        done.append("\n".join(reversed(elements)) + "</bndbox>" + rest)
    return "<bndbox>".join(done).encode()


def _declare(encoding: str) -> Callable[[Photo], bytes]:
    def write(photo: Photo) -> bytes:
        head = f'<?xml version="1.0" encoding="{encoding}"?>\n<!-- été -->'
        return (head + make_voc(photo).decode()).encode(encoding)

    return write


_HARMLESS: dict[str, Callable[[Photo], bytes]] = {
    "filename without extension": lambda photo: make_voc(photo, photo.stem),
    "filename in upper case": lambda photo: make_voc(photo, f"{photo.stem}.JPG"),
    "filename of another extension": lambda photo: make_voc(photo, f"{photo.stem}.png"),
    "filename with a folder": lambda photo: make_voc(photo, f"JPEGImages/{photo.name}"),
    "filename with a path of Windows": lambda photo: make_voc(photo, f"C:\\a\\b\\{photo.name}"),
    "filename of ImageNet": lambda photo: make_voc(photo, "%s"),
    "no filename": lambda photo: make_voc(photo, ""),
    "a path": lambda photo: make_voc(photo, extra=f"<path>/home/me/{photo.name}</path>"),
    "a folder": lambda photo: make_voc(photo, extra="<folder>train</folder>"),
    "source and owner": lambda photo: make_voc(
        photo, extra="<source><annotation>VOC</annotation></source><owner><name>x</name></owner>"
    ),
    "ymin first": _reorder_corners,
    "no difficult": _replace("<difficult>0</difficult>", ""),
    "empty difficult": _replace("<difficult>0</difficult>", "<difficult></difficult>"),
    "pose and truncated": _replace(
        "<difficult>", "<pose>Left</pose><truncated>1</truncated><difficult>"
    ),
    "names in lines of their own": _replace("<name>cat</name>", "<name>\n  cat\n</name>"),
    "names with spaces at the ends": _replace("<name>cat</name>", "<name>cat </name>"),
    "corners as floats": _replace("</xmin>", ".0</xmin>"),
    "corners in lines of their own": _replace("</xmin>", "\n</xmin>"),
    "parts of the body": _replace(
        "</object>",
        "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax>"
        "</bndbox></part></object>",
    ),
    "attributes of CVAT": _replace(
        "</object>",
        "<attributes><attribute><name>rotation</name><value>0.0</value></attribute></attributes>"
        "</object>",
    ),
    "a polygon beside the box": _replace(
        "</bndbox>", "</bndbox><polygon><x1>12</x1><y1>10</y1><x2>30</x2><y2>20</y2></polygon>"
    ),
    "a size of zero": _replace(
        "<width>120</width><height>80</height>", "<width>0</width><height>0</height>"
    ),
    "no size": _replace("<size><width>120</width><height>80</height><depth>3</depth></size>", ""),
    "size as floats": _replace("<width>120</width>", "<width>120.0</width>"),
    "a BOM": lambda photo: add_bom(make_voc(photo)),
    "CRLF": lambda photo: to_crlf(make_voc(photo)),
    "UTF-8 declared": _declare("utf-8"),
    "latin-1": _declare("iso-8859-1"),
    "UTF-16": _declare("utf-16"),
    "windows-1252": _declare("windows-1252"),
}


_DOUBTFUL = ("filename of another extension", "windows-1252", "UTF-16")


def _make_values() -> list[Case]:
    cases = []
    for name, xml in _HARMLESS.items():
        refused = ("xml|jpg|png",) if name in _DOUBTFUL else None
        cases.append(Case(f"voc {name}", partial(build_voc, xml=xml), GIVEN, refused))
    for word in ("Unspecified", "no", "No", "0.0", "false", "FALSE", "N", "none", " 0 "):
        xml = partial(make_voc, difficult=word)
        cases.append(Case(f"voc difficult {word}", partial(build_voc, xml=xml), GIVEN))
    for word in ("1", "1.0", "true", "True", "yes", "YES"):
        # The first photo only, or nothing is left to learn.
        xml = partial(_mark_first, word)
        cases.append(
            Case(f"voc difficult {word}", partial(build_voc, xml=xml), expect(_hard_first()))
        )
    return cases


def _mark_first(word: str, photo: Photo) -> bytes:
    return make_voc(photo, difficult=word if photo.number == 0 else "0")


def _hard_first() -> tuple[Photo, ...]:
    first = PHOTOS[0]
    things = tuple(Thing(thing.label, thing.corners, crowd=True) for thing in first.things)
    return (Photo(0, "train", things), *PHOTOS[1:])


_REFUSED: dict[str, tuple[Callable[[Photo], bytes], tuple[str, ...]]] = {
    "no root of VOC": (lambda _: b"<image><box/></image>", ("annotation",)),
    "cut short": (lambda photo: make_voc(photo)[:-40], ("XML",)),
    "empty files": (lambda _: b"", ("XML|empty",)),
    "no box": (_replace("bndbox", "polygon"), ("bndbox",)),
    "turned boxes of roLabelImg": (_replace("bndbox", "robndbox"), ("bndbox",)),
    "words for numbers": (_replace("<xmin>", "<xmin>x"), ("bndbox",)),
    "swapped corners": (
        lambda photo: (
            make_voc(photo)
            .replace(b"xmin", b"tmp")
            .replace(b"xmax", b"xmin")
            .replace(b"tmp", b"xmax")
        ),
        ("ends before|swapped",),
    ),
    "boxes of roLabelImg": (
        lambda photo: make_voc(photo).replace(b"bndbox>", b"robndbox>"),
        ("<robndbox>", "upright"),
    ),
    "no name": (_replace("<name>cat</name>", ""), ("name",)),
    "another case": (_replace("<name>dog</name>", "<name>Cat</name>"), ("Cat",)),
    "width and height for corners": (
        lambda photo: _write_sizes_as_corners(photo),
        ("width|corner|ends before",),
    ),
    "another size": (_replace("<width>120", "<width>640"), ("640x80",)),
    "fractions": (lambda photo: _write_fractions(photo), ("fraction",)),
    "entities": (
        lambda photo: b'<!DOCTYPE a [<!ENTITY x "y">]>' + make_voc(photo),
        ("entit",),
    ),
}


def _write_fractions(photo: Photo) -> bytes:
    things = []
    for thing in photo.things:
        x1, y1, x2, y2 = thing.corners
        things.append(Thing(thing.label, (x1 / 120, y1 / 80, x2 / 120, y2 / 80)))
    return make_voc(Photo(photo.number, photo.split, tuple(things)))


def _write_sizes_as_corners(photo: Photo) -> bytes:
    things = []
    for thing in photo.things:
        x1, y1, x2, y2 = thing.corners
        things.append(Thing(thing.label, (x1, y1, x2 - x1, y2 - y1)))
    return make_voc(Photo(photo.number, photo.split, tuple(things)))


def _write_polygons(photo: Photo) -> bytes:
    """Return an XML file with a polygon of four points in place of each box."""
    content = make_voc(photo).decode()
    for thing in photo.things:
        x1, y1, x2, y2 = thing.corners
        points = ((x1, y1), (x2, y1), (x2, y2), (x1, y2))
        polygon = "".join(
            f"<x{number}>{x}</x{number}><y{number}>{y}</y{number}>"
            for number, (x, y) in enumerate(points, start=1)
        )
        box = content[content.index("<bndbox>") : content.index("</bndbox>") + len("</bndbox>")]
        content = content.replace(box, f"<polygon>{polygon}</polygon>", 1)
    return content.encode()


_ROTATION = "<attributes><attribute><name>rotation</name><value>{}</value></attribute></attributes>"


def _make_told() -> list[Case]:
    cases = [
        Case("voc of polygons", partial(build_voc, xml=_write_polygons), GIVEN, told=("polygon",))
    ]
    for value, told in (("30.0", ("rotation",)), ("0.0", ()), ("180", ()), ("x", ())):
        xml = _replace("<difficult>", _ROTATION.format(value) + "<difficult>")
        cases.append(Case(f"voc rotation {value}", partial(build_voc, xml=xml), GIVEN, told=told))
    return cases


def _make_refused() -> list[Case]:
    cases = []
    for name, (xml, words) in _REFUSED.items():
        build = partial(build_voc, xml=xml)
        cases.append(Case(f"voc {name}", build, refused=(".xml|classes", *words)))

    gone = partial(_drop_from_voc, "JPEGImages/p2.jpg")
    cases.append(Case("voc image that is missing", gone, refused=("p2", "missing")))
    for lists in (None, "ImageSets/Main/{split}.txt"):
        build = partial(_drop_from_voc, "Annotations/p2.xml", lists=lists)
        fewer = tuple(photo for photo in PHOTOS if photo.number != 2)
        splits = expect(fewer) if lists else expect_any(fewer)
        case = Case(
            f"voc xml that is missing, lists {lists}",
            build,
            splits,
            ("p2",),
            ("without|no annot|no xml",),
        )
        cases.append(case)
    return cases


def _drop_from_voc(path: str, lists: str | None = "ImageSets/Main/{split}.txt") -> Files:
    return drop(build_voc(lists=lists), path)


VOC_VALUE_CASES = [*_make_values(), *_make_told(), *_make_refused()]
