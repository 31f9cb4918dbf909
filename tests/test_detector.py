"""The detector on a toy network that boxes the bright pixels of a picture, so that every answer can be worked out by hand."""

import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from detreg.errors import DataError, NotFoundError, RefusedError, UsageError
from detreg.inference import images, runtime
from detreg.inference.card import METADATA_KEY, Card
from detreg.inference.detections import Detections
from detreg.inference.detector import Detector
from detreg.inference.preprocessing import Preprocessing
from detreg.report.drawing import draw_detections

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

# The box around all pixels above 200 is a boat with the score (brightest pixel / 255); half that box is a buoy with half that score;
# the third row is padding.
TOY = """
<ir_version: 8, opset_import: ["" : 17]>
toy (uint8[BATCH, HEIGHT, WIDTH, 3] images) => (float[BATCH, 3, 4] boxes, float[BATCH, 3] scores, int64[BATCH, 3] labels)
<float limit = {200}, int64 one = {1}, int64[1] middle = {1}, float[1, 3, 1] sizes = {1, 0.5, 0},
 float[1, 3] parts = {0.00392156862745098, 0.00196078431372549, 0}, int64[1, 3] classes = {0, 1, -1}, float zero = {0},
 int64[4] stem = {32, 3, 3, 3}, int64[4] body = {32, 32, 3, 3}>
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
  LOAD
  score_row = Unsqueeze(loaded, middle)
  scores = Mul(score_row, parts)
  nothing = Mul(scores, zero)
  zeros = Cast<to = 7>(nothing)
  labels = Add(zeros, classes)
}
"""
LOAD = """
  planes = Transpose<perm = [0, 3, 1, 2]>(pixels)
  stem_weights = ConstantOfShape<value = float[1] {0.001}>(stem)
  body_weights = ConstantOfShape<value = float[1] {0.001}>(body)
  x_0 = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(planes, stem_weights)
  CONVOLUTIONS
  mean = ReduceMean<axes = [1, 2, 3], keepdims = 0>(x_LAST)
  weightless = Mul(mean, zero)
  loaded = Add(best, weightless)
"""


def toy_model(
    path: Path,
    card: Card | None = CARD,
    shape: tuple[str, str, str] = ("n", "h", "w"),
    convolutions: int = 0,
) -> Path:
    """Writes the toy network; `shape` names or fixes batch, height and width, `convolutions` make it as slow as a real network."""
    load = "loaded = Identity(best)"
    if convolutions:
        body = "\n".join(
            f"x_{n + 1} = Conv<pads = [1, 1, 1, 1]>(x_{n}, body_weights)"
            for n in range(convolutions)
        )
        load = LOAD.replace("CONVOLUTIONS", body).replace("LAST", str(convolutions))
    text = TOY.replace("LOAD", load)
    for name, value in zip(("BATCH", "HEIGHT", "WIDTH"), shape, strict=True):
        text = text.replace(name, value)
    model = onnx.parser.parse_model(text)
    if card is not None:
        onnx.helper.set_model_props(model, {METADATA_KEY: card.to_json()})
    onnx.save(model, path)
    return path


