"""Masks in the exported graph, and whether they are those of the network."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from compose_helpers import compose_model
from conftest import SMALL
from dense_networks import fill_with_dense_weights
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from numpy.typing import NDArray
from test_graph import find_operators_without_cuda_kernel
from test_hostile_models import check_all_sizes
from torch import Tensor, nn

from detreg.data.dataset import load_dataset
from detreg.data.sample import write_sample
from detreg.errors import DataError, RefusedError
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.predictions import predict_split
from detreg.export.decode.masks import decode_masks
from detreg.export.decode.selection import DecodedBoxes
from detreg.export.graph import export_onnx
from detreg.export.mask_parity import MaskMatches, compare_masks
from detreg.export.parity import measure_parity, require_match
from detreg.export.trained_model import Predictions, TrainedModel
from detreg.inference.detections import Detections
from detreg.inference.detector import Detector
from detreg.inference.from_template import make_card
from detreg.inference.onnx_graph.check import check_size
from detreg.inference.onnx_graph.reading import read_graph
from detreg.inference.outputs import OUTPUTS
from detreg.params import to_plain
from detreg.pipeline import parse_settings
from detreg.tasks.export_checkpoint import export_checkpoint
from detreg.templates import TEMPLATES
from detreg.templates._masks import add_to_one_stage
from detreg.templates.input_spec import IMAGENET
from detreg.training.checkpoints import Checkpoint, save_checkpoint
from detreg.training.compose import compose
from detreg.training.network import build_network, predict

pytestmark = pytest.mark.usefixtures("mmdet_scope")
CLASSES = ("boat", "bus", "car")
CHANNELS = 8
ROWS = 15
VALUES = {"masks": True, "image_size": 64}


# The branch alone.


class Branch(nn.Module):
    """The last part of the graph: maps and detections go in."""

    def __init__(self) -> None:
        super().__init__()
        config = add_to_one_stage({"neck": {"out_channels": CHANNELS}}, 3)["roi_head"]
        config["mask_head"]["conv_out_channels"] = CHANNELS
        torch.manual_seed(0)
        self.roi_head: Any = MODELS.build(ConfigDict(config)).eval()

    def forward(self, a: Tensor, b: Tensor, c: Tensor, boxes: Tensor, scores: Tensor) -> Tensor:
        return decode_masks(
            self.roi_head, (a, b, c), DecodedBoxes(boxes, scores, make_labels(scores))
        ).masks


def make_labels(scores: Tensor) -> Tensor:
    """Return the class of each row: the first row's is the second class."""
    return torch.ones_like(scores, dtype=torch.long)


def draw_inputs(images: int) -> dict[str, Tensor]:
    """Return maps of images of 256 px and boxes of all sizes; some rows are no detections."""
    generator = torch.Generator().manual_seed(images)
    corners = torch.rand(images, 10, 2, generator=generator) * 128
    sizes = torch.rand(images, 10, 2, generator=generator) ** 3 * 500 + 1
    scores = torch.rand(images, 10, generator=generator) + 0.1
    scores[:, 6:] = 0
    maps = [torch.randn(images, CHANNELS, side, side, generator=generator) for side in (32, 16, 8)]
    boxes = torch.cat([corners, corners + sizes], dim=2)
    return dict(zip("abc", maps, strict=True)) | {"boxes": boxes, "scores": scores}


@pytest.fixture(scope="module")
def exported_branch(tmp_path_factory: pytest.TempPathFactory) -> tuple[Branch, Path]:
    branch, inputs = Branch(), draw_inputs(2)
    path = tmp_path_factory.mktemp("branch") / "branch.onnx"
    with torch.no_grad():
        torch.onnx.export(
            branch,
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=["masks"],
            dynamic_axes={name: {0: "batch"} for name in (*inputs, "masks")},
            opset_version=17,
            dynamo=False,
        )
    return branch, path


