"""Datasets of which one file is broken, or made to hang a reader or to fill its memory."""

import io
import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from hostile_archives import Builder
from PIL import Image
from small_datasets import encode_image, write_pets

Document = dict[str, object]
DEPTH = 200_000


def _write_coco(folder: Path, content: bytes | None = None) -> Path:
    """Write a COCO dataset, with another annotation file of train where one is given."""
    data = write_pets(folder / "pets")
    if content is not None:
        (data / "annotations" / "train.json").write_bytes(content)
    return data


def _write_coco_text(folder: Path, old: str, new: str) -> Path:
    """Write a COCO dataset in whose annotations of train a text is replaced, once."""
    data = write_pets(folder / "pets")
    path = data / "annotations" / "train.json"
    text = json.dumps(json.loads(path.read_text()))
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return data


def _write_yolo(folder: Path, settings: str | bytes) -> Path:
    data = write_pets(folder / "pets", "yolo")
    content = settings if isinstance(settings, bytes) else settings.encode()
    (data / "data.yaml").write_bytes(content)
    return data


def _write_label(folder: Path, text: str) -> Path:
    data = write_pets(folder / "pets", "yolo")
    (data / "labels" / "train" / "001.txt").write_text(text)
    return data


def _write_voc(folder: Path, xml: str | bytes) -> Path:
    data = write_pets(folder / "pets", "voc")
    content = xml if isinstance(xml, bytes) else xml.encode()
    (data / "Annotations" / "001.xml").write_bytes(content)
    return data


def _write_image(folder: Path, content: bytes) -> Path:
    data = write_pets(folder / "pets")
    (data / "images" / "train" / "001.png").write_bytes(content)
    return data


# JSON.


def json_of_deep_lists(folder: Path) -> Path:
    return _write_coco(folder, b"[" * DEPTH + b"]" * DEPTH)


def json_of_deep_objects(folder: Path) -> Path:
    return _write_coco(folder, b'{"a":' * DEPTH + b"1" + b"}" * DEPTH)


def json_with_a_deep_box(folder: Path) -> Path:
    deep = "[" * DEPTH + "]" * DEPTH
    return _write_coco_text(folder, '"bbox": [', f'"extra": {deep}, "bbox": [')


def json_with_ten_thousand_digits(folder: Path) -> Path:
    return _write_coco_text(folder, '"image_id": 1', '"image_id": ' + "9" * 10_000)


def json_with_four_thousand_digits(folder: Path) -> Path:
    return _write_coco_text(folder, '"bbox": [', '"bbox": [' + "9" * 4000)


def json_with_a_wide_image(folder: Path) -> Path:
    return _write_coco_text(folder, '"width": 40', '"width": ' + "9" * 4000)


def json_with_nan(folder: Path) -> Path:
    return _write_coco_text(folder, '"bbox": [4.0', '"bbox": [NaN')


def json_with_infinity(folder: Path) -> Path:
    return _write_coco_text(folder, '"bbox": [4.0', '"bbox": [-Infinity')


def json_with_infinite_width(folder: Path) -> Path:
    return _write_coco_text(folder, '"width": 40', '"width": 1e999')


def json_with_half_a_character_in_a_class(folder: Path) -> Path:
    return _write_coco_text(folder, '"name": "cat"', '"name": "c\\ud800t"')


def json_with_half_a_character_in_an_image(folder: Path) -> Path:
    return _write_coco_text(folder, '"file_name": "001.png"', '"file_name": "\\ud800.png"')


def json_with_a_byte_in_an_image(folder: Path) -> Path:
    """Name an image by half a character that stands for a byte in a file name, and is missing."""
    return _write_coco_text(folder, '"file_name": "001.png"', '"file_name": "\\udcff.png"')


def json_with_a_terminal_sequence_in_a_class(folder: Path) -> Path:
    return _write_coco_text(folder, '"name": "cat"', '"name": "\\u001b[2Jcat"')