def picture(
    width: int, height: int, box: tuple[int, int, int, int], brightness: int = 255
) -> NDArray[np.uint8]:
    image = np.full((height, width, 3), 20, np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = (brightness, 30, 30)
    return image


def encoded(image: NDArray[np.uint8], suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return Detector.load(toy_model(tmp_path_factory.mktemp("toy") / "toy.onnx"))


# How sides are rounded: factor = min(longest / longer side, shortest / shorter side), each side int(side * factor + 0.5).
@pytest.mark.parametrize(
    ("size", "aspect", "original", "resized", "canvas"),
    [
        (640, 1.0, (640, 480), (640, 480), (640, 640)),
        (640, 1.0, (500, 375), (640, 480), (640, 640)),
        (640, 1.0, (427, 640), (427, 640), (640, 640)),
        (640, 1.0, (1, 5000), (1, 640), (640, 640)),  # 0.128 pixels wide, but never none
        (
            100,
            1.0,
            (50, 50),
            (100, 100),
            (128, 128),
        ),  # the canvas divides by 32 although the size does not
        (800, 1.7, (640, 480), (1067, 800), (1088, 800)),  # 1066.67 rounds up
        (800, 1.7, (480, 640), (800, 1067), (800, 1088)),
        (800, 1.7, (1000, 300), (1360, 408), (1376, 416)),  # the longer side decides
        (512, 1.5, (333, 500), (511, 768), (512, 768)),  # 333 * 768 / 500 = 511.488
        (512, 1.5, (512, 768), (512, 768), (512, 768)),
        (512, 2.0, (300, 301), (512, 514), (512, 544)),  # 301 * 512 / 300 = 513.7
        (
            320,
            1.3,
            (100, 400),
            (104, 416),
            (128, 416),
        ),  # 320 * 1.3 is 416 in spite of floating point
    ],
)
def test_sizes_are_those_of_mmcv(
    size: int,
    aspect: float,
    original: tuple[int, int],
    resized: tuple[int, int],
    canvas: tuple[int, int],
) -> None:
    preprocessing = Preprocessing((size,), True, aspect, (0, 0, 0))
    assert preprocessing.compute_resized_size(*original) == resized
    assert preprocessing.compute_canvas_size(*resized) == canvas
    assert preprocessing.fixed_canvas == (canvas if aspect == 1.0 else None)


@pytest.mark.parametrize(("image_size", "exact"), [((320,), (320, 320)), ((800, 512), (800, 512))])
def test_without_aspect_ratio_every_picture_gets_one_size(
    image_size: tuple[int, ...], exact: tuple[int, int]
) -> None:
    preprocessing = Preprocessing(image_size, False, 1.5, (0, 0, 0))
    assert (
        preprocessing.compute_resized_size(77, 1234)
        == preprocessing.exact_size
        == preprocessing.fixed_canvas
        == exact
    )
    assert preprocessing.prepare(picture(77, 200, (0, 0, 1, 1))).pixels.shape == (
        exact[1],
        exact[0],
        3,
    )


def test_limits_do_not_lose_a_pixel_to_floating_point() -> None:
    assert Preprocessing((800,), True, 1.7, (0, 0, 0)).limits == (1360, 800)


def test_impossible_preprocessing_is_refused_with_every_reason() -> None:
    with pytest.raises(UsageError) as refused:
        Preprocessing((800, 512), True, 0.5, (300, 0, 0), 0)
    assert [problem.split()[0] for problem in refused.value.problems] == [
        "image_size=(800,",
        "max_aspect_ratio",
        "pad_value",
        "pad_divisor",
    ]


def test_preparing_resizes_and_pads_right_and_below() -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 96, 3), np.uint8)
    prepared = LETTERBOX.prepare(image)
    assert prepared.pixels.shape == (64, 64, 3)
    assert (prepared.scale, prepared.original_size) == ((64 / 96, 32 / 48), (96, 48))
    np.testing.assert_array_equal(
        prepared.pixels[:32], cv2.resize(image, (64, 32), interpolation=cv2.INTER_LINEAR)
    )
    assert (prepared.pixels[32:] == 114).all()


def test_boxes_come_back_in_the_pictures_own_pixels(detector: Detector) -> None:
    found = detector(picture(128, 96, (32, 16, 64, 48)))
    np.testing.assert_allclose(
        found.boxes, [[32, 16, 64, 48], [16, 8, 32, 24]], atol=2
    )  # one pixel of the input is two here
    np.testing.assert_allclose(found.scores, [1, 0.5], atol=1e-6)
    assert found.labels.tolist() == [0, 1]
    assert found.names == ["boat", "buoy"]
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (
        np.float32,
        np.float32,
        np.int64,
    )


