"""Compare `detreg check` with its peers: a loop over all images, and `json.load`.

    python benchmarks/check.py             10,000 images, and a file as large as COCO train2017's
    python benchmarks/check.py --share 0.1 a tenth of both

Draws the datasets into a temporary folder, which takes gigabytes. Each row is a process of its
own: its CPU time (user and system), wall time and peak memory, minima of three runs in turn with
those of its peers. They read the same files: pycocotools with OpenCV's decoder, and json.load as
`json.load(open(path))` does it.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

RUNS = 3

COCO_CLASSES = 80

Entry = dict[str, object]


@dataclass(frozen=True)
class Plan:
    """What a dataset consists of.

    size: width and height of its images in pixels.
    drawn: how many of its images are drawn; the others are copies with another comment.
    noise: of the drawn colors, of 256.
    """

    images: int
    boxes: int
    size: tuple[int, int]
    drawn: int
    noise: int
    has_polygons: bool


SMALL = Plan(10_000, 30_000, (320, 240), 1000, 6, has_polygons=False)
COCO = Plan(118_287, 860_001, (640, 480), 100, 0, has_polygons=True)
BOXES_ONLY = replace(COCO, has_polygons=False)


@dataclass(frozen=True)
class Usage:
    """What a process took: seconds, and MiB at most."""

    cpu: float
    wall: float
    memory: float


def draw_image(rng: np.random.Generator, size: tuple[int, int], noise: int) -> bytes:
    """Return a JPEG file of smooth colors and some noise."""
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    pixels = cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR).astype(np.int16)
    pixels += rng.integers(-noise, noise + 1, pixels.shape, dtype=np.int16)
    _, content = cv2.imencode(".jpg", pixels.clip(0, 255).astype(np.uint8))
    return content.tobytes()


def write_images(folder: Path, names: list[str], plan: Plan) -> None:
    """Write images that all differ: some are drawn, and copies of them get a comment."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    drawn = [draw_image(rng, plan.size, plan.noise) for _ in range(plan.drawn)]
    for number, name in enumerate(names):
        content = drawn[number % plan.drawn]
        # The start of the image, then a comment segment with the image's number.
        comment = b"\xff\xfe\x00\x0a%08d" % number
        (folder / name).write_bytes(content[:2] + comment + content[2:])


def write_dataset(folder: Path, plan: Plan, share: float, images: Path | None = None) -> None:
    """Write a share of a dataset in COCO form, with all the keys that COCO has.

    images: a folder with its images, if there is one already.
    """
    num_images = round(plan.images * share)
    names = [f"{number * 7 + 1:012d}.jpg" for number in range(num_images)]
    if images is None:
        write_images(folder / "images", names, plan)
    else:
        folder.mkdir()
        (folder / "images").symlink_to(images)

    path = folder / "annotations" / "instances_train2017.json"
    path.parent.mkdir()
    categories = []
    for number in range(1, COCO_CLASSES + 1):
        categories.append({"supercategory": "thing", "id": number, "name": f"class {number:02d}"})
    document = {
        "images": [make_image_entry(number, name, plan) for number, name in enumerate(names)],
        "annotations": make_annotations(num_images, round(plan.boxes * share), plan),
        "categories": categories,
    }
    path.write_text(json.dumps(document))


def make_image_entry(number: int, name: str, plan: Plan) -> Entry:
    """Return the entry of an image."""
    width, height = plan.size
    url = f"http://images.cocodataset.org/train2017/{name}"
    return {
        "license": 3,
        "file_name": name,
        "coco_url": url,
        "height": height,
        "width": width,
        "date_captured": "2013-11-14 11:18:45",
        "flickr_url": url,
        "id": number * 7 + 1,
    }


def make_annotations(num_images: int, num_boxes: int, plan: Plan) -> list[Entry]:
    """Return boxes anywhere on the images, with a polygon of up to 30 points each."""
    width, height = plan.size
    rng = np.random.default_rng(1)
    owners = rng.integers(0, num_images, num_boxes).tolist()
    corners = (rng.random((num_boxes, 2)) * 0.8 * plan.size).round(2).tolist()
    extents = (2 + rng.random((num_boxes, 2)) * 0.19 * plan.size).round(2).tolist()
    point_counts = rng.integers(4, 31, num_boxes).tolist()

    annotations: list[Entry] = []
    for number, owner in enumerate(owners):
        extent = extents[number]
        points = (rng.random(2 * point_counts[number]) * min(width, height)).round(2).tolist()
        annotations.append(
            {
                "segmentation": [points] if plan.has_polygons else [],
                "area": round(extent[0] * extent[1] * 0.7, 4),
                "iscrowd": 0,
                "image_id": owner * 7 + 1,
                "bbox": [*corners[number], *extent],
                "category_id": number % COCO_CLASSES + 1,
                "id": 100_000 + number,
            }
        )
    return annotations