def json_with_a_null_in_an_image(folder: Path) -> Path:
    return _write_coco_text(folder, '"file_name": "001.png"', '"file_name": "a\\u0000.png"')


def json_with_a_long_class(folder: Path) -> Path:
    return _write_coco_text(folder, '"name": "cat"', '"name": "' + "c" * 3_000_000 + '"')


def json_with_a_long_image(folder: Path) -> Path:
    return _write_coco_text(folder, "001.png", "c" * 3_000_000)


def json_with_a_long_id(folder: Path) -> Path:
    return _write_coco_text(folder, '"image_id": 1', '"image_id": "' + "c" * 3_000_000 + '"')


def json_with_an_object_as_id(folder: Path) -> Path:
    return _write_coco_text(folder, '"image_id": 1', '"image_id": {"a": [[[[1]]]]}')


def json_with_a_list_as_name(folder: Path) -> Path:
    return _write_coco_text(folder, '"file_name": "001.png"', '"file_name": ["001.png"]')


def json_with_an_image_outside(folder: Path) -> Path:
    (folder / "secret.png").write_bytes(encode_image(9))
    return _write_coco_text(folder, "001.png", "../../../secret.png")


def json_in_utf_16(folder: Path) -> Path:
    return _write_coco(folder, '{"images": []}'.encode("utf-16"))


def json_of_random_bytes(folder: Path) -> Path:
    return _write_coco(folder, bytes(range(256)) * 20)


def json_that_is_empty(folder: Path) -> Path:
    return _write_coco(folder, b"")


def json_of_a_list(folder: Path) -> Path:
    return _write_coco(folder, b"[1, 2]")


def json_that_is_cut(folder: Path) -> Path:
    data = write_pets(folder / "pets")
    path = data / "annotations" / "train.json"
    path.write_bytes(path.read_bytes()[:-50])
    return data


def json_with_many_bad_boxes(folder: Path) -> Path:
    """Write 20,000 boxes that lie outside their image."""
    data = write_pets(folder / "pets")
    path = data / "annotations" / "train.json"
    document = json.loads(path.read_text())
    for number in range(100, 20_100):
        box = [number, 100, 5, 5]
        document["annotations"].append(
            {"id": number, "image_id": 1, "category_id": 1, "bbox": box, "area": 25}
        )
    path.write_text(json.dumps(document))
    return data


def fifo_as_annotations(folder: Path) -> Path:
    data = write_pets(folder / "pets")
    path = data / "annotations" / "train.json"
    path.unlink()
    os.mkfifo(path)
    return data


def device_as_annotations(folder: Path) -> Path:
    data = write_pets(folder / "pets")
    path = data / "annotations" / "train.json"
    path.unlink()
    path.symlink_to("/dev/zero")
    return data


def folder_as_annotations(folder: Path) -> Path:
    data = write_pets(folder / "pets")
    path = data / "annotations" / "train.json"
    path.unlink()
    path.mkdir()
    return data


# YAML.


def yaml_of_aliases(folder: Path) -> Path:
    lines = ["a0: &a0 [x]"]
    for number in range(1, 12):
        parts = ", ".join([f"*a{number - 1}"] * 10)
        lines.append(f"a{number}: &a{number} [{parts}]")
    return _write_yolo(folder, "\n".join([*lines, "names: [*a11, dog]", "train: *a11"]))


def yaml_of_merges(folder: Path) -> Path:
    lines = ["a0: &a0 {x: 1}"]
    for number in range(1, 12):
        parts = ", ".join([f"*a{number - 1}"] * 10)
        lines.append(f"a{number}: &a{number} {{<<: [{parts}]}}")
    return _write_yolo(folder, "\n".join([*lines, "names: [cat, dog]"]))


def yaml_that_holds_itself(folder: Path) -> Path:
    return _write_yolo(folder, "names: &a [cat, *a]\ntrain: images/train\n")


