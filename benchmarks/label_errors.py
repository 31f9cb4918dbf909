"""Measure how many planted label errors the report's list of probable ones finds.

    DETREG_WEIGHTS=../shared/weights python benchmarks/label_errors.py ../shared/data/bccd

Of all boxes of train and val 5 % are dropped, shifted or given another class, a third each.
yolox_nano then trains from COCO weights on what is left, and judges val, which it has not seen, and
train, which it has partly learned by heart; with `--folds 2` the halves judge each other. An entry
of the list counts as right only if it names a planted error: errors that the dataset had before
count against it. Eight epochs of 292 images at 416 px take about two minutes of a core.
"""

import argparse
import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detreg.data.dataset import load_dataset
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.label_errors import LabelError, find_label_errors
from detreg.evaluation.matching import UNMATCHED, compute_iou
from detreg.evaluation.predictions import predict_split
from detreg.inference.detections import Detections
from detreg.inference.detector import Detector

SHARE = 0.05
KINDS = ("dropped", "shifted", "swapped")
MIN_IOU = 0.5
"""Of a proposed box with the box that was there before."""
SIZES: Mapping[str, Any] = {"base_model": "yolox_nano", "batch_size": 8}


@dataclass(frozen=True)
class PlantedError:
    """A box that was changed: `box` (xywh) is where it was; `annotation_id` is None if dropped."""

    kind: str
    image_id: int
    box: tuple[float, ...]
    annotation_id: int | None


def read_images(data: str) -> dict[str, Any]:
    """Return the canonical content of train and val as one, with ids that are unique."""
    dataset = load_dataset(data)
    content: dict[str, Any] = {"images": [], "annotations": []}
    for name in ("train", "val"):
        split = json.loads(dataset.splits[name].annotations.read_bytes())
        content["categories"] = split["categories"]
        new_ids = {}
        for image in split["images"]:
            new_ids[image["id"]] = len(content["images"]) + 1
            content["images"].append({**image, "id": new_ids[image["id"]], "was_in": name})
        for annotation in split["annotations"]:
            new = {
                "id": len(content["annotations"]) + 1,
                "image_id": new_ids[annotation["image_id"]],
            }
            content["annotations"].append({**annotation, **new})
    return content


def plant_errors(
    content: Mapping[str, Any], seed: int
) -> tuple[dict[str, Any], list[PlantedError]]:
    """Return the content with a share of its boxes changed, and what was changed."""
    rng = np.random.default_rng(seed)
    annotations = content["annotations"]
    chosen = rng.choice(len(annotations), round(SHARE * len(annotations)), replace=False)
    kind_of = {int(place): KINDS[number % 3] for number, place in enumerate(chosen)}
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    categories = [category["id"] for category in content["categories"]]

    kept, planted = [], []
    for place, annotation in enumerate(annotations):
        kind = kind_of.get(place)
        changed = dict(annotation)
        if kind == "shifted":
            changed["bbox"] = shift_box(annotation["bbox"], sizes[annotation["image_id"]], rng)
            changed["area"] = changed["bbox"][2] * changed["bbox"][3]
        if kind == "swapped":
            others = [other for other in categories if other != annotation["category_id"]]
            changed["category_id"] = int(rng.choice(others))
        if kind != "dropped":
            kept.append(changed)
        if kind is not None:
            new_id = None if kind == "dropped" else annotation["id"]
            box = tuple(annotation["bbox"])
            error = PlantedError(kind, annotation["image_id"], box, new_id)
            planted.append(error)
    return {**content, "annotations": kept}, planted


def shift_box(box: Sequence[float], size: tuple[int, int], rng: np.random.Generator) -> list[float]:
    """Move a box by 0.4 to 0.7 of its sides in both directions, staying within the image."""
    x, y, width, height = box
    for _ in range(100):
        share = rng.uniform(0.4, 0.7, 2) * rng.choice([-1, 1], 2)
        left, top = x + share[0] * width, y + share[1] * height
        if 0 <= left <= size[0] - width and 0 <= top <= size[1] - height:
            return [float(left), float(top), width, height]
    # A box as large as its image cannot move: it is halved.
    return [x, y, width / 2, height / 2]


def write_dataset(content: Mapping[str, Any], splits: Mapping[str, set[int]], folder: Path) -> None:
    """Write sets of images as the splits of a COCO dataset, their files by links."""
    (folder / "annotations").mkdir(parents=True)
    for name, chosen in splits.items():
        images = []
        for image in content["images"]:
            if image["id"] in chosen:
                link = folder / name / Path(image["file_name"]).name
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(image["file_name"])
                images.append({**image, "file_name": f"{name}/{link.name}"})
        part = {
            "images": images,
            "annotations": [a for a in content["annotations"] if a["image_id"] in chosen],
            "categories": content["categories"],
        }
        (folder / "annotations" / f"instances_{name}.json").write_text(json.dumps(part))


