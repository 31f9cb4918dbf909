"""Measure the share of detections that equal those of MMDetection's published pipeline.

    python benchmarks/padding.py ../shared/data/coco_photos          a minute on two CPU cores

RetinaNet on ResNet-50 with random weights whose scores spread, at 320 px. The published pipeline
resizes to the same sizes and leaves normalization and padding to the network's preprocessor, which
pads normalized images with 0. Equal: same class, IoU over 0.99, score within 0.001, of all
detections over score 0.05 on both sides.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from torch import Tensor, nn

from detreg import Detections, templates
from detreg.evaluation.matching import match_detections
from detreg.inference.from_template import make_preprocessing
from detreg.inference.images import read_image
from detreg.params import build
from detreg.training.compose import compose_network, load_published_config
from detreg.training.loaders import compose_scoring_loader
from detreg.training.network import build_network, predict

CLASSES = tuple(f"class {number}" for number in range(80))
MIN_SCORE = 0.05
IOU = 0.99
SCORE_TOLERANCE = 0.001
VALUES = {
    "base_model": "resnet50",
    "image_size": 320,
    "max_aspect_ratio": 1.7,
    "pretrained_weights": "none",
    "pretrain_base_data": "none",
}


def write_annotations(photos: Path, folder: Path) -> Path:
    """Write a COCO file of the photographs in a folder, without boxes."""
    images = []
    for number, file in enumerate(sorted(photos.glob("*.jpg")), start=1):
        height, width = read_image(file).shape[:2]
        image = {"id": number, "file_name": str(file.resolve()), "width": width, "height": height}
        images.append(image)
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    path = folder / "photos.json"
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    return path


def spread_scores(detector: nn.Module, pixels: Tensor) -> None:
    """Scale the outputs on random pixels to a deviation of 2 (classes) and of 0.5 (boxes).

    A fresh network finds nothing.
    """
    head: Any = detector.bbox_head
    extract_features: Any = detector.extract_feat
    torch.manual_seed(1)
    for layer, deviation in ((head.retina_cls, 2.0), (head.retina_reg, 0.5)):
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)

        outputs: list[Tensor] = []
        hook = layer.register_forward_hook(lambda *seen, into=outputs: into.append(seen[-1]))
        with torch.no_grad():
            head(extract_features(pixels))
        hook.remove()
        layer.weight.data.mul_(deviation / float(outputs[0].std()))


def use_published_pipeline(loader: dict[str, Any], limits: tuple[int, int]) -> dict[str, Any]:
    """Return a loader's configuration with MMDetection's packaged test pipeline at another size."""
    meta_keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": limits, "keep_ratio": True},
        {"type": "PackDetInputs", "meta_keys": meta_keys},
    ]
    return {**loader, "dataset": {**loader["dataset"], "pipeline": pipeline}}


def count_equal(ours: dict[int, Detections], theirs: dict[int, Detections]) -> tuple[int, int]:
    """Count the detections of both sides that have an equal one on the other side, and all."""
    equal = total = 0
    for image_id, detections in ours.items():
        a = detections.filter(MIN_SCORE)
        b = theirs[image_id].filter(MIN_SCORE)
        equal += 2 * len(match_detections(a, b, iou=IOU, score_tolerance=SCORE_TOLERANCE))
        total += len(a) + len(b)
    return equal, total


def main() -> None:
    """Print the share."""
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", type=Path)
    arguments = parser.parse_args()

    template = templates.find_template("msc10")
    params = build(template.params, VALUES)
    published = load_published_config(template, params)
    config = compose_network(template, params, published, len(CLASSES))
    torch.manual_seed(0)
    detector: Any = build_network(config, None)
    spread_scores(detector, torch.randn(1, 3, 320, 448))

    with tempfile.TemporaryDirectory() as folder:
        annotations = write_annotations(arguments.photos, Path(folder))
        loader = compose_scoring_loader(template, params, annotations, CLASSES, 0)
        ours = dict(predict(detector, loader, CLASSES))

        preprocessor = ConfigDict(published.model.data_preprocessor.to_dict())
        detector.data_preprocessor = MODELS.build(preprocessor)
        limits = make_preprocessing(template, params).limits
        theirs = dict(predict(detector, use_published_pipeline(loader, limits), CLASSES))

    equal, total = count_equal(ours, theirs)
    print(
        f"{equal} of {total} detections on {len(ours)} photographs equal those of "
        f"the published pipeline: {equal / total:.2%}"
    )


if __name__ == "__main__":
    main()
