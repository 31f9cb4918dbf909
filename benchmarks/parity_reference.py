r"""Compare the COCO network through detreg's export with the authors' own export.

    detreg export yolox --load_from ../shared/weights/yolox_nano_coco.pth \
        --base_model yolox_nano --image_size 416 --out nano.onnx
    python benchmarks/parity_reference.py nano.onnx \
        ../shared/weights/yolox_nano_coco_reference.onnx ../shared/data/coco_photos

The authors' file gets textbook decoding and NMS in numpy. Matched: same class, IoU over 0.99, score
within 0.001, of all detections over score 0.05 on both sides. About half a minute.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from detreg import Detections, Detector
from detreg.export.parity import count_matches

SIZE = 416
STRIDES = (8, 16, 32)
NMS_IOU = 0.65
MIN_SCORE = 0.01
MAX_DETECTIONS = 300
GRAY = 114
"""The value with which YOLOX pads images."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def main(exported: str, reference: str, folder: str) -> None:
    """Print the share of matched detections."""
    detector = Detector.load(exported)
    session = ort.InferenceSession(reference, providers=["CPUExecutionProvider"])

    ours: dict[int, Detections] = {}
    theirs: dict[int, Detections] = {}
    for number, path in enumerate(sorted(Path(folder).glob("*.jpg"))):
        bgr = cv2.imread(str(path))
        assert bgr is not None, path
        rgb = np.ascontiguousarray(bgr[..., ::-1])
        ours[number] = detector(rgb, score_threshold=MIN_SCORE, max_detections=MAX_DETECTIONS)
        theirs[number] = detect(session, bgr, detector.classes)

    matches = count_matches(ours, theirs)
    print(
        f"{matches.matched} of {matches.total} detections over score 0.05 on {len(ours)} "
        f"photographs matched: {matches.matched_share:.2%}"
    )


def detect(
    session: ort.InferenceSession, bgr: NDArray[np.uint8], classes: tuple[str, ...]
) -> Detections:
    """Detect as a textbook does: letterbox, network, decoding, NMS within each class."""
    height, width = bgr.shape[:2]
    canvas, (small_width, small_height) = letterbox(bgr)
    (raw,) = session.run(None, {"images": canvas.transpose(2, 0, 1)[None]})

    boxes = decode_boxes(raw[0])
    labels = raw[0, :, 5:].argmax(axis=1)
    scores = raw[0, :, 5:].max(axis=1) * raw[0, :, 4]

    kept: list[int] = []
    for label in np.unique(labels):
        candidates = np.flatnonzero((labels == label) & (scores >= MIN_SCORE))
        kept += suppress(boxes, scores, candidates)
    kept.sort(key=lambda index: -scores[index])
    order = np.array(kept[:MAX_DETECTIONS], np.int64)

    scale = np.array([small_width / width, small_height / height] * 2, np.float32)
    limits = np.array([width, height] * 2)
    return Detections(
        np.clip(boxes[order] / scale, 0, limits).astype(np.float32),
        scores[order].astype(np.float32),
        labels[order].astype(np.int64),
        classes,
    )


def letterbox(bgr: NDArray[np.uint8]) -> tuple[Floats, tuple[int, int]]:
    """Resize an image into a gray square; return it and the (width, height) of the image in it."""
    height, width = bgr.shape[:2]
    ratio = min(SIZE / height, SIZE / width)
    size = (int(width * ratio + 0.5), int(height * ratio + 0.5))
    small = cv2.resize(bgr, size, interpolation=cv2.INTER_LINEAR)

    canvas = np.full((SIZE, SIZE, 3), GRAY, np.float32)
    canvas[: size[1], : size[0]] = small
    return canvas, size


def decode_boxes(raw: Floats) -> Floats:
    """Turn raw outputs (cells, 5 + classes) into boxes xyxy (cells, 4) in pixels of the input."""
    cells = []
    for stride in STRIDES:
        side = SIZE // stride
        cells += [(x, y, stride) for y in range(side) for x in range(side)]
    grid = np.array(cells, np.float32)

    center = (raw[:, :2] + grid[:, :2]) * grid[:, 2:]
    half = np.exp(raw[:, 2:4]) * grid[:, 2:] / 2
    return np.concatenate([center - half, center + half], axis=1)


def suppress(boxes: Floats, scores: Floats, candidates: Ints) -> list[int]:
    """Return the candidates that NMS keeps, best first."""
    kept: list[int] = []
    best_first = candidates[np.argsort(-scores[candidates], kind="stable")]
    for index in best_first.tolist():
        if all(compute_iou(boxes[index], boxes[other]) <= NMS_IOU for other in kept):
            kept.append(index)
    return kept


def compute_iou(a: Floats, b: Floats) -> float:
    """Compute the intersection over union of two boxes xyxy."""
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    intersection = float(sides[0] * sides[1])
    area_a = (a[2] - a[0]) * (a[3] - a[1])
    area_b = (b[2] - b[0]) * (b[3] - b[1])
    return intersection / float(area_a + area_b - intersection)


if __name__ == "__main__":
    main(*sys.argv[1:])
