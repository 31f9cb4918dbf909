"""Cases of image files, archives and folders around a dataset, and splits cut from a pool."""

import hashlib
import io
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dataset_builders import (
    HEIGHT,
    PHOTOS,
    TRAIN,
    WIDTH,
    Files,
    Photo,
    Thing,
    at,
    build_coco,
    build_voc,
    build_yolo,
    draw,
    drop,
    encode,
    make_list,
    make_voc,
    rewrite,
    wrap,
    write_files,
    write_tar,
    write_zip,
)
from dataset_cases import Case
from dataset_readings import expect, expect_any
from PIL import ExifTags, Image

GIVEN = expect()
POOL = expect_any()


def _open(number: int) -> Image.Image:
    return Image.open(io.BytesIO(draw(number, "PNG"))).convert("RGB")


def _save(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    """Return the first photo as another kind of image."""
    return encode(_open(0).convert(mode), kind, **options)


def _turn(kind: str, orientation: int, upright: bool) -> bytes:
    """Return an image that EXIF turns, stored so that it stands upright once turned, or not."""
    image = _open(0)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    if upright:
        image = image.transpose(Image.Transpose.ROTATE_90)
    return encode(image, kind, exif=exif)


def _replace_first(content: bytes, name: str = "p0.jpg") -> Files:
    """Return a COCO dataset whose first image is another file, with the labels of the first."""
    renamed = {"p0.jpg": name}
    naming = lambda photo: renamed.get(photo.name, photo.name)  # noqa: E731
    files = build_coco(name=naming, place=lambda photo: f"images/{photo.split}/{naming(photo)}")
    return {**files, f"images/train/{name}": content}


def _expect_first(content: bytes) -> Any:
    """Return what must be read where the first image is another file."""
    first = replace(PHOTOS[0], data=content)
    return expect((first, *PHOTOS[1:]))


_JPEG = draw(0)
_GOOD: dict[str, tuple[bytes, str]] = {
    "gray JPEG": (_save("JPEG", "L"), "p0.jpg"),
    "CMYK JPEG": (_save("JPEG", "CMYK"), "p0.jpg"),
    "progressive JPEG": (_save("JPEG", progressive=True), "p0.jpg"),
    "JPEG with a comment": (_save("JPEG", comment=b"\xff\xd9" * 9), "p0.jpg"),
    "motion photo": (_JPEG + b"\0\0\0\x18ftypmp42" + b"\xff\xda\1\2" * 90, "p0.jpg"),
    "JPEG with zeros behind": (_JPEG + bytes(4096), "p0.jpg"),
    "JPEG with another behind": (_JPEG + draw(9), "p0.jpg"),
    "gray PNG": (_save("PNG", "L"), "p0.png"),
    "PNG with alpha": (_save("PNG", "RGBA"), "p0.png"),
    "palette PNG": (_save("PNG", "P"), "p0.png"),
    "1 bit PNG": (_save("PNG", "1"), "p0.png"),
    "16 bit PNG": (encode(Image.new("I;16", (WIDTH, HEIGHT), 4000), "PNG"), "p0.png"),
    "WebP": (_save("WEBP"), "p0.webp"),
    "BMP": (_save("BMP"), "p0.bmp"),
    "TIFF": (_save("TIFF"), "p0.tif"),
    "TIFF with LZW": (_save("TIFF", compression="tiff_lzw"), "p0.tiff"),
    "PNG named jpg": (_save("PNG"), "p0.jpg"),
    "JPEG named png": (_JPEG, "p0.png"),
    "JPEG named JPE": (_JPEG, "p0.JPEG"),
    "turned JPEG": (_turn("JPEG", 6, upright=True), "p0.jpg"),
    "turned PNG": (_turn("PNG", 6, upright=True), "p0.png"),
    "turned WebP": (_turn("WEBP", 6, upright=True), "p0.webp"),
    "JPEG turned by half": (_turn("JPEG", 3, upright=False), "p0.jpg"),
}


def _widen(png: bytes) -> bytes:
    """Return a PNG whose header states 40000 x 40000 pixels."""
    header = b"IHDR" + struct.pack(">II", 40000, 40000) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


_FLOAT = encode(Image.new("F", (WIDTH, HEIGHT), 0.5), "TIFF")
_BAD: dict[str, tuple[bytes, str, tuple[str, ...]]] = {
    "float TIFF": (_FLOAT, "p0.tif", ("p0.tif",)),
    "32 bit TIFF": (encode(Image.new("I", (WIDTH, HEIGHT), 70000), "TIFF"), "p0.tif", ("p0.tif",)),
    "JPEG cut in the middle": (_JPEG[: len(_JPEG) // 2], "p0.jpg", ("p0.jpg", "cut short|whole")),
    "JPEG without its last bytes": (_JPEG[:-2], "p0.jpg", ("p0.jpg", "cut short|whole|last")),
    "PNG cut short": (_save("PNG")[:-30], "p0.png", ("p0.png",)),
    "empty file": (b"", "p0.jpg", ("p0.jpg",)),
    "web page": (b"<!DOCTYPE html><html>404</html>", "p0.jpg", ("p0.jpg", "JPEG")),
    "pointer of git-lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "p0.jpg",
        ("p0.jpg",),
    ),
    "JPEG of zeros": (bytes(3000), "p0.jpg", ("p0.jpg",)),
    "unturned JPEG": (_turn("JPEG", 6, upright=False), "p0.jpg", ("p0.jpg", "EXIF")),
    "unturned PNG": (_turn("PNG", 8, upright=False), "p0.png", ("p0.png", "EXIF")),
    "another size": (encode(_open(0).resize((60, 40)), "JPEG"), "p0.jpg", ("p0.jpg", "60x40")),
    "PNG of a billion pixels": (
        _widen(_save("PNG")),
        "p0.png",
        ("p0.png", "megapixel|whole"),
    ),
}


def _make_images() -> list[Case]:
    cases = []
    for name, (content, file_name) in _GOOD.items():
        build = partial(_replace_first, content, file_name)
        cases.append(Case(f"image {name}", build, _expect_first(content)))
    for name, (content, file_name, words) in _BAD.items():
        cases.append(
            Case(f"image {name}", partial(_replace_first, content, file_name), refused=words)
        )
    gif = _save("GIF", "P")
    cases.append(Case("image GIF", partial(_replace_first, gif), _expect_first(gif), ("p0.jpg",)))
    return cases


def _drop_sizes(document: dict[str, Any]) -> None:
    for entry in document["images"]:
        del entry["width"], entry["height"]


def _make_told() -> list[Case]:
    """Return what is accepted and must be mentioned."""
    unturned = _turn("JPEG", 6, upright=True)
    build = lambda: {**build_coco(change=_drop_sizes), "images/train/p0.jpg": unturned}  # noqa: E731
    again = encode(Image.open(io.BytesIO(draw(0))), "JPEG", quality=60)
    copy = replace(PHOTOS[4], data=again)
    leak = replace(PHOTOS[4], data=draw(0))
    return [
        Case(
            "told EXIF turn without a stated size",
            build,
            _expect_first(unturned),
            told=("EXIF|turn",),
        ),
        Case(
            "told saved again in val",
            lambda: {**build_coco(), "images/val/p4.jpg": again},
            expect((*TRAIN, copy, PHOTOS[5])),
            told=("train",),
        ),
        Case(
            "told the same in train and val",
            lambda: {**build_coco(), "images/val/p4.jpg": draw(0)},
            expect((*TRAIN, leak, PHOTOS[5])),
            told=("train",),
        ),
    ]


# Folders and archives.


def _zip(path: Path, files: Files) -> Path:
    return write_zip(path.with_suffix(".zip"), files)


def _tar(path: Path, files: Files) -> Path:
    return write_tar(path.with_suffix(".tar.gz"), files)


_MAC = {
    "__MACOSX/._boats": b"\0\5\26\7",
    "__MACOSX/boats/._images": b"\0\5\26\7",
    "boats/.DS_Store": b"\0",
}
_AROUND: dict[str, tuple[str, Files]] = {
    "nothing": ("", {}),
    "a folder": ("boats", {}),
    "two folders": ("download/boats", {}),
    "a readme": ("boats", {"README.txt": b"boats"}),
    "readmes in each folder": ("a/b", {"LICENSE": b"", "a/README.md": b"#", "a/citation.bib": b""}),
    "macOS's folder": ("boats", _MAC),
    "a script": ("boats", {"convert.py": b"", "requirements.txt": b"numpy\n", "setup.cfg": b""}),
    "an image of the paper": (
        "boats",
        {"README.md": b"![](teaser.png)", "teaser.png": draw(70, "PNG")},
    ),
    "a folder of documents": ("boats", {"docs/index.html": b"<html/>", "docs/a.txt": b"a"}),
    "an empty folder's mark": ("boats", {"models/.gitkeep": b""}),
}
_FORMATS: dict[str, Callable[[], Files]] = {
    "coco": build_coco,
    "voc": build_voc,
    "yolo": build_yolo,
}
_PACKS = {"folder": write_files, "zip": _zip, "tar": _tar}


def _surround(format: str, folder: str, extra: Files) -> Files:
    files = _FORMATS[format]()
    return {**(wrap(files, folder) if folder else files), **extra}


def _use_backslashes(format: str) -> Files:
    files = _surround(format, "boats", {})
    return {path.replace("/", "\\"): content for path, content in files.items()}


def _make_archives() -> list[Case]:
    cases = []
    for format in _FORMATS:
        for name, (folder, extra) in _AROUND.items():
            for kind, pack in _PACKS.items():
                build = partial(_surround, format, folder, extra)
                cases.append(
                    Case(f"{format} in a {kind} with {name} around", build, GIVEN, pack=pack)
                )
        backslashes = partial(_use_backslashes, format)
        cases.append(Case(f"{format} in a zip with backslashes", backslashes, GIVEN, pack=_zip))
        for name in ("my boats (v2)", "été 图", "boats.v1.yolov8", "train", "images"):
            cases.append(Case(f"{format} in a folder {name}", _FORMATS[format], GIVEN, name=name))
    inner = lambda: {"boats.zip": _read_zip(), "README.md": b"#"}  # noqa: E731
    cases.append(Case("zip in a zip", inner, refused=("unpack|zip",), pack=_zip))
    parts = {f"{photo.split}.zip": b"PK\3\4" for photo in PHOTOS}
    cases.append(Case("zips in a folder", lambda: parts, refused=("no dataset", "zip")))
    return cases


def _read_zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path, content in build_coco().items():
            archive.writestr(path, content)
    return stream.getvalue()


def _choose_unlucky(count: int) -> list[int]:
    """Return numbers of photos whose hashes would all put them into val."""
    limit = f"{int(0.2 * 16**8):08x}"
    found: list[int] = []
    number = 1000
    while len(found) < count:
        # Uncompressed, so that the bytes depend on no version of an encoder.
        if hashlib.sha256(draw(number, "BMP")).hexdigest() < limit:
            found.append(number)
        number += 1
    return found


_UNLUCKY = _choose_unlucky(10)
_CAT = Thing("cat", (10, 8, 40, 38))
_DOG = Thing("dog", (60, 20, 100, 60))


def _build_pool(photos: Sequence[Photo]) -> Files:
    return build_coco(photos, "annotations.json", at("images/{name}"))


def _make_pools() -> list[Case]:
    """Return pools of few images, from which val is cut."""
    cases = []
    for count in (2, 3, 4, 6, 10):
        for unlucky in sorted({0, 1, count // 2, count - 1, count}):
            numbers = [*_UNLUCKY[:unlucky], *range(count - unlucky)]
            photos = tuple(Photo(number, "pool", (_CAT, _DOG), "BMP") for number in numbers)
            case = Case(
                f"pool of {count}, {unlucky} unlucky",
                partial(_build_pool, photos),
                expect_any(photos),
            )
            cases.append(case)

    # A class on two images only, which would both go to val.
    for labels in (
        ("dog", "dog", "cat", "cat", "cat", "cat"),
        ("dog", "cat", "cat", "cat", "cat", "cat"),
    ):
        things = [{"cat": _CAT, "dog": _DOG}[label] for label in labels]
        numbers = [*_UNLUCKY[:2], *range(4)]
        rare = tuple(
            Photo(number, "pool", (thing,), "BMP")
            for number, thing in zip(numbers, things, strict=True)
        )
        build: Callable[[], Files] = partial(build_voc, rare, lists=None)
        cases.append(Case(f"pool of rare classes {labels}", build, expect_any(rare)))
    return cases


_CAFE = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
_LATIN = _CAFE.encode("latin-1")
_BYTES = _LATIN.decode("utf-8", "surrogateescape")
"""A name as a file system shows it to Python that stores it in Latin-1."""


def _rename_to_bytes(files: Files, old: str = "p0") -> Files:
    """Return the files with a part of their names that is not UTF-8."""
    return {path.replace(old, _BYTES): content for path, content in files.items()}


def _build_latin_coco(name: str = _CAFE) -> Files:
    return _rename_to_bytes(build_coco(name=lambda photo: photo.name.replace("p0", name)))


def _build_latin_voc() -> Files:
    files = build_voc(xml=lambda photo: make_voc(photo, filename=""))
    return _rename_to_bytes(rewrite(files, ".txt", lambda text: text.replace(b"p0", _LATIN)))


def _build_latin_list() -> Files:
    files = build_yolo(settings="names: [cat, dog]\ntrain: train.txt\nval: val.txt\n")
    for split in ("train", "val"):
        photos = [photo for photo in PHOTOS if photo.split == split]
        text = make_list(photos, at("images/{split}/{name}")).encode()
        files[f"{split}.txt"] = text.replace(b"p0", _LATIN)
    return _rename_to_bytes(files)


def _build_both_spellings() -> Files:
    """Return files of which two have names that are the same once they are readable."""
    files = _rename_to_bytes(build_yolo())
    return {path.replace("p1", _CAFE): content for path, content in files.items()}


def _make_bytes() -> list[Case]:
    """Return names that are not UTF-8, as old archives and Windows leave them."""
    builds: dict[str, Callable[[], Files]] = {
        "coco": _build_latin_coco,
        "coco by Python": partial(_build_latin_coco, _BYTES),
        "voc": _build_latin_voc,
        "yolo": lambda: _rename_to_bytes(build_yolo()),
        "yolo list": _build_latin_list,
        "yolo twice": _build_both_spellings,
        "voc folder": lambda: _rename_to_bytes(build_voc(), "JPEGImages"),
    }
    cases = [
        Case(f"{name} with a name that is not UTF-8", build, GIVEN, told=("UTF-8",))
        for name, build in builds.items()
    ]
    cases.append(
        Case("voc in a tar with a name that is not UTF-8", _build_latin_voc, GIVEN, pack=_tar)
    )
    missing = lambda: drop(_build_latin_coco(), f"images/train/{_BYTES}.jpg")  # noqa: E731
    cases.append(Case("coco lacks a name that is not UTF-8", missing, None, (_CAFE,)))
    return cases


def _build_accents() -> Files:
    return build_coco(name=lambda photo: f"{_CAFE}-{photo.name}", place=_place_accents)


def _place_accents(photo: Photo) -> str:
    return f"images/{photo.split}/{_CAFE}-{photo.name}"


def _write_macos_zip(path: Path, files: Files) -> Path:
    """Write a zip as macOS does: names in UTF-8, decomposed, without the flag that says so."""
    zipped = _zip(path, {unicodedata.normalize("NFD", name): files[name] for name in files})
    content = zipped.read_bytes()
    # The flags of members in their own headers and in the table at the end.
    for header, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        parts = content.split(header)
        flags = place - len(header)
        parts[1:] = [part[:flags] + b"\0\0" + part[flags + 2 :] for part in parts[1:]]
        content = header.join(parts)
    zipped.write_bytes(content)
    return zipped


IMAGE_CASES = [
    *_make_images(),
    *_make_told(),
    *_make_archives(),
    *_make_pools(),
    *_make_bytes(),
    Case("coco in a zip of macOS with accents", _build_accents, GIVEN, pack=_write_macos_zip),
]