def yaml_of_deep_lists(folder: Path) -> Path:
    return _write_yolo(folder, "names: " + "[" * 20_000 + "]" * 20_000)


def yaml_of_deep_blocks(folder: Path) -> Path:
    return _write_yolo(folder, "names: [cat, dog]\nx:\n  " + "- " * 20_000 + "1\n")


def yaml_with_a_tag_that_runs_code(folder: Path) -> Path:
    command = f"!!python/object/apply:os.system ['touch {folder}/evil.txt']"
    return _write_yolo(folder, f"names: {command}\n")


def yaml_with_an_unknown_tag(folder: Path) -> Path:
    return _write_yolo(folder, "names: !boats [cat, dog]\n")


def yaml_with_ten_thousand_digits(folder: Path) -> Path:
    return _write_yolo(folder, "names: [cat, dog]\nnc: " + "9" * 10_000)


def yaml_with_many_digits_in_base_60(folder: Path) -> Path:
    return _write_yolo(folder, "names: [cat, dog]\nnc: 1" + ":59" * 20_000)


def yaml_with_a_date_that_does_not_exist(folder: Path) -> Path:
    return _write_yolo(folder, "names: [cat, 2026-99-99]\n")


def yaml_with_a_list_as_key(folder: Path) -> Path:
    return _write_yolo(folder, "? [a, b]\n: 1\nnames: [cat, dog]\n")


def yaml_with_a_huge_class_number(folder: Path) -> Path:
    return _write_yolo(folder, "names: {" + "9" * 4000 + ": cat, x: dog}\n")


def yaml_with_a_huge_count(folder: Path) -> Path:
    return _write_yolo(folder, "names: [cat, dog]\nnc: 1000000000000\ntrain: images/train\n")


def yaml_with_a_terminal_sequence(folder: Path) -> Path:
    return _write_yolo(folder, 'names: ["\\e]0;owned\\a", dog]\ntrain: images/train\n')


def yaml_with_half_a_character(folder: Path) -> Path:
    return _write_yolo(folder, 'names: ["\\uD800", dog]\ntrain: images/train\n')


def yaml_of_control_bytes(folder: Path) -> Path:
    return _write_yolo(folder, b"names: [\x00\x01\xff\xfe]")


def yaml_that_is_long(folder: Path) -> Path:
    return _write_yolo(folder, "names: [cat, dog]\nx: " + "y" * 2_000_000)


def yaml_with_a_path_outside(folder: Path) -> Path:
    return _write_yolo(folder, "names: [cat, dog]\ntrain: ../../../../../../etc\nval: /proc\n")


def yaml_with_a_fifo_as_list(folder: Path) -> Path:
    data = _write_yolo(folder, "names: [cat, dog]\ntrain: list.txt\nval: images/val\n")
    os.mkfifo(data / "list.txt")
    return data


def yaml_with_a_long_path(folder: Path) -> Path:
    return _write_yolo(folder, "names: [cat, dog]\ntrain: " + "d/" * 100_000 + "\n")


def yaml_with_a_null_in_a_path(folder: Path) -> Path:
    return _write_yolo(folder, 'names: [cat, dog]\ntrain: "images\\0train"\n')


def fifo_as_yaml(folder: Path) -> Path:
    data = write_pets(folder / "pets", "yolo")
    (data / "data.yaml").unlink()
    os.mkfifo(data / "other.yaml")
    return data


# Labels of YOLO and lists of VOC.


def label_with_a_long_line(folder: Path) -> Path:
    return _write_label(folder, "0 0.5 0.5 0.1 x" + "9" * 5_000_000)


def label_with_infinity(folder: Path) -> Path:
    return _write_label(folder, "0 inf nan 0.1 0.1\n")


def label_with_a_huge_class(folder: Path) -> Path:
    return _write_label(folder, "1e308 0.5 0.5 0.1 0.1\n")


def label_with_an_infinite_class(folder: Path) -> Path:
    return _write_label(folder, "inf 0.5 0.5 0.1 0.1\n")


