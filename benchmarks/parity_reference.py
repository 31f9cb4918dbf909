"""The COCO network through detreg's export, against the authors' own export with textbook decoding and NMS in numpy.

    detreg export yolox --load_from ../shared/weights/yolox_nano_coco.pth --base_model yolox_nano --image_size 416 --out nano.onnx
    python benchmarks/parity_reference.py nano.onnx ../shared/weights/yolox_nano_coco_reference.onnx ../shared/data/coco_photos

Matched: same class, IoU over 0.99, score within 0.001, of all detections over score 0.05 on both sides. About half a minute.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from detreg import Detections, Detector
from detreg.export.parity import count_matches

SIZE, IOU, SCORE = 416, 0.65, 0.01
Floats = NDArray[np.float32]


def main(exported: str, reference: str, folder: str) -> None:
    """Prints the share of matched detections."""
    detector = Detector.load(exported)
    session = ort.InferenceSession(reference, providers=["CPUExecutionProvider"])
    ours: dict[int, Detections] = {}
    theirs: dict[int, Detections] = {}
    for number, path in enumerate(sorted(Path(folder).glob("*.jpg"))):
        bgr = cv2.imread(str(path))
        assert bgr is not None, path
        ours[number] = detector(
            np.ascontiguousarray(bgr[..., ::-1]), score_threshold=SCORE, max_detections=300
        )
        theirs[number] = detect(session, bgr, detector.classes)
    matches = count_matches(ours, theirs)
    print(
        f"{matches.matched} of {matches.total} detections over score 0.05 on {len(ours)} photographs matched: {matches.matched_share:.2%}"
    )


def detect(
    session: ort.InferenceSession, bgr: NDArray[np.uint8], classes: tuple[str, ...]
) -> Detections:
    """Letterbox, network, decoding and per-class NMS as a textbook has them."""
    height, width = bgr.shape[:2]
    ratio = min(SIZE / height, SIZE / width)
    small = cv2.resize(
        bgr, (int(width * ratio + 0.5), int(height * ratio + 0.5)), interpolation=cv2.INTER_LINEAR
    )
    canvas = np.full((SIZE, SIZE, 3), 114, np.float32)
    canvas[: small.shape[0], : small.shape[1]] = small
    (raw,) = session.run(None, {"images": canvas.transpose(2, 0, 1)[None]})
    cells = [
        (x, y, stride)
        for stride in (8, 16, 32)
        for y in range(SIZE // stride)
        for x in range(SIZE // stride)
    ]
    grid = np.array(cells, np.float32)
    centre = (raw[0, :, :2] + grid[:, :2]) * grid[:, 2:]
    half = np.exp(raw[0, :, 2:4]) * grid[:, 2:] / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    labels = raw[0, :, 5:].argmax(axis=1)
    scores = raw[0, :, 5:].max(axis=1) * raw[0, :, 4]
    kept = [
        index
        for label in np.unique(labels)
        for index in _nms(boxes, scores, np.flatnonzero((labels == label) & (scores >= SCORE)))
    ]
    order = np.array(sorted(kept, key=lambda index: -scores[index])[:300], np.int64)
    scale = np.array([small.shape[1] / width, small.shape[0] / height] * 2, np.float32)
    clipped = np.clip(boxes[order] / scale, 0, np.array([width, height] * 2)).astype(np.float32)
    return Detections(
        clipped, scores[order].astype(np.float32), labels[order].astype(np.int64), classes
    )


def _nms(boxes: Floats, scores: Floats, candidates: NDArray[np.int64]) -> list[int]:
    kept: list[int] = []
    for index in candidates[np.argsort(-scores[candidates], kind="stable")]:
        if all(_iou(boxes[index], boxes[other]) <= IOU for other in kept):
            kept.append(int(index))
    return kept


def _iou(a: Floats, b: Floats) -> float:
    side = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    shared = float(side[0] * side[1])
    return shared / float((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


if __name__ == "__main__":
    main(*sys.argv[1:])