def test_boxes_are_clipped_to_the_picture(detector: Detector) -> None:
    dark_pad = replace(
        CARD.preprocessing, pad_value=(255, 255, 255)
    )  # the padding is the brightest region, so the box reaches into it
    found = Detector(detector.session, replace(CARD, preprocessing=dark_pad))(
        picture(128, 96, (32, 16, 64, 48))
    )
    assert found.boxes[0].tolist() == [0, pytest.approx(16, abs=2), 128, 96]


@pytest.mark.parametrize(
    ("threshold", "most", "count"),
    [(None, 100, 2), (0.6, 100, 1), (0.0, 100, 2), (1.0, 100, 1), (0.0, 1, 1)],
)
def test_threshold_and_number(
    detector: Detector, threshold: float | None, most: int, count: int
) -> None:
    assert len(detector(picture(64, 64, (8, 8, 16, 16)), threshold, most)) == count


def test_a_picture_with_nothing_in_it(detector: Detector) -> None:
    assert len(detector(np.zeros((40, 40, 3), np.uint8))) == 0


@pytest.mark.parametrize("aspect", [1.0, 2.0])
@pytest.mark.parametrize("batch", ["n", "1", "3"])
def test_a_batch_equals_one_by_one(tmp_path: Path, aspect: float, batch: str) -> None:
    card = replace(CARD, preprocessing=replace(LETTERBOX, max_aspect_ratio=aspect))
    detector = Detector.load(toy_model(tmp_path / "toy.onnx", card, (batch, "h", "w")))
    sizes = [(64, 64), (128, 64), (64, 128), (90, 60), (64, 64), (300, 40), (128, 64), (65, 64)]
    images = [
        picture(width, height, (5, 6, 20 + n, 30), 210 + n)
        for n, (width, height) in enumerate(sizes)
    ]
    for together, alone in zip(
        detector.batch(images, batch_size=2), (detector(image) for image in images), strict=True
    ):
        np.testing.assert_array_equal(together.boxes, alone.boxes)
        np.testing.assert_array_equal(together.scores, alone.scores)
        np.testing.assert_array_equal(together.labels, alone.labels)
    assert detector.batch([]) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "photo.jpg",
        np.zeros((4, 4)),
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(detector: Detector, wrong: object) -> None:
    with pytest.raises(TypeError, match="uint8 array"):
        detector(wrong)  # type: ignore[arg-type]


def test_limits_out_of_range_are_refused_together(detector: Detector) -> None:
    with pytest.raises(UsageError) as refused:
        detector(picture(8, 8, (0, 0, 1, 1)), score_threshold=1.5, max_detections=0)
    assert len(refused.value.problems) == 2


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a network")
    with pytest.raises(DataError, match=r"broken.onnx: onnxruntime cannot open it"):
        Detector.load(tmp_path / "broken.onnx")
    with pytest.raises(DataError, match=r"bare.onnx: .*without detreg's card"):
        Detector.load(toy_model(tmp_path / "bare.onnx", card=None))
    with pytest.raises(DataError, match="takes images of"):
        Detector.load(toy_model(tmp_path / "sides.onnx", shape=("n", "32", "64")))
    with pytest.raises(NotFoundError, match="no such file"):
        Detector.load(tmp_path / "missing.onnx")
    with pytest.raises(UsageError, match="is not a model"):
        Detector.load("yolox")