def label_of_bytes(folder: Path) -> Path:
    data = write_pets(folder / "pets", "yolo")
    (data / "labels" / "train" / "001.txt").write_bytes(bytes(range(256)))
    return data


def label_with_many_lines(folder: Path) -> Path:
    return _write_label(folder, "0\n" * 50_000)


def fifo_as_label(folder: Path) -> Path:
    data = write_pets(folder / "pets", "yolo")
    path = data / "labels" / "train" / "001.txt"
    path.unlink()
    os.mkfifo(path)
    return data


def fifo_as_list(folder: Path) -> Path:
    data = write_pets(folder / "pets", "voc")
    path = data / "ImageSets" / "Main" / "train.txt"
    path.unlink()
    os.mkfifo(path)
    return data


def list_with_a_long_name(folder: Path) -> Path:
    data = write_pets(folder / "pets", "voc")
    (data / "ImageSets" / "Main" / "train.txt").write_text("001\n" + "n" * 3_000_000)
    return data


def list_with_a_null(folder: Path) -> Path:
    data = write_pets(folder / "pets", "voc")
    (data / "ImageSets" / "Main" / "train.txt").write_text("001\na\0b\n")
    return data


def list_with_a_path_outside(folder: Path) -> Path:
    (folder / "x.xml").write_text("<annotation><filename>x</filename></annotation>")
    data = write_pets(folder / "pets", "voc")
    (data / "ImageSets" / "Main" / "train.txt").write_text("001\n../../x\n")
    return data


# XML.


def xml_of_entities(folder: Path) -> Path:
    entities = '<!ENTITY a0 "lol">'
    for number in range(1, 12):
        entities += f'<!ENTITY a{number} "' + f"&a{number - 1};" * 10 + '">'
    text = f"<!DOCTYPE x [{entities}]><annotation><filename>&a11;</filename></annotation>"
    return _write_voc(folder, text)


def xml_of_entities_in_utf_16(folder: Path) -> Path:
    text = '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE x [<!ENTITY a "b">]><annotation/>'
    return _write_voc(folder, text.encode("utf-16"))


def xml_with_another_file(folder: Path) -> Path:
    text = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation>&a;</annotation>'
    return _write_voc(folder, text)


def xml_with_a_parameter_entity(folder: Path) -> Path:
    text = '<!DOCTYPE x [<!ENTITY % a SYSTEM "http://127.0.0.1:9/x"> %a;]><annotation/>'
    return _write_voc(folder, text)


def xml_that_is_deep(folder: Path) -> Path:
    inner = "<a>" * DEPTH + "</a>" * DEPTH
    box = "<bndbox><xmin>x</xmin></bndbox>"
    return _write_voc(folder, f"<annotation><object>{box}</object>{inner}</annotation>")


def xml_with_a_long_text(folder: Path) -> Path:
    number = "9" * 5_000_000
    return _write_voc(folder, f"<annotation><size><width>x{number}</width></size></annotation>")


def xml_with_a_long_tag(folder: Path) -> Path:
    tag = "t" * 1_000_000
    return _write_voc(folder, f"<{tag}></{tag}>")


def xml_with_a_huge_size(folder: Path) -> Path:
    return _write_voc(folder, "<annotation><size><width>1e400</width></size></annotation>")


def xml_with_an_unknown_encoding(folder: Path) -> Path:
    return _write_voc(folder, '<?xml version="1.0" encoding="klingon"?><annotation/>')


def xml_that_is_cut(folder: Path) -> Path:
    return _write_voc(folder, "<annotation><object>")


def xml_with_nan(folder: Path) -> Path:
    corners = "".join(f"<{key}>nan</{key}>" for key in ("xmin", "ymin", "xmax", "ymax"))
    return _write_voc(
        folder,
        f"<annotation><object><name>cat</name><bndbox>{corners}</bndbox></object></annotation>",
    )