def run_branch(path: Path, inputs: dict[str, Tensor]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {name: value.numpy() for name, value in inputs.items()}
    masks: NDArray[np.float32] = session.run(None, feed)[0]
    return masks


@pytest.mark.parametrize("images", [1, 3])
def test_rows_with_a_score_have_the_masks_of_the_network(
    images: int, exported_branch: tuple[Branch, Path]
) -> None:
    branch, path = exported_branch
    inputs = draw_inputs(images)
    masks = run_branch(path, inputs)
    assert masks.shape == (images, 10, 28, 28)
    assert not masks[:, 6:].any()

    found = [
        InstanceData(bboxes=boxes, labels=labels)
        for boxes, labels in zip(
            inputs["boxes"][:, :6], make_labels(inputs["scores"][:, :6]), strict=True
        )
    ]
    maps = tuple(inputs[name] for name in "abc")
    with torch.no_grad():
        expected = branch.roi_head.predict_mask(maps, [{}] * images, found)
    for own, detections in zip(masks, expected, strict=True):
        np.testing.assert_allclose(own[:6], detections.masks.numpy(), atol=1e-5)


@pytest.mark.parametrize("images", [1, 2])
def test_where_nothing_is_found_there_are_no_masks(
    images: int, exported_branch: tuple[Branch, Path]
) -> None:
    _, path = exported_branch
    inputs = draw_inputs(images)
    inputs["scores"] = torch.zeros_like(inputs["scores"])
    masks = run_branch(path, inputs)
    assert masks.shape == (images, 10, 28, 28)
    assert not masks.any()


# The whole graph.


@dataclass(frozen=True)
class Exported:
    """A network with masks, its file, and what both find on a split whose masks are `truth`."""

    network: Any
    path: Path
    truth: GroundTruth
    exported: Predictions
    trained: Predictions


def limit_rows(network: Any, rows: int) -> None:
    """Let a network find so many objects at most: each mask takes as long as a small image."""
    network.test_cfg.get("rcnn", network.test_cfg).max_per_img = rows


def write_file(network: nn.Module, name: str, classes: tuple[str, ...], folder: Path) -> Path:
    """Export a network of a template in its small form."""
    template = TEMPLATES[name]
    params, _ = parse_settings(template, SMALL[name] | VALUES)
    card = make_card(template, params, classes, 0.05, None, None)
    input_spec = template.get_base_model(params).input
    return export_onnx(network, template.decoder, input_spec, card, folder / "model.onnx")


def export(name: str, folder: Path, classes: tuple[str, ...], rows: int) -> Path:
    """Write the file of a network with random weights that finds at most so many rows."""
    template = TEMPLATES[name]
    params, _ = parse_settings(template, SMALL[name] | VALUES)
    network: Any = build_network(compose_model(template, len(classes), **to_plain(params)), None)
    limit_rows(network, rows)
    return write_file(network, name, classes, folder)


def export_and_predict(name: str, folder: Path) -> Exported:
    write_sample(folder / "data", images=10, size=(96, 80), masks=True)
    dataset = load_dataset(folder / "data", folder / "cache", masks=True)
    template = TEMPLATES[name]
    params, options = parse_settings(template, SMALL[name] | VALUES)
    config = compose(template, template.resolve(params), dataset, options)
    network: Any = build_network(config.model, None)
    limit_rows(network, ROWS)
    fill_with_dense_weights(template, params, network, config)
    nn.init.normal_(network.roi_head.mask_head.conv_logits.weight, std=1.0)

    trained = dict(predict(network, config.val_dataloader, dataset.classes))
    path = write_file(network, name, dataset.classes, folder)
    truth = GroundTruth.load(dataset.splits["val"].annotations)
    exported = predict_split(Detector.load(path), truth)
    return Exported(network, path, truth, exported, trained)


@pytest.fixture(scope="module")
def retinanet(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_and_predict("msc10", tmp_path_factory.mktemp("export"))


def check_file(made: Exported) -> None:
    """Check what a file says and does, and that it passes parity."""
    detector = Detector.load(made.path)
    assert detector.card.outputs == tuple(output.name for output in OUTPUTS)

    model = onnx.load(made.path)
    assert not find_operators_without_cuda_kernel(model)
    sides = [side.dim_value for side in model.graph.output[-1].type.tensor_type.shape.dim]
    assert sides[1:] == [ROWS, 28, 28]
    check_all_sizes(made.path, (1, 64, 64, 3))

    parity = measure_parity(made.truth, made.exported, made.trained)
    assert parity.has_passed
    masks = parity.matches.masks
    assert masks is not None
    assert masks.total >= ROWS
    assert masks.matched >= 0.99 * masks.total
    metrics = parity.as_metrics()
    assert metrics["parity/masks_matched"] == masks.matched_share
    assert abs(metrics["parity/segm_mAP_exported"] - metrics["parity/segm_mAP_trained"]) <= 1e-3


def test_a_file_finds_the_masks_of_its_network(retinanet: Exported) -> None:
    check_file(retinanet)


@pytest.mark.soak
def test_a_file_of_mask_rcnn_finds_the_masks_of_its_network(tmp_path: Path) -> None:
    check_file(export_and_predict("faster_rcnn", tmp_path))


@pytest.mark.soak
@pytest.mark.parametrize("name", ["faster_rcnn", "msc10", "inception_v4"])
def test_the_longest_list_of_masks_is_within_the_limits(name: str, tmp_path: Path) -> None:
    """300 rows and 80 classes, at any size of images."""
    path = export(name, tmp_path, tuple(f"class {n}" for n in range(80)), rows=300)
    graph = read_graph(path.read_bytes())
    for side in (64, 320, 1344):
        check_size(graph, (1, side, side, 3))
        check_size(graph, (8, side, side, 3))


def test_a_checkpoint_is_exported_with_its_own_masks(tmp_path: Path) -> None:
    template = TEMPLATES["faster_rcnn"]
    out = str(tmp_path / "model.onnx")
    for own, given, advice in (("mask_head", False, "add masks"), ("bbox_head", True, "leave out")):
        weights = {f"roi_head.{own}.weight": torch.zeros(3)}
        path = tmp_path / f"{own}.pth"
        save_checkpoint(path, Checkpoint(weights, CLASSES))
        with pytest.raises(DataError, match=advice):
            export_checkpoint(template, {"load_from": str(path), "masks": given}, None, out)


# What parity compares.


def mirror_some(predictions: Predictions) -> Predictions:
    """Return predictions in which one mask in twenty is upside down."""
    wrong = {}
    for image, found in predictions.items():
        assert found.masks is not None
        probabilities = found.masks.probabilities.copy()
        probabilities[::20] = probabilities[::20, ::-1]
        wrong[image] = replace(found, masks=replace(found.masks, probabilities=probabilities))
    return wrong


def test_a_model_with_wrong_masks_is_refused(retinanet: Exported) -> None:
    wrong = mirror_some(retinanet.exported)
    parity = measure_parity(retinanet.truth, wrong, retinanet.trained)
    assert parity.matches.have_boxes_passed
    assert not parity.has_passed
    assert "masks of partners agree" in parity.summary
    assert "failed" in parity.summary
    with pytest.raises(RefusedError, match="the exported model disagrees"):
        require_match(retinanet.truth, wrong, retinanet.trained)


def test_a_model_without_the_masks_of_its_network_is_refused(retinanet: Exported) -> None:
    without = {image: replace(found, masks=None) for image, found in retinanet.exported.items()}
    parity = measure_parity(retinanet.truth, without, retinanet.trained)
    assert parity.as_metrics()["parity/masks_matched"] == 0
    assert not parity.has_passed


def test_scores_of_masks_may_differ_by_a_thousandth(retinanet: Exported) -> None:
    parity = measure_parity(retinanet.truth, retinanet.trained, retinanet.trained)
    assert parity.has_passed
    assert parity.trained_masks is not None
    higher = replace(parity.trained_masks, mAP=(parity.trained_masks.mAP or 0) + 0.002)
    assert not replace(parity, exported_masks=higher).has_passed


def make_squares(*sides: int) -> Detections:
    """Return squares of so many pixels, side by side, whose masks fill them."""
    boxes = [[100 * place, 0, 100 * place + side, side] for place, side in enumerate(sides)]
    return Detections.clip_to_image(
        np.array(boxes, np.float32),
        np.linspace(0.9, 0.1, len(sides), dtype=np.float32),
        np.zeros(len(sides), np.int64),
        CLASSES,
        (100 * len(sides), 100),
        np.ones((len(sides), 28, 28), np.float32),
    )


@pytest.mark.parametrize(
    ("sides", "other_sides", "matched"),
    [((60, 3), (60, 3), 2), ((100, 60), (99, 57), 1), ((1, 2), (0.4, 2), 2), ((2, 4), (1, 3), 0)],
    ids=["equal", "one row of many and some of few", "one pixel", "more than one pixel"],
)
def test_masks_of_partners_may_differ_by_rounding(
    sides: tuple[int, int], other_sides: tuple[int, int], matched: int
) -> None:
    pairs = np.array([[0, 0], [1, 1]])
    found = compare_masks(make_squares(*sides), make_squares(*other_sides), pairs)
    assert found == MaskMatches(matched, 2)


def test_a_trained_model_has_no_masks_of_its_candidates(retinanet: Exported) -> None:
    """There may be ten thousands of candidates, and ties need their boxes only."""
    network, seen = retinanet.network, []

    def predict_all() -> Predictions:
        seen.append(network.roi_head.predicts_masks)
        return {}

    card = Detector.load(retinanet.path).card
    TrainedModel(network, "one_stage", IMAGENET, card, predict_all).predict_candidates(0.0)
    assert seen == [False]
    assert network.roi_head.predicts_masks