DECODE_ALL = """
import pathlib, sys
import cv2
from pycocotools.coco import COCO

folder = pathlib.Path(sys.argv[1])
coco = COCO(folder / "annotations" / "instances_train2017.json")
for image in coco.loadImgs(coco.getImgIds()):
    pixels = cv2.imread(str(folder / "images" / image["file_name"]))
    assert pixels.shape[:2] == (image["height"], image["width"])
"""
"""What users write to look at a dataset."""

LOAD_JSON = """
import json, pathlib, sys

with open(pathlib.Path(sys.argv[1]) / "annotations" / "instances_train2017.json") as file:
    json.load(file)
"""

READ_ANNOTATIONS = """
import pathlib, sys
from detreg.data import formats
from detreg.data.garbage_collection import pause_garbage_collection

with pause_garbage_collection():
    formats.read(pathlib.Path(sys.argv[1]).resolve())
"""
"""The part of a check that comes before the images."""


def measure_once(command: list[str], cache: Path) -> Usage:
    """Run a command and return what it took. Raises CalledProcessError where it fails."""
    started_at = time.perf_counter()
    child = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, env={**os.environ, "DETREG_CACHE": str(cache)}
    )
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - started_at
    if status != 0:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command)
    return Usage(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024)


def measure_group(commands: dict[str, list[str]], cache: Path) -> None:
    """Run commands in turn, several times, and print the minima of each beside the first one's.

    In turn, so that whatever else the machine does meanwhile slows all of them. Each turn has a
    cache of its own: the first check in it finds no manifest, and leaves one for those after it.
    """
    usages: dict[str, list[Usage]] = {name: [] for name in commands}
    for number in range(RUNS):
        for name, command in commands.items():
            usages[name].append(measure_once(command, cache / str(number)))

    minima = {}
    for name, runs in usages.items():
        minima[name] = Usage(
            cpu=min(usage.cpu for usage in runs),
            wall=min(usage.wall for usage in runs),
            memory=min(usage.memory for usage in runs),
        )
    peer = next(iter(minima.values()))
    for name, usage in minima.items():
        print_row(name, usage, peer)


def run_script(script: str, folder: Path) -> list[str]:
    """Return the command that does one of the scripts above."""
    return [sys.executable, "-c", script, str(folder)]


def run_check(folder: Path) -> list[str]:
    """Return the command that checks a dataset."""
    return [sys.executable, "-m", "detreg", "check", str(folder)]


def print_row(name: str, usage: Usage, peer: Usage) -> None:
    """Print what something took, and how many times its peer's."""
    cells = (
        f"{usage.cpu:.2f} ({usage.cpu / peer.cpu:.2f})",
        f"{usage.wall:.2f} ({usage.wall / peer.wall:.2f})",
        f"{usage.memory:.0f} ({usage.memory / peer.memory:.2f})",
    )
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def compare(share: float) -> None:
    """Draw the datasets, and print a row for each peer and each check."""
    with tempfile.TemporaryDirectory() as temporary:
        small, large, bare, cache = (
            Path(temporary) / name for name in ("small", "large", "bare", "cache")
        )
        # In a process of its own: the peak memory of a process begins with that of its parent.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            for folder, plan in ((small, SMALL), (large, COCO)):
                process.submit(write_dataset, folder, plan, share).result()
            process.submit(write_dataset, bare, BOXES_ONLY, share, large / "images").result()
        print("| | CPU s | wall s | MiB |\n|---|---|---|---|")

        measure_group(
            {
                "small: pycocotools and OpenCV": run_script(DECODE_ALL, small),
                "small: first check": run_check(small),
                "small: second check": run_check(small),
            },
            cache / "small",
        )
        # Its images take long to read, and once is enough.
        measure_once(run_check(large), cache / "large" / "0")
        for number in range(1, RUNS):
            shutil.copytree(cache / "large" / "0", cache / "large" / str(number))
        measure_group(
            {
                "COCO's size: json.load": run_script(LOAD_JSON, large),
                "COCO's size: annotations read": run_script(READ_ANNOTATIONS, large),
                "COCO's size: second check": run_check(large),
            },
            cache / "large",
        )
        measure_group(
            {
                "without polygons: json.load": run_script(LOAD_JSON, bare),
                "without polygons: annotations read": run_script(READ_ANNOTATIONS, bare),
            },
            cache / "bare",
        )


def main() -> None:
    """Draw, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="part of the images to draw")
    compare(parser.parse_args().share)


if __name__ == "__main__":
    main()