# Images.


def _make_png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of gray pixels, with chunks before the pixels."""
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">2L5B", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width + 1) * height) if width * height < 10_000 else b"")
    for name, body in ((b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")):
        content += struct.pack(">L", len(body)) + name + body
        content += struct.pack(">L", zlib.crc32(name + body))
    return content


def _make_tiff(**tags: int) -> bytes:
    """Return a TIFF of one pixel with other tags, by number as text."""
    values = {
        256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 1,
    } | {int(name[1:]): value for name, value in tags.items()}  # fmt: skip
    entries = b""
    for tag, value in sorted(values.items()):
        entries += struct.pack("<2H2L", tag, 4, 1, value)
    directory = struct.pack("<H", len(values)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<L", 16) + bytes(8) + directory


def png_of_too_many_pixels(folder: Path) -> Path:
    return _write_image(folder, _make_png(40_000, 30_000))


def png_just_over_the_cap(folder: Path) -> Path:
    return _write_image(folder, _make_png(10_001, 10_000))


def png_with_much_text(folder: Path) -> Path:
    text = b"key\0\0" + zlib.compress(bytes(80 << 20))
    return _write_image(folder, _make_png(40, 30, (b"zTXt", text)))


def png_with_a_wrong_checksum(folder: Path) -> Path:
    content = bytearray(_make_png(40, 30))
    content[40] ^= 1
    return _write_image(folder, bytes(content))


def png_that_states_a_long_chunk(folder: Path) -> Path:
    content = _make_png(40, 30)
    return _write_image(folder, content[:33] + struct.pack(">L", 0x7FFFFFFF) + content[37:])


def png_of_no_pixels(folder: Path) -> Path:
    return _write_image(folder, _make_png(0, 0))


def png_animated_of_too_many_pixels(folder: Path) -> Path:
    stream = io.BytesIO()
    frames = [Image.new("L", (40, 30), shade) for shade in (1, 2)]
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:])
    content = bytearray(stream.getvalue())
    content[16:24] = struct.pack(">2L", 40_000, 30_000)
    content[29:33] = struct.pack(">L", zlib.crc32(content[12:29]))
    return _write_image(folder, bytes(content))


def tiff_of_too_many_pixels(folder: Path) -> Path:
    return _write_image(folder, _make_tiff(t256=40_000, t257=30_000))


def tiff_of_one_pixel_in_a_huge_tile(folder: Path) -> Path:
    content = _make_tiff(t322=1 << 20, t323=1 << 20, t324=8, t325=1)
    return _write_image(folder, content)


def tiff_without_tags(folder: Path) -> Path:
    return _write_image(folder, b"II*\0\x08\0\0\0\0\0\0\0\0\0")


def tiff_whose_directory_is_itself(folder: Path) -> Path:
    return _write_image(folder, b"II*\0\x08\0\0\0\1\0" + bytes(12) + b"\x08\0\0\0")


def bmp_of_too_many_pixels(folder: Path) -> Path:
    content = bytearray(encode_image(1, "BMP"))
    content[18:26] = struct.pack("<2l", 40_000, -30_000)
    return _write_image(folder, bytes(content))


def webp_of_too_many_pixels(folder: Path) -> Path:
    stream = io.BytesIO()
    Image.new("L", (16_000, 16_000)).save(stream, "WEBP", lossless=True, method=0)
    return _write_image(folder, stream.getvalue())


def jpeg_of_too_many_pixels(folder: Path) -> Path:
    content = bytearray(encode_image(1, "JPEG"))
    start = content.index(b"\xff\xc0")
    content[start + 5 : start + 9] = struct.pack(">2H", 40_000, 30_000)
    return _write_image(folder, bytes(content))


def jpeg_that_is_cut(folder: Path) -> Path:
    return _write_image(folder, encode_image(1, "JPEG")[:-20])


def script_as_image(folder: Path) -> Path:
    return _write_image(folder, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n")


def image_of_zeros(folder: Path) -> Path:
    return _write_image(folder, bytes(1000))


def fifo_as_image(folder: Path) -> Path:
    data = write_pets(folder / "pets")
    path = data / "images" / "train" / "001.png"
    path.unlink()
    os.mkfifo(path)
    return data


def device_as_image(folder: Path) -> Path:
    data = write_pets(folder / "pets")
    path = data / "images" / "train" / "001.png"
    path.unlink()
    path.symlink_to("/dev/zero")
    return data


def file_of_the_kernel_as_image(folder: Path) -> Path:
    data = write_pets(folder / "pets")
    path = data / "images" / "train" / "001.png"
    path.unlink()
    path.symlink_to("/proc/self/pagemap")
    return data


def sparse_file_as_image(folder: Path) -> Path:
    data = write_pets(folder / "pets")
    with (data / "images" / "train" / "001.png").open("wb") as file:
        file.truncate(1 << 40)
    return data


def png_with_a_huge_profile(folder: Path) -> Path:
    profile = b"icc\0\0" + zlib.compress(bytes(80 << 20))
    bad = _make_png(40, 30, (b"iCCP", profile))
    return _write_image(folder, bad[:-20])


def images_just_under_the_cap(folder: Path) -> Path:
    """Write four images of 300 MB each when decoded, in files of 1 MB."""
    data = write_pets(folder / "pets")
    stream = io.BytesIO()
    Image.new("RGB", (10_000, 9_990)).save(stream, "TIFF", compression="tiff_adobe_deflate")
    for number, path in enumerate(sorted(data.glob("images/*/*.png"))):
        path.write_bytes(stream.getvalue() + bytes(number))
    return data


# Folders.


def folder_that_is_not_utf_8(folder: Path) -> Path:
    return write_pets(folder / "\udcff")


def links_in_circles(folder: Path) -> Path:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    return folder / "a"


def _list_builders() -> tuple[Builder, ...]:
    builders: list[Builder] = []
    for name, value in globals().items():
        if callable(value) and getattr(value, "__module__", "") == __name__ and name[0] != "_":
            builders.append(value)
    return tuple(builders)


_SLOW: tuple[Callable[[Path], Path], ...] = (
    json_with_many_bad_boxes,
    label_with_many_lines,
    png_with_much_text,
    png_with_a_huge_profile,
    webp_of_too_many_pixels,
    images_just_under_the_cap,
)
HEAVY_DATASETS: tuple[Builder, ...] = _SLOW
DATASETS: tuple[Builder, ...] = tuple(item for item in _list_builders() if item not in _SLOW)
PHRASES: Mapping[Builder, str] = {
    json_of_deep_lists: "JSON nested too deeply",
    json_with_ten_thousand_digits: "a number of more digits than any program reads",
    json_with_many_bad_boxes: "... and 19990 more like it",
    json_with_a_terminal_sequence_in_a_class: r"\x1b[2Jcat",
    fifo_as_annotations: "this is a FIFO",
    yaml_of_deep_blocks: "YAML nested too deeply",
    yaml_of_merges: "merges make too many keys",
    fifo_as_label: "this is a FIFO",
    xml_of_entities: "declares XML entities",
    xml_of_entities_in_utf_16: "declares XML entities",
    xml_with_another_file: "declares XML entities",
    png_of_too_many_pixels: "more than 100 megapixels",
    png_just_over_the_cap: "more than 100 megapixels",
    tiff_of_too_many_pixels: "more than 100 megapixels",
    tiff_of_one_pixel_in_a_huge_tile: "more than 100 megapixels",
    bmp_of_too_many_pixels: "more than 100 megapixels",
    jpeg_of_too_many_pixels: "more than 100 megapixels",
    webp_of_too_many_pixels: "more than 100 megapixels",
    sparse_file_as_image: "more than 512 MiB",
    device_as_image: "this is a device",
}