def train_and_predict(
    content: Mapping[str, Any],
    splits: Mapping[str, set[int]],
    judged: set[int],
    options: Mapping[str, Any],
) -> dict[int, Detections]:
    """Train on train and val, and return what the exported model finds on some images, by id."""
    # torch takes seconds to import.
    from detreg.pipeline import train  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(content, splits, folder)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
        os.environ["MLFLOW_REGISTRY_URI"] = os.environ["MLFLOW_TRACKING_URI"]
        result = train("yolox", data=str(folder), **SIZES, **options)
        detector = Detector.load(result["run_id"])
        kept = [image for image in content["images"] if image["id"] in judged]
        truth = GroundTruth.load(select_images(content, judged))
        print(f"{len(kept)} images judged; val mAP {result['mAP']:.3f}", flush=True)
        return predict_split(detector, truth)


def select_images(content: Mapping[str, Any], chosen: set[int]) -> dict[str, Any]:
    """Return the part of the content that is about some images."""
    return {
        "images": [image for image in content["images"] if image["id"] in chosen],
        "annotations": [a for a in content["annotations"] if a["image_id"] in chosen],
        "categories": content["categories"],
    }


def find_named(
    error: LabelError,
    annotation_ids: Sequence[int],
    detections: Detections,
    planted: Sequence[PlantedError],
) -> set[PlantedError]:
    """Return the planted errors of an image that an entry of its list names."""
    named = set()
    for plant in planted:
        if error.target != UNMATCHED and annotation_ids[error.target] == plant.annotation_id:
            named.add(plant)
        if error.detection == UNMATCHED or plant.kind == "swapped":
            continue
        x, y, width, height = plant.box
        was = np.array([[x, y, x + width, y + height]])
        proposed = detections.boxes[error.detection : error.detection + 1]
        if compute_iou(proposed, was)[0, 0] >= MIN_IOU:
            named.add(plant)
    return named


def print_figures(
    name: str,
    content: Mapping[str, Any],
    judged: set[int],
    predictions: Mapping[int, Detections],
    planted: Sequence[PlantedError],
) -> None:
    """Print precision and recall of the list of some images, and of each of its kinds."""
    part = select_images(content, judged)
    truth = GroundTruth.load(part)
    own = truth.align({image_id: predictions[image_id] for image_id in judged})
    annotation_ids: dict[int, list[int]] = {image_id: [] for image_id in judged}
    for annotation in part["annotations"]:
        annotation_ids[annotation["image_id"]].append(annotation["id"])
    of_image = {i: [plant for plant in planted if plant.image_id == i] for i in judged}

    found = find_label_errors(truth, own)
    named: set[PlantedError] = set()
    entries: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for error in found:
        image_id = error.image_id
        hits = find_named(error, annotation_ids[image_id], own[image_id], of_image[image_id])
        named |= hits
        entries[error.kind] += 1
        right[error.kind] += bool(hits)

    total = sum(len(plants) for plants in of_image.values())
    precision = right.total() / max(len(found), 1)
    print(f"{name}: {len(found)} entries, {total} planted: precision {precision:.2f}, ", end="")
    print(f"recall {len(named) / max(total, 1):.2f}")
    for kind, count in entries.items():
        print(f"  {kind}: {right[kind]} of {count} entries")
    for kind in KINDS:
        of_kind = sum(plant.kind == kind for plants in of_image.values() for plant in plants)
        print(f"  {kind}: {sum(plant.kind == kind for plant in named)} of {of_kind} found")


def main() -> None:
    """Plant errors, train, and print what the list finds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--image_size", type=int, default=416)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folds", type=int, default=1, help="parts that are judged by the others")
    arguments = parser.parse_args()

    content, planted = plant_errors(read_images(arguments.data), arguments.seed)
    options = {
        "image_size": arguments.image_size,
        "num_epochs": arguments.epochs,
        "seed": arguments.seed,
    }
    if arguments.folds == 1:
        splits: dict[str, set[int]] = {"train": set(), "val": set()}
        for image in content["images"]:
            splits[image["was_in"]].add(image["id"])
        predictions = train_and_predict(content, splits, splits["train"] | splits["val"], options)
        for name, judged in splits.items():
            print_figures(name, content, judged, predictions, planted)
        return

    everything = {image["id"] for image in content["images"]}
    order = np.random.default_rng(arguments.seed).permutation(sorted(everything)).tolist()
    predictions = {}
    for fold in range(arguments.folds):
        judged = set(order[fold :: arguments.folds])
        # The judged images also choose the checkpoint, as val does in any training.
        splits = {"train": everything - judged, "val": judged}
        predictions |= train_and_predict(content, splits, judged, options)
    print_figures(f"{arguments.folds} folds", content, everything, predictions, planted)


if __name__ == "__main__":
    main()
