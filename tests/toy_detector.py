"""A toy network that boxes the bright pixels of an image, so that every answer is known by hand.

And a dataset of bright boxes, of which a network with a higher limit finds fewer.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray

from detreg.data.boxes import Box as LabeledBox
from detreg.data.formats import write
from detreg.data.images import AnnotatedImage
from detreg.data.outlines import Outline
from detreg.inference.card import METADATA_KEY, Card
from detreg.inference.outputs import OUTPUTS
from detreg.inference.preprocessing import Preprocessing

Box = tuple[int, int, int, int]

LETTERBOX = Preprocessing(
    image_size=(64,), keep_aspect_ratio=True, max_aspect_ratio=1.0, pad_value=(114, 114, 114)
)
CARD = Card(
    template="yolox",
    classes=("boat", "buoy"),
    preprocessing=LETTERBOX,
    normalization={"mean": [0, 0, 0], "std": [1, 1, 1], "channels": "bgr"},
    hyperparameters={"image_size": [64], "per_item_lrate": 0.001, "load_from": None},
    eid="0" * 32,
    dataset_digest="abc",
    score_threshold=0.3,
    detreg_version="0.1.0",
)
CARD_WITH_MASKS = replace(CARD, outputs=tuple(output.name for output in OUTPUTS))

# The box around all pixels above a limit, or around the image where there are none, is a boat with
# the score (brightest pixel / 255); half that box is a buoy with half that score; the third row is
# padding.
_TOY = """
<ir_version: 8, opset_import: ["" : 17]>
toy (uint8[BATCH, HEIGHT, WIDTH, 3] images)
 => (float[BATCH, 3, 4] boxes, float[BATCH, 3] scores, int64[BATCH, 3] labels)
<float limit = {LIMIT}, int64 one = {1}, int64[1] middle = {1}, float[1, 3, 1] sizes = {1, 0.5, 0},
 float[1, 3] parts = {0.00392156862745098, 0.00196078431372549, 0},
 int64[1, 3] classes = {0, 1, -1}, float zero = {0}>
{
  pixels = Cast<to = 1>(images)
  brightness = ReduceMax<axes = [3], keepdims = 0>(pixels)
  bright = Greater(brightness, limit)
  mask = Cast<to = 1>(bright)
  columns = ReduceMax<axes = [1], keepdims = 0>(mask)
  rows = ReduceMax<axes = [2], keepdims = 0>(mask)
  x1 = ArgMax<axis = 1>(columns)
  y1 = ArgMax<axis = 1>(rows)
  last_x = ArgMax<axis = 1, select_last_index = 1>(columns)
  last_y = ArgMax<axis = 1, select_last_index = 1>(rows)
  x2 = Add(last_x, one)
  y2 = Add(last_y, one)
  corners = Concat<axis = 1>(x1, y1, x2, y2)
  box = Cast<to = 1>(corners)
  box_row = Unsqueeze(box, middle)
  boxes = Mul(box_row, sizes)
  best = ReduceMax<axes = [1, 2], keepdims = 0>(brightness)
  score_row = Unsqueeze(best, middle)
  scores = Mul(score_row, parts)
  nothing = Mul(scores, zero)
  zeros = Cast<to = 7>(nothing)
  labels = Add(zeros, classes)
}
"""


def write_toy_model(
    path: Path,
    card: Card | None = CARD,
    shape: tuple[str, str, str] = ("n", "h", "w"),
    limit: int = 200,
) -> Path:
    """Write the toy network; `shape` names or fixes batch, height and width.

    It finds what is brighter than `limit`, and has masks where the card says so.
    """
    text = _TOY.replace("LIMIT", str(limit))
    for axis, size in zip(("BATCH", "HEIGHT", "WIDTH"), shape, strict=True):
        text = text.replace(axis, size)

    model = onnx.parser.parse_model(text)
    if card is not None and card.has_masks:
        _add_masks(model)
    if card is not None:
        onnx.helper.set_model_props(model, {METADATA_KEY: card.to_json()})
    onnx.save(model, path)
    return path


def draw_grids() -> NDArray[np.float32]:
    """Return the grids (3, 28, 28) of what the toy network with masks finds.

    The boat is a disc with a hole, the buoy two triangles, and the third row is padding.
    """
    ys, xs = np.mgrid[:28, :28] - 13.5
    radius = np.hypot(xs, ys)
    boat = (radius < 13) & (radius > 4)
    buoy = np.abs(xs) < np.abs(ys) - 2
    grids = np.stack([boat, buoy, np.zeros_like(boat)])
    return np.where(grids, 0.95, 0.05).astype(np.float32) * grids.any((1, 2), keepdims=True)


def _add_masks(model: onnx.ModelProto) -> None:
    """Add the output `masks` to the toy network."""
    grids = onnx.numpy_helper.from_array(draw_grids()[None], "grids")
    axes = onnx.numpy_helper.from_array(np.array([2, 3]), "grid_axes")
    nodes = [
        onnx.helper.make_node("Unsqueeze", ["nothing", "grid_axes"], ["nothing_of_grids"]),
        onnx.helper.make_node("Add", ["nothing_of_grids", "grids"], ["masks"]),
    ]
    batch = model.graph.output[0].type.tensor_type.shape.dim[0]
    size = batch.dim_param or batch.dim_value
    shape = [size, *draw_grids().shape]
    output = onnx.helper.make_tensor_value_info("masks", onnx.TensorProto.FLOAT, shape)
    model.graph.initializer.extend([grids, axes])
    model.graph.node.extend(nodes)
    model.graph.output.append(output)


def draw_image(width: int, height: int, box: Box, brightness: int = 255) -> NDArray[np.uint8]:
    """Return a dark image with one bright red box."""
    image = np.full((height, width, 3), 20, np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = (brightness, 30, 30)
    return image


def encode_image(image: NDArray[np.uint8], suffix: str = ".png") -> bytes:
    """Return an RGB image as the bytes of a file."""
    _, encoded = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return encoded.tobytes()


def write_toy_dataset(
    folder: Path,
    brightness: Sequence[int],
    first: int = 0,
    first_of_train: int = 1000,
    has_masks: bool = False,
) -> Path:
    """Write a COCO dataset whose val split has an image with one boat for each brightness.

    The train split has two images. Images differ by their place and brightness, so that a dataset
    can have images of another one: `first` and `first_of_train` are the first places. Masks fill
    their boxes.
    """
    splits = {
        "train": [_make_toy_image(first_of_train + place, 255) for place in range(2)],
        "val": [_make_toy_image(first + place, value) for place, value in enumerate(brightness)],
    }
    if has_masks:
        splits = {name: [_add_mask(image) for image in images] for name, images in splits.items()}
    write("coco", folder, ("boat", "buoy"), splits)
    return folder


def _make_toy_image(place: int, brightness: int) -> AnnotatedImage:
    left, top = place % 40, place // 40
    box = (left, top, left + 20, top + 12)
    content = encode_image(draw_image(64, 64, box, brightness))
    return AnnotatedImage(f"{place:04}.png", content, 64, 64, (LabeledBox(box, "boat"),))


def _add_mask(image: AnnotatedImage) -> AnnotatedImage:
    x1, y1, x2, y2 = image.boxes[0].corners
    return replace(image, outlines={0: Outline(((x1, y1, x2, y1, x2, y2, x1, y2),))})