def test_gpu_is_never_replaced_silently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_model(tmp_path / "toy.onnx")
    monkeypatch.setattr(runtime, "count_cuda_devices", lambda: 0)
    assert Detector.load(model, threads=1).device == "cpu"
    with pytest.raises(RefusedError, match="shows no GPU"):
        Detector.load(model, require_gpu=True)
    monkeypatch.setattr(runtime, "count_cuda_devices", lambda: 1)
    monkeypatch.setattr(runtime.ort, "get_available_providers", lambda: [runtime.CPU])
    with pytest.warns(RuntimeWarning, match="built without CUDA"):
        Detector.load(model)
    with pytest.raises(RefusedError, match="built without CUDA"):
        Detector.load(model, require_gpu=True)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"boxes": np.zeros((2, 4))}, "boxes must be float32"),
        ({"labels": np.zeros(2, np.int32)}, "labels must be int64"),
        ({"scores": np.array([0.1, 0.2], np.float32)}, "descend"),
        ({"scores": np.array([np.nan, 0.2], np.float32)}, "finite"),
        ({"labels": np.array([0, 2])}, "labels must lie in 0..1"),
    ],
)
def test_detections_are_valid_once_made(
    changes: dict[str, NDArray[np.float32]], problem: str
) -> None:
    values = {
        "boxes": np.zeros((2, 4), np.float32),
        "scores": np.array([0.2, 0.1], np.float32),
        "labels": np.array([0, 1]),
    } | changes
    with pytest.raises(DataError, match=problem):
        Detections(**values, class_names=("boat", "buoy"))


def test_coco_rows(detector: Detector) -> None:
    rows = detector(picture(64, 64, (8, 16, 24, 48))).to_coco(7)
    assert rows[0] == {
        "image_id": 7,
        "category_id": 0,
        "category_name": "boat",
        "bbox": [8.0, 16.0, 16.0, 32.0],
        "score": pytest.approx(1),
    }


@pytest.mark.parametrize("size", [(40, 30), (640, 480), (3000, 2000)])
def test_drawing_leaves_the_picture_alone_and_marks_the_box(
    detector: Detector, size: tuple[int, int]
) -> None:
    width, height = size
    image = picture(width, height, (width // 4, height // 4, width // 2, height // 2))
    before = image.copy()
    drawn = draw_detections(image, detector(image))
    np.testing.assert_array_equal(image, before)
    changed = (drawn != image).any(axis=2).mean()
    assert drawn.shape == image.shape
    assert 0.002 < changed < 0.6


def test_decoding_gives_upright_rgb() -> None:
    image = picture(6, 4, (0, 0, 3, 4))
    np.testing.assert_array_equal(images.decode_image(encoded(image)), image)
    exif = b"\xff\xe1\x00\x22Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
    jpeg = encoded(image, ".jpg")
    assert images.decode_image(jpeg[:2] + exif + jpeg[2:]).shape == (
        6,
        4,
        3,
    )  # orientation 6: turned by a quarter


def test_what_cannot_be_decoded_is_refused(tmp_path: Path) -> None:
    for data in (b"", b"hello", encoded(picture(40, 40, (0, 0, 9, 9)))[:60]):
        with pytest.raises(DataError):
            images.decode_image(data)
    huge = bytearray(encoded(picture(4, 4, (0, 0, 1, 1))))
    huge[16:24] = (20_000).to_bytes(4, "big") * 2
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")
    with pytest.raises(DataError, match="megapixels"):
        images.decode_image(bytes(huge))
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(DataError, match=r"text.jpg: the bytes \(5 of them\) are not an image"):
        images.read_image(tmp_path / "text.jpg")
    with pytest.raises(NotFoundError, match="no such image"):
        images.read_image(tmp_path / "missing.jpg")


def test_only_numpy_opencv_and_onnxruntime_are_needed(tmp_path: Path) -> None:
    code = """
import sys
for name in ("torch", "mmdet", "mmengine", "mmcv", "mlflow", "pandas", "PIL", "onnx"):
    sys.modules[name] = None
import numpy
from detreg import Detector
print(len(Detector.load(sys.argv[1])(numpy.full((9, 9, 3), 255, numpy.uint8))))
"""
    model = str(toy_model(tmp_path / "toy.onnx"))
    done = subprocess.run(
        [sys.executable, "-c", code, model],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout == "2\n"
